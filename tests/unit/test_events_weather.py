"""Weather and road surface: from poles, from the flags of several vehicles, and both with an RSI as one event."""

from __future__ import annotations

import pytest
from tests.unit.events_world import FRAME, T0, World, bsm, cruising, lane_y, motorway_nodes, rte
from v2x.events.witness import FLAG_ABS, FLAG_STABILITY, FLAG_TRACTION, FLAG_WIPERS


def motorway() -> World:
    return World(motorway_nodes())


def seconds(ms: int) -> float:
    return (ms - T0) / 1000


def pole(x: float = 500.0, **over: int) -> dict[str, int]:
    """A dry pole beside the shoulder, some of it otherwise."""
    lat, lon = FRAME.e7(x, lane_y(4) - 1.0)
    row = {
        "lat": lat, "lon": lon, "ele": 50, "visibility": 8000, "rain": 0, "surface": 1, "water_film": 0,
        "friction": 80, "surface_temp": 200, "air_temp": 200, "humidity": 600, "wind_speed": 20, "wind_dir": 0,
    }  # fmt: skip
    return row | over


def every(t: float, s: float = 5.0) -> bool:
    return round(t * 10) % round(s * 10) == 0


NONE = {"visibility": 65535, "rain": 65535, "surface": 0, "water_film": 65535, "friction": 101, "surface_temp": 1001}
BAD = [
    ("FOG", 305, 1, {"visibility": 180}),
    ("FOG", 305, 2, {"visibility": 90}),
    ("FOG", 305, 3, {"visibility": 40}),
    ("RAIN", 301, 1, {"rain": 30}),
    ("RAIN", 301, 2, {"rain": 80}),
    ("RAIN", 301, 3, {"rain": 250}),
    ("STANDING_WATER", 407, 2, {"surface": 4}),
    ("STANDING_WATER", 407, 2, {"surface": 3, "water_film": 260}),
    ("SLIPPERY", 408, 2, {"friction": 35, "surface": 3}),
    ("SLIPPERY", 408, 2, {"surface": 5}),
    ("ICE", 409, 2, {"surface": 6}),
    ("ICE", 409, 2, {"surface": 0, "friction": 20, "surface_temp": -20}),
]


@pytest.mark.parametrize(("kind", "code", "level", "bad"), BAD)
def test_a_pole_that_measures_it_for_its_dwell_time_makes_an_event_until_it_is_over(kind, code, level, bad):
    w = motorway()

    def each(t):
        if every(t):
            w.det.env("POLE-1", T0 + round(t * 1000), pole(**(bad if 10 <= t < 60 else {})))

    w.run([], 240.0, each)
    assert w.told() == [f"{kind} ADDED", f"{kind} ENDED"]
    (t, added), (_, ended) = w.changes
    assert (added.code, added.level) == (code, level)
    assert (seconds(added.start_ms), seconds(ended.end_ms)) == (10.0, 60.0)
    assert 20.0 <= t <= 20.3
    assert added.sources == [{"device": "POLE-1", "kind": 4, "ref": kind, "confidence": added.confidence}]
    assert (added.link, added.tracks) == ("M1", [])


def test_a_single_measurement_or_none_at_all_is_no_event():
    w = motorway()

    def each(t):
        if every(t):
            w.det.env("POLE-1", T0 + round(t * 1000), pole(visibility=50) if t == 10 else pole(**NONE))

    w.run([], 60.0, each)
    assert w.changes == []
    w.run([], 70.0, lambda t: w.det.env("P", T0 + round(t * 1000), pole(lat=900000001, visibility=20)))
    assert w.changes == []
    assert w.det.counters["pole_no_position"] > 0


