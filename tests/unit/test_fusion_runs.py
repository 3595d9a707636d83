"""Runs: what the kernel takes at once is what Python makes of it record by record, wherever batches end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, decoded, engine
from tests.unit.test_codecs_recordbatch import batch
from v2x.columns import Output, Record, Records
from v2x.fusion.clock import EventClock
from v2x.fusion.engine import Engine
from v2x.fusion.intake import Intake
from v2x.fusion.outlet import Trigger
from v2x.fusion.repeats import WINDOW, Repeats
from v2x.fusion.snapshot import Frozen
from v2x.fusion.zone import FIRST_ROWS
from v2x.topics import TRACKS

from v2x_codecs import recordbatch as rb
from v2x_codecs.registry import Registry
from v2x_services.fusion.domain import blank

SCENE = fs.Settings(seed=9, seconds=8.0, vehicles=420, walkers=2, rsus=4, length_m=1200.0, zones=2, range_m=320.0)
ZONES = fs.zone_map(SCENE)


def changed(messages: list[tuple[float, str, dict[str, Any]]]) -> list[tuple[float, str, dict[str, Any]]]:
    """Return a scene's scans with all that can happen to one, but few of each."""
    out = []
    for k, (at, device, scan) in enumerate(messages):
        row = dict(scan)
        if device == "RSU-02" and at > 4_000:
            row["boot"] += 1  # it started anew, and counts on
        if device == "RSU-03":
            row["ts_ms"] += 2_500  # its clock is wrong
        if k % 41 == 7:
            row["ref_lat"] = 900_000_001
        if k % 53 == 9:
            row["participants"] = []
        if k % 61 == 11 and device != "RSU-03":
            row["ts_ms"] -= 3_000  # late
        if k % 67 == 13:
            row["device"] = "STRANGER"
        if k % 71 == 15:
            row["seq"] += WINDOW - 3 + k % 7
        if k % 43 == 17:
            row["obstacles"] = [thing(k % 3)]
        out.append((at, device, row))
        if k % 29 == 3:
            out.append((at + 15.0 + k % 90, device, row))  # again, and out of turn
    return sorted(out, key=lambda m: m[0])


def thing(k: int) -> dict[str, int]:
    """Return an obstacle: something on the road."""
    fields = next(f for f in Registry.load().get("rsm").raw["fields"] if f["name"] == "obstacles")["type"]["items"]
    return {**blank(fields), "obs_type": 1, "obs_id": k, "d_lat": 0, "d_lon": 0}


@cache
def log() -> tuple[Record, ...]:
    out = []
    for n, r in enumerate(fs.log(CODEC, changed(fs.scans(fs.make(SCENE))))):
        stamp = r.stamp_ms + (90_000 if n > 60 else 0) - (40 if n % 97 == 5 else 0)  # a broker's clock is set
        headers = r.headers if n % 3 else ()
        value = r.value if n % 83 != 21 else r.value[:-1]
        out.append(Record(n, stamp, r.key, value, headers))
    return tuple(out)


@cache
def by_record() -> tuple[list[Output], dict[str, int], bytes]:
    """Return what an engine makes that takes every record by itself."""
    core = engine(ZONES)
    core.in_runs = False
    return core.feed(log()), core.counters, core.snapshot()


def test_the_log_has_all_that_can_happen_to_a_scan() -> None:
    out, counters, _ = by_record()
    wanted = {
        "fused", "control", "repeats", "skipped_late", "skipped_undecodable", "skipped_unavailable_position", "gaps",
    }  # fmt: skip
    assert {name for name in wanted if counters[name]} == wanted
    assert len({f["zone"] for f in decoded(out, TRACKS)}) == 2
    assert counters["tracks"] > 100
    assert counters["associations_slow"] > 100
    core = engine(ZONES, blob=by_record()[2])
    assert core.events.retimed() == ["RSU-03"]
    assert any(len(station.zone.s) > FIRST_ROWS for station in core.stations.values())  # the tables grew


