"""The Kafka topics, read once from start to end offsets into columns: what audit, latency and score all work on."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from v2x.audit import EventRow
from v2x.columns import Record, Records
from v2x.errors import BrokerError, V2XError
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
)

from v2x_codecs.envelopes import UPLINK_SCHEMAS, EnvelopeReader
from v2x_codecs.framing import KAFKA_HEADER, unframe_kafka
from v2x_codecs.heads import ABSENT, heads
from v2x_codecs.reference import read
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.frames import Frames
from v2x_loadtest.audit.names import Names
from v2x_services.fusion.fetch import LogFetcher

I64 = npt.NDArray[np.int64]
UPLINK_TOPICS: Final = (OBSERVATIONS, GANTRY, DEVICES)
TOPICS: Final = (*UPLINK_TOPICS, DEADLETTER, TRACKS, EVENTS, LINKS)
_COLUMNS: Final = (
    "topic", "partition", "offset", "stamp_ms", "schema", "device", "boot", "seq", "ts_ms", "rx_us", "key"
)  # fmt: skip
_PACE_S: Final = (0.0, 0.0)
_PARTITION_BYTES: Final = 1 << 20  # of one fetch
_QUIET_S: Final = 30.0  # a reader that gets nothing for so long gives up


class Stamped(NamedTuple):
    """A decoded record of an output topic."""

    partition: int
    offset: int
    stamp_ms: int
    value: dict[str, Any]


@dataclass(slots=True, repr=False)  # Python 3.11's asyncio.run makes the repr of what a coroutine returned, unasked
class Log:
    """What the topics hold. ``uplinks`` are columns, one row a record; copies to halo zones are left out."""

    registry: Registry = field(default_factory=Registry.load)
    devices: Names = field(default_factory=Names)
    schemas: Names = field(default_factory=Names)
    topics: Names = field(default_factory=Names)
    keys: Names = field(default_factory=Names)
    columns: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in _COLUMNS})
    halo_copies: int = 0
    others: dict[str, int] = field(default_factory=dict)  # records of observations that are no uplinks, by schema
    strange: dict[str, int] = field(default_factory=dict)  # records that nothing of ours would write, by topic
    dead: list[Stamped] = field(default_factory=list)
    frames: Frames = field(default_factory=Frames)
    events: list[Stamped] = field(default_factory=list)
    event_rows: list[EventRow] = field(default_factory=list)
    links: list[Stamped] = field(default_factory=list)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)

    _reader: EnvelopeReader = field(init=False)
    _schema_of: I64 = field(init=False)  # by the reader's numbers

    def __post_init__(self) -> None:
        self._reader = EnvelopeReader(self.registry)
        self._schema_of = np.array([self.schemas[name] for name in self._reader.schemas], np.int64)

    def column(self, name: str) -> I64:
        """Return a column of the uplinks."""
        return np.frombuffer(self.columns[name], np.int64) if self.columns[name] else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def take(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Take in records of one partition, in order."""
        columns = Records.of(records)
        if topic in UPLINK_TOPICS:
            self._uplinks(topic, partition, columns)
            return
        if topic == TRACKS:
            strange = len(columns) - self.frames.take(partition, columns)
            if strange:
                self.strange[topic] = self.strange.get(topic, 0) + strange
            return
        at = 0
        numbers = np.stack((columns.offset, columns.stamp_ms, columns.size), axis=1)
        for offset, stamp_ms, size in numbers.tolist():
            value = columns.values[at : at + size]
            at += size
            if topic in {EVENTS, LINKS, DEADLETTER}:
                self._decoded(topic, partition, offset, stamp_ms, value)

    def _uplinks(self, topic: str, partition: int, records: Records) -> None:
        found = self._reader.read(records.values, records.size)
        if len(found.index) < len(records):
            self._others(topic, records, found.index)
        head = heads(records, (HEADER_COPY, HEADER_RX))
        copied, rx_us = head.numbers[:, found.index]
        ours = copied == ABSENT
        self.halo_copies += int(np.count_nonzero(~ours))
        index = found.index[ours]
        size = (len(index),)
        row = (
            np.full(size, self.topics[topic]),
            np.full(size, partition),
            records.offset[index],
            records.stamp_ms[index],
            self._schema_of[found.schema[ours]],
            self.devices.take(records.values, found.device_at[ours], found.device_size[ours]),
            found.boot[ours],
            found.seq[ours],
            found.ts_ms[ours],
            np.maximum(rx_us[ours], 0),
            self.keys.take(head.heap, head.key_at[index], head.key_size[index]),
        )
        for name, column in zip(self.columns, row, strict=True):
            self.columns[name].frombytes(column.astype(np.int64, copy=False).tobytes())

    def _others(self, topic: str, records: Records, uplinks: I64) -> None:
        """Count records that are no uplinks."""
        size = np.delete(records.size, uplinks)
        at = np.delete(np.cumsum(records.size) - records.size, uplinks)
        heap = np.frombuffer(records.values, np.uint8)
        framed = at[size >= KAFKA_HEADER]
        framed = framed[heap[framed] == 0]
        ids = heap[framed[:, None] + np.arange(1, KAFKA_HEADER)].astype(np.int64) @ (256 ** np.arange(3, -1, -1))
        strange = len(size)
        for number, n in zip(*(x.tolist() for x in np.unique(ids, return_counts=True)), strict=True):
            try:
                name = self.registry.by_id(number).name
            except V2XError:
                continue
            if name not in UPLINK_SCHEMAS:
                self.others[name] = self.others.get(name, 0) + n
                strange -= n
        if strange:
            self.strange[topic] = self.strange.get(topic, 0) + strange

    def _decoded(self, topic: str, partition: int, offset: int, stamp_ms: int, raw: bytes) -> None:
        row = Stamped(partition, offset, stamp_ms, self.decode(raw))
        if topic == DEADLETTER:
            self.dead.append(row)
        elif topic == LINKS:
            self.links.append(row)
        else:
            value = row.value
            self.events.append(row)
            head = (value["event_id"], value["revision"], value["status"])
            self.event_rows.append(EventRow(*head, hash(raw), partition))

    def decode(self, value: bytes) -> dict[str, Any]:
        """Decode a whole record by fastavro, without range checks: what fusion wrote is taken at its word."""
        return read(self.registry, *unframe_kafka(self.registry, value))


