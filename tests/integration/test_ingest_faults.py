"""What ingest survives: kill -9, a restart and a kill of Kafka, of Mosquitto, and a producer that is broken for good.

The verdict is always the same: what the MQTT broker acknowledged is in Kafka, once by the reader's rule, in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.test_sink import KafkaWorld, make_topic
from tests.integration.ingest_world import Publisher, Running, payload, read, rsm, running, settings
from v2x.topics import OBSERVATIONS, uplink_topic

from v2x_services.brokers import Kafka, Mosquitto
from v2x_services.kafka import KafkaSink
from v2x_services.settings import Settings

pytestmark = pytest.mark.real
DEVICES = [f"RSU-{i}" for i in range(8)]


class Traffic:
    """Devices that send 100 messages a second each until told to stop; what was acknowledged."""

    def __init__(self, pub: Publisher) -> None:
        self.acknowledged: set[tuple[str, str, int]] = set()
        self._pub = pub
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        futures: dict[asyncio.Future[int], tuple[str, str, int]] = {}
        seq = 0
        while not self._stop.is_set():
            for device in DEVICES:
                futures[self._pub.send(*rsm(device, seq))] = (device, "rsm", seq)
                if seq % 10 == 0:
                    topic = uplink_topic("rsu", device, "rsi")
                    futures[self._pub.send(topic, payload("rsi", device, seq // 10))] = (device, "rsi", seq // 10)
            seq += 1
            await asyncio.sleep(0.01)
        async with asyncio.timeout(20):
            codes = await asyncio.gather(*futures)
        self.acknowledged = {sent for sent, code in zip(futures.values(), codes, strict=True) if code == 0}

    async def end(self) -> set[tuple[str, str, int]]:
        self._stop.set()
        await self._task
        return self.acknowledged


class Most:
    """Watches how many messages are in flight at most."""

    def __init__(self, ingest: Running) -> None:
        self._most = 0
        self._ingest = ingest
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self._most = max(self._most, self._ingest.count("v2x_ingest_in_flight"))
            await asyncio.sleep(0.005)

    def end(self) -> int:
        self._task.cancel()
        return self._most


async def lost(bootstrap: str, acknowledged: set[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
    """Return what is acknowledged and not in Kafka; check that first appearances are in order."""
    last: dict[tuple[str, str, int], int] = {}
    seen: set[tuple[str, str, int]] = set()
    for f in await read(bootstrap, OBSERVATIONS):
        one = (f.record["device"], f.schema, f.record["seq"])
        if one in seen:
            continue
        seen.add(one)
        assert f.record["seq"] > last.get((*one[:2], f.partition), -1), f"{one} came after its successor"
        last[*one[:2], f.partition] = f.record["seq"]
    return acknowledged - seen


async def eventually_none_lost(bootstrap: str, acknowledged: set[tuple[str, str, int]]) -> None:
    assert len(acknowledged) > 500
    missing: set[tuple[str, str, int]] = acknowledged
    for _ in range(40):
        missing = await lost(bootstrap, acknowledged)
        if not missing:
            return
        await asyncio.sleep(0.25)
    raise AssertionError(f"lost {len(missing)} of {len(acknowledged)}, e.g. {sorted(missing)[:5]}")


class Child:
    """Ingest in a process of its own."""

    def __init__(self, s: Settings) -> None:
        self._settings = s
        self._port_file = s.state_dir / "ingest.port"
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and wait until it is ready."""
        s = self._settings
        self._port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "v2x_loadtest.cli", "ingest"]
        env = {**os.environ, "V2X_LOG_FORMAT": "json", **s.environment()}
        self.process = subprocess.Popen(command, env=env)  # noqa: ASYNC220 - returns at once
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(self._is_ready):
                assert self.process.poll() is None
                await asyncio.sleep(0.05)

    def end(self, how: signal.Signals) -> int:
        """Send a signal, wait, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(20)

    def _is_ready(self) -> bool:
        try:
            url = f"http://127.0.0.1:{int(self._port_file.read_text())}/readyz"
            with urllib.request.urlopen(url, timeout=2.0):
                return True
        except (OSError, ValueError):
            return False


async def test_kill_9_loses_nothing(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    child = Child(settings(world, mosquitto.port, tmp_path))
    await child.start()
    try:
        async with Publisher(mosquitto.port, "pub") as pub:
            traffic = Traffic(pub)
            await asyncio.sleep(0.5)
            child.end(signal.SIGKILL)
            await child.start()
            await asyncio.sleep(0.5)
            child.end(signal.SIGKILL)
            acknowledged = await traffic.end()
            await child.start()
            await eventually_none_lost(world, acknowledged)
    finally:
        assert child.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("fault", [Kafka.restart, lambda kafka: (kafka.kill(), kafka.start())], ids=["restart", "kill"])
async def test_kafka_may_go_and_come(
    world: str, kafka: Kafka, mosquitto: Mosquitto, tmp_path: Path, fault: Callable[[Kafka], object]
) -> None:
    s = settings(world, mosquitto.port, tmp_path, receive_maximum=500)
    async with running(s) as ingest, Publisher(mosquitto.port, "pub") as pub:
        traffic = Traffic(pub)
        most = Most(ingest)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(fault, kafka)
        await asyncio.sleep(1.0)
        acknowledged = await traffic.end()
        await eventually_none_lost(world, acknowledged)
        async with asyncio.timeout(20):
            while ingest.count("v2x_ingest_in_flight"):  # noqa: ASYNC110 - counters tell nobody
                await asyncio.sleep(0.05)
        # Twice Receive Maximum, and what one read brings on top, for each session.
        assert 500 <= most.end() < 2 * (2 * 500 + 1500)
        assert ingest.balanced()
        assert ingest.count("v2x_ingest_dead_letters_total") == 0
        assert ingest.count("v2x_ingest_acknowledged_total") >= len(acknowledged)
        assert ingest.ingest.not_ready() == ""


async def test_mosquitto_may_go_and_come(world: str, tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as broker:
        async with running(settings(world, broker.port, tmp_path)) as ingest:
            async with Publisher(broker.port, "pub") as pub:
                await pub.publish(rsm("RSU-1", seq) for seq in range(600))
            await asyncio.to_thread(broker.restart)
            async with asyncio.timeout(15):
                while ingest.ingest.not_ready():  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            async with Publisher(broker.port, "pub") as pub:
                await pub.publish(rsm("RSU-1", seq) for seq in range(600, 1200))
            await eventually_none_lost(world, {("RSU-1", "rsm", seq) for seq in range(1200)})
            # Its sessions outlived the restart: nothing waited in vain.
            assert ingest.count("v2x_ingest_possible_loss_total") == 2
            assert ingest.count("v2x_ingest_connects_total") == 4
            assert ingest.balanced()


async def test_a_lost_session_is_counted(world: str, tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "mosquitto") as broker:
        async with running(settings(world, broker.port, tmp_path, session_expiry_s=0)) as ingest:
            assert ingest.count("v2x_ingest_possible_loss_total") == 2
            await asyncio.to_thread(broker.restart)
            async with asyncio.timeout(15):
                while ingest.count("v2x_ingest_connects_total") < 4:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            assert ingest.count("v2x_ingest_possible_loss_total") == 4


async def test_a_producer_broken_for_good_is_replaced(world: str) -> None:
    """Wrong sequence numbers: Kafka refuses all further batches of this producer."""
    topic = f"sink-{uuid.uuid4().hex[:8]}"
    await make_topic(world, topic)
    w = KafkaWorld(KafkaSink(world, [topic]), topic)
    w.bootstrap = world
    assert isinstance(w.sink, KafkaSink)
    await w.sink.start(w.on_done)
    for i in range(100):
        w.sink.append(topic, i % 3, None, b"%d" % i, [], i)
    await w.sink.drain()
    assert w.sink._producer is not None
    sequence = w.sink._producer._next
    for tp in list(sequence):
        sequence[tp] += 1000
    for i in range(100, 200):
        w.sink.append(topic, i % 3, None, b"%d" % i, [], i)
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await w.sink.drain()
    assert w.sink.counters.renewals >= 1
    assert sorted(w.done) == [(i, None) for i in range(200)]
    for p in range(3):
        assert [int(r.value) for r in await w.read(p)] == list(range(p, 200, 3))
    assert w.sink.last_error is None
    await w.sink.stop()


async def test_one_that_stands_by_takes_over(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    s = settings(world, mosquitto.port, tmp_path)
    async with running(s, standing_by=True) as first, running(s, standing_by=True) as second:
        async with Publisher(mosquitto.port, "pub") as pub:
            traffic = Traffic(pub)
            await asyncio.sleep(0.5)
            assert first.count("v2x_ingest_received_total") > 100
            assert second.count("v2x_ingest_received_total") == 0
            first.stop.set()
            stopped = time.monotonic()
            async with asyncio.timeout(5):
                while not second.count("v2x_ingest_forwarded_total"):  # noqa: ASYNC110 - counters tell nobody
                    await asyncio.sleep(0.01)
            took = time.monotonic() - stopped
            await asyncio.sleep(0.5)
            acknowledged = await traffic.end()
        await eventually_none_lost(world, acknowledged)
        assert second.balanced()
    assert took < 1.0
