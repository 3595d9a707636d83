"""After an outage its backlog comes in a burst: fusion makes of it what it would have made without the outage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, decoded, engine
from tests.unit.test_events_border import SETTINGS as BORDER
from tests.unit.test_events_border import ZONES as BORDER_ZONES
from tests.unit.test_events_border import road_map, sound, told
from tests.unit.test_events_border import scene as border_scene
from v2x.columns import Output, Record
from v2x.fusion import catchup
from v2x.fusion.engine import Engine
from v2x.topics import EVENTS, TRACKS
from v2x.zones import ZoneMap

SCENE = fs.Settings(seed=4, seconds=16.0, vehicles=70, walkers=2, length_m=1200.0, rsus=5)
BEGIN, END = 5_000.0, 11_000.0  # of the outage, ms


def late(at: float, device: str, burst_ms: float, skew_ms: float) -> float:
    """When a record is in the log: those of the outage, in order, within ``burst_ms`` of its end.

    Units of odd numbers have a session of their own, which takes ``skew_ms`` longer; nobody overtakes within a session.
    """
    takes = burst_ms + skew_ms * (int(device[-2:]) % 2)
    return END + takes * (at - BEGIN) / (END - BEGIN) if BEGIN <= at < END else max(at, END + takes if at >= END else 0)


def log_of(
    messages: Sequence[tuple[float, str, str, dict[str, Any]]], seconds: float, when: Callable[[float, str], float]
) -> list[Record]:
    """Return a log of (ms, device, schema, record); ticks where nothing is held back."""
    rows = [(when(at, device), n, CODEC.encode(schema, record)) for n, (at, device, schema, record) in
            enumerate(messages)]  # fmt: skip
    for at in np.arange(20.0, seconds * 1000.0, 20.0):
        if when(at, "RSU-01") == at == when(at, "RSU-02"):
            rows.append((at, len(rows), CODEC.encode("tick", {"source": "test", "ts_ms": int(fs.T0 + at)})))
    genesis = {"generation": fs.GENERATION, "partition": 0, "partitions": 1, "ts_ms": fs.T0}
    rows.append((0.0, -1, CODEC.encode("genesis", genesis)))
    return [Record(n, int(fs.T0 + at), b"k", value, ()) for n, (at, _, value) in enumerate(sorted(rows))]


@cache
def motorway(burst_ms: float, skew_ms: float, zones: int = 1) -> tuple[Record, ...]:
    s = fs.Settings(**{**vars(SCENE), "zones": zones})
    messages = [(at, device, "rsm", record) for at, device, record in fs.scans(fs.make(s))]
    when = (lambda at, _: at) if not burst_ms else (lambda at, device: late(at, device, burst_ms, skew_ms))
    return tuple(log_of(messages, s.seconds, when))


def fed(log: Sequence[Record], zones: ZoneMap) -> tuple[Engine, list[Output]]:
    core = engine(zones)
    return core, core.feed(log)


def ids_by_instant(outputs: list[Output]) -> dict[tuple[str, int], list[int]]:
    return {(f["zone"], f["event_ms"]): f["track"] for f in decoded(outputs, TRACKS)}


@pytest.mark.parametrize(("burst_ms", "skew_ms", "zones"), [(1_000.0, 0.0, 1), (1_000.0, 500.0, 2), (300.0, 0.0, 1)])
def test_a_burst_makes_the_same_tracks_as_a_quiet_day(burst_ms: float, skew_ms: float, zones: int) -> None:
    where = fs.zone_map(fs.Settings(**{**vars(SCENE), "zones": zones}))
    quiet, calm = fed(motorway(0.0, 0.0, zones), where)
    core, out = fed(motorway(burst_ms, skew_ms, zones), where)
    assert (core.counters["catch_ups"], core.counters["held"], quiet.counters["catch_ups"]) == (1, 0, 0)
    assert core.counters["rows_late"] == core.counters["rows_ahead"] == core.counters.get("skipped_late", 0) == 0
    before, after = ids_by_instant(calm), ids_by_instant(out)
    both = before.keys() & after.keys()
    assert len(both) > 0.97 * len(before)  # no frame is left out
    unlike = sum(len(set(before[t]) ^ set(after[t])) for t in both)
    assert unlike <= 0.002 * sum(map(len, before.values()))  # ids are kept: a frame sooner or later here and there


def test_frames_of_a_burst_are_flagged_and_in_order() -> None:
    frames = decoded(fed(motorway(1_000.0, 500.0), fs.zone_map(SCENE))[1], TRACKS)
    flagged = [f["event_ms"] - fs.T0 for f in frames if f["catching_up"]]
    assert BEGIN - 100 < flagged[0] < BEGIN + 100
    assert END - 100 < flagged[-1] < END + 2_000
    assert {b["event_ms"] - a["event_ms"] for a, b in pairwise(frames)} == {50}
    assert len(flagged) == (flagged[-1] - flagged[0]) / 50 + 1


def test_the_same_bytes_wherever_batches_end_and_restarts_lie() -> None:
    zones, log = fs.zone_map(SCENE), motorway(1_000.0, 500.0)
    _, whole = fed(log, zones)
    for size in (1, 37, 500):
        core, out, most = engine(zones), [], 0
        for n, a in enumerate(range(0, len(log), size)):
            out += core.feed(log[a : a + size])
            held = core.counters["held"]
            if n % (150 if size == 1 else 3) == 2 or held > most + 10:
                most = max(held, most)
                core = engine(zones, blob=core.snapshot())
        assert out == whole
        assert most > 20 or size > 1


def test_a_unit_that_died_in_the_outage_holds_nobody_up() -> None:
    zones = fs.zone_map(SCENE)
    messages = [
        (at, device, "rsm", record)
        for at, device, record in fs.scans(fs.make(SCENE))
        if device != "RSU-03" or at < BEGIN
    ]
    core, out = fed(log_of(messages, SCENE.seconds, lambda at, device: late(at, device, 1_500.0, 0.0)), zones)
    assert (core.counters["held"], core.counters.get("skipped_late", 0)) == (0, 0)
    assert decoded(out, TRACKS)[-1]["event_ms"] > fs.T0 + SCENE.seconds * 1000 - 300
    assert not decoded(out, TRACKS)[-1]["catching_up"]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "MAX_HELD", 40)
    core, most = engine(fs.zone_map(SCENE)), 0
    for record in motorway(1_000.0, 500.0):
        core.feed([record])
        most = max(most, core.counters["held"])
    assert most == 40
    assert core.counters["held"] == 0


def test_a_broker_whose_clock_is_set_is_no_burst() -> None:
    zones, log = fs.zone_map(SCENE), motorway(0.0, 0.0)
    moved = [r._replace(stamp_ms=r.stamp_ms + (3_600_000 if r.stamp_ms > fs.T0 + 6_000 else 0)) for r in log]
    core, out = fed(moved, zones)
    flagged = [f for f in decoded(out, TRACKS) if f["catching_up"]]
    assert core.counters["catch_ups"] == 1
    assert 0 < len(flagged) < 20  # of 320: half a second tells
    assert core.counters["tracks_lost"] <= fed(log, zones)[0].counters["tracks_lost"] + 2


def kinds(outputs: list[Output]) -> dict[str, tuple[str, int, int]]:
    found = {}
    for name, rows in told([outputs]).items():
        sound(rows)
        found[name] = (rows[0]["kind"], rows[0]["start_ms"], len(rows))
    return found


def test_the_same_incidents_under_the_same_ids() -> None:
    """Five vehicles that do what they must not over a border, with the outage in the midst of their dwell times."""
    scans = [(at, device, "rsm", record) for at, device, record in fs.scans(border_scene())]
    messages = [(1.0, "RSU-04", "map", road_map()), *scans]
    squeezed = lambda at, device: at if at < 3_000 else late(at + 2_000, device, 900.0, 400.0) - 2_000  # noqa: E731
    _, calm = fed(log_of(messages, BORDER.seconds, lambda at, _: at), BORDER_ZONES)
    core, out = fed(log_of(messages, BORDER.seconds, squeezed), BORDER_ZONES)
    assert core.counters["catch_ups"] == 1
    assert len(decoded(calm, EVENTS)) > 10
    assert kinds(out) == kinds(calm)
