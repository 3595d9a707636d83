"""The table of tracks that the rules watch: one row of numbers per track, carried from step to step.

A track that vanishes while a rule is running (or active) leaves a *ghost*: its row, kept for a few seconds. A track
that appears close to where the ghost would be by now takes the row over: tracks break and are born again with a new id,
and the event goes on. A ghost that nobody takes over ends its events at the time it was last seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import hypot
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.events import kernel as k
from v2x.events.catalogue import TRACK_LIMITS, Rule
from v2x.events.congestion import Covers
from v2x.events.signals import Lights
from v2x.events.watch import carry, same, watch
from v2x.fusion.layout import BEYOND
from v2x.fusion.view import TrackView
from v2x.geo import F64
from v2x.road import Road

I64 = npt.NDArray[np.int64]

RULE_KINDS: Final = (
    "STOPPED_VEHICLE",
    "BREAKDOWN",
    "ACCIDENT",
    "WRONG_WAY",
    "OVERSPEED",
    "SLOW_VEHICLE",
    "HARD_BRAKING",
    "PEDESTRIAN",
    "EMERGENCY_LANE",
    "NEAR_MISS",
    "RED_LIGHT",
)
GHOST_GATE_M: Final = 5.0  # a car's length about where the ghost would be
GHOST_GATE_MPS: Final = 3.0  # ... and this much more for each second that nobody saw it
BRAKE_WINDOW_MS: Final = 900
BRIDGE_MS: Final = 250  # at most so much of a dwell is taken for granted between two zones' steps
GHOST_MIN_HELD_MS: Final = 500  # a rule that has run for less is not worth a ghost


@dataclass(slots=True)
class Ghost:
    """A vanished track."""

    id: int
    seen_ms: int
    ints: I64
    reals: F64
    # From another zone, which judged it up to then, and its speeds (event time, m/s): waits for its track here.
    judged_ms: int = 0
    speeds: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Crossing:
    """A rule began or ended for a track."""

    row: int  # row of the view; -1: the track is gone
    track: int
    rule: int  # column of the kernel
    started: bool
    at_ms: int  # start: when the condition began; end: when it ceased


def parameters(rules: Mapping[str, Rule]) -> F64:
    """Return the kernel's thresholds in the order of its P_ names."""
    stop, down, wrong = rules["STOPPED_VEHICLE"], rules["BREAKDOWN"], rules["WRONG_WAY"]
    fast, slow, brake = rules["OVERSPEED"], rules["SLOW_VEHICLE"], rules["HARD_BRAKING"]
    foot, emer, crash = rules["PEDESTRIAN"], rules["EMERGENCY_LANE"], rules["ACCIDENT"]
    miss, red, jam = rules["NEAR_MISS"], rules["RED_LIGHT"], rules["CONGESTION"]
    out = np.zeros(k.P_COUNT)
    for at, rule, name in (
        (k.P_STOP_ON, stop, "enter_mps"),
        (k.P_STOP_OFF, stop, "exit_mps"),
        (k.P_STOP_GAP, stop, "queue_gap_m"),
        (k.P_STOP_LEAD, stop, "queue_mps"),
        (k.P_STOP_LINE, stop, "stop_line_m"),
        (k.P_STOP_JAM, stop, "jam_m"),
        (k.P_GREEN, stop, "green_ms"),
        (k.P_GIVE_WAY, stop, "give_way_ms"),
        (k.P_UNSEEN, stop, "unseen_ms"),
        (k.P_SEEN, stop, "seen_mps"),
        (k.P_FLAG_DWELL, down, "flag_dwell_ms"),
        (k.P_FLAG_HOLD, down, "flag_hold_ms"),
        (k.P_WRONG_ON, wrong, "enter_mps"),
        (k.P_WRONG_OFF, wrong, "exit_mps"),
        (k.P_WRONG_END, wrong, "end_m"),
        (k.P_WRONG_IN, wrong, "inside_m"),
        (k.P_FAST_ON, fast, "factor"),
        (k.P_FAST_OFF, fast, "exit_factor"),
        (k.P_FAST_NONE, fast, "no_limit_mps"),
        (k.P_SLOW_ON, slow, "factor"),
        (k.P_SLOW_OFF, slow, "exit_factor"),
        (k.P_SLOW_NONE, slow, "no_limit_mps"),
        (k.P_SLOW_STOP, slow, "stop_mps"),
        (k.P_SLOW_ACC, slow, "accel_mps2"),
        (k.P_SLOW_GAIN, slow, "gain_mps"),
        (k.P_SLOW_GAP, slow, "queue_gap_m"),
        (k.P_SLOW_BEHIND, slow, "jam_behind_m"),
        (k.P_SLOW_AHEAD, slow, "jam_ahead_m"),
        (k.P_BRAKE_ON, brake, "enter_mps2"),
        (k.P_BRAKE_OFF, brake, "exit_mps2"),
        (k.P_BRAKE_ERROR, brake, "error_mps2"),
        (k.P_BRAKE_SIGMAS, brake, "sigmas"),
        (k.P_BRAKE_MAX, brake, "max_mps2"),
        (k.P_BRAKE_AGE, brake, "age_ms"),
        (k.P_FOOT_AGE, foot, "age_ms"),
        (k.P_FOOT_IN, foot, "inside_m"),
        (k.P_FOOT_WALK, foot, "crosswalk_m"),
        (k.P_FOOT_PACE, foot, "pace_mps"),
        (k.P_EMER_ON, emer, "enter_mps"),
        (k.P_EMER_OFF, emer, "exit_mps"),
        (k.P_EMER_IN, emer, "inside_m"),
        (k.P_EMER_ACC, emer, "brake_mps2"),
        (k.P_CRASH_BRAKE, crash, "brake_mps2"),
        (k.P_CRASH_WITHIN, crash, "within_ms"),
        (k.P_CRASH_GAP, crash, "gap_m"),
        (k.P_AIRBAG, crash, "airbag_ms"),
        (k.P_AIRBAG_DWELL, crash, "airbag_dwell_ms"),
        (k.P_MISS_TTC, miss, "ttc_s"),
        (k.P_MISS_NEED, miss, "need_mps2"),
        (k.P_MISS_QUEUE, miss, "queue_mps2"),
        (k.P_MISS_MIN, miss, "min_mps"),
        (k.P_MISS_AGE, miss, "age_ms"),
        (k.P_MISS_IN, miss, "inside_m"),
        (k.P_MISS_OVER, miss, "overlap"),
        (k.P_MISS_LAG, miss, "lag_s"),
        (k.P_MISS_HALT, miss, "halt_s"),
        (k.P_RED_MARGIN, red, "margin_ms"),
        (k.P_RED_CLEAR, red, "clear_m"),
        (k.P_RED_ASIDE, red, "aside_m"),
        (k.P_RED_OPEN, red, "open_ms"),
        (k.P_JAM_SLOW, jam, "exit_mps"),
    ):
        out[at] = rule.limit(name)
    out[k.P_AGE], out[k.P_HITS], out[k.P_FRESH] = (TRACK_LIMITS[x].value for x in ("age_ms", "hits", "fresh_ms"))
    out[k.P_WRONG_COS] = -np.cos(np.radians(wrong.limit("angle_deg")))
    out[k.P_CRASH_COS] = np.cos(np.radians(crash.limit("across_deg")))
    out[k.P_MISS_COS] = np.cos(np.radians(miss.limit("across_deg")))
    return out


