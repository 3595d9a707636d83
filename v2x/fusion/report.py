"""What a zone reports for one event time: its own tracks in order of id, predicted, in metres and in schema units.

One pass over the rows writes both forms into columns that are kept from frame to frame. The order is kept too: tracks
come and go seldom, so sorting is inserting the few new ones.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.angles import bearing, turn
from v2x.fusion.jit import helper
from v2x.fusion.kalman import ahead, noise, told_cov
from v2x.geo import ECC2, SEMI_MAJOR_M

# Rows of the reals.
X_E, X_N, X_VE, X_VN, X_SPEED, X_HEAD, X_ACC, X_LEN, X_WID, X_SIGMA, X_ALONG, X_LATERAL = range(12)
X_EE, X_EN, X_NN = range(12, 15)  # covariance of the position, m2
X_ROWS: Final = 15
# Rows of the integers: a frame's columns in the schema's order and units (v2x.fusion.frames), then two for the view.
Y_TRACK, Y_CLS, Y_LAT, Y_LON, Y_SPEED, Y_HEAD, Y_ACC, Y_SIGMA, Y_LEN, Y_WID, Y_LANE, Y_HITS, Y_AGE = range(13)
Y_BORN, Y_LAST = 13, 14
Y_ROWS: Final = 15
HEADINGS: Final = 28_800  # units of 0.0125 degrees
FRESH_MS: Final = 600  # a track beyond the border that is older may be anywhere
NEVER_MS: Final = 1 << 30
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
def _beyond(i: Any, top: int, n: int, event_ms: int, rows: Any, gids: Any) -> Any:
    """Append the rows that we see but do not tell, by age; return how many there are in all."""
    m = n
    for row in range(top):
        if i[row, c.I_STATUS] != c.CONFIRMED or event_ms - i[row, c.I_LAST] > FRESH_MS or _leaves(i[row], event_ms):
            continue
        at = m
        while at > n and gids[at - 1] > c.BEYOND + i[row, c.I_UID]:
            gids[at], rows[at] = gids[at - 1], rows[at - 1]
            at -= 1
        gids[at], rows[at] = c.BEYOND + i[row, c.I_UID], row
        m += 1
    return m


@helper
def _hits(i: Any, event_ms: int) -> Any:
    """Return the measurements of the last second: the counters that are young enough, added up two by two."""
    young = 10 - max(event_ms // 100 - i[c.I_SLOT], 0)
    if young <= 0:
        return 0
    slots = i[c.I_SLOTS] & ((1 << 6 * young) - 1)
    pairs = (slots & _PAIRS) + ((slots >> 6) & _PAIRS)
    return (pairs * _SUM >> 48) & 0xFFF


@helper
def _motion(x: Any, y: Any, first: int, last: int) -> None:
    """Derive speed and heading; X_ALONG and X_LATERAL hold the heading's unit vector."""
    ve, vn, speed, told = x[X_VE], x[X_VN], x[X_SPEED], y[Y_SPEED]
    for k in range(first, last):
        speed[k] = sqrt(ve[k] * ve[k] + vn[k] * vn[k])
    for k in range(first, last):
        told[k] = min(round(speed[k] * 50.0), 8190)
    hx, hy, heading, told = x[X_ALONG], x[X_LATERAL], x[X_HEAD], y[Y_HEAD]
    for k in range(first, last):
        angle = bearing(hx[k], hy[k]) * (180.0 / pi)
        heading[k] = angle if angle < 360.0 else 0.0
    for k in range(first, last):
        units = round(heading[k] * 80.0)
        told[k] = units if units < HEADINGS else 0


@helper
def _place(x: Any, y: Any, geo: Any, first: int, last: int) -> None:
    """Derive latitude and longitude."""
    east, north, lat, lon = x[X_E], x[X_N], y[Y_LAT], y[Y_LON]
    for k in range(first, last):
        d = north[k] / geo[c.G_MERIDIAN]
        sine, cosine = turn(geo[c.G_SIN], geo[c.G_COS], d)
        lat[k] = round((geo[c.G_LAT] + d) * _RAD_E7)
        lon[k] = round(geo[c.G_LON] + east[k] * sqrt(1.0 - ECC2 * sine * sine) / (SEMI_MAJOR_M * cosine) * _RAD_E7)


@helper
def export(
    s: Any, i: Any, top: int, prm: Any, geo: Any, event_ms: int, beyond: bool, before: int, rows: Any, x: Any, y: Any,
    cls: Any, lane: Any, first: int,
) -> Any:  # fmt: skip
    """Write the tracks that leave for ``event_ms`` into the columns ``x`` (X_*), ``y`` (Y_*), ``cls`` and ``lane``.

    Behind them, if ``beyond``, those that a neighbour tells: they count as long unseen, so that no rule looks at them,
    but they lead and queue. Return how many leave, and how many there are in all; they stand from column ``first`` on.
    ``rows`` holds theirs, on entry those of the last frame (``before``). The lanes are those of the last match; Y_LANE
    and the places along a lane are not set.
    """
    n = _order(i, top, before, event_ms, rows, y[Y_TRACK][first:])
    m = _beyond(i, top, n, event_ms, rows, y[Y_TRACK][first:]) if beyond else n
    for at in range(m):
        k = first + at
        a, b = s[rows[at]], i[rows[at]]
        dt = (event_ms - b[c.I_T]) * 1e-3
        east, north, ve, vn = ahead(a, dt)
        ee, en, nn = told_cov(a, dt, noise(a, b, prm))
        mean, half = 0.5 * (ee + nn), 0.5 * (ee - nn)
        sigma = sqrt(mean + sqrt(half * half + en * en))
        x[X_E, k], x[X_N, k], x[X_VE, k], x[X_VN, k] = east, north, ve, vn
        x[X_ALONG, k], x[X_LATERAL, k] = a[c.S_HX], a[c.S_HY]
        x[X_ACC, k], x[X_SIGMA, k] = a[c.S_ACC], sigma
        x[X_LEN, k], x[X_WID, k] = a[c.S_LEN], a[c.S_WID]
        x[X_EE, k], x[X_EN, k], x[X_NN, k] = ee, en, nn
        y[Y_ACC, k] = max(min(round(a[c.S_ACC] * 100.0), 2_000), -2_000)
        y[Y_SIGMA, k] = min(round(sigma * 100.0), 65_535)
        y[Y_LEN, k] = min(round(a[c.S_LEN] * 100.0), 4_095)
        y[Y_WID, k] = min(round(a[c.S_WID] * 100.0), 1_023)
        y[Y_CLS, k] = cls[k] = b[c.I_CLS]
        y[Y_HITS, k] = _hits(b, event_ms)
        y[Y_AGE, k] = max(event_ms - b[c.I_LAST], 0)
        y[Y_BORN, k], y[Y_LAST, k] = b[c.I_BORN], b[c.I_LAST]
        lane[k] = b[c.I_LANE] - 1
        if at >= n:
            y[Y_AGE, k] = NEVER_MS
    _motion(x, y, first, first + m)
    _place(x, y, geo, first, first + m)
    return n, m


@helper
def keep_lanes(i: Any, rows: Any, n: int, lane: Any) -> None:
    """Note the lanes that were matched in the rows of the tracks."""
    for k in range(n):
        i[rows[k], c.I_LANE] = lane[k] + 1
