"""Signals that fail, and what is none: a lost message, a lamp test, night, an RSU that is dead as a whole."""

from __future__ import annotations

import pytest
from tests.unit.events_world import FRAME, REF, T0, World, lane_dict, link_dict, node_dict, way
from v2x.events.signals import crossing_phases


def seconds(ms: int) -> float:
    return (ms - T0) / 1000


def line(lane: int, a: tuple[float, float], b: tuple[float, float], **over):
    points = [FRAME.e7(*p) for p in (a, b)]
    return lane_dict(lane, 0, 0, REF, points=[{"d_lat": p[0] - REF[0], "d_lon": p[1] - REF[1]} for p in points], **over)


def crossroads():
    """Node 21 at the origin: from west (W, phase 1), east (E, 1; its left turn south 3) and south (S, phase 2)."""
    west = line(1, (-200, -2), (-12, -2), connections=[way(31, 1, 1)])
    east = line(1, (200, 2), (12, 2), connections=[way(32, 1, 1), way(33, 1, 3) | {"maneuver": 2}])
    south = line(1, (2, -200), (2, -12), connections=[way(34, 1, 2)])
    links = [link_dict(n, up, 3, [lane]) for n, up, lane in (("W", 41, west), ("E", 42, east), ("S", 43, south))]
    outs = [
        (31, link_dict("toE", 21, 3, [line(1, (12, -2), (200, -2))])),
        (32, link_dict("toW", 21, 3, [line(1, (-12, 2), (-200, 2))])),
        (33, link_dict("toS", 21, 3, [line(1, (-2, -12), (-2, -200))])),
        (34, link_dict("toN", 21, 3, [line(1, (2, 12), (2, 200))])),
    ]
    return [node_dict(21, links), *(node_dict(n, [link]) for n, link in outs)]


def say(w: World, t: float, one: int, two: int, three: int = 3, status: int = 0) -> None:
    lights = [{"phase_id": i + 1, "light": light} for i, light in enumerate((one, two, three))]
    w.spat(t, {"region": 1, "node": 21, "status": status, "phases": lights})


def usual(w: World, t: float) -> None:
    phase = int(t / 10) % 2
    say(w, t, 6 if phase else 3, 3 if phase else 6)


def half(t: float) -> bool:
    return round(t * 10) % 5 == 0


