from __future__ import annotations

import asyncio
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.integration.toy_core import ToyCore
from v2x.columns import Record
from v2x.errors import ConfigError
from v2x.topics import EVENTS, LINKS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.catalogue import LAWS
from v2x_services.fusion.cores import account, code_version
from v2x_services.fusion.domain import DomainCores, blank
from v2x_services.fusion.snapshots import KEEP, Label, SnapshotStore
from v2x_services.fusion.stage import Stage, Steps
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings
from v2x_services.testing import FakeSink

GENERATION = "0" * 36
LABEL = Label(OBSERVATIONS, 0, 1, GENERATION, 7, clean=True, code="c", config="z")


def log(n: int) -> list[Record]:
    codec = ReferenceCodec(Registry.load())
    genesis = {"generation": GENERATION, "partition": 0, "partitions": 1, "ts_ms": 0}
    return [
        Record(0, 1000, b"genesis", codec.encode("genesis", genesis), ()),
        *(Record(i, 1000 + i, b"k", b"%d" % i, ()) for i in range(1, n)),
    ]


def build(out: dict[str, tuple[int, int]]) -> tuple[Stage, FakeSink, Steps, Metrics]:
    metrics = Metrics("t", "0")
    sink = FakeSink({TRACKS: 1, LINKS: 1, EVENTS: 1})
    steps = Steps(metrics)
    stage = Stage(OBSERVATIONS, 0, ToyCore(OBSERVATIONS, 0), sink=sink, steps=steps, metrics=metrics, out=out)
    return stage, sink, steps, metrics


async def test_a_state_is_durable_only_when_all_outputs_before_it_are() -> None:
    stage, sink, steps, metrics = build({})
    await sink.start(steps.done)
    records = log(20)
    stage.step(records[:10])
    await sink.drain()
    first = stage.emitted
    assert stage.all_out(first)
    sink.hold()
    stage.step(records[10:15])
    held = stage.emitted
    assert not stage.all_out(held)
    assert stage.all_out(first)
    sink.release()
    await sink.drain()
    assert stage.all_out(held)
    metrics.set("v2x_fusion_outputs_in_flight", sink.pending_records)
    assert metrics.imbalance(LAWS[2]) == 0


async def test_what_is_already_out_is_not_written_again() -> None:
    stage, sink, steps, metrics = build({TRACKS: (11, 0), LINKS: (7, 1)})
    await sink.start(steps.done)
    stage.step(log(10))
    stage.step(log(20)[10:])
    await sink.drain()
    assert len(sink.records(TRACKS)) == 8  # 12 … 19
    assert len(sink.records(LINKS)) == 1  # 14; 0 and 7 were out
    assert metrics.total("v2x_fusion_suppressed_total") == 12 + 2
    assert metrics.imbalance(LAWS[2]) == 0


async def test_a_refused_output_is_counted_and_holds_nothing_up() -> None:
    stage, sink, steps, metrics = build({})
    sink.max_record = 10
    await sink.start(steps.done)
    stage.step(log(3))
    await sink.drain()
    assert stage.all_out(stage.emitted)
    assert metrics.total("v2x_fusion_refused_total") == 4
    assert metrics.imbalance(LAWS[2]) == 0


def test_snapshots_keep_the_newest_three_and_pass_over_damage(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "s")
    assert store.load() is None
    for position in (5, 50, 500, 5000):
        store.save(replace(LABEL, position=position), b"state %d" % position)
    files = sorted((tmp_path / "s").glob("*.snap"))
    assert len(files) == KEEP
    for damaged, left in ((files[2], 500), (files[1], 50)):
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
        assert store.load() == (replace(LABEL, position=left), b"state %d" % left)
    files[0].write_bytes(b"")
    assert store.load() is None
    store.close()


def test_a_snapshot_of_the_format_before_is_read(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    head = {"format": 1, "sha256": hashlib.sha256(b"state").hexdigest(), **asdict(LABEL)}
    (tmp_path / f"{LABEL.position:020d}.snap").write_bytes(json.dumps(head).encode() + b"\nstate")
    assert store.load() == (LABEL, b"state")
    store.save(replace(LABEL, position=LABEL.position + 1), memoryview(b"newer"))
    assert store.load() == (replace(LABEL, position=LABEL.position + 1), b"newer")
    store.close()


def test_a_write_that_was_cut_short_is_no_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(tmp_path)
    store.save(LABEL, b"good")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.save(replace(LABEL, position=99), b"never")
    assert store.load() == (LABEL, b"good")
    store.close()


def test_one_process_a_folder(tmp_path: Path) -> None:
    first = SnapshotStore(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        SnapshotStore(tmp_path)
    first.close()
    SnapshotStore(tmp_path).close()


def test_the_books_of_the_cores() -> None:
    assert account({"fused": 3, "noted": 2, "control": 1, "repeats": 4, "skipped_late": 5, "frames": 99}) == (
        6,
        {"repeats": 4, "skipped_late": 5},
    )
    assert account({"in": 4, "genesis": 1, "plates": 1, "pairs": 7, "dropped_other": 2}) == (2, {"dropped_other": 2})


def test_every_schema_has_a_blank_record_that_is_legal() -> None:
    registry = Registry.load()
    codec = ReferenceCodec(registry)
    for name in registry.names:
        assert codec.decode_kafka(codec.encode(name, blank(registry.get(name).raw)))[0] == name


async def test_the_warm_up_goes_all_the_way(tmp_path: Path) -> None:
    path = tmp_path / "zones.json"
    path.write_text(
        '{"version":1,"name":"t","zones":[{"id":"z","polygon":[[30,120],[30,121],[31,121]],"neighbours":[]}]}'
    )
    counters = await asyncio.to_thread(DomainCores(Settings.load(zones_path=path)).warm_up)
    assert isinstance(counters, dict)
    assert counters["tracks"] == 1
    assert counters["frames"] > 0
    assert len(code_version()) == 16
