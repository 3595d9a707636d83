"""Making scenes: bodies, lanes, rules and queues on small roads of our own; SUMO itself is not run here."""

from __future__ import annotations

import sys
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

pytest.importorskip("pyproj", reason="the extra 'record' is not installed")

from v2x.errors import ConfigError
from v2x.geo import LocalFrame

from v2x_loadtest.cmd_record import record
from v2x_loadtest.record import queues, signals
from v2x_loadtest.record.grid import Grid
from v2x_loadtest.record.lanes import Connection, Lane, LaneMap, Link, Node, simplify
from v2x_loadtest.record.motion import Raw, body, rounded, walk
from v2x_loadtest.record.room import best_start
from v2x_loadtest.record.rules import World, scan
from v2x_loadtest.record.tracks import Shape, Track, make_tracks, pack_tracks
from v2x_loadtest.record.traffic import Traffic
from v2x_loadtest.scene.model import CAR, FLAG_HAZARD, PEDESTRIAN

CAR_SHAPE = Shape(CAR, 4.0, 1.8, 1.5)
LIMIT, LOWEST = 120 / 3.6, 60 / 3.6


def straight(**over) -> Raw:
    """Front at x = 3 t, step 0.1 s, heading east."""
    n = over.pop("n", 60)
    speed = over.pop("speed", np.full(n, 30.0))
    x = over.pop("x", np.concatenate([[0.0], np.cumsum(speed[1:] * 0.1)]))
    y = over.pop("y", np.full(n, -1.75))
    return Raw(
        over.pop("first", 0), "car", list(x), list(y), [over.pop("angle", 90.0)] * n, list(speed), [0] * n, [0] * n
    )


def road(lanes: int = 2, *, signal: bool = False) -> LaneMap:
    """One motorway link of 2 km to the east, lane 1 left; an emergency lane last."""
    out = LaneMap(Grid(31.5, 120.3))
    out.nodes = {1: Node(1, "a", 0, 0), 2: Node(2, "b", 2000, 0)}
    link = Link("L", 1, 2, 1)
    for i in range(lanes + 1):
        y = -1.75 - 3.5 * i
        last = i == lanes
        line = np.array([[0.0, y], [2000.0, y]])
        link.lanes.append(Lane(0, i + 1, int(last), 3.5, None if last else LOWEST, None if last else LIMIT, line))
        if signal:
            link.lanes[-1].connections.append(Connection(3, 1, 1, 1))
    out.links.append(link)
    out.of_sumo = {f"e_{i}": (0, i + 1) for i in range(lanes + 1)}
    return out


def track(lanes: LaneMap, raw: Raw, lane: int = 0, shape: Shape = CAR_SHAPE, id_: str = "c") -> Track:
    raw.lane = [lane] * len(raw.x)
    names = list(lanes.of_sumo)
    return make_tracks({id_: raw}, {id_: shape}, names, lanes, 10_000, lambda x, y: x + y < 1e9)[0]


def found(lanes: LaneMap, *tracks: Track):
    for number, t in enumerate(tracks):
        t.number = number
    return scan(World(lanes, Traffic(list(tracks), lanes)), list(tracks))


def test_the_centre_is_half_a_length_behind_the_front():
    b = body(straight(), 4.0)
    assert np.allclose(b.x, np.array(b.front_x) - 2.0)
    assert np.allclose(b.heading, 90.0)


def test_the_rear_follows_the_front_round_a_corner():
    x = np.concatenate([np.arange(0, 10, 0.5), np.full(40, 10.0)])
    y = np.concatenate([np.zeros(20), np.arange(0, 20, 0.5)])
    raw = Raw(0, "car", list(x), list(y), [90.0] * 20 + [0.0] * 40, [5.0] * 60, [0] * 60, [0] * 60)
    b = body(raw, 4.0)
    assert b.x[22] < 10.0  # the front is round, the centre is not
    assert b.x[30] == pytest.approx(10.0)
    assert np.abs(np.diff(np.unwrap(b.heading, period=360))).max() < 16  # SUMO's own jumps by 90 deg


@pytest.mark.parametrize("speed", [30.0, 1.0])
def test_a_lane_change_takes_three_seconds_and_ends_in_the_lane(speed):
    y = np.where(np.arange(120) < 60, -1.75, 1.75)
    b = body(straight(n=120, speed=np.full(120, speed), y=y), 4.0)
    assert b.y[0] == pytest.approx(-1.75)
    assert b.y[-1] == pytest.approx(1.75)
    assert np.abs(np.diff(b.y)).max() < 0.2
    if speed < 8:
        assert b.y[59] == pytest.approx(-1.75)  # a slow car waits for its gap
    assert np.abs(b.heading - 90).max() < 15


