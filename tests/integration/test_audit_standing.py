"""The standing audit as a process, on a real Kafka: what came while it was dead is counted as if it had lived."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from aiokafka import AIOKafkaProducer
from v2x.topics import SUMMARIES

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.kept import load

pytestmark = pytest.mark.real
BOOT = 1_700_000_000_000
CODEC = ReferenceCodec(Registry.load())


def summary(seq: int, *runs: tuple[int, int]) -> bytes:
    told = [{"device": "R-1", "code": 1, "boot": BOOT, "first": a, "last": b} for a, b in runs]
    return CODEC.encode(
        "summary", {"source": "me", "start_ms": BOOT, "seq": seq, "ts_ms": BOOT + seq, "final": False, "runs": told}
    )


@asynccontextmanager
async def auditing(kafka: str, state: Path) -> AsyncIterator[Path]:
    """Run it as a process; the block begins when it tells its port, and ends by kill -9."""
    told = state / "audit.port"
    told.unlink(missing_ok=True)
    command = (sys.executable, "-m", "v2x_loadtest.cli", "audit", "--standing", "--kafka", kafka, "--metrics-port", "0")
    env = {**os.environ, "V2X_AUDIT_SWEEP_S": "2", "V2X_STATE_DIR": str(state)}
    process = await asyncio.create_subprocess_exec(*command, env=env)
    try:
        async with asyncio.timeout(30):
            while not told.exists():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)
        yield told
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


async def counts(told: Path, **wanted: int) -> None:
    """Wait until its metrics say so."""
    found: dict[str, int] = {}
    try:
        async with asyncio.timeout(30):
            while found != wanted:
                await asyncio.sleep(0.1)
                text = await asyncio.to_thread(_metrics, told)
                rows = re.findall(r"^v2x_audit_(\w+?)(?:_total)?(?:{.*})? (\S+)$", text, re.MULTILINE)
                found = {name: int(sum(float(v) for n, v in rows if n == name)) for name in wanted}
    except TimeoutError:
        raise AssertionError(f"{found}, not {wanted}") from None


def _metrics(told: Path) -> str:
    with urlopen(f"http://127.0.0.1:{told.read_text().strip()}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


async def test_it_catches_up_after_kill_9(world: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    producer = AIOKafkaProducer(bootstrap_servers=world)
    await producer.start()
    try:
        async with auditing(world, state) as told:
            await _ready(told)
            await producer.send_and_wait(SUMMARIES, summary(0, (0, 9), (12, 20)), partition=0)
            async with asyncio.timeout(20):
                while (saved := _saved(state)) != [19, 0, 0, 0]:  # the first of two sweeps
                    assert not any(saved[1:])
                    await asyncio.sleep(0.05)
        # While it is dead a part of the gap comes, and there is another one.
        await producer.send_and_wait(SUMMARIES, summary(1, (10, 10), (21, 30), (35, 40)), partition=0)
        async with auditing(world, state) as told:
            await counts(told, seen=36, again=0, lost=5, missing=0, catch_ups=0)
    finally:
        await producer.stop()


async def _ready(told: Path) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(_is_ready, told):  # noqa: ASYNC110 - a port tells nobody
            await asyncio.sleep(0.05)


def _is_ready(told: Path) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{told.read_text().strip()}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _saved(state: Path) -> list[int]:
    kept = load(state / "audit" / "standing.npz")
    return [0] * 4 if kept is None else [int(n) for n in kept.arrays["counts"].sum(axis=0)]
