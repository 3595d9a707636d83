"""Events over a zone border: one id, revisions without gaps, one end, whatever the log between the zones does."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, decoded, engine
from v2x.columns import Output
from v2x.topics import EVENTS

SETTINGS = fs.Settings(
    seed=11, seconds=15.0, vehicles=5, walkers=0, length_m=1600.0, rsus=7, range_m=240.0, zones=2, azimuth_deg=90.0,
    sigma_m=0.2, bias_m=0.1, clock_ms=5.0, false=0.0, id_break=0.0, id_swap=0.0,
)  # fmt: skip
ZONES = fs.zone_map(SETTINGS)
LANES = {1: -2.0, 2: -5.75, 3: -9.5, 4: -13.25}  # lane id -> north, m; 4 is the shoulder; all eastwards
DRIVES = {  # who: (lane, east at the start, speed until second 11, then)
    "fast before": (1, -380.0, 42.0, 30.0),  # told in Z1, crosses at 9 s, ends in Z2
    "fast behind": (1, -168.0, 42.0, 42.0),  # crosses at 4 s, in the midst of its dwell
    "against": (2, 150.0, -20.0, -20.0),  # from Z2 into Z1
    "slow": (3, -60.0, 8.0, 8.0),
    "shoulder": (4, -160.0, 20.0, 20.0),
}
KINDS = {"fast before": "OVERSPEED", "fast behind": "OVERSPEED", "against": "WRONG_WAY", "slow": "SLOW_VEHICLE",
         "shoulder": "EMERGENCY_LANE"}  # fmt: skip


def scene() -> fs.Scene:
    steps = int(SETTINGS.seconds * 20) + 2
    t = np.arange(steps) * 0.05
    east, north = np.zeros((steps, len(DRIVES))), np.zeros((steps, len(DRIVES)))
    for k, (lane, start, speed, then) in enumerate(DRIVES.values()):
        pace = np.where(t < 11.0, speed, np.where(t < 15.0, speed + (then - speed) * (t - 11.0) / 4.0, then))
        east[:, k] = start + np.concatenate(([0.0], np.cumsum(pace[:-1] * 0.05)))
        north[:, k] = LANES[lane]
    ve = np.gradient(east, 0.05, axis=0)
    return fs.Scene(SETTINGS, steps, east, north, np.abs(ve), np.where(ve < 0, 270.0, 90.0), np.full(len(DRIVES), 3))


def road_map() -> dict[str, Any]:
    lat, lon = fs.FRAME.e7(0.0, 0.0)
    lanes = []
    for lane, north in LANES.items():
        ends = [fs.FRAME.e7(x, north) for x in (-900.0, 900.0)]
        lanes.append({
            "lane_id": lane, "lane_type": int(lane == 4), "width": 375, "speed_min": round(60 / 3.6 / 0.02),
            "speed_max": round(120 / 3.6 / 0.02), "connections": [],
            "points": [{"d_lat": a - lat, "d_lon": b - lon} for a, b in ends],
        })  # fmt: skip
    link = {"link": "M", "up_region": 1, "up_node": 1, "road_class": 1, "movements": [], "lanes": lanes}
    node = {"region": 1, "node": 2, "name": "n", "ref_lat": lat, "ref_lon": lon, "ref_ele": -4096, "links": [link]}
    return {"device": "RSU-04", "boot": 1, "seq": 0, "ts_ms": fs.T0, "msg_cnt": 0, "nodes": [node]}


def world(partitions: int, hop: Any = 12, deaf: Any = None, said: Any = (), what: Any = None) -> fs.World:
    assert ZONES.route("RSU-04", None, None) in {("Z1", "Z2"), ("Z2", "Z1")}
    cores = [engine(ZONES, p, partitions) for p in range(partitions)]
    w = fs.World(what or scene(), cores, CODEC, ZONES, hop, [(1.0, "RSU-04", "map", road_map()), *said])
    w.run(deaf)
    return w


def told(outputs: list[list[Output]]) -> dict[str, list[dict[str, Any]]]:
    """Return the revisions of each event as a reader has them: the first of each (id, revision), in order."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in (r for out in outputs for r in decoded(out, EVENTS)):
        found[row["event_id"]].setdefault(row["revision"], row)
    return {name: [rows[n] for n in sorted(rows)] for name, rows in found.items()}


