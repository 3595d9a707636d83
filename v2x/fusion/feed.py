"""One measurement into one track: position, velocity, class, size; late ones by retrodiction, correlated ones whitened.

With x the present state and F(dt) x the state dt seconds from it, a sensor's measurement of time t_k is
z = [I 0] F(t_k - t) x + noise, dt <= 0 (retrodiction: no history is needed). If the noise goes on from the sensor's
last measurement of this track by rho, z(k) - rho z(k-1) = [I 0] (F(t_k - t) - rho F(t_(k-1) - t)) x + white noise of
variance (1 - rho^2) sigma^2: again one update of the present state. With rho = 0 it is the plain one.
"""

from __future__ import annotations

from math import isnan, sqrt
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.bias import bias_cov
from v2x.fusion.colour import OFTEN, learn_apart, learn_noise, learn_speed, rho_over
from v2x.fusion.jit import helper
from v2x.fusion.kalman import ahead, predict, turning, update
from v2x.fusion.track import motion, size, source, vote
from v2x.fusion.turn import add_place, add_speed, predict_turn, update_turn, watch

AGO_MS: Final = 1_000  # noise is not followed further back
STRANGE: Final = 20.0  # a difference like this is none of noise that goes on: a wrong row was taken before
LEARN_HITS: Final = 10
APART_MS: Final = 60
FEW_APART: Final = 400.0  # comparisons below which all are taken
SHARE_WEIGHT: Final = 0.2
FOLD: Final = 0.4  # mean of noise that is cut off at zero, by its sigma


@helper
def _residual(s: Any, dt: float, z: tuple[float, float]) -> tuple[float, float]:
    """Return a measurement less the position dt seconds from the state."""
    east, north, _, _ = ahead(s, dt)
    return z[0] - east, z[1] - north


@helper
def _place(
    s: Any, i: Any, m: Any, b: Any, place: int, late: float, then: float, q: tuple[float, float, float], prm: Any
) -> None:
    """Update with a position ``late`` seconds old; ``then``: seconds before it of the sensor's last one (0 none)."""
    dt = -late
    told = m[c.M_SIGMA] * m[c.M_SIGMA] * b[c.B_VAR]
    z, old = (m[c.M_E], m[c.M_N]), (0.0, 0.0)
    ee, en, nn = bias_cov(b, s[c.S_VE], s[c.S_VN])
    clock = prm[c.Q_CLOCK] * prm[c.Q_CLOCK]
    ee, en, nn = (
        ee + clock * s[c.S_VE] * s[c.S_VE], en + clock * s[c.S_VE] * s[c.S_VN], nn + clock * s[c.S_VN] * s[c.S_VN],
    )  # fmt: skip
    rho = 0.0
    if then > 0.0:
        rho = rho_over(b, then)
        bend = 0.5 * s[c.S_ACC] * then * then  # of the way there: it was faster or slower then
        old = (s[c.S_Z + 2 * place] - bend * s[c.S_HX], s[c.S_Z + 2 * place + 1] - bend * s[c.S_HY])
        x0, y0 = _residual(s, dt, z)
        x1, y1 = _residual(s, dt - then, old)
        x0, y0 = x0 - rho * x1, y0 - rho * y1
        p, one = c.S_P, (1.0 - rho) * (1.0 - rho)
        if x0 * x0 + y0 * y0 > STRANGE * (told * (1.0 - rho * rho) + one * (s[p] + s[p + 4] + ee + nn)):
            rho = 0.0
            told *= b[c.B_AWAY]
    elif then < 0.0:
        told *= b[c.B_AWAY]
    w, one = told * (1.0 - rho * rho), 1.0 - rho
    spread = one * one * late * late * late / 3.0 + rho * rho * then * then * (late + then / 3.0)
    one *= one
    r = (w + one * ee + q[0] * spread, one * en + q[1] * spread, w + one * nn + q[2] * spread)
    silent = isnan(m[c.M_VE])
    if silent:  # nothing but its places tells how it moves
        x0, y0 = _residual(s, dt, z)
        if rho > 0.0:
            x1, y1 = _residual(s, dt - then, old)
            x0, y0 = x0 - rho * x1, y0 - rho * y1
        watch(s, i, (x0, y0), (one * s[c.S_P], one * s[c.S_P + 1], one * s[c.S_P + 4]), w, prm)
    if turning(s):
        h = np.zeros((2, 5))
        x, y = add_place(s, h, dt, 1.0)
        if rho > 0.0:
            x1, y1 = add_place(s, h, dt - then, -rho)
            x, y = x + x1, y + y1
        e = update_turn(s, h, (z[0] - rho * old[0] - x, z[1] - rho * old[1] - y), r)
    else:
        e = update(s, 1.0 - rho, dt - rho * (dt - then), (z[0] - rho * old[0], z[1] - rho * old[1]), r)
    if silent:
        _manoeuvre(s, e)


@helper
def _manoeuvre(s: Any, e: float) -> None:
    """Smooth what a squared innovation (2 on average) has beyond chance."""
    s[c.S_MOVE] += 0.15 * (min(max(e - 4.0, 0.0), 12.0) - s[c.S_MOVE])


