"""Events of what is told, not tracked, through the whole engine: signals, poles, vehicles' brakes, sections."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, DECODER, Drive, decoded, engine
from v2x.columns import Output, Record
from v2x.fusion.engine import Engine
from v2x.topics import EVENTS
from v2x.zones import ZoneMap, partition_of

LAT, LON = fs.FRAME.e7(0.0, 0.0)
ZONES = ZoneMap.parse(
    {
        "version": 1, "name": "t", "partition_hint": None,
        "zones": [{"id": "Z1", "polygon": [[31, 120], [31, 121], [32, 121], [32, 120]], "neighbours": []}],
        "devices": {"RSU-01": {"zone": "Z1", "halo": [], "lat": 31.5, "lon": 120.3}},
        "gantries": {
            h: {"device": f"G-{h}", "lat": 31.5, "lon": lon, "dir": 1}
            for h, lon in (("AAAAAA", 120.3), ("BBBBBB", 120.31))
        },
        "sections": [
            {"section": "S", "from": "AAAAAA", "to": "BBBBBB", "length_m": 950.0, "zone": "Z1", "free_speed_mps": 30.0}
        ],
    }
)  # fmt: skip


def node() -> dict[str, Any]:
    lane = {
        "lane_id": 1, "lane_type": 0, "width": 375, "speed_min": 8191, "speed_max": 1500,
        "points": [{"d_lat": 0, "d_lon": -20000}, {"d_lat": 0, "d_lon": 0}],
        "connections": [{"remote_region": 1, "remote_node": 3, "remote_lane": 1, "phase_id": 1, "maneuver": 1}],
    }  # fmt: skip
    link = {"link": "east", "up_region": 1, "up_node": 1, "road_class": 3, "movements": [], "lanes": [lane]}
    return {"region": 1, "node": 2, "name": "n", "ref_lat": LAT, "ref_lon": LON, "ref_ele": -4096, "links": [link]}


def phase(light: int, phase_id: int = 1) -> dict[str, int]:
    return {
        "phase_id": phase_id, "light": light, "likely_end": 36001, "next_light": 0, "next_duration": 36001,
        "confidence": 0,
    }  # fmt: skip


def pole(t: int) -> dict[str, int]:
    return {
        "lat": LAT, "lon": LON, "ele": 50, "visibility": 90 if t > 10_000 else 8000, "rain": 0, "surface": 1,
        "water_film": 0, "friction": 80, "surface_temp": 200, "air_temp": 200, "humidity": 600, "wind_speed": 20,
        "wind_dir": 0,
    }  # fmt: skip


@cache
def log() -> tuple[Record, ...]:
    drive = Drive(ZONES)

    def say(schema: str, t: int, device: str, **fields: Any) -> None:
        seq = drive.next_seq(device, schema)
        drive.say(schema, t, device=device, boot=1, seq=seq, ts_ms=fs.T0 + t, **fields)

    for t in range(0, 130_000, 100):
        drive.tick(t)
        if t % 500 == 0 and not 60_000 <= t < 90_000:  # it fails twice: dark, then silent
            lights = [phase(1), phase(1, 2)] if 20_000 <= t < 30_000 else [phase(3), phase(6, 2)]
            crossings = [{"region": 1, "node": 2, "status": 0, "phases": lights}]
            say("spat", t, "RSU-01", msg_cnt=0, moy=0, sec_mark=0, intersections=crossings)
        if t % 10_000 == 0:
            say(
                "rsu_hb", t, "RSU-01", lat=LAT, lon=LON, ele=0, cpu=1, mem=1, disk=1, power=1, run=1, network=1,
                version="1",
            )  # fmt: skip
        if t % 5_000 == 0:
            say("pole_env", t, "POLE-1", **pole(t))
        if t == 0:
            say("map", t, "RSU-01", msg_cnt=0, nodes=[node()])
        for k in range(3):  # three vehicles, one after the other, whose ABS works at one place
            if 5_000 * k + 2_000 <= t < 5_000 * k + 6_000:
                brakes = {"abs": 3} if t >= 5_000 * k + 4_000 else {}
                east = 100.0 + 0.02 * (t - 5_000 * k - 4_000)
                drive.bsm(f"OBU-{k}", t, east, 0.0, bytes([k] * 8), **brakes)
        if t == 40_000:
            for k in range(4):
                drive.say(
                    "passage", t, generation="3" * 36, from_partition=4, from_offset=k, from_index=0, from_zone="Z1",
                    to_zone="Z1", section="S", vehicle="v", length=950, vehicle_type=1, method=1,
                    from_ms=fs.T0 + t - 110_000, to_ms=fs.T0 + t - 1000 - k,
                )  # fmt: skip
    assert drive.balanced()
    return tuple(drive.log)


@cache
def straight() -> tuple[list[Output], bytes]:
    core = engine(ZONES)
    return core.feed(list(log())), core.snapshot()


def test_each_is_found_with_its_sources() -> None:
    events = decoded(straight()[0], EVENTS)
    life = {}
    for e in events:
        life.setdefault(e["event_id"], []).append(e)
    assert sorted((e[0]["kind"], e[0]["level"], e[-1]["status"] == "ENDED") for e in life.values()) == [
        ("CONGESTION", 3, False), ("FOG", 2, False), ("SIGNAL_FAILURE", 1, True), ("SIGNAL_FAILURE", 2, True),
        ("SLIPPERY", 2, False),
    ]  # fmt: skip
    sources = {e[0]["kind"]: {(s["device"], s["kind"]) for told in e for s in told["sources"]} for e in life.values()}
    assert sources["FOG"] == {("POLE-1", 4)}
    assert sources["SLIPPERY"] == {(f"OBU-{k}", 2) for k in range(3)}
    jam = next(e[0] for e in life.values() if e[0]["kind"] == "CONGESTION")
    assert {(s["device"], s["kind"]) for s in jam["sources"]} == {("G-BBBBBB", 3)}
    assert jam["radius"] == 4750


def test_a_pole_beyond_its_zones_border_is_heard_all_the_same() -> None:
    doc = {
        "version": 1, "name": "t", "partition_hint": None, "gantries": {}, "sections": [],
        "zones": [
            {"id": "A", "polygon": [[31, 120], [31, 120.3], [32, 120.3], [32, 120]], "neighbours": ["B"]},
            {"id": "B", "polygon": [[31, 120.3], [31, 121], [32, 121], [32, 120.3]], "neighbours": ["A"]},
        ],
        "devices": {
            "RSU-01": {"zone": "B", "halo": [], "lat": 31.5, "lon": 120.301},
            "POLE-1": {"zone": "B", "halo": [], "lat": 31.5, "lon": 120.2999},
        },
    }  # fmt: skip
    drive = Drive(ZoneMap.parse(doc), genesis=False)
    drive.engine = Engine(None, drive.zones, DECODER, CODEC, partition_of(b"B", 64), 64, CODEC.decode_kafka)
    assert list(drive.engine.stations) == ["B"]
    drive.say("genesis", 0, generation=fs.GENERATION, partition=partition_of(b"B", 64), partitions=64, ts_ms=fs.T0)
    lon = round(120.2999e7)
    for t in range(0, 40_000, 100):
        drive.tick(t)
        if t % 5_000 == 0:
            number = drive.next_seq("POLE-1", "env")
            fields = {**pole(t), "lon": lon}
            drive.say("pole_env", t, device="POLE-1", boot=1, seq=number, ts_ms=fs.T0 + t, **fields)
    assert [e["kind"] for e in decoded(drive.out, EVENTS)] == ["FOG"]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.lists(st.integers(0, 2000), max_size=3))
def test_fetches_and_restarts_leave_no_trace(sizes: list[int], stops: list[int]) -> None:
    records, core, out, a, k = list(log()), engine(ZONES), [], 0, 0
    while a < len(records):
        b = min([a + sizes[k % len(sizes)], *(s for s in stops if s > a)])
        out += core.feed(records[a:b])
        if b in stops:
            core = engine(ZONES, blob=core.snapshot())
        a, k = b, k + 1
    expected, blob = straight()
    assert out == expected
    assert core.snapshot() == blob
