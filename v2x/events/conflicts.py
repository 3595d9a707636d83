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
_ROOM: Final = 4.0  # m about two vehicles' half lengths: their widths, and a length that is not known
_CELL_M: Final = 64.0  # how far two at 15 m/s close in before the time to collision is over
_STRIDE: Final = 1 << 24  # cells of +-500,000 km fit
_ARC_S: Final = 0.1
_ROADWAY: Final = int(MOTOR) | 1 << int(LaneKind.CROSSWALK)
_NONE: Final = 1e9
_NOWHERE: Final = 1 << 62  # no cell
_EAST, _NORTH, _VE, _VN, _SPEED = range(5)


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
def _axis(x: int, sa: float, ca: float, sb: float, cb: float) -> tuple[float, float]:
    """Return one of the four directions in which two rectangles can be told apart."""
    if x == 0:
        return sa, ca
    if x == 1:
        return ca, -sa
    if x == 2:
        return sb, cb
    return cb, -sb


@helper
def _reach(nx: float, ny: float, size: tuple[float, float], s: float, c: float) -> Any:
    """Return half the extent of a rectangle (half length, half width; sine and cosine of its heading) along an axis."""
    return size[0] * abs(nx * s + ny * c) + size[1] * abs(nx * c - ny * s)


@helper
def _apart(a: int, b: int, tracks: Any) -> Any:
    """Return by how much the outlines of two tracks are apart, m: the widest gap along an axis; below 0 they overlap.

    Two rectangles' distance is this, but corner to corner, where it is a little more.
    """
    east, north, heading = tracks[4], tracks[5], tracks[9]
    widest = -_NONE
    dx, dy = east[b] - east[a], north[b] - north[a]
    ours, theirs = _size(a, tracks), _size(b, tracks)
    ua, ub = np.radians(heading[a]), np.radians(heading[b])
    sa, ca, sb, cb = np.sin(ua), np.cos(ua), np.sin(ub), np.cos(ub)
    for x in range(4):
        nx, ny = _axis(x, sa, ca, sb, cb)
        widest = max(widest, abs(dx * nx + dy * ny) - _reach(nx, ny, ours, sa, ca) - _reach(nx, ny, theirs, sb, cb))
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
        de, dn = vel_e[i] - vel_e[j], vel_n[i] - vel_n[j]
        most = de * de + dn * dn  # they close in no faster than this, squared
        if most < p[k.P_MISS_MIN] * p[k.P_MISS_MIN] or room * room > most * p[k.P_MISS_TTC] * p[k.P_MISS_TTC]:
            continue
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
        wide = _size(i, tracks)[1] + _size(j, tracks)[1]
        off = lateral[i] - lateral[j]
        if abs(off) > wide - p[k.P_MISS_IN]:
            continue  # beside each other
        if abs(off + aside * (room / closing + p[k.P_MISS_LAG])) > wide * (1.0 - p[k.P_MISS_OVER]):
            continue  # ... or so when they are level: one changes the lane
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
    ours, theirs = _size(a, tracks), _size(b, tracks)
    ua, ub = np.radians(heading[a]), np.radians(heading[b])
    sa, ca, sb, cb = np.sin(ua), np.cos(ua), np.sin(ub), np.cos(ub)
    enter, leave = 0.0, _NONE
    for x in range(4):
        nx, ny = _axis(x, sa, ca, sb, cb)
        reach = _reach(nx, ny, ours, sa, ca) + _reach(nx, ny, theirs, sb, cb)
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
def _judge(
    a: int, b: int, foot: bool, latest: float, tracks: Any, grid: Any, p: Any, ints: Any, reals: Any, cond: Any
) -> None:
    """Judge one pair whose ways cross; ``foot``: ``a`` is on foot or on a bicycle, and ``b`` a vehicle."""
    ids, cls, east, north, ve, vn = tracks[0], tracks[1], tracks[4], tracks[5], tracks[6], tracks[7]
    dx, dy = east[b] - east[a], north[b] - north[a]
    we, wn = ve[b] - ve[a], vn[b] - vn[a]
    ttc = _meet(a, b, dx, dy, we, wn, p[k.P_MISS_IN], tracks)
    halt = p[k.P_MISS_HALT]
    if cls[a] == _PEDESTRIAN and ttc > halt:  # it may stop: what then?
        ttc = halt + _meet(a, b, dx + halt * we, dy + halt * wn, ve[b], vn[b], p[k.P_MISS_IN], tracks)
    if ttc <= 0.0 or ttc > latest or not _meet_turning(a, b, ttc, tracks, reals):
        return
    if foot and cover_one(east[a], north[a], _ROADWAY, -0.2, grid[0], grid[1], grid[2], grid[3], grid[4]) < 0:
        return  # beside the road
    row, other = (b, a) if foot or b < a else (a, b)
    _note(row, ids[other], ttc, ints, reals, cond)


