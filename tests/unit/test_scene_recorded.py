"""The scenes that come with the project: their truth holds, nothing jumps, maps and signals fit the schemas."""

from __future__ import annotations

import numpy as np
import pytest
from v2x.geo import LocalFrame
from v2x.zones import ZoneMap

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.scene import Scene, load_scene

KINDS = {
    "STOPPED_VEHICLE": 903,
    "BREAKDOWN": 101,
    "WRONG_WAY": 904,
    "OVERSPEED": 901,
    "SLOW_VEHICLE": 902,
    "HARD_BRAKING": 0,
    "PEDESTRIAN": 405,
    "CONGESTION": 707,
}
ENVELOPE = {"boot": 1, "seq": 0, "ts_ms": 1, "msg_cnt": 0}


@pytest.fixture(scope="module", params=["motorway", "urban"])
def scene(request) -> Scene:
    return load_scene(request.param)


def local(scene: Scene, step: int):
    frame = scene.frame(step)
    first = scene.devices[0]
    east, north = LocalFrame(first.lat, first.lon).to_local(frame.lat, frame.lon)
    return frame, east, north


def test_every_kind_is_planted_once_within_the_demo(scene):
    required = [e for e in scene.events if "optional" not in e.details and e.start_s < 60]
    assert {e.kind: e.code for e in required} == KINDS
    assert len(required) == len(KINDS)
    for event in required:
        assert event.details["planted"]
        assert event.observable
        assert 3 <= event.start_s <= 45
        assert event.start_s + event.dwell_s <= 55


def test_planted_events_do_not_interact(scene):
    required = [e for e in scene.events if "optional" not in e.details and e.start_s < 60]
    frame = LocalFrame(scene.devices[0].lat, scene.devices[0].lon)
    for i, a in enumerate(required):
        for b in required[i + 1 :]:
            (ax, bx), (ay, by) = frame.to_local([a.lat, b.lat], [a.lon, b.lon])
            road = [e.link[:3] if scene.name == "motorway" else e.link for e in (a, b)]
            # Who speeds in the left lane passes what stands on the shoulder.
            if road[0] == road[1] and "OVERSPEED" not in {a.kind, b.kind}:
                assert np.hypot(ax - bx, ay - by) > 250, (a.id, b.id)


def test_truth_stands_in_the_frames(scene):
    for event in scene.events:
        if event.kind == "CONGESTION":
            continue
        row = scene.frame(round(event.start_s * 10))
        at = int(np.flatnonzero(row.idx == event.vehicles[0])[0])
        assert row.lat[at] == pytest.approx(event.lat, abs=3e-7)
        assert row.lon[at] == pytest.approx(event.lon, abs=3e-7)
        speed = row.speed[at]
        if event.kind in {"STOPPED_VEHICLE", "BREAKDOWN"} and "optional" not in event.details:
            assert speed <= 2.78
        elif event.kind == "OVERSPEED":
            assert speed > 1.16 * (120 if scene.name == "motorway" else 60) / 3.6


def test_the_broken_down_vehicle_says_so_itself(scene):
    event = next(e for e in scene.events if e.kind == "BREAKDOWN" and "optional" not in e.details)
    assert event.vehicles[0] in {d.props["vehicle"] for d in scene.devices if d.kind == "obu"}
    row = scene.frame(round(event.start_s * 10) + 20)
    at = int(np.flatnonzero(row.idx == event.vehicles[0])[0])
    assert row.flags[at] & 1
    assert row.speed[at] < 2.78


def test_the_queue_grows_behind_its_head(scene):
    event = next(e for e in scene.events if e.kind == "CONGESTION" and e.details["planted"])
    seconds = event.details["seconds"]
    early = [s for s in seconds if s["t"] < event.start_s + 4]
    late = [s for s in seconds if 45 < s["t"] < 55]
    assert max(s["queue_m"] for s in early) + 50 < min(s["queue_m"] for s in late)
    assert all(s["level"] in {1, 2, 3} for s in seconds)