def test_the_ways_that_cross_are_found_on_the_map():
    w = World(crossroads())
    # Both ways of 1 (west to east, east to west) run side by side; 2 is south to north, 3 east to south.
    assert crossing_phases(w.road, (1, 21)) == [(1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize("how", ["both straight on", "left turn against straight on"])
def test_conflicting_greens_are_a_failure_of_the_worst_level(how):
    w = World(crossroads())

    def each(t):
        if half(t):
            if 10 <= t < 20:
                say(w, t, 6, *((6, 3) if how == "both straight on" else (3, 6)))
            else:
                usual(w, t)

    w.run([], 40.0, each)
    assert w.told() == ["SIGNAL_FAILURE ADDED", "SIGNAL_FAILURE ENDED"]
    (t, added), (_, ended) = w.changes
    assert (added.code, added.level, added.tracks) == (0, 3, [])
    assert added.sources[0]["ref"] == "1.21"
    assert t == pytest.approx(12.0, abs=0.2)
    assert (seconds(added.start_ms), seconds(ended.end_ms)) == (
        pytest.approx(10.0, abs=0.2),
        pytest.approx(20.0, abs=0.2),
    )
    east, north = FRAME.point(added.lat, added.lon)
    assert abs(east) < 15
    assert abs(north) < 15


@pytest.mark.parametrize(
    "lights", [(6, 3, 3), (5, 5, 5), (3, 3, 3), (8, 8, 8), (2, 2, 8), (7, 6, 3), (6, 0, 1)],
    ids=["one", "permissive", "all red", "night", "flashing", "yellow", "unknown"],
)  # fmt: skip
def test_what_is_allowed_is_no_failure(lights):
    w = World(crossroads())
    w.run([], 30.0, lambda t: say(w, t, *lights) if half(t) else None)
    assert w.changes == []


def test_a_moment_of_conflicting_greens_or_of_darkness_is_none():
    w = World(crossroads())

    def each(t):
        if half(t):
            if round(t) % 10 == 0 and t % 10 < 1.0:
                say(w, t, 6, 6)
            elif 13 <= t < 17:
                say(w, t, 1, 1, 1)  # a lamp test
            else:
                usual(w, t)

    w.run([], 40.0, each)
    assert w.changes == []


@pytest.mark.parametrize(
    ("lights", "status"), [((1, 1, 1), 0), ((3, 3, 3), 1 << 2), ((0, 0, 0), 1 << 8), ((1, 1, 1), 1 << 9)]
)
def test_all_dark_or_out_of_order_by_its_own_word(lights, status):
    w = World(crossroads())
    w.run([], 30.0, lambda t: (say(w, t, *lights, status=status) if t > 10 else usual(w, t)) if half(t) else None)
    assert w.told() == ["SIGNAL_FAILURE ADDED"]
    assert w.changes[0][1].level == 2
    assert w.changes[0][0] == pytest.approx(15.5, abs=0.3)


def silent(w: World, gap: tuple[float, float], heartbeat: tuple[float, float] = (0.0, 1e9)) -> None:
    def each(t):
        if half(t) and not gap[0] <= t < gap[1]:
            usual(w, t)
        if round(t * 10) % 100 == 0 and heartbeat[0] <= t < heartbeat[1]:
            w.det.alive("RSU-1", T0 + round(t * 1000))

    w.run([], 80.0, each)


def test_spat_that_ceases_while_its_rsu_goes_on():
    w = World(crossroads())
    silent(w, (20.0, 50.0))
    assert w.told() == ["SIGNAL_FAILURE ADDED", "SIGNAL_FAILURE ENDED"]
    (t, added), _ = w.changes
    assert added.level == 1
    assert 30.0 <= t <= 41.0  # the heartbeat comes each 10 s
    assert 19.5 <= seconds(added.start_ms) <= 31.0


def test_silence_counts_from_the_last_word_where_the_rsu_is_heard_often():
    w = World(crossroads())

    def each(t):
        w.det.alive("RSU-1", T0 + round(t * 1000))
        if half(t) and not 20.0 <= t < 50.0:
            usual(w, t)

    w.run([], 60.0, each)
    (t, added), (_, ended) = w.changes
    assert t == pytest.approx(29.6, abs=0.3)  # 10 s after 19.5
    assert seconds(added.start_ms) == pytest.approx(19.5, abs=0.3)
    assert seconds(ended.end_ms) == pytest.approx(50.0, abs=0.2)


@pytest.mark.parametrize(
    ("gap", "heartbeat"),
    [
        ((20.0, 20.9), (0.0, 1e9)),
        ((20.0, 28.0), (0.0, 1e9)),
        ((20.0, 60.0), (0.0, 19.0)),
        ((0.0, 90.0), (0.0, 1e9)),
        ((1.6, 90.0), (0.0, 1e9)),
    ],
    ids=["one message", "some messages", "the whole RSU", "never spoke", "hardly spoke"],
)
def test_a_gap_is_no_failure(gap, heartbeat):
    w = World(crossroads())
    silent(w, gap, heartbeat)
    assert w.changes == []


def test_when_its_rsu_is_not_heard_any_more_either_the_failure_is_over():
    w = World(crossroads())
    silent(w, (20.0, 79.0), (0.0, 31.0))
    assert w.told() == ["SIGNAL_FAILURE ADDED", "SIGNAL_FAILURE ENDED"]
    assert seconds(w.changes[-1][1].end_ms) == pytest.approx(45.0, abs=0.3)


def test_an_outage_of_the_input_is_no_failure():
    w = World(crossroads())
    w.run([], 10.0, lambda t: usual(w, t) if half(t) else None)
    w.t = 300.0
    w.det.alive("RSU-1", T0 + 300_000)
    w.run([], 301.0)
    w.run([], 320.0, lambda t: usual(w, t) if half(t) else None)
    assert w.changes == []


def test_without_a_map_there_is_no_place_and_no_event():
    w = World(crossroads())
    w.run([], 20.0, lambda t: w.spat(t, {"region": 1, "node": 77, "phases": [{"phase_id": 1, "light": 1}]}))
    assert w.changes == []
    assert w.det.counters["signal_without_map"] == 1


def test_a_neighbours_signals_are_seen_but_not_judged():
    w = World(crossroads())
    w.own = False
    w.run([], 20.0, lambda t: say(w, t, 1, 1, 1) if half(t) else None)
    assert w.changes == []


def test_the_phases_of_a_message_may_change_and_come_in_any_order():
    w = World(crossroads())

    def lights():
        return {row[2]: row[3] for row in w.det.signals.state()["phases"]}

    say(w, 1.0, 6, 3, 3)
    w.spat(2.0, {"region": 1, "node": 21, "phases": [{"phase_id": 3, "light": 6}, {"phase_id": 1, "light": 3}]})
    assert lights() == {1: 3, 2: 3, 3: 6}
    w.spat(
        3.0, {"region": 1, "node": 22, "phases": []}, {"region": 1, "node": 21, "phases": [{"phase_id": 2, "light": 5}]}
    )
    assert lights() == {1: 3, 2: 5, 3: 6}
    w.spat(2.5, {"region": 1, "node": 21, "phases": [{"phase_id": 2, "light": 7}]})  # late
    assert lights()[2] == 5


def test_state_goes_through_a_snapshot_at_any_step_without_a_trace():
    def each(w: World):
        def feed(t):
            if half(t):
                if t < 10:
                    usual(w, t)
                elif t < 20:
                    say(w, t, 6, 6)
                elif t < 30:
                    say(w, t, 1, 1, 1)
            if round(t * 10) % 100 == 0:
                w.det.alive("RSU-1", T0 + round(t * 1000))

        return feed

    straight, broken = World(crossroads()), World(crossroads())
    straight.run([], 60.0, each(straight))
    for until in [x / 2 for x in range(1, 121)]:
        broken.run([], until, each(broken))
        broken.restart()
    assert broken.changes == straight.changes
    assert [c.level for _, c in straight.changes if c.status != "ENDED"] == [3, 2, 1]
    assert len(straight.ids()) == 2  # the same failure may change its nature; for its silence one must wait