@helper
def crossers(tracks: Any, grid: Any, lived: Any, mature: Any, p: Any, ints: Any, reals: Any, cond: Any) -> None:
    """Judge NEAR_MISS across: pairs of which one is in a junction (on no lane), or on foot in the road."""
    cls, east, north, ve, vn = tracks[1], tracks[4], tracks[5], tracks[6], tracks[7]
    length, speed, lane = tracks[2], tracks[8], tracks[10]
    count = speed.shape[0]
    asks = np.empty(count, np.int64)
    n = 0
    for i in range(count):
        if mature[i] == 0 or cond[i, k.NEAR_MISS] == k.FROZEN:
            continue
        if _walks(cls[i]) or (lane[i] < 0 and speed[i] >= p[k.P_MISS_MIN] and lived[i] >= p[k.P_MISS_AGE]):
            asks[n] = i
            n += 1
    if n == 0:
        return
    size = 1
    while size < 2 * count:
        size *= 2
    begin, who, cell, at = _gather(size, tracks, lived, mature, p, cond)
    for x in range(n):
        a = asks[x]
        foot = _walks(cls[a])
        middle = _cell(east[a], north[a])
        here_e, here_n, here_ve, here_vn, pace = east[a], north[a], ve[a], vn[a], p[k.P_MISS_COS] * speed[a]
        for de in range(-1, 2):
            here = middle + de * _STRIDE
            first = _bucket(here - 1, size)  # the three cells of a column are side by side, but at the end
            for part in range(2):  # up to the last bucket, then on from the first
                some = begin[first] if part == 0 else 0
                last = begin[min(first + 3, size)] if part == 0 else begin[max(first + 3 - size, 0)]
                for y in range(some, last):
                    b = who[y]
                    if abs(cell[y] - here) > 1 or b == a:
                        continue  # another cell may fall into the bucket
                    bve, bvn, bspeed = at[y, _VE], at[y, _VN], at[y, _SPEED]
                    if not foot and (
                        abs(here_ve * bve + here_vn * bvn) > pace * bspeed  # along one way: that is for ``followers``
                        or (b < a and lane[b] < 0)  # of two that both ask, the smaller row does
                    ):
                        continue
                    # Later than this they cannot meet and still have to brake hard for it. Of two vehicles either may
                    # brake; for who walks only the vehicle can.
                    latest = (bspeed if foot else min(speed[a], bspeed)) / (2.0 * p[k.P_MISS_NEED])
                    latest = min(latest, p[k.P_MISS_TTC])
                    dx, dy = at[y, _EAST] - here_e, at[y, _NORTH] - here_n
                    we, wn = bve - here_ve, bvn - here_vn
                    reach = _ROOM + (length[a] + length[b]) / 2 + latest * np.sqrt(we * we + wn * wn)
                    if dx * we + dy * wn < 0.0 and dx * dx + dy * dy <= reach * reach:
                        _judge(a, b, foot, latest, tracks, grid, p, ints, reals, cond)


@helper
def _gather(size: int, tracks: Any, lived: Any, mature: Any, p: Any, cond: Any) -> tuple[Any, Any, Any, Any]:
    """Put the vehicles that move side by side, bucket by bucket (``size`` of them), rows ascending.

    Return where each bucket begins, and by place the row, its cell, and what the pairs need of it.
    """
    cls, east, north, ve, vn, speed = tracks[1], tracks[4], tracks[5], tracks[6], tracks[7], tracks[8]
    count = speed.shape[0]
    begin = np.zeros(size + 1, np.int64)
    cells = np.empty(count, np.int64)
    for i in range(count):
        cells[i] = _NOWHERE
        moves = speed[i] >= p[k.P_MISS_MIN] and lived[i] >= p[k.P_MISS_AGE] and mature[i] != 0
        if moves and not _walks(cls[i]) and cond[i, k.NEAR_MISS] != k.FROZEN:
            cells[i] = _cell(east[i], north[i])
            begin[_bucket(cells[i], size)] += 1
    for x in range(size):
        begin[x + 1] += begin[x]
    who, cell, at = np.empty(count, np.int64), np.empty(count, np.int64), np.empty((count, _SPEED + 1))
    for i in range(count - 1, -1, -1):
        if cells[i] != _NOWHERE:
            bucket = _bucket(cells[i], size)
            begin[bucket] -= 1
            y = begin[bucket]
            who[y], cell[y] = i, cells[i]
            at[y, _EAST], at[y, _NORTH], at[y, _VE], at[y, _VN] = east[i], north[i], ve[i], vn[i]
            at[y, _SPEED] = speed[i]
    return begin, who, cell, at


@helper
def _cell(east: float, north: float) -> Any:
    return np.int64(np.floor(east / _CELL_M)) * _STRIDE + np.int64(np.floor(north / _CELL_M))


@helper
def _bucket(cell: int, size: int) -> Any:
    """Return a cell's bucket: cells north of each other have buckets side by side."""
    column = (cell + _STRIDE // 2) // _STRIDE
    return ((column * 0x9E3779B1 >> 8) + cell - column * _STRIDE) & (size - 1)
