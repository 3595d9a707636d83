"""Road: what MAP tells, and matching."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.events_world import (
    FRAME,
    LAT,
    LON,
    REF,
    lane_dict,
    lane_y,
    link_dict,
    motorway_nodes,
    node_dict,
    street_nodes,
)
from v2x.geo import LocalFrame
from v2x.road import MOTOR, ON_FOOT, Road


def road_of(nodes) -> Road:
    road = Road(LAT, LON)
    assert road.update(nodes, "RSU-1")
    return road


MOTORWAY = road_of(motorway_nodes())


def one(road: Road, x: float, y: float, heading: float = 90.0) -> tuple[int, float, float]:
    lane, along, lateral = road.match(np.array([x]), np.array([y]), np.array([heading]))
    return int(lane[0]), float(along[0]), float(lateral[0])


@given(
    st.sampled_from([1, 2, 3, 4]),
    st.floats(1.0, 1998.0),
    st.floats(-1.8, 1.8),
    st.sampled_from([90.0, 270.0, 80.0, 284.0, float("nan")]),
)
def test_a_vehicle_is_matched_to_the_lane_it_is_on_whichever_way_it_drives(lane, x, left, heading):
    got, along, lateral = one(MOTORWAY, x, lane_y(lane) + left, heading)
    link = "M1" if x < 1000 else "M2"
    assert got == MOTORWAY.lane_index(link, lane)
    assert abs(along - (x - (0 if link == "M1" else 1000))) < 0.05
    assert abs(lateral - left) < 0.05


def test_direction_decides_only_near_a_centre_line():
    # Two-way road: an eastbound lane north of y = 0 is wrong; ours is south of it, the oncoming one north.
    ahead = lane_dict(1, 0.0, 500.0, REF)
    oncoming = lane_dict(1, 500.0, 0.0, REF)
    for point, x in zip(oncoming["points"], (500.0, 0.0), strict=True):
        lat, lon = FRAME.e7(x, 1.875)
        point.update(d_lat=lat - REF[0], d_lon=lon - REF[1])
    road = road_of([node_dict(1, [link_dict("E", 2, 3, [ahead])]), node_dict(2, [link_dict("W", 1, 3, [oncoming])])])
    east, west = road.lane_index("E", 1), road.lane_index("W", 1)
    assert one(road, 100.0, -0.3, 90.0)[0] == east
    assert one(road, 100.0, 0.6, 90.0)[0] == east  # noise over the line: keeps its own direction
    assert one(road, 100.0, 1.9, 90.0)[0] == west  # deep in the other lane: it is there, the wrong way
    assert one(road, 100.0, 0.6, 270.0)[0] == west


def test_off_the_road_is_no_lane():
    assert one(MOTORWAY, 500.0, 10.0)[0] == -1
    assert one(MOTORWAY, 5000.0, -5.0)[0] == -1
    assert one(MOTORWAY, float("nan"), 0.0)[0] == -1
    assert one(Road(LAT, LON), 0.0, 0.0)[0] == -1


def test_attributes_have_their_units_and_none_where_the_map_has_none():
    lanes = MOTORWAY.lanes
    i, shoulder = MOTORWAY.lane_index("M1", 2), MOTORWAY.lane_index("M1", 4)
    assert abs(lanes.v_max[i] - 33.34) < 0.01
    assert abs(lanes.v_min[i] - 16.66) < 0.01
    assert lanes.v_max[shoulder] == 0.0
    assert abs(lanes.length[i] - 1000.0) < 0.05
    assert lanes.half_width[i] == 1.875


def test_lanes_lead_on_by_their_connections_and_signals_are_known():
    i = MOTORWAY.lane_index("M1", 3)
    assert MOTORWAY.ahead[i] == (MOTORWAY.lane_index("M2", 3),)
    assert not MOTORWAY.lanes.junction.any()
    street = road_of(street_nodes())
    assert street.phases[street.lane_index("S1", 1)] == ((1, 21, 1),)
    assert street.lanes.signal[street.lane_index("S1", 1)]
    assert not street.lanes.signal[street.lane_index("S2", 1)]


def test_crosswalks_cover_but_do_not_match_vehicles():
    street = road_of(street_nodes())
    east, north = np.array([303.0]), np.array([-5.0])
    assert street.cover(east, north, ON_FOOT)[0] == street.lane_index("X1", 9)
    assert street.cover(east + 5, north, ON_FOOT)[0] == -1
    assert street.cover(east + 5, north, ON_FOOT, 4.0)[0] == street.lane_index("X1", 9)
    assert one(street, 303.0, -5.0)[0] == -1 or street.lanes.kind[one(street, 303.0, -5.0)[0]] == 0


def test_the_same_map_again_changes_nothing_and_a_shorter_clip_of_a_neighbour_neither():
    road = road_of(motorway_nodes())
    assert not road.update(motorway_nodes(), "RSU-1")
    clip = motorway_nodes()
    for lane in clip[0]["links"][0]["lanes"]:
        lane["points"][1] = {k: v // 2 for k, v in lane["points"][1].items()}
    assert not road.update(clip, "RSU-2")
    assert road.update(clip, "RSU-1")  # its own device may shorten it
    assert abs(road.lanes.length[road.lane_index("M1", 1)] - 500.0) < 5
    assert road.update(motorway_nodes(), "RSU-2")  # longer: better


def test_indices_never_move_and_a_lane_that_goes_leaves_its_index():
    road = road_of(motorway_nodes())
    before = {key: road.lane_index(*key) for key in (("M1", 1), ("M2", 4))}
    fewer = motorway_nodes()
    fewer[0]["links"][0]["lanes"] = fewer[0]["links"][0]["lanes"][1:]
    assert road.update(fewer, "RSU-1")
    assert road.update(street_nodes(), "RSU-9")
    assert {key: road.lane_index(*key) for key in before} == before
    assert road.lanes.length[before["M1", 1]] == 0.0


def test_broken_geometry_is_skipped():
    nodes = motorway_nodes()
    nodes[0]["ref_lat"] = 900000001
    nodes[1]["links"][0]["lanes"][0]["points"][0]["d_lat"] = -2097152
    road = road_of(nodes)
    assert road.links == ["M2"]
    assert road.lanes.length[road.lane_index("M2", 1)] == 0.0
    assert one(road, 1500.0, lane_y(2))[0] == road.lane_index("M2", 2)


def test_state_is_json_and_exact():
    road = road_of(motorway_nodes() + street_nodes())
    again = Road.load(json.loads(json.dumps(road.state())))
    assert again.state() == road.state()
    rng = np.random.default_rng(1)
    e, n, h = rng.uniform(-50, 2050, 500), rng.uniform(-30, 20, 500), rng.uniform(0, 360, 500)
    for a, b in zip(road.match(e, n, h), again.match(e, n, h), strict=True):
        assert (a == b).all()
    assert not again.update(motorway_nodes(), "RSU-1")


def test_a_point_on_a_lane_is_where_matching_finds_it():
    i = MOTORWAY.lane_index("M1", 2)
    lane, along, lateral = one(MOTORWAY, *MOTORWAY.point(i, 321.0, 0.7))
    assert lane == i
    assert abs(along - 321.0) < 0.01
    assert abs(lateral - 0.7) < 0.01


@given(st.floats(-60, 60), st.floats(-179, 179), st.floats(-5000, 5000), st.floats(-5000, 5000))
def test_projection_goes_and_comes_back_and_keeps_lengths(lat, lon, east, north):
    frame = LocalFrame(lat, lon)
    there = frame.to_geo(east, north)
    back = frame.to_local(*there)
    assert abs(back[0] - east) < 1e-3
    assert abs(back[1] - north) < 1e-3
    assert frame.point(*frame.e7(east, north)) == pytest.approx((east, north), abs=0.02)


def plain_match(road: Road, x: float, y: float, heading: float) -> tuple[int, float, float]:
    """Matching without a grid: every segment of every lane."""
    best, out = np.inf, (-1, 0.0, 0.0)
    for (east, north, ue, un, length, start, half, kind), lane in zip(
        road.segments.xy.tolist(), road.segments.lane.tolist(), strict=True
    ):
        dx, dy = x - east, y - north
        t, cross = dx * ue + dy * un, ue * dy - un * dx
        beyond = np.hypot(max(0.0, abs(cross) - half), max(0.0, -t, t - length))
        if beyond > 2.0 or not MOTOR >> int(kind) & 1:
            continue
        facing = ue * np.sin(np.radians(heading)) + un * np.cos(np.radians(heading))
        cost = beyond + 0.05 * abs(cross) + (1.0 if facing < -np.sqrt(0.5) else 3.0 if facing < np.sqrt(0.5) else 0.0)
        if cost < best:
            best, out = cost, (lane, start + min(max(t, 0.0), length), cross)
    return out


def test_matching_finds_the_cheapest_segment_whatever_it_was_told_of_the_past():
    crossing = node_dict(77, [link_dict("D", 70, 3, [lane_dict(1, -300.0, 900.0, REF)])])
    for point, (x, y) in zip(crossing["links"][0]["lanes"][0]["points"], ((-40.0, -50.0), (640.0, 30.0)), strict=True):
        lat, lon = FRAME.e7(x, y)
        point["d_lat"], point["d_lon"] = lat - REF[0], lon - REF[1]
    road = road_of([*motorway_nodes(), *street_nodes(), crossing])
    rng = np.random.default_rng(4)
    n = 400
    e, y, h = rng.uniform(-50, 700, n), rng.uniform(-25, 10, n), rng.uniform(0, 360, n)
    expected = [plain_match(road, *point) for point in zip(e.tolist(), y.tolist(), h.tolist(), strict=True)]
    for hints in (np.full((n, 2), -1, np.int32), rng.integers(-1, 5000, (n, 2)).astype(np.int32)):
        who = rng.permutation(n)
        for _ in range(2):  # the second time from the first's hints
            lane, along, lateral = np.empty(n, np.int32), np.empty(n), np.empty(n)
            road.place(e, y, np.sin(np.radians(h)), np.cos(np.radians(h)), who, n, hints, lane, along, lateral)
            assert lane.tolist() == [row[0] for row in expected]
            assert np.allclose(along, [row[1] for row in expected], atol=1e-9)
            assert np.allclose(lateral, [row[2] for row in expected], atol=1e-9)


def test_maps_told_one_after_the_other_make_the_road_of_one_telling():
    nodes = [*motorway_nodes(), *street_nodes()]
    road = Road(LAT, LON)
    for node in nodes:
        assert road.update([node], "RSU-1")
    whole = road_of(nodes)
    for name in ("xy", "lane", "keys", "start", "items"):
        assert np.array_equal(getattr(road.segments, name), getattr(whole.segments, name))
    assert (road.ahead, road.down, road.up, road.phases) == (whole.ahead, whole.down, whole.up, whole.phases)
