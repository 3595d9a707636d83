"""What a fusion worker works with, simulated: the log in memory, a sink that comes late or dies, a core that is cheap.

The core is a toy on purpose: what is on trial is the shell around it (who feeds what, what is suppressed, which
snapshot counts), and a toy makes many schedules possible. Like the real one it is a function of the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from v2x.columns import Output, Record
from v2x.errors import SnapshotError
from v2x.topics import EVENTS, LINKS, MAPS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_services.ports import NO_TOKEN, Completion, Headers, Rows

GENERATION: Final = "6f1c2a52-0000-4000-8000-000000000001"
_LINK: Final[dict[str, Any]] = {
    "zone": "z", "link": "l", "origin": "TRACKS", "from_ms": 0, "to_ms": 1, "length": 1, "vehicles": 1, "rejected": 0,
    "travel_time": 1, "speed": 1, "free_speed": 1, "level": 1, "tpi": 1,
}  # fmt: skip
_MOST: Final = 40  # records of a fetch


class Message(NamedTuple):
    """What a consumer hands out."""

    offset: int
    value: bytes


@dataclass(slots=True)
class Log:
    """All topics of the world: lists of values by topic and partition."""

    partitions: int
    records: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, tp: TopicPartition) -> list[Record]:
        """Return one partition's records."""
        return self.records.setdefault(TopicPartition(*tp), [])

    def append(self, tp: TopicPartition, key: bytes | None, value: bytes, stamp_ms: int = 0) -> None:
        """Write one record."""
        records = self.of(tp)
        records.append(Record(len(records), stamp_ms, key, value, ()))
        self.grown.set()


class Consumer:
    """As much of a consumer as fusion uses beside its fetcher."""

    log: Log  # set for the schedule

    def __init__(self, **_options: Any) -> None:
        self._at: dict[TopicPartition, int] = {}

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""

    def assign(self, tps: Iterable[TopicPartition]) -> None:
        """Read these."""
        self._at = dict.fromkeys(tps, 0)

    def pause(self, *tps: TopicPartition) -> None:
        """Read none of these."""

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on at an offset."""
        self._at[tp] = offset

    async def position(self, tp: TopicPartition) -> int:
        """Return the next offset."""
        return self._at[tp]

    async def beginning_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return first offsets."""
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where the partitions end."""
        await asyncio.sleep(0.002)
        return {tp: len(self.log.of(tp)) for tp in tps}

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[Message]]:  # noqa: ARG002
        """Return what there is."""
        await asyncio.sleep(0.001)
        out = {}
        for tp, at in self._at.items():
            found = [Message(r.offset, r.value) for r in self.log.of(tp)[at : at + _MOST]]
            if found:
                out[tp] = found
                self._at[tp] = at + len(found)
        return out


class Fetcher:
    """Reads the input in pieces of random size."""

    log: Log
    rng: Random

    def __init__(self, _bootstrap: str) -> None:
        self._next: dict[TopicPartition, int] = {}

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""

    async def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets on."""
        self._next = dict(positions)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on elsewhere."""
        self._next[tp] = offset

    def highwater(self, tp: TopicPartition) -> int | None:
        """Return where a partition ends."""
        return len(self.log.of(tp))

    async def getmany(self, timeout_s: float) -> dict[TopicPartition, list[Record]]:
        """Return what has come."""
        await asyncio.sleep(min(self.rng.uniform(0.002, 0.03), timeout_s))
        out = {}
        for tp, at in self._next.items():
            found = self.log.of(tp)[at : at + self.rng.randint(1, _MOST)]
            if found:
                out[tp] = found
                self._next[tp] = found[-1].offset + 1
        return out


class Sink:
    """A ``LogSink`` that writes each partition's records in order, late, and sometimes twice."""

    def __init__(self, log: Log, rng: Random, repeat: float, slow_s: float) -> None:
        self.last_error: str | None = None
        self._log, self._rng, self._repeat, self._slow_s = log, rng, repeat, slow_s
        self._queues: dict[TopicPartition, list[tuple[bytes | None, bytes, int]]] = {}
        self._busy: set[TopicPartition] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.pending_records = self.pending_bytes = 0

    def partitions(self, topic: str) -> int:  # noqa: ARG002
        """Return how many partitions a topic has."""
        return self._log.partitions

    async def start(self, on_done: Completion) -> None:
        """Remember whom to tell."""
        self._on_done = on_done

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes, headers: Headers, token: int) -> None:  # noqa: ARG002
        """Queue one record."""
        tp = TopicPartition(topic, partition)
        self._queues.setdefault(tp, []).append((key, value, token))
        self.pending_records += 1
        self._idle.clear()
        self._soon(tp)

    def append_rows(self, rows: Rows) -> None:
        """Queue many records."""
        for record in rows.records():
            self.append(*record)

    def flush(self) -> None:
        """Do nothing more."""

    async def room(self) -> None:
        """Have room."""

    async def drain(self) -> None:
        """Wait until nothing is queued."""
        await self._idle.wait()

    async def stop(self, drain_s: float = 10.0) -> None:
        """Write what is queued, for so long."""
        if drain_s:
            await asyncio.wait_for(self.drain(), drain_s)

    def _soon(self, tp: TopicPartition) -> None:
        if tp not in self._busy:
            self._busy.add(tp)
            asyncio.get_running_loop().call_later(self._rng.uniform(0.001, self._slow_s), self._write, tp)

    def _write(self, tp: TopicPartition) -> None:
        """Append a batch to the log; the answer takes a while, and does not come to who is killed meanwhile."""
        batch, self._queues[tp] = self._queues[tp], []
        for _ in range(1 + (self._rng.random() < self._repeat)):
            for key, value, _ in batch:
                self._log.append(tp, key, value)
        asyncio.get_running_loop().call_later(self._rng.uniform(0.001, self._slow_s), self._told, tp, batch)

    def _told(self, tp: TopicPartition, batch: list[tuple[bytes | None, bytes, int]]) -> None:
        self._busy.discard(tp)
        self.pending_records -= len(batch)
        self._on_done([token for _, _, token in batch if token != NO_TOKEN], None)
        if self._queues[tp]:
            self._soon(tp)
        if not self.pending_records:
            self._idle.set()