def sound(rows: list[dict[str, Any]]) -> None:
    """An event is whole: begun once, revisions without gaps, nothing after its end."""
    assert [r["revision"] for r in rows] == list(range(len(rows)))
    assert [r["status"] == "ADDED" for r in rows] == [n == 0 for n in range(len(rows))]
    assert "ENDED" not in [r["status"] for r in rows[:-1]]
    assert all(b["updated_ms"] >= a["updated_ms"] for a, b in pairwise(rows))


@cache
def of_kind(partitions: int, hop: int) -> dict[str, list[list[dict[str, Any]]]]:
    out: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for rows in told(world(partitions, hop).outputs).values():
        sound(rows)
        out[rows[0]["kind"]].append(rows)
    return {kind: sorted(events, key=lambda rows: rows[0]["detected_ms"]) for kind, events in out.items()}


@pytest.mark.parametrize(("partitions", "hop"), [(1, 12), (3, 12), (3, 120)])
def test_who_crosses_a_border_is_one_event(partitions: int, hop: int) -> None:
    events = of_kind(partitions, hop)
    assert {kind: len(found) for kind, found in events.items()} == {
        "OVERSPEED": 2, "WRONG_WAY": 1, "SLOW_VEHICLE": 1, "EMERGENCY_LANE": 1,
    }  # fmt: skip
    where = {kind: [list(dict.fromkeys(r["zone"] for r in rows)) for rows in found] for kind, found in events.items()}
    assert ["Z1", "Z2"] in where["OVERSPEED"]
    assert where["WRONG_WAY"] == [["Z2", "Z1"]]
    assert where["SLOW_VEHICLE"] == where["EMERGENCY_LANE"] == [["Z1", "Z2"]]
    ended = [rows for rows in events["OVERSPEED"] if rows[-1]["status"] == "ENDED"]
    assert len(ended) == 1
    assert ended[0][-1]["zone"] == "Z2"


@pytest.mark.parametrize(("partitions", "hop"), [(1, 12), (3, 120)])
def test_a_dwell_goes_on_over_the_border(partitions: int, hop: int) -> None:
    """Who crosses at 4 s is told when its 5 s are over, not 5 s after the border; nor sooner."""
    behind = next(rows for rows in of_kind(partitions, hop)["OVERSPEED"] if rows[0]["zone"] == "Z2")
    assert behind[0]["start_ms"] < fs.T0 + 2_000
    assert 5_000 <= behind[0]["detected_ms"] - behind[0]["start_ms"] <= 5_200
    assert behind[0]["event_id"].startswith("Z1-")  # by the zone that gave the track its id


def test_the_same_bytes_at_any_fetch_size_and_restart() -> None:
    w = world(3)
    for p, log in enumerate(w.logs):
        for size in (1, 7, 400):
            core, out = engine(ZONES, p, 3), []
            for n, a in enumerate(range(0, len(log), size)):
                out += core.feed(log[a : a + size])
                if n % (200 if size == 1 else 11) == 5:
                    core = engine(ZONES, p, 3, core.snapshot())
            assert out == w.outputs[p]


def schema(out: Output) -> str:
    return str(CODEC.decode_kafka(out.value)[0])


def kinds_told(w: fs.World) -> dict[str, int]:
    count: dict[str, int] = defaultdict(int)
    for rows in told(w.outputs).values():
        sound(rows)
        count[rows[0]["kind"]] += 1
    return dict(count)


ONE_EACH = {"OVERSPEED": 2, "WRONG_WAY": 1, "SLOW_VEHICLE": 1, "EMERGENCY_LANE": 1}


@pytest.mark.parametrize("hop", [None, 600.0], ids=["lost", "late"])
def test_a_release_that_is_lost_or_late(hop: float | None) -> None:
    """Who took a track over from a silent neighbour goes on with its last word."""
    w = world(3, lambda out: hop if schema(out) == "release" else 12.0)
    assert sum(core.counters.get("ownership_taken_over", 0) for core in w.engines) >= 4
    assert kinds_told(w) == ONE_EACH


