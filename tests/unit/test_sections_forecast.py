"""The forecast of the next five minutes: is it near, and does its interval hold what it promises."""

from __future__ import annotations

import json
import math
import random

import pytest
from v2x.sections.forecast import MINUTES, Forecaster
from v2x.sections.service import service

MINUTE = 60_000
T0 = 1_700_000_000_000 // MINUTE * MINUTE


def day(seed: int, minutes: int = 480) -> list[list[float]]:
    """Travel times (s) of the vehicles of each minute: a peak, an incident, AR(1) waves and single drivers."""
    rng = random.Random(seed)
    wave, out = 0.0, []
    peak, hit = rng.uniform(120, 360), rng.uniform(60, 420)
    for m in range(minutes):
        wave = 0.9 * wave + rng.gauss(0.0, 0.02)
        jam = 0.6 * math.exp(-(((m - peak) / 50) ** 2)) + (0.5 * min(1.0, (m - hit) / 10) if 0 < m - hit < 35 else 0.0)
        mean = 250.0 * math.exp(wave + jam)
        out.append([mean * math.exp(rng.gauss(0.0, 0.08)) for _ in range(max(0, round(rng.gauss(18, 5))))])
    return out


def play(rows: list[list[float]], f: Forecaster) -> list[tuple[float, float, float, float]]:
    """Return (forecast, low, high, what came) of all forecasts whose minutes are over."""
    said, out = {}, []
    for m, times in enumerate(rows, 1):
        past = [t for row in rows[max(0, m - MINUTES - 1) : m - 1] for t in row]
        if m > MINUTES + 1:
            f.judge(T0 + (m - MINUTES - 1) * MINUTE, sum(past) / len(past) if past else 0.0)
        n = len(times)
        mean = sum(times) / n if n else 0.0
        f.step(T0 + m * MINUTE, mean, n, math.sqrt(sum((t - mean) ** 2 for t in times) / (n - 1)) if n > 1 else 0.0)
        told = f.say()
        if told is not None:
            said[m] = told
    for m, told in said.items():
        came = [t for row in rows[m : m + MINUTES] for t in row]
        if m + MINUTES <= len(rows) and came:
            out.append((told.mean_s, told.low_s, told.high_s, sum(came) / len(came)))
    return out


def test_nine_of_ten_true_values_lie_in_the_interval_on_many_days():
    rows = [row for seed in range(2001, 2013) for row in play(day(seed), Forecaster())]
    inside = sum(low <= came <= high for _, low, high, came in rows) / len(rows)
    assert len(rows) > 5000
    assert 0.85 <= inside <= 0.95
    error = sum(abs(mean / came - 1) for mean, _, _, came in rows) / len(rows)
    assert error < 0.06
    width = sorted((high - low) / mean for mean, low, high, _ in rows)[len(rows) // 2]
    assert width < 0.25  # an interval that holds everything says nothing


def test_each_day_on_its_own_keeps_the_promise():
    for seed in range(2001, 2007):
        rows = play(day(seed), Forecaster())
        inside = sum(low <= came <= high for _, low, high, came in rows) / len(rows)
        assert 0.82 <= inside <= 0.97, seed


def test_nothing_is_said_of_an_empty_road_and_silence_widens_the_interval():
    f = Forecaster()
    assert play([[]] * 30, f) == []
    for m in range(1, 11):
        f.step(T0 + m * MINUTE, 250.0, 15, 10.0)
    near = f.say()
    for m in range(11, 31):
        f.step(T0 + m * MINUTE, 0.0, 0, 0.0)
    far = f.say()
    assert near is not None
    assert far is not None
    assert near.mean_s == pytest.approx(250.0, rel=0.01)
    assert far.high_s / far.low_s > 1.1 * near.high_s / near.low_s
    f.step(T0 + 60 * MINUTE, 0.0, 0, 0.0)
    assert f.say() is None


def test_state_goes_through_json():
    a, b = Forecaster(), Forecaster()
    rows = day(7, 90)
    play(rows[:60], a)
    b.load(json.loads(json.dumps(a.state())))
    assert b.state() == a.state()
    assert play(rows[60:], a) == play(rows[60:], b)


@pytest.mark.parametrize(
    ("units", "lanes", "speed", "want"),
    [(0, 3, 33.0, 1), (2300, 3, 30.0, 1), (2320, 3, 30.0, 2), (3600, 3, 28.0, 2), (4900, 3, 27.0, 3),
     (5900, 3, 26.0, 4), (6590, 3, 25.0, 5), (6700, 3, 24.0, 6), (3000, 3, 5.0, 6), (3000, 0, 25.0, 0),
     (3000, 3, 0.0, 0)],
)  # fmt: skip
def test_service_is_that_of_the_table_and_forced_flow_is_not_taken_for_free(units, lanes, speed, want):
    assert service(units, lanes, speed, 120 / 3.6) == want
