"""Rules that look at two tracks, or at a track and its signal: accidents, near misses, red lights."""

from __future__ import annotations

from math import atan2, cos, degrees, pi, radians, sin

import pytest
from tests.unit.events_world import (
    FRAME,
    REF,
    T0,
    Car,
    World,
    bsm,
    cruising,
    lane_dict,
    lane_y,
    link_dict,
    motorway_nodes,
    node_dict,
    parked,
    street_nodes,
    way,
)
from v2x.events import kernel as k
from v2x.events.handing import pack, unpack
from v2x.events.witness import FLAG_AIRBAG, FLAG_HAZARD


def motorway() -> World:
    return World(motorway_nodes())


def seconds(ms: int) -> float:
    return (ms - T0) / 1000


def hard(id_: int, x: float, decel: float, arrives: float, speed: float = 25.0, lane: int = 2, **kw) -> Car:
    """A car that comes to a stand at x and second ``arrives``, braking by ``decel`` from its speed; it stays there."""

    def v(t: float) -> float:
        return min(speed, max(0.0, decel * (arrives - t)))

    def pos(t: float) -> float:
        ramp = min(max(arrives - t, 0.0), speed / decel)
        return x - 0.5 * decel * ramp**2 - speed * max(0.0, arrives - t - ramp)

    return Car(id_, pos, v, lane, **kw)


# -- accidents --------------------------------------------------------------------------------------------------------
def test_two_that_braked_hard_and_stand_against_each_other_are_an_accident_under_one_id():
    w = motorway()
    w.run([hard(1, 500.0, 7.0, 6.0), hard(2, 495.2, 9.0, 6.5)], 20.0)
    told = [c for _, c in w.of("ACCIDENT")]
    assert [c.status for c in told][:1] == ["ADDED"]
    assert (told[0].code, told[0].level, told[0].link, told[0].lane) == (100, 3, "M1", 2)
    assert told[-1].tracks == [1, 2]
    assert len(w.ids("ACCIDENT", "STOPPED_VEHICLE", "BREAKDOWN")) == 1
    t, first = w.of("ACCIDENT")[0]
    assert abs(seconds(first.start_ms) - 6.3) < 0.5  # when both had come to a stand
    assert t - seconds(first.start_ms) == pytest.approx(3.0, abs=0.2)
    assert told[-1].sources[0]["confidence"] == 120  # of the accident, not of the standing


def test_an_accident_over_a_links_end_is_one():
    w = motorway()
    w.run([hard(1, 1002.0, 7.0, 6.0), hard(2, 997.2, 9.0, 6.5)], 20.0)  # the first link ends at 1000
    told = [c for _, c in w.of("ACCIDENT")]
    assert {c.link for c in told} <= {"M1", "M2"}
    assert len({c.event_id for c in told}) == 1
    assert told[-1].tracks == [1, 2]


def test_an_accident_ends_when_both_have_gone():
    w = motorway()
    first, second = hard(1, 500.0, 7.0, 6.0), hard(2, 495.2, 9.0, 6.5)
    stand = first.v, second.v
    for car, before, leaves in ((first, stand[0], 20.0), (second, stand[1], 25.0)):
        car.v = lambda t, before=before, leaves=leaves: before(t) if t < leaves else 8.0
    w.run([first, second], 35.0)
    assert w.told()[-1] == "ACCIDENT ENDED"
    assert seconds(w.changes[-1][1].end_ms) == pytest.approx(25.0)
    assert w.told().count("ACCIDENT ENDED") == 1


@pytest.mark.parametrize(("gap", "decel"), [(7.5, 7.0), (4.8, 3.2)], ids=["with room between", "by usual braking"])
def test_who_stops_behind_another_is_no_accident(gap, decel):
    w = motorway()
    w.run([hard(1, 500.0, 7.0, 6.0), hard(2, 500.0 - gap, decel, 8.0)], 30.0)
    assert not w.of("ACCIDENT")
    assert w.of("STOPPED_VEHICLE")