def test_a_zone_that_was_dead_tells_no_second_event_when_it_returns() -> None:
    first = ZONES.partition("Z1", 3)
    w = world(3, deaf=lambda p, at: p == first and 7_400 < at < 10_500)
    assert sum(core.counters.get("ownership_adopted_late", 0) for core in w.engines) > 0
    assert kinds_told(w) == ONE_EACH


def rsi(
    device: str, seq: int, at: float, east: float, code: int, lane: int = 2
) -> tuple[float, str, str, dict[str, Any]]:
    lat, lon = fs.FRAME.e7(east, LANES[lane])
    rte = {
        "rte_id": 7, "event_type": code, "event_source": 5, "confidence": 160, "priority": 4, "lat": lat, "lon": lon,
        "ele": 50, "radius": 100, "lane_id": lane, "start_ms": fs.T0 + 2_000, "end_ms": 0, "ended": 0, "speed": 8191,
        "queue": 65535, "description": "", "path": [],
    }  # fmt: skip
    here = ZONES.devices[device]
    row = {
        "device": device, "boot": 1, "seq": seq, "ts_ms": round(fs.T0 + at), "msg_cnt": seq % 128,
        "ref_lat": round(here.lat * 1e7), "ref_lon": round(here.lon * 1e7), "ref_ele": -4096, "moy": 0,
        "rtes": [rte], "rtss": [],
    }  # fmt: skip
    return at + 10.0, device, "rsi", row


@pytest.mark.parametrize("partitions", [1, 3])
def test_reports_from_both_sides_are_one_event(partitions: int) -> None:
    """Two units report the wrong-way driver 30 m late, or early, while it crosses: places in the zone it is not in."""
    said = []
    for seq, at in enumerate(range(3_000, 14_000, 500)):
        east = 150.0 - 20.0 * at / 1000.0
        said.append(rsi("RSU-04", seq, at, east + 30.0, 904))
        if at > 7_800:
            said.append(rsi("RSU-05", seq, at, max(east + 40.0, 5.0), 904))
    w = world(partitions, said=said)
    found = [rows for rows in told(w.outputs).values() if rows[0]["kind"] == "WRONG_WAY"]
    assert len(found) == 1
    sound(found[0])
    assert {s["device"] for s in found[0][-1]["sources"]} >= {"fusion"}


def queue(first: float, count: int = 16) -> fs.Scene:
    """Vehicles 13 m apart in one lane, which brake to a walking pace; the last one starts at ``first``, m east."""
    s = fs.Settings(**{**vars(SETTINGS), "vehicles": count, "seconds": 12.0})
    steps = int(s.seconds * 20) + 2
    t = np.arange(steps) * 0.05
    pace = np.where(t < 3.0, 15.0 - 4.5 * t, 1.5)
    along = np.concatenate(([0.0], np.cumsum(pace[:-1] * 0.05)))
    east = first + 13.0 * np.arange(count)[None, :] + along[:, None]
    ve = np.gradient(east, 0.05, axis=0)
    north = np.full(east.shape, LANES[2])
    return fs.Scene(s, steps, east, north, np.abs(ve), np.full(ve.shape, 90.0), np.full(count, 3))


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("first", [-135.0, -190.0, -65.0])
def test_a_queue_over_the_border_is_one_jam_and_nobody_in_it_has_stopped(first: float, partitions: int) -> None:
    w = world(partitions, what=queue(first))
    found = [rows for rows in told(w.outputs).values() if rows[0]["kind"] != "HARD_BRAKING"]
    head = first + 15 * 13.0 + 27.0  # where it is by and by
    jams = [rows for rows in found if rows[0]["kind"] == "CONGESTION"]
    assert [rows[0]["zone"] for rows in jams] == ["Z2"]
    assert jams[0][0]["queue"] > 150  # seen whole, on both sides
    east = [float(fs.FRAME.to_local(rows[0]["lat"] / 1e7, rows[0]["lon"] / 1e7)[0]) for rows in found]
    assert all(e > head - 15.0 for e in east)  # of its vehicles, at most its head is told to stand
