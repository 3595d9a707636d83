"""Rules that look at two tracks: an accident (both stand, against each other) and a near miss (both would collide).

Outlines are rectangles along the heading. A near miss has two shapes::

    in one lane   the follower closes in on its leader (or on who comes against it): by gap and speeds along the lane
    across        two ways cross, or somebody is on foot in the road: the rectangles moved on at constant velocity meet;
                  then once more along arcs, for who turns does not drive straight on

The pair is one event, that of the follower, of the vehicle (with a pedestrian), or of the smaller row.
"""

from __future__ import annotations

from math import hypot
from typing import Any, Final

import numpy as np

from v2x.events import kernel as k
from v2x.fusion.jit import helper
from v2x.road import MOTOR, LaneKind
from v2x.road_match import cover_one

_PEDESTRIAN: Final = 10
_CYCLIST: Final = 7
_LENGTH: Final = 4.5  # of a car; where a track has none
_WIDTH: Final = 1.8
_FOOT: Final = 0.5
_CELL_M: Final = 64.0  # how far two at 15 m/s close in before the time to collision is over
_ARC_S: Final = 0.1
_ROADWAY: Final = int(MOTOR) | 1 << int(LaneKind.CROSSWALK)
_NONE: Final = 1e9


@helper
def _walks(cls: int) -> bool:
    return cls == _PEDESTRIAN or cls == _CYCLIST  # noqa: PLR1714 - numba knows no sets of numbers here


@helper
def _size(row: int, tracks: Any) -> tuple[float, float]:
    """Return half length and half width, m."""
    cls, length, width = tracks[1], tracks[2], tracks[3]
    if cls[row] == _PEDESTRIAN:
        return _FOOT / 2, _FOOT / 2
    long = length[row] if length[row] > 0.0 else _LENGTH
    wide = width[row] if width[row] > 0.0 else _WIDTH
    return long / 2, wide / 2


@helper
def _apart(a: int, b: int, tracks: Any) -> Any:
    """Return by how much the outlines of two tracks are apart, m: the widest gap along an axis; below 0 they overlap.

    Two rectangles' distance is this, but corner to corner, where it is a little more.
    """
    east, north, heading = tracks[4], tracks[5], tracks[9]
    widest = -_NONE
    dx, dy = east[b] - east[a], north[b] - north[a]
    al, aw = _size(a, tracks)
    bl, bw = _size(b, tracks)
    ua = np.radians(heading[a])
    ub = np.radians(heading[b])
    for x in range(4):
        angle = (ua if x < 2 else ub) + (x % 2) * 0.5 * np.pi
        nx, ny = np.sin(angle), np.cos(angle)
        reach = al * abs(nx * np.sin(ua) + ny * np.cos(ua)) + aw * abs(nx * np.cos(ua) - ny * np.sin(ua))
        reach += bl * abs(nx * np.sin(ub) + ny * np.cos(ub)) + bw * abs(nx * np.cos(ub) - ny * np.sin(ub))
        widest = max(widest, abs(dx * nx + dy * ny) - reach)
    return widest


@helper
def crashes(now: int, tracks: Any, p: Any, ints: Any, cond: Any) -> None:
    """Judge ACCIDENT: pairs that braked hard and stand against each other, where the first of them should not stand."""
    ids, cls, speed, heading, lane = tracks[0], tracks[1], tracks[8], tracks[9], tracks[10]
    count = speed.shape[0]
    hot = np.empty(count, np.int64)
    n = 0
    for i in range(count):
        if cond[i, k.ACCIDENT] == k.FROZEN or _walks(cls[i]):
            continue
        if ints[i, k.AIRBAG_MS] > 0 and now - ints[i, k.AIRBAG_MS] <= p[k.P_AIRBAG]:
            cond[i, k.ACCIDENT] = k.YES
        elif speed[i] <= p[k.P_STOP_OFF] and ints[i, k.ACTIVE + k.ACCIDENT] != 0:
            cond[i, k.ACCIDENT] = k.BAND
        if (
            speed[i] <= p[k.P_STOP_ON]
            and ints[i, k.BRAKED_MS] > 0
            and now - ints[i, k.BRAKED_MS] <= p[k.P_CRASH_WITHIN]
        ):
            hot[n] = i
            n += 1
    for x in range(n):
        a = hot[x]
        for y in range(n):
            b = hot[y]
            if a == b or abs(tracks[4][a] - tracks[4][b]) > 30.0 or abs(tracks[5][a] - tracks[5][b]) > 30.0:
                continue
            off = lane[a] < 0 or lane[b] < 0
            if not off and cond[a, k.STOPPED] != k.YES and cond[b, k.STOPPED] != k.YES:
                continue  # both stand in a queue, in a jam or at a stop line
            if off and abs(np.cos(np.radians(heading[a] - heading[b]))) > p[k.P_CRASH_COS]:
                continue
            if _apart(a, b, tracks) <= p[k.P_CRASH_GAP]:
                cond[a, k.ACCIDENT] = k.YES
                ints[a, k.PARTNER] = ids[b]


