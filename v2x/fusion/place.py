"""Where each track is between zones, and what follows for its ownership (see v2x.fusion.ownership).

The way past a border is x = (distance inside the neighbour - distance inside us) / 2: metres past the common border
where the polygons touch, past the middle where they leave a gap. It is negative on our side.
"""

from __future__ import annotations

from math import hypot
from typing import Any, Final

from v2x.fusion import layout as c
from v2x.fusion.clock import FRAME_MS
from v2x.fusion.jit import helper, kernel
from v2x.fusion.kalman import ahead

ADOPT_M: Final = 100.0
LEASE_M: Final = 20.0
RELEASE_M: Final = 2.0
ADOPT_EACH_MS: Final = 100
HANDOVER_MS: Final = 3 * FRAME_MS
LEASE_MS: Final = 300
LINE_M: Final = 10.0  # nearer to the border than this, a new track waits a lease for an owner to speak
STRANGER_MS: Final = 1_000
STRANGER_M: Final = 5.0
GID_SHIFT: Final = 32
FAR_M: Final = -1e6
ADOPT, RELEASE = 1, 2


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


@helper
def _past(xy: Any, start: Any, boxes: Any, x: float, y: float) -> tuple[float, int]:
    """Return how far past the nearest neighbour's border a point is, m, and whose (0: none within reach)."""
    past, beside, own = FAR_M, 0, 1e18
    for z in range(1, start.shape[0] - 1):
        if _far(boxes[z], x, y, 2.0 * ADOPT_M):
            continue
        if own == 1e18:
            own = _inside(xy, start[0], start[1], x, y)
        over = 0.5 * (_inside(xy, start[z], start[z + 1], x, y) - own)
        if over > past:
            past, beside = over, z
    return past, beside


@helper
def _wait(i: Any, ctl: Any, past: float, stream_ms: int) -> Any:
    """See whether a track that is not ours has to become ours; return whether it was taken from a silent owner."""
    known = i[c.I_GID] != 0
    if known:
        if past >= -RELEASE_M or stream_ms - i[c.I_LEASE] <= LEASE_MS:
            return False
    else:
        if past >= STRANGER_M:
            i[c.I_LONE] = 0
            return False
        if i[c.I_LONE] == 0:
            i[c.I_LONE] = stream_ms
        if past >= -LINE_M and stream_ms - i[c.I_LONE] <= (LEASE_MS if past < 0.0 else STRANGER_MS):
            return False
        ctl[c.CTL_GID] += 1
        i[c.I_GID] = ctl[c.CTL_PREFIX] << GID_SHIFT | ctl[c.CTL_GID]
    i[c.I_OWN] = 1
    i[c.I_FROM] = i[c.I_UNTIL] = i[c.I_TOLD] = i[c.I_LONE] = 0
    return known


@kernel(
    "UniTuple(int64, 2)(float64[:,::1], int64[:,::1], int64[::1], float64[:,::1], int64[::1], float64[:,::1], int64, "
    "int64, int64[:,::1])"
)
def decide(
    s: Any, i: Any, ctl: Any, xy: Any, start: Any, boxes: Any, event_ms: int, stream_ms: int, out: Any
) -> tuple[int, int]:
    """Decide who owns the confirmed tracks. Polygon 0 of ``xy`` is our own zone, the others its neighbours.

    Return how many rows a neighbour must be told of, in ``out`` as (row, ADOPT or RELEASE, neighbour from 1), and how
    many tracks were taken over from an owner that fell silent.
    """
    count = taken = 0
    for row in range(ctl[c.CTL_TOP]):
        if i[row, c.I_STATUS] != c.CONFIRMED:
            continue
        a = i[row]
        if a[c.I_OWN] != 0 and a[c.I_UNTIL] != 0:
            if event_ms > a[c.I_UNTIL]:
                a[c.I_OWN] = a[c.I_UNTIL] = a[c.I_FROM] = a[c.I_TOLD] = 0
                a[c.I_LEASE] = stream_ms
            continue
        dt = (event_ms - a[c.I_T]) * 1e-3
        east, north, _, _ = ahead(s[row], dt)
        past, beside = _past(xy, start, boxes, east, north)
        if a[c.I_OWN] == 0:
            taken += _wait(a, ctl, past, stream_ms)
        elif beside > 0 and event_ms > a[c.I_FROM]:
            what = 0
            if past >= RELEASE_M:
                a[c.I_UNTIL] = event_ms + HANDOVER_MS
                what = RELEASE
            elif past >= -ADOPT_M and (
                a[c.I_TOLD] == 0 or (past >= -LEASE_M and event_ms - a[c.I_TOLD] >= ADOPT_EACH_MS)
            ):
                a[c.I_TOLD] = event_ms
                what = ADOPT
            if what > 0:
                out[count, 0], out[count, 1], out[count, 2] = row, what, beside
                count += 1
    return count, taken
