"""Two estimates of one section's speed into one: each counts by how little it can be wrong.

Both are space-mean speeds over the same window. What makes them uncertain is not the same:

* gantries: few vehicles; clocks; and they say how long the way *took*, so that what has changed meanwhile is missing;
* tracks: few vehicles; and the part of the section that nobody sees may be slower or faster.

So their errors are independent, and the weights are the inverse variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Final

WINDOW_S: Final = 60.0
STAMP_S: Final = 0.41  # of one passage: two stamps cut to whole seconds, uniform each
CLOCK_S: Final = 0.2  # ours: between two gantries' clocks (BeiDou); does not average out
MIN_SHARE: Final = 0.1  # tracks on less of a section say nothing of the whole
UNSEEN: Final = 0.25  # ours: a part's speed about the whole's, as a share of it: of 500 m stretches in flowing traffic
LEAST: Final = 0.05  # ours: of the speed; drivers differ by that much even in a column
LAST: Final = 0.05  # ours: of a variance that is left where all are seen: births, losses, filtered speeds
NEITHER, GANTRIES, TRACKS = 0, 1, 2  # link_state.fused_from; 3 both


@dataclass(frozen=True, slots=True)
class Estimate:
    """A speed and its standard deviation, m/s."""

    speed: float
    sd: float


def of_passages(travel_s: Sequence[float], length_m: float, drift: float) -> Estimate | None:
    """Return what passages that were kept say; None: nothing.

    ``drift``: variance of the logarithm of travel times over one minute, by which a passage is out of date.
    """
    n = len(travel_s)
    if not n:
        return None
    mean = sum(travel_s) / n
    spread = sum((t - mean) ** 2 for t in travel_s) / (n - 1) if n > 1 else (0.2 * mean) ** 2
    # Of those who drove there within the window all arrive in it but for the last, as many as the way takes time.
    rest = mean / (mean + WINDOW_S)
    variance = (max(spread - STAMP_S**2, 0.0) * rest + STAMP_S**2) / n + CLOCK_S**2
    relative = variance / mean**2 + drift * (mean / 2.0) / 60.0
    speed = length_m / mean
    return Estimate(speed, speed * sqrt(relative))


def of_tracks(seconds: float, metres: float, squares: float, share: float, length_m: float) -> Estimate | None:
    """Return what tracks say; None: nothing.

    ``seconds``, ``metres``, ``squares``: sums over all tracks and samples a second apart of 1, v and v squared;
    ``share`` of the section where tracks are seen.
    """
    if seconds <= 0 or share < MIN_SHARE:
        return None
    speed = metres / seconds  # all distance over all time: Edie's mean
    spread = max(squares / seconds - speed * speed, (LEAST * speed) ** 2)
    # A vehicle is sampled every second while it is there: its samples are one witness, not many.
    vehicles = max(1.0, seconds * max(speed, 1.0) / (share * length_m))
    variance = spread / vehicles * max(1.0 - share, LAST) + (UNSEEN * speed * (1.0 - share)) ** 2
    return Estimate(speed, sqrt(variance))


def blend(gantries: Estimate | None, tracks: Estimate | None) -> tuple[Estimate | None, int]:
    """Return both in one, weighted by inverse variances, and what it is made of."""
    speed = weight = 0.0
    made = NEITHER
    for one, which in ((gantries, GANTRIES), (tracks, TRACKS)):
        if one is not None:
            each = 1.0 / max(one.sd, 0.01) ** 2
            speed, weight, made = speed + each * one.speed, weight + each, made | which
    if not made:
        return None, NEITHER
    return Estimate(speed / weight, sqrt(1.0 / weight) if weight < inf else 0.0), made
