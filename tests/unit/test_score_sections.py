"""The program that judges sections over hours: its judging, on traffic whose queue is known by a formula."""

from __future__ import annotations

import random

import numpy as np
import pytest

from v2x_loadtest.score.sections import BLOCKED_S, judge

HOURS = 0.75
BEGAN = 1300.0
FREE_S = (52.0, 55.0, 58.0)  # of about 1500 m each


def trips(*, calm: bool) -> list[tuple[int, list[float]]]:
    """Return vehicles every two seconds that wander a little; at the end of the second section one in eight seconds."""
    rng, out, t, last = random.Random(5), [], 0.0, 0.0
    while t < HOURS * 3600 - 300:
        t += rng.expovariate(0.5)
        times = [t, t + rng.gauss(FREE_S[0], 3.0)]
        gap = 8.0 if not calm and BEGAN <= last < BEGAN + BLOCKED_S else 0.7
        last = max(times[1] + rng.gauss(FREE_S[1], 3.0), last + gap)
        out.append((1, [*times, last, last + rng.gauss(FREE_S[2], 3.0)]))
    return out


def test_calm_traffic_is_told_right_and_suspected_of_nothing() -> None:
    out = judge((trips(calm=True), BEGAN), 3, 0.2, calm=True, hours=HOURS)
    assert len(out.travel) > 450
    assert np.mean(out.travel) < 1.5
    assert len(out.forecast) == len(out.inside) > 65
    assert np.mean(out.forecast) < 3.0
    assert np.mean(out.inside) > 0.85
    assert np.median(out.width) < 10.0
    assert (out.found_s, out.false) == (None, 0)
    assert out.hours == pytest.approx(3 * 0.5)


def test_an_incident_is_found_and_its_queue_foretold_better_than_by_the_last_minute() -> None:
    out = judge((trips(calm=False), BEGAN), 3, 0.0, calm=False, hours=HOURS)
    assert out.found_s is not None
    assert 60 < out.found_s < 240
    assert out.false == 0
    assert np.mean(out.travel) < 5.0
    assert np.mean(out.forecast) < 0.85 * np.mean(out.naive)
