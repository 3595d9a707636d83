"""Fusion workers that share partitions by a consumer group: they join, leave and are killed under load, unplanned."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration import toy_core
from tests.integration.ingest_world import ZONES
from tests.integration.test_fusion_service import feed, fused, read, settings, until, verdict, write
from v2x.errors import ConfigError
from v2x.topics import OBSERVATIONS, TRACKS

from v2x_services import fusion
from v2x_services.brokers import Kafka
from v2x_services.catalogue import LAWS
from v2x_services.fusion.group import SESSION_MS
from v2x_services.fusion.snapshots import SnapshotStore

pytestmark = pytest.mark.real


class Workers:
    """Worker processes on the toy core, and what they say."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", "tests.integration.toy_core", bootstrap, str(folder)]
        self._reading: set[asyncio.Task[None]] = set()
        self.running: dict[int, Process] = {}
        self.said: list[str] = []

    async def start(self, number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command, self.how(number), stdout=PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        self.running[number] = process
        self._reading.add(asyncio.create_task(self._read(process)))

    def how(self, number: int) -> str:
        """Return what toy_core's program is told to be."""
        return str(number)

    async def hear(self, what: str, worker: int) -> None:
        """Wait until a worker has said something new."""
        begin = len(self.said)
        async with asyncio.timeout(30):
            while not any(what in line and f"worker={worker}" in line for line in self.said[begin:]):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def end(self, number: int, how: signal.Signals) -> int:
        process = self.running.pop(number)
        process.send_signal(how)
        return await process.wait()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.said.append(re.sub(r"\x1b\[[0-9;]*m", "", line.decode()))


@pytest_asyncio.fixture
async def workers(world: str, tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(world, tmp_path)
    yield made
    for number in list(made.running):
        await made.end(number, signal.SIGKILL)


async def caught_up(bootstrap: str) -> None:
    """Wait until every partition's output is less than a moment behind its input."""

    async def near() -> bool:
        inputs = await read(bootstrap, OBSERVATIONS, last=1)
        out = await fused(bootstrap)
        return all(records[-1].offset - out[p] < 100 for (_, p), records in inputs.items())

    await until(near, 30)


async def stalls(bootstrap: str, steps: list[tuple[float, str]]) -> dict[str, float]:
    """Return for each step how long an input that came after it waited at most for its output, in seconds."""
    inputs, outputs = await read(bootstrap, OBSERVATIONS), await read(bootstrap, TRACKS)
    found = dict.fromkeys((what for _, what in steps), 0.0)
    for (_, p), records in inputs.items():
        stamp = {r.offset: r.stamp_ms / 1000 for r in records}
        done = -1
        for r in outputs[TRACKS, p]:
            offset = toy_core.CODEC.decode_kafka(r.value)[1]["offset"]
            if offset <= done:
                continue
            done = offset
            what = next((what for at, what in reversed(steps) if stamp[offset] >= at - 0.5), None)
            if what is not None:
                found[what] = max(found[what], round(r.stamp_ms / 1000 - stamp[offset], 2))
    return found


async def test_workers_join_leave_and_are_killed_under_load(world: str, workers: Workers, tmp_path: Path) -> None:
    await write(world, 0, 20)
    await workers.start(0)
    await until(lambda: started(world))
    feeding = asyncio.create_task(feed(world))
    steps: list[tuple[float, str]] = []

    async def step(what: str, doing: Awaitable[object], settled: Awaitable[None]) -> None:
        steps.append((time.time(), what))
        waiting = asyncio.ensure_future(settled)
        await doing
        await waiting
        await caught_up(world)
        await asyncio.sleep(1)

    try:
        assigned = partial(workers.hear, "partitions assigned")
        await step("1 joins", workers.start(1), assigned(1))
        await step("1 is killed", workers.end(1, signal.SIGKILL), assigned(0))
        await step("1 comes again", workers.start(1), assigned(1))
        await step("0 leaves cleanly", workers.end(0, signal.SIGTERM), assigned(1))
        await step("2 joins", workers.start(2), assigned(2))
        await workers.end(1, signal.SIGKILL)
        await step("1 is killed and comes again at once", workers.start(1), assigned(1))
        assert not feeding.done()
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})
    await write(world, 0, 20)
    await caught_up(world)
    for number in list(workers.running):
        assert await workers.end(number, signal.SIGTERM) == 0
    repeats = await verdict(world)
    stood = await stalls(world, steps)
    print(f"\nlongest wait of an input for its output: {stood}; raw repeats {repeats}")
    assert stood["1 is killed"] > SESSION_MS / 1000 - 1  # the kill took effect, and was seen here
    assert max(stood.values()) < SESSION_MS / 1000 + 3
    for p in (0, 1):  # the last owner stopped cleanly
        store = SnapshotStore(tmp_path / "fusion" / f"{OBSERVATIONS}-{p}")
        label, _ = store.load() or pytest.fail("no snapshot")
        store.close()
        assert label.clean


