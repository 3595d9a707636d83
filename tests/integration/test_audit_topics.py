"""The audit's reader on a real Kafka: every record once, and clear words for mistakes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from v2x.errors import BrokerError
from v2x.topics import DEADLETTER, DEVICES, HEADER_COPY, HEADER_RX, OBSERVATIONS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import SENT
from v2x_loadtest.audit.log import Log, read_log
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.score.cases import Case, make_case
from v2x_loadtest.score.saved import from_kafka

pytestmark = pytest.mark.real
BOOT = 1_700_000_000_000


@pytest_asyncio.fixture
async def producer(world: str) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(bootstrap_servers=world)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def heartbeat(codec: ReferenceCodec, device: str, seq: int) -> bytes:
    raw = Registry.load().get("rsu_hb").raw
    blank = {f["name"]: "" if f["type"] == "string" else 0 for f in raw["fields"] if isinstance(f["type"], str)}
    blank |= {f["name"]: [] for f in raw["fields"] if isinstance(f["type"], dict)}
    return codec.encode("rsu_hb", {**blank, "device": device, "boot": BOOT, "seq": seq, "ts_ms": BOOT})


async def test_every_record_is_read_once_and_gaps_are_found(world: str, producer: AIOKafkaProducer) -> None:
    codec = ReferenceCodec(Registry.load())
    headers = [(HEADER_RX, (BOOT * 1000).to_bytes(8, "big"))]
    for seq in (*range(500), *range(503, 1000), 7):
        await producer.send(OBSERVATIONS, heartbeat(codec, "A", seq), key=b"z", partition=seq % 2, headers=headers)
    await producer.send(OBSERVATIONS, heartbeat(codec, "A", 0), partition=1, headers=[*headers, (HEADER_COPY, b"")])
    await producer.send(DEVICES, b"junk", partition=0)
    await producer.flush()

    given = Log()
    log = await read_log(world, log=given)
    assert log is given
    verdict = judge(log, None)
    assert len(log) == 998
    assert verdict.account.logged == 997
    assert verdict.account.repeated == 1
    assert [str(run) for run in verdict.account.streams[0].lost] == ["500-502"]
    assert verdict.account.lost == 3
    assert verdict.halo_copies == 1
    assert verdict.strange == {DEVICES: 1}
    assert log.others == {"genesis": 4}  # of observations and of gantry, two partitions each
    assert int(log.column("rx_us")[0]) == BOOT * 1000
    assert log.ends[OBSERVATIONS, 0] + log.ends[OBSERVATIONS, 1] == 998 + 1 + 2


async def test_a_topic_that_is_not_there_is_named(world: str) -> None:
    with pytest.raises(BrokerError, match=r"no topic v2x\.nothing"):
        await read_log(world, ("v2x.nothing",))


async def test_no_kafka_is_one_clear_error() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1 could not be read"):
        await read_log("127.0.0.1:1", (DEADLETTER,))


def run_audit(bootstrap: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "v2x_loadtest.cli", "audit", "--kafka", bootstrap, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


async def test_the_command_ends_with_1_if_anything_is_lost(
    world: str, producer: AIOKafkaProducer, tmp_path: Path
) -> None:
    codec = ReferenceCodec(Registry.load())
    for seq in (0, 1, 3):
        await producer.send(OBSERVATIONS, heartbeat(codec, "A", seq), partition=0)
    await producer.flush()
    done = await asyncio.to_thread(run_audit, world, "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told["lost"], told["faults"][0]["lost"]) == (1, ["2"])

    await producer.send(OBSERVATIONS, heartbeat(codec, "A", 2), partition=0)
    await producer.flush()
    done = await asyncio.to_thread(run_audit, world)
    assert done.returncode == 0, done.stderr
    assert "rsu_hb" in done.stdout

    done = await asyncio.to_thread(run_audit, world, "--ledger", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no ledger in" in done.stderr


async def test_the_score_takes_a_log_as_it_is_in_kafka(world: str, producer: AIOKafkaProducer, tmp_path: Path) -> None:
    case = make_case("synthetic", "plain", 1001, 3.5)
    before = await asyncio.to_thread(from_kafka, world, ledger_of(case, tmp_path))
    assert case.truth is not None
    rows = case.messages[:60]
    for k, m in enumerate(rows):
        headers = [(HEADER_COPY, b"1")] if k % 10 == 9 else []
        await producer.send(OBSERVATIONS, m.value, key=m.key, partition=k % 2, headers=headers)
    await producer.flush()

    found = await asyncio.to_thread(from_kafka, world, tmp_path)
    assert found.logs is not None
    assert before.logs is not None
    new = [r for p, log in found.logs.items() for r in log[len(before.logs[p]) :]]
    assert sorted(r.value for r in new) == sorted(m.value for m in rows)
    assert [r.offset for r in found.logs[0]] == list(range(len(found.logs[0])))
    schemas = {Registry.load().get(name).id for name in ("rsm", "bsm")}
    seen = [m for k, m in enumerate(rows) if k % 10 != 9 and int.from_bytes(m.value[1:5], "big") in schemas]
    assert len(found.messages) - len(before.messages) == len(seen)
    assert found.ledger.scene == "synthetic"


def ledger_of(case: Case, folder: Path) -> Path:
    head = {
        "devices": [{"id": "RSU-S-01", "kind": "rsu", "boot": BOOT}], "scene": "synthetic", "t0_ms": case.ledger.t0_ms,
        "offset_s": 0.0, "speed": 1.0, "copies": 1, "seed": 1001,
    }  # fmt: skip
    (folder / "devices.json").write_text(json.dumps(head))
    np.save(folder / "sent.npy", np.zeros(0, SENT))
    return folder
