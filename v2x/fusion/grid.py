"""A hashed grid of track rows: chains per bucket, moved in O(1). Cells may share a bucket; the gate sorts it out."""

from __future__ import annotations

from math import floor
from typing import Any

from v2x.fusion import layout as c
from v2x.fusion.jit import helper


@helper
def bucket(east: float, north: float, cell: float, buckets: int) -> Any:
    """Return the bucket of a point."""
    return cell_bucket(floor(east / cell), floor(north / cell), buckets)


@helper
def cell_bucket(x: int, y: int, buckets: int) -> Any:
    """Return the bucket of a cell (buckets is a power of two)."""
    return (x * 73_856_093 ^ y * 19_349_663) & (buckets - 1)


@helper
def link(i: Any, heads: Any, row: int, where: int) -> None:
    """Put a row at the head of a bucket."""
    first = heads[where]
    i[row, c.I_CELL] = where
    i[row, c.I_NEXT] = first
    i[row, c.I_PREV] = -1
    if first >= 0:
        i[first, c.I_PREV] = row
    heads[where] = row


@helper
def unlink(i: Any, heads: Any, row: int) -> None:
    """Take a row out of its bucket."""
    before, after = i[row, c.I_PREV], i[row, c.I_NEXT]
    if before >= 0:
        i[before, c.I_NEXT] = after
    else:
        heads[i[row, c.I_CELL]] = after
    if after >= 0:
        i[after, c.I_PREV] = before


@helper
def move(i: Any, heads: Any, row: int, where: int) -> None:
    """Move a row to another bucket."""
    if i[row, c.I_CELL] != where:
        unlink(i, heads, row)
        link(i, heads, row, where)
