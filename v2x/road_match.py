"""Matching points to lanes: a hashed grid of lane segments and the kernels that search it.

A lane is a polyline cut into straight segments. Each segment is listed in every square cell that it could matter in;
the cells are kept as sorted 64-bit keys with offsets (compressed rows), so that a map of any extent costs only what it
holds. A point looks at one cell. Cost of a candidate, in metres, the least wins:

    distance beyond the lane's edge
  + 1.0 if the heading is opposite to the lane (so a track near a centre line keeps its own direction, while a wrong-way
        vehicle, which is a metre or more inside, still matches the lane it is really on)
  + 3.0 if the heading is across the lane (junctions)
  + 0.05 x distance from the centre line (ties)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from v2x.geo import F64

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

CELL_M: Final = 32.0
REACH_M: Final = 2.0  # a point farther than this beyond a lane's edge is on no lane
OPPOSITE_M: Final = 1.0
ACROSS_M: Final = 3.0
CENTRE_WEIGHT: Final = 0.05
COS_ALONG: Final = 0.7071067811865476  # within 45 degrees of the lane's axis
_STRIDE: Final = 1 << 28  # cells of +-1e9 m fit
_HALF: Final = 1 << 27


@dataclass(slots=True)
class Segments:
    """Segments of all lanes, and the grid over them."""

    xy: F64  # (n, 6): east, north of the start (m), unit east, unit north, length (m), along at the start (m)
    lane: I32  # (n,) lane index
    keys: I64  # (cells,) sorted cell keys
    start: I32  # (cells + 1,) offsets into ``items``
    items: I32  # segment indices, cell by cell

    @classmethod
    def build(cls, lines: list[F64], half_width: F64) -> Segments:
        """Cut polylines ((k, 2) metres each; fewer than two points: no segment) and lay the grid."""
        rows: list[npt.NDArray[np.float64]] = []
        lanes: list[npt.NDArray[np.int32]] = []
        for index, line in enumerate(lines):
            if len(line) < 2:
                continue
            step = np.diff(line, axis=0)
            length = np.hypot(step[:, 0], step[:, 1])
            keep = length > 1e-3
            along = np.concatenate(([0.0], np.cumsum(length)))[:-1]
            with np.errstate(invalid="ignore", divide="ignore"):
                unit = step / length[:, None]
            rows.append(np.column_stack((line[:-1], unit, length, along))[keep])
            lanes.append(np.full(int(keep.sum()), index, dtype=np.int32))
        xy = np.concatenate(rows) if rows else np.zeros((0, 6))
        lane = np.concatenate(lanes) if lanes else np.zeros(0, dtype=np.int32)
        keys, start, items = _grid(xy, half_width[lane] + REACH_M)
        return cls(np.ascontiguousarray(xy), lane, keys, start, items)


def _grid(xy: F64, reach: F64) -> tuple[I64, I32, I32]:
    """Return (keys, start, items): each segment sampled finely enough that no cell within reach is left out."""
    if not len(xy):
        return np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int32)
    counts = np.maximum(1, np.ceil(xy[:, 4] / (CELL_M / 2)).astype(np.int64)) + 1
    which = np.repeat(np.arange(len(xy)), counts)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    t = xy[which, 4] * nth / (counts[which] - 1)
    east = xy[which, 0] + t * xy[which, 2]
    north = xy[which, 1] + t * xy[which, 3]
    pad = reach[which] + CELL_M / 4  # half a sample step
    cells = []
    for side_e in (-1.0, 0.0, 1.0):
        for side_n in (-1.0, 0.0, 1.0):
            i = np.floor((east + side_e * pad) / CELL_M).astype(np.int64)
            j = np.floor((north + side_n * pad) / CELL_M).astype(np.int64)
            cells.append((i + _HALF) * _STRIDE + (j + _HALF))
    # One number for (cell, segment) sorts several times as fast as rows of two.
    keys, cell = np.unique(np.concatenate(cells), return_inverse=True)
    pair = np.unique(cell * len(xy) + np.tile(which, len(cells)))
    start = np.searchsorted(pair, np.arange(len(keys) + 1) * len(xy)).astype(np.int32)
    return keys, start, (pair % len(xy)).astype(np.int32)


@nb.njit("int64(float64, float64, int64[::1])", cache=True)
def _cell(east: float, north: float, keys: Any) -> int:
    """Return the index of a point's cell, -1 if nothing is there."""
    if not (abs(east) < 1e9 and abs(north) < 1e9):  # also NaN
        return -1
    i = np.int64(np.floor(east / CELL_M))
    j = np.int64(np.floor(north / CELL_M))
    key = (i + _HALF) * _STRIDE + (j + _HALF)
    at = np.searchsorted(keys, key)
    if at < len(keys) and keys[at] == key:
        return int(at)
    return -1


