"""A world for tests of ingest: zones, good messages of every kind, a publisher, and what is in Kafka afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import mqtt5
from aiokafka import AIOKafkaConsumer, TopicPartition
from v2x.shards import Shard
from v2x.topics import HEADER_COPY, uplink_topic

from v2x_codecs import vectors
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.catalogue import LAWS
from v2x_services.ingest.app import Ingest
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
_TEMPLATES = {v.schema: v.record for v in reversed(vectors.load(REGISTRY))}
BOOT = 1_700_000_000_000
ZONES = {
    "version": 1,
    "name": "test",
    "partition_hint": None,
    "zones": [
        {"id": "west", "polygon": [[31.0, 120.0], [31.0, 120.1], [31.1, 120.1], [31.1, 120.0]], "neighbours": ["east"]},
        {"id": "east", "polygon": [[31.0, 120.1], [31.0, 120.2], [31.1, 120.2], [31.1, 120.1]], "neighbours": ["west"]},
    ],
    "devices": {
        **{f"RSU-{i}": {"zone": "west", "halo": [], "lat": 31.05, "lon": 120.05} for i in range(8)},
        "RSU-EDGE": {"zone": "west", "halo": ["east"], "lat": 31.05, "lon": 120.0999},
        "G-1": {"zone": "west", "halo": [], "lat": 31.05, "lon": 120.05},
    },
    "gantries": {},
    "sections": [],
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def record(schema: str, device: str, seq: int, **fields: Any) -> dict[str, Any]:
    """Return a good record: the golden one, as ``device`` would send it now."""
    return {**_TEMPLATES[schema], "device": device, "boot": BOOT, "seq": seq, "ts_ms": now_ms(), **fields}


def payload(schema: str, device: str, seq: int, **fields: Any) -> bytes:
    return CODEC.encode_mqtt(schema, record(schema, device, seq, **fields))


def rsm(device: str, seq: int, **fields: Any) -> tuple[str, bytes]:
    return uplink_topic("rsu", device, "rsm"), payload("rsm", device, seq, **fields)


class Publisher:
    """A device's MQTT connection: many publishes in flight, and what was acknowledged."""

    def __init__(self, port: int, name: str) -> None:
        self.port, self.name = port, name
        self.codes: dict[int, int] = {}
        self._id = 0
        self._waiting: dict[int, asyncio.Future[int]] = {}

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.write(mqtt5.ConnectPacket(self.name, clean_start=True, keep_alive=0).write())
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._writer.write(mqtt5.DisconnectPacket().write())
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def send(self, topic: str, data: bytes, *, retain: bool = False, qos: int = 1) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if qos:
            self._id = self._id % 65_535 + 1
            self._waiting[self._id] = future
            packet = mqtt5.PublishPacket(topic, data, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=self._id, retain=retain)
        else:
            packet = mqtt5.PublishPacket(topic, data, retain=retain)
            future.set_result(0)
        self._writer.write(packet.write())
        return future

    async def publish(self, messages: Iterable[tuple[str, bytes]], **options: Any) -> list[int]:
        """Publish all, wait for all PUBACKs, return their codes."""
        async with asyncio.timeout(20):
            return list(await asyncio.gather(*[self.send(topic, data, **options) for topic, data in messages]))

    async def _read(self) -> None:
        rest = b""
        while data := await self._reader.read(65_536):
            rest += data
            while rest:
                try:
                    packet, size = mqtt5.read(memoryview(rest))
                except IndexError:
                    break
                rest = rest[size:]
                if isinstance(packet, mqtt5.PubAckPacket):
                    self._waiting.pop(packet.packet_id).set_result(int(packet.reason_code))


@dataclass
class Found:
    """A record in Kafka."""

    schema: str
    record: dict[str, Any]
    partition: int
    key: bytes | None
    headers: dict[str, bytes]
    stamp_ms: int

    @property
    def is_copy(self) -> bool:
        return HEADER_COPY in self.headers


async def read(bootstrap: str, topic: str, *, ticks: bool = False) -> list[Found]:
    """Return all records of a topic, genesis (and ticks) left out, in order per partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    try:
        tps = [
            TopicPartition(topic, p)
            for p in sorted(consumer.partitions_for_topic(topic) or await _parts(consumer, topic))
        ]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        rows: list[Found] = []
        for tp in tps:
            while await consumer.position(tp) < ends[tp]:
                for r in (await consumer.getmany(tp, timeout_ms=500)).get(tp, []):
                    schema, found = CODEC.decode_kafka(r.value)
                    if schema != "genesis" and (ticks or schema != "tick"):
                        rows.append(Found(schema, found, tp.partition, r.key, dict(r.headers), r.timestamp))
        return rows
    finally:
        await consumer.stop()


async def _parts(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    while True:
        consumer._client.add_topic(topic)
        await consumer._client.force_metadata_update()
        found = consumer.partitions_for_topic(topic)
        if found:
            return set(found)
        await asyncio.sleep(0.05)


@dataclass
class Running:
    """Ingest in this process."""

    ingest: Ingest
    metrics: Metrics
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, name: str) -> int:
        return int(self.metrics.total(name))

    def by_reason(self, name: str) -> dict[str, int]:
        """Return a counter's series with their reasons, both sessions together."""
        out: dict[str, int] = {}
        for key, value in self.metrics._series.get(name, {}).items():
            out[key[-1]] = out.get(key[-1], 0) + int(value.value)
        return out

    def balanced(self) -> bool:
        self.metrics.refresh()
        return self.metrics.imbalance(next(law for law in LAWS if law.name == "ingest")) == 0

    async def settled(self, received: int) -> None:
        """Wait until ``received`` messages were taken and none is in flight."""
        async with asyncio.timeout(20):
            while self.count("v2x_ingest_received_total") < received or self.count("v2x_ingest_in_flight"):  # noqa: ASYNC110 - counters tell nobody
                await asyncio.sleep(0.02)


def settings(bootstrap: str, mqtt_port: int, folder: Path, **more: Any) -> Settings:
    zones = folder / "zones.json"
    zones.write_text(json.dumps(ZONES))
    defaults: dict[str, Any] = {
        "kafka_bootstrap": bootstrap, "mqtt_port": mqtt_port, "zones_path": zones, "state_dir": folder / "state",
        "ingest_metrics_port": 0, "ingest_id": f"t{time.time_ns()}",
    }  # fmt: skip
    return Settings.load(**(defaults | more))


@asynccontextmanager
async def running(made: Settings, shard: str = "0/1", *, standing_by: bool = False) -> AsyncIterator[Running]:
    """Run ingest until the block ends; ready when it begins."""
    metrics = Metrics("ingest")
    world = Running(Ingest(made, metrics, Shard.parse(shard), standing_by=standing_by), metrics)
    task = asyncio.create_task(world.ingest.run(world.stop))
    try:
        async with asyncio.timeout(30):
            while why := world.ingest.not_ready():
                if task.done():
                    await task
                    raise AssertionError(why)
                await asyncio.sleep(0.02)
        yield world
    finally:
        world.stop.set()
        await task