class ToyCore:
    """A function of the log: its state is a digest of all that it was fed, which decides what it puts out."""

    def __init__(self, topic: str, partition: int, codec: ReferenceCodec) -> None:
        self.generation: str | None = GENERATION
        self.position = -1
        self.counters: dict[str, int] = Counter()
        self.digest = b""
        self._topic, self._partition, self._codec = topic, partition, codec

    def feed(self, records: Sequence[Record]) -> list[Output]:
        """Take records in order, return what they make."""
        out: list[Output] = []
        for record in records:
            if record.offset != self.position + 1:
                raise AssertionError(f"offset {record.offset} is fed after {self.position}")
            self.position = record.offset
            self.digest = hashlib.blake2b(self.digest + record.value, digest_size=16).digest()
            self.counters["fused"] += 1
            # What the real gantry stage makes goes into the other input, and is not suppressed: nothing to try here.
            for nth in range(self.digest[0] % 3 if self._topic == OBSERVATIONS else 0):
                topic = (TRACKS, TRACKS, EVENTS, LINKS, MAPS)[self.digest[1 + nth] % 5]
                where = {"generation": GENERATION, "partition": self._partition, "offset": record.offset, "index": nth}
                content = {**_LINK, **where, "zone": self.digest.hex()}
                value = self._codec.encode("link_state", content)
                out.append(Output(topic, self._partition, self.digest, value, record.offset, nth))
        return out

    def freeze(self) -> Frozen:
        """Return the state as it is."""
        return Frozen(json.dumps([self.position, self.digest.hex(), dict(self.counters)]).encode())


class Frozen(NamedTuple):
    """A state as it was."""

    blob: bytes

    def pack(self) -> bytes:
        """Return its bytes."""
        return self.blob


class ToyCores:
    """Makes toys."""

    code, config = "toy", "toy"

    def __init__(self, codec: ReferenceCodec) -> None:
        self._codec = codec

    def warm_up(self) -> None:
        """Have nothing to compile."""

    def fresh(self, topic: str, partition: int, partitions: int) -> ToyCore:  # noqa: ARG002
        """Return a core that has seen nothing."""
        return ToyCore(topic, partition, self._codec)

    def restore(self, topic: str, partition: int, partitions: int, blob: bytes) -> ToyCore:  # noqa: ARG002
        """Return a core as it was at a snapshot."""
        core = ToyCore(topic, partition, self._codec)
        try:
            core.position, digest, counters = json.loads(blob)
        except ValueError as e:
            raise SnapshotError(str(e)) from e
        core.digest, core.counters = bytes.fromhex(digest), Counter(counters)
        return core


class Members:
    """A worker's view of the group: what the coordinator has told it."""

    def __init__(self) -> None:
        self.assigned: frozenset[TopicPartition] | None = None
        self.generation = 0
        self.fatal: BaseException | None = None

    def start(self) -> None:
        """Join; the coordinator knows."""

    async def leave(self) -> None:
        """Leave; the coordinator knows."""

    def take(self, assigned: Collection[TopicPartition]) -> None:
        """Note an assignment."""
        self.assigned = frozenset(assigned)
        self.generation += 1