def test_between_the_bounds_it_goes_on_and_the_level_follows():
    w = motorway()
    seen = {0: 150, 40: 220, 140: 80, 180: 8000}

    def each(t):
        if every(t):
            value = next(v for at, v in reversed(seen.items()) if t >= at)
            w.det.env("POLE-1", T0 + round(t * 1000), pole(visibility=value))

    w.run([], 300.0, each)
    fog = [c for _, c in w.of("FOG")]
    assert [(c.status, c.level) for c in fog] == [("ADDED", 1), ("MODIFIED", 2), ("ENDED", 2)]
    assert seconds(fog[-1].end_ms) == 180.0


def test_a_pole_that_falls_silent_takes_its_word_back():
    w = motorway()

    def each(t):
        if every(t) and t < 30:
            w.det.env("POLE-1", T0 + round(t * 1000), pole(visibility=100))

    w.run([], 120.0, each)
    assert w.told() == ["FOG ADDED", "FOG ENDED"]
    assert seconds(w.changes[-1][1].end_ms) == 25.0
    assert 85.0 < w.changes[-1][0] < 86.0


def test_poles_in_one_fog_and_an_rsi_are_one_event_and_poles_far_apart_are_two():
    w = motorway()

    def each(t):
        if not every(t):
            return None
        for n, x in enumerate((0.0, 900.0, 1800.0)):
            w.det.env(f"POLE-{n}", T0 + round(t * 1000), pole(x, visibility=100))
        return w.det.rsi(rte(t, 305, 500.0))

    w.run([], 60.0, each)
    assert len(w.ids()) == 1
    last = w.changes[-1][1]
    assert {(s["device"], s["kind"]) for s in last.sources} == {("RSU-1", 1), *((f"POLE-{n}", 4) for n in range(3))}
    assert last.confidence > 190
    w = motorway()

    def two(t):
        if every(t):
            for n, x in enumerate((0.0, 900.0)):
                w.det.env(f"POLE-{n}", T0 + round(t * 1000), pole(x, surface=4))

    w.run([], 60.0, two)
    assert len(w.ids("STANDING_WATER")) == 2


def test_of_the_surface_a_pole_says_one_thing_and_when_it_gets_worse_it_is_the_same_event():
    w = motorway()

    def each(t):
        if every(t):
            w.det.env(
                "POLE-1", T0 + round(t * 1000), pole(**({"friction": 35} if t < 40 else {"surface": 6, "friction": 15}))
            )

    w.run([], 200.0, each)
    assert len(w.ids()) == 1
    assert w.changes[0][1].kind == "SLIPPERY"
    assert w.changes[-1][1].kind == "ICE"
    assert {s["ref"] for s in w.changes[-1][1].sources} == {"ICE"}


# -- flags ------------------------------------------------------------------------------------------------------------
def skid(w: World, flags: int, who: dict[int, tuple[float, float]], **over):
    """Vehicles (track -> second, place) at 25 m/s that set the flags for 0.5 s when they are at the place."""
    cars = [cruising(i, x - 25.0 * at, 25.0) for i, (at, x) in who.items()]

    def each(t):
        for car, (at, _) in zip(cars, who.values(), strict=True):
            set_now = at <= t < at + 0.5
            w.det.bsm_flags(
                bsm(t, car.x(t), flags=flags if set_now else 0, device=f"OBU-{car.id}", temp_id=f"t{car.id}")
                | (over if set_now else {})
            )

    return cars, each


