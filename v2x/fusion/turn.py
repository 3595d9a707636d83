"""Coordinated turn, for tracks that turn: the state with the rate of turning as a fifth number.

Most tracks never turn, and constant velocity with little noise across the way is the better model for them; so the
fifth number is there only while it is asked for. It is asked for when told velocities lie to one side of the track's,
scan after scan (S_SWING), and dropped when the rate is no longer told from none. Velocity turns with the rate, position
follows the arc, and the covariance takes the arc's derivatives (Y. Bar-Shalom, X. R. Li, T. Kirubarajan, "Estimation
with Applications to Tracking and Navigation", 2001, section 11.7).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.jit import helper
from v2x.fusion.kalman import arc, turning

SLOWEST_MPS: Final = 1.5  # below it headings tell nothing
SMOOTH: Final = 0.2
FIRST_RATE_VAR: Final = 0.09  # (rad/s)2
NO_RATE: Final = 0.06  # rad/s: a lane change at speed, a bend of 300 m at 18 m/s
MOST_RATE: Final = 1.6
_TRIANGLE: Final = np.array([(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)])


@helper
def _matrix(s: Any) -> Any:
    """Return the covariance (5, 5)."""
    p = np.empty((5, 5))
    for k in range(10):
        p[_TRIANGLE[k, 0], _TRIANGLE[k, 1]] = p[_TRIANGLE[k, 1], _TRIANGLE[k, 0]] = s[c.S_P + k]
    for k in range(5):
        p[k, 4] = p[4, k] = s[c.S_W + k]
    return p


@helper
def _store(s: Any, p: Any) -> None:
    for k in range(10):
        s[c.S_P + k] = 0.5 * (p[_TRIANGLE[k, 0], _TRIANGLE[k, 1]] + p[_TRIANGLE[k, 1], _TRIANGLE[k, 0]])
    for k in range(5):
        s[c.S_W + k] = 0.5 * (p[k, 4] + p[4, k])


@helper
def predict_turn(s: Any, i: Any, t_ms: int, q: tuple[float, float, float], rate_noise: float) -> None:
    """Move the state of a turning track to a later time; ``rate_noise`` in rad2/s3."""
    dt = (t_ms - i[c.I_T]) * 1e-3
    i[c.I_T] = t_ms
    a, b, co, si = arc(s[c.S_OMEGA], dt)
    ve, vn = s[c.S_VE], s[c.S_VN]
    s[c.S_E] += a * ve - b * vn
    s[c.S_N] += b * ve + a * vn
    s[c.S_VE], s[c.S_VN] = co * ve - si * vn, si * ve + co * vn
    half = 0.5 * dt * dt
    p = _matrix(s)
    f = np.empty((5, 5))  # F P, then F P F'
    for k in range(5):
        f[0, k] = p[0, k] + a * p[2, k] - b * p[3, k] - half * vn * p[4, k]
        f[1, k] = p[1, k] + b * p[2, k] + a * p[3, k] + half * ve * p[4, k]
        f[2, k] = co * p[2, k] - si * p[3, k] - dt * s[c.S_VN] * p[4, k]
        f[3, k] = si * p[2, k] + co * p[3, k] + dt * s[c.S_VE] * p[4, k]
        f[4, k] = p[4, k]
    for k in range(5):
        p[k, 0] = f[k, 0] + a * f[k, 2] - b * f[k, 3] - half * vn * f[k, 4]
        p[k, 1] = f[k, 1] + b * f[k, 2] + a * f[k, 3] + half * ve * f[k, 4]
        p[k, 2] = co * f[k, 2] - si * f[k, 3] - dt * s[c.S_VN] * f[k, 4]
        p[k, 3] = si * f[k, 2] + co * f[k, 3] + dt * s[c.S_VE] * f[k, 4]
        p[k, 4] = f[k, 4]
    third = dt * half * 2.0 / 3.0
    for x in range(2):
        for y in range(2):
            n = q[x + y]
            p[x, y] += n * third
            p[x, y + 2] += n * half
            p[x + 2, y] += n * half
            p[x + 2, y + 2] += n * dt
    p[4, 4] += rate_noise * dt
    _store(s, p)


@helper
def update_turn(s: Any, h: Any, z: tuple[float, float], r: tuple[float, float, float]) -> Any:
    """Update with z = h(x), ``h`` (2, 5) its derivatives, z less the prediction; return the squared innovation."""
    p = _matrix(s)
    g = np.empty((5, 2))  # P H', then the gain
    for k in range(5):
        for y in range(2):
            g[k, y] = 0.0
            for x in range(5):
                g[k, y] += p[k, x] * h[y, x]
    ee, en, nn = r
    for x in range(5):
        ee += h[0, x] * g[x, 0]
        en += h[0, x] * g[x, 1]
        nn += h[1, x] * g[x, 1]
    det = ee * nn - en * en
    ie, ix, iy = nn / det, -en / det, ee / det
    for k in range(5):
        a, b = g[k, 0] * ie + g[k, 1] * ix, g[k, 0] * ix + g[k, 1] * iy
        step = a * z[0] + b * z[1]
        if k < 4:
            s[k] += step
        else:
            s[c.S_OMEGA] = min(max(s[c.S_OMEGA] + step, -MOST_RATE), MOST_RATE)
        for x in range(k, 5):
            p[k, x] -= a * g[x, 0] + b * g[x, 1]
            p[x, k] = p[k, x]
    _store(s, p)
    return z[0] * z[0] * ie + 2.0 * z[0] * z[1] * ix + z[1] * z[1] * iy


@helper
def add_place(s: Any, h: Any, dt: float, weight: float) -> tuple[float, float]:
    """Add the derivatives of ``weight`` times the position dt seconds from the state; return that."""
    a, b, _, _ = arc(s[c.S_OMEGA], dt)
    ve, vn = s[c.S_VE], s[c.S_VN]
    half = 0.5 * dt * dt
    h[0, 0] += weight
    h[1, 1] += weight
    h[0, 2] += weight * a
    h[0, 3] -= weight * b
    h[1, 2] += weight * b
    h[1, 3] += weight * a
    h[0, 4] -= weight * half * vn
    h[1, 4] += weight * half * ve
    return weight * (s[c.S_E] + a * ve - b * vn), weight * (s[c.S_N] + b * ve + a * vn)


@helper
def add_speed(s: Any, h: Any, dt: float) -> tuple[float, float]:
    """Add the derivatives of the velocity dt seconds from the state; return that."""
    _, _, co, si = arc(s[c.S_OMEGA], dt)
    ve, vn = co * s[c.S_VE] - si * s[c.S_VN], si * s[c.S_VE] + co * s[c.S_VN]
    h[0, 2], h[0, 3], h[1, 2], h[1, 3] = co, -si, si, co
    h[0, 4], h[1, 4] = -dt * vn, dt * ve
    return ve, vn


@helper
def watch(s: Any, i: Any, rest: tuple[float, float], own: tuple[float, float, float], told: float, prm: Any) -> None:
    """Begin or end a turn, by what is told less what was expected (a velocity, or a position where none is told).

    ``own`` is the state's covariance (ee, en, nn) of the same, ``told`` the variance across of what is told.
    """
    ve, vn = s[c.S_VE], s[c.S_VN]
    v2 = ve * ve + vn * vn
    if v2 < SLOWEST_MPS * SLOWEST_MPS or i[c.I_CLS] == c.PEDESTRIAN:
        s[c.S_SWING] = 0.0
        if turning(s):
            stop(s)
        return
    across = ve * rest[1] - vn * rest[0]  # times v, as its variance times v2
    spread = vn * vn * own[0] - 2.0 * ve * vn * own[1] + ve * ve * own[2] + v2 * told
    swing = min(max(across / sqrt(spread), -4.0), 4.0)
    s[c.S_SWING] += SMOOTH * (swing - s[c.S_SWING])
    if turning(s):
        rate = abs(s[c.S_OMEGA])
        if rate < NO_RATE and rate * rate < s[c.S_W + 4] and abs(s[c.S_SWING]) < 0.5 * prm[c.Q_SWING]:
            stop(s)
    elif abs(s[c.S_SWING]) > prm[c.Q_SWING]:
        s[c.S_OMEGA] = 0.0
        for k in range(4):
            s[c.S_W + k] = 0.0
        s[c.S_W + 4] = FIRST_RATE_VAR


@helper
def stop(s: Any) -> None:
    """End a turn."""
    s[c.S_OMEGA] = 0.0
    for k in range(5):
        s[c.S_W + k] = 0.0
