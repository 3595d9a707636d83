"""The Kafka topics, read once from start to end offsets into columns: what audit, latency and score all work on."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from v2x.audit import EventRow, PositionRow
from v2x.errors import BrokerError
from v2x.topics import (
    DEADLETTER,
    DEVICES,
    EVENTS,
    GANTRY,
    HEADER_COPY,
    HEADER_RX,
    LINKS,
    OBSERVATIONS,
    TRACKS,
    UPLINKS,
)

from v2x_codecs.framing import unframe_kafka
from v2x_codecs.reference import read
from v2x_codecs.registry import Registry

I64 = npt.NDArray[np.int64]
UPLINK_TOPICS: Final = (OBSERVATIONS, GANTRY, DEVICES)
TOPICS: Final = (*UPLINK_TOPICS, DEADLETTER, TRACKS, EVENTS, LINKS)
UPLINK_SCHEMAS: Final = frozenset(row.schema for row in UPLINKS)
FRAME_KEEP_MS: Final = 200  # full frames are kept at 5 Hz of event time a zone: enough to score, little to hold
_COLUMNS: Final = ("topic", "partition", "offset", "stamp_ms", "schema", "device", "boot", "seq", "ts_ms", "rx_us")
_QUIET_S: Final = 30.0  # a reader that gets nothing for so long gives up


def prefix(value: bytes, shape: str, at: int = 5) -> list[Any]:
    """Decode the first fields of an Avro body: ``s`` a string, ``l`` a number; IndexError if it ends too early."""
    out: list[Any] = []
    for kind in shape:
        shift = number = 0
        while True:
            byte = value[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        number = (number >> 1) ^ -(number & 1)
        if kind == "s":
            out.append(value[at : at + number].decode())
            at += number
        else:
            out.append(number)
    return out


class Frame(NamedTuple):
    """A track frame's head; ``value`` is kept for one in a few only."""

    partition: int
    stamp_ms: int
    position: PositionRow
    zone: str
    event_ms: int
    inputs: int
    value: bytes | None


class Stamped(NamedTuple):
    """A decoded record of an output topic."""

    partition: int
    offset: int
    stamp_ms: int
    value: dict[str, Any]


