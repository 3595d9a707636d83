"""What the standing audit makes of summaries, and of a partition that it reads in full; no brokers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import TopicPartition
from v2x.columns import Record, Records
from v2x.standing import Difference, Gap
from v2x.topics import DEADLETTER, OBSERVATIONS, SUMMARIES

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_codecs.vectors import load
from v2x_loadtest.audit import kept
from v2x_loadtest.audit.sources import SILENT_S, Sources
from v2x_loadtest.audit.standing import StandingAudit
from v2x_loadtest.audit.turns import TURN_S
from v2x_services.catalogue import LAWS
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
RSM = next(v.record for v in load(REGISTRY) if v.schema == "rsm" and v.name == "typical")
LAW = next(law for law in LAWS if law.name == "audit")
BOOT = 1_767_229_100_000


@pytest.fixture
async def audit() -> AsyncIterator[StandingAudit]:
    made = StandingAudit(Settings(), Metrics("audit"))
    yield made
    await made._tap.stop()


def records(*values: bytes) -> Records:
    return Records.of([Record(i, BOOT + i, None, value, ()) for i, value in enumerate(values)])


def summary(seq: int, *runs: tuple[str, int, int, int], **fields: Any) -> bytes:
    told = [{"device": d, "code": code, "boot": BOOT, "first": a, "last": b} for d, code, a, b in runs]
    head = {"source": "me", "start_ms": BOOT, "seq": seq, "ts_ms": BOOT, "final": False, **fields}
    return CODEC.encode("summary", {**head, "runs": told})


def rsm(device: str, seq: int) -> bytes:
    return CODEC.encode("rsm", {**RSM, "device": device, "boot": BOOT, "seq": seq})


def dead_letter(device: str, seq: int) -> bytes:
    letter = {**next(v.record for v in load(REGISTRY) if v.schema == "dead_letter" and v.name == "typical")}
    letter |= {"topic": f"v2x/v1/rsu/{device}/rsm/up", "device": device, "boot": BOOT, "seq": seq}
    return CODEC.encode("dead_letter", letter)


async def test_a_gap_is_in_the_metrics_at_once_by_device_boot_type_and_range(audit: StandingAudit) -> None:
    metrics = audit._metrics
    audit.take(SUMMARIES, records(summary(0, ("R-1", 1, 0, 9), ("R-2", 1, 5, 5)), summary(1, ("R-1", 1, 14, 20))))
    metrics.refresh()
    labels = {"device": "R-1", "boot": str(BOOT), "type": "rsm", "first": "10", "last": "13"}
    assert metrics.value("v2x_audit_gap", state="missing", **labels).value == 4
    assert (metrics.total("v2x_audit_missing"), metrics.total("v2x_audit_lost_total")) == (4, 0)
    audit.take(DEADLETTER, records(dead_letter("R-1", 11)))
    for _ in range(2):
        audit.sweep(everything=True)
    metrics.refresh()
    assert metrics.value("v2x_audit_lost_total", type="rsm").value == 3
    series = metrics._series["v2x_audit_gap"]
    assert {(key[0], *key[4:]): v.value for key, v in series.items()} == {
        ("lost", "10", "10"): 1,
        ("lost", "12", "13"): 2,
    }
    assert metrics.imbalance(LAW) == 0
    assert metrics.total("v2x_audit_taken_total") == 19


async def test_a_type_of_a_newer_ingest_is_passed_over(audit: StandingAudit) -> None:
    audit.take(SUMMARIES, records(summary(0, ("R-1", 200, 0, 9), ("R-1", 1, 0, 0)), b"junk"))
    assert len(audit.standing) == 1
    assert audit._metrics.total("v2x_audit_other_total") == 1


@pytest.mark.parametrize(
    ("told", "written", "untold", "untrue"),
    [
        ((0, 30), range(10, 21), 0, 0),
        ((0, 14), range(10, 21), 6, 0),
        ((0, 30), [10, 11, 15, 20], 0, 7),  # Kafka lost what it had
        ((16, 30), [10, *range(12, 21)], 5, 0),
    ],
)
async def test_a_partition_is_held_against_the_summaries(
    audit: StandingAudit, told: tuple[int, int], written: Any, untold: int, untrue: int
) -> None:
    turns, unit = audit.turns, [TopicPartition(OBSERVATIONS, 0)]
    turns.units = [unit]
    assert turns.begin(0.0) is unit
    audit.take(OBSERVATIONS, records(*(rsm("R-1", seq) for seq in written)))
    assert not turns.due(TURN_S - 1)
    assert turns.judge(TURN_S, doubtful=False) is None  # the last summaries may be on their way
    assert turns.begin(TURN_S) is None
    audit.take(OBSERVATIONS, records(rsm("R-1", 21), rsm("R-1", 90)))  # the next turn's
    audit.take(SUMMARIES, records(summary(0, ("R-1", 1, *told))))
    now, found = TURN_S, None
    while found is None:
        now += 10
        found = turns.judge(now, doubtful=False)
        assert now < TURN_S + 100
    assert (found.untold, found.untrue) == (untold, untrue)
    assert all(isinstance(gap, Gap) and gap.device == "R-1" for gap in found.named)
    assert (turns.checks, turns.begin(now)) == (1, unit)


async def test_a_dead_letter_is_no_difference_between_summaries_and_partition(audit: StandingAudit) -> None:
    turns = audit.turns
    turns.units = [[TopicPartition(OBSERVATIONS, 0)]]
    turns.begin(0.0)
    audit.take(DEADLETTER, records(dead_letter("R-1", 2), dead_letter("R-9", 0), dead_letter("R-9", 5)))
    audit.take(OBSERVATIONS, records(*(rsm("R-1", seq) for seq in (1, 3))))
    audit.take(SUMMARIES, records(summary(0, ("R-1", 1, 1, 1), ("R-1", 1, 3, 3), ("R-9", 1, 1, 4))))
    assert turns.judge(TURN_S, doubtful=False) is None
    assert turns.judge(TURN_S + 10, doubtful=False) == Difference(0, 0, [])


async def test_while_a_source_is_silent_a_difference_says_nothing(audit: StandingAudit) -> None:
    audit.turns.units = [[TopicPartition(OBSERVATIONS, 0)]]
    audit.turns.begin(0.0)
    audit.take(OBSERVATIONS, records(rsm("R-1", 1)))
    looks = [audit.turns.judge(100.0 + n, doubtful=True) for n in range(8)]
    said = [found for found in looks if found is not None]
    assert [(found.untold, found.untrue) for found in said] == [(0, 0)]


def test_a_source_that_was_killed_leaves_a_doubt_and_one_that_stopped_does_not() -> None:
    sources = Sources()
    sources.take("a", 1000, 7, 50_000, 0.0, final=False)  # met in the middle
    sources.take("a", 1000, 8, 51_000, 1.0, final=False)
    sources.take("a", 1000, 8, 51_000, 1.1, final=False)  # a copy
    assert sources.doubt(1.2) is None
    sources.take("a", 2000, 0, 60_000, 2.0, final=False)
    assert sources.doubt(2.1) == 46_000  # from its last word on, and a margin
    sources.settled()
    assert sources.doubt(2.2) is None
    sources.take("a", 2000, 1, 61_000, 3.0, final=True)
    sources.take("a", 1500, 0, 70_000, 4.0, final=False)  # again, after a clock was set back
    assert sources.doubt(4.1) is None
    sources.take("a", 1500, 2, 72_000, 5.0, final=False)  # one was lost on the way
    assert sources.doubt(5.1) == 65_000
    sources.settled()
    assert sources.silent(10.5)
    assert sources.doubt(5.0 + SILENT_S) is None
    assert sources.doubt(5.1 + SILENT_S) == 67_000  # it may be dead for good
    sources.settled()
    assert sources.doubt(99.0) is None  # looked at once


def test_sources_go_on_as_they_were_saved() -> None:
    sources, again = Sources(), Sources()
    sources.take("a", 1000, 7, 50_000, 0.0, final=False)
    sources.take("b", 1000, 1, 52_000, 0.0, final=True)
    again.load(json.loads(json.dumps(sources.dump())), 100.0)
    assert again.doubt(100.0) is None
    again.take("a", 1000, 8, 53_000, 101.0, final=False)
    again.take("b", 2000, 0, 54_000, 101.0, final=False)
    assert again.doubt(101.0) is None
    again.take("a", 2000, 0, 60_000, 102.0, final=False)
    assert again.doubt(102.0) == 48_000


def test_a_saved_state_is_whole_or_none(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "standing.npz"
    assert kept.load(path) is None
    kept.save(path, {"offsets": [["t", 0, 5]]}, {"facts": np.arange(400)})
    found = kept.load(path)
    assert found is not None
    assert (found.head["offsets"], found.arrays["facts"].tolist()) == ([["t", 0, 5]], list(range(400)))
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:100], b"", whole[:900] + b"!!" + whole[902:]):
        path.write_bytes(damaged)
        assert kept.load(path) is None


async def test_a_state_that_cannot_be_saved_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where the folder should be")
    made = StandingAudit(Settings(state_dir=tmp_path), Metrics("audit"))
    await made._save()
    assert made._metrics.total("v2x_audit_faults_total") == 1
    await made._tap.stop()
