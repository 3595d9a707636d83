"""One incident, one event: reports, flags and detection; jams; things."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.events_world import (
    FRAME,
    T0,
    Car,
    World,
    bsm,
    cruising,
    lane_y,
    motorway_nodes,
    parked,
    rte,
    street_nodes,
)
from v2x.events import Detector
from v2x.events.witness import FLAG_DISABLED, FLAG_HARD_BRAKING, FLAG_HAZARD, LIGHT_HAZARD


def motorway() -> World:
    return World(motorway_nodes())


def seconds(ms: int) -> float:
    return (ms - T0) / 1000


def hertz(t: float, every: float = 1.0) -> bool:
    return round(t * 10) % round(every * 10) == 0


# -- reports ----------------------------------------------------------------------------------------------------------
def test_an_rsi_repeated_each_second_is_one_event_and_ends_when_withdrawn():
    w = motorway()

    def each(t):
        if hertz(t) and t < 20:
            return w.det.rsi(rte(t, 101, 500.0))
        return w.det.rsi(rte(t, 101, 500.0, ended=1)) if hertz(t) else None

    w.run([], 30.0, each)
    assert w.told() == ["BREAKDOWN ADDED", "BREAKDOWN ENDED"]
    added = w.changes[0][1]
    assert added.event_id == f"Z-BREAKDOWN-{T0}-RSU-1.7"
    assert (added.link, added.lane, added.radius, added.code) == ("M1", 2, 100, 101)
    assert added.sources == [{"device": "RSU-1", "kind": 1, "ref": "7", "confidence": 160}]
    assert w.changes[1][0] == 20.0


def test_an_rsi_that_is_no_longer_repeated_expires_and_goes_on_if_it_comes_back():
    w = motorway()
    w.run([], 40.0, lambda t: w.det.rsi(rte(t, 409, 500.0)) if hertz(t) and not 5 < t < 20 else None)
    assert w.told() == ["ICE ADDED", "ICE ENDED", "ICE MODIFIED"]
    assert len(w.ids()) == 1
    assert seconds(w.changes[1][1].end_ms) == 5.0
    assert [c.revision for _, c in w.changes] == [0, 1, 2]


def test_an_announced_end_ends_it():
    w = motorway()
    w.run([], 20.0, lambda t: w.det.rsi(rte(t, 501, 500.0, end_ms=T0 + 8000)) if hertz(t) else None)
    assert w.told() == ["ROAD_WORKS ADDED", "ROAD_WORKS ENDED"]
    assert seconds(w.changes[1][1].end_ms) == 8.0


def test_a_report_that_comes_late_is_no_news():
    w = motorway()
    w.run([], 1.0)
    w.t = 60.0
    w.run([], 61.0)
    w.run([], 62.0, lambda t: w.det.rsi(rte(t - 40.0, 101, 500.0)))
    assert w.changes == []
    assert w.det.counters["rsi_late"] > 0
    w.run([], 63.0, lambda t: w.det.rsi(rte(t, 101, 500.0, lat=900000001)))
    assert w.changes == []


@pytest.mark.parametrize("rsi_from", [0.0, 15.0])
def test_report_and_detection_are_one_event_with_two_sources(rsi_from):
    w = motorway()
    w.run(
        [parked(1, 500.0, arrives=3.0)],
        25.0,
        lambda t: w.det.rsi(rte(t, 101, 512.0)) if hertz(t) and t >= rsi_from else None,
    )
    assert len(w.ids()) == 1
    last = w.changes[-1][1]
    assert last.kind == "BREAKDOWN"  # the more specific of the two
    assert {s["kind"]: s["confidence"] for s in last.sources} == {0: 170, 1: 160}
    assert last.confidence > 170
    assert [c.status for _, c in w.changes] == ["ADDED", "MODIFIED"]


def test_it_lives_while_anybody_supports_it():
    w = motorway()
    w.run(
        [parked(1, 500.0, arrives=3.0, leaves=15.0)],
        60.0,
        lambda t: w.det.rsi(rte(t, 903, 505.0)) if hertz(t) and t <= 30.0 else None,
    )
    assert w.told().count("STOPPED_VEHICLE ENDED") == 1
    assert len(w.ids()) == 1
    assert 40.0 <= w.changes[-1][0] <= 41.0  # the report's expiry, not the vehicle's leaving


def test_two_rsus_that_report_one_incident_make_one_event():
    w = motorway()

    def each(t):
        if not hertz(t):
            return None
        return w.det.rsi(rte(t, 401, 500.0)) + w.det.rsi(rte(t, 401, 508.0, device="RSU-2", rte_id=3))

    w.run([], 5.0, each)
    assert w.told() == ["DEBRIS ADDED", "DEBRIS MODIFIED"]
    assert [s["device"] for s in w.changes[-1][1].sources] == ["RSU-1", "RSU-2"]


def test_far_apart_or_of_another_group_they_are_two():
    w = motorway()
    w.run(
        [],
        3.0,
        lambda t: [
            c
            for code, x, ref in ((903, 500.0, 7), (903, 700.0, 8), (405, 500.0, 9))
            for c in w.det.rsi(rte(t, code, x, rte_id=ref))
        ],
    )
    assert len(w.ids()) == 3


def test_an_unknown_code_keeps_its_code_and_is_other():
    w = motorway()
    w.run([], 1.0, lambda t: w.det.rsi(rte(t, 0, 500.0)))
    assert w.told() == ["OTHER ADDED"]
    assert w.changes[0][1].code == 0


REPORTS = st.tuples(
    st.integers(0, 2), st.integers(0, 3), st.sampled_from([0, 401, 903, 101, 707]), st.booleans(), st.integers(0, 30)
)


@given(st.lists(REPORTS, max_size=40))
@settings(max_examples=40, deadline=None)
def test_whatever_is_reported_no_revision_is_told_twice(rows):
    w = motorway()
    rows.sort(key=lambda r: r[4])

    def each(t):
        out = []
        while rows and rows[0][4] <= t:
            device, ref, code, ended, _ = rows.pop(0)
            out += w.det.rsi(rte(t, code, 500.0 + 30 * device, device=f"R{device}", rte_id=ref, ended=int(ended)))
        return out

    w.run([parked(1, 510.0, arrives=4.0)], 50.0, each)
    keys = [(c.event_id, c.revision) for _, c in w.changes]
    assert len(keys) == len(set(keys))
    ends = {c.event_id: c.status for _, c in w.changes}
    assert all(status == "ENDED" for name, status in ends.items() if name not in w.det.book.open)


# -- flags ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", [{"flags": FLAG_HAZARD}, {"flags": FLAG_DISABLED}, {"lights": LIGHT_HAZARD}])
def test_hazard_lights_make_a_stop_a_breakdown_at_five_seconds(how):
    w = motorway()
    w.run([parked(1, 500.0, lane=4, arrives=3.0)], 10.0, lambda t: w.det.bsm_flags(bsm(t, 500.0, 4, **how)))
    assert w.told() == ["BREAKDOWN ADDED"]
    assert w.changes[0][0] <= 7.6
    assert {s["kind"] for s in w.changes[0][1].sources} == {0, 2}


def test_flags_alone_are_no_event_and_a_flag_elsewhere_is_not_this_vehicles():
    w = motorway()
    w.run(
        [cruising(1, 300.0, 25.0)],
        10.0,
        lambda t: w.det.bsm_flags(bsm(t, 300.0 + 25 * t, flags=FLAG_HAZARD | FLAG_HARD_BRAKING)),
    )
    assert w.changes == []
    w.run([parked(2, 700.0, arrives=12.0)], 20.0, lambda t: w.det.bsm_flags(bsm(t, 600.0, flags=FLAG_HAZARD)))
    assert w.told() == ["STOPPED_VEHICLE ADDED"]
    assert w.det.counters["flag_without_track"] > 0


def test_a_vehicle_whose_id_rotates_and_that_rsus_relay_is_still_one_witness():
    w = motorway()
    w.run(
        [parked(1, 500.0, lane=4, arrives=3.0)],
        20.0,
        lambda t: w.det.bsm_flags(
            bsm(t, 500.0, 4, flags=FLAG_HAZARD, device="OBU-1" if int(t) % 2 else "RSU-2") | {"temp_id": f"id{t // 5}"}
        ),
    )
    assert len(w.changes) == 1


# -- jams -------------------------------------------------------------------------------------------------------------
def queue(n: int, head: float, lane: int = 2, first: int = 100, speed: float = 20.0, gap: float = 9.0) -> list[Car]:
    return [parked(first + i, head - gap * i, lane, arrives=2.0 + 2.0 * i, speed=speed) for i in range(n)]


def test_a_queue_is_one_congestion_with_length_tail_and_level_and_its_vehicles_are_not_events():
    w = motorway()
    w.run(queue(12, 800.0), 40.0)
    assert set(w.told()) == {"STOPPED_VEHICLE ADDED", "BREAKDOWN MODIFIED", "CONGESTION ADDED", "CONGESTION MODIFIED"}
    assert len(w.ids("CONGESTION")) == 1
    jam = w.of("CONGESTION")
    t, added = jam[0]
    slow_at = 10.0 - 8.333 / 3.3  # the fifth, which stands at second 10
    assert slow_at + 5.0 <= t <= slow_at + 5.3
    last = jam[-1][1]
    assert last.level == 3
    assert (last.link, last.lane, last.code) == ("M1", 2, 707)
    assert added.queue < last.queue
    assert abs(last.queue - (11 * 9.0 + 4.5)) <= 21
    tail = FRAME.point(last.tail_lat, last.tail_lon)
    assert abs(tail[0] - (800.0 - 11 * 9.0)) <= 21
    gaps = [b[0] - a[0] for a, b in pairwise(jam)]
    assert all(g >= 0.99 for g in gaps)


def test_queues_side_by_side_and_over_a_link_end_are_one():
    w = motorway()
    w.run(queue(8, 1030.0, 1) + queue(8, 1025.0, 2, 200) + queue(6, 1028.0, 3, 300), 30.0)
    assert len(w.ids("CONGESTION")) == 1
    assert len(w.ids("STOPPED_VEHICLE", "BREAKDOWN")) <= 3
    last = w.of("CONGESTION")[-1][1]
    assert last.link == "M2"
    assert last.tracks == [100, 200, 300]  # the heads of its chains


def test_queues_far_apart_or_on_other_carriageways_are_two():
    w = motorway()
    w.run(queue(6, 900.0) + queue(6, 500.0, 2, 200), 30.0)
    assert len(w.ids("CONGESTION")) == 2


def test_four_are_no_queue_and_slow_but_loose_traffic_is_none():
    w = motorway()
    w.run(queue(4, 800.0), 30.0)
    assert not w.of("CONGESTION")
    w = motorway()
    w.run([cruising(i, 600.0 - 70.0 * i, 7.0) for i in range(8)], 30.0)
    assert not w.of("CONGESTION")


def test_a_queue_at_a_red_light_is_none():
    w = World(street_nodes())
    cars = [parked(i, 297.0 - 7.0 * i, lane=1, arrives=2.0 + 2 * i, speed=12.0) for i in range(9)]
    w.run(cars, 60.0, lambda t: w.light(t, 3))
    assert w.changes == []


@pytest.mark.parametrize("head", [297.0, 200.0])
def test_before_a_signal_only_what_outlasts_every_cycle_is_congestion(head):
    """On green a queue dissolves from its front; its rest stands away from the stop line."""
    w = World(street_nodes())
    cars = [parked(i, head - 7.0 * i, lane=1, arrives=2.0 + 2 * i, speed=12.0) for i in range(9)]
    w.run(cars, 100.0, lambda t: w.light(t, 6))
    assert not w.of("CONGESTION")
    w.run(cars, 195.0, lambda t: w.light(t, 6))
    assert len(w.ids("CONGESTION")) == 1


def test_a_queue_at_a_signal_is_not_that_of_those_who_creep_beyond_it():
    w = World(street_nodes())
    beyond = [parked(50 + i, 400.0 - 9.0 * i, lane=1, arrives=1.0, speed=5.0) for i in range(4)]
    before = [parked(i, 297.0 - 7.0 * i, lane=1, arrives=2.0 + 2 * i, speed=12.0) for i in range(9)]
    beyond[3].x = lambda _t: 325.0
    w.run(beyond + before, 40.0)
    assert not w.of("CONGESTION")


def test_it_ends_when_the_queue_has_gone_and_levels_follow_the_speed():
    w = motorway()

    def speed(t: float) -> float:
        return 3.0 if t < 15 else 5.5 if t < 25 else 8.0 if t < 35 else 22.0

    def pos(t: float) -> float:
        return sum(speed(i / 10) for i in range(round(t * 10))) / 10

    w.run([Car(i, lambda t, i=i: 300.0 - 15.0 * i + pos(t), speed) for i in range(8)], 50.0)
    jam = w.of("CONGESTION")
    assert len(w.ids("CONGESTION")) == 1
    assert list(dict.fromkeys(c.level for _, c in jam)) == [3, 2, 1]
    assert jam[-1][1].status == "ENDED"
    assert 34.9 <= seconds(jam[-1][1].end_ms) <= 36.0
    assert not w.of("SLOW_VEHICLE")


def test_a_reported_jam_is_the_one_we_see():
    w = motorway()
    w.run(queue(10, 800.0), 30.0, lambda t: w.det.rsi(rte(t, 707, 760.0, speed=100, queue=90)) if hertz(t) else None)
    assert len(w.ids("CONGESTION")) == 1
    assert {s["kind"] for s in w.of("CONGESTION")[-1][1].sources} == {0, 1}


# -- things -----------------------------------------------------------------------------------------------------------
def thing(x: float, kind: int, lane: int = 2) -> dict[str, int]:
    lat, lon = FRAME.e7(x, lane_y(lane))
    return {"obs_type": kind, "obs_id": 1, "lat": lat, "lon": lon}


def test_debris_seen_several_times_is_one_event_and_ends_when_it_is_gone():
    w = motorway()

    def each(t):
        if t < 10:
            for device, off in (("RSU-1", 0.0), ("RSU-2", 1.5)):
                w.det.obstacles(device, T0 + round(t * 1000), [thing(500.0 + off, 5), thing(300.0, 6)])

    w.run([], 20.0, each)
    assert w.told() == ["DEBRIS ADDED", "DEBRIS ENDED"]
    assert (w.changes[0][1].code, w.changes[0][1].link, w.changes[0][1].tracks) == (401, "M1", [])


def test_a_thing_seen_once_is_none():
    w = motorway()
    w.run([], 5.0, lambda t: w.det.obstacles("R", T0 + 1000, [thing(500.0, 3)]) if t == 1.0 else None)
    assert w.changes == []


# -- the record -------------------------------------------------------------------------------------------------------
def test_a_change_has_every_field_of_the_schema_but_position_and_trigger():
    schema = json.loads(Path("codecs/schemas/traffic_event.avsc").read_text(encoding="utf-8"))
    names = {f["name"] for f in schema["fields"]}
    rest = {"generation", "partition", "offset", "index"} | {n for n in names if n.startswith("trigger_")}
    w = motorway()
    w.run(queue(8, 800.0), 30.0, lambda t: w.det.rsi(rte(t, 101, 800.0)))
    limits = {f["name"]: (f.get("min"), f.get("max")) for f in schema["fields"]}
    for _, change in w.changes:
        row = change.record()
        assert set(row) == names - rest
        for name, (low, high) in limits.items():
            if low is not None and name in row:
                assert low <= row[name] <= high, name
        assert len(row["event_id"]) <= 64


def test_a_long_zone_name_still_gives_a_short_unique_id():
    w = motorway()
    w.det = Detector(None, "Z" * 60, w.road)
    w.run([parked(1, 500.0), parked(2, 700.0)], 10.0)
    ids = w.ids()
    assert len(ids) == 2
    assert all(len(i) <= 64 for i in ids)
