"""The score on a computed scene: perfect output scores perfectly, and each kind of fault shows where it should."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from v2x_loadtest.audit.frames import Frame
from v2x_loadtest.audit.ledger import SENT, Ledger, LedgerDevice
from v2x_loadtest.audit.log import Log, Stamped
from v2x_loadtest.scene import TruthEvent
from v2x_loadtest.scene.synthetic import synthetic_scene
from v2x_loadtest.score import score
from v2x_loadtest.score.events import score_events
from v2x_loadtest.score.gospa import gospa
from v2x_loadtest.score.tracks import _clip, samples, score_tracks
from v2x_loadtest.score.travel import score_travel
from v2x_loadtest.score.truth import EDGE_M, Truth

T0 = 1_700_000_000_000
WINDOW = (0.0, 58.0)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth(synthetic_scene())


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger([LedgerDevice("RSU-S-01", "rsu", T0)], np.zeros(0, SENT), "synthetic", T0, 0.0, 1.0, 1, 1)


# --- GOSPA ------------------------------------------------------------------


def test_gospa_by_hand() -> None:
    objects = np.array([[0.0, 0.0], [10.0, 0.0], [50.0, 0.0]])
    estimates = np.array([[10.0, 1.0], [0.0, 2.0], [80.0, 0.0]])
    got = gospa(objects, estimates)
    # Two pairs at 2 m and 1 m, one missed, one false: sqrt(4 + 1 + 12.5 * 2).
    assert got.distance == pytest.approx(math.sqrt(30))
    assert (got.missed, got.false) == (1, 1)
    assert got.localisation == pytest.approx(5)


def test_gospa_of_nothing_costs_what_is_left_over() -> None:
    nothing, one = np.zeros((0, 2)), np.zeros((1, 2))
    assert gospa(nothing, nothing).distance == 0
    assert gospa(one, nothing).distance == pytest.approx(math.sqrt(12.5))
    assert gospa(nothing, one).distance == pytest.approx(math.sqrt(12.5))


def test_gospa_does_not_pair_beyond_its_cut_to_lower_the_sum() -> None:
    got = gospa(np.array([[0.0, 0.0]]), np.array([[5.0, 0.0]]))
    assert got.rows.size == 0
    assert got.distance == pytest.approx(5)


# --- Tracks -----------------------------------------------------------------


def world(truth: Truth, ledger: Ledger, change: Any = None) -> list[Frame]:
    """Return frames that tell the truth from second 1 to 9, at 5 Hz; ``change(value, k)`` spoils one."""
    frames = []
    for k in range(40):
        event_ms = T0 + 1000 + 200 * k
        now = truth.at(ledger.scene_s(event_ms))
        lat, lon = truth.frame.to_geo(now.east, now.north)
        value: dict[str, Any] = {
            "event_ms": event_ms,
            "track": (now.idx + 1000).tolist(),
            "lat": np.round(lat * 1e7).astype(int).tolist(),
            "lon": np.round(lon * 1e7).astype(int).tolist(),
            "speed": [0] * now.idx.size,
            "heading": [0] * now.idx.size,
        }
        if change is not None:
            change(value, k)
        blob = json.dumps(value).encode()
        frames.append(Frame("z", event_ms, blob))
    return frames


def run(truth: Truth, ledger: Ledger, change: Any = None) -> Any:
    return score_tracks(world(truth, ledger, change), json.loads, truth, ledger, WINDOW)


def covered_rows(truth: Truth, value: dict[str, Any]) -> list[int]:
    east, north = truth.frame.to_local(np.array(value["lat"]) * 1e-7, np.array(value["lon"]) * 1e-7)
    return np.flatnonzero(truth.covered(east, north, slack_m=-60)).tolist()


def test_the_truth_scores_perfectly(truth: Truth, ledger: Ledger) -> None:
    got = run(truth, ledger)
    assert got.samples == 40
    assert got.mota == pytest.approx(1)
    assert got.idf1 == pytest.approx(1)
    assert got.id_switches == 0
    assert got.position_rmse_m < 0.02
    assert got.gospa_m < 0.1
    assert got.objects > 40 * 3


def test_only_the_window_counts(truth: Truth, ledger: Ledger) -> None:
    got = score_tracks(world(truth, ledger), json.loads, truth, ledger, (1.5, 5.0))  # tracks are born until 2.0
    assert got.samples == 16


def test_a_shift_is_the_error_of_position(truth: Truth, ledger: Ledger) -> None:
    def north(value: dict[str, Any], k: int) -> None:
        value["lat"] = [lat + round(1.5 / 111_000 * 1e7) for lat in value["lat"]]

    got = run(truth, ledger, north)
    assert got.position_rmse_m == pytest.approx(1.5, abs=0.02)
    assert got.mota == pytest.approx(1)


def test_a_new_id_is_a_switch(truth: Truth, ledger: Ledger) -> None:
    def swap(value: dict[str, Any], k: int) -> None:
        if k >= 20:
            row = covered_rows(truth, value)[0]
            value["track"][row] += 5000

    assert run(truth, ledger, swap).id_switches >= 1


def test_misses_and_ghosts_count_inside_the_covered_road_only(truth: Truth, ledger: Ledger) -> None:
    def spoil(value: dict[str, Any], k: int) -> None:
        row = covered_rows(truth, value)[0]
        for name in ("track", "lat", "lon", "speed", "heading"):
            del value[name][row]
        for lat, lon in ((31.5, 120.3), (31.7, 120.3)):  # one on the road's start, one 20 km off
            value["track"].append(len(value["track"]))
            value["lat"].append(round(lat * 1e7))
            value["lon"].append(round(lon * 1e7))
            value["speed"].append(0)
            value["heading"].append(0)

    got = run(truth, ledger, spoil)
    assert got.misses == 40
    assert got.false_positives == 40
    assert got.gospa_missed == pytest.approx(1)
    assert got.gospa_false == pytest.approx(1)


def test_frames_a_little_apart_are_brought_to_one_instant(truth: Truth) -> None:
    east_at_20 = {"track": [7], "lat": [315_000_000], "lon": [1_203_000_000], "speed": [1000], "heading": [7200]}
    nothing: dict[str, Any] = {"track": [], "lat": [], "lon": [], "speed": [], "heading": []}
    frames = [
        Frame(zone, at, json.dumps({"event_ms": at, **value}).encode())
        for zone, at, value in (("a", T0 + 10, east_at_20), ("b", T0 + 60, nothing))
    ]
    ((when, seen),) = samples(frames, json.loads, truth)[0].items()
    assert when == T0 + 35
    east, north = truth.frame.to_local(31.5, 120.3)
    assert seen.east[0] - float(east) == pytest.approx(0.5, abs=1e-6)  # 20 m/s for 25 ms
    assert seen.north[0] == pytest.approx(float(north), abs=1e-6)


def test_the_edge_is_clipped_but_pairs_across_it_are_kept(truth: Truth) -> None:
    edge = 250.0 - EDGE_M
    back = np.array([-math.sin(math.radians(60)), -math.cos(math.radians(60))])  # away from the other RSUs
    objects = np.stack([back * (edge + 1), back * (edge + 40), back * (edge - 20)])
    estimates = np.stack([back * (edge - 1), back * (edge + 60), back * (edge - 19)])
    keep, keep_seen = _clip(truth, objects, estimates)
    assert keep.tolist() == [0, 2]
    assert keep_seen.tolist() == [0, 2]


def test_a_silent_zone_skips_the_instant(truth: Truth, ledger: Ledger) -> None:
    frames = world(truth, ledger)
    frames += [f._replace(zone="other") for f in frames[:10]]
    got = score_tracks(frames, json.loads, truth, ledger, WINDOW)
    assert got.samples == 10
    assert got.skipped == 30


# --- Events -----------------------------------------------------------------


def told(
    truth: Truth,
    event: TruthEvent,
    *,
    kind: str | None = None,
    id_: str = "e",
    revision: int = 0,
    start_s: float | None = None,
    found_s: float | None = None,
    stamp_s: float | None = None,
    off_m: float = 0.0,
    source: int = 0,
) -> Stamped:
    start = event.start_s if start_s is None else start_s
    found = start + event.dwell_s if found_s is None else found_s
    value = {
        "event_id": id_,
        "revision": revision,
        "status": "ADDED" if revision == 0 else "MODIFIED",
        "kind": kind or event.kind,
        "lat": round((event.lat + off_m / 111_000) * 1e7),
        "lon": round(event.lon * 1e7),
        "link": event.link,
        "lane": event.lane,
        "start_ms": T0 + round(start * 1000),
        "detected_ms": T0 + round(found * 1000),
        "updated_ms": T0 + round(found * 1000),
        "sources": [{"device": "fusion", "kind": source, "ref": "", "confidence": 0}],
    }
    return Stamped(0, 0, T0 + round((found + 0.1 if stamp_s is None else stamp_s) * 1000), value)


@pytest.fixture
def stop(truth: Truth) -> TruthEvent:
    return next(e for e in truth.scene.events if e.kind == "STOPPED_VEHICLE")


@pytest.fixture
def walker(truth: Truth) -> TruthEvent:
    return next(e for e in truth.scene.events if e.kind == "PEDESTRIAN")


def test_found_in_time_and_place(truth: Truth, ledger: Ledger, stop: TruthEvent, walker: TruthEvent) -> None:
    got = score_events([told(truth, stop, off_m=30), told(truth, walker, id_="w")], truth, ledger, WINDOW)
    assert (got.precision, got.recall) == (1, 1)
    assert got.delay_p50_s == pytest.approx(0.1, abs=0.01)
    assert not got.invented
    assert not got.missed


@pytest.mark.parametrize(
    "fault", [{"off_m": 80.0}, {"kind": "OVERSPEED"}, {"start_s": 1.0, "found_s": 6.0}, {"start_s": 40.0}]
)
def test_wrong_place_kind_or_time_is_missed_and_invented(
    truth: Truth, ledger: Ledger, stop: TruthEvent, walker: TruthEvent, fault: dict[str, Any]
) -> None:
    got = score_events([told(truth, stop, **fault), told(truth, walker, id_="w")], truth, ledger, WINDOW)
    assert [event.id for event in got.missed] == [stop.id]
    assert [t.id for t in got.invented] == ["e"]
    assert got.precision == 0.5
    assert got.recall == 0.5


def test_a_moving_event_matches_where_its_vehicle_is_now(truth: Truth, ledger: Ledger, walker: TruthEvent) -> None:
    # 1.2 m/s for 19 s: the walker is 23 m on; told there plus 40 m it is too far from where it began.
    lat, lon = truth.frame.to_geo(*truth.place(walker.vehicles[0], 49.0))  # type: ignore[misc]
    later = told(truth, walker, found_s=49.0)
    later.value.update(lat=round(float(lat) * 1e7), lon=round(float(lon) * 1e7))
    assert score_events([later], truth, ledger, WINDOW).matches[0].distance_m < 1


def test_the_second_telling_is_repeated(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    again = told(truth, stop, id_="again", found_s=stop.start_s + 9)
    got = score_events([told(truth, stop), again], truth, ledger, WINDOW)
    assert [(t.id, event.id) for t, event in got.repeated] == [("again", stop.id)]
    assert got.precision == 0.5


def test_raw_copies_are_one_event(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    got = score_events([told(truth, stop), told(truth, stop)], truth, ledger, WINDOW)
    assert got.precision == 1


def test_a_higher_stage_covers_the_lower_and_a_lower_one_is_not_invented(
    truth: Truth, ledger: Ledger, stop: TruthEvent
) -> None:
    got = score_events([told(truth, stop, kind="BREAKDOWN")], truth, ledger, WINDOW)
    assert [match.kind for match in got.matches] == ["BREAKDOWN"]
    assert got.precision == 1
    broken = Truth(truth.scene)
    truth_events = truth.scene.events
    try:
        broken.scene.events = [TruthEvent("B", "BREAKDOWN", 101, stop.lat, stop.lon, stop.start_s, None, 30.0,
                                          stop.link, stop.lane, stop.vehicles, True)]  # fmt: skip
        got = score_events([told(truth, stop)], broken, ledger, WINDOW)
        assert [event.id for event in got.missed] == ["B"]
        assert [t.id for t, _ in got.stages] == ["e"]
        assert not got.invented
        # In a window that ends before the dwell the breakdown is apart, and the stage still not invented.
        got = score_events([told(truth, stop)], broken, ledger, (0.0, 30.0))
        assert [event.id for event, _, _ in got.apart] == ["B"]
        assert got.precision is None
    finally:
        broken.scene.events = truth_events


def test_what_the_window_cannot_hold_is_apart(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    got = score_events([], truth, ledger, (0.0, stop.start_s + 5.5))
    assert [(event.id, found) for event, _, found in got.apart] == [(stop.id, False)]
    assert "5.5 s" in got.apart[0][1]
    assert got.recall is None
    got = score_events([], truth, ledger, (stop.start_s + 13, 58.0))  # 5 s of it are left
    assert stop.id in {event.id for event, _, _ in got.apart}


def test_what_is_optional_is_apart_however_often_it_is_told(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    events = truth.scene.events
    try:
        truth.scene.events = [replace(stop, details={"optional": "just misses its rule"})]
        got = score_events([told(truth, stop), told(truth, stop, id_="again")], truth, ledger, WINDOW)
        assert [(event.id, why) for event, why, _ in got.apart] == [(stop.id, "optional: just misses its rule")]
        assert got.precision is None
        assert got.recall is None
    finally:
        truth.scene.events = events


def test_a_report_of_a_kind_without_truth_is_not_invented(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    fog = told(truth, stop, kind="FOG", source=1, id_="fog")
    ghost = told(truth, stop, kind="FOG", source=0, id_="ghost")
    got = score_events([fog, ghost], truth, ledger, WINDOW)
    assert [t.id for t in got.reported] == ["fog"]
    assert [t.id for t in got.invented] == ["ghost"]


def test_a_congestion_matches_along_its_queue(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    head, tail = (stop.lat, stop.lon), (stop.lat - 400 / 111_000, stop.lon)
    details = {"seconds": [{"t": 30.0, "tail_lat": tail[0], "tail_lon": tail[1]}]}
    jam = TruthEvent("C", "CONGESTION", 707, *head, 20.0, 50.0, 5.0, stop.link, 1, [], True, details)
    events = truth.scene.events
    try:
        truth.scene.events = [jam]
        middle = told(truth, jam, found_s=30.0, off_m=-200.0)
        assert score_events([middle], truth, ledger, WINDOW).recall == 1
        beyond = told(truth, jam, found_s=30.0, off_m=-470.0)
        assert score_events([beyond], truth, ledger, WINDOW).recall == 0
    finally:
        truth.scene.events = events


# --- Travel times -----------------------------------------------------------


def link(
    section: str, from_s: float, to_s: float, travel_ms: int, *, offset: int = 0, vehicles: int = 3, **speeds: int
) -> Stamped:
    value = {
        "origin": "GANTRY",
        "link": section,
        "from_ms": T0 + round(from_s * 1000),
        "to_ms": T0 + round(to_s * 1000),
        "travel_time": travel_ms,
        "vehicles": vehicles,
        "rejected": 0,
        "speed": 2500,
        "rsu_speed": 65535,
        "fused_speed": 2500,
        "fused_speed_sd": 50,
    }
    return Stamped(0, offset, T0, {**value, **speeds})


def test_travel_time_against_true_passages(truth: Truth, ledger: Ledger) -> None:
    scene = synthetic_scene()
    section = scene.zones["sections"][0]["section"]
    # One was much faster and arrived before the window: it is none of the window's.
    row = next(i for i in range(len(scene.passages)) if 30 < scene.passages.t_s[i] < 31)
    scene.passages.t_s[row] = 20.0
    arrived = [b - a for _, a, b in scene.travel_truth(section, float("-inf"), 45.0) if b >= 30.0]
    true_ms = float(np.mean(arrived)) * 1000
    links = [
        link(section, 30, 45, 1, offset=0),  # overtaken by the next record of the same window
        link(section, 30, 45, round(true_ms * 1.1), offset=1),
        link(section, 0, 1, 5000, offset=2),  # nobody arrived
        link("unknown>unknown", 30, 45, 5000, offset=3),
        link(section, 0, 60, 0, offset=4, vehicles=0),
    ]
    got = score_travel(links, scene, ledger)
    assert got.mape == pytest.approx(10, abs=0.05)
    assert got.unmatched == 1
    assert got.pairs_by_section() == {section: 3}


def test_speeds_of_a_section_against_all_that_was_driven_there(ledger: Ledger) -> None:
    scene = synthetic_scene()
    row = scene.zones["sections"][0]
    passed = {v: (a, b) for v, a, b in scene.travel_truth(row["section"], float("-inf"), float("inf"))}
    speeds = [
        speed
        for second in range(30, 45)
        for vehicle, speed in zip(
            *(getattr(scene.frame(second * 10), n).tolist() for n in ("idx", "speed")), strict=True
        )
        if vehicle in passed and passed[vehicle][0] <= second < passed[vehicle][1]
    ]
    true = sum(speeds) / len(speeds) * 100  # nobody is left on the section at the end of this window
    told = link(row["section"], 30, 45, 25_000, speed=round(true * 1.1), rsu_speed=round(true * 0.98),
                fused_speed=round(true * 1.02), fused_speed_sd=round(true * 0.02))  # fmt: skip
    got = score_travel([told], scene, ledger)
    assert got.speeds == pytest.approx({"speed": 10.0, "rsu_speed": 2.0, "fused_speed": 2.0}, abs=0.1)
    assert got.speed_nees == pytest.approx(1.0, abs=0.1)


def test_of_several_copies_the_scene_itself_is_scored(truth: Truth, ledger: Ledger, stop: TruthEvent) -> None:
    log = Log()
    mine, other = told(truth, stop), told(truth, stop, id_="copy")
    mine.value["zone"], other.value["zone"] = "SYN-Z1", "SYN-Z1-C1"
    log.events += [mine, other]
    sent = np.zeros(1000, SENT)
    sent["ts_ms"] = T0 + np.arange(1000) * 58  # the first 58 s
    got = score(log, truth.scene, replace(ledger, sent=sent)).to_dict()
    assert [found["id"] for found in got["found"]] == ["e"]
    assert (got["repeated"], got["invented"]) == ([], [])
    assert got["event_precision"] == 1
