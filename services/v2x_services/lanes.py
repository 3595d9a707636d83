"""Lanes: what waits for Kafka, one lane a partition, written as records already.

A lane's records are chunks, each of which becomes one batch. ``Lanes`` only keeps and counts; when a chunk is sent, and
what becomes of it, is the sink's affair (``v2x_services.kafka``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from v2x.columns import I64

from v2x_services.batches import RECORD_OVERHEAD, headers_bytes, record_bytes, records_of, room, write
from v2x_services.ports import NO_TOKEN, Headers, Refused, Rows
from v2x_services.producer import Batch


@dataclass(slots=True, eq=False)
class Chunk:
    """Records that go to one partition together, written already."""

    parts: list[bytes | memoryview] = field(default_factory=list)
    tokens: list[int | I64] = field(default_factory=list)  # of each part: that of its record, or those of its records
    records: int = 0
    size: int = RECORD_OVERHEAD
    alone: bool = False  # takes no more records

    @property
    def bytes(self) -> int:
        """Return what it counts for among the pending bytes."""
        return self.size - RECORD_OVERHEAD

    def told(self) -> list[int]:
        """Return the token of each record."""
        return [t for part in self.tokens for t in ((part,) if isinstance(part, int) else part.tolist())]

    def apart(self, topic: str) -> list[tuple[Chunk, Refused]]:
        """Return a chunk for each record; together they count for the bytes that this one counts for."""
        found = list(records_of(self.parts, self.records))
        chunks = [
            Chunk([record_bytes(0, key, value, headers)], [token], 1, RECORD_OVERHEAD + len(value), alone=True)
            for (key, value, headers), token in zip(found, self.told(), strict=True)
        ]
        chunks[-1].size += self.bytes - sum(chunk.bytes for chunk in chunks)
        return [(chunk, Refused(topic, *record)) for chunk, record in zip(chunks, found, strict=True)]


def tokens_of(chunks: Sequence[Chunk], records: int) -> list[int] | I64:
    """Return the tokens of all records that somebody wants to hear of: a column where many were written at once."""
    parts = [part for chunk in chunks for part in chunk.tokens]
    whole = None if isinstance(parts[0], int) else parts[0].base
    if (
        whole is not None
        and len(whole) == records
        and all(not isinstance(part, int) and part.base is whole for part in parts)
    ):
        return whole  # of so many records none is missing
    single = [part for part in parts if isinstance(part, int) and part != NO_TOKEN]
    columns = [part for part in parts if not isinstance(part, int)]
    return np.concatenate((*columns, np.array(single, np.int64))) if columns else single


@dataclass(slots=True)
class SinkCounters:
    """What a sink did, per topic; read by whoever exports metrics."""

    records: dict[str, int] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    renewals: int = 0  # of the producer id


def count(counter: dict[str, int], topic: str, n: int) -> None:
    """Count ``n`` more of a topic."""
    counter[topic] = counter.get(topic, 0) + n


@dataclass(slots=True, eq=False)
class Lane:
    """What goes to one partition."""

    topic: str
    partition: int
    queue: deque[Chunk] = field(default_factory=deque)
    flight: Chunk | None = None
    batch: Batch | None = None  # of the flight
    again: bool = False  # the flight waits to be sent again
    not_before: float = 0.0

    def open(self, size: int, most: int) -> Chunk:
        """Return the chunk that takes ``size`` bytes more."""
        if self.queue:
            last = self.queue[-1]
            if not last.alone and last.size + size <= most:
                return last
        self.queue.append(Chunk())
        return self.queue[-1]


class Lanes:
    """All lanes of a sink, and what is pending in them."""

    def __init__(self, max_batch: int, max_pending: int) -> None:
        """``max_batch`` bounds a chunk, ``max_pending`` is when ``room`` is shut; both in bytes."""
        self.all: dict[tuple[str, int], Lane] = {}
        self.dirty: dict[Lane, None] = {}  # with something to send, in the order in which they got it
        self.records = 0  # appended, and neither durable nor refused
        self.bytes = 0
        self.room = asyncio.Event()
        self.room.set()
        self.idle = asyncio.Event()
        self.idle.set()
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._rows_for: Sequence[tuple[str, int]] | None = None
        self._rows_lanes: list[Lane] = []

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers, token: int
    ) -> tuple[int, bool]:
        """Take one record; return its size, and False where it is counted but too large to be kept."""
        lane = self._lane(topic, partition)
        size = len(value) + RECORD_OVERHEAD + (len(key) if key else 0)
        for name, content in headers:
            size += len(name) + len(content) + 4
        self._took(1, size)
        if size > self._max_batch:
            return size, False
        chunk = lane.open(size, self._max_batch)
        chunk.parts.append(record_bytes(chunk.records, key, value, headers))
        chunk.tokens.append(token)
        chunk.records += 1
        chunk.size += size
        self.dirty[lane] = None
        return size, True

    def append_rows(self, rows: Rows) -> bool:
        """Take many records, written in one go, one part a lane; False (and nothing done) if they are too many."""
        data = rows.data
        ends = [headers_bytes(h) for h in rows.headers]
        need = room(data, max(map(len, ends)))
        if need + RECORD_OVERHEAD > self._max_batch:
            return False
        if self._rows_for is not rows.lanes:
            self._rows_for = rows.lanes
            self._rows_lanes = [self._lane(topic, partition) for topic, partition in rows.lanes]
        lanes, most = self._rows_lanes, self._max_batch - need
        table = np.zeros((len(lanes), 5), np.int64)
        for k, lane in enumerate(lanes):
            if lane.queue and not lane.queue[-1].alone and lane.queue[-1].size <= most:
                table[k, 0] = lane.queue[-1].records
        out, tokens = np.empty(need, np.uint8), np.empty(len(data), np.int64)
        split = np.array((0, *accumulate(map(len, ends))), np.int64)
        heap = np.frombuffer(rows.heap, np.uint8)
        write(heap, data, np.frombuffer(b"".join(ends), np.uint8), split, out, table, tokens)
        whole, total, dirty = out.data, 0, self.dirty
        for lane, (before, begin, size, records, first) in zip(lanes, table.tolist(), strict=True):
            if records:
                part, told = whole[begin : begin + size], tokens[first : first + records]
                if before:
                    chunk = lane.queue[-1]
                    chunk.parts.append(part)
                    chunk.tokens.append(told)
                    chunk.records += records
                    chunk.size += size
                else:
                    lane.queue.append(Chunk([part], [told], records, RECORD_OVERHEAD + size))
                total += size
                dirty[lane] = None
        self._took(len(data), total)
        return True

    def _lane(self, topic: str, partition: int) -> Lane:
        lane = self.all.get((topic, partition))
        if lane is None:
            lane = self.all[topic, partition] = Lane(topic, partition)
        return lane

    def _took(self, records: int, size: int) -> None:
        if not self.records:
            self.idle.clear()
        self.records += records
        self.bytes += size
        if self.bytes >= self._max_pending:
            self.room.clear()

    def left(self, records: int, size: int) -> None:
        """Count records that are pending no more; whoever waits for ``idle`` is woken by ``settled``."""
        self.records -= records
        self.bytes -= size
        if self.bytes < self._max_pending:
            self.room.set()

    def settled(self) -> None:
        """Wake who waits for the end, if this is it."""
        if not self.records:
            self.idle.set()