def test_a_queue_at_a_red_light_or_in_a_jam_is_no_accident_however_hard_it_braked():
    w = World(street_nodes())
    w.run(
        [hard(i, 297.0 - 5.2 * i, 6.0, 4.0 + i, 12.0, lane=1) for i in range(6)],
        60.0,
        lambda t: w.light(t, 3),
    )
    assert not w.of("ACCIDENT")
    w = motorway()
    queue = [hard(i, 800.0 - 9.0 * i, 3.2, 3.0 + 2.0 * i) for i in range(8)]
    late = [hard(20, 700.0, 8.0, 30.0), hard(21, 695.0, 8.0, 31.0)]
    w.run([*queue, *late], 60.0)
    assert w.of("CONGESTION")
    assert not w.of("ACCIDENT")


def test_in_a_junction_they_must_stand_across():
    def crash(heading: float) -> World:
        w = World(street_nodes())
        ours = hard(1, 312.0, 8.0, 5.0, 14.0, lane=1)
        other = Car(2, lambda _t: 314.5, ours.v, y=lane_y(1) + 1.0, heading=heading)
        w.run([ours, other], 15.0)
        assert (w.view([ours, other], 10.0).lane < 0).all()
        return w

    assert crash(0.0).ids("ACCIDENT")
    assert not crash(92.0).of("ACCIDENT")  # one behind the other in the middle of it: a queue


@pytest.mark.parametrize(("seconds_on", "found"), [(0.1, False), (1.0, True)])
def test_an_air_bag_is_an_accident_if_several_bsms_say_so(seconds_on, found):
    w = motorway()
    car = hard(1, 500.0, 8.0, 8.0)

    def each(t):
        if 5.0 <= t < 5.0 + seconds_on - 1e-9:
            w.det.bsm_flags(bsm(t, car.x(t), flags=FLAG_AIRBAG))

    w.run([car], 12.0, each)
    assert bool(w.of("ACCIDENT")) == found
    if found:
        t, told = w.of("ACCIDENT")[0]
        assert t < 6.0
        assert {s["kind"]: s["confidence"] for s in told.sources} == {0: 120, 2: 180}
        assert told.confidence > 180


def test_hazard_lights_raise_the_confidence_of_an_accident():
    def confidence(flags: int) -> int:
        w = motorway()
        w.run(
            [hard(1, 500.0, 7.0, 6.0), hard(2, 495.2, 9.0, 6.5)],
            15.0,
            lambda t: w.det.bsm_flags(bsm(t, 500.0, flags=flags)) if t > 6.0 else None,
        )
        return w.of("ACCIDENT")[-1][1].confidence

    assert confidence(FLAG_HAZARD) > confidence(0)


# -- near misses ------------------------------------------------------------------------------------------------------
def closing(id_: int, ahead: Car, v0: float, gap: float, at: float, decel: float) -> Car:
    """A car at v0 whose front is ``gap`` behind ``ahead`` at second ``at``, when it begins to brake to the other's."""
    end = ahead.v(at)

    def v(t: float) -> float:
        return v0 if t < at else max(end, v0 - decel * (t - at))

    def pos(t: float) -> float:
        x = ahead.x(at) - 4.5 - gap
        if t < at:
            return x + v0 * (t - at)
        ramp = min(t - at, (v0 - end) / decel)
        return x + v0 * ramp - 0.5 * decel * ramp**2 + end * (t - at - ramp)

    return Car(id_, pos, v, ahead.lane)


def test_who_closes_in_and_brakes_at_the_last_moment_is_a_near_miss_of_both():
    w = motorway()
    slow = cruising(1, 300.0, 20.0)
    w.run([slow, closing(2, slow, 35.0, 15.5, 8.0, 7.5)], 14.0)
    told = [c for _, c in w.of("NEAR_MISS")]
    assert (told[0].status, told[-1].status) == ("ADDED", "ENDED")
    assert told[0].tracks == [1, 2]
    assert (told[0].code, told[0].level) == (0, 1)
    t, _ = w.of("NEAR_MISS")[0]
    # 15 m/s closing: 3.4 m/s2 are needed from 33 m on, 2.14 s before
    assert 8.0 - (33.1 - 15.5) / 15.0 <= t <= 8.0 - (33.1 - 15.5) / 15.0 + 0.6
    assert len(w.ids("NEAR_MISS")) == 1


