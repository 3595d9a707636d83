"""The fusion service on real Kafka: restarts, kill -9 and a Kafka restart leave exactly what one quiet run leaves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.conftest import WORLD_PARTITIONS
from tests.integration import toy_core
from v2x.columns import Output, Record
from v2x.errors import BrokerError, ConfigError, SnapshotError
from v2x.topics import LINKS, OBSERVATIONS, TRACKS

from v2x_services import topics
from v2x_services.brokers import Kafka
from v2x_services.catalogue import LAWS
from v2x_services.fusion.snapshots import SnapshotStore
from v2x_services.metrics import Metrics
from v2x_services.reader import Once
from v2x_services.settings import Settings

Log = dict[tuple[str, int], list[Record]]
pytestmark = pytest.mark.real


async def write(bootstrap: str, start: int, n: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=1)
    await producer.start()
    try:
        waits = [
            await producer.send(OBSERVATIONS, b"record %d" % i, b"k", i % WORLD_PARTITIONS)
            for i in range(start, start + n)
        ]
        await asyncio.gather(*waits)
    finally:
        await producer.stop()


async def read(bootstrap: str, *names: str, last: int | None = None) -> Log:
    """Return all records (or the ``last`` ones) of all partitions of some topics."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await consumer.start()
        tps = [TopicPartition(t, p) for t in names for p in range(WORLD_PARTITIONS)]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        for tp in tps:
            consumer.seek(tp, 0 if last is None else max(0, ends[tp] - last))
        log: Log = {tuple(tp): [] for tp in tps}
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for tp, messages in (await consumer.getmany(timeout_ms=100)).items():
                log[tuple(tp)] += [Record(m.offset, m.timestamp, m.key, m.value, ()) for m in messages]
        return log
    finally:
        await consumer.stop()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  (Kafka tells nobody)
            await asyncio.sleep(0.02)


async def fused(bootstrap: str) -> dict[int, int]:
    """Return the highest input offset out, per partition."""
    log = await read(bootstrap, TRACKS, last=1)
    return {p: toy_core.CODEC.decode_kafka(r[0].value)[1]["offset"] if r else -1 for (_, p), r in log.items()}


async def all_out(bootstrap: str) -> bool:
    inputs = await read(bootstrap, OBSERVATIONS, last=1)
    return await fused(bootstrap) == {p: records[-1].offset for (_, p), records in inputs.items()}


async def verdict(bootstrap: str) -> int:
    """Compare what is in the output topics, by the reader's rule, with one quiet run; return raw repeats."""
    inputs, outputs = await read(bootstrap, OBSERVATIONS), await read(bootstrap, TRACKS, LINKS)
    repeats = 0
    for (_, p), records in inputs.items():
        expected: list[Output] = toy_core.ToyCore(OBSERVATIONS, p).feed(records)
        for topic in (TRACKS, LINKS):
            once = Once()
            seen = [r.value for r in outputs[topic, p] if once(*toy_core.CODEC.decode_kafka(r.value))]
            assert seen == [o.value for o in expected if o.topic == topic]
            repeats += once.repeats
    return repeats


def settings(bootstrap: str, folder: Path, **more: object) -> Settings:
    return Settings.load(kafka_bootstrap=bootstrap, state_dir=folder, snapshot_s=0.2, fetch_records=20, **more)


@asynccontextmanager
async def running(s: Settings, config: str = "toy") -> AsyncIterator[asyncio.Task[Metrics]]:
    """Run the service meanwhile; stop it cleanly whatever happens."""
    stop = asyncio.Event()
    task = asyncio.create_task(toy_core.run(s, stop, config))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait({task})
    await task


async def run_until_out(s: Settings, config: str = "toy") -> Metrics:
    async with running(s, config) as task:
        waiting = asyncio.create_task(until(lambda: all_out(s.kafka_bootstrap)))
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel() if task.done() else await waiting
    metrics = task.result()
    metrics.refresh()
    for law in LAWS[1:]:
        assert metrics.imbalance(law) == 0
    return metrics


async def test_a_clean_restart_repeats_nothing(world: str, tmp_path: Path) -> None:
    await write(world, 0, 300)
    metrics = await run_until_out(settings(world, tmp_path))
    assert metrics.total("v2x_fusion_written_total") == 2 * (151 + 22)
    store = SnapshotStore(tmp_path / "fusion" / f"{OBSERVATIONS}-0")
    label, _ = store.load() or pytest.fail("no snapshot")
    store.close()
    assert label.clean
    assert label.position == (await fused(world))[0]

    await write(world, 300, 100)
    await run_until_out(settings(world, tmp_path))
    assert await verdict(world) == 0


