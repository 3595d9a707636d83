"""What is done to all tracks of a zone at each frame: time-outs and the grid; at each second one duplicates are merged.

Two tracks of one object are rare (a sensor's first scan beyond the gate, a bias not yet known) and harmful, so they
are merged as soon as they lie on each other and move alike. Not so where one sensor has lately seen both: they are two.
Since they are rare, a quick look on a grid of its own (cells of twice the reach, so a point meets four of them) says
first whether there are any at all; only then the search goes over the tracks' grid, in the order that merging needs.
"""

from __future__ import annotations

from math import floor, hypot
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.grid import bucket, cell_bucket, move
from v2x.fusion.jit import helper, kernel
from v2x.fusion.kalman import ahead
from v2x.fusion.track import give_row

STANDING_MPS: Final = 1.0
FAR_M: Final = 8.0  # no duplicates are farther apart than this along an axis
ALONE_M: Final = 8.0  # at most FAR_M
STANDING_STALE: Final = 10.0  # a standing track may be this many times older (event time) before it is beyond use
ACROSS: Final = 0.6  # duplicates of a vehicle lie nearer across than along
ALONG_SIZE: Final = 0.35  # of a long vehicle's length: sensors see different ends of it
_REACH_M: Final = FAR_M + 0.01  # and what rounding may take
_CELLS: Final = 1024  # of the quick look; a power of two


@helper
def _over(s: Any, i: Any, prm: Any, event_ms: int, idle_ms: int) -> Any:
    """Return whether a track has timed out."""
    silent = idle_ms - i[c.I_SEEN]
    if i[c.I_STATUS] == c.TENTATIVE:
        return silent > prm[c.Q_TENTATIVE]
    soon = min(prm[c.Q_TENTATIVE], prm[c.Q_LOST], prm[c.Q_LOST_SLOW])
    if silent <= soon and event_ms - i[c.I_T] <= prm[c.Q_STALE]:
        return False  # just seen: whether it stands makes no difference
    standing = hypot(s[c.S_VE], s[c.S_VN]) < STANDING_MPS
    young = prm[c.Q_TENTATIVE] + prm[c.Q_LOST_HIT] * i[c.I_HITS]
    if silent > min(young, prm[c.Q_LOST_SLOW] if standing else prm[c.Q_LOST]):
        return True
    return event_ms - i[c.I_T] > prm[c.Q_STALE] * (STANDING_STALE if standing else 1.0)


@helper
def _seen_by_one(i: Any, a: int, b: int, prm: Any, event_ms: int) -> Any:
    """Return whether one sensor has fed both tracks lately."""
    for x in range(c.I_SRCS):
        one = i[a, c.I_SRC + x]
        if one & c.SRC_TIME == 0 or event_ms - (one & c.SRC_TIME) > prm[c.Q_VETO]:
            continue
        for y in range(c.I_SRCS):
            other = i[b, c.I_SRC + y]
            if (
                other >> c.SRC_SHIFT == one >> c.SRC_SHIFT
                and other & c.SRC_TIME > 0
                and event_ms - (other & c.SRC_TIME) <= prm[c.Q_VETO]
            ):
                return True
    return False


@helper
def _alike(s: Any, i: Any, a: int, b: int, prm: Any, event_ms: int) -> Any:
    """Return whether two tracks lie on each other and move alike."""
    da, db = (event_ms - i[a, c.I_T]) * 1e-3, (event_ms - i[b, c.I_T]) * 1e-3
    ax, ay, _, _ = ahead(s[a], da)
    bx, by, _, _ = ahead(s[b], db)
    x, y = ax - bx, ay - by
    if abs(x) > FAR_M or abs(y) > FAR_M:
        return False
    if hypot(s[a, c.S_VE] - s[b, c.S_VE], s[a, c.S_VN] - s[b, c.S_VN]) > prm[c.Q_MERGE_V]:
        return False
    if i[a, c.I_CLS] == c.PEDESTRIAN or i[b, c.I_CLS] == c.PEDESTRIAN:
        return i[a, c.I_CLS] == i[b, c.I_CLS] and hypot(x, y) < prm[c.Q_MERGE_PED]
    hx, hy = s[a, c.S_HX], s[a, c.S_HY]
    along, across = x * hx + y * hy, x * hy - y * hx
    reach = max(prm[c.Q_MERGE], ALONG_SIZE * max(s[a, c.S_LEN], s[b, c.S_LEN]))
    return abs(along) < reach and abs(across) < ACROSS * prm[c.Q_MERGE]


@helper
def _senior(i: Any, a: int, b: int) -> Any:
    """Return whether track a outlives b: a reported one, then one with a global id, then the older."""
    if i[a, c.I_OWN] != i[b, c.I_OWN]:
        return i[a, c.I_OWN] > i[b, c.I_OWN]
    if (i[a, c.I_GID] > 0) != (i[b, c.I_GID] > 0):
        return i[a, c.I_GID] > 0
    if i[a, c.I_BORN] != i[b, c.I_BORN]:
        return i[a, c.I_BORN] < i[b, c.I_BORN]
    return i[a, c.I_UID] < i[b, c.I_UID]


@helper
def _absorb(s: Any, i: Any, a: int, b: int) -> None:
    """Let a take what b has that is better; b will be freed."""
    if s[b, c.S_P] + s[b, c.S_P + 4] < s[a, c.S_P] + s[a, c.S_P + 4] and i[b, c.I_T] >= i[a, c.I_T]:
        for x in range(c.S_ACC):
            s[a, x] = s[b, x]
        s[a, c.S_OMEGA] = s[b, c.S_OMEGA]
        for x in range(c.S_SHARE, c.S_W + 5):
            s[a, x] = s[b, x]
        i[a, c.I_T] = i[b, c.I_T]
    i[a, c.I_LAST] = max(i[a, c.I_LAST], i[b, c.I_LAST])
    i[a, c.I_SEEN] = max(i[a, c.I_SEEN], i[b, c.I_SEEN])
    i[a, c.I_HITS] += i[b, c.I_HITS]


