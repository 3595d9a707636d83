"""Public fakes of the ports, for tests of what uses them. The contract suite holds them to what the real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from v2x.columns import I64

from v2x_services.ports import (
    A_RETAINED,
    NO_TOKEN,
    Arrivals,
    Completion,
    Headers,
    RecordRefused,
    Refused,
    Rows,
    SourceListener,
)


@dataclass(frozen=True, slots=True)
class Written:
    """A record in the fake log."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(slots=True)
class _Queued:
    place: tuple[str, int]
    record: Written
    token: int
    size: int


@dataclass(slots=True)
class FakeSink:
    """A ``LogSink`` in memory. ``hold`` is a Kafka that does not answer."""

    topics: dict[str, int]
    max_record: int = 1 << 20
    max_pending: int = 64 << 20
    held: bool = False
    refused_topics: set[str] = field(default_factory=set)  # topics that take nothing
    log: dict[tuple[str, int], list[Written]] = field(default_factory=dict)
    _queue: list[_Queued] = field(default_factory=list)
    _on_done: Completion | None = None
    _handle: asyncio.Handle | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not reported."""
        return sum(q.size for q in self._queue)

    @property
    def pending_records(self) -> int:
        """Records appended and not reported."""
        return len(self._queue)

    async def start(self, on_done: Completion) -> None:
        """Remember whom to tell."""
        self._on_done = on_done

    def partitions(self, topic: str) -> int:
        """Return the partition count given for ``topic``."""
        return self.topics[topic]

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers, token: int) -> None:
        """Queue one record."""
        if not 0 <= partition < self.topics[topic]:
            raise ValueError(f"{topic} has no partition {partition}")
        size = len(value) + len(key or b"")
        self._queue.append(_Queued((topic, partition), Written(key, value, tuple(headers)), token, size))
        self._soon()

    def append_rows(self, rows: Rows) -> None:
        """Queue many records."""
        for record in rows.records():
            self.append(*record)

    def flush(self) -> None:
        """Do nothing more: what is appended is written in the next turn of the loop."""

    async def room(self) -> None:
        """Wait until the queue is below ``max_pending`` bytes."""
        while self.pending_bytes >= self.max_pending:
            self._changed.clear()
            await self._changed.wait()

    async def drain(self) -> None:
        """Wait until the queue is empty."""
        while self._queue:
            self._changed.clear()
            await self._changed.wait()

    async def stop(self, drain_s: float = 10.0) -> None:
        """Write what is queued, unless held."""
        if not self.held:
            await asyncio.wait_for(self.drain(), drain_s)
        self._on_done = None

    def hold(self) -> None:
        """Stop answering, as a Kafka that is away."""
        self.held = True

    def release(self) -> None:
        """Answer again."""
        self.held = False
        self._soon()

    def records(self, topic: str) -> list[Written]:
        """Return all records of a topic, partition after partition."""
        return [r for (name, _), rows in sorted(self.log.items()) if name == topic for r in rows]

    def _soon(self) -> None:
        if self._handle is None and not self.held:
            self._handle = asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._handle = None
        if self.held or self._on_done is None:
            return
        queue, self._queue = self._queue, []
        done: list[int] = []
        refused: list[int] = []
        lost: list[Refused] = []
        for q in queue:
            if q.size > self.max_record or q.place[0] in self.refused_topics:
                refused.append(q.token)
                lost.append(Refused(q.place[0], q.record.key, q.record.value, q.record.headers))
                continue
            self.log.setdefault(q.place, []).append(q.record)
            if q.token != NO_TOKEN:
                done.append(q.token)
        if done:
            self._on_done(done, None)
        if refused:
            self._on_done(refused, RecordRefused(f"record is over the limit of {self.max_record} bytes", lost))
        self._changed.set()


@dataclass(slots=True)
class FakeSource:
    """A ``MessageSource`` whose broker is the test: it delivers, loses the connection, and sees acknowledgements.

    As a broker does, it keeps what is not acknowledged and delivers it again, in order, after ``reconnect``.
    """

    listener: SourceListener | None = None
    epoch: int = 0
    paused: bool = False
    acknowledged: list[tuple[int, int]] = field(default_factory=list)  # (epoch, packet id), in the order they came
    _unacked: dict[int, tuple[str, bytes, bool]] = field(default_factory=dict)
    _next_id: int = 1

    async def start(self, listener: SourceListener) -> None:
        """Connect."""
        self.listener = listener
        self._connect(session_present=False)

    def acknowledge(self, epoch: int, packet_ids: Sequence[int] | I64) -> bool:
        """Take acknowledgements of the current epoch."""
        if epoch != self.epoch:
            return False
        for packet_id in map(int, packet_ids):
            self.acknowledged.append((epoch, packet_id))
            del self._unacked[packet_id]
        return True

    def pause(self) -> None:
        """Note that the reader wants no more."""
        self.paused = True

    def resume(self) -> None:
        """Note that the reader goes on."""
        self.paused = False

    async def stop(self) -> None:
        """Disconnect."""
        if self.listener is not None:
            self.listener.disconnected(self.epoch, "stopped")

    def deliver(self, messages: Iterable[tuple[str, bytes]], *, rx_us: int, retained: bool = False) -> list[int]:
        """Deliver messages (topic, payload) in one batch; return their packet ids."""
        ids = []
        for topic, payload in messages:
            ids.append(self._next_id)
            self._unacked[self._next_id] = (topic, payload, retained)
            self._next_id += 1
        self._send(ids, rx_us)
        return ids

    def reconnect(self, *, rx_us: int, session_present: bool = True) -> None:
        """Lose the connection and stand again: what is not acknowledged is delivered again."""
        assert self.listener is not None
        self.listener.disconnected(self.epoch, "the test says so")
        if not session_present:
            self._unacked.clear()
        self._connect(session_present=session_present)
        if self._unacked:
            self._send(list(self._unacked), rx_us)

    def _connect(self, *, session_present: bool) -> None:
        assert self.listener is not None
        self.epoch += 1
        self.listener.connected(self.epoch, session_present=session_present)

    def _send(self, ids: list[int], rx_us: int) -> None:
        assert self.listener is not None
        rows = [self._unacked[i] for i in ids]
        batch = Arrivals.of(self.epoch, rx_us, [r[:2] for r in rows], ids, retained=False)
        batch.rows[:, A_RETAINED] = [r[2] for r in rows]
        self.listener.arrived(batch)


@dataclass(slots=True)
class FakeClock:
    """A clock that stands until it is moved."""

    us: int = 1_750_000_000_000_000
    mono: int = 0

    def now_us(self) -> int:
        """Return the time set."""
        return self.us

    def monotonic_us(self) -> int:
        """Return the monotonic time set."""
        return self.mono

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.us += int(seconds * 1e6)
        self.mono += int(seconds * 1e6)

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as a bad time server would; no time passes."""
        self.us += int(seconds * 1e6)
