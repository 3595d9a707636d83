"""The scene file: what is written comes back, byte for byte and sample for sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from v2x.errors import ConfigError

from v2x_loadtest.scene import SignalPhase, SignalPlan, load_scene, save_scene
from v2x_loadtest.scene.store import pack, unpack
from v2x_loadtest.scene.synthetic import synthetic_scene


@given(st.lists(st.integers(-1_800_000_000, 1_800_000_000), max_size=40), st.integers(0, 1))
def test_pack_gives_back_what_it_took(values, order):
    column = np.array(values, dtype=np.int32)
    try:
        planes = pack(column, order)
    except ValueError:
        assert order == 1
        assert np.abs(np.diff(column.astype(np.int64), prepend=0)).max() >= 1 << 31
        return
    assert (unpack(planes, order) == column).all()


def test_second_differences_of_smooth_motion_are_small():
    lat = (315_000_000 + 20 * np.arange(100)).astype(np.int32)
    planes = pack(lat, 2)
    assert not planes[:, 2:].any() or planes[0, 2:].max() <= 1
    assert (unpack(planes, 2) == lat).all()


def test_a_scene_survives_the_file(tmp_path):
    scene = synthetic_scene()
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    save_scene(scene, a)
    again = load_scene(a)
    save_scene(again, b)
    assert a.read_bytes() == b.read_bytes()
    assert again.events == scene.events
    assert again.devices == scene.devices
    assert again.maps == scene.maps
    assert again.zones == scene.zones
    assert again.vehicles.plate == scene.vehicles.plate
    for step in range(0, scene.steps, 50):
        for left, right in zip(scene.frame(step), again.frame(step), strict=True):
            assert (left == right).all()
    assert (np.abs(again.passages.t_s - scene.passages.t_s) < 6e-4).all()


def test_rates_follow_speed_and_do_not_cross_tracks():
    scene = synthetic_scene()
    frame = scene.frame(90)  # car 4 brakes at 2 m/s2 until second 10
    row = int(np.flatnonzero(frame.idx == 4)[0])
    assert frame.accel[row] == pytest.approx(-2.0, abs=0.06)
    others = np.delete(frame.accel, row)
    assert np.abs(others).max() < 0.01
    assert np.abs(frame.yaw).max() < 0.01


def test_a_frame_beyond_the_recording_is_an_error():
    scene = synthetic_scene()
    with pytest.raises(IndexError, match="600"):
        scene.frame(600)


def test_unknown_and_broken_files_are_the_users_mistake(tmp_path):
    with pytest.raises(ConfigError, match="synthetic"):
        load_scene("nowhere")
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match="v2x record"):
        load_scene(path)


def test_travel_truth_counts_only_pairs_within_the_window():
    scene = synthetic_scene()
    section = scene.zones["sections"][0]["section"]
    pairs = scene.travel_truth(section, 0, 60)
    assert pairs
    for _, start, end in pairs:
        assert end - start == pytest.approx(650 / 21, rel=0.1)
    first_end = min(p[2] for p in pairs)
    assert scene.travel_truth(section, 0, first_end) == []
    with pytest.raises(KeyError, match="NOPE"):
        scene.travel_truth("NOPE", 0, 60)


def test_signal_phases_run_through_the_cycle():
    plan = SignalPlan("RSU", 320, 7, 10.0, (SignalPhase(1, ((6, 30.0), (7, 3.0), (3, 27.0))),))
    at = lambda t: plan.spat(t)["phases"][0]  # noqa: E731
    assert at(10.0) == {
        "phase_id": 1,
        "light": 6,
        "likely_end": 300,
        "next_light": 7,
        "next_duration": 30,
        "confidence": 200,
    }
    assert at(41.0)["light"] == 7
    assert at(41.0)["likely_end"] == 20
    assert at(69.9)["light"] == 3
    assert at(69.9)["next_light"] == 6
    assert at(70.0)["light"] == 6
    assert at(5.0)["light"] == 3  # before the first start: the cycle before
