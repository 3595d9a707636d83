"""Speeds of tracks on a section, how much of it is seen, and both sources in one."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from tests.unit.events_world import FRAME, T0, motorway_nodes
from v2x.road import Road
from v2x.sections.blend import Estimate, blend, of_passages, of_tracks
from v2x.sections.sight import Sight, Strip, share
from v2x.sections.windows import GRACE_MS, STEP_MS, SectionStats

STRIP = Strip(100.0, -6.0, 1900.0, -6.0, 1800.0)
START = T0 // STEP_MS * STEP_MS


def road() -> Road:
    out = Road(FRAME.lat, FRAME.lon)
    out.update(motorway_nodes())
    return out


def view(event_ms: int, rows: list[tuple[float, float, float, float]], cls: int = 3) -> SimpleNamespace:
    """Tracks as (east, north, speed, heading), matched to their lanes."""
    east, north, speed, heading = (np.array(c, float) for c in zip(*rows, strict=True))
    lane, _, _ = ROAD.match(east, north, heading)
    out = SimpleNamespace(event_ms=event_ms, east=east, north=north, speed=speed, heading=heading, lane=lane)
    out.cls = np.full(len(rows), cls, np.int16)

    class Sized(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.east)

    return Sized(**vars(out))


ROAD = road()


def test_the_mean_is_of_all_time_and_all_distance_and_only_of_who_drives_there():
    sight = Sight({"A>B": STRIP})
    for k in range(10):
        rows = [
            (200.0 + 20 * k, -6.0, 20.0, 90.0), (500.0 + 30 * k, -2.0, 30.0, 90.0),
            (700.0, -13.0, 0.0, 90.0),  # broken down on the shoulder
            (900.0, -6.0, 25.0, 270.0),  # the other way
            (50.0, -6.0, 25.0, 90.0),  # not there yet
        ]  # fmt: skip
        sight.watch(view(START + k * 1000, rows), ROAD, STEP_MS)
        sight.watch(view(START + k * 1000, [(600.0, -6.0, 1.0, 90.0)], cls=10), ROAD, STEP_MS)
    seen = sight.window("A>B", START, START + STEP_MS)
    assert (seen.seconds, seen.metres) == (20.0, 500.0)
    assert sum(seen.cells) == 20
    again = Sight({"A>B": STRIP})
    again.load(json.loads(json.dumps(sight.state())))
    assert again.state() == sight.state()
    again.forget(START + STEP_MS + 1)
    assert again.window("A>B", START, START + STEP_MS).seconds == 0


def test_what_gantries_count_and_nobody_sees_is_unseen():
    sight = Sight({"A>B": STRIP})
    for k in range(60):  # 30 vehicles pass at 25 m/s; units see the first half of the section, one BSM all of it
        rows = [(100.0 + 25 * j + 3 * (k % 8), -6.0, 25.0, 90.0) for j in range(0, 36, 2)]
        rows.append((100.0 + 25.0 * k % 1800, -2.0, 25.0, 90.0))
        sight.watch(view(START + k * 1000, rows), ROAD, STEP_MS)
    seen = sight.window("A>B", START, START + 60_000)
    assert share(seen, 30, 1800.0, 33.0) == pytest.approx(0.5, abs=0.06)
    assert share(sight.window("A>B", START + 120_000, START + 180_000), 30, 1800.0, 33.0) == 0.0


def test_weights_are_inverse_variances_and_sources_are_told():
    a, b = Estimate(20.0, 1.0), Estimate(26.0, 2.0)
    fused, made = blend(a, b)
    assert (fused.speed, made) == (pytest.approx(21.2), 3)
    assert fused.sd == pytest.approx(math.sqrt(0.8))
    assert blend(a, None) == (Estimate(20.0, 1.0), 1)
    assert blend(None, b) == (Estimate(26.0, 2.0), 2)
    assert blend(None, None) == (None, 0)
    assert of_tracks(100.0, 2000.0, 40000.0, 0.05, 1000.0) is None
    assert of_passages([], 1000.0, 0.0) is None


def test_the_variance_of_passages_tells_their_error():
    rng = random.Random(5)
    squares = []
    for _ in range(2000):
        true = [1000.0 / rng.gauss(28.0, 0.001) for _ in range(9)]
        clock, start = rng.gauss(0.0, 0.2), [rng.uniform(0, 1000) for _ in true]
        told = [float(math.floor(s + t + clock) - math.floor(s)) for s, t in zip(start, true, strict=True)]
        one = of_passages(told, 1000.0, 0.0)
        squares.append(((one.speed - 28.0) / one.sd) ** 2)
    assert 0.7 < sum(squares) / len(squares) < 1.3


def test_a_link_state_has_both_and_their_sum():
    section = SimpleNamespace(section="A>B", length_m=1800.0, free_speed_mps=33.3)
    stats = SectionStats("Z", [section], {"A>B": STRIP})
    stats.advance(START)
    stats.carriageway("A>B", ROAD.lanes_at(1900.0, -6.0))
    for k in range(10):
        rows = [(100.0 + 50 * j + 24 * k % 50, -6.0, 24.0, 90.0) for j in range(18)]  # only the first half is seen
        stats.sight.watch(view(START + k * 1000, rows), ROAD, STEP_MS)
        ms = START + k * 1000
        stats.passage({"section": "A>B", "from_ms": ms - 72_000, "to_ms": ms, "vehicle_type": 1, "method": 2 - k % 2})
    (row,) = stats.advance(START + STEP_MS + GRACE_MS)
    assert (row["speed"], row["rsu_speed"], row["fused_from"], row["rsu_share"]) == (2500, 2400, 3, 50)
    assert 2400 < row["fused_speed"] < 2500
    assert row["fused_speed_sd"] < min(row["speed_sd"], row["rsu_speed_sd"])
    assert (row["lanes"], row["singles"], row["flow"], row["service"]) == (3, 5, 120, 1)
    assert row["classes"] == [{"vehicle_class": 1, "vehicles": 10, "travel_time": 72_000, "speed": 2500}]
    other = SectionStats("Z", [section], {"A>B": STRIP})
    other.load(json.loads(json.dumps(stats.state())))
    assert other.state() == stats.state()
