"""The engine: a pure function of the log, whose books balance."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, DECODER, ZONES, Drive, decoded, engine
from v2x.columns import Output, Record
from v2x.errors import SnapshotError
from v2x.fusion.engine import Engine
from v2x.fusion.frames import COLUMNS, FrameEncoder, lane_column, room, strings, write
from v2x.road import Road
from v2x.topics import LINKS, MAPS, OBSERVATIONS, TRACKS

LANE = {
    "lane_id": 1, "lane_type": 0, "width": 375, "speed_min": 8191, "speed_max": 1500,
    "points": [{"d_lat": 0, "d_lon": -20000}, {"d_lat": 0, "d_lon": 20000}], "connections": [],
}  # fmt: skip


def node(width: int = 375) -> dict[str, Any]:
    lat, lon = fs.FRAME.e7(0.0, -4.9)  # the first lane eastwards
    link = {
        "link": "east", "up_region": 1, "up_node": 1, "road_class": 1, "movements": [],
        "lanes": [{**LANE, "width": width}],
    }  # fmt: skip
    return {"region": 1, "node": 2, "name": "n", "ref_lat": lat, "ref_lon": lon, "ref_ele": -4096, "links": [link]}


@cache
def mixed() -> tuple[Record, ...]:
    """A log with everything in it: scans, own messages, map, repeats, ticks, a neighbour's records, rubbish."""
    s = fs.Settings(seed=5, seconds=4.0, vehicles=40, walkers=2, rsus=2, length_m=500.0, azimuth_deg=90.0)
    drive = Drive()
    envelope = {"boot": 1, "ts_ms": fs.T0, "msg_cnt": 0}
    for k, (at, _, record) in enumerate(fs.scans(fs.make(s))):
        drive.put(CODEC.encode("rsm", record), at)
        if k % 9 == 0:
            drive.put(CODEC.encode("rsm", record), at)
            drive.bsm("OBU-1", at, at * 0.02 - 60, 0.0, bytes(7) + bytes([k // 20]), event_flags=k % 2)
        if k % 15 == 0:
            drive.say("map", at, device="RSU-01", seq=k, nodes=[node()], **envelope)
            drive.tick(at)
        if k == 30:
            drive.put(b"\x00\xff\xff\xff\xffrubbish", at)
            drive.say("rsu_hb", at, **_heartbeat())
    return tuple(drive.log)


def _heartbeat() -> dict[str, Any]:
    return {
        "device": "RSU-01", "boot": 1, "seq": 0, "ts_ms": fs.T0, "lat": 0, "lon": 0, "ele": 0, "cpu": 1, "mem": 1,
        "disk": 1, "power": 1, "run": 1, "network": 1, "version": "1",
    }  # fmt: skip


@cache
def straight() -> tuple[list[Output], dict[str, int], bytes]:
    core = engine()
    return core.feed(list(mixed())), core.counters, core.snapshot()


def test_the_log_says_all_it_should() -> None:
    out, counters, _ = straight()
    assert {o.topic for o in out} == {TRACKS, MAPS} | {o.topic for o in out if o.topic == "v2x.events"}
    assert counters["skipped_undecodable"] == 1
    assert counters["repeats"] == 9
    assert counters["inputs"] == len(mixed())
    positions = [(o.offset, o.nth) for o in out]
    assert positions == sorted(set(positions))
    frame = decoded(out, TRACKS)[-1]
    assert frame["links"] == ["east"]
    assert frame["lane"].count(-1) < len(frame["lane"])
    assert len({len(frame[k]) for k in ("track", "lat", "speed", "lane", "age_ms", "hits", "pos_sigma")}) == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.lists(st.integers(0, 400), max_size=3))
def test_fetches_and_restarts_leave_no_trace(sizes: list[int], stops: list[int]) -> None:
    log, core, out, a, k = list(mixed()), engine(), [], 0, 0
    while a < len(log):
        b = min([a + sizes[k % len(sizes)], *(s for s in stops if s > a)])
        out += core.feed(log[a:b])
        if b in stops:
            core = engine(blob=core.snapshot())
        a, k = b, k + 1
    expected, counters, blob = straight()
    assert out == expected
    assert core.counters == counters
    assert core.snapshot() == blob


def test_records_that_were_fed_are_not_fed_again() -> None:
    core = engine()
    log = list(mixed())
    core.feed(log[:100])
    before = core.snapshot()
    assert core.feed(log[20:100]) == []
    assert core.snapshot() == before


def test_repeats_of_any_age_count_once() -> None:
    drive = Drive()
    for k in range(30):
        drive.scan(1, 100 * k, [(1, 0.0, 0.0)], speed=0.0)
    before = drive.engine.counters["rows_fused"]
    for seq in (0, 5, 29, 17):
        drive.scan(1, 3000, [(1, 0.0, 0.0)], ts=100 * seq, seq=seq, speed=0.0)
    assert drive.engine.counters["repeats"] == 4
    assert drive.engine.counters["rows_fused"] == before
    drive.scan(1, 3100, [(1, 0.0, 0.0)], seq=31, speed=0.0)  # 30 was overtaken ...
    drive.scan(1, 3110, [(1, 0.0, 0.0)], seq=30, speed=0.0)  # ... and is no repeat
    assert drive.engine.counters["repeats"] == 4
    assert drive.balanced()


def test_nothing_is_said_before_the_genesis() -> None:
    drive = Drive(genesis=False)
    for k in range(10):
        drive.scan(1, 100 * k, [(1, 0.0, 0.0)], speed=0.0)
    assert drive.out == []
    assert drive.engine.generation is None
    drive.say("genesis", 1000, generation=fs.GENERATION, partition=0, partitions=1, ts_ms=fs.T0)
    drive.tick(1100)
    assert drive.tracks()
    drive.say("genesis", 1200, generation="2" * 36, partition=0, partitions=1, ts_ms=fs.T0)
    assert drive.engine.generation == fs.GENERATION
    assert drive.engine.counters["skipped_other_generation"] == 1
    assert drive.balanced()


def test_frames_balance_the_books() -> None:
    out, counters, _ = straight()
    frames = decoded(out, TRACKS)
    offsets = {o.offset: f for o, f in zip((o for o in out if o.topic == TRACKS), frames, strict=True)}
    assert all(f["inputs"] == offset + 1 for offset, f in offsets.items())
    classes = ("fused", "noted", "control", "repeats")
    assert counters["inputs"] == sum(n for k, n in counters.items() if k in classes or k.startswith("skipped_"))
    assert all(b["event_ms"] - a["event_ms"] == 50 for a, b in pairwise(frames))


def test_a_map_is_read_once_and_told_when_it_changes() -> None:
    drive = Drive()
    envelope = {"device": "RSU-01", "boot": 1, "msg_cnt": 0}
    for k in range(3):
        drive.say("map", 100 * k, seq=k, ts_ms=fs.T0 + k, nodes=[node()], **envelope)
    assert len(decoded(drive.out, MAPS)) == 1
    drive.say("map", 300, seq=3, ts_ms=fs.T0, nodes=[node(400)], **envelope)
    told = decoded(drive.out, MAPS)
    assert [t["nodes"][0]["links"][0]["lanes"][0]["width"] for t in told] == [375, 400]
    assert drive.out[-1].key == b"1-2"


def test_passages_become_section_states_even_where_no_device_speaks() -> None:
    zones = type(ZONES).parse(
        {
            "version": 1, "name": "t", "partition_hint": None,
            "zones": [{"id": "Z1", "polygon": [[31, 120], [31, 121], [32, 121], [32, 120]], "neighbours": []}],
            "devices": {},
            "gantries": {h: {"device": h, "lat": 31.5, "lon": 120.5, "dir": 1} for h in ("AAAAAA", "BBBBBB")},
            "sections": [
                {"section": "S", "from": "AAAAAA", "to": "BBBBBB", "length_m": 1000.0, "zone": "Z1",
                 "free_speed_mps": 30.0}
            ],
        }
    )  # fmt: skip
    drive = Drive(zones)
    row = {
        "generation": "3" * 36, "from_partition": 4, "from_zone": "Z1", "to_zone": "Z1", "section": "S", "vehicle": "v",
        "length": 1000, "vehicle_type": 1, "method": 1,
    }  # fmt: skip
    drive.tick(0)
    for k in range(5):
        said = {
            **row,
            "from_offset": k,
            "from_index": 0,
            "from_ms": fs.T0 + 1000 * k,
            "to_ms": fs.T0 + 1000 * k + 50_000,
        }
        drive.say("passage", 20 + k, **said)
        drive.say("passage", 20 + k, **said)  # a replay of the gantries' stage says it again
    for t in range(100, 130_000, 200):
        drive.tick(t)
    states = decoded(drive.out, LINKS)
    assert states
    best = max(states, key=lambda r: r["vehicles"])
    assert (best["vehicles"], best["travel_time"]) == (5, 50_000)
    assert best["speed"] == pytest.approx(2000, abs=10)
    assert drive.engine.counters["skipped_not_newer"] == 5
    assert drive.balanced()


def test_snapshots_that_do_not_fit_are_refused() -> None:
    blob = straight()[2]
    with pytest.raises(SnapshotError, match="damaged"):
        engine(blob=blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(SnapshotError, match="no fusion snapshot"):
        engine(blob=b"xxxx" + blob[4:])
    with pytest.raises(SnapshotError, match="partitions"):
        engine(partitions=2, blob=blob)
    with pytest.raises(SnapshotError, match="format"):
        engine(blob=blob[:4] + b"\x7f" + blob[5:])


def test_adopts_for_other_zones_and_worlds_are_left_out() -> None:
    drive = Drive()
    row = {
        "generation": fs.GENERATION, "from_partition": 1, "from_offset": 1, "from_index": 0, "from_zone": "Z9",
        "to_zone": "Z7", "track": 5 << 32, "state": [0.0] * 20, "origin_lat": 315000000, "origin_lon": 1203000000,
        "event_ms": fs.T0, "object_class": 3, "length": 0, "width": 0,
    }  # fmt: skip
    drive.say("adopt", 0, **row)
    drive.say("adopt", 0, **{**row, "to_zone": "Z1", "generation": "9" * 36})
    assert drive.engine.counters["skipped_no_zone_here"] == 1
    assert drive.engine.counters["skipped_other_generation"] == 1
    assert OBSERVATIONS not in {o.topic for o in drive.out}


class Counting:
    """An encoder that counts frames with tracks, and may put their columns elsewhere."""

    def __init__(self, tail: bytes = b"") -> None:
        self.tail, self.full = tail, 0

    def encode(self, schema: str, record: Any) -> bytes:
        if schema != "track_frame":
            return CODEC.encode(schema, record)
        self.full += bool(record["track"])
        return CODEC.encode(schema, record) + self.tail


def road_of(links: list[str]) -> Road:
    """A road whose lane k is the only one, with lane id k + 1, of link k."""
    road = Road(*fs.ORIGIN)
    for k, link in enumerate(links):
        one = node()
        one["links"][0].update(link=link, lanes=[{**LANE, "lane_id": k + 1}])
        road.update([one], "RSU-01")
    return road


def test_frames_are_what_the_encoder_makes() -> None:
    rng = np.random.default_rng(1)
    start = FrameEncoder(CODEC).start(fs.GENERATION, 1)
    out = np.zeros(1 << 16, np.uint8)
    for n in (0, 1, 63, 64, 200):
        whole = rng.integers(-(1 << 52), 1 << 52, (len(COLUMNS), n)) >> rng.integers(0, 50, (len(COLUMNS), n))
        for nth, links in enumerate(([], ["a"], ["M-E1", "路" * 40, *map(str, range(70))])):
            lane = rng.integers(-1, max(len(links) - 3, 0), n).astype(np.int32)
            lanes, used = road_of(links).lanes, sorted(set(lane[lane >= 0].tolist()))
            record = {
                "generation": fs.GENERATION, "partition": 1, "offset": 5, "index": nth, "zone": f"Z{nth}",
                "event_ms": fs.T0, "stream_ms": fs.T0 + 7, "inputs": 9,
                **dict(zip(COLUMNS, whole.tolist(), strict=True)), "links": [links[x] for x in used],
                "lane": [used.index(x) * 256 + x + 1 if x >= 0 else -1 for x in lane.tolist()],
                    "catching_up": nth % 2,
                }  # fmt: skip
            columns = np.hstack((np.zeros((len(COLUMNS), nth), np.int64), whole))  # those of other zones come first
            lane = np.concatenate((np.full(nth, -1, np.int32), lane))
            found, (zone, _), (names, name_at) = np.zeros(len(links), np.int32), strings([f"Z{nth}"]), strings(links)
            count = lane_column(lane, lanes.link, lanes.lane_id, columns, nth, n, found)
            end = write(
                start, 5, nth, zone, fs.T0, fs.T0 + 7, 9, columns, nth, n, found, count, names, name_at, nth % 2, out,
                nth,
            )  # fmt: skip
            assert out[nth:end].tobytes() == CODEC.encode("track_frame", record)
            assert end - nth <= room(len(start), len(zone), len(names), n)


def test_an_encoder_of_other_ways_makes_the_frames_itself() -> None:
    said = []
    for encoder in (fast := Counting(), moved := Counting(b"x")):
        core = Engine(None, ZONES, DECODER, encoder, 0, 1, CODEC.decode_kafka)
        said.append([o for o in core.feed(list(mixed())) if o.topic == TRACKS])
    assert fast.full == 1  # the comparison
    assert moved.full > 10
    assert [o.value + b"x" for o in said[0]] == [o.value for o in said[1]]