class Names:
    """Strings as numbers."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __getitem__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))

    def list(self) -> list[str]:
        """Return the names in the order of their numbers."""
        return list(self.numbers)


@dataclass(slots=True)
class Log:
    """What the topics hold. ``uplinks`` are columns, one row a record; copies to halo zones are left out."""

    registry: Registry = field(default_factory=Registry.load)
    devices: Names = field(default_factory=Names)
    schemas: Names = field(default_factory=Names)
    topics: Names = field(default_factory=Names)
    keys: Names = field(default_factory=Names)
    columns: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in (*_COLUMNS, "key")})
    halo_copies: int = 0
    others: dict[str, int] = field(default_factory=dict)  # records of observations that are no uplinks, by schema
    strange: dict[str, int] = field(default_factory=dict)  # records that nothing of ours would write, by topic
    dead: list[Stamped] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    events: list[Stamped] = field(default_factory=list)
    event_rows: list[EventRow] = field(default_factory=list)
    links: list[Stamped] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)

    _kept: dict[str, int] = field(default_factory=dict)

    def column(self, name: str) -> I64:
        """Return a column of the uplinks."""
        return np.frombuffer(self.columns[name], np.int64) if self.columns[name] else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def take(self, topic: str, records: Iterable[Any]) -> None:
        """Take in records of one topic and partition, in order; they are as aiokafka hands them over."""
        if topic in UPLINK_TOPICS:
            for record in records:
                self._uplink(topic, record)
        elif topic == TRACKS:
            for record in records:
                self._frame(record)
        elif topic in {EVENTS, LINKS, DEADLETTER}:
            for record in records:
                self._decoded(topic, record)

    def _uplink(self, topic: str, record: Any) -> None:
        value: bytes = record.value or b""
        try:
            name = self.registry.by_id(int.from_bytes(value[1:5], "big")).name if value[:1] == b"\0" else ""
            head = prefix(value, "slll") if name in UPLINK_SCHEMAS else None
        except Exception:  # noqa: BLE001 - whatever it is, it is strange, and the audit says so
            name, head = "", None
        if head is None:
            book, key = (self.others, name) if name else (self.strange, topic)
            book[key] = book.get(key, 0) + 1
            return
        rx = 0
        for header, content in record.headers:
            if header == HEADER_COPY:
                self.halo_copies += 1
                return
            if header == HEADER_RX:
                rx = int.from_bytes(content, "big")
        device, boot, seq, ts_ms = head
        row = (
            self.topics[topic],
            record.partition,
            record.offset,
            record.timestamp,
            self.schemas[name],
            self.devices[device],
            boot,
            seq,
            ts_ms,
            rx,
        )
        for column, number in zip(_COLUMNS, row, strict=True):
            self.columns[column].append(number)
        self.columns["key"].append(self.keys[(record.key or b"").decode("utf-8", "replace")])

    def _frame(self, record: Any) -> None:
        value: bytes = record.value
        generation, partition, offset, nth, zone, event_ms, _stream, inputs = prefix(value, "slllslll")
        keep = event_ms // FRAME_KEEP_MS > self._kept.get(zone, -1)
        if keep:
            self._kept[zone] = event_ms // FRAME_KEEP_MS
        position = PositionRow(generation, partition, offset, nth, hash(value))
        self.frames.append(
            Frame(partition, record.timestamp, position, zone, event_ms, inputs, value if keep else None)
        )

    def _decoded(self, topic: str, record: Any) -> None:
        row = Stamped(record.partition, record.offset, record.timestamp, self.decode(record.value))
        if topic == DEADLETTER:
            self.dead.append(row)
        elif topic == LINKS:
            self.links.append(row)
        else:
            value = row.value
            self.events.append(row)
            head = (value["event_id"], value["revision"], value["status"])
            self.event_rows.append(EventRow(*head, hash(record.value), record.partition))

    def decode(self, value: bytes) -> dict[str, Any]:
        """Decode a whole record by fastavro, without range checks: what fusion wrote is taken at its word."""
        return read(self.registry, *unframe_kafka(self.registry, value))


class LeanLog(Log):
    """A log without the values of frames, and with each name once: of a long run the others would not fit in memory."""

    def _frame(self, record: Any) -> None:
        Log._frame(self, record)  # noqa: SLF001 - a dataclass with slots has no super()
        frame = self.frames[-1]
        position = frame.position._replace(generation=intern(frame.position.generation))
        self.frames[-1] = frame._replace(value=None, zone=intern(frame.zone), position=position)


async def read_log(bootstrap: str, topics: Sequence[str] = TOPICS, log: Log | None = None) -> Log:
    """Read ``topics`` from start to the end offsets of this moment; BrokerError if Kafka or a topic is not there.

    They are read into ``log`` if it is given.
    """
    log = log or Log()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="none",
        check_crcs=False,
        max_partition_fetch_bytes=8 << 20,
        fetch_max_bytes=64 << 20,
    )
    try:
        await consumer.start()
        for topic, partitions in (await topic_partitions(bootstrap, topics)).items():
            await _read_topic(consumer, topic, partitions, log)
    except KafkaError as error:
        msg = f"Kafka at {bootstrap} could not be read: {error!r}"
        raise BrokerError(msg) from error
    finally:
        await consumer.stop()
    return log


async def _read_topic(consumer: AIOKafkaConsumer, topic: str, partitions: Sequence[int], log: Log) -> None:
    """Read one topic to its end; one at a time, so that little is buffered."""
    tps = [TopicPartition(topic, number) for number in partitions]
    start, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    log.ends.update({(tp.topic, tp.partition): end[tp] for tp in tps})
    todo = {tp for tp in tps if end[tp] > start[tp]}
    if not todo:
        return
    consumer.assign(sorted(todo))
    for tp in todo:
        consumer.seek(tp, start[tp])
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while todo:
        batch = await consumer.getmany(timeout_ms=500, max_records=20_000)
        for tp, records in batch.items():
            log.take(topic, (record for record in records if record.offset < end[tp]))
            if records[-1].offset >= end[tp] - 1:
                todo.discard(tp)
        if batch:
            heard = loop.time()
        elif loop.time() - heard > _QUIET_S:
            msg = f"{topic}: nothing came for {_QUIET_S:.0f} s although records are left"
            raise BrokerError(msg)
        # A partition may end in a record that is not handed out (a batch that was aborted, or compacted away).
        for tp in list(todo):
            if await consumer.position(tp) >= end[tp]:
                todo.discard(tp)


async def topic_partitions(bootstrap: str, topics: Sequence[str]) -> dict[str, list[int]]:
    """Return the partitions of each topic; BrokerError if one is not there."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        found = {t["topic"]: [p["partition"] for p in t["partitions"]] for t in await admin.describe_topics()}
    finally:
        await admin.close()
    for topic in topics:
        if not found.get(topic):
            msg = f"Kafka has no topic {topic}; `v2x topics apply` makes it"
            raise BrokerError(msg)
    return {topic: sorted(found[topic]) for topic in topics}
