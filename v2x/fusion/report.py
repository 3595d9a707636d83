"""What a zone reports for one event time: its own tracks in order of id, predicted, in metres and in schema units.

One pass over the rows writes both forms into columns that are kept from frame to frame. The order is kept too: tracks
come and go seldom, so sorting is inserting the few new ones.
"""

from __future__ import annotations

from math import atan2, cos, hypot, pi, sin, sqrt
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.jit import helper, kernel
from v2x.fusion.kalman import ahead, noise, told_cov
from v2x.geo import ECC2, SEMI_MAJOR_M

# Rows of the reals.
X_E, X_N, X_VE, X_VN, X_SPEED, X_HEAD, X_ACC, X_LEN, X_WID, X_SIGMA, X_ALONG, X_LATERAL = range(12)
X_ROWS: Final = 12
# Rows of the integers: a frame's columns in the schema's order and units (v2x.fusion.frames), then two for the view.
Y_TRACK, Y_CLS, Y_LAT, Y_LON, Y_SPEED, Y_HEAD, Y_ACC, Y_SIGMA, Y_LEN, Y_WID, Y_LANE, Y_HITS, Y_AGE = range(13)
Y_BORN, Y_LAST = 13, 14
Y_ROWS: Final = 15
_RAD_E7: Final = 1e7 * 180.0 / np.pi
_PAIRS: Final = 0x3F03F03F03F03F  # every other of ten counters of six bits
_SUM: Final = 1 << 48 | 1 << 36 | 1 << 24 | 1 << 12 | 1


@helper
def _leaves(i: Any, event_ms: int) -> Any:
    """Return whether this zone reports a track for an event time."""
    if i[c.I_STATUS] != c.CONFIRMED or i[c.I_OWN] == 0 or i[c.I_FROM] >= event_ms:
        return False
    return i[c.I_UNTIL] == 0 or event_ms <= i[c.I_UNTIL]


@helper
def _order(i: Any, top: int, before: int, event_ms: int, rows: Any, gids: Any) -> Any:
    """Bring the rows that leave into order of id, from the ``before`` rows of the last frame; return how many."""
    mark = np.zeros(top, np.uint8)
    n = 0
    for k in range(before):
        row = rows[k]
        if _leaves(i[row], event_ms):
            mark[row] = 1
            rows[n] = row
            n += 1
    for row in range(top):
        if mark[row] == 0 and _leaves(i[row], event_ms):
            rows[n] = row
            n += 1
    for k in range(n):
        row = rows[k]
        gid = i[row, c.I_GID]
        at = k
        while at > 0 and (gids[at - 1] > gid or (gids[at - 1] == gid and rows[at - 1] > row)):
            gids[at], rows[at] = gids[at - 1], rows[at - 1]
            at -= 1
        gids[at], rows[at] = gid, row
    return n


@helper
def _hits(i: Any, event_ms: int) -> Any:
    """Return the measurements of the last second: the counters that are young enough, added up two by two."""
    young = 10 - max(event_ms // 100 - i[c.I_SLOT], 0)
    if young <= 0:
        return 0
    slots = i[c.I_SLOTS] & ((1 << 6 * young) - 1)
    pairs = (slots & _PAIRS) + ((slots >> 6) & _PAIRS)
    return (pairs * _SUM >> 48) & 0xFFF


@kernel(
    "int64(float64[:,::1], int64[:,::1], int64[::1], float64[::1], float64[::1], int64, int64, int64[::1], "
    "float64[:,::1], int64[:,::1], int16[::1], int32[::1])"
)
def export(
    s: Any, i: Any, ctl: Any, prm: Any, geo: Any, event_ms: int, before: int, rows: Any, x: Any, y: Any, cls: Any,
    lane: Any,
) -> Any:  # fmt: skip
    """Write the tracks that leave for ``event_ms`` into the columns ``x`` (X_*), ``y`` (Y_*), ``cls`` and ``lane``.

    Return how many; ``rows`` holds theirs, on entry those of the last frame (``before``). The lanes are those of the
    last match; Y_LANE and the places along a lane are not set.
    """
    n = _order(i, ctl[c.CTL_TOP], before, event_ms, rows, y[Y_TRACK])
    for k in range(n):
        a, b = s[rows[k]], i[rows[k]]
        dt = (event_ms - b[c.I_T]) * 1e-3
        east, north, ve, vn = ahead(a, dt)
        speed = hypot(ve, vn)
        heading = atan2(a[c.S_HX], a[c.S_HY]) * 180.0 / pi % 360.0
        ee, en, nn = told_cov(a, dt, noise(a, b, prm))
        mean, half = 0.5 * (ee + nn), 0.5 * (ee - nn)
        sigma = sqrt(mean + sqrt(half * half + en * en))
        x[X_E, k], x[X_N, k], x[X_VE, k], x[X_VN, k] = east, north, ve, vn
        x[X_SPEED, k], x[X_HEAD, k], x[X_ACC, k], x[X_SIGMA, k] = speed, heading, a[c.S_ACC], sigma
        x[X_LEN, k], x[X_WID, k] = a[c.S_LEN], a[c.S_WID]
        phi = geo[0] + north / geo[2]
        d = sin(phi)
        normal = SEMI_MAJOR_M / sqrt(1.0 - ECC2 * d * d)
        y[Y_LAT, k] = round(phi * _RAD_E7)
        y[Y_LON, k] = round(geo[1] + east / (normal * cos(phi)) * _RAD_E7)
        y[Y_SPEED, k] = min(round(speed * 50.0), 8190)
        y[Y_HEAD, k] = round(heading * 80.0) % 28_800
        y[Y_ACC, k] = max(min(round(a[c.S_ACC] * 100.0), 2_000), -2_000)
        y[Y_SIGMA, k] = min(round(sigma * 100.0), 65_535)
        y[Y_LEN, k] = min(round(a[c.S_LEN] * 100.0), 4_095)
        y[Y_WID, k] = min(round(a[c.S_WID] * 100.0), 1_023)
        y[Y_CLS, k] = cls[k] = b[c.I_CLS]
        y[Y_HITS, k] = _hits(b, event_ms)
        y[Y_AGE, k] = max(event_ms - b[c.I_LAST], 0)
        y[Y_BORN, k], y[Y_LAST, k] = b[c.I_BORN], b[c.I_LAST]
        lane[k] = b[c.I_LANE] - 1
    return n


@kernel("void(int64[:,::1], int64[::1], int64, int32[::1])")
def keep_lanes(i: Any, rows: Any, n: int, lane: Any) -> None:
    """Note the lanes that were matched in the rows of the tracks."""
    for k in range(n):
        i[rows[k], c.I_LANE] = lane[k] + 1
