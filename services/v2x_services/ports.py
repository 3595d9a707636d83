"""Ports of the services: what a service needs from the world, small enough that a fake of each is honest.

``LogSink`` writes to Kafka, ``MessageSource`` takes messages from MQTT, ``Clock`` says what time it is. The real ones
are ``v2x_services.kafka``, ``v2x_services.ingest.mqtt`` and ``SystemClock``; the fakes are in
``v2x_services.testing``, and one contract suite (tests/contract) runs on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from v2x.columns import I64
from v2x.errors import BrokerError

Headers = Sequence[tuple[str, bytes]]
"""Kafka record headers. The sequence may be shared between records; the sink does not change it."""

NO_TOKEN = -1
"""Token of a record whose fate nobody wants to hear of (a tick)."""

Completion = Callable[[list[int] | I64, Exception | None], None]
"""Called with the tokens of records that are durable (None), or that Kafka refuses for good (``RecordRefused``): a
column where they were written as rows."""


class Refused(NamedTuple):
    """A record that Kafka will not take."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers


class RecordRefused(BrokerError):  # noqa: N818 - a verdict rather than a fault
    """Kafka will never take these records; the message says why. ``records`` are in the order of the tokens."""

    def __init__(self, message: str, records: Sequence[Refused] = ()) -> None:
        super().__init__(message)
        self.records = tuple(records)


class LogSink(Protocol):
    """Writes records to a log, in order per (topic, partition), and says when they are durable.

    A record is durable or refused exactly once; every other fault is retried for ever, in order. Completions come from
    the event loop, never from inside ``append``.
    """

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and neither durable nor refused."""
        ...

    @property
    def pending_records(self) -> int:
        """Records appended and neither durable nor refused."""
        ...

    async def start(self, on_done: Completion) -> None:
        """Connect; waits until the log can be reached. BrokerError where a topic that was asked for is missing."""
        ...

    def partitions(self, topic: str) -> int:
        """Return how many partitions ``topic`` has (a topic named when the sink was made)."""
        ...

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers, token: int) -> None:
        """Queue one record. Never blocks and never refuses: watch ``pending_bytes`` or await ``room``."""
        ...

    def append_rows(self, rows: Rows) -> None:
        """Queue many records at once, in the order of their rows."""
        ...

    def flush(self) -> None:
        """Send what is queued now instead of at the next flush time."""
        ...

    async def room(self) -> None:
        """Wait until ``pending_bytes`` is below the sink's bound."""
        ...

    async def drain(self) -> None:
        """Wait until nothing is pending."""
        ...

    async def stop(self, drain_s: float = 10.0) -> None:
        """Drain for at most ``drain_s`` seconds, then close; what is still pending then is never reported."""
        ...


ROW_COLUMNS = 8


@dataclass(slots=True)
class Rows:
    """Records for many partitions as columns; all bytes are in ``heap``, a value is in Confluent framing."""

    lanes: Sequence[tuple[str, int]]  # topic and partition of each lane; the same object as long as it is unchanged
    heap: bytes
    data: I64  # (n, 8): lane, key offset, length, body offset, length, schema id, kind of headers, token (each has one)
    headers: Sequence[Headers]  # by kind

    def records(self) -> Iterator[tuple[str, int, bytes, bytes, Headers, int]]:
        """Read them one by one, as the arguments of ``LogSink.append``."""
        for lane, key, key_size, body, size, schema, kind, token in self.data.tolist():
            value = b"\0" + schema.to_bytes(4, "big") + self.heap[body : body + size]
            yield *self.lanes[lane], self.heap[key : key + key_size], value, self.headers[kind], token


ARRIVAL_COLUMNS = 6
A_TOPIC, A_TOPIC_LEN, A_PAYLOAD, A_SIZE, A_PACKET_ID, A_RETAINED = range(ARRIVAL_COLUMNS)
HEAP_SPARE = 1024
"""Zero bytes behind the last message in an arrivals' heap: decoders may read on into them."""


@dataclass(slots=True)
class Arrivals:
    """Messages that were read from one MQTT connection at once."""

    epoch: int  # number of the connection; packet ids belong to it
    rx_us: int  # when they were read, microseconds UTC
    heap: bytes
    rows: I64  # (n, 6): topic offset in ``heap``, length, payload offset, length, packet id (0: QoS 0, nothing to
    # acknowledge), retained (1: sent because of a new subscription, not because it was just published)
    data: npt.NDArray[np.uint8] = field(init=False)  # the heap, as kernels take it

    def __post_init__(self) -> None:
        self.data = np.frombuffer(self.heap, np.uint8)

    @classmethod
    def of(
        cls, epoch: int, rx_us: int, messages: Iterable[tuple[str, bytes]], packet_ids: Iterable[int], *, retained: bool
    ) -> Arrivals:
        """Return arrivals of (topic, payload) pairs."""
        heap, rows = bytearray(), []
        for (topic, payload), packet_id in zip(messages, packet_ids, strict=True):
            name = topic.encode()
            rows.append((len(heap), len(name), len(heap) + len(name), len(payload), packet_id, int(retained)))
            heap += name + payload
        columns = np.array(rows, np.int64).reshape(-1, ARRIVAL_COLUMNS)
        return cls(epoch, rx_us, bytes(heap) + bytes(HEAP_SPARE), columns)

    def __len__(self) -> int:
        return len(self.rows)

    def topic(self, i: int) -> str:
        """Return the topic of message ``i``."""
        at, size = self.rows[i, :2].tolist()
        return self.heap[at : at + size].decode("utf-8", "replace")

    def payload(self, i: int) -> bytes:
        """Return the payload of message ``i``."""
        at, size = self.rows[i, 2:4].tolist()
        return self.heap[at : at + size]


class SourceListener(Protocol):
    """What a source tells: arrivals, and the beginning and end of connections (epochs)."""

    def arrived(self, batch: Arrivals) -> None:
        """Take messages that came in."""
        ...

    def connected(self, epoch: int, *, session_present: bool) -> None:
        """Tell that a connection stands; without ``session_present`` what waited for us may be lost."""
        ...

    def disconnected(self, epoch: int, reason: str) -> None:
        """Tell that the connection ended: what is not acknowledged comes again in a later epoch."""
        ...


class MessageSource(Protocol):
    """Takes messages from a broker at least once; each is sent again until it is acknowledged."""

    async def start(self, listener: SourceListener) -> None:
        """Connect in the background and keep connected; returns at once."""
        ...

    def acknowledge(self, epoch: int, packet_ids: Sequence[int] | I64) -> bool:
        """Acknowledge in this order; False (and nothing done) where ``epoch`` is over."""
        ...

    def pause(self) -> None:
        """Take no more messages (back-pressure); what was read before may still arrive."""
        ...

    def resume(self) -> None:
        """Go on taking messages."""
        ...

    async def stop(self) -> None:
        """Disconnect and leave the session behind for the next start."""
        ...


class Clock(Protocol):
    """The time, passed in wherever it is needed."""

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC; may jump."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds since some start; never jumps."""
        ...


class SystemClock:
    """The clocks of this machine."""

    __slots__ = ()

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        """Microseconds of the monotonic clock."""
        return time.monotonic_ns() // 1000