def test_nothing_jumps_and_headings_follow_the_motion(scene):
    before = None
    off, worst = [], 0.0
    for step in range(600):
        frame, east, north = local(scene, step)
        if before is not None:
            _, a, b = np.intersect1d(before[0].idx, frame.idx, return_indices=True)
            de, dn = east[b] - before[1][a], north[b] - before[2][a]
            vehicle = scene.vehicles.cls[frame.idx[b]] != 10
            speed = (frame.speed[b] + before[0].speed[a]) / 2
            worst = max(worst, float(np.abs(np.hypot(de, dn) - speed * 0.1)[vehicle].max()))
            moving = vehicle & (speed > 5)
            heading = np.degrees(np.arctan2(de[moving], dn[moving]))
            off.append((heading - frame.heading[b][moving] + 180) % 360 - 180)
        before = (frame, east, north)
    error = np.abs(np.concatenate(off))
    assert worst < 0.3  # m; sideways in a lane change
    assert np.quantile(error, 0.5) < 0.25
    assert np.quantile(error, 0.999) < 6
    assert abs(float(np.concatenate(off).mean())) < 0.05  # grid north would be off by 1.4 deg


def test_no_two_vehicles_in_one_place(scene):
    size = scene.vehicles
    for step in range(0, 600, 10):
        frame, east, north = local(scene, step)
        cars = np.flatnonzero(size.cls[frame.idx] != 10)
        e, n, h = east[cars], north[cars], np.radians(frame.heading[cars])
        length, width = size.length_m[frame.idx[cars]], size.width_m[frame.idx[cars]]
        de, dn = e[:, None] - e, n[:, None] - n
        along = np.abs(de * np.sin(h) + dn * np.cos(h)) - (length[:, None] + length) / 2
        across = np.abs(de * np.cos(h) - dn * np.sin(h)) - (width[:, None] + width) / 2
        same = np.cos(h[:, None] - h) > 0.94
        hit = (along < 0) & (across < 0) & same & ~np.eye(len(cars), dtype=bool)
        assert not hit.any(), (step, frame.idx[cars][np.argwhere(hit)[0]])


def test_toll_sections_have_enough_pairs(scene):
    sections = scene.zones["sections"]
    assert len(sections) == (4 if scene.name == "motorway" else 0)
    for row in sections:
        for begin in (2.0, 10.0):
            pairs = scene.travel_truth(row["section"], begin, begin + 45.0)
            assert len(pairs) >= 10
            speeds = [row["length_m"] / (b - a) for _, a, b in pairs]
            assert 20 < np.median(speeds) < 36


def test_zone_map_parses_and_holds_the_devices(scene):
    zones = ZoneMap.parse(scene.zones)
    for device in scene.devices:
        assert device.zone in zones.zones
        if device.kind != "obu":
            assert zones.zone_at(device.lat, device.lon) == device.zone


def test_maps_and_signals_fit_their_schemas_and_each_other(scene):
    codec = ReferenceCodec(Registry.load())
    told: set[tuple[int, int, int]] = set()
    used: set[tuple[int, int, int]] = set()
    for device in (d for d in scene.devices if d.kind == "rsu"):
        nodes = scene.maps[device.id]
        codec.encode_mqtt("map", {**ENVELOPE, "device": device.id, "nodes": nodes})
        for node in nodes:
            for link in node["links"]:
                assert link["link"] in scene.links
                used |= {(node["region"], node["node"], c["phase_id"]) for x in link["lanes"] for c in x["connections"]}
        for t in (0.0, 33.3):
            rows = scene.signals(device.id, t)
            value = {**ENVELOPE, "device": device.id, "moy": 1, "sec_mark": 1, "intersections": rows}
            codec.encode_mqtt("spat", value)
            told |= {(r["region"], r["node"], p["phase_id"]) for r in rows for p in r["phases"]}
    used = {u for u in used if u[2]}
    assert used <= told
    assert bool(used) == (scene.name == "urban")
