"""Two zones, two partitions: a vehicle that crosses keeps its id, and is told exactly once for each instant."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, Drive, decoded, engine
from v2x.topics import OBSERVATIONS, TRACKS


def world(partitions: int, deaf: Any = None, hop_ms: int = 12, **changes: Any) -> fs.World:
    s = fs.Settings(
        **{"seed": 3, "vehicles": 90, "seconds": 12.0, "zones": 2, "length_m": 1200.0, "rsus": 5, **changes}
    )
    zones = fs.zone_map(s)
    cores = [engine(zones, p, partitions) for p in range(partitions)]
    w = fs.World(fs.make(s), cores, CODEC, zones, hop_ms)
    w.run(deaf)
    return w


def by_instant(w: fs.World) -> dict[int, dict[str, set[int]]]:
    told: dict[int, dict[str, set[int]]] = defaultdict(dict)
    for outputs in w.outputs:
        for f in decoded(outputs, TRACKS):
            assert len(set(f["track"])) == len(f["track"])
            told[f["event_ms"]][f["zone"]] = set(f["track"])
    return told


@pytest.mark.parametrize(("partitions", "hop_ms"), [(1, 12), (3, 12), (3, 120)])
def test_crossing_keeps_the_id_without_gap_or_double(partitions: int, hop_ms: int) -> None:
    """``hop_ms``: how long a record takes from one engine into the other's log; two frames and more are allowed."""
    w = world(partitions, hop_ms=hop_ms)
    where = {w.zones.partition(z, partitions) for z in w.zones.zones}
    assert len(where) == (1 if partitions == 1 else 2)
    told = by_instant(w)
    seen: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for t in sorted(told):
        for zone, ids in told[t].items():
            for i in ids:
                seen[i].append((t, zone))
    crossed = {i for i, rows in seen.items() if len({z for _, z in rows}) > 1}
    assert len(crossed) >= 10
    for i in crossed:
        times = [t for t, _ in seen[i]]
        assert len(set(times)) == len(times), "told by both"
        assert {b - a for a, b in pairwise(times)} == {50}, "left out"
        changes = sum(a[1] != b[1] for a, b in pairwise(seen[i]))
        assert changes == 1
    total = Counter()
    for core in w.engines:
        total.update(core.counters)
    assert total["ownership_released"] >= len(crossed)
    assert total["ownership_taken_late"] == total["ownership_taken_over"] == total["ownership_disowned"] == 0


def test_replayed_handovers_are_dropped() -> None:
    w = world(3)
    p = w.zones.partition("Z1", 3)
    log, core = w.logs[p], engine(w.zones, p, 3)
    sent = [r for r in log if CODEC.decode_kafka(r.value)[0] in {"adopt", "release"}]
    assert len(sent) > 10
    again = [r._replace(offset=len(log) + k, stamp_ms=log[-1].stamp_ms) for k, r in enumerate(sent)]
    core.feed(log)
    before = core.counters
    core.feed(again)
    after = core.counters
    assert after["skipped_not_newer"] - before.get("skipped_not_newer", 0) == len(again)
    assert after["ownership_adopted"] == before["ownership_adopted"]


def test_a_dead_neighbour_is_replaced_and_steps_back_when_it_returns() -> None:
    first = fs.zone_map(fs.Settings(zones=2)).partition("Z1", 3)
    w = world(3, deaf=lambda p, at: p == first and at > 6000)
    told = by_instant(w)
    alive = engine(w.zones, w.zones.partition("Z2", 3), 3)
    assert alive.stations
    total = Counter()
    for core in w.engines:
        total.update(core.counters)
    assert total["ownership_taken_over"] >= 3
    before = {i for t, zones in told.items() if t < fs.T0 + 6000 for i in zones.get("Z1", set())}
    later = {i for t, zones in told.items() if t > fs.T0 + 7500 for i in zones.get("Z2", set())}
    assert len(before & later) >= 3, "ids go on"


def test_handover_records_carry_their_source_position() -> None:
    w = world(3)
    for p, outputs in enumerate(w.outputs):
        for o in outputs:
            if o.topic == OBSERVATIONS:
                _, row = CODEC.decode_kafka(o.value)
                assert (row["from_partition"], row["from_offset"], row["from_index"]) == (p, o.offset, o.nth)
                assert o.partition == w.zones.partition(row["to_zone"], 3) != p
                assert o.key == row["to_zone"].encode()
                assert len(row["state"]) == 20


def test_a_track_that_turns_back_is_news_again_a_hundred_metres_off() -> None:
    """It nears the border, goes away, and comes back: the neighbour hears of it before the last 20 m."""
    zones = fs.zone_map(fs.Settings(zones=2, rsus=2, length_m=500.0, azimuth_deg=90.0))
    drive = Drive(zones, genesis=False)
    drive.engine = engine(zones, zones.partition("Z1", 3), 3)
    drive.say("genesis", 0, generation=fs.GENERATION, partition=drive.engine.partition, partitions=3, ts_ms=fs.T0)
    there = [*range(-160, -59, 2), *range(-60, -181, -2), *range(-180, -59, 2)]  # east of the border: 0
    for n, east in enumerate(there):
        for rsu in (1, 2):
            back = 270.0 if 51 <= n <= 111 else 90.0
            drive.scan(rsu, 100.0 * n + 10 * rsu, [(1, float(east), -5.0)], heading=back)
    told = [r for o in drive.out if o.topic == OBSERVATIONS for r in [CODEC.decode_kafka(o.value)[1]]]
    assert [r["to_zone"] for r in told] == ["Z2", "Z2"]
    origin = float(fs.FRAME.to_local(told[0]["origin_lat"] / 1e7, told[0]["origin_lon"] / 1e7)[0])
    assert all(-130.0 < r["state"][0] + origin < -90.0 for r in told)
