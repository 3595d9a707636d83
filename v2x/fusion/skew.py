"""Whether a unit whose times lie far from the others' has a wrong clock or a slow link.

The log tells by how much the quickest messages of a unit differ from those of the others (v2x.fusion.clock). Ahead of
them it must be its clock, for nothing arrives before it is sent. Behind them it may be a link that is always slow, with
times that are right. Then other units tell: where a vehicle they see has moved on by the difference, one of the two
words puts it where they see it. So the unit's vehicles are looked for among their tracks both ways; the clock wins if
it explains more than half as many, since links that never are quick are rarer than clocks that nobody set.

What is found is the mean of the clock error's prior (B_MEAN_TAU): differences to other units do the rest
(v2x.fusion.bias). Tracks that the unit alone has fed are put where they belong.
"""

from __future__ import annotations

from math import floor, hypot
from typing import Any, Final

from v2x.fusion import layout as c
from v2x.fusion.grid import cell_bucket
from v2x.fusion.jit import helper
from v2x.fusion.kalman import ahead

SAME_S: Final = 0.04  # differences between two means that are none
ROWS: Final = 24  # of a scan that are looked at
LEAST_M: Final = 2.0  # a vehicle that moves less in the difference tells nothing
NEAR_M: Final = 3.0
NEAR_MPS: Final = 3.0
OTHERS_MS: Final = 500  # the other unit has seen it within this time
DECIDED: Final = 8.0
SURE: Final = 40.0


@helper
def _others(i: Any, sensors: Any, sensor: int, t_ms: int) -> Any:
    """Return whether another unit that is not in doubt itself, or the vehicle, has fed a track lately."""
    for x in range(c.I_SRCS):
        one = i[c.I_SRC + x]
        other = one >> c.SRC_SHIFT
        if other == sensor or one & c.SRC_TIME == 0 or sensors[other, c.B_SUSPECT] != 0.0:
            continue
        if abs(t_ms - (one & c.SRC_TIME)) < OTHERS_MS:
            return True
    return False


@helper
def _seen(s: Any, i: Any, heads: Any, sensors: Any, m: Any, sensor: int, t_ms: int, cell: float) -> Any:
    """Return whether another unit's track is where a measurement says at a time."""
    x, y, buckets = m[c.M_E], m[c.M_N], heads.shape[0]
    cx, cy = floor(x / cell), floor(y / cell)
    for gx in range(cx - 1, cx + 2):
        for gy in range(cy - 1, cy + 2):
            row = heads[cell_bucket(gx, gy, buckets)]
            while row >= 0:
                here = row
                row = i[row, c.I_NEXT]
                if i[here, c.I_STATUS] != c.CONFIRMED or not _others(i[here], sensors, sensor, t_ms):
                    continue
                east, north, ve, vn = ahead(s[here], (t_ms - i[here, c.I_T]) * 1e-3)
                if hypot(x - east, y - north) < NEAR_M and hypot(m[c.M_VE] - ve, m[c.M_VN] - vn) < NEAR_MPS:
                    return True
    return False


@helper
def doubt(
    s: Any, i: Any, heads: Any, sensors: Any, ctl: Any, prm: Any, m: Any, k: Any, n: int, sensor: int, skew_ms: int
) -> None:
    """Look at a scan of a unit whose times seem to be off by ``skew_ms``, or were; put its clock right if need be."""
    b = sensors[sensor]
    mean, skew = b[c.B_MEAN_TAU], skew_ms * 1e-3
    b[c.B_SUSPECT] = 1.0 if mean == 0.0 and skew < 0.0 and b[c.B_DOUBT] > -SURE else 0.0
    if mean == 0.0 and skew >= 0.0:
        b[c.B_DOUBT] = 0.0
        if skew == 0.0:
            return
        _adopt(i, sensors, ctl, k, n, sensor, skew)
        return
    other = skew if abs(skew - mean) > SAME_S else 0.0
    step = other - b[c.B_TAU]
    step_ms = round(step * 1e3)
    found = 0.0
    for j in range(min(n, ROWS)):
        if not hypot(m[j, c.M_VE], m[j, c.M_VN]) * abs(step) > LEAST_M:  # or it tells none
            continue
        now = _seen(s, i, heads, sensors, m[j], sensor, k[j, c.K_T], prm[c.Q_CELL])
        then = _seen(s, i, heads, sensors, m[j], sensor, k[j, c.K_T] - step_ms, prm[c.Q_CELL])
        found += (1.0 if other != 0.0 else 0.5) * then - (0.5 if other != 0.0 else 1.0) * now
    b[c.B_DOUBT] = max(b[c.B_DOUBT] + found, -SURE)
    if b[c.B_DOUBT] > DECIDED:
        _adopt(i, sensors, ctl, k, n, sensor, other)


@helper
def _adopt(i: Any, sensors: Any, ctl: Any, k: Any, n: int, sensor: int, mean: float) -> None:
    """Give a sensor's clock another mean: the scan at hand, its tracks and what is known of it follow."""
    b = sensors[sensor]
    step_ms = round(mean * 1e3) - round(b[c.B_TAU] * 1e3)
    b[c.B_MEAN_TAU] = b[c.B_TAU] = mean
    b[c.B_X] = b[c.B_Y] = 0.0
    b[c.B_DOUBT] = b[c.B_SUSPECT] = 0.0
    for j in range(n):
        k[j, c.K_T] -= step_ms
    for other in range(1, sensors.shape[0]):  # what was compared may have been other vehicles
        for x in range(c.B_PAIRS):
            at = c.B_PAIR + x * c.PAIR
            if other == sensor or sensors[other, at] == sensor:
                sensors[other, at : at + c.PAIR] = 0.0
    for row in range(ctl[c.CTL_TOP]):
        one = i[row]
        if one[c.I_STATUS] == c.FREE:
            continue
        mine, others = False, False
        for x in range(c.I_SRCS):
            if one[c.I_SRC + x] & c.SRC_TIME > 0:
                if one[c.I_SRC + x] >> c.SRC_SHIFT == sensor:
                    mine = True
                else:
                    others = True
        if not mine:
            continue
        for x in range(c.I_SRCS):
            if one[c.I_SRC + x] >> c.SRC_SHIFT == sensor and one[c.I_SRC + x] & c.SRC_TIME > 0:
                one[c.I_SRC + x] = 0 if others else one[c.I_SRC + x] - step_ms
        if not others:
            one[c.I_T] -= step_ms
            one[c.I_LAST] -= step_ms
            one[c.I_TREF] -= step_ms
