"""Which passages are left out of a section's travel time, and why."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from v2x.sections.outliers import FAST, GOODS, KEPT, MISSED, PASSENGER, SPECIAL, STOP, class_of, sift

FREE, LENGTH = 33.0, 800.0


def test_each_reason():
    times = [25.0, 24.0, 5.0, 26.0, 25.0, 300.0, 24.5, 1590.0, 4000.0, 25.0]
    assert sift(times, [1] * len(times), LENGTH, FREE) == [
        KEPT, KEPT, FAST, KEPT, KEPT, STOP, KEPT, STOP, MISSED, KEPT,
    ]  # fmt: skip
    long = [250.0, 251.0, 249.0, 3500.0, 250.0, 1200.0, 252.0]
    assert sift(long, [1] * 7, 8000.0, FREE) == [KEPT, KEPT, KEPT, MISSED, KEPT, STOP, KEPT]


def test_a_lorry_is_compared_with_lorries():
    times = [250.0, 251.0, 249.0, 252.0, 250.0, 248.0, 390.0, 392.0, 395.0, 391.0, 389.0, 250.0]
    kinds = [1] * 6 + [2] * 5 + [1]
    assert set(sift(times, kinds, 8000.0, FREE)) == {KEPT}
    assert sift(times, [1] * 12, 8000.0, FREE).count(STOP) == 5


@pytest.mark.parametrize("after", [90.0, 8.1])
def test_a_change_of_the_traffic_is_no_row_of_outliers(after):
    before = 27.0 if after > 27 else 40.0
    times = [before, before + 1, before, before - 1] * 4
    assert sift([*times, after], [0] * 17, 400.0, FREE)[-1] != KEPT
    found = sift([*times, *[after] * 5], [0] * 21, 400.0, FREE)
    assert found[-5:] == [KEPT] * 5


@given(st.integers(0, 10_000))
def test_halts_of_one_in_eight_move_the_mean_by_less_than_three_per_cent(seed):
    rng = random.Random(seed)
    true = [rng.gauss(250.0, 12.0) for _ in range(40)]
    halts = [t + (rng.uniform(180, 1500) if n % 8 == 3 else 0.0) for n, t in enumerate(true)]
    found = sift(halts, [1] * 40, 8000.0, FREE)
    kept = [t for t, reason in zip(halts, found, strict=True) if reason == KEPT]
    assert found.count(STOP) == 5
    assert sum(kept) / len(kept) == pytest.approx(sum(true) / 40, rel=0.03)


def test_too_few_to_compare_are_kept_if_they_can_be():
    assert sift([25.0, 500.0], [1, 1], LENGTH, FREE) == [KEPT, KEPT]
    assert sift([], [], LENGTH, FREE) == []


def test_classes_by_toll_type():
    assert [class_of(t) for t in (0, 1, 4, 5, 11, 16, 17, 21, 26, 99)] == [
        0, PASSENGER, PASSENGER, 0, GOODS, GOODS, 0, SPECIAL, SPECIAL, 0,
    ]  # fmt: skip
