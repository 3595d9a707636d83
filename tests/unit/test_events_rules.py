"""Rules of single vehicles: when each begins and ends, and what is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.events_world import (
    FRAME,
    REF,
    T0,
    WIDTH,
    Car,
    World,
    cruising,
    lane_dict,
    lane_y,
    link_dict,
    motorway_nodes,
    parked,
    street_nodes,
)
from v2x.errors import ConfigError
from v2x.events.catalogue import KINDS, RULES, kind_of_code, with_overrides


def motorway() -> World:
    return World(motorway_nodes())


def seconds(ms: int) -> float:
    return (ms - T0) / 1000


# -- stopped and broken down ------------------------------------------------------------------------------------------
def test_a_stopped_vehicle_is_found_after_its_dwell_and_ends_when_it_drives_on():
    w = motorway()
    w.run([parked(1, 500.0, arrives=3.0, leaves=12.0)], 20.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED", "STOPPED_VEHICLE ENDED"]
    (t, added), (_, ended) = w.changes
    slow_at = 3.0 - 2.778 / 3.3
    assert slow_at + 5.0 <= t + 1e-6 <= slow_at + 5.3
    assert abs(seconds(added.start_ms) - slow_at) < 0.11
    assert (added.code, added.level, added.link, added.lane, added.tracks) == (903, 3, "M1", 2, [1])
    assert (added.revision, ended.revision) == (0, 1)
    assert added.event_id == ended.event_id == f"Z-STOPPED_VEHICLE-{added.start_ms}-1"
    assert 13.0 < seconds(ended.end_ms) < 15.0
    assert added.sources == [{"device": "fusion", "kind": 0, "ref": "1", "confidence": 170}]


def test_it_becomes_a_breakdown_after_thirty_seconds_under_the_same_id():
    w = motorway()
    w.run([parked(1, 500.0, lane=4)], 40.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED", "BREAKDOWN MODIFIED"]
    assert len(w.ids()) == 1
    t, change = w.changes[-1]
    assert abs(t - (2.0 - 2.778 / 3.3 + 30.0)) < 0.3
    assert (change.code, change.level) == (101, 1)  # on the shoulder


@pytest.mark.parametrize("pause", [0.5, 4.0])
def test_hysteresis_a_creeping_vehicle_is_one_event(pause):
    w = motorway()
    car = Car(1, lambda t: 500 + t, lambda t: 20.0 if t < 1 else 3.5 if 8 < t < 8 + pause else 1.0)
    w.run([car], 20.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED"]


@given(st.floats(0.2, 4.7))
@settings(max_examples=15, deadline=None)
def test_a_shorter_stop_is_none(stand):
    w = motorway()
    arrives = 3.0
    w.run([parked(1, 500.0, arrives=arrives, leaves=arrives + stand - 2.778 / 3.3 - 2.0)], 15.0)
    assert not w.of("STOPPED_VEHICLE")


def test_what_was_never_seen_moving_must_stand_longer():
    w = motorway()
    w.run([Car(1, lambda _t: 500.0, lambda _t: 0.0)], 12.0)
    t, _ = w.changes[0]
    assert 9.9 <= t <= 10.3


def test_a_false_track_raises_nothing():
    w = motorway()
    ghosts = [
        Car(i, lambda _t: 500.0, lambda _t: 0.0, born=2.0 * i, alive=lambda t, i=i: 2.0 * i <= t < 2.0 * i + 0.9)
        for i in range(8)
    ]
    thin = Car(99, lambda _t: 300.0, lambda _t: 0.0, hits=2)
    w.run([*ghosts, thin], 20.0)
    assert w.changes == []


def test_a_track_born_again_close_by_is_the_same_event():
    w = motorway()
    first = parked(1, 500.0, alive=lambda t: t < 9.0)
    again = Car(2, lambda _t: 501.5, lambda _t: 0.0, born=10.2, alive=lambda t: t >= 10.2)
    w.run([first, again], 25.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED"]
    later = w.det.book.open[w.ids()[0]]
    assert later.tracks == [2]


def test_dwell_goes_on_over_a_broken_track():
    w = motorway()
    first = parked(1, 500.0, alive=lambda t: t < 4.0)
    again = Car(2, lambda _t: 501.0, lambda _t: 0.0, born=4.5, alive=lambda t: t >= 4.5)
    w.run([first, again], 8.0)
    assert len(w.changes) == 1
    assert w.changes[0][0] < 7.2  # not 4.5 + 10


def test_lost_from_sight_it_ends_late_and_comes_back_under_its_id():
    w = motorway()
    first = parked(1, 500.0, alive=lambda t: t < 10.0)
    again = Car(2, lambda _t: 501.0, lambda _t: 0.0, born=30.0, alive=lambda t: t >= 30.0)
    w.run([first, again], 45.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED", "STOPPED_VEHICLE ENDED", "STOPPED_VEHICLE MODIFIED"]
    assert seconds(w.changes[1][1].end_ms) == pytest.approx(9.9)
    assert w.changes[2][1].end_ms == 0
    assert len(w.ids()) == 1
    assert [c.revision for _, c in w.changes] == [0, 1, 2]


def test_an_outage_of_the_input_is_no_dwell():
    w = motorway()
    car = parked(1, 500.0, arrives=2.0)
    w.run([car], 3.0)
    w.t = 60.0
    w.run([car], 62.0)
    assert w.changes == []


# -- red lights and queues --------------------------------------------------------------------------------------------
def test_standing_at_a_red_light_is_none_and_neither_is_the_queue_behind():
    w = World(street_nodes())
    cars = [parked(i, 297.0 - 7.0 * i, lane=1, arrives=2.0 + i, speed=12.0, leaves=45.0 + i) for i in range(1, 5)]

    def red(t):
        w.light(t, 3 if t < 44.0 else 6)

    w.run(cars, 60.0, red)
    assert w.changes == []


def test_who_stays_when_the_light_is_long_green_is_one():
    w = World(street_nodes())

    def light(t):
        w.light(t, 3 if t < 10.0 else 6)

    w.run([parked(1, 290.0, lane=1, speed=12.0)], 40.0, light)
    assert w.told()[0] == "STOPPED_VEHICLE ADDED"
    assert 25.0 <= w.changes[0][0] <= 31.0


def test_who_waits_on_permissive_green_for_others_to_pass_is_none():
    w = World(street_nodes())
    w.run([parked(1, 290.0, lane=1, speed=12.0)], 50.0, lambda t: w.light(t, 5))
    assert w.changes == []


def test_a_vehicle_that_stands_mid_link_is_one_even_on_red():
    w = World(street_nodes())
    w.run([parked(1, 150.0, lane=1, speed=12.0)], 10.0, lambda t: w.light(t, 3))
    assert w.told() == ["STOPPED_VEHICLE ADDED"]


def test_of_a_queue_behind_an_incident_only_the_head_is_one():
    w = motorway()
    cars = [parked(i, 800.0 - 9.0 * i, arrives=2.0 + 1.5 * i) for i in range(4)]
    w.run(cars, 28.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED"]
    assert w.changes[0][1].tracks == [0]


def test_a_queue_that_reaches_back_over_the_link_end_is_still_the_leaders():
    w = motorway()
    cars = [parked(1, 1004.0, arrives=3.0), parked(2, 993.0, arrives=4.5)]
    w.run(cars, 20.0)
    assert [c.tracks for _, c in w.changes] == [[1]]


# -- speeds -----------------------------------------------------------------------------------------------------------
def test_overspeed_begins_and_ends_and_is_told_once():
    w = motorway()
    car = Car(1, lambda t: 42.0 * t, lambda t: 42.0 if 1.0 <= t < 12.0 else 33.0)
    w.run([car], 20.0)
    assert w.told() == ["OVERSPEED ADDED", "OVERSPEED MODIFIED", "OVERSPEED ENDED"]
    assert 6.0 <= w.changes[0][0] <= 6.3
    assert w.changes[0][1].speed == 2100
    assert seconds(w.changes[-1][1].end_ms) == pytest.approx(12.0)


def test_within_the_limit_by_the_rule_is_none():
    w = motorway()
    w.run([cruising(1, 0.0, 39.9)], 20.0)
    assert w.changes == []


def test_a_slow_vehicle_is_one_and_those_that_follow_are_not():
    w = motorway()
    w.run([cruising(1, 100.0, 12.0), cruising(2, 70.0, 12.0), cruising(3, 40.0, 12.0)], 12.0)
    assert w.told() == ["SLOW_VEHICLE ADDED"]
    assert w.changes[0][1].tracks == [1]


def test_speeding_up_from_a_halt_or_braking_to_one_is_not_slow():
    w = motorway()
    w.run([parked(1, 500.0, arrives=5.0, leaves=7.0)], 25.0)
    assert w.changes == []


def test_slow_on_the_shoulder_or_in_a_street_is_none():
    w = motorway()
    w.run([cruising(1, 0.0, 7.0, lane=4)], 15.0)
    assert w.changes == []
    w = World(street_nodes())
    w.run([cruising(1, 0.0, 5.0, lane=1)], 15.0)
    assert w.changes == []


def test_driving_on_the_shoulder():
    w = motorway()
    w.run([cruising(1, 0.0, 22.0, lane=4)], 10.0)
    assert w.told() == ["EMERGENCY_LANE ADDED"]
    assert 5.0 <= w.changes[0][0] <= 5.4
    assert w.changes[0][1].code == 0


def braking(decel: float, for_s: float, at: float = 5.0, v0: float = 33.0) -> Car:
    return Car(1, lambda t: 30.0 * t, lambda t: v0 - decel * min(max(0.0, t - at), for_s), born=0.0)


@pytest.mark.parametrize(("decel", "level"), [(4.6, 1), (7.5, 2)])
def test_hard_braking(decel, level):
    w = motorway()
    w.run([braking(decel, 2.5)], 12.0)
    assert w.told()[0] == "HARD_BRAKING ADDED"
    assert w.told()[-1] == "HARD_BRAKING ENDED"
    assert len(w.ids("HARD_BRAKING")) == 1
    t, change = w.changes[0]
    assert 5.8 <= t <= 6.2
    assert change.level == level
    assert abs(seconds(change.start_ms) - 5.0) <= 0.4


@pytest.mark.parametrize(("decel", "for_s"), [(3.4, 4.0), (6.0, 0.5), (60.0, 0.2)])
def test_soft_short_or_impossible_braking_is_none(decel, for_s):
    w = motorway()
    w.run([braking(decel, for_s)], 12.0)
    assert not w.of("HARD_BRAKING")


# -- the wrong way, and on foot ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("decel", "for_s", "found"), [(3.4, 4.0, 0), (4.8, 1.3, 8)], ids=["usual", "hard"])
def test_braking_is_judged_by_all_speeds_not_by_the_two_that_err_most(decel, for_s, found):
    w = motorway()
    rng = np.random.default_rng(1)
    cars = []
    for i in range(8):
        noise = rng.normal(0.0, 0.2, 200)
        car = braking(decel, for_s)
        cars.append(
            Car(
                i + 1,
                lambda t, i=i: 200.0 * i + 20.0 * t,
                lambda t, car=car, noise=noise: car.v(t) + float(noise[round(t * 10)]),
            )
        )
    w.run(cars, 12.0)
    assert len(w.ids("HARD_BRAKING")) == found


def test_who_brakes_harder_still_is_raised_to_grave():
    w = motorway()
    w.run([Car(1, lambda t: 30.0 * t, lambda t: 35.0 - 4.8 * max(0.0, t - 5.0) - 3.0 * max(0.0, t - 6.5))], 9.0)
    levels = [change.level for _, change in w.of("HARD_BRAKING")]
    assert levels[0] == 1
    assert max(levels) == 2


def test_wrong_way():
    w = motorway()
    w.run([Car(1, lambda t: 900.0 - 20.0 * t, lambda _t: 20.0, lane=1, heading=272.0)], 10.0)
    assert w.told()[0] == "WRONG_WAY ADDED"
    assert w.changes[0][0] <= 1.3
    assert (w.changes[0][1].code, w.changes[0][1].level) == (904, 3)
    assert all(c.status == "MODIFIED" for _, c in w.changes[1:])
    assert len(w.changes) <= 10  # no more than one a second


def test_a_wrong_way_driver_that_turns_round_ends_it():
    w = motorway()
    before = Car(1, lambda t: 900.0 - 20.0 * t, lambda _t: 20.0, lane=1, heading=272.0)
    w.run([before], 5.0)
    w.run([Car(1, lambda t: 800.0 + 20.0 * (t - 5.0), lambda _t: 20.0, lane=1, heading=91.0)], 10.0)
    assert w.told()[-1] == "WRONG_WAY ENDED"
    assert seconds(w.changes[-1][1].end_ms) == pytest.approx(5.0)


@pytest.mark.parametrize(("heading", "speed"), [(180.0, 20.0), (270.0, 1.0), (215.0, 20.0)])
def test_across_or_creeping_back_is_not_the_wrong_way(heading, speed):
    w = motorway()
    w.run([Car(1, lambda t: 900.0 - speed * t, lambda _t: speed, lane=1, heading=heading)], 10.0)
    assert not w.of("WRONG_WAY")


def walker(x: float, y: float, **kw) -> Car:
    return Car(1, lambda t: x + 1.2 * t, lambda _t: 1.2, y=y, cls=10, length=0.5, **kw)


def test_a_pedestrian_on_a_motorway_lane_or_its_shoulder():
    for lane in (2, 4):
        w = motorway()
        w.run([walker(500.0, lane_y(lane))], 5.0)
        assert w.told() == ["PEDESTRIAN ADDED"]
        assert 1.0 <= w.changes[0][0] <= 1.3
        assert w.changes[0][1].level == 3


def test_a_pedestrian_steps_off_the_sidewalk():
    nodes = street_nodes()
    kerb = lane_dict(8, 0.0, 300.0, REF, lane_type=4, width=300)
    for point, x in zip(kerb["points"], (0.0, 300.0), strict=True):
        lat, lon = FRAME.e7(x, -2 * WIDTH - 1.5)
        point.update(d_lat=lat - REF[0], d_lon=lon - REF[1])
    nodes[0]["links"].append(link_dict("K1", 20, 3, [kerb]))

    def crossing(id_: int, x: float, y: float) -> Car:
        return Car(id_, lambda _t: x, lambda _t: 1.2, y=y, cls=10, length=0.5)

    w = World(nodes)
    w.run([crossing(1, 100.0, -2 * WIDTH - 1.0), crossing(2, 200.0, -2 * WIDTH + 0.9)], 3.0)
    assert [c.tracks for _, c in w.changes] == [[2]]
    assert w.changes[0][0] <= 1.2


def test_a_pedestrian_beside_the_road_or_on_the_crosswalk_is_none():
    w = motorway()
    w.run([walker(500.0, 1.0)], 5.0)
    w2 = World(street_nodes())
    w2.run([Car(1, lambda _t: 301.5, lambda _t: 1.2, y=-2.0, cls=10)], 5.0)
    assert w.changes + w2.changes == []


# -- the table, and the machine as a whole ----------------------------------------------------------------------------
@pytest.mark.parametrize(("speed", "events"), [(1.2, 1), (5.0, 2)], ids=["walks", "rides"])
def test_a_pedestrian_whom_a_unit_takes_for_a_cyclist_stays_one_event(speed, events):
    w = World(street_nodes())
    walker = Car(1, lambda t: 50.0 + 1.2 * t, lambda t: speed if 4.0 <= t < 9.0 else 1.2, lane=2, cls=10)
    while w.t < 20.0:
        walker.cls = 7 if 4.0 <= w.t < 9.0 else 10
        w.run([walker], round(w.t + 0.1, 6))
    assert len(w.ids("PEDESTRIAN")) == events


def test_the_catalogue_is_one_table_without_doubles():
    assert len(KINDS) == len(RULES)
    codes = [rule.code for rule in RULES if rule.code]
    assert len(codes) == len(set(codes))
    assert {r.kind: r.code for r in RULES if r.kind in {"STOPPED_VEHICLE", "CONGESTION", "PEDESTRIAN"}} == {
        "STOPPED_VEHICLE": 903, "CONGESTION": 707, "PEDESTRIAN": 405,
    }  # fmt: skip
    assert kind_of_code(904) == "WRONG_WAY"
    assert kind_of_code(12345) == "OTHER"
    for rule in RULES:
        assert all(limit.source for limit in rule.limits.values())


def test_overrides_change_a_rule_and_mistakes_are_named():
    w = World(motorway_nodes(), {"STOPPED_VEHICLE": {"dwell_ms": 2000}})
    w.run([parked(1, 500.0, arrives=3.0)], 6.0)
    assert w.told() == ["STOPPED_VEHICLE ADDED"]
    with pytest.raises(ConfigError, match="no kind 'FOO'"):
        with_overrides({"FOO": {}})
    with pytest.raises(ConfigError, match="no threshold 'bar'"):
        with_overrides({"OVERSPEED": {"bar": 1}})


@given(st.lists(st.tuples(st.floats(0, 45), st.integers(1, 4), st.floats(0, 1500), st.booleans()), max_size=12))
@settings(max_examples=25, deadline=None)
def test_whatever_drives_ids_and_revisions_are_unique_and_the_life_is_in_order(plan):
    w = motorway()
    cars = [
        Car(
            i,
            lambda t, x=x, v=v: x + v * t,
            lambda t, v=v: v if int(t) % 7 else v / 3,
            lane,
            heading=270.0 if back else 90.0,
        )
        for i, (v, lane, x, back) in enumerate(plan)
    ]
    w.run(cars, 20.0)
    seen: dict[str, list] = {}
    for _, c in w.changes:
        seen.setdefault(c.event_id, []).append(c)
    for life in seen.values():
        assert [c.revision for c in life] == list(range(len(life)))
        assert life[0].status == "ADDED"
        assert all(c.status != "ADDED" for c in life[1:])
        assert life[0].start_ms <= life[0].detected_ms


def test_state_goes_through_a_snapshot_at_any_step_without_a_trace():
    def cars():
        return [
            parked(1, 500.0, leaves=20.0), parked(2, 480.0, arrives=4.0, leaves=22.0), cruising(3, 0.0, 42.0, lane=1),
            Car(4, lambda t: 900.0 - 10 * t, lambda _t: 10.0, lane=1, heading=270.0), walker(700.0, lane_y(3)),
        ]  # fmt: skip

    for car, i in zip(cars(), range(5), strict=True):
        assert car.id in {1, 2, 3, 4}, i
    crew = cars()
    crew[4].id = 5
    straight = motorway()
    straight.run(crew, 30.0)
    broken = motorway()
    for until in [x / 2 for x in range(1, 61)]:
        broken.run(crew, until)
        broken.restart()
    assert broken.changes == straight.changes
    assert len({c.kind for _, c in straight.changes}) >= 4


def test_a_track_that_crosses_into_another_zone_takes_its_event_along():
    a, b = motorway(), motorway()
    b.det.zone = b.det.book.zone = "Y"
    car = cruising(1, 0.0, 42.0)
    a.run([car], 8.0)
    at_ms = T0 + 8_000
    handed = a.det.border.say(1, at_ms)
    a.run([], 20.0)
    b.run([], 8.1)
    b.det.border.hear(1, handed, at_ms, (car.x(8.0), lane_y(2), 42.0, 0.0), ours=True)
    b.run([car], 14.0)
    b.run([Car(1, car.x, lambda _t: 30.0)], 20.0)
    mine = [c for _, c in a.changes + b.changes]
    assert len({c.event_id for c in mine}) == 1
    assert [c.revision for c in mine] == list(range(len(mine)))
    assert [c.status for c in mine][:1] + [c.status for c in mine][-1:] == ["ADDED", "ENDED"]
    assert {c.zone for c in mine} == {"Z", "Y"}
