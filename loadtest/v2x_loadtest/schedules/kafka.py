"""A simulated Kafka cluster for idempotent producers: leaders move, answers get lost, batches are refused.

It keeps to KIP-98 and what brokers of version 4 do: a batch whose first number is the expected one is appended; one
that is among the last five is answered as if it were new; any other is out of order. A producer that a partition does
not know may begin with any number. What is appended is durable (acks=all): it stays, whoever leads afterwards.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, NamedTuple, cast

from aiokafka.protocol.admin import ApiVersionResponse_v0
from aiokafka.protocol.api import Response
from aiokafka.protocol.metadata import MetadataResponse_v1
from aiokafka.protocol.transaction import InitProducerIdResponse_v0
from aiokafka.record.default_records import DefaultRecordBatch

from v2x_loadtest.schedules.network import Network

_PRODUCE, _METADATA, _VERSIONS, _INIT = 0, 3, 18, 22
_OFFERED: Final = [(_VERSIONS, 0, 0), (_METADATA, 0, 1), (_INIT, 0, 0), (_PRODUCE, 7, 7)]
_CORRUPT, _NOT_LEADER, _OUT_OF_ORDER = 2, 6, 45
_BEFORE: Final = (
    5,
    7,
    9,
    19,
    59,
    -1,
)  # errors with nothing appended: no leader, time-out, …, unknown producer, unknown
_AFTER: Final = (7, 20, -1)  # errors although the batch is in the log: time-out, too few replicas by now, unknown
_REMEMBERED: Final = 5
_WRAP: Final = 1 << 31
_WORK_S: Final = (0.000_1, 0.004)


class Entry(NamedTuple):
    """A record in the log."""

    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(slots=True)
class Partition:
    """A partition's log, and the last batches of each producer id: (first number, number after the last)."""

    leader: int
    log: list[Entry] = field(default_factory=list)
    known: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)


@dataclass(slots=True)
class Mood:
    """How requests fare at present: probabilities, and seconds."""

    refuse: float = 0.0  # an error, nothing appended
    lie: float = 0.0  # an error, all appended
    vanish: float = 0.0  # the connection breaks before the request is looked at
    silent: float = 0.0  # the connection breaks after it, unanswered
    slow_s: float = 0.0


class Cluster:
    """Brokers ``0`` to ``nodes - 1``. ``appended`` is told of every new record."""

    def __init__(
        self,
        network: Network,
        topics: dict[str, int],
        nodes: int,
        appended: Callable[[str, int, Entry], None],
        wrong: Callable[[str], None],
    ) -> None:
        self.network, self.topics, self.nodes = network, topics, nodes
        self.places = [(f"kafka-{i}", 9092) for i in range(nodes)]
        self.bootstrap = ",".join(f"{host}:{port}" for host, port in self.places)
        self.mood = Mood()
        self.appended, self.wrong = appended, wrong
        self.partitions = {
            (topic, p): Partition(leader=p % nodes) for topic, count in topics.items() for p in range(count)
        }
        self.producers = 0
        for node, place in enumerate(self.places):
            network.servers[place] = lambda node=node: _Link(self, node)  # type: ignore[misc]

    @property
    def rng(self) -> Random:
        """The dice of the schedule."""
        return self.network.rng

    def move(self, node: int) -> None:
        """Have other brokers lead what ``node`` leads, if there are others."""
        others = [n for n in range(self.nodes) if n != node and self.places[n] not in self.network.away]
        for partition in self.partitions.values():
            if partition.leader == node and others:
                partition.leader = self.rng.choice(others)

    def crash(self, node: int) -> None:
        """Kill a broker: its connections break, it takes no new ones."""
        self.network.away.add(self.places[node])
        self.network.cut(self.places[node])
        self.move(node)

    def rise(self, node: int) -> None:
        """Start a broker again."""
        self.network.away.discard(self.places[node])

    def metadata(self) -> MetadataResponse_v1:
        """Say who leads what."""
        # Racks have names, since None has another hash in each process, and clients keep brokers in sets.
        up = [(n, host, port, "rack") for n, (host, port) in enumerate(self.places)]
        topics = [
            (0, topic, False, [(0, p, self.partitions[topic, p].leader, [0], [0]) for p in range(count)])
            for topic, count in self.topics.items()
        ]
        return MetadataResponse_v1(up, 0, topics)

    def append(self, node: int, topic: str, number: int, raw: bytes) -> int:
        """Append a batch; return Kafka's error code."""
        partition = self.partitions.get((topic, number))
        if partition is None or partition.leader != node:
            return _NOT_LEADER
        batch = DefaultRecordBatch(raw)
        if not batch.validate_crc():
            self.wrong(f"a batch for {topic}-{number} whose checksum is wrong")
            return _CORRUPT
        records = [Entry(r.key, r.value or b"", tuple((n, v or b"") for n, v in r.headers)) for r in batch]
        first, after = batch.base_sequence, (batch.base_sequence + len(records)) % _WRAP
        known = partition.known.setdefault(batch.producer_id, deque(maxlen=_REMEMBERED))
        if (first, after) in known:
            return 0
        if known and known[-1][1] != first:
            return _OUT_OF_ORDER
        known.append((first, after))
        partition.log += records
        for entry in records:
            self.appended(topic, number, entry)
        return 0