@pytest.mark.parametrize(("gap", "decel"), [(60.0, 3.0), (8.0, 2.0)], ids=["early", "almost as fast"])
def test_who_brakes_in_time_or_follows_closely_is_none(gap, decel):
    w = motorway()
    slow = cruising(1, 300.0, 20.0)
    w.run([slow, closing(2, slow, 35.0 if gap > 20 else 21.5, gap, 8.0, decel)], 16.0)
    assert not w.of("NEAR_MISS")


def test_who_passes_in_the_next_lane_is_none():
    w = motorway()
    slow = cruising(1, 300.0, 20.0)
    fast = cruising(2, 200.0, 38.0, lane=1)
    w.run([slow, fast], 12.0)
    assert not w.of("NEAR_MISS")


@pytest.mark.parametrize(("aside", "found"), [(0.0, True), (1.2, False)], ids=["straight on", "steers out"])
def test_who_steers_out_from_behind_a_standing_vehicle_passes_it(aside, found):
    w = motorway()
    stands = Car(1, lambda _t: 200.0, lambda _t: 0.0)
    v, t0 = 6.0, 8.0  # level with it, but for its length, at ``t0``, and 1.1 m aside
    other = Car(2, lambda t: 195.5 - v * (t0 - t), lambda _t: v, alive=lambda t: t < t0 + 0.3)
    other.heading = 90.0 - degrees(atan2(aside, v))
    while w.t < 10.0:
        other.y = lane_y(2) + (1.1 - aside * (t0 - w.t) if aside else 0.3)
        w.run([stands, other], round(w.t + 0.1, 6))
    assert bool(w.of("NEAR_MISS")) == found


def test_a_wrong_way_driver_and_who_comes_towards_him():
    w = motorway()
    ghost = Car(1, lambda t: 600.0 - 20.0 * t, lambda _t: 20.0, lane=2, heading=270.0, alive=lambda t: t < 9.0)
    w.run([ghost, cruising(2, 100.0, 30.0, alive=lambda t: t < 9.0)], 12.0)
    assert w.of("NEAR_MISS")[0][1].tracks == [1, 2]


def test_who_joins_a_queue_late_is_none_but_by_emergency_braking():
    def join(decel: float) -> World:
        w = World(street_nodes())
        queue = [parked(i, 297.0 - 7.0 * i, lane=1, arrives=1.0, speed=12.0) for i in range(4)]
        last = hard(9, 297.0 - 7.0 * 4, decel, 8.0, 14.0, lane=1)
        w.run([*queue, last], 12.0, lambda t: w.light(t, 3))
        return w

    assert not join(4.8).of("NEAR_MISS")
    assert join(9.0).of("NEAR_MISS")


def crossing_nodes():
    """A street whose junction lies between S1 and S2 (300 to 320 m), and one that crosses it there."""
    nodes = street_nodes()
    nodes[0]["links"] = nodes[0]["links"][:1]  # without its crosswalk
    return nodes


@pytest.mark.parametrize(("late", "found"), [(0.0, True), (2.5, False)])
def test_two_whose_ways_cross_in_a_junction(late, found):
    w = World(crossing_nodes())
    ours = cruising(1, 310.0 - 12.0 * 6.0, 12.0, lane=1, alive=lambda t: t < 5.95)
    other = Car(2, lambda _t: 310.0, lambda _t: 10.0, heading=0.0, alive=ours.alive)
    while w.t < 8.0:
        other.y = lane_y(1) + 10.0 * (w.t - 6.0 - late)
        w.run([ours, other], round(w.t + 0.1, 6))
    assert bool(w.of("NEAR_MISS")) == found
    if found:
        assert w.of("NEAR_MISS")[0][1].tracks == [1, 2]
        assert len(w.ids("NEAR_MISS")) == 1