@nb.njit(inline="never")
def _match(
    east: float, north: float, heading: float, mask: int, xy: Any, seg_lane: Any, keys: Any, start: Any, items: Any,
    half_width: Any, kind: Any,
) -> tuple[int, float, float]:  # fmt: skip
    """Return (lane, along, lateral) of a point.

    What a candidate costs at least (across the lane, and from its centre) leaves most of them out at once.
    """
    found, out_along, out_lateral = -1, 0.0, 0.0
    cell = _cell(east, north, keys)
    if cell < 0:
        return found, out_along, out_lateral
    has_heading = heading == heading  # noqa: PLR0124 - not NaN
    head_e = np.sin(np.radians(heading)) if has_heading else 0.0
    head_n = np.cos(np.radians(heading)) if has_heading else 0.0
    best = 1e18
    for at in range(start[cell], start[cell + 1]):
        s = items[at]
        lane = seg_lane[s]
        dx = east - xy[s, 0]
        dy = north - xy[s, 1]
        ux = xy[s, 2]
        uy = xy[s, 3]
        cross = ux * dy - uy * dx
        side = max(0.0, abs(cross) - half_width[lane])
        centre = CENTRE_WEIGHT * abs(cross)
        if side > REACH_M or side + centre >= best or not (mask >> kind[lane]) & 1:
            continue
        t = dx * ux + dy * uy
        over = max(0.0, -t, t - xy[s, 4])
        if over > REACH_M:
            continue
        beyond = np.hypot(side, over)
        if beyond > REACH_M:
            continue
        cost = beyond + centre
        if has_heading:
            along = ux * head_e + uy * head_n
            if along < -COS_ALONG:
                cost += OPPOSITE_M
            elif along < COS_ALONG:
                cost += ACROSS_M
        if cost < best:
            best = cost
            found = lane
            out_along = xy[s, 5] + min(max(t, 0.0), xy[s, 4])
            out_lateral = cross
    return found, out_along, out_lateral


_MAP = "float64[:, ::1], int32[::1], int64[::1], int32[::1], int32[::1], float64[::1], int32[::1]"


@nb.njit(
    f"void(float64[::1], float64[::1], float64[::1], int64, int64, {_MAP}, int32[::1], float64[::1], float64[::1])",
    cache=True,
)
def match(
    east: Any, north: Any, heading: Any, n: int, mask: int, xy: Any, seg_lane: Any, keys: Any, start: Any, items: Any,
    half_width: Any, kind: Any, out_lane: Any, out_along: Any, out_lateral: Any,
) -> None:  # fmt: skip
    """Write lane index (-1: none), along and lateral (left positive), m, of the first n points.

    ``heading`` in degrees clockwise from north; NaN: direction does not count. ``mask`` has bit k set for lane type k.
    """
    for p in range(n):
        out_lane[p], out_along[p], out_lateral[p] = _match(
            east[p], north[p], heading[p], mask, xy, seg_lane, keys, start, items, half_width, kind
        )


@nb.njit
def cover_one(
    east: float, north: float, mask: int, margin: float, xy: Any, seg_lane: Any, keys: Any, start: Any, items: Any,
    half_width: Any, kind: Any,
) -> int:  # fmt: skip
    """Return the lane of the masked types that holds a point with ``margin`` m beyond its edges, -1 if none."""
    found = -1
    cell = _cell(east, north, keys)
    if cell < 0:
        return found
    best = margin
    for at in range(start[cell], start[cell + 1]):
        s = items[at]
        lane = seg_lane[s]
        if not (mask >> kind[lane]) & 1:
            continue
        dx = east - xy[s, 0]
        dy = north - xy[s, 1]
        t = dx * xy[s, 2] + dy * xy[s, 3]
        over = max(-t, t - xy[s, 4])
        beyond = max(abs(xy[s, 2] * dy - xy[s, 3] * dx) - half_width[lane], over)
        if beyond < best:
            best = beyond
            found = lane
    return found


@nb.njit(f"void(float64[::1], float64[::1], int64, float64, {_MAP}, int32[::1])", cache=True)
def cover(
    east: Any, north: Any, mask: int, margin: float, xy: Any, seg_lane: Any, keys: Any, start: Any, items: Any,
    half_width: Any, kind: Any, out_lane: Any,
) -> None:  # fmt: skip
    """Do ``cover_one`` for many points."""
    for p in range(len(east)):
        out_lane[p] = cover_one(
            east[p], north[p], mask, margin, xy, seg_lane, keys, start, items, half_width, kind
        )  # fmt: skip
