"""Log and ledger joined, on hand-made records: the account, and the latency of every hop."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from v2x.audit import PositionCheck
from v2x.columns import Record
from v2x.errors import ConfigError
from v2x.topics import DEADLETTER, DEVICES, EVENTS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import REPEAT, SENT, SPOILT, Ledger
from v2x_loadtest.audit.log import LeanLog, Log
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.latency import first_stamp_at_or_after, measure, quantiles

T0 = 1_700_000_000_000
BOOT = T0 - 1000
GEN = "0b9e8a52-8a75-4f1c-9a8e-0123456789ab"
RSU, POLE = 0, 1
RSM, HB, ENV = 1, 5, 11


class Rec(NamedTuple):
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


def take(log: Log, topic: str, rows: list[Rec]) -> None:
    """Take rows, those of one partition that follow each other at once."""
    for partition, some in groupby(rows, lambda r: r.partition):
        log.take(topic, partition, [Record(r.offset, r.timestamp, r.key, r.value, r.headers) for r in some])


@pytest.fixture(scope="module")
def codec() -> ReferenceCodec:
    return ReferenceCodec(Registry.load())


def blank(codec: ReferenceCodec, name: str, **given: Any) -> bytes:
    """Encode a record of zeros and empties but for what is given."""

    def zero(kind: Any) -> Any:
        if isinstance(kind, dict):
            if kind["type"] == "fixed":
                return bytes(kind["size"])
            if kind["type"] == "enum":
                return kind["symbols"][0]
            return [] if kind["type"] == "array" else {f["name"]: zero(f["type"]) for f in kind["fields"]}
        return {"string": "", "bytes": b"", "boolean": False, "double": 0.0}.get(kind, 0)

    raw = Registry.load().get(name).raw
    return codec.encode(name, {**{f["name"]: zero(f["type"]) for f in raw["fields"]}, **given})


def rx(ms: float) -> tuple[tuple[str, bytes], ...]:
    return (("rx", int(ms * 1000).to_bytes(8, "big")),)


def write_ledger(folder: Path, rows: list[tuple[int, ...]]) -> Ledger:
    """Rows: device, type, flags, seq, ts_ms, intended_us, sent_us, acked_us."""
    head = {
        "devices": [{"id": "RSU-1", "kind": "rsu", "boot": BOOT}, {"id": "POLE-1", "kind": "pole", "boot": BOOT}],
        "scene": "motorway",
        "t0_ms": T0,
        "offset_s": 5.0,
        "speed": 1.0,
        "copies": 1,
        "seed": 7,
    }
    (folder / "devices.json").write_text(json.dumps(head))
    np.save(folder / "sent.npy", np.array(rows, SENT))
    return Ledger.load(folder)


def sent(device: int, kind: int, seq: int, at_ms: float, *, flags: int = 0, acked: bool = True) -> tuple[int, ...]:
    us = int((T0 + at_ms) * 1000)
    return (device, kind, flags, seq, T0 + int(at_ms) - 20, us, us, us + 1500 if acked else 0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    rows = [sent(RSU, RSM, n, 100.0 * n) for n in range(5)]
    rows += [
        sent(RSU, RSM, 1, 130.0, flags=REPEAT),
        sent(RSU, RSM, 5, 500.0, acked=False),
        (RSU, RSM, 0, 6, T0, (T0 + 600) * 1000, 0, 0),  # it never left
        sent(RSU, HB, 0, 50.0),
        sent(POLE, ENV, 0, 60.0, flags=SPOILT),
        sent(POLE, ENV, 1, 70.0, flags=SPOILT),
    ]
    return write_ledger(tmp_path, rows)


def observations(codec: ReferenceCodec) -> list[Rec]:
    def rsm(offset: int, seq: int, ms: int, headers: tuple[tuple[str, bytes], ...] = ()) -> Rec:
        value = blank(codec, "rsm", device="RSU-1", boot=BOOT, seq=seq, ts_ms=T0 + 100 * seq - 20)
        return Rec(0, offset, T0 + ms, b"zone-1", value, headers or rx(T0 + ms - 2))

    return [
        Rec(0, 0, T0, b"", blank(codec, "genesis", generation=GEN)),
        rsm(1, 0, 4),
        Rec(0, 2, T0 + 55, b"zone-1", blank(codec, "rsu_hb", device="RSU-1", boot=BOOT, seq=0, ts_ms=T0), rx(T0 + 54)),
        rsm(3, 1, 110),
        rsm(4, 1, 133),  # the device said it twice
        rsm(5, 1, 134, (("copy", b""),)),  # for a halo zone
        rsm(6, 2, 206),
        rsm(7, 4, 412),  # number 3 is not there
        Rec(0, 8, T0 + 430, b"", blank(codec, "tick", source="a", ts_ms=T0 + 430)),
    ]


def frame(codec: ReferenceCodec, offset: int, ms: int, nth: int = 0) -> Rec:
    head = {"generation": GEN, "partition": 0, "offset": offset, "index": nth, "zone": "zone-1"}
    return Rec(0, offset, T0 + ms, b"", blank(codec, "track_frame", **head, event_ms=T0 + ms, inputs=offset + 1))


@pytest.fixture
def log(codec: ReferenceCodec) -> Log:
    log = Log()
    take(log, OBSERVATIONS, observations(codec))
    frames = [frame(codec, 3, 125), frame(codec, 6, 220), frame(codec, 6, 260), frame(codec, 6, 221, nth=1)]
    take(log, TRACKS, frames)
    letter = {"topic": "v2x/v1/pole/POLE-1/env/up", "device": "POLE-1", "type": "env"}
    take(
        log,
        DEADLETTER,
        [
            Rec(0, 0, T0, b"", blank(codec, "dead_letter", reason="TRUNCATED", boot=-1, seq=-1, **letter)),
            Rec(0, 1, T0, b"", blank(codec, "dead_letter", reason="OUT_OF_RANGE", boot=BOOT, seq=1, **letter)),
        ],
    )
    return log


def test_the_account(log: Log, ledger: Ledger) -> None:
    verdict = judge(log, ledger).to_dict()
    assert verdict["published"] == 9
    assert verdict["acknowledged"] == 8
    assert verdict["observations"] == 5
    assert verdict["duplicates_in_log"] == 1
    assert verdict["deadletter_by_reason"] == {"OUT_OF_RANGE": 1, "TRUNCATED": 1}
    assert verdict["lost"] == 1
    assert verdict["unacknowledged"] == 1
    assert verdict["halo_copies"] == 1
    assert verdict["fused"] == 4  # the last frame stands at offset 6
    assert verdict["not_yet_fused"] == 1
    (fault,) = verdict["faults"]
    assert (fault["device"], fault["type"], fault["lost"]) == ("RSU-1", "rsm", ["3"])
    json.dumps(verdict)


def test_without_a_ledger_the_gap_is_found(log: Log) -> None:
    verdict = judge(log, None)
    assert verdict.account.lost == 1
    assert not verdict.fine


def test_strange_records_are_told(codec: ReferenceCodec) -> None:
    log = Log()
    take(log, OBSERVATIONS, [Rec(0, 0, T0, b"", b"junk"), Rec(0, 1, T0, b"", b"\0\xff\xff\xff\xff")])
    take(log, DEVICES, [Rec(0, 0, T0, b"", blank(codec, "rsu_hb")[:6])])
    assert judge(log, None).strange == {OBSERVATIONS: 2, DEVICES: 1}


@pytest.mark.parametrize("kind", [Log, LeanLog])
def test_a_log_does_not_print_its_columns(kind: type[Log]) -> None:
    assert len(repr(kind())) < 100


def test_of_frames_one_in_a_few_is_kept_by_zone(codec: ReferenceCodec) -> None:
    head = {"generation": GEN, "partition": 0, "index": 0}
    made = [
        blank(codec, "track_frame", **head, offset=i, zone=f"zone-{i % 2}", event_ms=T0 + 50 * (i // 2), inputs=i)
        for i in range(20)
    ]
    for log, kept in ((Log(), [0, 1, 8, 9, 16, 17]), (LeanLog(), [])):
        take(log, TRACKS, [Rec(0, i, T0, b"", value) for i, value in enumerate([*made, made[-1], b"junk"])])
        frames = log.frames.of({"zone-0", "zone-1", "zone-2"})
        assert [(f.zone, f.event_ms) for f in frames[:3]] == [("zone-0", T0), ("zone-1", T0), ("zone-0", T0 + 50)]
        assert [f.value for f in frames if f.value is not None] == [made[i] for i in kept]
        assert len(log.frames.of({"zone-1"})) == 11
        assert log.strange == {TRACKS: 1}
        assert judge(log, None).frames == PositionCheck(records=21, copies=1)


def test_frames_that_differ_at_one_position_are_a_conflict(log: Log, ledger: Ledger) -> None:
    # Offset 6 index 0 is there twice with different event times.
    verdict = judge(log, ledger)
    assert len(verdict.frames.conflicts) == 1
    assert not verdict.fine


def test_latency_counts_from_the_intended_time_and_the_first_record(log: Log, ledger: Ledger) -> None:
    got = measure(log, ledger)
    assert got.by_type["rsm"]["n"] == 4  # 0, 1 (once), 2, 4
    assert got.by_type["rsm"]["p50"] == pytest.approx(6)  # 4, 10, 6, 12: the copy at 133 does not count
    assert got.by_type["rsm"]["max"] == pytest.approx(12)
    assert got.hops["publish_to_kafka"]["n"] == 5
    # 0 and 1 are in the frame at 125, 2 in the one at 220; nothing came after 4.
    assert got.hops["publish_to_track"]["max"] == pytest.approx(125)
    assert got.hops["publish_to_track"]["p50"] == pytest.approx(25)
    assert got.hops["publish_to_track"]["n"] == 3
    assert got.untracked == 1
    assert got.age["track"]["p50"] == pytest.approx(45)
    assert got.hops["ingest_to_kafka"]["p50"] == pytest.approx(2)


def test_event_latency_is_from_the_message_that_made_it(codec: ReferenceCodec, log: Log, ledger: Ledger) -> None:
    def event(name: str, ms: int, **given: Any) -> Rec:
        fields = {"event_id": name, "status": "ADDED", "kind": "OVERSPEED", "generation": GEN, "partition": 0, **given}
        return Rec(0, ms, T0 + ms, b"", blank(codec, "traffic_event", **fields))

    by_trigger = event("a", 240, offset=6, trigger_device="RSU-1", trigger_ts_ms=T0 + 180)
    by_position = event("b", 230, offset=7, trigger_device="")
    by_tick = event("c", 250, offset=8)
    repeated = event("a", 900, offset=6, trigger_device="RSU-1", trigger_ts_ms=T0 + 180)
    take(log, EVENTS, [by_trigger, by_position, by_tick, repeated])
    got = measure(log, ledger)
    assert got.events == {"a": pytest.approx(40), "b": pytest.approx(-170)}
    assert got.untraced == 1


def test_quantiles_are_values_that_occurred() -> None:
    row = quantiles(np.arange(1, 1001))
    assert (row["p50"], row["p99"], row["p999"], row["max"], row["n"]) == (500, 990, 999, 1000, 1000)
    assert quantiles([])["p50"] is None


def test_first_stamp_takes_the_earliest_of_repeats_and_late_comers() -> None:
    def i(*values: int) -> np.ndarray:
        return np.array(values, np.int64)

    got = first_stamp_at_or_after(i(0, 0, 0, 1, 2), i(1, 5, 9, 1, 1), i(0, 0, 0, 1), i(4, 4, 8, 0), i(90, 70, 60, 50))
    assert got.tolist() == [60, 60, -1, -1, -1]


def test_ledger_mistakes_have_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ledger in"):
        Ledger.load(tmp_path)
    (tmp_path / "devices.json").write_text("{}")
    with pytest.raises(ConfigError, match="broken"):
        Ledger.load(tmp_path)


def test_a_ledger_that_was_cut_short_is_read(tmp_path: Path) -> None:
    write_ledger(tmp_path, [sent(RSU, RSM, 0, 0.0), sent(RSU, RSM, 1, 100.0)])
    rows = np.load(tmp_path / "sent.npy")
    (tmp_path / "sent.npy").unlink()
    (tmp_path / "sent.bin").write_bytes(rows.tobytes()[:-3])
    ledger = Ledger.load(tmp_path)
    assert ledger.sent["seq"].tolist() == [0]
    assert ledger.scene_s(ledger.utc_ms(17.25)) == pytest.approx(17.25)