@pytest.mark.parametrize(("until_deg", "found"), [(45.0, True), (90.0, False)])
def test_who_turns_into_the_next_lane_would_meet_us_only_if_he_went_on_straight(until_deg, found):
    w = World(crossing_nodes())
    mid, radius, v = 6.0, 12.0, 8.0  # at second ``mid`` it heads north-east; the arc ends in our lane 2
    ours = cruising(1, 307.0 - 12.0 * mid, 12.0, lane=1, alive=lambda t: t < mid + 0.5)

    def state(t: float) -> tuple[float, float, float]:
        way_on = v * (t - mid) + radius * pi / 4
        turned = min(max(way_on / radius, 0.0), radians(until_deg))
        rest = way_on - radius * turned
        x = 322.0 - radius * cos(turned) + rest * sin(turned)
        return x, lane_y(2) - radius + radius * sin(turned) + rest * cos(turned), degrees(turned)

    other = Car(2, lambda t: state(t)[0], lambda _t: v, alive=ours.alive)
    while w.t < 8.0:
        _, other.y, other.heading = state(w.t)
        w.run([ours, other], round(w.t + 0.1, 6))
    assert bool(w.of("NEAR_MISS")) == found


def test_a_pedestrian_in_the_road_before_a_fast_car_is_grave():
    w = motorway()
    walker = Car(1, lambda _t: 500.0, lambda _t: 0.0, lane=2, cls=10, length=0.5, alive=lambda t: t < 9.9)
    w.run([walker, cruising(2, 500.0 - 250.0, 25.0, alive=lambda t: t < 9.9)], 12.0)
    told = [c for _, c in w.of("NEAR_MISS")]
    assert told[0].level == 3
    assert told[0].tracks == [1, 2]


def test_a_bus_at_its_stop_and_who_waits_or_boards_there_is_none():
    w = World(street_nodes())
    bus = parked(1, 150.0, lane=2, arrives=3.0, speed=10.0, leaves=15.0, cls=6, length=12.0)
    people = [
        Car(
            10 + i,
            lambda _t, i=i: 150.0 + 2 * i,
            lambda _t, i=i: 1.2 if i else 0.0,
            y=-7.9 - 0.4 * i,
            cls=10,
            heading=0.0,
        )
        for i in range(4)
    ]
    boards = Car(20, lambda _t: 155.0, lambda _t: 1.0, y=lane_y(2) - 1.3, cls=10, heading=0.0)
    boards.alive = lambda t: 6.0 <= t < 9.0
    w.run([bus, *people, boards], 25.0)
    assert not w.of("NEAR_MISS")


def test_who_waits_at_the_kerb_or_crosses_far_ahead_is_none():
    w = World(street_nodes())
    kerb = Car(1, lambda _t: 301.0, lambda _t: 1.2, y=-8.2, cls=10, heading=0.0)
    w.run([kerb, cruising(2, 100.0, 13.0, lane=2, alive=lambda t: t < 20)], 20.0)
    assert not w.of("NEAR_MISS")


# -- red lights -------------------------------------------------------------------------------------------------------
def run_through(w: World, speed: float = 12.0, red_from: float = 0.0, light: int = 3, **kw) -> None:
    car = cruising(1, 300.0 - speed * 8.0, speed, lane=1, **kw)
    w.run([car], 14.0, lambda t: w.light(t, light if t >= red_from else 6) if round(t * 10) % 5 == 0 else None)


def test_who_drives_over_the_line_on_red_is_one_from_that_moment_on():
    w = World(street_nodes())
    run_through(w)
    assert w.told() == ["RED_LIGHT ADDED", "RED_LIGHT ENDED"]
    t, told = w.changes[0]
    assert seconds(told.start_ms) == pytest.approx(8.0, abs=0.15)
    assert 8.0 < t <= 8.7
    assert (told.code, told.level, told.tracks) == (0, 2, [1])


@pytest.mark.parametrize("light", [6, 5, 7, 4, 8, 1, 0, 2])
def test_any_other_light_is_none(light):
    w = World(street_nodes())
    run_through(w, light=light)
    assert not w.of("RED_LIGHT")


@pytest.mark.parametrize(("red_from", "found"), [(7.5, False), (6.5, True)])
def test_the_margin_after_the_light_has_turned_red(red_from, found):
    w = World(street_nodes())
    run_through(w, red_from=red_from)
    assert bool(w.of("RED_LIGHT")) == found


def test_without_fresh_spat_nothing_is_known():
    w = World(street_nodes())
    car = cruising(1, 300.0 - 12.0 * 8.0, 12.0, lane=1)
    w.run([car], 14.0, lambda t: w.light(t, 3) if t < 4.0 else None)
    assert not w.of("RED_LIGHT")