@helper
def _speed(
    s: Any, i: Any, m: Any, b: Any, late: float, step: float, q: tuple[float, float, float], learn: bool, prm: Any
) -> None:
    """Update with a velocity ``late`` seconds old; ``step``: see learn_speed."""
    ve, vn, x, y = m[c.M_VE], m[c.M_VN], m[c.M_HX], m[c.M_HY]
    along = prm[c.Q_SPEED] * prm[c.Q_SPEED]
    v2 = ve * ve + vn * vn
    across = prm[c.Q_HEADING] * prm[c.Q_HEADING] * v2 + prm[c.Q_SLIP] * prm[c.Q_SLIP]
    la, lc = b[c.B_ALONG] * along, b[c.B_ACROSS] * across
    if v2 < 4.0 * la:  # no speed is told below zero: who stands would creep
        cut = FOLD * (sqrt(la) - 0.5 * sqrt(v2))
        ve, vn = ve - cut * x, vn - cut * y
    _, _, pe, pn = ahead(s, -late)
    watch(s, i, (ve - pe, vn - pn), (s[c.S_P + 7], s[c.S_P + 8], s[c.S_P + 9]), lc, prm)
    fa, fc = la * b[c.B_SPEED_AWAY], lc * b[c.B_SPEED_AWAY]
    r = (fa * x * x + fc * y * y + q[0] * late, (fa - fc) * x * y + q[1] * late, fa * y * y + fc * x * x + q[2] * late)
    if turning(s):
        h = np.zeros((2, 5))
        pe, pn = add_speed(s, h, -late)
        e = update_turn(s, h, (ve - pe, vn - pn), r)
    else:
        e = update(s, 0.0, 1.0, (ve, vn), r)
    _manoeuvre(s, e)
    if learn:
        p = c.S_P
        ue, un = ve - s[c.S_VE], vn - s[c.S_VN]
        ga, gc = ue * x + un * y, un * x - ue * y
        pa = x * x * s[p + 7] + 2.0 * x * y * s[p + 8] + y * y * s[p + 9]
        pc = y * y * s[p + 7] - 2.0 * x * y * s[p + 8] + x * x * s[p + 9]
        learn_speed(b, (ga * ga + pa) / along, (gc * gc + pc) / across, ga * ga / along, step / along)
    if i[c.I_HEADSET] == 0:
        s[c.S_HX], s[c.S_HY] = x, y
        i[c.I_HEADSET] = 1


@helper
def _told_speed(
    s: Any, i: Any, m: Any, k: Any, sensors: Any, sensor: int, place: int, then: float, learn: bool, prm: Any
) -> Any:
    """Compare a told speed with the last of the track's first source; return half its square if that is the same."""
    b = sensors[sensor]
    speed = m[c.M_VE] * m[c.M_HX] + m[c.M_VN] * m[c.M_HY]
    last = s[c.S_TOLD]
    away = speed - last
    if place == 0:
        if then >= 0.0:
            s[c.S_TOLD] = speed
        if not learn or last < 0.0 or abs(then - b[c.B_DT]) > 0.3 * b[c.B_DT]:
            return -1.0
        return 0.5 * away * away
    other = i[c.I_SRC] >> c.SRC_SHIFT
    few = b[c.B_SPEED_PAIRS] < FEW_APART
    if (learn or few) and last >= 0.0 and other != c.VEHICLES and abs(k[c.K_T] - (i[c.I_SRC] & c.SRC_TIME)) < APART_MS:
        learn_apart(b, sensors[other], 0.5 * away * away / (prm[c.Q_SPEED] * prm[c.Q_SPEED]))
    return -1.0


@helper
def feed(
    s: Any,
    i: Any,
    votes: Any,
    ctl: Any,
    m: Any,
    k: Any,
    sensors: Any,
    sensor: int,
    q: tuple[float, float, float],
    prm: Any,
) -> None:
    """Update a track with one measurement of a sensor, and learn what its noise is like."""
    b = sensors[sensor]
    t_ms = k[c.K_T]
    late = 0.0
    if t_ms < i[c.I_T]:
        late = (i[c.I_T] - t_ms) * 1e-3
    elif turning(s):
        predict_turn(s, i, t_ms, q, prm[c.Q_TURN])
    else:
        predict(s, i, t_ms, q)
    place, then = source(i, sensor), 0.0
    if place >= 0:
        ago = t_ms - (i[c.I_SRC + place] & c.SRC_TIME)
        if ago <= 0:
            then = -1.0  # overtaken by a later one
        elif ago <= AGO_MS:
            then = ago * 1e-3
    unseen = b[c.B_SHARE] + b[c.B_SLOW] * 0.5 * (s[c.S_P] + s[c.S_P + 4])
    s[c.S_SHARE] += SHARE_WEIGHT * (unseen - s[c.S_SHARE])
    s[c.S_SHARE_T] += SHARE_WEIGHT * (b[c.B_SHARE_T] - s[c.S_SHARE_T])
    _place(s, i, m, b, place, late, then, q, prm)
    learn = late == 0.0 and i[c.I_HITS] >= LEARN_HITS and i[c.I_STATUS] == c.CONFIRMED
    if b[c.B_HEARD] > OFTEN and (ctl[c.CTL_SERIAL] + i[c.I_UID]) & 3 != 0:
        learn = False
    if not isnan(m[c.M_VE]):
        step = _told_speed(s, i, m, k, sensors, sensor, place, then, learn, prm)
        _speed(s, i, m, b, late, step, q, learn, prm)
    if learn:
        new = (0.0, 0.0, 0.0)
        if then > 0.0:
            x, y = m[c.M_E] - s[c.S_Z + 2 * place], m[c.M_N] - s[c.S_Z + 2 * place + 1]
            new = (x - then * s[c.S_VE], y - then * s[c.S_VN], then)
        rest = (m[c.M_E] - s[c.S_E], m[c.M_N] - s[c.S_N])
        learn_noise(b, rest, 0.5 * (s[c.S_P] + s[c.S_P + 4]), new, m[c.M_SIGMA] * m[c.M_SIGMA])
    vote(i, votes, k[c.K_CLS], k[c.K_WEIGHT])
    size(s, m[c.M_LEN], m[c.M_WID])
    motion(s, i, m[c.M_ACC])
