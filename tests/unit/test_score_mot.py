"""Tracking metrics: known values by hand, and the same as motmetrics and TrackEval on random runs."""

from __future__ import annotations

import math

import motmetrics
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from v2x_loadtest.score.gospa import gospa
from v2x_loadtest.score.matching import match, near_pairs
from v2x_loadtest.score.mot import Step, clear, hota, idf1

CUT = 5.0


def step(objects: dict[int, tuple[float, float]], tracks: dict[int, tuple[float, float]]) -> Step:
    a = np.array(list(objects.values()), float).reshape(-1, 2)
    b = np.array(list(tracks.values()), float).reshape(-1, 2)
    return Step(np.array(list(objects), np.int64), np.array(list(tracks), np.int64), *near_pairs(a, b, CUT))


def crowd(seed: int, steps: int = 60, n: int = 25) -> list[tuple[dict[int, tuple[float, float]], ...]]:
    """Objects in a narrow place, tracks that err, miss, swap, break and invent."""
    rng = np.random.default_rng(seed)
    place, speed = rng.uniform(0, 40, (n, 2)), rng.normal(0, 0.6, (n, 2))
    ids = np.arange(n) + 100
    out = []
    for k in range(steps):
        place = place + speed
        there = rng.random(n) < 0.95
        if rng.random() < 0.4:
            a, b = rng.choice(n, 2, replace=False)
            ids[a], ids[b] = ids[b], ids[a]
        if rng.random() < 0.3:
            ids[rng.integers(n)] = 1000 + k
        seen = there & (rng.random(n) < 0.9)
        objects = {int(i): (float(place[i, 0]), float(place[i, 1])) for i in np.flatnonzero(there)}
        told = place + rng.normal(0, 1.2, (n, 2))
        tracks = {int(ids[i]): (float(told[i, 0]), float(told[i, 1])) for i in np.flatnonzero(seen)}
        for g in range(rng.poisson(1.0)):
            tracks[5000 + 10 * k + g] = tuple(rng.uniform(0, 40, 2).tolist())  # type: ignore[assignment]
        out.append((objects, tracks))
    return out


# --- matching ---------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 40, 300])
def test_near_pairs_are_those_of_a_matrix(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.uniform(0, 60, (n, 2)), rng.uniform(0, 60, (n + 5, 2))
    rows, cols, gap = near_pairs(a, b, CUT)
    every = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
    assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == np.argwhere(every < CUT).tolist() or np.array_equal(
        np.stack([rows, cols], 1), np.argwhere(every < CUT)
    )
    assert gap == pytest.approx(every[rows, cols])


@pytest.mark.parametrize("seed", range(5))
def test_a_matching_in_parts_is_as_good_as_one_of_the_whole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 60, (150, 2)), rng.uniform(0, 60, (140, 2))
    rows, cols, gap = near_pairs(a, b, CUT)
    cost = gap**2 - CUT**2
    taken = match(rows, cols, cost)
    assert len(set(rows[taken].tolist())) == len(set(cols[taken].tolist())) == len(taken)
    table = np.zeros((150, 140))
    table[rows, cols] = cost
    assert cost[taken].sum() == pytest.approx(table[linear_sum_assignment(table)].sum())


def test_gospa_by_hand_with_a_conflict() -> None:
    # Two objects want the same estimate; one is better served by the other, 3 m away.
    got = gospa(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.5, 0.0], [4.0, 0.0]]))
    assert got.distance == pytest.approx(math.sqrt(0.25 + 9.0))
    assert (got.missed, got.false) == (0, 0)


# --- by hand ----------------------------------------------------------------


def test_a_perfect_run() -> None:
    steps = [step({1: (k, 0), 2: (k, 50)}, {7: (k, 0), 8: (k, 50)}) for k in range(10)]
    assert clear(steps).mota == 1
    assert clear(steps).motp_m == 0
    assert idf1(steps) == 1
    assert hota(steps, CUT).hota == pytest.approx(1)


