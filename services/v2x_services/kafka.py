"""KafkaSink: records to Kafka by an idempotent producer, in order, retried for ever.

::

    append() ─► lane (topic, partition): chunks ─► flush: one batch a lane ─► request a broker ─► done ─► tokens
                        ▲                                                         │
                        └────────── again, as it is ◄── fault ◄───────────────────┘

* Records are written as soon as they are appended, many at once (``v2x_services.batches``).
* One request a broker and one batch a lane under way: while Kafka works on one request the next one grows, so that
  batches are as large as the load makes them, and a second batch never overtakes a failed one.
* A flush happens at once when the last one is ``linger_s`` ago, else when it will be: no wait when idle, few large
  batches under load. It never waits for more records: MQTT's Receive Maximum may hold them back (a deadlock).
* After a retriable fault a batch is sent again with the numbers it had, so the broker drops repeats. After any other
  fault the numbers are in doubt: the uncertain batches are sent again under a new producer id. Such a batch may be in
  the log twice, which readers cover by (device, boot, type, seq).
* A record beyond the limit of the broker is refused (``RecordRefused``); its neighbours are not.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Final

import numpy as np
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError, RequestTimedOutError
from v2x.errors import BrokerError

from v2x_services.lanes import Chunk, Lane, Lanes, SinkCounters, count, tokens_of
from v2x_services.ports import Completion, Headers, RecordRefused, Refused, Rows
from v2x_services.producer import Batch, Producer, close

log = logging.getLogger(__name__)

MAX_BATCH: Final = 1 << 20  # brokers take 1 MiB by default
REQUEST_TIMEOUT_MS: Final = 10_000
_SHORTEST_S: Final = 0.05  # between two tries, growing
_LONGEST_S: Final = 2.0
_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaSink:
    """A ``LogSink`` on Apache Kafka. All methods belong to one event loop."""

    def __init__(
        self,
        bootstrap: str,
        topics: Iterable[str],
        *,
        client_id: str = "v2x",
        linger_s: float = 0.0,
        max_batch: int = MAX_BATCH,
        max_pending: int = 64 << 20,
    ) -> None:
        """Make a sink for ``topics`` (they must exist); ``max_pending`` bounds ``room``, in bytes."""
        self.counters = SinkCounters()
        self.last_error: str | None = None  # why it is not making progress; None while it is
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._client_id = client_id
        self._linger = linger_s
        self._max_batch = max_batch
        self._lanes = Lanes(max_batch, max_pending)
        self._told: list[tuple[str, Chunk]] = []  # durable, to be told
        self._busy: set[int] = set()  # brokers with a request under way
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._flushed_at = 0.0
        self._delay = _SHORTEST_S
        self._broken = False  # sequence numbers are in doubt
        self._producer: Producer | None = None
        self._group: asyncio.TaskGroup | None = None
        self._requests: asyncio.Task[None] | None = None
        self._partition_counts: dict[str, int] = {}

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and neither durable nor refused."""
        return self._lanes.bytes

    @property
    def pending_records(self) -> int:
        """Records appended and neither durable nor refused."""
        return self._lanes.records

    def partitions(self, topic: str) -> int:
        """Return how many partitions ``topic`` has; KeyError for a topic not named at the start."""
        return self._partition_counts[topic]

    async def start(self, on_done: Completion) -> None:
        """Connect, waiting for Kafka as long as it takes; BrokerError where a topic is missing."""
        self._on_done = on_done
        await self.connect()
        self._requests = asyncio.create_task(self._run(), name="kafka-sink")
        self._requests.add_done_callback(self._ended)

    async def connect(self) -> None:
        """Do the waiting of ``start`` alone: afterwards ``partitions`` answers."""
        if self._producer is not None:
            return
        self._loop = asyncio.get_running_loop()
        producer = await self._connect()
        for topic in self._topics:
            try:
                async with asyncio.timeout(5.0):
                    self._partition_counts[topic] = await producer.partitions(topic)
            except (KafkaError, TimeoutError, OSError) as e:
                await close(producer)
                msg = f"Kafka at {self._bootstrap} has no topic {topic!r}: run `v2x topics apply` first ({e!r})"
                raise BrokerError(msg) from e
        self._producer = producer

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers, token: int) -> None:
        """Queue one record."""
        size, kept = self._lanes.append(topic, partition, key, value, headers, token)
        if not kept:
            text = f"record of {size} bytes is over Kafka's limit of {self._max_batch} for {topic}"
            error = RecordRefused(text, [Refused(topic, key, value, headers)])
            self._loop.call_soon(self._refuse, topic, Chunk(tokens=[token], records=1), size, error)
        elif self._timer is None:
            self._schedule()

    def append_rows(self, rows: Rows) -> None:
        """Queue many records: written in one go, one part a lane."""
        n = len(rows.data)
        if not n:
            return
        if self._lanes.append_rows(rows):
            if self._timer is None:
                self._schedule()
        elif n == 1:
            for record in rows.records():
                self.append(*record)
        else:  # too many for one batch
            for some in (rows.data[: n // 2], rows.data[n // 2 :]):
                self.append_rows(Rows(rows.lanes, rows.heap, np.ascontiguousarray(some), rows.headers))

    def flush(self) -> None:
        """Send what is queued now."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush_due()

    async def room(self) -> None:
        """Wait until ``pending_bytes`` is below ``max_pending``."""
        await self._lanes.room.wait()

    async def drain(self) -> None:
        """Wait until nothing is pending."""
        self.flush()
        await self._lanes.idle.wait()

    async def stop(self, drain_s: float = 10.0) -> None:
        """Drain for at most ``drain_s`` seconds, then close."""
        if self._requests is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self.drain()
            self._requests.cancel()
            with suppress(asyncio.CancelledError):
                await self._requests
            self._requests = None
        if self._timer is not None:
            self._timer.cancel()
        self._group = None
        if self._producer is not None:
            await close(self._producer)
            self._producer = None

    # -- when to send

    def _schedule(self, wait: float = 0.0) -> None:
        wait = max(wait, self._flushed_at + self._linger - self._loop.time())
        if wait <= 0:
            self._timer = self._loop.call_soon(self._flush_due)
        else:
            self._timer = self._loop.call_later(wait, self._flush_due)

    def _flush_due(self) -> None:
        """Start a request to every broker that has something to get and answers no other one."""
        self._timer = None
        if self._group is None or self._producer is None or self._broken:
            return
        now = self._flushed_at = self._loop.time()
        work: dict[int, list[Lane]] = {}
        wait = 0.0
        nowhere = False
        for lane in self._lanes.dirty:
            if lane.flight is not None and not lane.again:
                continue
            if lane.not_before > now:
                wait = min(wait or _LONGEST_S, lane.not_before - now)
                continue
            node = self._producer.leader(lane.topic, lane.partition)
            if node is None:
                nowhere = True
                lane.not_before = now + self._delay
            elif node not in self._busy:
                work.setdefault(node, []).append(lane)
        for node, lanes in work.items():
            self._busy.add(node)
            if self._producer.ready(node):
                self._send(self._producer, node, lanes)
            else:
                self._group.create_task(self._open(self._producer, node, lanes))
        if nowhere:
            self._group.create_task(self._ask_who_leads(self._producer))
        elif wait:
            self._schedule(wait)

    # -- requests

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            self._flush_due()
            await self._loop.create_future()  # until it is cancelled

    async def _open(self, producer: Producer, node: int, lanes: list[Lane]) -> None:
        """Connect to a broker first."""
        try:
            await producer.connect(node)
        except KafkaError as e:
            self._busy.discard(node)
            for lane in lanes:
                self._again(lane, e)
            await self._ask_who_leads(producer)
            if self._broken and not self._busy:  # another broker's answer waited for this one
                await self._renew(producer)
        else:
            self._send(producer, node, lanes)

    def _send(self, producer: Producer, node: int, lanes: list[Lane]) -> None:
        batches = [self._take(producer, lane) for lane in lanes]
        producer.send(node, batches, partial(self._answered, producer, node, lanes))

    def _answered(self, producer: Producer, node: int, lanes: list[Lane], errors: list[KafkaError | None]) -> None:
        self._busy.discard(node)
        stale = False
        if None in errors:
            self.last_error, self._delay = None, _SHORTEST_S
        for lane, error in zip(lanes, errors, strict=True):
            if error is None:
                assert lane.flight is not None
                self._told.append((lane.topic, lane.flight))
                lane.flight = lane.batch = None
            elif error.retriable:
                stale |= error.invalid_metadata or isinstance(error, RequestTimedOutError)
                self._again(lane, error)
            else:
                self._failed(producer, lane, error)
        if self._told:
            self._tell()
        if self._group is None:  # stopped meanwhile
            return
        if self._broken:
            if not self._busy:
                self._group.create_task(self._renew(producer))
            return
        if stale:
            self._group.create_task(self._ask_who_leads(producer))
        if self._lanes.dirty and self._timer is None:  # does not wait for who leads: that may take longer than a retry
            self._schedule()

    def _take(self, producer: Producer, lane: Lane) -> Batch:
        """Return what a lane sends now: what was sent before without success, or the next chunk."""
        if lane.batch is None:
            lane.flight = lane.queue.popleft()
            lane.batch = producer.batch(lane.topic, lane.partition, lane.flight.parts, lane.flight.records)
        lane.again = False
        if not lane.queue:
            del self._lanes.dirty[lane]
        return lane.batch

    def _again(self, lane: Lane, error: KafkaError) -> None:
        """Keep a batch to be sent again as it is: the broker knows its numbers, should it have it already."""
        if self.last_error is None:
            log.warning("kafka takes nothing, trying on: %r", error)
        self.last_error = f"{lane.topic}-{lane.partition}: {error!r}"
        lane.again = lane.batch is not None
        lane.not_before = self._loop.time() + self._delay * random.uniform(0.5, 1.5)
        self._lanes.dirty[lane] = None
        count(self.counters.retries, lane.topic, 1)

    def _failed(self, producer: Producer, lane: Lane, error: KafkaError) -> None:
        """Take back a batch that the broker refuses, or whose numbers are in doubt."""
        chunk, batch = lane.flight, lane.batch
        assert chunk is not None
        assert batch is not None
        lane.flight = lane.batch = None
        self.last_error = f"{lane.topic}-{lane.partition}: {error!r}"
        again = [chunk]
        if isinstance(error, _TOO_LARGE):
            producer.give_back(batch)
            apart = chunk.apart(lane.topic)
            if len(apart) == 1:
                refused = apart[0][1]
                text = f"Kafka refuses a record of {len(refused.value)} bytes for {lane.topic}: {error!r}"
                self._refuse(lane.topic, chunk, chunk.bytes, RecordRefused(text, [refused]))
                return
            again = [one for one, _ in apart]  # one of them is the culprit: each goes alone
        else:
            self._broken = True
            log.warning("kafka batch failed, sending it again: %s", self.last_error)
        count(self.counters.retries, lane.topic, 1)
        lane.queue.extendleft(reversed(again))
        self._lanes.dirty[lane] = None

    async def _ask_who_leads(self, producer: Producer) -> None:
        self._delay = min(2 * self._delay, _LONGEST_S)
        await producer.refresh()
        if self._lanes.dirty and self._timer is None:
            self._schedule(_SHORTEST_S)

    async def _renew(self, producer: Producer) -> None:
        """Go on as a new producer; what has numbers of the old one gets new ones."""
        self.counters.renewals += 1
        for lane in self._lanes.all.values():
            if lane.flight is not None:
                lane.queue.appendleft(lane.flight)
                lane.flight, lane.batch, lane.again = None, None, False
        while True:
            try:
                await producer.renew()
            except (KafkaError, OSError) as e:
                self.last_error = f"no new producer id from Kafka at {self._bootstrap}: {e!r}"
                await asyncio.sleep(self._delay * random.uniform(0.5, 1.5))
                self._delay = min(2 * self._delay, _LONGEST_S)
            else:
                break
        self._broken = False
        if self._timer is None:
            self._schedule()

    async def _connect(self) -> Producer:
        delay = 2 * _SHORTEST_S
        while True:
            producer = Producer(self._bootstrap, self._client_id, REQUEST_TIMEOUT_MS)
            try:
                async with asyncio.timeout(10.0):
                    await producer.start()
            except asyncio.CancelledError:
                await close(producer)
                raise
            except Exception as e:  # noqa: BLE001 - Kafka is away, or is just starting: try for ever
                await close(producer)
                self.last_error = f"cannot reach Kafka at {self._bootstrap}: {e!r}"
                log.warning("%s", self.last_error)
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))
                delay = min(delay * 2, _LONGEST_S)
            else:
                self.last_error = None
                return producer

    # -- what became of records

    def _tell(self) -> None:
        """Report what has become durable."""
        done, self._told = self._told, []
        size = records = 0
        for topic, chunk in done:
            count(self.counters.batches, topic, 1)
            count(self.counters.records, topic, chunk.records)
            records += chunk.records
            size += chunk.bytes
        self._report([chunk for _, chunk in done], records, size, None)

    def _refuse(self, topic: str, chunk: Chunk, size: int, error: RecordRefused) -> None:
        """Report one record that is refused."""
        count(self.counters.refused, topic, 1)
        self._report([chunk], 1, size, error)

    def _report(self, chunks: list[Chunk], records: int, size: int, error: RecordRefused | None) -> None:
        self._lanes.left(records, size)
        try:
            # Told even if nobody waits for these records: there is room again.
            self._on_done(tokens_of(chunks, records), error)
        finally:
            self._lanes.settled()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            self.last_error = f"sink stopped: {error!r}"
            self._loop.call_exception_handler({"message": "kafka sink stopped", "exception": error})
