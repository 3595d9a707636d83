"""The filter's arithmetic on one row of ``S``: constant velocity, white acceleration noise along and across.

A measurement is z = [a·I, b·I]·x + noise: position at the state's time (1, 0), velocity (0, 1), position at an earlier
time (1, dt) with dt < 0. The last is *retrodiction*: a late scan updates the present state without any history, with
R + Q(|dt|); it costs the same as any update (Bar-Shalom, one-step-lag update in its simplest form).
"""

from __future__ import annotations

from math import hypot
from typing import Any

from v2x.fusion import layout as c
from v2x.fusion.jit import helper


@helper
def noise(s: Any, i: Any, prm: Any) -> tuple[float, float, float]:
    """Return the acceleration noise (ee, en, nn), m2/s3."""
    cls = i[c.I_CLS]
    if cls == c.PEDESTRIAN or cls == c.CYCLIST:  # noqa: PLR1714 - numba would build a set
        q = prm[c.Q_PED] * (1.0 if cls == c.PEDESTRIAN else 2.0)
        return q, 0.0, q
    boost = 1.0 + s[c.S_MOVE]
    along, across = prm[c.Q_ALONG] * boost, prm[c.Q_ACROSS] * boost
    x, y = s[c.S_HX], s[c.S_HY]
    if x == 0.0 and y == 0.0:
        return along, 0.0, along
    return along * x * x + across * y * y, (along - across) * x * y, along * y * y + across * x * x


@helper
def position_cov(s: Any, dt: float, q: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the covariance (ee, en, nn) of the position dt seconds from the state, either way."""
    p = c.S_P
    third = abs(dt) * dt * dt / 3.0
    ee = s[p] + 2.0 * dt * s[p + 2] + dt * dt * s[p + 7] + q[0] * third
    en = s[p + 1] + dt * (s[p + 3] + s[p + 5]) + dt * dt * s[p + 8] + q[1] * third
    nn = s[p + 4] + 2.0 * dt * s[p + 6] + dt * dt * s[p + 9] + q[2] * third
    return ee, en, nn


@helper
def distance2(
    s: Any, dt: float, q: tuple[float, float, float], z: tuple[float, float], r: tuple[float, float, float]
) -> Any:
    """Return the squared Mahalanobis distance of a position measured dt seconds from the state."""
    ee, en, nn = position_cov(s, dt, q)
    ee, en, nn = ee + r[0], en + r[1], nn + r[2]
    x, y = z[0] - s[c.S_E] - dt * s[c.S_VE], z[1] - s[c.S_N] - dt * s[c.S_VN]
    det = ee * nn - en * en
    return (x * x * nn - 2.0 * x * y * en + y * y * ee) / det


@helper
def predict(s: Any, i: Any, t_ms: int, q: tuple[float, float, float]) -> None:
    """Move the state to a later time."""
    dt = (t_ms - i[c.I_T]) * 1e-3
    i[c.I_T] = t_ms
    s[c.S_E] += dt * s[c.S_VE]
    s[c.S_N] += dt * s[c.S_VN]
    p = c.S_P
    ee, en, nn = position_cov(s, dt, q)
    half = dt * dt / 2.0
    s[p] = ee
    s[p + 1] = en
    s[p + 4] = nn
    s[p + 2] += dt * s[p + 7] + q[0] * half
    s[p + 3] += dt * s[p + 8] + q[1] * half
    s[p + 5] += dt * s[p + 8] + q[1] * half
    s[p + 6] += dt * s[p + 9] + q[2] * half
    s[p + 7] += q[0] * dt
    s[p + 8] += q[1] * dt
    s[p + 9] += q[2] * dt


@helper
def update(s: Any, a: float, b: float, z: tuple[float, float], r: tuple[float, float, float]) -> Any:
    """Update with z = [a·I, b·I]·x; return the squared normalised innovation."""
    p = c.S_P
    # PH' : four rows, two columns
    e0 = a * s[p] + b * s[p + 2]
    n0 = a * s[p + 1] + b * s[p + 3]
    e1 = a * s[p + 1] + b * s[p + 5]
    n1 = a * s[p + 4] + b * s[p + 6]
    e2 = a * s[p + 2] + b * s[p + 7]
    n2 = a * s[p + 5] + b * s[p + 8]
    e3 = a * s[p + 3] + b * s[p + 8]
    n3 = a * s[p + 6] + b * s[p + 9]
    ee = a * e0 + b * e2 + r[0]
    en = a * n0 + b * n2 + r[1]
    nn = a * n1 + b * n3 + r[2]
    det = ee * nn - en * en
    x = z[0] - a * s[c.S_E] - b * s[c.S_VE]
    y = z[1] - a * s[c.S_N] - b * s[c.S_VN]
    ie, ix, iy = nn / det, -en / det, ee / det
    # gain rows
    a0, b0 = e0 * ie + n0 * ix, e0 * ix + n0 * iy
    a1, b1 = e1 * ie + n1 * ix, e1 * ix + n1 * iy
    a2, b2 = e2 * ie + n2 * ix, e2 * ix + n2 * iy
    a3, b3 = e3 * ie + n3 * ix, e3 * ix + n3 * iy
    s[c.S_E] += a0 * x + b0 * y
    s[c.S_N] += a1 * x + b1 * y
    s[c.S_VE] += a2 * x + b2 * y
    s[c.S_VN] += a3 * x + b3 * y
    s[p] -= a0 * e0 + b0 * n0
    s[p + 1] -= a0 * e1 + b0 * n1
    s[p + 2] -= a0 * e2 + b0 * n2
    s[p + 3] -= a0 * e3 + b0 * n3
    s[p + 4] -= a1 * e1 + b1 * n1
    s[p + 5] -= a1 * e2 + b1 * n2
    s[p + 6] -= a1 * e3 + b1 * n3
    s[p + 7] -= a2 * e2 + b2 * n2
    s[p + 8] -= a2 * e3 + b2 * n3
    s[p + 9] -= a3 * e3 + b3 * n3
    return x * x * ie + 2.0 * x * y * ix + y * y * iy


@helper
def speed_of(s: Any) -> Any:
    """Return the speed, m/s."""
    return hypot(s[c.S_VE], s[c.S_VN])
