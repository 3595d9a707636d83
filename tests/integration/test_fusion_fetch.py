"""LogFetcher on real Kafka: every record of every partition, in order, whatever its batch is like."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from tests.conftest import WORLD_PARTITIONS
from tests.integration.test_fusion_service import read
from v2x.columns import Record
from v2x.topics import OBSERVATIONS

from v2x_services.fusion.fetch import PARTITION_BYTES, LogFetcher

pytestmark = pytest.mark.real
TPS = [TopicPartition(OBSERVATIONS, p) for p in range(WORLD_PARTITIONS)]


async def write(bootstrap: str, records: int, size: int, compression: str | None) -> None:
    """Write to each partition, in batches as large as they get."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type=compression, max_batch_size=3 * PARTITION_BYTES, linger_ms=50
    )
    await producer.start()
    try:
        value = bytes(range(256)) * (size // 256)
        waits = [
            await producer.send(OBSERVATIONS, b"%d" % n + value, b"k", tp.partition, headers=[("rx", b"%d" % n)])
            for tp in TPS
            for n in range(records)
        ]
        await asyncio.gather(*waits)
    finally:
        await producer.stop()


async def test_all_partitions_come_whole(world: str) -> None:
    await write(world, 300, 8_192, None)  # batches of 768 KiB: more than a partition's part of a fetch
    await write(world, 50, 256, "gzip")
    await write(world, 500, 256, None)
    wanted = await read(world, OBSERVATIONS)
    fetcher = LogFetcher(world)
    await fetcher.start()
    found: dict[TopicPartition, list[Record]] = defaultdict(list)
    try:
        await fetcher.begin(dict.fromkeys(TPS, 1))
        async with asyncio.timeout(20):
            while any(len(found[tp]) < len(wanted[tuple(tp)]) - 1 for tp in TPS):
                for tp, records in (await fetcher.getmany(0.1)).items():
                    found[tp] += records
        for tp in TPS:
            assert [r._replace(headers=()) for r in found[tp]] == wanted[tuple(tp)][1:]
            assert found[tp][7].headers == (("rx", b"7"),)
            assert fetcher.highwater(tp) == len(wanted[tuple(tp)])
        assert await fetcher.getmany(0.05) == {}
        fetcher.seek(TPS[0], 10_000)
        with pytest.raises(OffsetOutOfRangeError) as raised:
            await fetcher.getmany(10.0)
        assert raised.value.args == ({TPS[0]: 10_000},)
        fetcher.seek(TPS[0], 5)
        while not (again := await fetcher.getmany(1.0)):
            pass
        assert again[TPS[0]][0].offset == 5
    finally:
        await fetcher.stop()
