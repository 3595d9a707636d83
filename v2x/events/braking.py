"""How hard a vehicle brakes: the straight line through its last speeds."""

from __future__ import annotations

from typing import Any

import numpy as np

from v2x.fusion.jit import helper, kernel


@helper
def slowing(speeds: Any, times: Any) -> tuple[float, float]:
    """Return the deceleration, m/s2, of the straight line through speeds (m/s) at event times, and its variance.

    The variance is that by the speeds' scatter about the line: what is wrong for longer than all of it is not in it.
    """
    count = speeds.shape[0]
    t, v = 0.0, 0.0
    for x in range(count):
        t += (times[x] - times[0]) * 1e-3 / count
        v += speeds[x] / count
    tt, tv, vv = 0.0, 0.0, 0.0
    for x in range(count):
        dt, dv = (times[x] - times[0]) * 1e-3 - t, speeds[x] - v
        tt += dt * dt
        tv += dt * dv
        vv += dv * dv
    return -tv / tt, max(0.0, vv - tv * tv / tt) / (count - 2) / tt


@kernel("float64(float64[::1], int64[::1])")
def deceleration(speeds: Any, times: Any) -> Any:
    """Return the first of what ``slowing`` returns."""
    return slowing(speeds, times)[0]


@helper
def line_weights(times: Any) -> Any:
    """Return what a speed of each time has to do with ``slowing``: the times are all tracks', so this is done once."""
    count = times.shape[0]
    out = np.empty(count)
    mean, square = 0.0, 0.0
    for x in range(count):
        out[x] = (times[x] - times[0]) * 1e-3
        mean += out[x] / count
    for x in range(count):
        out[x] -= mean
        square += out[x] * out[x]
    for x in range(count):
        out[x] /= -square
    return out