async def started(bootstrap: str) -> bool:
    return min((await fused(bootstrap)).values()) > 0


async def test_books_balance_when_partitions_go(world: str, workers: Workers, tmp_path: Path) -> None:
    await write(world, 0, 100)
    stop = asyncio.Event()
    task = asyncio.create_task(toy_core.run(settings(world, tmp_path), stop, worker=0))
    await until(lambda: started(world))
    await workers.start(1)
    await asyncio.sleep(3)
    with pytest.raises(ConfigError):
        SnapshotStore(tmp_path / "fusion" / f"{OBSERVATIONS}-1")
    await write(world, 0, 100)
    await caught_up(world)
    stop.set()
    metrics = await task
    metrics.refresh()
    assert metrics.total("v2x_fusion_records_total") < 200  # not the other worker's
    for law in LAWS[1:]:
        assert metrics.imbalance(law) == 0
    await caught_up(world)
    assert await workers.end(1, signal.SIGTERM) == 0
    await verdict(world)


async def test_a_frozen_worker_does_not_stop_the_road(world: str, workers: Workers) -> None:
    await write(world, 0, 20)
    for number in (0, 1):
        await workers.start(number)
    await until(lambda: started(world))
    await asyncio.sleep(2)
    feeding = asyncio.create_task(feed(world))
    try:
        await asyncio.sleep(1)
        workers.running[0].send_signal(signal.SIGSTOP)
        await asyncio.sleep(1)
        await caught_up(world)  # by worker 1, although the frozen one still holds its files
        workers.running[0].send_signal(signal.SIGCONT)  # a zombie: what it writes are copies
        await asyncio.sleep(4)
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})
    await caught_up(world)
    for number in (0, 1):
        assert await workers.end(number, signal.SIGTERM) == 0
    await verdict(world)


async def test_a_kafka_restart_is_survived(kafka: Kafka, world: str, workers: Workers) -> None:
    await write(world, 0, 20)
    for number in (0, 1):
        await workers.start(number)

    async def both() -> bool:  # one that still starts when Kafka goes finds no topics, and ends
        return all(any("assigned" in said and f"worker={n}" in said for said in workers.said) for n in (0, 1))

    await until(both)
    await until(lambda: started(world))
    feeding = asyncio.create_task(write(world, 20, 2000))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(kafka.kill)
    await asyncio.to_thread(kafka.start)
    await feeding
    await write(world, 2020, 100)
    await caught_up(world)
    await workers.end(0, signal.SIGKILL)  # the group still works
    await write(world, 2120, 1000)
    await caught_up(world)
    assert await workers.end(1, signal.SIGTERM) == 0
    await verdict(world)


async def test_the_command_keeps_its_workers(world: str, tmp_path: Path) -> None:
    zones = tmp_path / "zones.json"
    zones.write_text(json.dumps(ZONES))
    command = [sys.executable, "-m", "v2x_loadtest.cli", "fuse", "--workers", "2", "--metrics-port", "0"]
    command += ["--kafka", world, "--zones", str(zones), "--state-dir", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    files = [tmp_path / f"fusion-{i}.pid" for i in (0, 1)]
    ports = [tmp_path / f"fusion-{i}.port" for i in (0, 1)]
    try:

        async def up() -> bool:
            return all(path.exists() for path in (*files, *ports))

        await until(up, 120)
        before = [int(path.read_text()) for path in files]
        os.kill(before[0], signal.SIGKILL)

        async def again() -> bool:
            return files[0].exists() and int(files[0].read_text() or 0) not in {0, before[0]}

        await until(again, 120)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert not any(path.exists() for path in files)
    with pytest.raises(ProcessLookupError):
        os.kill(before[1], 0)


async def test_mistakes_are_told(world: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from the group"):
        await fusion.run(settings(world, tmp_path, fusion_partitions="0"), cores=toy_core.ToyCores(), worker=0)
    lock = SnapshotStore(tmp_path / "fusion" / "worker-0")
    with pytest.raises(ConfigError, match="worker 0 runs already"):
        await fusion.run(settings(world, tmp_path), cores=toy_core.ToyCores(), worker=0)
    lock.close()
