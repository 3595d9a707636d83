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


def steady(minutes: int = 30) -> Forecaster:
    f = Forecaster()
    for m in range(1, minutes + 1):
        f.step(T0 + m * MINUTE, 70.0, 60, 5.0)
    return f


def after(*rows: tuple[float, int], start: int = 30) -> list[float]:
    """Return the forecasts after steady traffic (70 s, 60 vehicles a minute) went on as (mean, vehicles)."""
    f, out = steady(start), []
    for m, (mean, n) in enumerate(rows, start + 1):
        f.step(T0 + m * MINUTE, mean, n, 5.0)
        told = f.say()
        assert told is not None
        assert told.low_s < told.mean_s < told.high_s
        out.append(told.mean_s)
    return out


def test_where_few_leave_and_late_the_time_is_foretold_to_rise_as_a_queue_grows():
    said = after((90.0, 15), (135.0, 15), (180.0, 15))  # a quarter leaves: 45 s longer a minute
    came = [90 + 45 * 2.5, 135 + 45 * 2.5, 180 + 45 * 2.5]
    assert said == pytest.approx(came, rel=0.1)


@pytest.mark.parametrize("row", [(71.0, 15), (90.0, 50)], ids=["few, in time", "late, as many as ever"])
def test_neither_few_nor_late_alone_is_a_queue(row):
    assert after(row)[0] <= 1.01 * row[0]


def test_a_queue_that_is_let_go_is_foretold_to_dissolve_and_nothing_stays_of_it():
    held = [(90.0 + 45 * k, 15) for k in range(8)]
    said = after(*held, (405.0, 60), (300.0, 65), (150.0, 65), (70.0, 60), (70.0, 60))
    assert said[7] > held[7][0]
    assert 70 < said[8] < 0.6 * 405
    assert said[-1] == pytest.approx(70.0, rel=0.03)


def test_the_interval_of_a_jam_reaches_down_towards_the_usual():
    f = steady()
    for m in range(31, 39):
        f.step(T0 + m * MINUTE, 300.0, 60, 5.0)
    jam = f.say()
    assert jam is not None
    assert jam.mean_s / jam.low_s > 1.5 * jam.high_s / jam.mean_s


def test_an_interval_of_few_errors_leaves_as_many_out_as_promised_or_fewer():
    f, errors = steady(), list(range(1, 41))  # the next of 40 errors is below the second smallest 2 times in 41
    f.load(f.state() | {"errors": errors})
    told = f.say()
    assert told is not None
    sd = math.log(told.high_s / told.mean_s) / 39
    assert math.log(told.mean_s / told.low_s) == pytest.approx(0.1 * sd)  # two are outside at each end; never above 0
    f.load(f.state() | {"errors": [-e for e in errors]})
    mirrored = f.say()
    assert mirrored is not None
    assert math.log(mirrored.mean_s / mirrored.low_s) == pytest.approx(39 * sd)


def test_state_goes_through_json():
    a, b = Forecaster(), Forecaster()
    rows = day(7, 90)
    play(rows[:60], a)
    b.load(json.loads(json.dumps(a.state())))
    assert b.state() == a.state()
    assert play(rows[60:], a) == play(rows[60:], b)


def test_a_restart_within_a_queue_changes_nothing():
    whole = steady()
    for m, (mean, n) in enumerate([*((90.0 + 45 * k, 15) for k in range(8)), (405.0, 60), (300.0, 65)], 31):
        again = Forecaster()
        again.load(json.loads(json.dumps(whole.state())))
        for f in (whole, again):
            f.step(T0 + m * MINUTE, mean, n, 5.0)
        assert again.say() == whole.say()
        assert again.state() == whole.state()


@pytest.mark.parametrize(
    ("units", "lanes", "speed", "want"),
    [(0, 3, 33.0, 1), (2300, 3, 30.0, 1), (2320, 3, 30.0, 2), (3600, 3, 28.0, 2), (4900, 3, 27.0, 3),
     (5900, 3, 26.0, 4), (6590, 3, 25.0, 5), (6700, 3, 24.0, 6), (3000, 3, 5.0, 6), (3000, 0, 25.0, 0),
     (3000, 3, 0.0, 0)],
)  # fmt: skip
def test_service_is_that_of_the_table_and_forced_flow_is_not_taken_for_free(units, lanes, speed, want):
    assert service(units, lanes, speed, 120 / 3.6) == want
