"""One step of the rules over all tracks of a zone: carry rows on, remember, judge, run the machines; no Python a track.

The order of vehicles along their lanes is kept from step to step (``order``), for it hardly changes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x.events import kernel as k
from v2x.events.conflicts import crashes, crossers, followers
from v2x.events.stopline import red_lights
from v2x.fusion.jit import helper, kernel
from v2x.road import MOTOR, LaneKind, RoadClass
from v2x.road_match import cover_one

_PEDESTRIAN: Final = 10
_CYCLIST: Final = 7
_MOTOR: Final = int(MOTOR)
_CROSSWALK: Final = 1 << int(LaneKind.CROSSWALK)
_SIDEWALK: Final = 1 << int(LaneKind.SIDEWALK)
_MOTORWAY: Final = int(RoadClass.MOTORWAY)
_FAR: Final = 1e9
_TURNS_MPS: Final = 1.5  # slower, a filtered velocity has no direction
_TURN_SHARE: Final = 0.3

_D = "float64[::1]"
_L = "int64[::1]"
_I = "int32[::1]"
_DD = "float64[:, ::1]"
_LL = "int64[:, ::1]"


@kernel(f"boolean({_L}, {_L})")
def same(a: Any, b: Any) -> Any:
    """Return whether two columns of one length are equal."""
    for x in range(a.shape[0]):  # noqa: SIM110 - numba knows no generator here
        if a[x] != b[x]:
            return False
    return True


@kernel(f"int64({_L}, {_LL}, {_DD}, {_L}, {_L}, int64, int64, {_LL}, {_DD}, {_L})")
def carry(
    old_id: Any, old_ints: Any, old_reals: Any, new_id: Any, order: Any, ordered: int, least: int, ints: Any,
    reals: Any, gone: Any,
) -> Any:  # fmt: skip
    """Bring rows into the order of ``new_id`` (both ascending); return how many tracks vanished that matter.

    Those (a rule is active, or has held for ``least`` ms) are in ``gone``. ``order`` is renumbered, -1 where vanished.
    """
    where = np.full(old_id.shape[0], -1, np.int64)
    a = lost = 0
    for b in range(new_id.shape[0]):
        while a < old_id.shape[0] and old_id[a] < new_id[b]:
            a += 1
        if a < old_id.shape[0] and old_id[a] == new_id[b]:
            where[a] = b
            ints[b] = old_ints[a]
            reals[b] = old_reals[a]
        else:
            ints[b] = 0
            reals[b] = -1.0
    for a in range(old_id.shape[0]):
        if where[a] >= 0:
            continue
        matters = False
        for r in range(k.RULE_COUNT):
            if old_ints[a, k.ACTIVE + r] != 0 or old_ints[a, k.HELD + r] >= least:
                matters = True
        if matters:
            gone[lost] = a
            lost += 1
    for n in range(ordered):
        order[n] = where[order[n]] if order[n] >= 0 else -1
    return lost


@helper
def _remember(now: int, dt: int, view: Any, ints: Any, reals: Any, times: Any) -> None:
    """Append to the speed history, keep the last state and the rate of turn, smoothed over a few frames."""
    speed, east, north, vel_e, vel_n, last_ms = view
    for x in range(k.HISTORY - 1):
        times[x] = times[x + 1]
    times[k.HISTORY - 1] = now
    for row in range(speed.shape[0]):
        for x in range(k.HISTORY - 1):
            reals[row, x] = reals[row, x + 1]
        reals[row, k.HISTORY - 1] = speed[row]
        old_e, old_n = reals[row, k.VEL_E], reals[row, k.VEL_N]
        onward = old_e * vel_e[row] + old_n * vel_n[row]
        if reals[row, k.HISTORY - 2] < _TURNS_MPS or speed[row] < _TURNS_MPS or dt <= 0 or onward <= 0.0:
            reals[row, k.TURN] = 0.0
        else:  # to the left; within a step the angle is its tangent
            turn = (old_e * vel_n[row] - old_n * vel_e[row]) * 1000.0 / (onward * dt)
            reals[row, k.TURN] += _TURN_SHARE * (turn - reals[row, k.TURN])
        reals[row, k.EAST], reals[row, k.NORTH] = east[row], north[row]
        reals[row, k.VEL_E], reals[row, k.VEL_N] = vel_e[row], vel_n[row]
        ints[row, k.SEEN_MS] = last_ms[row]


@helper
def _sort(order: Any, ordered: int, counts: Any, lane: Any, along: Any) -> Any:
    """Bring the rows that count (flags) into order of (lane, along, row), from the order they had; return how many."""
    seen = np.zeros(counts.shape[0], np.uint8)
    n = 0
    for x in range(ordered):
        row = order[x]
        if row >= 0 and counts[row] != 0:
            seen[row] = 1
            order[n] = row
            n += 1
    for row in range(counts.shape[0]):
        if counts[row] != 0 and seen[row] == 0:
            order[n] = row
            n += 1
    for x in range(1, n):
        row = order[x]
        at = x
        while at > 0:
            other = order[at - 1]
            if lane[other] != lane[row]:
                if lane[other] < lane[row]:
                    break
            elif along[other] < along[row] or (along[other] == along[row] and other < row):
                break
            order[at] = other
            at -= 1
        order[at] = row
    return n


@helper
def _on_foot(rides: bool, east: float, north: float, p: Any, grid: Any, road_class: Any) -> Any:
    """Judge the pedestrian rule: YES on a lane for motor vehicles and not on a crosswalk; ``rides``: is a cyclist."""
    xy, seg_lane, keys, start, items = grid
    motor = cover_one(east, north, _MOTOR, 0.0, xy, seg_lane, keys, start, items)
    if motor < 0:
        return k.NO
    if rides and road_class[motor] != _MOTORWAY:
        return k.NO  # as he may on other roads
    if cover_one(east, north, _CROSSWALK, p[k.P_FOOT_WALK], xy, seg_lane, keys, start, items) >= 0:
        return k.NO
    if cover_one(east, north, _SIDEWALK, 0.0, xy, seg_lane, keys, start, items) >= 0:
        return k.NO
    well = cover_one(east, north, _MOTOR, -p[k.P_FOOT_IN], xy, seg_lane, keys, start, items)
    return k.BAND if well < 0 else k.YES


@kernel(
    f"UniTuple(int64, 3)(int64, int64, {_L}, int16[::1], {_D}, {_D}, {_D}, {_D}, {_D}, {_D}, {_D}, {_D}, {_I}, {_D}, "
    f"{_D}, {_L}, {_L}, {_L}, {_L}, "  # view
    f"{_I}, {_I}, {_D}, {_D}, {_D}, {_D}, boolean[::1], boolean[::1], boolean[::1], {_I}, {_I}, boolean[::1], "  # lanes
    f"{_DD}, {_I}, {_L}, {_I}, {_I}, {_I}, "  # segments
    f"int8[::1], {_L}, {_L}, {_L}, {_D}, {_D}, "  # lights and jams
    f"{_D}, {_L}, {_L}, {_LL}, {_DD}, {_L}, {_L}, int64, {_L}, {_L}, {_D}, {_LL})"
)
def watch(
    now: int, dt: int, ids: Any, cls: Any, length: Any, width: Any, east: Any, north: Any, vel_e: Any, vel_n: Any,
    speed: Any, heading: Any, lane: Any, along: Any, lateral: Any, age_ms: Any, hits: Any, born_ms: Any, last_ms: Any,
    lane_kind: Any, road_class: Any, half_width: Any, v_min: Any, v_max: Any, lane_length: Any, signal: Any,
    junction: Any, right: Any, ahead_start: Any, ahead: Any, ahead_right: Any,
    xy: Any, seg_lane: Any, keys: Any, cell_start: Any, items: Any, seg_start: Any,
    light: Any, green_ms: Any, red_ms: Any, jam_since: Any, jam_low: Any, jam_high: Any,
    p: Any, dwell: Any, end: Any, ints: Any, reals: Any, times: Any, order: Any, ordered: int, first: Any,
    lead: Any, gap: Any, out: Any,
) -> tuple[int, int, int]:  # fmt: skip
    """Take one frame; write what began and ended as ``kernel.machine`` does, and each row's leader and the gap to it.

    Arguments as the columns of TrackView, Road.lanes, Road.segments and Covers, then the table's own. Return how many
    began or ended, how many rows are in ``order``, and how many on lanes are slow enough for a jam.
    """
    count = speed.shape[0]
    _remember(now, dt, (speed, east, north, vel_e, vel_n, last_ms), ints, reals, times)
    grid = (xy, seg_lane, keys, cell_start, items)
    lived = np.empty(count, np.int64)
    mature = np.empty(count, np.int8)
    on_foot = np.zeros(count, np.int8)
    drives = np.zeros(count, np.int8)
    slow = 0
    for row in range(count):
        walks = cls[row] == _PEDESTRIAN or cls[row] == _CYCLIST
        lived[row] = now - born_ms[row]
        old = lived[row] >= (p[k.P_FOOT_AGE] if walks else p[k.P_AGE])
        mature[row] = 1 if old and hits[row] >= p[k.P_HITS] else 0
        if walks:
            # Two units that do not agree on the class of one who walks let it change from second to second.
            told = ints[row, k.ACTIVE + k.PEDESTRIAN] != 0 and speed[row] <= p[k.P_FOOT_PACE]
            rides = cls[row] == _CYCLIST and not told
            on_foot[row] = _on_foot(rides, east[row], north[row], p, grid, road_class)
        elif lane[row] >= 0:
            drives[row] = 1
            if speed[row] <= p[k.P_JAM_SLOW]:
                slow += 1
        lead[row] = -1
        gap[row] = _FAR
    ordered = _sort(order, ordered, drives, lane, along)
    reach = max(p[k.P_STOP_GAP], p[k.P_SLOW_GAP])
    k.leaders(order[:ordered], lane, along, length, lane_length, ahead_start, ahead, first, reach, lead, gap)
    cond = np.empty((count, k.RULE_COUNT), np.int8)
    k.conditions(
        now, speed, vel_e, vel_n, heading, lane, along, lateral, cls, age_ms, lived, lead, gap, on_foot, mature,
        lane_kind, road_class, half_width, v_min, v_max, lane_length, signal, junction, light, green_ms,
        jam_since, jam_low, jam_high, xy, seg_start, p, ints, reals, times, cond,
    )  # fmt: skip
    tracks = (ids, cls, length, width, east, north, vel_e, vel_n, speed, heading, lane, along, lateral)
    lanes = (lane_length, signal, half_width, ahead_start, ahead, xy, seg_start)
    crashes(now, tracks, p, ints, cond)
    followers(tracks, lanes, lived, lead, gap, mature, drives, light, jam_since, p, ints, reals, cond)
    crossers(tracks, grid, lived, mature, p, ints, reals, cond)
    red_lights(now, tracks, lanes, right, ahead_right, red_ms, drives, p, ints, cond)
    return k.machine(now, dt, cond, mature, dwell, end, p, ints, out), ordered, slow
