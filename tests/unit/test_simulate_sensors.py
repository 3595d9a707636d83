"""The sensor model keeps what it promises, measured over many scans of cars that stand still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from v2x_loadtest.scene import Device, Vehicles, load_scene
from v2x_loadtest.simulate.encode import PARTICIPANT
from v2x_loadtest.simulate.motion import Motion, metres_per_degree, motion
from v2x_loadtest.simulate.options import SensorModel
from v2x_loadtest.simulate.sensors import MAX_PARTICIPANTS, RsuSensors

LAT, LON = 31.5, 120.3
NORTH, EAST = (float(x) for x in metres_per_degree(LAT))
QUIET = SensorModel(false_per_scan=(0, 0), id_break=0, id_swap=0, flicker=0, wrong_class=0)
COL = {name: i for i, name in enumerate(PARTICIPANT)}


def vehicles(n: int, cls: int = 3, height: float = 1.5) -> Vehicles:
    ones = np.ones(n)
    return Vehicles(
        np.full(n, cls, np.int16), ones * 4.6, ones * 1.8, ones * height, [""] * n, np.zeros(n, np.int16),
        np.zeros(n, np.int16), np.zeros(n, bool), [""] * n,
    )  # fmt: skip


def road(east: np.ndarray, north: np.ndarray, speed: float = 0.0) -> Motion:
    n = len(east)
    zero = np.zeros(n)
    return Motion(
        np.arange(n, dtype=np.int32), LAT + north / NORTH, LON + east / EAST, zero, zero + speed, zero + 90.0, zero,
        zero, np.zeros(n, np.uint16), zero, zero + speed * 0.1 / EAST, zero, zero,
    )  # fmt: skip


def rsu(east: float = 0.0, reach: float = 250.0) -> Device:
    return Device("rsu", "R", LAT, LON + east / EAST, 5.0, reach, "Z")


def scans(
    model: SensorModel, east: np.ndarray, north: np.ndarray, steps: int, rsus: list[Device] | None = None, **more
):
    """(steps, RSUs) lists of participants of a still scene."""
    rsus = rsus or [rsu()]
    sensors = RsuSensors(
        rsus, more.get("vehicles", vehicles(len(east))), np.zeros(len(rsus)), 0.1, model, np.random.default_rng(5)
    )
    out = []
    for k in range(steps):
        s = sensors.sense(k, road(east, north))
        out.append([s.parts[s.first[r] : s.first[r + 1]] for r in range(len(rsus))])
    return sensors, out


def test_misses_and_range() -> None:
    east = np.array([0.0, 100.0, 249.0, 251.0])
    _, out = scans(QUIET, east, np.zeros(4), 3000)
    counts = np.bincount([round(d * EAST / 1e7 / 50) for s in out for d in s[0][:, COL["d_lon"]]], minlength=6)
    assert counts.sum() == counts[0] + counts[2] + counts[5]  # nothing beyond the range
    for seen in (counts[0], counts[2], counts[5]):
        assert seen / 3000 == pytest.approx(0.96, abs=0.015)


def test_position_error_is_bias_and_half_correlated_noise() -> None:
    east = np.linspace(-200, 200, 60)
    sensors, out = scans(replace(QUIET, miss=0.0), east, np.full(60, 10.0), 600)
    error = np.array([s[0][:, COL["d_lon"]] * EAST / 1e7 - east for s in out])  # (steps, cars)
    sigma, bias = sensors.sigma[0], sensors.bias[:, 0]
    assert 0.3 <= sigma <= 0.6
    assert 0.2 <= np.hypot(*bias) <= 0.3
    assert error.mean() == pytest.approx(bias[0], abs=0.05)
    assert error.std() == pytest.approx(sigma, rel=0.06)
    noise = error - bias[0]

    def correlation(lag: int) -> float:
        return float((noise[lag:] * noise[:-lag]).mean() / noise.var())

    assert correlation(1) == pytest.approx(0.5 * np.exp(-0.1), abs=0.05)
    assert correlation(10) == pytest.approx(0.5 * np.exp(-1), abs=0.06)
    assert correlation(60) == pytest.approx(0, abs=0.08)


def test_local_ids_last_and_are_unique() -> None:
    east = np.linspace(-200, 200, 40)
    _, out = scans(replace(QUIET, miss=0.0), east, np.zeros(40), 300)
    ids = np.array([s[0][:, COL["ptc_id"]] for s in out])
    assert (ids == ids[0]).all()
    assert len(set(ids[0])) == 40
    assert ids.min() >= 1


def test_ids_break_and_swap_at_their_rates() -> None:
    east = np.linspace(-200, 200, 40)  # 10 m apart: too far to swap
    _, out = scans(replace(QUIET, miss=0.0, id_break=0.01), east, np.zeros(40), 500)
    ids = np.array([s[0][:, COL["ptc_id"]] for s in out])
    assert (ids[1:] != ids[:-1]).mean() == pytest.approx(0.01, rel=0.2)
    _, out = scans(replace(QUIET, miss=0.0, id_swap=0.05), east, np.zeros(40), 200)
    ids = np.array([s[0][:, COL["ptc_id"]] for s in out])
    assert (ids == ids[0]).all()
    _, out = scans(replace(QUIET, miss=0.0, id_swap=0.05), east / 3, np.zeros(40), 200)
    ids = np.array([s[0][:, COL["ptc_id"]] for s in out])
    assert {tuple(sorted(row)) for row in ids} == {tuple(sorted(ids[0]))}  # exchanged, none new
    assert 0.02 < (ids[1:] != ids[:-1]).mean() < 0.2


def test_an_object_that_was_away_gets_a_new_id() -> None:
    sensors = RsuSensors([rsu()], vehicles(1), np.zeros(1), 0.1, replace(QUIET, miss=0.0), np.random.default_rng(1))
    here, away = road(np.array([10.0]), np.zeros(1)), road(np.array([900.0]), np.zeros(1))
    first = sensors.sense(0, here).parts[0, COL["ptc_id"]]
    for k in range(1, 6):
        assert len(sensors.sense(k, away).parts) == 0
    assert sensors.sense(6, here).parts[0, COL["ptc_id"]] == first
    for k in range(7, 20):
        sensors.sense(k, away)
    assert sensors.sense(20, here).parts[0, COL["ptc_id"]] != first


def test_false_detections_are_rare_short_and_nowhere_twice() -> None:
    model = replace(QUIET, false_per_scan=(0.05, 0.05))
    _, out = scans(model, np.zeros(0), np.zeros(0), 6000, vehicles=vehicles(1))
    lives: dict[int, int] = {}
    places = set()
    for s in out:
        for row in s[0]:
            lives[int(row[COL["ptc_id"]])] = lives.get(int(row[COL["ptc_id"]]), 0) + 1
            places.add((int(row[COL["d_lat"]]) // 500, int(row[COL["d_lon"]]) // 500))
    assert len(lives) == pytest.approx(300, rel=0.25)
    assert max(lives.values()) <= 3
    assert np.mean(list(lives.values())) < 1.5
    assert len(places) > 0.5 * len(lives)


def test_classes_are_mostly_right_and_wrong_for_long() -> None:
    east = np.linspace(-200, 200, 200)
    _, out = scans(replace(QUIET, miss=0.0, wrong_class=0.1), east, np.zeros(200), 20)
    cls = np.array([s[0][:, COL["object_class"]] for s in out])
    assert (cls == cls[0]).all()
    assert 0.03 < (cls[0] != 3).mean() < 0.2
    assert set(np.unique(cls)) == {3, 4}


def test_each_rsu_senses_for_itself() -> None:
    _, out = scans(replace(QUIET, miss=0.0), np.array([0.0, 400.0]), np.zeros(2), 5, [rsu(), rsu(300.0), rsu(4000.0)])
    for s in out:
        assert [len(x) for x in s] == [1, 1, 0]
        assert abs(s[1][0, COL["d_lon"]] * EAST / 1e7 - 100) < 4


def test_no_more_than_the_nearest_255() -> None:
    east = np.linspace(1, 240, 300)
    _, out = scans(replace(QUIET, miss=0.0), east, np.zeros(300), 1)
    parts = out[0][0]
    assert len(parts) == MAX_PARTICIPANTS
    assert parts[:, COL["d_lon"]].max() * EAST / 1e7 < east[254] + 4


def test_lorries_shadow_only_if_asked_for() -> None:
    east = np.array([50.0, 58.0, 45.0])
    who = vehicles(3)
    who.height_m[0] = 3.8
    for occlusion, share in ((False, 1.0), (True, 0.15)):
        _, out = scans(replace(QUIET, miss=0.0, occlusion=occlusion), east, np.zeros(3), 400, vehicles=who)
        lon = np.concatenate([s[0][:, COL["d_lon"]] for s in out]) * EAST / 1e7
        assert (lon > 54).sum() / 400 == pytest.approx(share, abs=0.06)
        assert (lon < 54).sum() == 800


def test_motion_is_taken_at_the_rsu_s_phase() -> None:
    sensors = RsuSensors(
        [rsu()],
        vehicles(1),
        np.array([0.5]),
        0.1,
        replace(QUIET, miss=0.0, sigma_m=(0, 0), bias_m=(0, 0)),
        np.random.default_rng(1),
    )
    parts = sensors.sense(0, road(np.array([10.0]), np.zeros(1), speed=30.0)).parts
    assert parts[0, COL["d_lon"]] * EAST / 1e7 == pytest.approx(11.5, abs=0.02)
    assert parts[0, COL["speed"]] == pytest.approx(1500, abs=60)
    assert parts[0, COL["heading"]] == pytest.approx(7200, abs=400)


def test_motion_follows_the_scene() -> None:
    scene = load_scene("synthetic")
    now, later = motion(scene, 100), scene.frame(101)
    both = np.isin(now.idx, later.idx)
    at = np.searchsorted(later.idx, now.idx[both])
    assert np.allclose(now.lat[both] + now.d_lat[both], later.lat[at], atol=1e-9)
    assert np.allclose(now.take(np.flatnonzero(both), 1.0).speed, later.speed[at])
    last = motion(scene, 599)
    assert np.allclose(np.hypot(last.d_lat * NORTH, last.d_lon * EAST), last.speed * 0.1, atol=0.01)
