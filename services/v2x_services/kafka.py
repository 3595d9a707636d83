"""KafkaSink: records to Kafka with aiokafka's idempotent producer, in order, retried for ever.

aiokafka keeps one produce request in flight per broker and takes whole batches, so this is how the sink works::

    append() ─► lane (topic, partition): chunks ─► flush: one batch a lane ─► producer ─► done ─► tokens
                        ▲                                                        │
                        └───────── retry first, queue after ◄── fault ◄──────────┘

* Records are written as soon as they are appended, many at once (``v2x_services.batches``); aiokafka only adds what
  the broker wants to know of a batch.
* One batch in flight per lane: more than one waiter on a partition ends in KafkaTimeoutError in aiokafka 0.14, and a
  second batch behind a failed one would overtake it.
* A flush happens at once when the last one is ``linger_s`` ago, else when it will be: no wait when idle, few large
  batches under load. It never waits for more records: MQTT's Receive Maximum may hold them back (a deadlock).
* aiokafka retries retriable faults itself, with the same sequence numbers, so the broker drops repeats. Any other fault
  leaves a hole in the sequence numbers: the producer is thrown away and the uncertain batches are sent again by a new
  one. Such a batch may be in the log twice, which readers cover by (device, boot, type, seq).
* A record beyond the limit of the broker is refused (``RecordRefused``); its neighbours are not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from v2x.errors import BrokerError

from v2x_services.batches import RECORD_OVERHEAD, RecordBatch, headers_bytes, record_bytes, records_of, room, write
from v2x_services.ports import NO_TOKEN, Completion, Headers, RecordRefused, Refused, Rows

log = logging.getLogger(__name__)

MAX_BATCH: Final = 1 << 20  # aiokafka's default of 16 KiB is 25 RSMs; brokers take 1 MiB by default
REQUEST_TIMEOUT_MS: Final = 10_000
STUCK_S: Final = 90.0  # a batch in flight that long: the producer itself is suspected
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


@dataclass(slots=True, eq=False)
class _Chunk:
    """Records that go to one partition together, written already."""

    parts: list[bytes | memoryview] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    size: int = RECORD_OVERHEAD
    alone: bool = False  # takes no more records


@dataclass(slots=True, eq=False)
class _Lane:
    """What goes to one partition."""

    topic: str
    partition: int
    queue: deque[_Chunk] = field(default_factory=deque)
    flight: _Chunk | None = None
    since: float = 0.0  # when the flight left

    def open(self, size: int, most: int) -> _Chunk:
        """Return the chunk that takes ``size`` bytes more."""
        if self.queue:
            last = self.queue[-1]
            if not last.alone and last.size + size <= most:
                return last
        self.queue.append(_Chunk())
        return self.queue[-1]


@dataclass(slots=True)
class SinkCounters:
    """What a sink did, per topic; read by whoever exports metrics."""

    records: dict[str, int] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    rebuilds: int = 0


class KafkaSink:
    """A ``LogSink`` on Apache Kafka. All methods belong to one event loop."""

    def __init__(
        self,
        bootstrap: str,
        topics: Iterable[str],
        *,
        client_id: str = "v2x",
        linger_s: float = 0.004,
        max_batch: int = MAX_BATCH,
        max_pending: int = 64 << 20,
        stuck_s: float = STUCK_S,
    ) -> None:
        """Make a sink for ``topics`` (they must exist); ``max_pending`` bounds ``room``, in bytes."""
        self.counters = SinkCounters()
        self.last_error: str | None = None  # why it is not making progress; None while it is
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._client_id = client_id
        self._linger = linger_s
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._stuck = stuck_s
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._rows_for: Sequence[tuple[str, int]] | None = None
        self._rows_lanes: list[_Lane] = []
        self._durable: list[tuple[str, _Chunk]] = []  # not told yet
        self._dirty: dict[_Lane, None] = {}  # lanes with a queue, in the order in which they got one
        self._in_flight: dict[_Lane, None] = {}
        self._bytes = 0
        self._records = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._flushed_at = 0.0
        self._broken = False
        self._era = 0  # number of the producer; completions of an older one are stale
        self._producer: Any = None
        self._pump: asyncio.Task[None] | None = None
        self._closing = False
        self._partition_counts: dict[str, int] = {}

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and neither durable nor refused."""
        return self._bytes

    @property
    def pending_records(self) -> int:
        """Records appended and neither durable nor refused."""
        return self._records

    def partitions(self, topic: str) -> int:
        """Return how many partitions ``topic`` has; KeyError for a topic not named at the start."""
        return self._partition_counts[topic]

    async def start(self, on_done: Completion) -> None:
        """Connect, waiting for Kafka as long as it takes; BrokerError where a topic is missing."""
        self._on_done = on_done
        await self.connect()
        self._pump = asyncio.create_task(self._run(), name="kafka-sink")
        self._pump.add_done_callback(self._pump_ended)

    async def connect(self) -> None:
        """Do the waiting of ``start`` alone: afterwards ``partitions`` answers."""
        if self._producer is not None:
            return
        self._loop = asyncio.get_running_loop()
        await self._connect()
        producer: Any = self._producer
        for topic in self._topics:
            try:
                async with asyncio.timeout(5.0):
                    parts = await producer.partitions_for(topic)
            except Exception as e:
                await self._close_producer()
                msg = f"Kafka at {self._bootstrap} has no topic {topic!r}: run `v2x topics apply` first ({e!r})"
                raise BrokerError(msg) from e
            self._partition_counts[topic] = len(parts)

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers, token: int) -> None:
        """Queue one record."""
        lane = self._lane(topic, partition)
        size = len(value) + RECORD_OVERHEAD + (len(key) if key else 0)
        for name, content in headers:
            size += len(name) + len(content) + 4
        self._took(1, size)
        if size > self._max_batch:
            text = f"record of {size} bytes is over Kafka's limit of {self._max_batch} for {topic}"
            error = RecordRefused(text, [Refused(topic, key, value, headers)])
            self._loop.call_soon(self._settle, topic, [token], size, error)
            return
        chunk = lane.open(size, self._max_batch)
        chunk.parts.append(record_bytes(len(chunk.tokens), key, value, headers))
        chunk.tokens.append(token)
        chunk.size += size
        self._dirty[lane] = None
        if self._timer is None:
            self._schedule()

    def append_rows(self, rows: Rows) -> None:
        """Queue many records: written in one go, one part a lane."""
        data = rows.data
        n = len(data)
        if not n:
            return
        ends = [headers_bytes(h) for h in rows.headers]
        need = room(data, max(map(len, ends)))
        if need + RECORD_OVERHEAD > self._max_batch:
            self._append_halves(rows)
            return
        if self._rows_for is not rows.lanes:
            self._rows_for = rows.lanes
            self._rows_lanes = [self._lane(topic, partition) for topic, partition in rows.lanes]
        lanes = self._rows_lanes
        chunks = [lane.queue[-1] if lane.queue else None for lane in lanes]
        most = self._max_batch - need
        table = np.zeros((len(lanes), 5), np.int64)
        table[:, 0] = [len(c.tokens) if c is not None and not c.alone and c.size <= most else 0 for c in chunks]
        out, tokens = np.empty(need, np.uint8), np.empty(n, np.int64)
        split = np.array([0, *accumulate(map(len, ends))], np.int64)
        heap = np.frombuffer(rows.heap, np.uint8)
        write(heap, data, np.frombuffer(b"".join(ends), np.uint8), split, out, table, tokens)
        whole, told = out.data, tokens.tolist()
        total = 0
        for lane, (before, begin, size, records, first) in zip(lanes, table.tolist(), strict=True):
            if records:
                chunk = lane.queue[-1] if before else lane.open(most + 1, most)
                chunk.parts.append(whole[begin : begin + size])
                chunk.tokens += told[first : first + records]
                chunk.size += size
                total += size
                self._dirty[lane] = None
        self._took(n, total)
        if self._timer is None:
            self._schedule()

    def _append_halves(self, rows: Rows) -> None:
        """Take rows that are too many for one batch in two goes, a single one as any other record."""
        half = len(rows.data) // 2
        if half:
            for some in (rows.data[:half], rows.data[half:]):
                self.append_rows(Rows(rows.lanes, rows.heap, np.ascontiguousarray(some), rows.headers))
            return
        for record in rows.records():
            self.append(*record)

    def _lane(self, topic: str, partition: int) -> _Lane:
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane(topic, partition)
        return lane

    def _took(self, records: int, size: int) -> None:
        if not self._records:
            self._idle.clear()
        self._records += records
        self._bytes += size
        if self._bytes >= self._max_pending:
            self._room.clear()

    def flush(self) -> None:
        """Send what is queued now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush_due()

    async def room(self) -> None:
        """Wait until ``pending_bytes`` is below ``max_pending``."""
        await self._room.wait()

    async def drain(self) -> None:
        """Wait until nothing is pending."""
        self.flush()
        await self._idle.wait()

    async def stop(self, drain_s: float = 10.0) -> None:
        """Drain for at most ``drain_s`` seconds, then close."""
        self._closing = self._pump is None
        if self._pump is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self.drain()
            self._closing = True
            self._pump.cancel()
            with suppress(asyncio.CancelledError):
                await self._pump
            self._pump = None
        if self._timer is not None:
            self._timer.cancel()
        self._era += 1
        await self._close_producer()

    # -- when to send

    def _schedule(self) -> None:
        wait = self._flushed_at + self._linger - self._loop.time()
        if wait <= 0:
            self._timer = self._loop.call_soon(self._flush_due)
        else:
            self._timer = self._loop.call_later(wait, self._flush_due)

    def _flush_due(self) -> None:
        self._timer = None
        self._flushed_at = self._loop.time()
        self._wake.set()

    # -- the pump: builds batches, and producers

    async def _run(self) -> None:
        while not self._closing:
            try:
                # Not wait_for: in Python 3.11 it loses a cancellation that meets its result.
                async with asyncio.timeout(1.0 if self._in_flight else None):
                    await self._wake.wait()
            except TimeoutError:
                self._look_for_stuck()
            self._wake.clear()
            if self._broken:
                if self._in_flight:
                    continue  # they end by themselves, and wake us
                await self._rebuild()
            for lane in [lane for lane in self._dirty if lane.flight is None]:
                await self._send(lane)
                if self._broken:
                    break

    async def _send(self, lane: _Lane) -> None:
        chunk = lane.flight = lane.queue.popleft()
        lane.since = self._loop.time()
        if not lane.queue:
            del self._dirty[lane]
        self._in_flight[lane] = None
        batch = RecordBatch(tuple(chunk.parts), len(chunk.tokens))
        try:
            future = await self._producer.send_batch(batch, lane.topic, partition=lane.partition)
        except Exception as e:  # noqa: BLE001 - whatever it is, the records stay ours
            self._failed(lane, e)
        else:
            future.add_done_callback(partial(self._answered, lane, self._era))

    def _answered(self, lane: _Lane, era: int, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        if era != self._era or lane not in self._in_flight:
            return
        if future.cancelled():
            self._failed(lane, BrokerError("the producer gave up on a batch"))
        elif error is not None:
            self._failed(lane, error)
        else:
            self.last_error = None
            chunk, lane.flight = lane.flight, None
            assert chunk is not None
            del self._in_flight[lane]
            _count(self.counters.batches, lane.topic, 1)
            if not self._durable:  # the other lanes of the same request are told together with this one
                self._loop.call_soon(self._tell)
            self._durable.append((lane.topic, chunk))
            if self._broken:
                self._wake.set()
            elif lane.queue and self._timer is None:
                self._schedule()

    def _failed(self, lane: _Lane, error: BaseException) -> None:
        """Take back a batch after a fault that aiokafka does not retry; its numbers have a hole now: replace it."""
        chunk, lane.flight = lane.flight, None
        assert chunk is not None
        self._in_flight.pop(lane, None)
        self.last_error = f"{lane.topic}-{lane.partition}: {error!r}"
        self._broken = True
        self._wake.set()
        again = [chunk]
        if isinstance(error, _TOO_LARGE):
            found = list(records_of(chunk.parts, len(chunk.tokens)))
            if len(found) == 1:
                ((key, value, headers),) = found
                text = f"Kafka refuses a record of {len(value)} bytes for {lane.topic}: {error!r}"
                reason = RecordRefused(text, [Refused(lane.topic, key, value, headers)])
                self._settle(lane.topic, chunk.tokens, chunk.size - RECORD_OVERHEAD, reason)
                return
            # One of them is the culprit: each goes alone. Together they count for the bytes that the chunk counted for.
            again = [
                _Chunk([record_bytes(0, key, value, headers)], [token], RECORD_OVERHEAD + len(value), alone=True)
                for (key, value, headers), token in zip(found, chunk.tokens, strict=True)
            ]
            again[-1].size += chunk.size - RECORD_OVERHEAD - sum(c.size - RECORD_OVERHEAD for c in again)
        else:
            log.warning("kafka batch failed, sending it again: %s", self.last_error)
        _count(self.counters.retries, lane.topic, 1)
        lane.queue.extendleft(reversed(again))
        self._dirty[lane] = None

    def _tell(self) -> None:
        """Report what has become durable."""
        done, self._durable = self._durable, []
        tokens: list[int] = []
        size = 0
        for topic, chunk in done:
            _count(self.counters.records, topic, len(chunk.tokens))
            tokens += chunk.tokens
            size += chunk.size - RECORD_OVERHEAD
        self._report(tokens, size, None)

    def _settle(self, topic: str, tokens: list[int], size: int, error: RecordRefused) -> None:
        """Report what is refused."""
        _count(self.counters.refused, topic, len(tokens))
        self._report(tokens, size, error)

    def _report(self, tokens: list[int], size: int, error: RecordRefused | None) -> None:
        self._records -= len(tokens)
        self._bytes -= size
        if self._bytes < self._max_pending:
            self._room.set()
        try:
            wanted = [token for token in tokens if token != NO_TOKEN]
            if wanted:
                self._on_done(wanted, error)
        finally:
            if not self._records:
                self._idle.set()

    def _look_for_stuck(self) -> None:
        now = self._loop.time()
        stuck = [lane for lane in self._in_flight if now - lane.since > self._stuck]
        if not stuck:
            return
        self._era += 1  # what the old producer still says is stale
        for lane in list(self._in_flight):
            self._failed(lane, BrokerError(f"no answer from Kafka for {self._stuck:.0f} s"))

    async def _rebuild(self) -> None:
        self.counters.rebuilds += 1
        self._era += 1
        await self._close_producer()
        await self._connect()
        self._broken = False

    async def _connect(self) -> None:
        delay = 0.1
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                client_id=self._client_id,
                enable_idempotence=True,
                acks="all",
                max_batch_size=self._max_batch,
                max_request_size=4 * self._max_batch,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                retry_backoff_ms=50,
            )
            try:
                async with asyncio.timeout(10.0):
                    await producer.start()
            except asyncio.CancelledError:
                await _close(producer)
                raise
            except Exception as e:  # noqa: BLE001 - Kafka is away, or is just starting: try for ever
                await _close(producer)
                self.last_error = f"cannot reach Kafka at {self._bootstrap}: {e!r}"
                log.warning("%s", self.last_error)
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, 3.0)
            else:
                self._producer = producer
                return

    async def _close_producer(self) -> None:
        if self._producer is not None:
            await _close(self._producer)
            self._producer = None

    def _pump_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.last_error = f"sink stopped: {task.exception()!r}"
            self._loop.call_exception_handler({"message": "kafka sink stopped", "exception": task.exception()})


async def _close(producer: Any) -> None:
    """Close a producer, however broken: its own stop() would wait for ever for what it can no longer send."""
    with suppress(Exception):
        async with asyncio.timeout(2.0):
            await producer.stop()
        return
    with suppress(Exception):
        async with asyncio.timeout(2.0):
            await producer.client.close()


def _count(counter: dict[str, int], topic: str, n: int) -> None:
    counter[topic] = counter.get(topic, 0) + n