async def test_a_lost_state_folder_is_replayed_from_the_beginning_and_suppressed(world: str, tmp_path: Path) -> None:
    await write(world, 0, 200)
    await run_until_out(settings(world, tmp_path / "one"))
    await write(world, 200, 100)
    metrics = await run_until_out(settings(world, tmp_path / "two"))
    assert metrics.total("v2x_fusion_suppressed_total") == 2 * (101 + 15)
    assert await verdict(world) == 0


async def test_kill_9_again_and_again(world: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.integration.toy_core", world, str(tmp_path), "alone"]
    feeding = asyncio.create_task(feed(world))
    try:
        for _ in range(4):
            process = await asyncio.create_subprocess_exec(*command)
            before = await fused(world)

            async def moved(before: dict[int, int] = before) -> bool:
                now = await fused(world)
                return all(now[p] > before[p] + 50 for p in now)

            try:
                await until(moved)
                assert not feeding.done()  # the kill comes in the middle
            finally:
                process.kill()
                await process.wait()
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})
    await write(world, 0, 10)
    await run_until_out(settings(world, tmp_path))
    await verdict(world)


async def feed(bootstrap: str, records: int = 20) -> None:
    """Write some records each 10 ms until cancelled."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        i = 0
        while True:
            for _ in range(records):
                await producer.send(OBSERVATIONS, b"record %d" % i, b"k", i % WORLD_PARTITIONS)
                i += 1
            await asyncio.sleep(0.01)
    finally:
        await producer.stop()


async def test_kafka_restart_is_survived(kafka: Kafka, world: str, tmp_path: Path) -> None:
    async with running(settings(world, tmp_path)) as task:
        await write(world, 0, 100)
        await until(lambda: all_out(world))
        feeding = asyncio.create_task(write(world, 100, 2000))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(kafka.kill)  # while records and outputs are on their way
        await asyncio.to_thread(kafka.start)
        await feeding
        await write(world, 2100, 100)
        await until(lambda: all_out(world), 60)
        assert not task.done()
    await verdict(world)


async def test_a_damaged_snapshot_gives_way_to_the_one_before(world: str, tmp_path: Path) -> None:
    for i in range(2):
        await write(world, i * 100, 100)
        await run_until_out(settings(world, tmp_path))
    for folder in (tmp_path / "fusion").iterdir():
        newest = max(folder.glob("*.snap"), default=None)
        if newest is not None:
            newest.write_bytes(newest.read_bytes()[:-3])
    await write(world, 200, 100)
    await run_until_out(settings(world, tmp_path))
    assert await verdict(world) == 0


async def test_topics_made_again_are_another_world(world: str, tmp_path: Path) -> None:
    await write(world, 0, 100)
    await run_until_out(settings(world, tmp_path))
    await topics.delete_all(world)
    await topics.apply(world, WORLD_PARTITIONS)
    await write(world, 0, 60)
    await run_until_out(settings(world, tmp_path))
    assert await verdict(world) == 0


async def test_another_configuration_goes_on_from_a_clean_stop_only(world: str, tmp_path: Path) -> None:
    await write(world, 0, 100)
    await run_until_out(settings(world, tmp_path))
    await write(world, 100, 100)
    await run_until_out(settings(world, tmp_path), config="new zones")  # clean: taken
    for path in (tmp_path / "fusion").rglob("*.snap"):
        path.write_bytes(path.read_bytes().replace(b'"clean": true', b'"clean": false'))
    with pytest.raises(SnapshotError, match="--accept-other-version"):
        await toy_core.run(settings(world, tmp_path), asyncio.Event())
    await write(world, 200, 100)
    await run_until_out(settings(world, tmp_path, accept_other_version=True))


async def test_two_processes_do_not_share_a_folder(world: str, tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path / "fusion" / f"{OBSERVATIONS}-1")
    with pytest.raises(ConfigError, match="another process"):
        await toy_core.run(settings(world, tmp_path), asyncio.Event())
    store.close()


async def test_without_topics_one_line_says_what_to_do(kafka: Kafka, tmp_path: Path) -> None:
    await topics.delete_all(kafka.bootstrap)
    with pytest.raises(BrokerError, match="topics apply"):
        await toy_core.run(settings(kafka.bootstrap, tmp_path), asyncio.Event())
