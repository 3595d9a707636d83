"""Section statistics: the mean over passages, windows, outliers and levels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v2x.sections.service import level, tpi
from v2x.sections.windows import GRACE_MS, STEP_MS, WINDOW_MS, SectionStats, summarise

T0 = 1_700_000_000_000 // STEP_MS * STEP_MS
SECTION = SimpleNamespace(section="A>B", length_m=800.0, free_speed_mps=30.0)


def stats() -> SectionStats:
    out = SectionStats("Z", [SECTION])
    assert out.advance(T0) == []
    return out


def passage(arrival_s: float, travel_s: float, section: str = "A>B", kind: int = 1, method: int = 1) -> dict:
    to_ms = T0 + round(arrival_s * 1000)
    return {
        "section": section, "from_ms": to_ms - round(travel_s * 1000), "to_ms": to_ms, "vehicle_type": kind,
        "method": method,
    }  # fmt: skip


def test_the_space_mean_is_harmonic_not_arithmetic():
    s = summarise([20.0, 40.0, 20.0, 40.0], 800.0, 40.0)
    assert s.speed_mps == pytest.approx(800 / 30)
    assert s.speed_mps < (40 + 20) / 2
    assert s.travel_s == 30.0


@given(st.lists(st.floats(25.0, 60.0), min_size=3, max_size=40))
def test_mean_speed_times_mean_time_is_the_length_and_never_above_the_arithmetic_mean(times):
    s = summarise(times, 800.0, 30.0)
    assert s.vehicles + s.rejected == len(times)
    if s.vehicles >= 3:
        assert s.speed_mps * s.travel_s == pytest.approx(800.0)
        assert s.speed_mps <= 800 / min(times) + 1e-9
        if not s.rejected:
            assert s.speed_mps <= sum(800 / t for t in times) / len(times) + 1e-9


def test_halts_and_impossible_speeds_are_left_out_and_lorries_are_not():
    cars, lorries = [24.0, 25.0, 26.0, 25.0, 24.5], [34.0, 35.0]
    s = summarise([*cars, *lorries, 300.0, 5.0, 4000.0], 800.0, 33.0)
    assert (s.vehicles, s.rejected) == (7, 3)
    assert s.travel_s == pytest.approx(sum(cars + lorries) / 7)


def test_too_few_say_nothing():
    s = summarise([25.0, 26.0], 800.0, 30.0)
    assert (s.vehicles, s.travel_s, s.speed_mps) == (2, 0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(24, 40)), min_size=30, max_size=60))
def test_whole_seconds_spoil_one_passage_by_a_second_and_the_mean_by_much_less(rows):
    true = [t for _, t in rows]
    cut = [float(int(a + t) - int(a)) for a, t in rows]
    assert all(abs(c - t) < 1.0 + 1e-9 for c, t in zip(cut, true, strict=True))
    a, b = summarise(cut, 800.0, 60.0), summarise(true, 800.0, 60.0)
    if not a.rejected and not b.rejected:
        assert abs(a.travel_s - b.travel_s) < 1.0


LEVELS = {1.2: 1, 0.71: 1, 0.70: 2, 0.51: 2, 0.50: 3, 0.45: 3, 0.40: 4, 0.31: 4, 0.30: 5, 0.05: 5}
INDEX = {1.3: 0, 1.0: 0, 0.85: 1, 0.7: 2, 0.5: 4, 0.4: 6, 0.3: 8, 0.0: 10}


@pytest.mark.parametrize(("ratio", "want"), LEVELS.items())
def test_levels_are_those_of_the_standard(ratio, want):
    assert level(ratio * 10.0, 10.0) == want


def test_levels_without_a_speed_are_unknown():
    assert level(0.0, 30.0) == 0
    assert level(30.0, 0.0) == 0


@pytest.mark.parametrize(("ratio", "want"), INDEX.items())
def test_the_index_runs_through_the_bounds_of_the_levels(ratio, want):
    assert tpi(ratio * 20.0, 20.0) == pytest.approx(want)


def test_windows_are_told_once_after_their_grace_with_what_arrived_in_them():
    s = stats()
    for i in range(30):
        s.passage(passage(i, 26.0 + i % 3))
    assert s.advance(T0 + STEP_MS + GRACE_MS - 1) == []
    rows = s.advance(T0 + 30_000 + GRACE_MS)
    assert [row["to_ms"] - T0 for row in rows] == [10_000, 20_000, 30_000]
    assert [row["vehicles"] for row in rows] == [10, 20, 30]
    last = rows[-1]
    assert last["to_ms"] - last["from_ms"] == WINDOW_MS
    assert (last["origin"], last["zone"], last["link"], last["length"]) == ("GANTRY", "Z", "A>B", 8000)
    assert last["travel_time"] == 27000
    assert last["speed"] == round(80000 / 27)
    assert last["level"] == 1
    assert s.advance(T0 + 30_000 + GRACE_MS) == []


def test_a_late_passage_tells_its_windows_again():
    s = stats()
    for i in range(12):
        s.passage(passage(i, 26.0))
    first = s.advance(T0 + 20_000 + GRACE_MS)
    assert [row["vehicles"] for row in first] == [10, 12]
    s.passage(passage(5.5, 32.0))
    again = s.advance(T0 + 30_000 + GRACE_MS)
    assert [(row["to_ms"] - T0, row["vehicles"]) for row in again] == [(10_000, 11), (20_000, 13), (30_000, 13)]
    s.passage(passage(-3600.0, 26.0))
    assert s.late == 1


def test_an_empty_road_says_once_that_it_knows_nothing():
    s = stats()
    for i in range(4):
        s.passage(passage(i, 26.0))
    rows = s.advance(T0 + 200_000)
    assert [row["vehicles"] for row in rows] == [4, 4, 4, 4, 4, 4, 0]
    assert (rows[-1]["level"], rows[-1]["speed"], rows[-1]["tpi"], rows[-1]["travel_time"]) == (0, 65535, 101, 0)


def test_passages_of_others_are_counted_and_an_outage_does_not_flood():
    s = stats()
    s.passage(passage(1.0, 20.0, "X>Y"))
    assert s.unknown == 1
    assert s.advance(T0 + 86_400_000) == []


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(10, 100)), max_size=60), st.randoms())
def test_state_goes_through_json_and_figures_do_not_depend_on_the_order_of_arrival(rows, rng):
    a, b = stats(), stats()
    for row in rows:
        a.passage(passage(*row))
    mixed = list(rows)
    rng.shuffle(mixed)
    for row in mixed:
        b.passage(passage(*row))
    out_a, out_b = a.advance(T0 + 100_000), b.advance(T0 + 100_000)
    assert out_a == out_b
    c = SectionStats("Z", [SECTION])
    c.load(json.loads(json.dumps(a.state())))
    assert c.state() == a.state()
    for row in rows[:5]:
        a.passage(passage(*row))
        c.passage(passage(*row))
    assert a.advance(T0 + 300_000) == c.advance(T0 + 300_000)


def test_a_row_has_every_field_of_the_schema_but_its_position():
    schema = json.loads(Path("codecs/schemas/link_state.avsc").read_text(encoding="utf-8"))
    names = {f["name"] for f in schema["fields"]}
    s = stats()
    s.passage(passage(1.0, 26.0))
    (row,) = s.advance(T0 + STEP_MS + GRACE_MS)
    assert set(row) == names - {"generation", "partition", "offset", "index"}
