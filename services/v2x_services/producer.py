"""An idempotent Kafka producer for batches that are written already.

aiokafka's own producer collects records one by one and costs more for a request than all that ingest does with the
messages in it. This one takes record batches (``v2x_services.batches``), gives them sequence numbers and sends one
request a broker, on connections of its own (plain TCP) where a request and its answer are two callbacks; metadata,
producer ids and error codes are those of aiokafka's client. What holds (KIP-98, Kafka's protocol guide):

* A partition's batches carry consecutive sequence numbers of one producer id. The caller has one batch a partition
  under way, so a batch that is sent again, with the numbers it had, is never overtaken; the broker drops repeats.
* A batch that the broker has refused has not used its numbers: ``give_back``.
* After any other fault the numbers are in doubt: ``renew`` takes a new producer id.
* A connection without an answer for long (``patience``) is dead; one that was silent is not trusted but opened anew.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numba as nb
import numpy as np
import numpy.typing as npt
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorrelationIdError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import TopicPartition

from v2x_codecs.recordbatch import HEAD, seal
from v2x_services.patience import Patience, drop_connections

_ALL: Final = -1  # acks: of all replicas in sync
_WRAP: Final = 1 << 31
_NEVER_MS: Final = 60_000  # time-out of transactions, of which there are none
_PRODUCE: Final = 0
_VERSION: Final = 7  # brokers from 2.1 on
_FRAME: Final = struct.Struct(">ihhih")  # length, api key, version, number, length of the client's name
_LENGTH: Final = struct.Struct(">i")
_NUMBER_AT: Final = 8
_CONNECT_S: Final = 3.0
_METADATA_MS: Final = 5_000
_SILENT_S: Final = 2.0
_LATE_S: Final = 0.5  # a timer that is later than this: we stood still, and an answer may wait unread
_GRACE_S: Final = 5.0  # the broker's own time-out comes first
_HEAD: Final = struct.Struct(">hhii")  # no transactional id, acks, time-out, number of topics
_PARTITION: Final = struct.Struct(">ii")  # number, bytes of its batch
_ANSWER: Final = struct.Struct(">ihqqq")  # partition, error, base offset, append time, log start
_ANSWER_BYTES: Final = _ANSWER.size
_DUPLICATE: Final = 46  # the broker has this batch already
_ROOM: Final = bytes(HEAD)


@dataclass(slots=True)
class Batch:
    """A batch under way: it is sent again as it is."""

    topic: str
    partition: int
    parts: list[bytes | memoryview]
    size: int  # bytes of the parts
    records: int
    producer: tuple[int, int]  # id and epoch
    first: int  # sequence number of the first record


Outcome = Callable[[list[KafkaError | None]], None]
Answered = Callable[[dict[tuple[str, int], int] | int | KafkaError], None]
"""Called with the error codes of batches, or with their number if all are written."""


class Producer:
    """Sends batches to the brokers that lead their partitions."""

    def __init__(self, bootstrap: str, client_id: str, request_timeout_ms: int) -> None:
        self._client: Any = AIOKafkaClient(
            bootstrap_servers=bootstrap,
            client_id=client_id,
            request_timeout_ms=min(request_timeout_ms, _METADATA_MS),
            retry_backoff_ms=50,
        )
        self._timeout_ms = request_timeout_ms
        self._id = (-1, -1)
        self._next: dict[tuple[str, int], int] = {}
        self._name = client_id.encode()
        self._links: dict[int, _Link] = {}
        self._patience: dict[int, Patience] = {}
        self._leaders: dict[tuple[str, int], int] = {}

    async def start(self) -> None:
        """Connect and become a producer; KafkaError where that fails."""
        await self._client.bootstrap()
        await self.renew()

    async def stop(self) -> None:
        """Close all connections."""
        for link in self._links.values():
            link.close()
        await self._client.close()

    async def renew(self) -> None:
        """Take a new producer id; all sequence numbers begin anew."""
        node = self._client.get_random_node()
        answer = await self._client.send(node, InitProducerIdRequest(None, _NEVER_MS))
        error = for_code(answer.error_code)
        if answer.error_code:
            raise error()
        self._id = (answer.producer_id, answer.producer_epoch)
        self._next.clear()

    async def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has; UnknownTopicOrPartitionError if there is none."""
        await self._client.add_topic(topic)
        found = self._client.cluster.partitions_for_topic(topic)
        if not found:
            raise UnknownTopicOrPartitionError(topic)
        return len(found)

    def leader(self, topic: str, partition: int) -> int | None:
        """Return the broker that leads a partition, None if that is not known."""
        node: int | None = self._leaders.get((topic, partition))
        if node is None:
            node = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
            if node is None or node == -1:
                return None
            self._leaders[topic, partition] = node
        return node

    async def refresh(self) -> None:
        """Ask again who leads what."""
        await self._client.force_metadata_update()
        self._leaders.clear()  # not before: what is sent meanwhile would bring back what we know

    def batch(self, topic: str, partition: int, parts: list[bytes | memoryview], records: int) -> Batch:
        """Return a batch with the next sequence numbers of its partition."""
        place = (topic, partition)
        first = self._next.get(place, 0)
        self._next[place] = (first + records) % _WRAP
        return Batch(topic, partition, parts, sum(map(len, parts)), records, self._id, first)

    def give_back(self, batch: Batch) -> None:
        """Use a batch's sequence numbers again: the broker has refused it."""
        self._next[batch.topic, batch.partition] = batch.first

    def ready(self, node: int) -> bool:
        """Say whether there is a connection to a broker that can be trusted; else ``connect``."""
        link = self._links.get(node)
        return link is not None and link.transport is not None and not link.silent()

    async def connect(self, node: int) -> None:
        """Connect to a broker; KafkaError where that fails."""
        broker = self._client.cluster.broker_metadata(node)
        if broker is None:
            raise NodeNotReadyError(f"broker {node} is not in the metadata")
        if (old := self._links.get(node)) is not None:
            old.close()
        patience = self._patience.setdefault(node, Patience(self._timeout_ms / 1000 + _GRACE_S))
        link = _Link(patience)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().create_connection(lambda: link, broker.host, broker.port)
        except (OSError, TimeoutError) as e:
            raise KafkaConnectionError(f"cannot connect to broker {node} at {broker.host}:{broker.port}: {e}") from e
        self._links[node] = link

    def send(self, node: int, batches: Sequence[Batch], done: Outcome) -> None:
        """Send batches in one request to a broker that is ``ready``; ``done`` hears of each, from the event loop."""

        def answered(codes: dict[tuple[str, int], int] | int | KafkaError) -> None:
            if isinstance(codes, KafkaError):
                drop_connections(self._client, node)  # else the way to the new one begins with a wait for the old one
                done([codes] * len(batches))
                return
            if codes == len(batches):
                done([None] * len(batches))
                return
            codes = {} if isinstance(codes, int) else codes
            out: list[KafkaError | None] = []
            for batch in batches:
                code = codes.get((batch.topic, batch.partition))
                if code is None:
                    out.append(KafkaError(f"the broker says nothing of {batch.topic}-{batch.partition}"))
                else:
                    out.append(None if code in {0, _DUPLICATE} else for_code(code)())
            done(out)

        self._links[node].send(self._request(batches), answered)

    def _request(self, batches: Sequence[Batch]) -> bytearray:
        topics: dict[str, list[Batch]] = {}
        for batch in batches:
            topics.setdefault(batch.topic, []).append(batch)
        head = _FRAME.pack(0, _PRODUCE, _VERSION, 0, len(self._name)) + self._name
        parts: list[bytes | memoryview] = [head + _HEAD.pack(-1, _ALL, self._timeout_ms, len(topics))]
        at = len(parts[0])
        heads: list[tuple[int, ...]] = []
        for topic, some in topics.items():
            name = topic.encode()
            parts.append(len(name).to_bytes(2, "big") + name + len(some).to_bytes(4, "big"))
            at += len(parts[-1])
            for batch in some:
                parts.append(_PARTITION.pack(batch.partition, HEAD + batch.size) + _ROOM)
                parts += batch.parts
                heads.append((at + _PARTITION.size, batch.size, batch.records, *batch.producer, batch.first))
                at += _PARTITION.size + HEAD + batch.size
        out = bytearray().join(parts)
        seal(out, heads, time.time_ns() // 1_000_000)  # the topics' LogAppendTime overwrites the stamp
        return out


class _Link(asyncio.Protocol):
    """A connection for produce requests. They are answered in order (Kafka's protocol guide, network)."""

    def __init__(self, patience: Patience) -> None:
        self.transport: asyncio.Transport | None = None
        self._patience = patience
        self._waiting: deque[tuple[int, Answered, float]] = deque()  # number, whom to tell, when it was sent
        self._timer: asyncio.TimerHandle | None = None  # one for all: at the time-out of a request that waited once
        self._number = 0
        self._data = b""
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()

    def silent(self) -> bool:
        """Say whether it has carried nothing for so long that the other end may have gone."""
        return not self._waiting and self._loop.time() - self._heard > _SILENT_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self.transport = cast("asyncio.Transport", transport)

    def send(self, frame: bytearray, answered: Answered) -> None:
        """Send a request, whose length and number are filled in here."""
        assert self.transport is not None
        self._number = (self._number + 1) % _WRAP
        _LENGTH.pack_into(frame, 0, len(frame) - _LENGTH.size)
        _LENGTH.pack_into(frame, _NUMBER_AT, self._number)
        self._waiting.append((self._number, answered, self._loop.time()))
        if self._timer is None:
            self._look_in(self._patience.seconds)
        self.transport.write(frame)

    def data_received(self, data: bytes) -> None:
        """Take whole answers."""
        data = self._data + data if self._data else data
        at, now = 0, self._loop.time()
        self._heard = now
        while len(data) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(data, at)
            end = at + _LENGTH.size + size
            if end > len(data):
                break
            if not self._waiting or _LENGTH.unpack_from(data, at + _LENGTH.size)[0] != self._waiting[0][0]:
                self._over(CorrelationIdError("the broker answers what was not asked"))
                return
            _, answered, sent = self._waiting.popleft()
            self._patience.answered(now - sent)
            begin = at + 2 * _LENGTH.size
            n = _written(np.frombuffer(data, np.uint8), begin, end)
            answered(n if n >= 0 else _codes(data, begin))
            at = end
        self._data = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits for an answer."""
        self._over(KafkaConnectionError(f"connection to the broker lost: {exc or 'it closed'}"))

    def _look_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look, self._loop.time() + seconds)

    def _look(self, due: float) -> None:
        """Give up the connection if a request waits for too long."""
        self._timer = None
        if self._waiting:
            now = self._loop.time()
            left = self._waiting[0][2] + self._patience.seconds - now
            if left > 0 or now - due > _LATE_S:
                self._look_in(left if left > 0 else _LATE_S / 2)
            else:
                self._patience.in_vain()
                self._over(RequestTimedOutError())

    def _over(self, error: KafkaError) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for _, answered, _ in waiting:
            answered(error)

    def close(self) -> None:
        """Close it; nobody is told."""
        self._waiting.clear()
        self._over(KafkaConnectionError())


@nb.njit(  # type: ignore[misc, unused-ignore]
    nb.int64(nb.types.Array(nb.uint8, 1, "C", readonly=True), nb.int64, nb.int64), nogil=True, cache=True
)
def _written(raw: npt.NDArray[np.uint8], at: int, end: int) -> int:
    """Return how many batches are written by what ``_codes`` reads; -1 if there is more to say, or it is cut."""
    n, topics = 0, 0
    if at + 4 > end:
        return -1
    for k in range(4):
        topics = topics << 8 | raw[at + k]
    at += 4
    for _ in range(topics):
        if at + 2 > end:
            return -1
        at += 2 + (raw[at] << 8 | raw[at + 1])
        if at + 4 > end:
            return -1
        partitions = 0
        for k in range(4):
            partitions = partitions << 8 | raw[at + k]
        at += 4
        if at + partitions * _ANSWER_BYTES > end:
            return -1
        for _ in range(partitions):
            if raw[at + 4] or raw[at + 5]:
                return -1
            at += _ANSWER_BYTES
        n += partitions
    return n


def _codes(raw: bytes, at: int) -> dict[tuple[str, int], int]:
    """Return the error code of each partition in the body of a produce response, version 7."""
    codes: dict[tuple[str, int], int] = {}
    (topics,) = _LENGTH.unpack_from(raw, at)
    at += 4
    for _ in range(topics):
        size = int.from_bytes(raw[at : at + 2], "big")
        topic = raw[at + 2 : at + 2 + size].decode()
        (partitions,) = _LENGTH.unpack_from(raw, at + 2 + size)
        at += size + 6
        for _ in range(partitions):
            partition, code, *_ = _ANSWER.unpack_from(raw, at)
            codes[topic, partition] = code
            at += _ANSWER.size
    return codes


async def close(producer: Producer) -> None:
    """Stop a producer, however broken its connections are."""
    try:
        async with asyncio.timeout(2.0):
            await producer.stop()
    except Exception:  # noqa: BLE001, S110 - it is thrown away
        pass