def fetched(records: Sequence[Record]) -> Records:
    """Return records as a fetch brings them: a batch each or in tens."""
    found = rb.read_batches(b"".join(batch(records[a : a + 10]) for a in range(0, len(records), 10)), 0)
    assert found is not None
    return found.records


WAYS: tuple[Callable[[Sequence[Record]], Sequence[Record]], ...] = (list, Records.of, fetched)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=6), st.lists(st.integers(0, 900), max_size=2), st.booleans())
def test_runs_leave_no_trace(sizes: list[int], stops: list[int], in_runs: bool) -> None:
    records, core, out, a, k = log(), engine(ZONES), [], 0, 0
    while a < len(records):
        b = min([a + sizes[k % len(sizes)], *(s for s in stops if s > a)])
        core.in_runs = in_runs or k % 2 == 0
        out += core.feed(WAYS[k % 3](records[a:b]))
        if b in stops:
            core = engine(ZONES, blob=core.snapshot())
        a, k = b, k + 1
    assert (out, core.counters, core.snapshot()) == by_record()


def test_every_frame_has_the_same_cause_and_every_place_the_same_state(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: dict[bool, list[tuple[int, Trigger]]] = {True: [], False: []}
    frame = Engine._frame
    monkeypatch.setattr(
        Engine, "_frame", lambda self, t, cause: frames[self.in_runs].append((t, cause)) or frame(self, t, cause)
    )
    runs, single = engine(ZONES), engine(ZONES)
    single.in_runs = False
    for a in range(0, len(log()), 53):
        assert runs.feed(log()[a : a + 53]) == single.feed(log()[a : a + 53])
        if a % 4 == 0:
            assert runs.snapshot() == single.snapshot()
    assert frames[True] == frames[False]
    assert {bool(cause.device) for _, cause in frames[True]} == {True, False}


def test_most_records_go_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    single: list[int] = []
    take = Intake.take
    monkeypatch.setattr(Intake, "take", lambda self, n, *rest: single.append(n) or take(self, n, *rest))
    core = engine(ZONES)
    core.feed(log())
    unlike = len(log()) // 7  # obstacles, strangers, rubbish, no reference; half a second until the gap is no burst
    assert 0 < len(single) < unlike


NUMBERS = st.lists(
    st.tuples(
        st.sampled_from("ABC"), st.sampled_from([1, 1, 1, 2]), st.sampled_from(["rsm", "bsm"]),
        st.integers(-3, 3) | st.sampled_from([-WINDOW, 1 - WINDOW, WINDOW - 1, WINDOW, 2 * WINDOW, 64, 63]),
    ),
    max_size=60,
)  # fmt: skip


@given(NUMBERS, st.integers(0, 60))
def test_rings_know_what_the_table_knows(said: list[tuple[str, int, str, int]], stop: int) -> None:
    table, rings, at = Repeats(), Repeats(["A", "B"]), 3 * WINDOW
    for n, (device, boot, kind, step) in enumerate(said):
        at = max(at + step, 0)
        assert rings.seen(device, boot, kind, at) == table.seen(device, boot, kind, at)
        if n == stop:
            again = Repeats(["A", "B"])
            again.load(rings.state())
            assert Frozen(again.state()).pack() == Frozen(rings.state()).pack()
            rings = again
    free, back = Repeats(), Repeats(["B", "C"])
    free.load(rings.state())  # the map no longer has these devices
    assert sorted(free.state()["streams"]) == sorted(table.state()["streams"])
    back.load(free.state())
    free.load(back.state())
    assert sorted(free.state()["streams"]) == sorted(table.state()["streams"])


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 400), st.integers(-3_000, 3_000)), max_size=80))
def test_fixed_devices_are_heard_like_others(steps: list[tuple[str, int, int]]) -> None:
    fixed, free, now = EventClock(["A", "B"]), EventClock(), fs.T0
    for device, step, skew in steps:
        now += step if step < 390 else 61_000  # they are forgotten
        assert fixed.hear(device, now + skew, now) == free.hear(device, now + skew, now)
        assert fixed.due(now) == free.due(now)
        assert fixed.skews() == free.skews()
        again = EventClock(["A", "B"])
        again.load(fixed.state())
        assert again.state() == fixed.state()