@helper
def _any_twins(s: Any, i: Any, prm: Any, event_ms: int, rows: Any, at: Any, n: int) -> Any:
    """Return whether any two of the n confirmed tracks (``rows``, ascending) are to be merged, and note who is alone.

    ``at``: by track predicted east and north, m, length, m, and the square of its heading vector (1, or 0 unknown).
    Along and across make up the distance, so most pairs are told apart without a look at their rows.
    """
    across2 = ACROSS * ACROSS * prm[c.Q_MERGE] * prm[c.Q_MERGE] + 1e-3
    least = max(prm[c.Q_MERGE], prm[c.Q_MERGE_PED])
    for k in range(n):
        i[rows[k], c.I_ALONE] = 1
    first = np.full(_CELLS, -1, np.int32)
    after = np.empty(n, np.int32)
    scale = 0.5 / _REACH_M
    for k in range(n):
        x, y, length = at[k, 0], at[k, 1], at[k, 2]
        top = floor((y + _REACH_M) * scale)
        for gx in range(floor((x - _REACH_M) * scale), floor((x + _REACH_M) * scale) + 1):
            for gy in range(floor((y - _REACH_M) * scale), top + 1):
                j = first[cell_bucket(gx, gy, _CELLS)]
                while j >= 0:
                    east, north = at[j, 0] - x, at[j, 1] - y
                    if east * east + north * north < ALONE_M * ALONE_M:
                        i[rows[j], c.I_ALONE] = i[rows[k], c.I_ALONE] = 0
                    reach = max(least, ALONG_SIZE * max(at[j, 2], length))
                    if (
                        at[j, 3] * (east * east + north * north) <= reach * reach + across2
                        and _alike(s, i, rows[j], rows[k], prm, event_ms)
                        and not _seen_by_one(i, rows[j], rows[k], prm, event_ms)
                    ):
                        for row in rows[:n]:
                            i[row, c.I_ALONE] = 0  # not all were looked at
                        return True
                    j = after[j]
        home = cell_bucket(floor(x * scale), floor(y * scale), _CELLS)
        after[k] = first[home]
        first[home] = k
    return False


@helper
def _merge(s: Any, i: Any, heads: Any, ctl: Any, stat: Any, prm: Any, event_ms: int) -> None:
    """Merge duplicates, the lowest row first."""
    cell, buckets = prm[c.Q_CELL], heads.shape[0]
    for row in range(ctl[c.CTL_TOP]):
        if i[row, c.I_STATUS] != c.CONFIRMED:
            continue
        dt = (event_ms - i[row, c.I_T]) * 1e-3
        x, y, _, _ = ahead(s[row], dt)
        cx, cy = floor(x / cell), floor(y / cell)
        for gx in range(cx - 1, cx + 2):
            for gy in range(cy - 1, cy + 2):
                other = heads[cell_bucket(gx, gy, buckets)]
                while other >= 0:
                    here = other
                    other = i[here, c.I_NEXT]
                    if here <= row or i[here, c.I_STATUS] != c.CONFIRMED or i[row, c.I_STATUS] != c.CONFIRMED:
                        continue
                    if not _alike(s, i, row, here, prm, event_ms) or _seen_by_one(i, row, here, prm, event_ms):
                        continue
                    keep, drop = (row, here) if _senior(i, row, here) else (here, row)
                    _absorb(s, i, keep, drop)
                    if other == drop:
                        other = i[drop, c.I_NEXT]
                    give_row(i, heads, ctl, drop)
                    stat[c.STAT_MERGED] += 1


@kernel("void(float64[:,::1], int64[:,::1], int64[::1], int64[::1], int64[::1], float64[::1], int64, int64, boolean)")
def upkeep(
    s: Any, i: Any, heads: Any, ctl: Any, stat: Any, prm: Any, event_ms: int, idle_ms: int, merge: bool
) -> None:  # fmt: skip
    """Time out, put every track into the grid where it is now; ``merge``: merge duplicates, and note who is alone."""
    cell, buckets = prm[c.Q_CELL], heads.shape[0]
    rows = np.empty(ctl[c.CTL_LIVE], np.int64)
    at = np.empty((ctl[c.CTL_LIVE], 4))
    n = 0
    for row in range(ctl[c.CTL_TOP]):
        if i[row, c.I_STATUS] == c.FREE:
            continue
        if _over(s[row], i[row], prm, event_ms, idle_ms):
            stat[c.STAT_LOST if i[row, c.I_STATUS] == c.CONFIRMED else c.STAT_DROPPED] += 1
            give_row(i, heads, ctl, row)
            continue
        dt = (event_ms - i[row, c.I_T]) * 1e-3
        x, y, _, _ = ahead(s[row], dt)
        move(i, heads, row, bucket(x, y, cell, buckets))
        if merge and i[row, c.I_STATUS] == c.CONFIRMED:
            hx, hy = s[row, c.S_HX], s[row, c.S_HY]
            rows[n], at[n, 0], at[n, 1], at[n, 2], at[n, 3] = row, x, y, s[row, c.S_LEN], hx * hx + hy * hy
            n += 1
    if merge and _any_twins(s, i, prm, event_ms, rows, at, n):
        _merge(s, i, heads, ctl, stat, prm, event_ms)
