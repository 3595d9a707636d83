"""Matching points to lanes: a hashed grid of lane segments and the kernels that search it.

A lane is a polyline cut into straight segments. Each segment is listed in every square cell that it could matter in;
the cells are kept as sorted 64-bit keys with offsets (compressed rows), so that a map of any extent costs only what it
holds. A point looks at one cell, and first at the segment that it was on before: what that costs leaves out most others
at once (it changes no result: the least cost wins, of equals the first segment). Cost of a candidate, in metres:

    distance beyond the lane's edge
  + 1.0 if the heading is opposite to the lane (so a track near a centre line keeps its own direction, while a wrong-way
        vehicle, which is a metre or more inside, still matches the lane it is really on)
  + 3.0 if the heading is across the lane (junctions)
  + 0.05 x distance from the centre line (ties)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from v2x.geo import F64

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

CELL_M: Final = 8.0
REACH_M: Final = 2.0  # a point farther than this beyond a lane's edge is on no lane
OPPOSITE_M: Final = 1.0
ACROSS_M: Final = 3.0
CENTRE_WEIGHT: Final = 0.05
COS_ALONG: Final = 0.7071067811865476  # within 45 degrees of the lane's axis
_SHORT_M: Final = 1e-3  # a shorter segment has no direction
_NEVER: Final = 1e18
_STRIDE: Final = 1 << 28  # cells of +-1e9 m fit
_HALF: Final = 1 << 27


# In line always: a call hands over seven words for every array, and costs more than what is called here.
_inline: Any = nb.njit(error_model="numpy", forceinline=True)


@nb.njit("Tuple((int64[::1], int64[::1]))(float64[:, ::1], float64)", cache=True)
def _cells(rows: Any, pad: float) -> tuple[I64, I64]:
    """Return pairs (cell key, row): the segments are sampled so finely that no cell within reach is left out."""
    room = 64
    keys, which = np.empty(room, np.int64), np.empty(room, np.int64)
    n = 0
    for row in range(rows.shape[0]):
        first = n
        steps = max(1, int(np.ceil(rows[row, 4] / (CELL_M / 2))))
        for nth in range(steps + 1):
            t = rows[row, 4] * nth / steps
            east, north = rows[row, 0] + t * rows[row, 2], rows[row, 1] + t * rows[row, 3]
            for i in range(int(np.floor((east - pad) / CELL_M)), int(np.floor((east + pad) / CELL_M)) + 1):
                for j in range(int(np.floor((north - pad) / CELL_M)), int(np.floor((north + pad) / CELL_M)) + 1):
                    key = (i + _HALF) * _STRIDE + (j + _HALF)
                    known = False
                    for x in range(first, n):
                        if keys[x] == key:
                            known = True
                            break
                    if known:
                        continue
                    if n == room:
                        keys, which = np.append(keys, keys), np.append(which, which)
                        room *= 2
                    keys[n], which[n] = key, row
                    n += 1
    return keys[:n].copy(), which[:n].copy()


@dataclass(slots=True)
class Piece:
    """One lane, cut."""

    rows: F64  # (n, 8) as Segments.xy
    keys: I64  # (pairs,) cells, and the row in each
    which: I64

    @classmethod
    def cut(cls, line: F64, half_width: float, kind: int) -> Piece:
        """Cut a polyline ((k, 2) metres; fewer than two points: no segment); ``kind`` is the lane's type."""
        step = np.diff(line, axis=0)
        length = np.hypot(step[:, 0], step[:, 1])
        keep = length > _SHORT_M
        rows = np.empty((len(length), 8))
        with np.errstate(invalid="ignore", divide="ignore"):
            rows[:, 0:2], rows[:, 2:4], rows[:, 4] = line[: len(length)], step / length[:, None], length
        rows[:, 5] = np.concatenate(([0.0], np.cumsum(length)))[:-1]
        rows[:, 6], rows[:, 7] = half_width, kind
        rows = np.ascontiguousarray(rows[keep])
        return cls(rows, *_cells(rows, half_width + REACH_M + CELL_M / 4))  # half a sample step


@dataclass(slots=True)
class Segments:
    """Segments of all lanes, and the grid over them."""

    xy: F64  # (n, 8): start east, north (m), unit east, north, length, along at the start, half width (m), lane type
    lane: I32  # (n,) lane index
    keys: I64  # (cells,) sorted cell keys
    start: I32  # (cells + 1,) offsets into ``items``
    items: I32  # segment indices, cell by cell, ascending

    @classmethod
    def build(cls, pieces: Sequence[Piece]) -> Segments:
        """Put the lanes together, in order of their index, and lay the grid."""
        sizes = [len(piece.rows) for piece in pieces]
        firsts = np.cumsum([0, *sizes])
        xy = np.concatenate([np.zeros((0, 8)), *(piece.rows for piece in pieces)])
        lane = np.repeat(np.arange(len(pieces), dtype=np.int32), sizes)
        none = np.zeros(0, dtype=np.int64)
        pairs = np.concatenate([none, *(piece.keys for piece in pieces)])
        which = np.concatenate([none, *(piece.which for piece in pieces)])
        which += np.repeat(firsts[:-1], [len(piece.keys) for piece in pieces])
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        new = np.flatnonzero(np.diff(pairs, prepend=pairs[:1] - 1))
        start = np.append(new, len(pairs)).astype(np.int32)
        return cls(xy, lane, pairs[new], start, which[order].astype(np.int32))


