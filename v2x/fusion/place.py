"""Where each track is between zones, and which tracks leave in a frame.

The way past a border is x = (distance inside the neighbour - distance inside us) / 2: metres past the common border
where the polygons touch, past the middle where they leave a gap. It is negative on our side.
"""

from __future__ import annotations

from math import hypot
from typing import Any

from v2x.fusion import layout as c
from v2x.fusion.jit import helper, kernel

FAR_M = -1e6


@helper
def _inside(xy: Any, first: int, last: int, x: float, y: float) -> Any:
    """Return metres to the border of the polygon xy[first:last], negative outside."""
    best = 1e18
    odd = False
    a = last - 1
    for b in range(first, last):
        ax, ay, bx, by = xy[a, 0] - x, xy[a, 1] - y, xy[b, 0] - x, xy[b, 1] - y
        if (ay > 0.0) != (by > 0.0) and ax + (bx - ax) * ay / (ay - by) > 0.0:
            odd = not odd
        dx, dy = bx - ax, by - ay
        square = dx * dx + dy * dy
        t = 0.0 if square == 0.0 else min(1.0, max(0.0, -(ax * dx + ay * dy) / square))
        best = min(best, hypot(ax + t * dx, ay + t * dy))
        a = b
    return best if odd else -best


@helper
def _far(box: Any, x: float, y: float, reach: float) -> Any:
    """Return whether a point is farther than reach from a bounding box (min x, min y, max x, max y)."""
    return x < box[0] - reach or y < box[1] - reach or x > box[2] + reach or y > box[3] + reach


@kernel(
    "int64(float64[:,::1], int64[:,::1], int64[::1], float64[:,::1], int64[::1], float64[:,::1], float64, int64, "
    "float64[::1], int64[::1], int64[::1])"
)
def place(
    s: Any, i: Any, ctl: Any, xy: Any, start: Any, boxes: Any, reach: float, event_ms: int,
    past: Any, beside: Any, near: Any,
) -> Any:  # fmt: skip
    """Find by row how far past the nearest neighbour's border it is (``past``, m) and whose (``beside``).

    Polygon 0 is our own. Rows that need a decision (near a border, not ours, or handed over) go into ``near``; return
    how many.
    """
    count = 0
    for row in range(ctl[c.CTL_TOP]):
        if i[row, c.I_STATUS] != c.CONFIRMED:
            continue
        dt = (event_ms - i[row, c.I_T]) * 1e-3
        x, y = s[row, c.S_E] + dt * s[row, c.S_VE], s[row, c.S_N] + dt * s[row, c.S_VN]
        past[row] = FAR_M
        beside[row] = 0
        own = 1e18
        for z in range(1, start.shape[0] - 1):
            if _far(boxes[z], x, y, 2.0 * reach):
                continue
            if own == 1e18:
                own = _inside(xy, start[0], start[1], x, y)
            over = 0.5 * (_inside(xy, start[z], start[z + 1], x, y) - own)
            if over > past[row]:
                past[row] = over
                beside[row] = z
        if past[row] > -1.25 * reach or i[row, c.I_OWN] == 0 or i[row, c.I_UNTIL] > 0:
            near[count] = row
            count += 1
    return count


@kernel("int64(int64[:,::1], int64[::1], int64, int64[::1])")
def leaving(i: Any, ctl: Any, event_ms: int, rows: Any) -> Any:
    """List the rows that this zone reports for an event time, in order of row; return how many."""
    count = 0
    for row in range(ctl[c.CTL_TOP]):
        if i[row, c.I_STATUS] != c.CONFIRMED or i[row, c.I_OWN] == 0 or i[row, c.I_FROM] >= event_ms:
            continue
        if i[row, c.I_UNTIL] > 0 and event_ms > i[row, c.I_UNTIL]:
            continue
        rows[count] = row
        count += 1
    return count