def test_a_switch_half_way_by_hand() -> None:
    steps = [step({1: (0, 0)}, {7 if k < 6 else 8: (1.0, 0)}) for k in range(10)]
    got = clear(steps)
    assert (got.switches, got.misses, got.false) == (1, 0, 0)
    assert got.mota == pytest.approx(0.9)
    assert got.motp_m == pytest.approx(1.0)
    assert idf1(steps) == pytest.approx(2 * 6 / 20)
    # Similarity 0.8: thresholds 0.05 to 0.80 match (16 of 19), all detections; association (6*6/10 + 4*4/10) / 10.
    assert hota(steps, CUT).hota == pytest.approx(16 / 19 * math.sqrt(0.52))
    assert hota(steps, CUT).detection == pytest.approx(16 / 19)


def test_misses_and_false_tracks_by_hand() -> None:
    steps = [step({1: (0, 0), 2: (50, 0)}, {7: (0, 0), 9: (90, 0)}) for _ in range(4)]
    got = clear(steps)
    assert (got.misses, got.false, got.objects) == (4, 4, 8)
    assert got.mota == pytest.approx(0.0)
    assert idf1(steps) == pytest.approx(2 * 4 / 16)
    assert hota(steps, CUT).hota == pytest.approx(math.sqrt(4 / 12))


def test_a_track_that_stays_near_keeps_its_object_though_another_is_nearer() -> None:
    steps = [step({1: (0, 0)}, {7: (1, 0)}), step({1: (0, 0)}, {7: (3, 0), 8: (0.5, 0)})]
    got = clear(steps)
    assert (got.switches, got.false) == (0, 1)
    assert got.motp_m == pytest.approx(2.0)


def test_nothing_is_no_score() -> None:
    assert clear([]).mota is None
    assert idf1([]) is None
    assert hota([], CUT).hota is None
    assert hota([step({1: (0, 0)}, {})], CUT).hota == 0


# --- against the libraries ---------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_motmetrics(seed: int) -> None:
    runs = crowd(seed)
    ours = [step(*run) for run in runs]
    theirs = motmetrics.MOTAccumulator(auto_id=True)
    for objects, tracks in runs:
        a, b = (np.array(list(x.values())).reshape(-1, 2) for x in (objects, tracks))
        gap = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
        theirs.update(list(objects), list(tracks), np.where(gap < CUT, gap, np.nan))
    names = ["mota", "motp", "num_switches", "num_misses", "num_false_positives", "idf1"]
    row = motmetrics.metrics.create().compute(theirs, metrics=names, name="x").iloc[0]
    got = clear(ours)
    assert got.switches > 5
    assert got.switches == row["num_switches"]
    assert (got.misses, got.false) == (row["num_misses"], row["num_false_positives"])
    assert got.mota == pytest.approx(row["mota"])
    assert got.motp_m == pytest.approx(row["motp"])
    assert idf1(ours) == pytest.approx(row["idf1"])


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_trackeval(seed: int) -> None:
    metrics = pytest.importorskip(
        "trackeval.metrics", reason="TrackEval is not installed (pip install 'v2x-core[compare]')", exc_type=ImportError
    )
    runs = crowd(seed)
    objects, tracks = sorted({i for o, _ in runs for i in o}), sorted({i for _, t in runs for i in t})
    data: dict[str, object] = {
        "num_gt_ids": len(objects), "num_tracker_ids": len(tracks), "num_timesteps": len(runs),
        "num_gt_dets": sum(len(o) for o, _ in runs), "num_tracker_dets": sum(len(t) for _, t in runs),
        "gt_ids": [np.array([objects.index(i) for i in o]) for o, _ in runs],
        "tracker_ids": [np.array([tracks.index(i) for i in t]) for _, t in runs],
        "similarity_scores": [],
    }  # fmt: skip
    for o, t in runs:
        a, b = (np.array(list(x.values())).reshape(-1, 2) for x in (o, t))
        gap = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
        data["similarity_scores"].append(np.maximum(1 - gap / CUT, 0))  # type: ignore[attr-defined]
    ours = [step(*run) for run in runs]
    theirs = metrics.HOTA().eval_sequence(data)
    got = hota(ours, CUT)
    assert got.hota == pytest.approx(theirs["HOTA"].mean(), abs=1e-9)
    assert got.association == pytest.approx(theirs["AssA"].mean(), abs=1e-9)
    assert got.detection == pytest.approx(theirs["DetA"].mean(), abs=1e-9)
    same = metrics.Identity({"THRESHOLD": 1e-9, "PRINT_CONFIG": False}).eval_sequence(data)
    assert idf1(ours) == pytest.approx(same["IDF1"], abs=1e-9)
