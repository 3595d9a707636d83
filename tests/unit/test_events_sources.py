"""One incident is one event for each pair of sources: RSI, a vehicle's own flags, detection, gantries, poles.

And what an event says of a congestion: by lane, and how fast it grows.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from tests.unit.events_world import FRAME, T0, Car, World, bsm, lane_y, motorway_nodes, parked, rte
from v2x.events import EventChange
from v2x.events.witness import FLAG_AIRBAG, FLAG_HAZARD

GANTRY = ("G-2", 1000.0, -8.0, 1000.0, 90.0)  # device, middle, half length, course of the section M1 and M2


def motorway() -> World:
    return World(motorway_nodes())


def hertz(t: float, every: float = 1.0) -> bool:
    return round(t * 10) % round(every * 10) == 0


def section(t: float, level: int, speed: float = 8.0, **over: int) -> dict:
    """A row of link_state: the window that ended at t."""
    ms = T0 + round(t * 1000)
    row = {
        "link": "A>B",
        "from_ms": ms - 60_000,
        "to_ms": ms,
        "level": level,
        "speed": round(speed * 100),
        "vehicles": 9,
    }
    return row | over


def queue(n: int, head: float, lane: int = 2, first: int = 100) -> list[Car]:
    return [parked(first + i, head - 9.0 * i, lane, arrives=2.0 + 2.0 * i) for i in range(n)]


# -- each pair of sources ---------------------------------------------------------------------------------------------
ACCIDENT = {
    "RSI": lambda w, t: w.det.rsi(rte(t, 100, 505.0)) if hertz(t) else None,
    "RSI of a stop": lambda w, t: w.det.rsi(rte(t, 903, 490.0, device="RSU-2")) if hertz(t) else None,
    "air bag": lambda w, t: w.det.bsm_flags(bsm(t, 500.0, flags=FLAG_AIRBAG)) if t > 4 else None,
    "detection": lambda _w, _t: None,
}
KIND = {"RSI": 1, "RSI of a stop": 1, "air bag": 2, "detection": 0}


@pytest.mark.parametrize("names", list(combinations(ACCIDENT, 2)), ids=" and ".join)
def test_an_accident_is_one_event_whoever_reports_it(names):
    w = motorway()

    def each(t):
        return [c for name in names for c in ACCIDENT[name](w, t) or []]

    alone = "detection" in names or "air bag" in names
    w.run([parked(1, 500.0, arrives=4.0)] if alone else [], 20.0, each)
    assert len(w.ids()) == 1
    last = w.changes[-1][1]
    assert last.kind == ("STOPPED_VEHICLE" if set(names) == {"RSI of a stop", "detection"} else "ACCIDENT")
    kinds = {s["kind"] for s in last.sources}
    assert kinds == {KIND[n] for n in names} | ({0} if alone else set())
    doubt = 1.0
    for source in last.sources:
        assert source["confidence"] > 0
        doubt *= 1 - source["confidence"] / 200
    assert last.confidence == pytest.approx(200 * (1 - doubt), abs=1)


@pytest.mark.parametrize("first", ["RSI", "flags", "detection"])
def test_a_breakdown_is_one_event_in_whatever_order_it_is_told(first):
    w = motorway()
    begin = {"RSI": 12.0, "flags": 12.0, "detection": 4.0} | {first: 0.0 if first == "RSI" else 4.0}
    if first == "RSI":
        begin["detection"] = 9.0

    def each(t):
        if t >= begin["flags"]:
            w.det.bsm_flags(bsm(t, 500.0, flags=FLAG_HAZARD))
        return w.det.rsi(rte(t, 101, 510.0)) if hertz(t) and t >= begin["RSI"] else None

    w.run([parked(1, 500.0, arrives=begin["detection"])], 30.0, each)
    assert len(w.ids()) == 1
    assert {s["kind"] for s in w.changes[-1][1].sources} == {0, 1, 2}
    assert w.changes[-1][1].kind == "BREAKDOWN"


CONGESTION = {
    "RSI": lambda w, t: w.det.rsi(rte(t, 707, 760.0, speed=100, queue=90)) if hertz(t) else None,
    "gantries": lambda w, t: w.det.section(section(t, 5), *GANTRY) if hertz(t, 10.0) else None,
    "detection": lambda _w, _t: None,
}


@pytest.mark.parametrize("names", [*combinations(CONGESTION, 2), tuple(CONGESTION)], ids=" and ".join)
def test_a_congestion_is_one_event_whoever_reports_it(names):
    w = motorway()
    w.run(
        queue(10, 800.0) if "detection" in names else [],
        40.0,
        lambda t: [c for name in names for c in CONGESTION[name](w, t) or []],
    )
    assert len(w.ids("CONGESTION")) == 1
    assert len(w.ids("CONGESTION", "STOPPED_VEHICLE", "BREAKDOWN")) <= 2  # the queue's head
    last = w.of("CONGESTION")[-1][1]
    assert {s["kind"] for s in last.sources} == {{"RSI": 1, "gantries": 3, "detection": 0}[n] for n in names}


# -- gantries ---------------------------------------------------------------------------------------------------------
def test_a_section_that_is_congested_by_travel_times_is_an_event_until_it_is_free_or_silent():
    w = motorway()
    levels = {0: 2, 20: 3, 30: 4, 40: 5, 50: 5, 60: 2, 70: 5}

    def each(t):
        return w.det.section(section(t, levels[round(t)]), *GANTRY) if hertz(t, 10.0) and round(t) in levels else None

    w.run([], 130.0, each)
    assert [(c.status, c.level) for _, c in w.changes] == [
        ("ADDED", 1), ("MODIFIED", 2), ("MODIFIED", 3), ("ENDED", 3), ("ADDED", 3), ("ENDED", 3),
    ]  # fmt: skip
    added = w.changes[0][1]
    assert (added.code, added.speed, added.radius, added.lanes) == (707, 400, 10000, [])
    assert added.sources == [{"device": "G-2", "kind": 3, "ref": "A>B", "confidence": 140}]
    assert (w.changes[3][1].end_ms - T0) / 1000 == 60.0
    assert (w.changes[5][1].end_ms - T0) / 1000 == 70.0


def test_a_section_of_the_other_carriageway_is_another_congestion():
    w = motorway()
    back = ("G-9", 1000.0, 8.0, 1000.0, 270.0)
    w.run(queue(10, 800.0), 40.0, lambda t: w.det.section(section(t, 5), *back) if hertz(t, 10.0) else None)
    assert len(w.ids("CONGESTION")) == 2


def test_old_windows_and_those_with_too_few_vehicles_say_nothing():
    w = motorway()
    w.run([], 100.0)
    w.run([], 130.0, lambda t: w.det.section(section(t - 60, 5), *GANTRY) + w.det.section(section(t, 0), *GANTRY))
    assert w.changes == []


# -- a congestion by lane, and its growth -----------------------------------------------------------------------------
def current(w: World) -> EventChange:
    """The open congestion as it would be told now."""
    (event,) = [e for e in w.det.book.open.values() if e.kind == "CONGESTION"]
    return event.change("Z", w.road.frame, "MODIFIED", 0)


def test_a_congestion_tells_its_lanes_apart():
    w = motorway()
    w.run([*queue(9, 800.0, 1), *queue(6, 790.0, 3, 200)], 40.0)
    last = current(w)
    assert [(x["link"], x["lane"], x["level"], x["vehicles"]) for x in last.lanes] == [("M1", 1, 3, 9), ("M1", 3, 3, 6)]
    for lane, (head, n) in zip(last.lanes, ((800.0, 9), (790.0, 6)), strict=True):
        assert lane["queue"] == pytest.approx(9 * (n - 1) + 4.5, abs=2)
        east, north = FRAME.point(lane["tail_lat"], lane["tail_lon"])
        assert east == pytest.approx(head - 9 * (n - 1), abs=1.0)
        assert north == pytest.approx(lane_y(lane["lane"]), abs=0.1)


def creeping(lane: int, first: int, v: float) -> list[Car]:
    return [Car(first + i, lambda t, i=i: 300.0 - 14.0 * i + v * t, lambda _t: v, lane) for i in range(8)]


def test_each_lane_has_its_own_level():
    w = motorway()
    w.run([*creeping(1, 100, 7.6), *creeping(2, 200, 3.0)], 20.0)
    last = w.of("CONGESTION")[-1][1]
    assert {x["lane"]: x["level"] for x in last.lanes} == {1: 1, 2: 3}
    assert {x["lane"]: round(x["speed"] * 0.02, 1) for x in last.lanes} == {1: 7.6, 2: 3.0}


@pytest.mark.parametrize(("every_s", "rate"), [(2.0, 4.5), (4.0, 2.25)])
def test_the_growth_is_what_the_queue_gains(every_s, rate):
    w = motorway()
    cars = [parked(100 + i, 900.0 - 9.0 * i, arrives=2.0 + every_s * i) for i in range(40)]
    told = []
    while w.t < 60.0:
        w.run(cars, w.t + 0.1)
        told += [current(w).growth] if w.t > 40.0 else []
    assert sum(told) / len(told) == pytest.approx(100 * rate, rel=0.1)
    assert max(abs(growth - 100 * rate) for growth in told) < 110  # a vehicle that joins is a step of the queue
    w.run(cars[: round(60 / every_s)], 140.0)
    assert abs(current(w).growth) < 30  # nobody comes any more


def test_a_queue_that_dissolves_from_its_front_shrinks():
    w = motorway()
    cars = [parked(100 + i, 900.0 - 9.0 * i, arrives=2.0 + i, leaves=40.0 + 2.0 * i, speed=15.0) for i in range(20)]
    w.run(cars, 66.0)
    assert current(w).growth < -150


def test_state_goes_through_a_snapshot_at_any_step_without_a_trace():
    def each(w: World):
        return lambda t: w.det.section(section(t, 4), *GANTRY) if hertz(t, 10.0) else None

    cars = [*queue(9, 800.0, 1), *creeping(2, 200, 3.0)]
    straight, broken = motorway(), motorway()
    straight.run(cars, 40.0, each(straight))
    for until in [float(x) for x in range(1, 41)]:
        broken.run(cars, until, each(broken))
        broken.restart()
    assert broken.changes == straight.changes