class TrackTable:
    """Rows of all tracks of the zone, in order of id."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        """Begin empty."""
        self.rules = rules
        self.p = parameters(rules)
        self.dwell = np.array([rules[kind].dwell_ms for kind in RULE_KINDS], dtype=np.int64)
        # Deceleration is that of the last 1.2 s, in both halves; most of the dwell has gone by when it is there.
        self.dwell[k.HARD_BRAKING] -= BRAKE_WINDOW_MS
        self.end = np.array([rules[kind].end_ms for kind in RULE_KINDS], dtype=np.int64)
        self.lost = [rules[kind].lost_ms for kind in RULE_KINDS]
        self.id: I64 = np.zeros(0, dtype=np.int64)
        self.ints: I64 = np.zeros((0, k.INT_WIDTH), dtype=np.int64)
        self.reals: F64 = np.zeros((0, k.REAL_WIDTH))
        self.times: I64 = np.zeros(k.HISTORY, dtype=np.int64)
        self.now = 0
        self.ghosts: list[Ghost] = []
        self.heirs: list[tuple[int, int]] = []  # (old id, new id) of the last step
        self._order: I64 = np.zeros(0, dtype=np.int64)  # rows of the last step by (lane, along), and scratch
        self._ordered = 0
        self._first: I64 = np.zeros(0, dtype=np.int64)
        self._found: I64 = np.zeros((0, 4), dtype=np.int64)
        self._lead: I64 = np.zeros(0, dtype=np.int64)
        self._gap: F64 = np.zeros(0)
        self.lead, self.gap = self._lead, self._gap  # leader's row of the last step, -1 none; m to it
        self.slow = 0  # rows on lanes that are no faster than who is in a jam
        # Room for rows, and that of the last order for the next one: new memory each time is slow to get.
        self._rows = self._spare = self.ints, self.reals

    def advance(self, now: int, view: TrackView, road: Road, lights: Lights, jam: Covers) -> list[Crossing]:
        """Take the tracks of one frame at event time ``now``; return what began and ended, by track and rule."""
        dt = now - self.now if self.now else 0
        self.now = max(now, self.now)
        gone = self._carry(view)
        crossings = self._bury(gone, view, dt)
        if not len(view):
            self.slow = 0
            return crossings
        lanes, seg = road.lanes, road.segments
        if len(self._first) != len(lanes):
            self._first = np.full(len(lanes), -1, dtype=np.int64)
        found, self._ordered, self.slow = watch(
            self.now, dt,
            view.id, view.cls, view.length, view.width, view.east, view.north, view.vel_e, view.vel_n, view.speed,
            view.heading, view.lane, view.along, view.lateral, view.age_ms, view.hits, view.born_ms, view.last_ms,
            lanes.kind, lanes.road_class, lanes.half_width, lanes.v_min, lanes.v_max, lanes.length, lanes.signal,
            lanes.junction, lanes.right, road.ahead_start, road.ahead_items, road.ahead_right,
            seg.xy, seg.lane, seg.keys, seg.start, seg.items, road.seg_start,
            lights.light, lights.green_ms, lights.red_ms, jam.since, jam.low, jam.high,
            self.p, self.dwell, self.end, self.ints, self.reals, self.times, self._order, self._ordered, self._first,
            self.lead, self.gap, self._found,
        )  # fmt: skip
        if found:
            crossings += [
                Crossing(row, int(view.id[row]), rule, what == k.START, at)
                for row, rule, what, at in self._found[:found].tolist()
            ]
        return crossings

    # -- carrying rows on -------------------------------------------------------------------------------------------
    def _carry(self, view: TrackView) -> list[Ghost]:
        """Bring the rows into the view's order; return the tracks that vanished and matter."""
        count = len(view)
        if len(self.id) == count and same(self.id, view.id):
            return []
        room = self._spare
        if count > len(room[0]):
            most = count + count // 4
            room = np.empty((most, k.INT_WIDTH), dtype=np.int64), np.empty((most, k.REAL_WIDTH))
        ints, reals = room[0][:count], room[1][:count]
        lost = np.empty(len(self.id), dtype=np.int64)
        n = carry(
            self.id, self.ints, self.reals, view.id, self._order, self._ordered, GHOST_MIN_HELD_MS, ints, reals, lost
        )
        ghosts = [
            Ghost(int(self.id[row]), int(self.ints[row, k.SEEN_MS]), self.ints[row].copy(), self.reals[row].copy())
            for row in lost[:n].tolist()
        ]
        self.id, self.ints, self.reals = view.id.copy(), ints, reals
        self._rows, self._spare = room, self._rows
        self._fit()
        return ghosts

    def _fit(self) -> None:
        """Make the scratch columns fit the rows; the order, as far as it is known, stays."""
        count = len(self.id)
        if count > len(self._order):
            order = self._order[: self._ordered]
            order = order[order >= 0]
            self._order = np.empty(2 * count, dtype=np.int64)
            self._order[: len(order)] = order
            self._ordered = len(order)
            self._found = np.empty((2 * count * k.RULE_COUNT, 4), dtype=np.int64)
            self._lead, self._gap = np.empty(2 * count, dtype=np.int64), np.empty(2 * count)
        self.lead, self.gap = self._lead[:count], self._gap[:count]

    def _bury(self, gone: list[Ghost], view: TrackView, dt: int) -> list[Crossing]:
        """Give ghosts to the tracks that took their place; end what nobody took over."""
        self.heirs = []
        self.ghosts += gone
        if not self.ghosts:
            return []
        crossings: list[Crossing] = []
        stay: list[Ghost] = []
        for ghost in self.ghosts:
            if ghost.judged_ms and self.now <= ghost.seen_ms:
                stay.append(ghost)  # the other zone's, up to then
                continue
            row = self._heir(ghost, view)
            if row >= 0:
                self._inherit(ghost, row)
                if ghost.judged_ms:
                    self._bridge(ghost, row, dt)
                self.heirs.append((ghost.id, int(view.id[row])))
                continue
            waiting = False
            for rule in range(k.RULE_COUNT):
                if ghost.ints[k.ACTIVE + rule]:
                    if self.now - ghost.seen_ms >= self.lost[rule]:
                        ghost.ints[k.ACTIVE + rule] = 0
                        crossings.append(Crossing(-1, ghost.id, rule, started=False, at_ms=ghost.seen_ms))
                    else:
                        waiting = True
                elif ghost.ints[k.HELD + rule] and self.now - ghost.seen_ms < self.lost[rule]:
                    waiting = True
            if waiting:
                stay.append(ghost)
        self.ghosts = stay
        return crossings

    def _heir(self, ghost: Ghost, view: TrackView) -> int:
        """Return the row of the track that is the ghost born again (or the twin it was merged into), -1 if none."""
        if not len(view):
            return -1
        same = int(np.searchsorted(view.id, ghost.id))
        if same < len(view) and view.id[same] == ghost.id:
            return same
        dt = max(0.0, (self.now - ghost.seen_ms) / 1000.0)
        east = ghost.reals[k.EAST] + ghost.reals[k.VEL_E] * dt
        north = ghost.reals[k.NORTH] + ghost.reals[k.VEL_N] * dt
        gate = GHOST_GATE_M + GHOST_GATE_MPS * dt
        away = np.hypot(view.east - east, view.north - north)
        young = (view.born_ms >= ghost.seen_ms - 1500) | (ghost.judged_ms > 0)  # a border's both sides have seen it
        away[~young & (away > GHOST_GATE_M / 2)] = np.inf  # an old track is a twin only where the ghost was
        away[view.id >= BEYOND] = np.inf  # a neighbour's
        row = int(np.argmin(away))
        if away[row] > gate:
            return -1
        moving = hypot(ghost.reals[k.VEL_E], ghost.reals[k.VEL_N])
        if abs(float(view.speed[row]) - moving) > 4.0 + 4.0 * dt:
            return -1
        taken = self.ints[row, k.ACTIVE : k.ACTIVE + k.RULE_COUNT] & ghost.ints[k.ACTIVE : k.ACTIVE + k.RULE_COUNT]
        return -1 if taken.any() else row

    def _inherit(self, ghost: Ghost, row: int) -> None:
        """Let the rules of the ghost go on in ``row``."""
        mine, old = self.ints[row], ghost.ints
        for rule in range(k.RULE_COUNT):
            if old[k.ACTIVE + rule] or old[k.HELD + rule] > mine[k.HELD + rule]:
                for block in (k.HELD, k.SINCE, k.OFF, k.ACTIVE):
                    mine[block + rule] = old[block + rule]
        mine[k.BUSY] = k.RUNS | k.WAITS
        self.reals[row, k.SLOWEST] = ghost.reals[k.SLOWEST]
        for column in (k.MOVED, k.FLAG_MS, k.STOP_LINE_MS, k.BRAKED_MS, k.AIRBAG_MS, k.RED_TOLD_MS):
            mine[column] = max(mine[column], old[column])
        mine[k.PARTNER] = mine[k.PARTNER] or old[k.PARTNER]
        if not mine[k.RED_STATE]:  # else it has passed a line of its own
            for column in (k.FROM_LANE, k.RED_STATE, k.RED_MS):
                mine[column] = old[column]

    # -- borders ----------------------------------------------------------------------------------------------------
    def _bridge(self, ghost: Ghost, row: int, dt: int) -> None:
        """Let timers and speeds of another zone's track go on as if its steps had been ours."""
        missed = min(max(self.now - dt - ghost.judged_ms, 0), BRIDGE_MS)
        mine = self.ints[row]
        for rule in range(k.RULE_COUNT):
            same = (
                mine[k.SINCE + rule] == ghost.ints[k.SINCE + rule] and mine[k.HELD + rule] == ghost.ints[k.HELD + rule]
            )
            if same and mine[k.SINCE + rule] and not mine[k.ACTIVE + rule]:
                mine[k.HELD + rule] += missed
        if ghost.speeds:
            times, speeds = zip(*ghost.speeds, strict=True)
            history = np.interp(self.times, times, speeds, left=-1.0)
            self.reals[row, : k.HISTORY] = np.where(
                self.reals[row, : k.HISTORY] < 0.0, history, self.reals[row, : k.HISTORY]
            )

    def row(self, track: int) -> tuple[I64, F64] | None:
        """Return the integers and reals of a track, None if there is none."""
        row = int(np.searchsorted(self.id, track))
        known = row < len(self.id) and self.id[row] == track
        return (self.ints[row], self.reals[row]) if known else None

    def drop(self, track: int) -> None:
        """Forget a track: another zone's rules go on with it."""
        row = self.row(track)
        if row is not None:
            row[0][:], row[1][:] = 0, -1.0
        self.ghosts = [ghost for ghost in self.ghosts if ghost.id != track]

    def expect(self, ghost: Ghost) -> None:
        """Wait for a track from another zone; a word that is older than the last one counts for nothing."""
        if all(g.id != ghost.id or g.judged_ms <= ghost.judged_ms for g in self.ghosts):
            self.ghosts = [*(g for g in self.ghosts if g.id != ghost.id), ghost]

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able but for arrays."""
        return {
            "now": self.now,
            "times": self.times,
            "id": self.id,
            "ints": self.ints,
            "reals": self.reals,
            "ghosts": [
                [g.id, g.seen_ms, g.ints.tolist(), g.reals.tolist(), g.judged_ms, [list(x) for x in g.speeds]]
                for g in self.ghosts
            ],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.now = state["now"]
        self.times, self.id, self.ints, self.reals = (state[name] for name in ("times", "id", "ints", "reals"))
        self._rows, self._ordered = (self.ints, self.reals), 0
        self._fit()
        self.ghosts = [
            Ghost(i, seen, np.array(ints, dtype=np.int64), np.array(reals), judged, [(t, v) for t, v in speeds])
            for i, seen, ints, reals, judged, speeds in state["ghosts"]
        ]
