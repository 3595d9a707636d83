"""Intervals and bars of `v2x score`."""

from __future__ import annotations

import numpy as np
import pytest

from v2x_loadtest.score.bars import BARS, FIGURES, Bar, judge, mean_of
from v2x_loadtest.score.cases import SCENES, VARIANTS, pairs


def test_an_interval_by_hand() -> None:
    got = mean_of({1: {"rmse_m": 1.0}, 2: {"rmse_m": 2.0}, 3: {"rmse_m": 3.0}, 4: {"rmse_m": None}}, "rmse_m")
    assert got is not None
    assert (got.mean, got.seeds) == (2.0, 3)
    assert got.high == pytest.approx(2 + 4.3027 / np.sqrt(3), abs=1e-3)
    assert got.low == 0.0  # 2 - 2.48 is no RMSE
    assert mean_of({1: {"rmse_m": 1.0}}, "rmse_m").low is None  # type: ignore[union-attr]
    assert mean_of({1: {"rmse_m": None}}, "rmse_m") is None


def test_bars_pass_fail_and_are_never_silently_skipped() -> None:
    ours = {1: {"gospa_m": 4.0, "hota": 0.9, "switches_100vm": 2.0}}
    gnn_ = {1: {"gospa_m": 4.5, "hota": 0.8}, 2: {"gospa_m": 99.0, "hota": 0.0}}
    told = {v.bar.figure: v for v in judge("crossing", "plain", {"ours": ours, "gnn": gnn_})}
    assert told["gospa_m"].reached is False  # 0.89 x, of the seeds that both have
    assert told["hota"].reached is True  # 0.1 of 0.2
    assert told["switches_100vm"].reached is False
    alone = {v.bar.figure: v for v in judge("crossing", "plain", {"ours": ours})}
    assert alone["gospa_m"].reached is None
    assert "--baselines" in alone["gospa_m"].why
    assert Bar("nees", 0.8, 1.2).text == ">= 0.8, <= 1.2"


def test_the_tables_name_what_exists() -> None:
    for (scene, variant), bars in BARS.items():
        assert scene in SCENES
        assert variant in VARIANTS
        assert {bar.figure for bar in bars} <= set(FIGURES)
    assert ("prototype", "tolls") not in set(pairs(list(SCENES), list(VARIANTS)))
    assert ("motorway", "tolls") in set(pairs(list(SCENES), list(VARIANTS)))
