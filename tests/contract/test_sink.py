"""The contract of LogSink, on the fake and on real Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from v2x.errors import BrokerError

from v2x_services.kafka import KafkaSink
from v2x_services.ports import NO_TOKEN, ROW_COLUMNS, LogSink, RecordRefused, Rows
from v2x_services.testing import FakeSink, Written

PARTITIONS = 3


class World:
    """A sink, where it writes, and what it reported."""

    def __init__(self, sink: LogSink, topic: str) -> None:
        self.sink = sink
        self.topic = topic
        self.done: list[tuple[int, type[Exception] | None]] = []

    def on_done(self, tokens: list[int], error: Exception | None) -> None:
        self.done.extend((token, type(error) if error else None) for token in tokens)

    async def read(self, partition: int) -> list[Written]:
        raise NotImplementedError


class FakeWorld(World):
    async def read(self, partition: int) -> list[Written]:
        assert isinstance(self.sink, FakeSink)
        return self.sink.log.get((self.topic, partition), [])


class KafkaWorld(World):
    bootstrap = ""

    async def read(self, partition: int) -> list[Written]:
        return await read_all(self.bootstrap, self.topic, partition)


async def read_all(bootstrap: str, topic: str, partition: int) -> list[Written]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        rows: list[Written] = []
        while await consumer.position(tp) < end:
            got = await consumer.getmany(tp, timeout_ms=500)
            rows += [Written(r.key, r.value, tuple(r.headers)) for r in got.get(tp, [])]
        return rows
    finally:
        await consumer.stop()


async def make_topic(bootstrap: str, name: str, **configs: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=configs or None)])
    finally:
        await admin.close()


@pytest.fixture(params=["fake", pytest.param("kafka", marks=pytest.mark.real)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    topic = f"sink-{uuid.uuid4().hex[:8]}"
    w: World
    if request.param == "fake":
        w = FakeWorld(FakeSink({topic: PARTITIONS}), topic)
    else:
        bootstrap = request.getfixturevalue("kafka").bootstrap
        await make_topic(bootstrap, topic)
        w = KafkaWorld(KafkaSink(bootstrap, [topic], linger_s=0.002), topic)
        w.bootstrap = bootstrap
    await w.sink.start(w.on_done)
    yield w
    await w.sink.stop()


async def test_writes_in_order_and_reports_each_token_once(world: World) -> None:
    for i in range(500):
        world.sink.append(world.topic, i % PARTITIONS, b"k", b"%d" % i, [("rx", b"12345678")], i)
        if i % 100 == 50:
            await asyncio.sleep(0)
    assert world.sink.pending_records > 0
    await world.sink.drain()
    assert world.sink.pending_records == 0
    assert world.sink.pending_bytes == 0
    assert sorted(world.done) == [(i, None) for i in range(500)]
    for p in range(PARTITIONS):
        rows = await world.read(p)
        assert [int(r.value) for r in rows] == list(range(p, 500, PARTITIONS))
        assert rows[0] == Written(b"k", b"%d" % p, (("rx", b"12345678"),))
        tokens = [t for t, _ in world.done if t % PARTITIONS == p]
        assert tokens == sorted(tokens)


async def test_rows_go_where_single_records_go_and_in_between(world: World) -> None:
    lanes = tuple((world.topic, p) for p in range(PARTITIONS))
    headers = ([("rx", b"12345678")], [("rx", b"12345678"), ("copy", b"1")])
    expected: list[list[Written]] = [[] for _ in lanes]
    token = 0
    for step in range(30):
        heap, data = bytearray(), np.zeros((40, ROW_COLUMNS), np.int64)
        for i in range(40):
            lane, kind, body = (step + i) % PARTITIONS, i % 2, b"%d" % token * (i + 1)
            data[i] = lane, len(heap), 2, len(heap) + 2, len(body), 9, kind, token
            heap += b"ab" + body
            expected[lane].append(Written(b"ab", b"\0\0\0\0\x09" + body, tuple(headers[kind])))
            token += 1
        world.sink.append_rows(Rows(lanes, bytes(heap), data, headers))
        if step % 3 == 0:
            world.sink.append(world.topic, 1, None, b"single", [], token)
            expected[1].append(Written(None, b"single", ()))
            token += 1
        if step % 10 == 5:
            await asyncio.sleep(0)
    await world.sink.drain()
    assert sorted(world.done) == [(i, None) for i in range(token)]
    assert world.sink.pending_bytes == 0
    for p in range(PARTITIONS):
        assert await world.read(p) == expected[p]


async def test_rows_beyond_a_batch_are_taken_in_parts_and_one_too_large_is_refused(world: World) -> None:
    size = 300_000
    heap, data = bytes(8 * size), np.zeros((8, ROW_COLUMNS), np.int64)
    data[:, 3], data[:, 4], data[:, 7] = np.arange(8) * size, size, np.arange(8)
    world.sink.append_rows(Rows(((world.topic, 0),), heap, data, ([],)))
    big = np.array([[0, 0, 0, 0, 2 << 20, 1, 0, 99]], np.int64)
    world.sink.append_rows(Rows(((world.topic, 0),), heap, big, ([],)))
    await world.sink.drain()
    assert sorted(world.done) == [*((i, None) for i in range(8)), (99, RecordRefused)]
    assert [len(r.value) for r in await world.read(0)] == [size + 5] * 8
    assert world.sink.pending_bytes == 0


async def test_reports_nothing_from_inside_append(world: World) -> None:
    world.sink.append(world.topic, 0, None, b"x", [], 1)
    world.sink.append(world.topic, 0, None, b"x" * (2 << 20), [], 2)
    assert world.done == []
    await world.sink.drain()
    assert sorted(t for t, _ in world.done) == [1, 2]


async def test_refuses_a_record_too_large_and_not_its_neighbours(world: World) -> None:
    world.sink.append(world.topic, 0, None, b"before", [], 1)
    world.sink.append(world.topic, 0, None, b"x" * (2 << 20), [], 2)
    world.sink.append(world.topic, 0, None, b"after", [], 3)
    await world.sink.drain()
    assert sorted(world.done) == [(1, None), (2, RecordRefused), (3, None)]
    assert [r.value for r in await world.read(0)] == [b"before", b"after"]


async def test_nobody_hears_of_a_record_without_token(world: World) -> None:
    world.sink.append(world.topic, 1, None, b"tick", [], NO_TOKEN)
    await world.sink.drain()
    assert world.done == []
    assert [r.value for r in await world.read(1)] == [b"tick"]


async def test_knows_its_partitions(world: World) -> None:
    assert world.sink.partitions(world.topic) == PARTITIONS


async def test_room_waits_for_the_log() -> None:
    sink = FakeSink({"t": 1}, max_pending=10)
    await sink.start(lambda _tokens, _error: None)
    await asyncio.wait_for(sink.room(), 1)
    sink.hold()
    sink.append("t", 0, None, b"x" * 20, [], 1)
    waiter = asyncio.ensure_future(sink.room())
    await asyncio.sleep(0)
    assert not waiter.done()
    sink.release()
    await asyncio.wait_for(waiter, 1)
    await sink.stop()


@pytest.mark.real
async def test_kafka_refuses_what_its_topic_refuses_and_takes_the_rest(request: pytest.FixtureRequest) -> None:
    """The limit of a topic is not known to the client: a batch that is refused is taken apart."""
    bootstrap = request.getfixturevalue("kafka").bootstrap
    topic = f"sink-{uuid.uuid4().hex[:8]}"
    await make_topic(bootstrap, topic, **{"max.message.bytes": "2000"})
    w = KafkaWorld(KafkaSink(bootstrap, [topic]), topic)
    w.bootstrap = bootstrap
    await w.sink.start(w.on_done)
    for i in range(20):
        w.sink.append(topic, 0, None, b"x" * (5000 if i == 7 else 300), [], i)
    w.sink.append(topic, 1, None, b"elsewhere", [], 99)
    await asyncio.wait_for(w.sink.drain(), 20)
    assert sorted(w.done) == [*((i, RecordRefused if i == 7 else None) for i in range(20)), (99, None)]
    assert len(await w.read(0)) == 19
    assert isinstance(w.sink, KafkaSink)
    assert w.sink.counters.refused == {topic: 1}
    await w.sink.stop()


@pytest.mark.real
async def test_a_missing_topic_is_said_at_the_start(request: pytest.FixtureRequest) -> None:
    sink = KafkaSink(request.getfixturevalue("kafka").bootstrap, ["no-such-topic"])
    with pytest.raises(BrokerError, match="v2x topics apply"):
        await sink.start(lambda _tokens, _error: None)