def test_true_headings_agree_with_the_way_over_the_ground():
    lanes = road()
    raw = straight(n=200)
    packed = pack_tracks([track(lanes, raw)], lanes.grid)
    frame = LocalFrame(31.5, 120.3)
    east, north = frame.to_local(packed.lat[[10, -1]] / 1e7, packed.lon[[10, -1]] / 1e7)
    azimuth = np.degrees(np.arctan2(np.diff(east), np.diff(north)))[0]
    assert azimuth == pytest.approx(packed.heading[50] / 100, abs=0.02)
    assert azimuth == pytest.approx(90 - 1.41, abs=0.02)  # so far is grid north from true north here


def test_utm_distances_are_taken_back_to_true_ones():
    grid = Grid(31.5, 120.3)
    assert 1000 / grid.distance((0.0, 0.0), (1000.0, 0.0)) == pytest.approx(1.00041, abs=2e-5)


def test_simplify_keeps_a_bend_within_its_tolerance():
    t = np.linspace(0, 0.3, 200)
    line = np.stack([1000 * np.sin(t), 1000 * (1 - np.cos(t))], axis=1)
    few = simplify(line, 0.05)
    assert 3 < len(few) < 20
    lane = Lane(0, 1, 0, 3.5, None, None, few)
    _, lateral, _ = lane.project(line[:, 0], line[:, 1])
    assert np.abs(lateral).max() <= 0.05 + 1e-9


def test_a_stop_is_found_to_the_tenth_and_going_on_ends_it():
    v = np.concatenate([np.linspace(30, 0, 101), np.zeros(100), np.linspace(0, 30, 61)])
    (stop,) = [f for f in found(road(), track(road(), straight(n=262, speed=v))) if f.kind == "STOPPED_VEHICLE"]
    assert not stop.optional
    assert v[stop.a] <= 2.778 < v[stop.a - 1]
    assert v[stop.b - 1] <= 2.778 < v[stop.b]


def test_who_stands_behind_another_or_at_a_signal_is_no_stop():
    v = np.concatenate([np.linspace(30, 0, 101), np.zeros(200)])
    ahead = straight(n=301, speed=v, x=np.concatenate([[20.0], 20 + np.cumsum(v[1:] * 0.1)]))
    lanes = road()
    events = found(lanes, track(lanes, straight(n=301, speed=v)), track(lanes, ahead))
    assert [f.track.number for f in events if f.kind == "STOPPED_VEHICLE"] == [1]
    near = straight(n=301, speed=v, x=np.concatenate([[1835.0], 1835 + np.cumsum(v[1:] * 0.1)]))
    lanes = road(signal=True)
    assert not [f for f in found(lanes, track(lanes, near)) if f.kind == "STOPPED_VEHICLE"]


def test_thirty_seconds_or_a_hazard_light_make_a_breakdown():
    v = np.concatenate([np.linspace(30, 0, 101), np.zeros(320)])
    kinds = {f.kind: f for f in found(road(), track(road(), straight(n=421, speed=v)))}
    assert kinds["BREAKDOWN"].dwell_s == 30
    raw = straight(n=180, speed=v[:180])
    raw.flags = [FLAG_HAZARD] * 180
    kinds = {f.kind: f for f in found(road(), track(road(), raw))}
    assert kinds["BREAKDOWN"].dwell_s == 5


def test_speeds_are_judged_by_the_lane():
    fast = track(road(), straight(n=100, speed=np.full(100, 44.0)))
    assert [f.kind for f in found(road(), fast)] == ["OVERSPEED"]
    limits = track(road(), straight(n=100, speed=np.full(100, 40.5)))  # 1.215 times the limit: sensors cannot say
    (event,) = found(road(), limits)
    assert event.optional
    slow = track(road(), straight(n=100, speed=np.full(100, 10.0)))
    assert [f.kind for f in found(road(), slow)] == ["SLOW_VEHICLE"]
    assert not found(road(), track(road(), straight(n=100, speed=np.full(100, 17.0))))


def test_a_follower_of_a_slow_vehicle_is_not_slow_himself():
    v = np.full(100, 10.0)
    ahead = straight(n=100, speed=v, x=60.0 + np.arange(100))
    lanes = road()
    events = found(lanes, track(lanes, straight(n=100, speed=v)), track(lanes, ahead))
    assert [f.track.number for f in events] == [1]


def test_hard_braking_needs_four_for_a_second():
    hard = np.concatenate([np.full(30, 30.0), 30 - 0.6 * np.arange(1, 21), np.full(30, 18.0)])
    (event,) = [f for f in found(road(), track(road(), straight(n=80, speed=hard))) if f.kind == "HARD_BRAKING"]
    assert not event.optional
    soft = np.concatenate([np.full(30, 30.0), 30 - 0.3 * np.arange(1, 41), np.full(30, 18.0)])
    assert not found(road(), track(road(), straight(n=100, speed=soft)))


