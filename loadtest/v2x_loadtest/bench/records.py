"""What arrived in Kafka: end offsets while it runs, and every record with its stamp afterwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from v2x.errors import BrokerError

from v2x_codecs.envelopes import envelope_of
from v2x_codecs.framing import KAFKA_HEADER, MQTT_HEADER

_QUIET_S: Final = 20.0
_SEQ_BITS: Final = 24
Ends = dict[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class Arrived:
    """Columns over the benchmark's own records, in no order."""

    device: npt.NDArray[np.int64]  # index into the load's devices
    seq: npt.NDArray[np.int64]
    stamp_ms: npt.NDArray[np.int64]

    @property
    def key(self) -> npt.NDArray[np.int64]:
        """Return a number for each (device, seq)."""
        return self.device << _SEQ_BITS | self.seq


def identity(value: bytes, payload: str) -> tuple[str, int] | None:
    """Return device and seq of a record's value; None if it is none of ours. ``payload`` as in an adapter."""
    try:
        if payload == "influx":
            field = value.partition(b'value="')[2].partition(b'"')[0]
            value = base64.b64decode(field, validate=True)
    except ValueError:
        return None
    found = envelope_of(value, KAFKA_HEADER if payload == "kafka" else MQTT_HEADER)
    return None if found is None else (found[0], found[2])


class Topics:
    """A consumer of some topics on an event loop of its own: for a driver that is not asynchronous."""

    def __init__(self, bootstrap: str, topics: Sequence[str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._bootstrap, self._names = bootstrap, list(topics)
        self._tps: list[TopicPartition] = []
        self._consumer: Any = None

    def __enter__(self) -> Self:
        self._loop.run_until_complete(self._start())
        return self

    def __exit__(self, *_exc: object) -> None:
        with contextlib.suppress(KafkaError):
            self._loop.run_until_complete(self._consumer.stop())
        self._loop.close()

    def ends(self) -> Ends:
        """Return the end offsets now."""
        found: Ends = self._do(self._consumer.end_offsets(self._tps))
        return found

    def total(self) -> int:
        """Return how many records there are."""
        return sum(self.ends().values())

    def read(self, begin: Ends, devices: Mapping[str, int], payload: str) -> Arrived:
        """Return our records from ``begin`` to the end of this moment."""
        found: Arrived = self._do(self._read(begin, devices, payload))
        return found

    def _do(self, work: Any) -> Any:
        try:
            return self._loop.run_until_complete(work)
        except KafkaError as error:
            raise BrokerError(f"Kafka at {self._bootstrap} does not answer: {error!r}") from error

    async def _start(self) -> None:
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="none",
            check_crcs=False, max_partition_fetch_bytes=8 << 20, fetch_max_bytes=64 << 20,
        )  # fmt: skip
        await self._consumer.start()
        for name in self._names:
            found = self._consumer.partitions_for_topic(name) or set()
            if not found:
                await self._consumer._client.set_topics(self._names)  # noqa: SLF001 - there is no other way to ask
                found = self._consumer.partitions_for_topic(name) or set()
            if not found:
                raise BrokerError(f"Kafka has no topic {name}")
            self._tps += [TopicPartition(name, p) for p in sorted(found)]
        self._consumer.assign(self._tps)
        self._consumer.pause(*self._tps)
        for tp in self._tps:
            self._consumer.seek(tp, 0)

    async def _read(self, begin: Ends, devices: Mapping[str, int], payload: str) -> Arrived:
        end = await self._consumer.end_offsets(self._tps)
        todo = {tp for tp in self._tps if end[tp] > begin.get(tp, 0)}
        for tp in todo:
            self._consumer.seek(tp, begin.get(tp, 0))
        self._consumer.resume(*todo)
        rows: list[tuple[int, int, int]] = []
        heard = self._loop.time()
        while todo:
            batch = await self._consumer.getmany(*todo, timeout_ms=500, max_records=20_000)
            for records in batch.values():
                for record in records:
                    found = identity(record.value or b"", payload)
                    if found is not None and found[0] in devices:
                        rows.append((devices[found[0]], found[1], record.timestamp))
            for tp in list(todo):  # a transaction ends in a record that is not handed out
                if await self._consumer.position(tp) >= end[tp]:
                    todo.discard(tp)
                    self._consumer.pause(tp)
            if batch:
                heard = self._loop.time()
            elif self._loop.time() - heard > _QUIET_S:
                raise BrokerError(f"nothing came for {_QUIET_S:.0f} s although records are left in {self._names}")
        columns = np.array(rows, np.int64).reshape(-1, 3).T
        return Arrived(*(np.ascontiguousarray(c) for c in columns))
