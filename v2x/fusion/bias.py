"""A sensor's bias, learnt while it runs: two offsets and a clock error, by a small Kalman filter per roadside unit.

What one sensor says of a track is compared with what the others have made of it; z = x + b - v·tau. The common mean of
all biases cannot be seen (a prior of zero mean holds it), and one-way traffic cannot tell a clock from an offset along
the road: the covariance says so, and goes into R.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.jit import helper

# Samples of one scan and of successive scans are correlated (about one second): each tells about a tenth of what
# independent ones would.
CAUTION: Final = 12.0
DRIFT_M2: Final = 4e-6  # m2 per second: 2 mm in a second, 12 cm in an hour
DRIFT_S2: Final = 1e-10


@helper
def drift(b: Any, t_ms: int) -> None:
    """Let the bias wander from its last scan to this one."""
    dt = min(max(t_ms * 1e-3 - b[c.B_T], 0.0), 10.0)
    if b[c.B_N] > 0.0:
        b[c.B_P] += DRIFT_M2 * dt
        b[c.B_P + 3] += DRIFT_M2 * dt
        b[c.B_P + 5] += DRIFT_S2 * dt
    b[c.B_T] = t_ms * 1e-3


@helper
def learn(b: Any, x: float, y: float, ve: float, vn: float, cov: tuple[float, float, float]) -> None:
    """Update with an innovation (x, y) of a track with velocity (ve, vn) and covariance ``cov`` (bias apart)."""
    p00, p01, p02, p11, p12, p22 = b[3], b[4], b[5], b[6], b[7], b[8]
    # P H', H = [1 0 -ve; 0 1 -vn]
    x0, y0 = p00 - ve * p02, p01 - vn * p02
    x1, y1 = p01 - ve * p12, p11 - vn * p12
    x2, y2 = p02 - ve * p22, p12 - vn * p22
    ee = x0 - ve * x2 + CAUTION * cov[0]
    en = y0 - ve * y2 + CAUTION * cov[1]
    nn = y1 - vn * y2 + CAUTION * cov[2]
    det = ee * nn - en * en
    ie, ix, iy = nn / det, -en / det, ee / det
    if x * x * ie + 2.0 * x * y * ix + y * y * iy > 9.0:
        return
    a0, b0 = x0 * ie + y0 * ix, x0 * ix + y0 * iy
    a1, b1 = x1 * ie + y1 * ix, x1 * ix + y1 * iy
    a2, b2 = x2 * ie + y2 * ix, x2 * ix + y2 * iy
    b[c.B_X] += a0 * x + b0 * y
    b[c.B_Y] += a1 * x + b1 * y
    b[c.B_TAU] += a2 * x + b2 * y
    b[3] = p00 - (a0 * x0 + b0 * y0)
    b[4] = p01 - (a0 * x1 + b0 * y1)
    b[5] = p02 - (a0 * x2 + b0 * y2)
    b[6] = p11 - (a1 * x1 + b1 * y1)
    b[7] = p12 - (a1 * x2 + b1 * y2)
    b[8] = p22 - (a2 * x2 + b2 * y2)
    b[c.B_N] += 1.0


def new_sensors(count: int, prm: c.F64) -> c.F64:
    """Return the table of ``count`` sensors, all at the prior (sensor 0, vehicles, has none)."""
    table = np.zeros((count, c.B_COLS))
    table[1:, c.B_P] = table[1:, c.B_P + 3] = prm[c.Q_BIAS] ** 2
    table[1:, c.B_P + 5] = prm[c.Q_BIAS_CLOCK] ** 2
    return table