@helper
def followers(
    tracks: Any, lanes: Any, lived: Any, lead: Any, gap: Any, mature: Any, drives: Any, light: Any, jam_since: Any,
    p: Any, ints: Any, reals: Any, cond: Any,
) -> None:  # fmt: skip
    """Judge NEAR_MISS in one lane: who closes in on the vehicle ahead, or on one that comes against it."""
    ids, vel_e, vel_n, speed = tracks[0], tracks[6], tracks[7], tracks[8]
    lane, along, lateral = tracks[10], tracks[11], tracks[12]
    lane_length, signal, start, xy, seg_start = lanes[0], lanes[1], lanes[3], lanes[5], lanes[6]
    for i in range(speed.shape[0]):
        j = lead[i]
        if j < 0 or drives[i] == 0 or speed[i] < p[k.P_MISS_MIN] or cond[i, k.NEAR_MISS] == k.FROZEN:
            continue
        room = gap[i]
        at, to = lane[i], lane[j]
        if room <= 0.0 or mature[i] == 0 or mature[j] == 0:
            continue
        if lived[i] < p[k.P_MISS_AGE] or lived[j] < p[k.P_MISS_AGE] or cond[j, k.NEAR_MISS] == k.FROZEN:
            continue
        if at != to and start[at + 1] - start[at] != 1:
            continue  # the leader may be on another way than ours
        ue, un = k.lane_direction(at, along[i], xy, seg_start)
        mine = vel_e[i] * ue + vel_n[i] * un
        aside = vel_n[i] * ue - vel_e[i] * un  # to the left
        ue, un = k.lane_direction(to, along[j], xy, seg_start)
        closing = mine - (vel_e[j] * ue + vel_n[j] * un)
        if closing < p[k.P_MISS_MIN] or mine <= 0.0 or room > closing * p[k.P_MISS_TTC]:
            continue
        aside -= vel_n[j] * ue - vel_e[j] * un
        over = _size(i, tracks)[1] + _size(j, tracks)[1] - p[k.P_MISS_IN]
        if max(abs(lateral[i] - lateral[j]), abs(lateral[i] - lateral[j] + aside * room / closing)) > over:
            continue  # beside each other, or so when they are level: it changes the lane
        queue = speed[j] <= p[k.P_STOP_LEAD] and (
            jam_since[to] > 0
            or (lead[j] >= 0 and gap[j] <= p[k.P_STOP_GAP] and speed[lead[j]] <= p[k.P_STOP_LEAD])
            or (signal[to] and light[to] != 2)
            or (signal[to] and lane_length[to] - along[j] <= p[k.P_STOP_LINE])
        )
        if closing * closing >= 2.0 * room * (p[k.P_MISS_QUEUE] if queue else p[k.P_MISS_NEED]):
            _note(i, ids[j], room / closing, ints, reals, cond)


@helper
def _note(row: int, partner: int, ttc: float, ints: Any, reals: Any, cond: Any) -> None:
    """Write that a track nearly collides; of several the nearest in time, and one that is told keeps its partner."""
    if cond[row, k.NEAR_MISS] == k.YES and reals[row, k.TTC] <= ttc:
        return
    cond[row, k.NEAR_MISS] = k.YES
    reals[row, k.TTC] = ttc
    if not ints[row, k.ACTIVE + k.NEAR_MISS]:
        ints[row, k.PARTNER] = partner


@helper
def _meet(a: int, b: int, dx: float, dy: float, wx: float, wy: float, inside: float, tracks: Any) -> Any:
    """Return in how many seconds the outlines of two tracks meet by ``inside`` m; 0: now; _NONE: never.

    (dx, dy): from ``a`` to ``b``, m; (wx, wy): the constant velocity of ``b`` seen from ``a``, m/s.
    """
    heading = tracks[9]
    al, aw = _size(a, tracks)
    bl, bw = _size(b, tracks)
    ua = np.radians(heading[a])
    ub = np.radians(heading[b])
    enter, leave = 0.0, _NONE
    for x in range(4):
        angle = (ua if x < 2 else ub) + (x % 2) * 0.5 * np.pi
        nx, ny = np.sin(angle), np.cos(angle)
        reach = al * abs(nx * np.sin(ua) + ny * np.cos(ua)) + aw * abs(nx * np.cos(ua) - ny * np.sin(ua))
        reach += bl * abs(nx * np.sin(ub) + ny * np.cos(ub)) + bw * abs(nx * np.cos(ub) - ny * np.sin(ub))
        reach -= inside
        place, rate = dx * nx + dy * ny, wx * nx + wy * ny
        if abs(rate) < 1e-9:
            if abs(place) > reach:
                return _NONE
            continue
        first, last = (-reach - place) / rate, (reach - place) / rate
        enter, leave = max(enter, min(first, last)), min(leave, max(first, last))
        if enter > leave:
            return _NONE
    return enter


