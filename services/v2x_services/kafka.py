"""KafkaSink: records to Kafka with aiokafka's idempotent producer, in order, retried for ever.

aiokafka keeps one produce request in flight per broker and takes whole batches, so this is how the sink works::

    append() ─► lane (topic, partition): queue ─► flush: one batch a lane ─► producer ─► done ─► tokens
                        ▲                                                       │
                        └───────── retry first, queue after ◄── fault ◄─────────┘

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
from itertools import islice
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from v2x.errors import BrokerError

from v2x_services.ports import NO_TOKEN, Completion, Headers, RecordRefused, Refused

log = logging.getLogger(__name__)

MAX_BATCH: Final = 1 << 20  # aiokafka's default of 16 KiB is 25 RSMs; brokers take 1 MiB by default
RECORD_OVERHEAD: Final = 96  # batch header of 61 bytes, and varints of one record
REQUEST_TIMEOUT_MS: Final = 10_000
STUCK_S: Final = 90.0  # a batch in flight that long: the producer itself is suspected
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class _Item(NamedTuple):
    """One record on its way."""

    key: bytes | None
    value: bytes
    headers: Headers
    token: int
    size: int


@dataclass(slots=True, eq=False)
class _Lane:
    """What goes to one partition."""

    topic: str
    partition: int
    queue: deque[_Item] = field(default_factory=deque)
    size: int = 0  # bytes in the queue
    flight: list[_Item] = field(default_factory=list)
    since: float = 0.0  # when the flight left
    single: int = 0  # how many records must go alone, because a batch with them was refused as too large


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
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane(topic, partition)
        size = len(value) + RECORD_OVERHEAD + (len(key) if key else 0)
        for name, content in headers:
            size += len(name) + len(content) + 4
        if not self._records:
            self._idle.clear()
        self._records += 1
        self._bytes += size
        if self._bytes >= self._max_pending:
            self._room.clear()
        item = _Item(key, value, headers, token, size)
        if size > self._max_batch:
            text = f"record of {size} bytes is over Kafka's limit of {self._max_batch} for {topic}"
            error = RecordRefused(text, [Refused(topic, key, value, headers)])
            self._loop.call_soon(self._settle, lane, [item], error)
            return
        lane.queue.append(item)
        lane.size += size
        self._dirty[lane] = None
        if self._timer is None:
            self._schedule()

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
            for lane in [lane for lane in self._dirty if not lane.flight]:
                await self._send(lane)
                if self._broken:
                    break

    async def _send(self, lane: _Lane) -> None:
        builder = self._producer.create_batch()
        alone = 1 if lane.single else None
        count = 0
        for item in islice(lane.queue, alone):
            if builder.append(timestamp=None, key=item.key, value=item.value, headers=item.headers) is None:
                break
            count += 1
        lane.flight = [lane.queue.popleft() for _ in range(count)]
        lane.size -= sum(item.size for item in lane.flight)
        lane.since = self._loop.time()
        if not lane.queue:
            del self._dirty[lane]
        self._in_flight[lane] = None
        try:
            future = await self._producer.send_batch(builder, lane.topic, partition=lane.partition)
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
            items, lane.flight = lane.flight, []
            del self._in_flight[lane]
            lane.single = max(0, lane.single - len(items))
            _count(self.counters.batches, lane.topic, 1)
            self._settle(lane, items, None)
            if self._broken:
                self._wake.set()
            elif lane.queue and self._timer is None:
                self._schedule()

    def _failed(self, lane: _Lane, error: BaseException) -> None:
        """Take back a batch after a fault that aiokafka does not retry; its numbers have a hole now: replace it."""
        items, lane.flight = lane.flight, []
        self._in_flight.pop(lane, None)
        self.last_error = f"{lane.topic}-{lane.partition}: {error!r}"
        self._broken = True
        self._wake.set()
        if isinstance(error, _TOO_LARGE):
            if len(items) == 1:
                item = items[0]
                text = f"Kafka refuses a record of {item.size} bytes for {lane.topic}: {error!r}"
                reason = RecordRefused(text, [Refused(lane.topic, item.key, item.value, item.headers)])
                self._settle(lane, items, reason)
                return
            lane.single = len(items)
        else:
            log.warning("kafka batch failed, sending it again: %s", self.last_error)
        _count(self.counters.retries, lane.topic, 1)
        lane.queue.extendleft(reversed(items))
        lane.size += sum(item.size for item in items)
        self._dirty[lane] = None

    def _settle(self, lane: _Lane, items: Sequence[_Item], error: Exception | None) -> None:
        self._records -= len(items)
        self._bytes -= sum(item.size for item in items)
        if self._bytes < self._max_pending:
            self._room.set()
        _count(self.counters.records if error is None else self.counters.refused, lane.topic, len(items))
        tokens = [item.token for item in items if item.token != NO_TOKEN]
        try:
            if tokens:
                self._on_done(tokens, error)
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