@_inline
def _cell(east: float, north: float, keys: Any, hint: int) -> int:
    """Return the index of a point's cell, -1 if nothing is there; ``hint``: where it may be."""
    if not (abs(east) < 1e9 and abs(north) < 1e9):  # also NaN
        return -1
    i = np.int64(np.floor(east / CELL_M))
    j = np.int64(np.floor(north / CELL_M))
    key = (i + _HALF) * _STRIDE + (j + _HALF)
    low, high = -1, len(keys)  # the cell lies between
    if 0 <= hint < len(keys):  # a point moves to a cell beside: look near by in steps that grow
        step = 1
        if keys[hint] < key:
            while hint < high and keys[hint] < key:
                low, hint, step = hint, hint + step, 2 * step
            high = min(hint, high)
        else:
            while hint > low and keys[hint] > key:
                high, hint, step = hint, hint - step, 2 * step
            low = max(hint, low)
            if low >= 0 and keys[low] == key:
                return int(low)
    while high - low > 1:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle
        else:
            high = middle
    return int(high) if high < len(keys) and keys[high] == key else -1


@_inline
def _cost(east: float, north: float, head: tuple[float, float], s: Any, xy: Any, mask: int, best: float) -> Any:
    """Return what a segment costs, _NEVER if it is beyond reach or surely costs more than ``best``."""
    dx = east - xy[s, 0]
    dy = north - xy[s, 1]
    ux = xy[s, 2]
    uy = xy[s, 3]
    cross = ux * dy - uy * dx
    side = abs(cross) - xy[s, 6]
    centre = CENTRE_WEIGHT * abs(cross)
    if side > REACH_M or side + centre > best or centre > best:
        return _NEVER
    side = max(0.0, side)
    t = dx * ux + dy * uy
    over = max(0.0, -t, t - xy[s, 4])
    if over > REACH_M or over + centre > best or not (mask >> np.int64(xy[s, 7])) & 1:
        return _NEVER
    beyond = np.hypot(side, over)
    if beyond > REACH_M:
        return _NEVER
    cost = beyond + centre
    along = ux * head[0] + uy * head[1]
    if along < -COS_ALONG:
        cost += OPPOSITE_M
    elif along < COS_ALONG:
        cost += ACROSS_M
    return cost


_MAP = "float64[:, ::1], int32[::1], int64[::1], int32[::1], int32[::1]"


@nb.njit(
    f"void(float64[::1], float64[::1], float64[::1], float64[::1], int64, int64, {_MAP}, int64[::1], int32[:, ::1], "
    "int32[::1], float64[::1], float64[::1])",
    cache=True,
    error_model="numpy",
)
def match(
    east: Any, north: Any, head_e: Any, head_n: Any, n: int, mask: int, xy: Any, seg_lane: Any, keys: Any, start: Any,
    items: Any, who: Any, hints: Any, out_lane: Any, out_along: Any, out_lateral: Any,
) -> None:  # fmt: skip
    """Write lane index (-1: none), along and lateral (left positive), m, of the first n points.

    ``head_*``: heading as a unit vector; zeros: direction does not count. They may be the arrays for along and lateral.
    ``mask`` has bit k set for lane type k.
    ``hints[who[p]]``: cell and segment of the point's last match, whatever it was then; the new ones are written.
    """
    for p in range(n):
        x, y = east[p], north[p]
        row = who[p]
        head = head_e[p], head_n[p]
        if head[0] == 0.0 and head[1] == 0.0:
            head = np.nan, np.nan  # neither along nor across
        out_lane[p], out_along[p], out_lateral[p] = -1, 0.0, 0.0
        cell = _cell(x, y, keys, hints[row, 0])
        if cell < 0:
            continue
        best, found = _NEVER, -1
        last = int(hints[row, 1])
        if 0 <= last < len(seg_lane):
            best = _cost(x, y, head, np.uint64(last), xy, mask, best)
            found = last if best < _NEVER else -1
        for at in range(start[cell], start[cell + 1]):
            s = items[at]
            cost = _cost(x, y, head, np.uint64(s), xy, mask, best)  # unsigned: no wrap-around to look for
            if cost < best or (cost == best and s < found):
                best, found = cost, s
        hints[row, 0], hints[row, 1] = cell, found
        if found >= 0:
            dx, dy = x - xy[found, 0], y - xy[found, 1]
            t = dx * xy[found, 2] + dy * xy[found, 3]
            out_lane[p] = seg_lane[found]
            out_along[p] = xy[found, 5] + min(max(t, 0.0), xy[found, 4])
            out_lateral[p] = xy[found, 2] * dy - xy[found, 3] * dx


@nb.njit
def cover_one(
    east: float, north: float, mask: int, margin: float, xy: Any, seg_lane: Any, keys: Any, start: Any, items: Any
) -> int:
    """Return the lane of the masked types that holds a point with ``margin`` m beyond its edges, -1 if none."""
    found = -1
    cell = _cell(east, north, keys, -1)
    if cell < 0:
        return found
    best = margin
    for at in range(start[cell], start[cell + 1]):
        s = items[at]
        if not (mask >> int(xy[s, 7])) & 1:
            continue
        dx = east - xy[s, 0]
        dy = north - xy[s, 1]
        t = dx * xy[s, 2] + dy * xy[s, 3]
        over = max(-t, t - xy[s, 4])
        beyond = max(abs(xy[s, 2] * dy - xy[s, 3] * dx) - xy[s, 6], over)
        if beyond < best:
            best = beyond
            found = seg_lane[s]
    return found


@nb.njit(f"void(float64[::1], float64[::1], int64, float64, {_MAP}, int32[::1])", cache=True)
def cover(
    east: Any, north: Any, mask: int, margin: float, xy: Any, seg_lane: Any, keys: Any, start: Any, items: Any,
    out_lane: Any,
) -> None:  # fmt: skip
    """Do ``cover_one`` for many points."""
    for p in range(len(east)):
        out_lane[p] = cover_one(east[p], north[p], mask, margin, xy, seg_lane, keys, start, items)