class _Link(asyncio.Protocol):
    """A connection: requests are worked on and answered one after the other."""

    def __init__(self, cluster: Cluster, node: int) -> None:
        self._cluster, self._node = cluster, node
        self._data = b""
        self._frames: deque[bytes] = deque()
        self._busy = False
        self._gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._gone = True

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= 4:
            end = 4 + int.from_bytes(self._data[:4], "big")
            if len(self._data) < end:
                break
            self._frames.append(self._data[4:end])
            self._data = self._data[end:]
        self._next()

    def _next(self) -> None:
        if self._frames and not self._busy and not self._gone:
            self._busy = True
            cluster = self._cluster
            wait = cluster.rng.uniform(*_WORK_S) + cluster.rng.random() * cluster.mood.slow_s
            cluster.network.loop.call_later(wait, self._work, self._frames.popleft())

    def _work(self, frame: bytes) -> None:
        """Answer one request. What was read before a connection broke is worked on all the same."""
        self._busy = False
        api, _, number, size = struct.unpack_from(">hhih", frame)
        cluster, rng = self._cluster, self._cluster.rng
        if cluster.places[self._node] in cluster.network.away:
            return
        if api == _VERSIONS:
            self._answer(number, ApiVersionResponse_v0(0, _OFFERED))
        elif api == _METADATA:
            self._answer(number, cluster.metadata())
        elif rng.random() < cluster.mood.vanish:
            self._transport.abort()
        elif api == _INIT:
            if rng.random() < cluster.mood.refuse:
                self._answer(number, InitProducerIdResponse_v0(0, 14, -1, -1))  # coordinator is loading
            else:
                cluster.producers += 1
                self._answer(number, InitProducerIdResponse_v0(0, 0, cluster.producers, 0))
        elif api == _PRODUCE:
            answer = self._produce(frame, 10 + size)
            if rng.random() < cluster.mood.silent:
                self._transport.abort()
            elif not self._gone:
                self._send(number, answer)
        else:
            cluster.wrong(f"a request with the unknown key {api}")
        self._next()

    def _produce(self, frame: bytes, at: int) -> bytes:
        """Append all batches of a request (version 7); return the answer's body."""
        _, acks, _, topics = struct.unpack_from(">hhii", frame, at)
        if acks != -1:
            self._cluster.wrong(f"acks is {acks}")
        at += 12
        out = bytearray(struct.pack(">i", topics))
        for _ in range(topics):
            size = int.from_bytes(frame[at : at + 2], "big")
            topic = frame[at + 2 : at + 2 + size].decode()
            (count,) = struct.unpack_from(">i", frame, at + 2 + size)
            out += frame[at : at + 2 + size] + struct.pack(">i", count)
            at += size + 6
            for _ in range(count):
                partition, length = struct.unpack_from(">ii", frame, at)
                at += 8
                code = self._one(topic, partition, frame[at : at + length])
                at += length
                out += struct.pack(">ihqqq", partition, code, 0, -1, 0)
        return bytes(out + bytes(4))

    def _one(self, topic: str, partition: int, raw: bytes) -> int:
        rng, mood = self._cluster.rng, self._cluster.mood
        if rng.random() < mood.refuse:
            return rng.choice(_BEFORE)
        code = self._cluster.append(self._node, topic, partition, raw)
        return rng.choice(_AFTER) if not code and rng.random() < mood.lie else code

    def _answer(self, number: int, response: Response) -> None:
        self._send(number, response.encode())

    def _send(self, number: int, body: bytes) -> None:
        self._transport.write(struct.pack(">ii", len(body) + 4, number) + body)
