"""The filter's arithmetic on one row of ``S``: constant velocity, white acceleration noise along and across.

A measurement is z = [a·I, b·I]·x + noise: position at the state's time (1, 0), velocity (0, 1), position at an earlier
time (1, dt) with dt < 0. The last is *retrodiction*: a late scan updates the present state without any history, with
R + Q(|dt|); it costs the same as any update (Bar-Shalom, one-step-lag update in its simplest form).
"""

from __future__ import annotations

from math import cos, sin
from typing import Any

from v2x.fusion import layout as c
from v2x.fusion.jit import helper


@helper
def noise(s: Any, i: Any, prm: Any) -> tuple[float, float, float]:
    """Return the acceleration noise (ee, en, nn), m2/s3."""
    cls = i[c.I_CLS]
    boost = 1.0 + prm[c.Q_MOVE] * s[c.S_MOVE]
    along = prm[c.Q_ALONG] * boost * c.CLASS_Q[cls, 0]
    across = prm[c.Q_ACROSS] * boost * c.CLASS_Q[cls, 1]
    x, y = s[c.S_HX], s[c.S_HY]
    if cls == c.PEDESTRIAN or (x == 0.0 and y == 0.0):  # who walks turns on the spot
        q = max(along, across)
        return q, 0.0, q
    return along * x * x + across * y * y, (along - across) * x * y, along * y * y + across * x * x


@helper
def turning(s: Any) -> Any:
    """Return whether a track is in a turn: its row then holds the rate with its covariances (v2x.fusion.turn)."""
    return s[c.S_W + 4] > 0.0


@helper
def ahead(s: Any, dt: float) -> tuple[float, float, float, float]:
    """Return position and velocity (east, north) dt seconds from the state, either way."""
    ve, vn = s[c.S_VE], s[c.S_VN]
    if not turning(s):
        return s[c.S_E] + dt * ve, s[c.S_N] + dt * vn, ve, vn
    a, b, co, si = arc(s[c.S_OMEGA], dt)
    return s[c.S_E] + a * ve - b * vn, s[c.S_N] + b * ve + a * vn, co * ve - si * vn, si * ve + co * vn


@helper
def arc(omega: float, dt: float) -> tuple[float, float, float, float]:
    """Return sin(w dt)/w, (1 - cos(w dt))/w, cos(w dt) and sin(w dt)."""
    angle = omega * dt
    if abs(angle) < 1e-4:
        return dt, 0.5 * angle * dt, 1.0, angle
    co, si = cos(angle), sin(angle)
    return si / omega, (1.0 - co) / omega, co, si


@helper
def told_cov(s: Any, dt: float, q: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return the covariance of a position as it is told: with the bias and the clock error that its sensors share."""
    ee, en, nn = position_cov(s, dt, q)
    ve, vn, clock = s[c.S_VE], s[c.S_VN], s[c.S_SHARE_T]
    return ee + s[c.S_SHARE] + clock * ve * ve, en + clock * ve * vn, nn + s[c.S_SHARE] + clock * vn * vn


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
    east, north, _, _ = ahead(s, dt)
    x, y = z[0] - east, z[1] - north
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
