"""An idempotent Kafka producer for batches that are written already, on aiokafka's client.

aiokafka's own producer collects records one by one and costs more for a request than all that ingest does with the
messages in it. This one takes record batches (``v2x_services.batches``), gives them sequence numbers and sends one
request a broker; connections, metadata and error codes are the client's. What holds (KIP-98, Kafka's protocol guide):

* A partition's batches carry consecutive sequence numbers of one producer id. The caller has one batch a partition
  under way, so a batch that is sent again, with the numbers it had, is never overtaken; the broker drops repeats.
* A batch that the broker has refused has not used its numbers: ``give_back``.
* After any other fault the numbers are in doubt: ``renew`` takes a new producer id.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.api import Request
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import TopicPartition

from v2x_services.batches import Numbers, write_batch

_ALL: Final = -1  # acks: of all replicas in sync
_WRAP: Final = 1 << 31
_NEVER_MS: Final = 60_000  # time-out of transactions, of which there are none
_HEAD: Final = struct.Struct(">hhii")  # no transactional id, acks, time-out, number of topics
_PARTITION: Final = struct.Struct(">ii")  # number, bytes of its batch
_ANSWER: Final = struct.Struct(">ihqqq")  # partition, error, base offset, append time, log start
_DUPLICATE: Final = 46  # the broker has this batch already


@dataclass(slots=True, frozen=True)
class Batch:
    """A batch under way: it is sent again as it is."""

    topic: str
    partition: int
    parts: tuple[bytes | memoryview, ...]
    records: int
    numbers: Numbers


class Producer:
    """Sends batches to the brokers that lead their partitions."""

    def __init__(self, bootstrap: str, client_id: str, request_timeout_ms: int) -> None:
        self._client: Any = AIOKafkaClient(
            bootstrap_servers=bootstrap, client_id=client_id, request_timeout_ms=request_timeout_ms, retry_backoff_ms=50
        )
        self._timeout_ms = request_timeout_ms
        self._id = (-1, -1)
        self._next: dict[tuple[str, int], int] = {}

    async def start(self) -> None:
        """Connect and become a producer; KafkaError where that fails."""
        await self._client.bootstrap()
        await self.renew()

    async def stop(self) -> None:
        """Close all connections."""
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
        node: int | None = self._client.cluster.leader_for_partition(TopicPartition(topic, partition))
        return None if node == -1 else node

    async def refresh(self) -> None:
        """Ask again who leads what."""
        await self._client.force_metadata_update()

    def batch(self, topic: str, partition: int, parts: Sequence[bytes | memoryview], records: int) -> Batch:
        """Return a batch with the next sequence numbers of its partition."""
        first = self._next.get((topic, partition), 0)
        self._next[topic, partition] = (first + records) % _WRAP
        return Batch(topic, partition, tuple(parts), records, Numbers(*self._id, first))

    def give_back(self, batch: Batch) -> None:
        """Use a batch's sequence numbers again: the broker has refused it."""
        self._next[batch.topic, batch.partition] = batch.numbers.first

    async def send(self, node: int, batches: Sequence[Batch]) -> list[KafkaError | None]:
        """Send batches in one request, and return what became of each; KafkaError if the request failed as a whole."""
        answers = (await self._client.send(node, _Produce(self._request(batches)))).codes
        out: list[KafkaError | None] = []
        for batch in batches:
            code = answers.get((batch.topic, batch.partition))
            if code is None:
                raise KafkaError(f"the broker says nothing of {batch.topic}-{batch.partition}")
            out.append(None if code in {0, _DUPLICATE} else for_code(code)())
        return out

    def _request(self, batches: Sequence[Batch]) -> bytearray:
        topics: dict[str, list[Batch]] = {}
        for batch in batches:
            topics.setdefault(batch.topic, []).append(batch)
        out = bytearray(_HEAD.pack(-1, _ALL, self._timeout_ms, len(topics)))
        now_ms = time.time_ns() // 1_000_000  # the topics' LogAppendTime overwrites it
        for topic, some in topics.items():
            name = topic.encode()
            out += len(name).to_bytes(2, "big") + name + len(some).to_bytes(4, "big")
            for batch in some:
                at = len(out)
                out += bytes(_PARTITION.size)
                write_batch(out, batch.parts, batch.records, batch.numbers, now_ms)
                _PARTITION.pack_into(out, at, batch.partition, len(out) - at - _PARTITION.size)
        return out


class _Answers(ProduceResponse_v7):
    """A produce response, read without an object for each field."""

    def __init__(self, codes: dict[tuple[str, int], int]) -> None:
        self.codes = codes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.codes})"

    @classmethod
    def decode(cls, data: BytesIO | bytes) -> _Answers:
        raw = data if isinstance(data, bytes) else data.read()
        codes: dict[tuple[str, int], int] = {}
        (topics,) = struct.unpack_from(">i", raw)
        at = 4
        for _ in range(topics):
            size = int.from_bytes(raw[at : at + 2], "big")
            topic = raw[at + 2 : at + 2 + size].decode()
            (partitions,) = struct.unpack_from(">i", raw, at + 2 + size)
            at += size + 6
            for _ in range(partitions):
                partition, code, *_ = _ANSWER.unpack_from(raw, at)
                codes[topic, partition] = code
                at += _ANSWER.size
        return cls(codes)


class _ProduceStruct(ProduceRequest_v7):
    """A produce request that is bytes already."""

    RESPONSE_TYPE = _Answers

    def __init__(self, body: bytearray) -> None:
        self._body = body

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._body)} bytes)"

    def encode(self) -> bytes:
        return bytes(self._body)


class _Produce(Request[_ProduceStruct]):
    API_KEY = ProduceRequest_v7.API_KEY

    def __init__(self, body: bytearray) -> None:
        self._body = body

    def build(self, request_struct_class: type[_ProduceStruct]) -> _ProduceStruct:
        return request_struct_class(self._body)


async def close(producer: Producer) -> None:
    """Stop a producer, however broken its connections are."""
    try:
        async with asyncio.timeout(2.0):
            await producer.stop()
    except Exception:  # noqa: BLE001, S110 - it is thrown away
        pass
