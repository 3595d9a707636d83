"""What a sensor's noise is like, learnt while it runs: how large, and how much of it goes on from scan to scan.

A tracker in a roadside unit smooths: its errors are correlated, and a filter that takes them for white is overconfident
by a factor of two to four. Of each sensor we learn from the tracks that it feeds

* the variance: residual of the updated track and the track's own variance (they are orthogonal), in units of what the
  sensor tells;
* what is new from scan to scan: half the variance of z(k) - z(k-1) - v dt, which no error of the track enters. It is
  the variance times 1 - rho for AR(1) noise.

The update then takes z(k) - rho z(k-1), whose noise is white (A. E. Bryson, L. J. Henrikson, "Estimation using
sampled-data containing sequentially correlated noise", J. Spacecraft 5, 1968). Gates take the plain variance.

Noise may be slower than its correlation from one scan to the next says: white and slow noise together are. How much so
is learnt from the differences of two sensors that see one track (no motion enters them): their covariance over
FAR_SCANS scans. The filter is left as it is: weights by a slow part that is not known well cost more than they gave.
But a filter whose noise weighs k times what it believes, in the long run, errs by (1 + k) / 2 times its variance, since
half of that is noise and half is motion. The difference is told with the covariance, like the bias (S_SHARE).
"""

from __future__ import annotations

from typing import Any, Final

from v2x.fusion import layout as c
from v2x.fusion.jit import helper

MEMORY: Final = 2_000.0  # residuals
OFTEN: Final = 1_500.0  # from so many on, those of every fourth track are enough
FIRST: Final = 60.0  # weight of the prior
ENOUGH: Final = 100.0
MOST_RHO: Final = 0.95
LEAST_RHO: Final = 0.05  # less is none
FAR_SCANS: Final = 8
FAR_MEMORY: Final = 600.0  # differences
FAR_FIRST: Final = 30.0
TRACK_S: Final = 3.0  # a track forgets its positions in about so long: noise slower still matters no more
_CLIP: Final = 9.0


@helper
def rho_over(b: Any, dt: float) -> Any:
    """Return the correlation of a sensor's noise over dt seconds."""
    rho = b[c.B_RHO]
    if rho == 0.0 or abs(dt - b[c.B_DT]) < 0.3 * b[c.B_DT]:
        return rho
    return rho ** (dt / b[c.B_DT])


@helper
def learn_noise(b: Any, rest: tuple[float, float], own: float, new: tuple[float, float, float], told: float) -> None:
    """Learn from a position: ``rest`` z less the updated track, ``own`` the mean variance of that track's position.

    ``new`` is z less the same sensor's last measurement and way (east, north), and the seconds between (0: none).
    ``told`` is the variance that the sensor tells.
    """
    b[c.B_HEARD] += 1.0
    gain, share = b[c.B_GAIN], 1.0 / told
    e = min(0.5 * (rest[0] * rest[0] + rest[1] * rest[1]) * share, _CLIP * b[c.B_VAR])
    b[c.B_VAR] += gain * (e + own * share - b[c.B_VAR])
    if new[2] > 0.0:
        if abs(new[2] - b[c.B_DT]) < 0.3 * b[c.B_DT]:
            e = min(0.25 * (new[0] * new[0] + new[1] * new[1]) * share, _CLIP * b[c.B_STEP])
            b[c.B_STEP] += gain * (e - b[c.B_STEP])
        b[c.B_DT] += 0.05 * (min(new[2], 2.0 * b[c.B_DT]) - b[c.B_DT])


@helper
def learn_speed(b: Any, along: float, across: float, rest: float, step: float) -> None:
    """Learn from a velocity: squared rest and own variance, by what is expected of them; ``rest`` along alone.

    ``step``: half the squared difference from the sensor's last rest of this track, < 0 none.
    """
    gain = b[c.B_GAIN]
    b[c.B_ALONG] += gain * (min(along, _CLIP * b[c.B_ALONG]) - b[c.B_ALONG])
    b[c.B_ACROSS] += gain * (min(across, _CLIP * b[c.B_ACROSS]) - b[c.B_ACROSS])
    if step >= 0.0:
        b[c.B_SPEED_REST] += gain * (min(rest, _CLIP * b[c.B_SPEED_REST]) - b[c.B_SPEED_REST])
        b[c.B_SPEED_STEP] += gain * (min(step, _CLIP * b[c.B_SPEED_STEP]) - b[c.B_SPEED_STEP])


@helper
def learn_apart(b: Any, other: Any, apart: float) -> None:
    """Learn from two sensors' speeds of one track at one time: half the squared difference, as expected."""
    b[c.B_SPEED_PAIRS] += 1.0
    gain = max(1.0 / (b[c.B_SPEED_PAIRS] + 1.0), 1.0 / MEMORY)
    steps = 0.5 * (b[c.B_SPEED_STEP] + other[c.B_SPEED_STEP])
    b[c.B_SPEED_STEPS] += max(gain, 0.01) * (steps - b[c.B_SPEED_STEPS])
    most = _CLIP * 0.5 * (b[c.B_ALONG] + other[c.B_ALONG])
    b[c.B_SPEED_APART] += gain * (min(apart, most) - b[c.B_SPEED_APART])


@helper
def _rho(step: float, var: float) -> Any:
    rho = min(1.0 - step / max(var, 1e-9), MOST_RHO)
    return rho if rho > LEAST_RHO else 0.0


@helper
def _slow(rho: float, far: float, dt: float) -> Any:
    """Return B_SLOW of noise with these correlations over one and over FAR_SCANS scans."""
    if far <= 0.0 or rho <= 0.0:
        return 0.0
    fade = min((far / rho) ** (1.0 / (FAR_SCANS - 1.0)), MOST_RHO)  # of the slow part, from scan to scan
    share = min(rho / fade, 1.0)
    slow = (1.0 + fade) / (1.0 - fade + fade * dt / TRACK_S)
    return 0.5 * max((1.0 - share + share * slow) * (1.0 - rho) / (1.0 + rho) - 1.0, 0.0)


@helper
def learn_far(b: Any, near: float, far: float) -> None:
    """Learn from a difference to another sensor: its square, and its product with that of FAR_SCANS scans before."""
    b[c.B_FARS] += 1.0
    gain = 1.0 / min(b[c.B_FARS] + FAR_FIRST, FAR_MEMORY)
    b[c.B_NEAR] += gain * (near - b[c.B_NEAR])
    b[c.B_FAR] += gain * (far - b[c.B_FAR])


@helper
def settle_noise(b: Any) -> None:
    """Bring the correlations up to what was learnt, once a scan."""
    b[c.B_GAIN] = 1.0 / min(b[c.B_HEARD] + FIRST, MEMORY)
    rho = _rho(b[c.B_STEP], b[c.B_VAR])
    b[c.B_RHO] = rho
    b[c.B_AWAY] = (1.0 + rho) / (1.0 - rho)
    b[c.B_SLOW] = _slow(rho, b[c.B_FAR] / b[c.B_NEAR], b[c.B_DT])
    if b[c.B_SPEED_PAIRS] > ENOUGH:
        rho = _rho(b[c.B_SPEED_STEPS], b[c.B_SPEED_APART])
    else:
        rho = _rho(b[c.B_SPEED_STEP], b[c.B_SPEED_REST])
    b[c.B_SPEED_AWAY] = (1.0 + rho) / (1.0 - rho)