def test_wrong_way_is_against_the_lane():
    raw = straight(n=80, x=500.0 - 1.2 * np.arange(80), speed=np.full(80, 12.0), angle=270.0)
    kinds = [f.kind for f in found(road(), track(road(), raw)) if not f.optional]
    assert "WRONG_WAY" in kinds
    assert not [f for f in found(road(), track(road(), straight(n=80))) if f.kind == "WRONG_WAY"]


def test_a_walker_counts_inside_the_carriageway_only():
    lanes = road()
    walker = Shape(PEDESTRIAN, 0.4, 0.6, 1.7)
    line = [(100.0, -14.0), (100.0, -5.0), (130.0, -5.0)]
    t = track(lanes, walk(line, [(0.0, 1.5), (60.0, 1.5)], 0.1, 0), shape=walker, id_="@p")
    (event,) = found(lanes, t)
    assert event.kind == "PEDESTRIAN"
    assert t.y[event.a] == pytest.approx(-10.5, abs=0.2)  # the shoulder's outer edge


def test_a_queue_is_measured_from_head_to_tail():
    lanes = road()
    tracks = []
    for i in range(12):  # stands from second i on, 8 m apart, the head at 1000 m
        v = np.concatenate([np.full(10 * i + 1, 20.0), np.full(300 - 10 * i, 0.5)])
        end = 1000.0 - 8.0 * i
        x = end - np.concatenate([np.cumsum(v[::-1])[::-1][1:] * 0.1, [0.0]])
        t = track(lanes, straight(n=301, speed=v, x=x))
        t.number = i
        tracks.append(t)
    (queue,) = queues.find(Traffic(tracks, lanes), 301)
    assert queue.start == 41  # the fifth car is slow from step 41 on
    assert queue.many == 91
    assert queue.end is None
    first, last = queue.seconds[0], queue.seconds[-1]
    assert first["level"] == 3
    assert first["queue_m"] == pytest.approx(4 * 8 + 5, abs=15)
    assert last["queue_m"] == pytest.approx(11 * 8 + 5, abs=1)
    assert last["vehicles"] == {"1": 12}
    assert not queues.find(Traffic(tracks, road(signal=True)), 301)


@pytest.mark.parametrize(("kmh", "level"), [(29, 1), (25, 1), (24.9, 2), (15, 2), (14.9, 3), (0, 3)])
def test_levels_have_no_gaps(kmh, level):
    assert queues.level(kmh / 3.6) == level


def test_equal_lights_are_one_phase_and_sumos_clock_is_kept():
    program = fromstring(
        '<tlLogic offset="0"><phase duration="30" state="GGr"/><phase duration="3" state="yyr"/>'
        '<phase duration="27" state="rrG"/></tlLogic>'
    )
    plan = signals.plan(program, "RSU", 7, 100.0)
    assert [p.phase_id for p in plan.phases] == [1, 2]
    lights = lambda t: [p["light"] for p in plan.spat(t)["phases"]]  # noqa: E731
    assert lights(0.0) == [3, 6]  # SUMO's second 100 is second 40 of the cycle
    assert lights(20.0) == [6, 3]
    seen = ["rrG"] * 20 + ["GGr"] * 30 + ["yyr"] * 3
    assert signals.disagreements(plan, program, seen) == 0
    assert signals.disagreements(plan, program, seen[1:]) > 0


def test_a_scripted_object_waits_for_room():
    lanes = road()
    other = track(lanes, straight(n=100))
    raw = walk([(150.0, 5.0), (150.0, -12.0)], [(0.0, 2.0), (20.0, 2.0)], 0.1, 0)
    moved = best_start(raw, Shape(PEDESTRIAN, 0.4, 0.6, 1.7), [other], 0, 100, 2.5)
    assert moved.first > 0
    b = body(moved, 0.4)
    both = range(max(moved.first, 0), min(moved.first + len(b.x), 100))
    assert all(
        abs(b.x[k - moved.first] - other.x[k]) > 2.0 + 2.5 or abs(b.y[k - moved.first] - other.y[k]) > 0.9 + 2.5
        for k in both
    )


def test_rounded_corners_can_be_driven():
    path = np.array(rounded([(0.0, 0.0), (20.0, 0.0), (20.0, 20.0)]))
    turn = np.unwrap(np.arctan2(*np.diff(path, axis=0).T))
    assert np.abs(np.diff(turn)).max() < np.radians(20)


def test_mistakes_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="motorway and urban"):
        record("moon")
    with pytest.raises(ConfigError, match="no folder"):
        record("urban", out=tmp_path / "none" / "x.npz")
    monkeypatch.setitem(sys.modules, "libsumo", None)
    with pytest.raises(ConfigError, match=r"v2x-core\[record\]"):
        record("urban", out=tmp_path / "x.npz")
