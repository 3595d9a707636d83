"""Tracks: one object is one track, whoever sees it, however its ids and times are broken."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, Drive, decoded, engine
from v2x.fusion import layout as c


def run(drive: Drive, seconds: float, step: int = 100, speed: float = 20.0, both: bool = True) -> None:
    """One vehicle eastwards past both units, who see it 0.4 m apart."""
    for t in range(0, int(seconds * 1000), step):
        x = -60.0 + speed * t / 1000
        drive.scan(1, t + 5, [(7, x, -0.2)], ts=t, speed=speed)
        if both:
            drive.scan(2, t + 45, [(99, x + speed * 0.04, 0.2)], ts=t + 40, speed=speed)


def test_two_units_see_one_vehicle() -> None:
    drive = Drive()
    run(drive, 3.0)
    assert len(drive.tracks()) == 1
    ((east, north),) = drive.last().values()
    at = drive.frames()[-1]["event_ms"] - fs.T0
    assert east == pytest.approx(-60 + 0.02 * at, abs=0.6)
    assert abs(north) < 0.25
    frame = drive.frames()[-1]
    assert frame["speed"][0] * 0.02 == pytest.approx(20.0, abs=0.5)
    assert frame["heading"][0] * 0.0125 == pytest.approx(90.0, abs=1.0)
    assert (frame["length"], frame["width"], frame["object_class"]) == ([450], [180], [3])
    assert frame["hits"][0] in range(17, 22)
    assert drive.engine.counters["tracks_merged"] == 0


def test_a_track_needs_three_hits_and_ids_are_prefixed() -> None:
    drive = Drive()
    for t in (0, 100):
        drive.scan(1, t, [(1, 0.0, 0.0)], speed=0.0)
    drive.tick(190)
    assert not drive.tracks()
    drive.scan(1, 200, [(1, 0.0, 0.0)], speed=0.0)
    drive.tick(300)
    assert drive.tracks() == {(1 << 32) | 1}


def test_two_vehicles_side_by_side_stay_two_when_a_unit_swaps_their_ids() -> None:
    drive = Drive()
    ids = {1: 0.0, 2: 3.5}
    for k in range(60):
        t, x = 100 * k, -100.0 + 2.0 * k
        if k % 7 == 6:
            ids = {1: ids[2], 2: ids[1]}
        drive.scan(1, t, [(i, x, north) for i, north in ids.items()])
    drive.tick(6100)
    assert len(drive.tracks()) == 2
    first = {}
    for f in drive.frames():
        for track, lat in zip(f["track"], f["lat"], strict=True):
            north = fs.FRAME.point(lat, f["lon"][0])[1]
            assert first.setdefault(track, north) == pytest.approx(north, abs=1.0)


def test_local_ids_that_break_do_not_break_tracks() -> None:
    drive = Drive()
    for k in range(40):
        drive.scan(1, 100 * k, [(1 + k // 3, -60.0 + 2.0 * k, 0.0)])
    drive.tick(4100)
    assert len(drive.tracks()) == 1


def test_late_scans_are_put_where_they_belong() -> None:
    drive, late = Drive(), []
    for k in range(50):
        t, x = 100 * k, -60.0 + 3.0 * k
        drive.scan(1, t + 5, [(7, x, 0.0)], ts=t, speed=30.0)
        late.append((t + 50, x + 1.5))
        if len(late) > 3:  # the second unit's scans arrive 350 ms after they were true
            ts, there = late.pop(0)
            drive.scan(2, t + 55, [(9, there, 0.0)], ts=ts, speed=30.0)
    assert len(drive.tracks()) == 1
    ((east, _),) = drive.last().values()
    at = drive.frames()[-1]["event_ms"] - fs.T0
    assert east == pytest.approx(-60 + 0.03 * at, abs=0.4)
    assert drive.engine.counters["rows_late"] == 0


def test_rows_without_position_and_the_unit_itself_are_skipped_and_counted() -> None:
    drive = Drive()
    for k in range(5):
        drive.scan(1, 100 * k, [(1, 0.0, 0.0)], d_lat=-2097152)
        drive.scan(2, 100 * k + 10, [(0, 0.0, 0.0)])
        drive.scan(2, 100 * k + 20, [(5, 0.0, 0.0)], pos_conf=1)
    drive.tick(600)
    counters = drive.engine.counters
    assert (counters["rows_unavailable"], counters["rows_self"], counters["rows_fused"]) == (10, 5, 0)
    assert counters["fused"] == 15
    assert not drive.tracks()


def test_unavailable_reference_position_is_counted_not_fused() -> None:
    drive = Drive()
    drive.scan(1, 0, [(1, 0.0, 0.0)], ref=(900000001, 1200000000), d_lat=0, d_lon=0)
    assert drive.engine.counters["skipped_unavailable_position"] == 1
    assert drive.engine.counters["rows"] == 0
    assert drive.balanced()


def test_unavailable_speed_and_heading_are_no_numbers() -> None:
    drive = Drive()
    for k in range(20):
        drive.scan(1, 100 * k, [(1, 2.0 * k, 0.0)], heading_conf=0, width=0, length=0)
        drive.scan(2, 100 * k + 10, [(2, 2.0 * k + 0.2, 0.0)])
    plain = Drive()
    for k in range(30):
        plain.scan(1, 100 * k, [(1, -60 + 2.0 * k, 0.0)])
    blind = Drive()
    for k in range(30):
        x = fs.participant(1, 0, 0, 0, 0, 0, 3)
        assert x["speed"] == 0
        blind.scan(1, 100 * k, [(1, -60 + 2.0 * k, 0.0)], speed=8191 * 0.02, heading=28800 * 0.0125)
    for drive in (plain, blind):
        ((east, _),) = drive.last().values()
        assert east == pytest.approx(-60 + 0.02 * (drive.frames()[-1]["event_ms"] - fs.T0), abs=0.5)
        assert np.isfinite(drive.engine.stations["Z1"].zone.s).all()


def test_a_walker_beside_a_vehicle_is_a_track_of_its_own() -> None:
    drive = Drive()
    for k in range(40):
        drive.scan(1, 100 * k, [(1, 0.0, 0.0)], speed=0.0)
        drive.scan(2, 100 * k + 30, [(2, -3.0 + 0.13 * k, 2.0)], speed=1.3, cls=10)
    assert len(drive.last()) == 2
    assert sorted(drive.frames()[-1]["object_class"]) == [3, 10]


def test_a_vehicles_own_message_joins_its_track_though_its_id_rotates() -> None:
    drive = Drive()
    for k in range(60):
        t, x = 100 * k, -100.0 + 2.0 * k
        drive.scan(1, t + 5, [(1, x, 0.0)], ts=t)
        drive.bsm("OBU-1", t + 30, x + 0.6, 0.3, (k // 20).to_bytes(8, "big"))
    assert len(drive.tracks()) == 1
    alone = Drive()
    for k in range(30):
        alone.bsm("OBU-1", 100 * k, -100.0 + 2.0 * k, 0.0, (k // 10).to_bytes(8, "big"))
    assert len(alone.tracks()) == 1
    alone.bsm("OBU-1", 3000, 0, 0, bytes(8), lat=900000001)
    assert alone.engine.counters["skipped_unavailable_position"] == 1


def test_tracks_end_on_the_stream_clock_and_outlive_an_outage() -> None:
    drive = Drive()
    run(drive, 2.0, both=False)
    t = 2000
    while t < 4000:
        t += 20
        drive.tick(t)
    assert not drive.last()
    assert drive.engine.counters["tracks_lost"] == 1
    kept = Drive()
    for k in range(20):
        kept.scan(1, 100 * k, [(1, 0.0, 0.0)], speed=0.0)
    (track,) = kept.tracks()
    for k in range(10):  # Kafka was away for a minute; the standing vehicle still stands
        kept.scan(1, 60_000 + 100 * k, [(1, 0.0, 0.0)], ts=2000 + 100 * k, speed=0.0)
    assert set(kept.last()) == {track}


def test_duplicates_are_merged_but_not_what_one_unit_sees_twice() -> None:
    drive = Drive()
    zone = drive.engine.stations["Z1"].zone
    for k in range(30):
        drive.scan(1, 100 * k, [(1, 0.0, 0.0), (2, 0.9, 0.0)], speed=0.0)
    assert len(drive.last()) == 2
    assert drive.engine.counters["tracks_merged"] == 0
    # The unit loses one of them: 0.4 s later nobody says they are two.
    for k in range(30, 40):
        drive.scan(1, 100 * k, [(1, 0.0, 0.0)], speed=0.0)
    assert len(drive.last()) == 1
    assert drive.engine.counters["tracks_merged"] == 1
    assert zone.ctl[c.CTL_LIVE] == 1


@pytest.mark.parametrize("seed", [11, 12])
def test_a_motorway_is_seen_as_it_is(seed: int) -> None:
    """No switched, no invented, no missed tracks; errors as the sensors allow (bias 0.3 m an axis: 0.42 m alone)."""
    s = fs.Settings(seed=seed, seconds=12.0, vehicles=120)
    scene = fs.make(s)
    core = engine(fs.zone_map(s))
    out = []
    log = fs.log(CODEC, fs.scans(scene))
    for a in range(0, len(log), 50):
        out += core.feed(log[a : a + 50])
    a = np.radians(s.azimuth_deg)
    errors, owner, strange, missed, switches = [], {}, 0, 0, 0
    for f in decoded(out, "v2x.tracks"):
        t = f["event_ms"] - fs.T0
        if t < 2000:
            continue
        te, tn = scene.at(t)
        e, n = fs.FRAME.to_local(np.array(f["lat"]) / 1e7, np.array(f["lon"]) / 1e7)
        free = {x: k for k, x in enumerate(f["track"]) if abs(e[k] * np.sin(a) + n[k] * np.cos(a)) < 900}
        d = np.hypot(te[:, None] - e[None], tn[:, None] - n[None])
        true = np.flatnonzero(np.abs(te * np.sin(a) + tn * np.cos(a)) < 900)
        late = []
        for j in true:  # who was matched stays matched while within 3 m, as in CLEAR MOT
            k = free.get(owner.get(j, -1), -1)
            if k >= 0 and d[j, k] < 3.0:
                errors.append(d[j, k])
                del free[owner[j]]
            else:
                late.append(j)
        for j in late:
            best = min(free, key=lambda x: d[j, free[x]], default=None)
            if best is None or d[j, free[best]] > 3.0:
                missed += 1
                continue
            errors.append(d[j, free.pop(best)])
            switches += j in owner
            owner[j] = best
        strange += sum(d[:, k].min() > 3.0 or x not in owner.values() for x, k in free.items())
    assert switches == 0
    assert strange <= 0.003 * len(errors)
    assert missed <= 0.002 * len(errors)
    assert float(np.sqrt(np.mean(np.square(errors)))) < 0.6