def test_who_stops_a_little_beyond_the_line_and_goes_on_green_is_none():
    w = World(street_nodes())
    w.run(
        [parked(1, 301.5, lane=1, arrives=6.0, leaves=14.0, speed=12.0)],
        25.0,
        lambda t: w.light(t, 3 if t < 14.0 else 6),
    )
    assert not w.of("RED_LIGHT")


def test_a_pedestrian_or_a_cyclist_is_none():
    for cls in (7, 10):
        w = World(street_nodes())
        run_through(w, cls=cls)
        assert not w.of("RED_LIGHT")


def right_turn_nodes():
    """S1's lane 2 goes straight to S2 or right to R1 (southward from 310 m); one phase for both."""
    nodes = street_nodes()
    for lane in nodes[0]["links"][0]["lanes"]:
        if lane["lane_id"] == 2:
            lane["connections"] = [way(22, 2, 1), way(23, 1, 1) | {"maneuver": 4}]
    south = lane_dict(1, 0, 0, REF)
    a, b = FRAME.e7(312.0, -16.0), FRAME.e7(312.0, -200.0)
    south["points"] = [{"d_lat": p[0] - REF[0], "d_lon": p[1] - REF[1]} for p in (a, b)]
    return [*nodes, node_dict(23, [link_dict("R1", 21, 3, [south])])]


@pytest.mark.parametrize(("turns", "found"), [(False, True), (True, False)])
def test_who_may_turn_right_is_told_only_when_he_went_straight(turns, found):
    w = World(right_turn_nodes())

    def where(t: float) -> tuple[float, float, float]:
        s = 12.0 * (t - 8.0)  # beyond the line
        if not turns or s <= 8.0:
            return 300.0 + s, lane_y(2), 90.0
        if s <= 20.0:
            share = (s - 8.0) / 12.0
            return 308.0 + 4.0 * share, lane_y(2) - 11.0 * share, 90.0 + 90.0 * share
        return 312.0, lane_y(2) - 11.0 - (s - 20.0), 180.0

    car = Car(1, lambda t: where(t)[0], lambda _t: 12.0)
    while w.t < 14.0:
        _, car.y, car.heading = where(w.t)
        w.light(w.t, 3)
        w.run([car], round(w.t + 0.1, 6))
    assert bool(w.of("RED_LIGHT")) == found


def test_in_another_zone_lanes_have_other_indices():
    w = World(street_nodes())
    w.run([cruising(1, 300.0 - 12.0 * 8.0, 12.0, lane=1)], 8.2, lambda t: w.light(t, 3))
    row = w.det.table.row(1)
    assert row is not None
    ints, reals = row
    assert ints[k.RED_STATE] > 0
    assert ints[k.FROM_LANE] > 0
    ints[k.MOVED], reals[k.HISTORY - 1] = w.det.now, 0.0  # so that there is something to hand over
    ghost = unpack(
        pack(w.det.table, w.det.book, 1, w.det.now), 1, w.det.now, (0.0, 0.0, 0.0, 0.0), w.det.book.frame
    ).ghost
    assert ghost is not None
    assert (ghost.ints[k.FROM_LANE], ghost.ints[k.RED_STATE]) == (0, 0)


# -- state ------------------------------------------------------------------------------------------------------------
def test_state_goes_through_a_snapshot_at_any_step_without_a_trace():
    def crew() -> list[Car]:
        slow = cruising(5, 100.0, 8.0, lane=2)
        return [
            cruising(1, 300.0 - 12.0 * 8.0, 12.0, lane=1),
            hard(2, 150.0, 7.0, 6.0, 14.0, lane=1), hard(3, 145.2, 9.0, 6.5, 14.0, lane=1),
            slow, closing(6, slow, 20.0, 10.0, 8.0, 7.5),
        ]  # fmt: skip

    def spat(w: World):
        return lambda t: w.light(t, 3) if round(t * 10) % 5 == 0 else None

    straight = World(street_nodes())
    straight.run(crew(), 18.0, spat(straight))
    broken = World(street_nodes())
    for until in [x / 2 for x in range(1, 37)]:
        broken.run(crew(), until, spat(broken))
        broken.restart()
    assert broken.changes == straight.changes
    assert {"ACCIDENT", "NEAR_MISS", "RED_LIGHT"} <= {c.kind for _, c in straight.changes}