@helper
def _arc(row: int, t: float, tracks: Any, reals: Any) -> tuple[float, float]:
    """Return where a track is after ``t`` s if it goes on turning as it does."""
    turn = reals[row, k.TURN]
    ve, vn = tracks[6][row], tracks[7][row]
    if abs(turn) * t < 1e-3:
        return tracks[4][row] + ve * t, tracks[5][row] + vn * t
    s, c = np.sin(turn * t) / turn, (1.0 - np.cos(turn * t)) / turn
    return tracks[4][row] + ve * s - vn * c, tracks[5][row] + vn * s + ve * c


@helper
def _meet_turning(a: int, b: int, until: float, tracks: Any, reals: Any) -> Any:
    """Say whether two tracks still meet if both go on turning, by circles about them at steps of time."""
    al, aw = _size(a, tracks)
    bl, bw = _size(b, tracks)
    near = 0.5 * (al + aw + bl + bw)
    t = 0.0
    while t <= until + 0.5:
        ax, ay = _arc(a, t, tracks, reals)
        bx, by = _arc(b, t, tracks, reals)
        if hypot(bx - ax, by - ay) <= near:
            return True
        t += _ARC_S
    return False


@helper
def _judge(a: int, b: int, foot: bool, tracks: Any, p: Any, ints: Any, reals: Any, cond: Any) -> None:
    """Judge one pair whose ways cross; ``foot``: ``a`` is on foot or on a bicycle, and ``b`` a vehicle."""
    ids, speed, heading = tracks[0], tracks[8], tracks[9]
    if not foot and abs(np.cos(np.radians(heading[a] - heading[b]))) > p[k.P_MISS_COS]:
        return
    dx, dy = tracks[4][b] - tracks[4][a], tracks[5][b] - tracks[5][a]
    ve, vn = tracks[6], tracks[7]
    ttc = _meet(a, b, dx, dy, ve[b] - ve[a], vn[b] - vn[a], p[k.P_MISS_IN], tracks)
    halt = p[k.P_MISS_HALT]
    if tracks[1][a] == _PEDESTRIAN and ttc > halt:  # it may stop: what then?
        dx, dy = dx + halt * (ve[b] - ve[a]), dy + halt * (vn[b] - vn[a])
        ttc = halt + _meet(a, b, dx, dy, ve[b], vn[b], p[k.P_MISS_IN], tracks)
    if ttc <= 0.0 or ttc > p[k.P_MISS_TTC]:
        return
    # Either of two vehicles may brake; for who walks only the vehicle can.
    need = speed[b] / (2.0 * ttc) if foot else min(speed[a], speed[b]) / (2.0 * ttc)
    if need < p[k.P_MISS_NEED] or not _meet_turning(a, b, ttc, tracks, reals):
        return
    row, other = (b, a) if foot or b < a else (a, b)
    _note(row, ids[other], ttc, ints, reals, cond)


@helper
def crossers(tracks: Any, grid: Any, lived: Any, mature: Any, p: Any, ints: Any, reals: Any, cond: Any) -> None:
    """Judge NEAR_MISS across: pairs of which one is in a junction (on no lane), or on foot in the road."""
    cls, east, north, speed, lane = tracks[1], tracks[4], tracks[5], tracks[8], tracks[10]
    xy, seg_lane, keys, start, items = grid
    count = speed.shape[0]
    asks = np.empty(count, np.int64)
    n = 0
    for i in range(count):
        if not mature[i] or cond[i, k.NEAR_MISS] == k.FROZEN:
            continue
        if _walks(cls[i]):
            if cover_one(east[i], north[i], _ROADWAY, -0.2, xy, seg_lane, keys, start, items) >= 0:
                asks[n] = i
                n += 1
        elif lane[i] < 0 and speed[i] >= p[k.P_MISS_MIN] and lived[i] >= p[k.P_MISS_AGE]:
            asks[n] = i
            n += 1
    if n == 0:
        return
    size = 1
    while size < 2 * count:
        size *= 2
    first = np.full(size, -1, np.int64)
    after = np.empty(count, np.int64)
    for i in range(count - 1, -1, -1):
        moves = speed[i] >= p[k.P_MISS_MIN] and lived[i] >= p[k.P_MISS_AGE] and mature[i] != 0
        if moves and not _walks(cls[i]) and cond[i, k.NEAR_MISS] != k.FROZEN:
            at = _bucket(np.floor(east[i] / _CELL_M), np.floor(north[i] / _CELL_M), size)
            after[i] = first[at]
            first[at] = i
    for x in range(n):
        a = asks[x]
        foot = _walks(cls[a])
        ca, cb = np.floor(east[a] / _CELL_M), np.floor(north[a] / _CELL_M)
        for de in range(-1, 2):
            for dn in range(-1, 2):
                b = first[_bucket(ca + de, cb + dn, size)]
                while b >= 0:
                    # Another cell may fall into the bucket; of two that both ask, the smaller row does.
                    here = np.floor(east[b] / _CELL_M) == ca + de and np.floor(north[b] / _CELL_M) == cb + dn
                    if here and b != a and (foot or lane[b] >= 0 or a < b):
                        _judge(a, b, foot, tracks, p, ints, reals, cond)
                    b = after[b]


@helper
def _bucket(i: float, j: float, size: int) -> Any:
    return (np.int64(i) * 73856093 ^ np.int64(j) * 19349663) & (size - 1)