SKIDS = [
    (FLAG_ABS, {}), (FLAG_TRACTION, {}), (FLAG_STABILITY, {}), (0, {"abs": 3}), (0, {"traction": 3}), (0, {"scs": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "over"), SKIDS)
def test_several_vehicles_that_skid_at_one_place_say_that_it_is_slippery(flags, over):
    w = motorway()
    w.run(*_with_end(skid(w, flags, {1: (5.0, 500.0), 2: (15.0, 520.0), 3: (25.0, 510.0)}, **over), 30.0))
    t, told = w.of("SLIPPERY")[0]
    assert 25.0 <= t <= 25.3
    assert seconds(told.start_ms) == pytest.approx(5.0, abs=0.01)
    assert {(s["device"], s["kind"]) for s in told.sources} == {(f"OBU-{i}", 2) for i in (1, 2, 3)}
    assert told.confidence == pytest.approx(200 * (1 - 0.6**3), abs=1)
    assert len(w.ids()) == 1
    w.run([], 160.0)
    assert w.told()[-1] == "SLIPPERY ENDED"  # nobody has said so for two minutes


def _with_end(made, until: float):
    cars, each = made
    return cars, until, each


@pytest.mark.parametrize(
    "who",
    [
        {1: (5.0, 500.0)},
        {1: (5.0, 500.0), 2: (15.0, 520.0)},
        {1: (5.0, 500.0), 2: (15.0, 800.0), 3: (25.0, 200.0)},
        {1: (5.0, 500.0), 2: (5.5, 490.0), 3: (6.0, 480.0)},
        {1: (5.0, 500.0), 2: (100.0, 510.0), 3: (200.0, 500.0)},
    ],
    ids=["one", "two", "far apart", "a chain of braking", "hours apart"],
)
def test_fewer_farther_apart_or_all_at_once_is_not_slippery(who):
    w = motorway()
    w.run(*_with_end(skid(w, FLAG_ABS, who), 210.0 if len(who) == 3 else 40.0))
    assert not w.of("SLIPPERY")


def test_one_vehicle_whose_id_rotates_or_whose_track_breaks_is_one():
    w = motorway()
    car = cruising(1, 0.0, 5.0)
    w.run([car], 40.0, lambda t: w.det.bsm_flags(bsm(t, car.x(t), flags=FLAG_ABS, temp_id=f"t{int(t) // 10}")))
    assert not w.of("SLIPPERY")
    w = motorway()
    pieces = [cruising(i, 0.0, 5.0, alive=lambda t, i=i: 10 * i <= t < 10 * i + 10, born=10.0 * i) for i in range(4)]
    w.run(pieces, 40.0, lambda t: w.det.bsm_flags(bsm(t, car.x(t), flags=FLAG_ABS)))
    assert not w.of("SLIPPERY")


def test_wipers_of_five_are_rain():
    for count, found in ((4, False), (5, True)):
        w = motorway()
        who = {i: (4.0 + i, 400.0 + 60.0 * i) for i in range(1, count + 1)}
        w.run(*_with_end(skid(w, FLAG_WIPERS, who), 20.0))
        assert bool(w.of("RAIN")) == found


def test_where_a_pole_has_said_so_a_single_vehicle_is_a_further_witness():
    w = motorway()
    cars, flags = skid(w, FLAG_ABS, {1: (30.0, 520.0)})

    def each(t):
        flags(t)
        if every(t):
            w.det.env("POLE-1", T0 + round(t * 1000), pole(surface=6))

    w.run(cars, 40.0, each)
    assert len(w.ids()) == 1
    last = w.changes[-1][1]
    assert last.kind == "ICE"
    assert {s["kind"] for s in last.sources} == {2, 4}


def test_state_goes_through_a_snapshot_at_any_step_without_a_trace():
    def feed(w: World):
        cars, flags = skid(w, FLAG_ABS, {1: (5.0, 500.0), 2: (15.0, 520.0), 3: (25.0, 510.0)})

        def each(t):
            flags(t)
            if every(t):
                w.det.env("POLE-1", T0 + round(t * 1000), pole(visibility=100 if 5 < t < 40 else 8000))

        return cars, each

    straight, broken = motorway(), motorway()
    cars, each = feed(straight)
    straight.run(cars, 120.0, each)
    cars, each = feed(broken)
    for until in [float(x) for x in range(1, 121)]:
        broken.run(cars, until, each)
        broken.restart()
    assert broken.changes == straight.changes
    assert {"FOG", "SLIPPERY"} <= {c.kind for _, c in straight.changes}
