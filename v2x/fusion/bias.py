"""A sensor's bias, learnt while it runs: two offsets and a clock error of each roadside unit.

Where two units see one track within moments, the difference of what they say is that of their biases, whatever the
track really did: z1 - z2 - v (t1 - t2) = H (b1 - b2) + noise, H b = (x - v_e tau, y - v_n tau). Each pair gathers this
as information; a unit's own bias is what its pairs and a prior of zero mean make of it, the others' biases given
(successive over-relaxation on the units' common normal equations, one unit a scan). The common mean of all biases
cannot be seen, and one-way traffic cannot tell a clock from an offset along the road: what is left is told (S_SHARE).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.colour import FAR_SCANS, FIRST, learn_far
from v2x.fusion.jit import helper

TOGETHER_MS: Final = 120  # as far apart may two units' measurements be
MUCH: Final = 10_000.0  # 1/m2: a pair's information is halved beyond; old comparisons fade
OFTEN: Final = 1_500.0  # from so many comparisons on, those of every eighth track are enough
STEADY: Final = 200.0  # scans after which every fourth settles it
KNOWN: Final = 200.0  # comparisons after which a unit counts as known
OVER_RELAX: Final = 1.5
BURST_BITS: Final = 11  # of ms: once enough is known of slow noise, a track is followed for 2 s in 32
ENOUGH_FAR: Final = 300.0
AWAY_MS: Final = 1_500.0
_OUTLIER: Final = 20.0
_FAR_OUTLIER: Final = 6.0
_LEAST_COUNT: Final = 1.0


@helper
def _pair(b: Any, other: int) -> Any:
    """Return where a sensor's block for another begins; the one that knows least makes room."""
    least, where = 1e18, c.B_PAIR
    for k in range(c.B_PAIRS):
        at = c.B_PAIR + k * c.PAIR
        if b[at] == other:
            return at
        if b[at + c.PAIR_N] < least:
            least, where = b[at + c.PAIR_N], at
    b[where : where + c.PAIR] = 0.0
    b[where] = other
    return where


@helper
def _gather(b: Any, at: int, weight: float, x: float, y: float, ve: float, vn: float) -> None:
    """Add a comparison to a pair's block."""
    n, r = at + c.PAIR_I, at + c.PAIR_Y
    b[at + c.PAIR_N] += 1.0
    b[n] += weight
    b[n + 2] -= weight * ve
    b[n + 3] += weight
    b[n + 4] -= weight * vn
    b[n + 5] += weight * (ve * ve + vn * vn)
    b[r] += weight * x
    b[r + 1] += weight * y
    b[r + 2] -= weight * (x * ve + y * vn)
    if b[n] > MUCH:
        for k in range(n, r + 3):
            b[k] *= 0.5


@helper
def _follow(a: Any, b: Any, other: int, uid: int, t_ms: int, x: float, y: float, var: float) -> None:
    """Learn from two sensors' difference about a track, if it is one of the few that are followed for it.

    ``x``, ``y``: the difference, m; ``var``: of both sensors' noise together, m2.
    """
    at = c.B_PROBE + (uid & (c.PROBES - 1)) * c.PROBE
    ago, scan = t_ms - a[at + 2], 1e3 * a[c.B_DT]
    if a[at] == uid and a[at + 1] == other:
        if ago < (FAR_SCANS - 0.5) * scan:
            return
        if ago < (FAR_SCANS + 0.5) * scan:
            u, v = a[at + 3], a[at + 4]
            near, far = 0.5 * (x * x + y * y + u * u + v * v) / var, (x * u + y * v) / var
            learn_far(a, near, far)
            learn_far(b, near, far)
    elif 0.0 <= ago < AWAY_MS:
        return  # the place is another's
    a[at], a[at + 1], a[at + 2], a[at + 3], a[at + 4] = uid, other, t_ms, x, y


@helper
def compare(sensors: Any, ctl: Any, s: Any, i: Any, sensor: int, t_ms: int, z: tuple[float, float], prm: Any) -> None:
    """Compare a measurement with what others said of the track just now."""
    a = sensors[sensor]
    gathered = a[c.B_N] <= OFTEN or (ctl[c.CTL_SERIAL] + i[c.I_UID]) & 7 == 0
    followed = a[c.B_N] > KNOWN and (a[c.B_FARS] < ENOUGH_FAR or ((t_ms >> BURST_BITS) + i[c.I_UID]) & 15 == 0)
    if a[c.B_SUSPECT] != 0.0 or not (gathered or followed):
        return
    ve, vn = s[c.S_VE], s[c.S_VN]
    for k in range(c.I_SRCS):
        other, then = i[c.I_SRC + k] >> c.SRC_SHIFT, i[c.I_SRC + k] & c.SRC_TIME
        if then == 0 or other == c.VEHICLES or abs(t_ms - then) > TOGETHER_MS or other == sensor:
            continue
        b = sensors[other]
        if b[c.B_SUSPECT] != 0.0:
            continue
        at = _pair(a, other)
        dt = (t_ms - then) * 1e-3
        x = z[0] - s[c.S_Z + 2 * k] - dt * ve
        y = z[1] - s[c.S_Z + 2 * k + 1] - dt * vn
        var = (a[c.B_VAR] + b[c.B_VAR]) * prm[c.Q_SIGMA] * prm[c.Q_SIGMA]
        spread = 2.0 * var + a[c.B_P] + a[c.B_P + 3] + b[c.B_P] + b[c.B_P + 3]
        spread += (a[c.B_P + 5] + b[c.B_P + 5]) * (ve * ve + vn * vn)
        if x * x + y * y > _OUTLIER * spread:
            continue
        weight = 1.0 / (var * max(a[c.B_AWAY], b[c.B_AWAY]))
        if followed and b[c.B_N] > KNOWN and x * x + y * y < _FAR_OUTLIER * spread:
            _follow(a, b, other, i[c.I_UID], t_ms, x, y, var)
        if not gathered:
            continue
        # the biases that were taken out already
        tau = a[c.B_TAU] - b[c.B_TAU]
        x += a[c.B_X] - b[c.B_X] - ve * tau
        y += a[c.B_Y] - b[c.B_Y] - vn * tau
        _gather(a, at, weight, x, y, ve, vn)
        _gather(b, _pair(b, sensor), weight, -x, -y, ve, vn)
        _count(a, ctl)
        _count(b, ctl)