@dataclass(slots=True, repr=False)
class LeanLog(Log):
    """A log without the values of frames: of a long run they would not fit in memory."""

    frames: Frames = field(default_factory=lambda: Frames(keep=False))


async def read_log(bootstrap: str, topics: Sequence[str] = TOPICS, log: Log | None = None) -> Log:
    """Read ``topics`` from start to the end offsets of this moment; BrokerError if Kafka or a topic is not there.

    They are read into ``log`` if it is given.
    """
    log = Log() if log is None else log  # an empty one is false
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none")
    fetcher = LogFetcher(bootstrap, "v2x-audit", _PACE_S, _PARTITION_BYTES)
    try:
        await consumer.start()
        await fetcher.start()
        for topic, partitions in (await topic_partitions(bootstrap, topics)).items():
            tps = [TopicPartition(topic, number) for number in partitions]
            start, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            log.ends.update({(tp.topic, tp.partition): end[tp] for tp in tps})
            await _read_topic(fetcher, {tp: start[tp] for tp in tps if end[tp] > start[tp]}, end, log)
    except KafkaError as error:
        msg = f"Kafka at {bootstrap} could not be read: {error!r}"
        raise BrokerError(msg) from error
    finally:
        await fetcher.stop()
        await consumer.stop()
    return log


async def _read_topic(
    fetcher: LogFetcher, start: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int], log: Log
) -> None:
    """Read one topic to its end; one at a time, so that little is buffered."""
    todo = set(start)
    await fetcher.begin(start)
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while todo:
        batch = await fetcher.getmany(0.5)
        for tp, records in batch.items():
            whole = int(records.offset[-1]) < end[tp]
            log.take(tp.topic, tp.partition, records if whole else records[: np.searchsorted(records.offset, end[tp])])
        if batch:
            heard = loop.time()
        elif loop.time() - heard > _QUIET_S:
            msg = f"{', '.join(tp.topic for tp in todo)}: nothing came for {_QUIET_S:.0f} s although records are left"
            raise BrokerError(msg)
        # A partition may end in a record that is not handed out (a batch that was aborted, or compacted away).
        for tp in [tp for tp in todo if fetcher.position(tp) >= end[tp]]:
            todo.remove(tp)
            fetcher.leave(tp)


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