@helper
def _count(b: Any, ctl: Any) -> None:
    b[c.B_N] += 1.0
    if b[c.B_N] == KNOWN:
        ctl[c.CTL_KNOWN] += 1


@helper
def settle(sensors: Any, ctl: Any, sensor: int, prm: Any) -> None:
    """Let a sensor's bias be what its pairs say, given the others', and note what cannot be known of it."""
    b = sensors[sensor]
    b[c.B_SCANS] += 1.0
    if b[c.B_SCANS] > STEADY and int(b[c.B_SCANS]) & 3 != 0:
        return
    offset, clock = 1.0 / (prm[c.Q_BIAS] * prm[c.Q_BIAS]), 1.0 / (prm[c.Q_BIAS_CLOCK] * prm[c.Q_BIAS_CLOCK])
    a00, a01, a02, a11, a12, a22 = offset, 0.0, 0.0, offset, 0.0, clock
    x = y = 0.0
    if b[c.B_MEAN_TAU] != 0.0:
        a22 = clock = 0.5 * clock
    t = clock * b[c.B_MEAN_TAU]
    for k in range(c.B_PAIRS):
        at = c.B_PAIR + k * c.PAIR
        if b[at + c.PAIR_N] < _LEAST_COUNT:
            continue
        other, n = sensors[int(b[at])], at + c.PAIR_I
        ox, oy, ot = other[c.B_X], other[c.B_Y], other[c.B_TAU]
        a00 += b[n]
        a01 += b[n + 1]
        a02 += b[n + 2]
        a11 += b[n + 3]
        a12 += b[n + 4]
        a22 += b[n + 5]
        x += b[n + 6] + b[n] * ox + b[n + 1] * oy + b[n + 2] * ot
        y += b[n + 7] + b[n + 1] * ox + b[n + 3] * oy + b[n + 4] * ot
        t += b[n + 8] + b[n + 2] * ox + b[n + 4] * oy + b[n + 5] * ot
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    det = 1.0 / (a00 * c00 + a01 * c01 + a02 * c02)
    p = c.B_P
    b[p], b[p + 1], b[p + 2], b[p + 3], b[p + 4], b[p + 5] = (
        c00 * det, c01 * det, c02 * det, c11 * det, c12 * det, c22 * det,
    )  # fmt: skip
    known = max(ctl[c.CTL_KNOWN], 1)
    b[c.B_SHARE] = max(0.5 * (b[p] + b[p + 3]), 1.0 / (offset * known))
    b[c.B_SHARE_T] = max(b[p + 5], 1.0 / (clock * known))
    b[c.B_X] += OVER_RELAX * (b[p] * x + b[p + 1] * y + b[p + 2] * t - b[c.B_X])
    b[c.B_Y] += OVER_RELAX * (b[p + 1] * x + b[p + 3] * y + b[p + 4] * t - b[c.B_Y])
    b[c.B_TAU] += OVER_RELAX * (b[p + 2] * x + b[p + 4] * y + b[p + 5] * t - b[c.B_TAU])


@helper
def bias_cov(b: Any, ve: float, vn: float) -> tuple[float, float, float]:
    """Return the covariance (ee, en, nn) that a bias not quite known gives a position at a velocity."""
    p = c.B_P
    tt = b[p + 5]
    return (
        b[p] - 2.0 * ve * b[p + 2] + ve * ve * tt,
        b[p + 1] - ve * b[p + 4] - vn * b[p + 2] + ve * vn * tt,
        b[p + 3] - 2.0 * vn * b[p + 4] + vn * vn * tt,
    )


def new_sensors(count: int, prm: c.F64) -> c.F64:
    """Return the table of ``count`` sensors, all at the prior (sensor 0, vehicles, has no bias)."""
    table = np.zeros((count, c.B_COLS))
    table[1:, c.B_P] = table[1:, c.B_P + 3] = prm[c.Q_BIAS] ** 2
    table[1:, c.B_P + 5] = prm[c.Q_BIAS_CLOCK] ** 2
    table[1:, c.B_SHARE], table[1:, c.B_SHARE_T] = prm[c.Q_BIAS] ** 2, prm[c.Q_BIAS_CLOCK] ** 2
    table[:, c.B_GAIN] = 1.0 / FIRST
    table[:, c.B_VAR], table[:, c.B_STEP] = 1.5, 0.6
    table[:, c.B_RHO], table[:, c.B_AWAY] = 0.6, 4.0
    table[:, c.B_NEAR], table[:, c.B_FAR] = 2.0, 0.03
    table[:, c.B_DT] = 0.1
    table[:, c.B_ALONG] = table[:, c.B_ACROSS] = 1.0
    table[:, c.B_SPEED_STEP], table[:, c.B_SPEED_REST], table[:, c.B_SPEED_AWAY] = 0.5, 0.8, 2.0
    return table
