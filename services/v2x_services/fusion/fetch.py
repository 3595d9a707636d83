"""LogFetcher: partitions of the log from given offsets, in columns.

aiokafka's consumer makes two objects of each record, and checks sums by tables: 2.3 us of CPU for a scan. Here its
client fetches, and v2x_codecs.recordbatch reads the batches; batches in another than the plain form (compressed, say)
go through the library's own reader.

One request is in flight for each broker, for all its partitions, and the next one leaves when everything that came has
been taken: so what is held is at most one fetch, and a partition that is slow to be fused holds nobody else's memory. A
request that follows one with records waits a moment, longer the longer those records took to be fused (``PACE_S``), so
that under load few large fetches do the work of many small ones; when the log is idle the broker answers with the first
record.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    for_code,
)
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from v2x.columns import Record, Records

from v2x_codecs.recordbatch import Stretch, read_batches
from v2x_services.patience import Patience, drop_connections

PARTITION_BYTES: Final = 256 << 10  # of one fetch; a broker sends a larger batch all the same, if it is the first
FETCH_BYTES: Final = 4 << 20
PACE_S: Final = (0.004, 0.012)  # shortest and longest time between two requests that bring something
_PACE_SHARE: Final = 1.2  # of the time that the last fetch took to be fused
WAIT_MS: Final = 500  # how long a broker waits for the first record
_RETRY_S: Final = 0.1
_REQUEST_MS: Final = 10_000


class LogFetcher:
    """Reads partitions; all methods belong to one event loop."""

    def __init__(
        self,
        bootstrap: str,
        client_id: str = "v2x-fusion-log",
        pace_s: tuple[float, float] = PACE_S,
        partition_bytes: int = PARTITION_BYTES,
    ) -> None:
        """``pace_s``: in place of ``PACE_S``, for readers in no hurry; behind the log they hurry all the same."""
        self._pace_s, self._partition_bytes = pace_s, partition_bytes
        self._client: Any = AIOKafkaClient(
            bootstrap_servers=bootstrap, client_id=client_id, request_timeout_ms=_REQUEST_MS, metadata_max_age_ms=60_000
        )
        self._next: dict[TopicPartition, int] = {}  # offset to fetch next
        self._high: dict[TopicPartition, int] = {}
        self._ready: dict[TopicPartition, Records] = {}
        self._error: Exception | None = None
        self._busy: dict[int, asyncio.Task[None]] = {}  # by broker
        self._patience: dict[int, Patience] = defaultdict(lambda: Patience(_REQUEST_MS / 1000))
        self._sent: dict[int, float] = {}  # when a broker was last asked, if it had something
        self._given = self._took = 0.0  # when records were last given out, and how long they took
        self._arrived, self._wake = asyncio.Event(), asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect; KafkaError if no broker answers."""
        await self._client.bootstrap()

    async def begin(self, positions: Mapping[TopicPartition, int]) -> None:
        """Fetch these partitions, and no others, from these offsets on; may be called again."""
        self._next = dict(positions)
        self._ready.clear()
        if positions:
            await self._client.set_topics({tp.topic for tp in positions})
        self._wake.set()
        if self._pump is None:
            self._pump = asyncio.create_task(self._run(), name="log-fetcher")

    async def stop(self) -> None:
        """Close everything."""
        tasks = [*self._busy.values(), *([self._pump] if self._pump else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on elsewhere."""
        self._next[tp] = offset
        self._ready.pop(tp, None)
        self._wake.set()

    def leave(self, tp: TopicPartition) -> None:
        """Fetch a partition no more."""
        self._next.pop(tp, None)
        self._ready.pop(tp, None)

    def position(self, tp: TopicPartition) -> int:
        """Return the offset from which on ``getmany`` will return a partition."""
        ready = self._ready.get(tp)
        return self._next[tp] if ready is None else int(ready.offset[0])

    def highwater(self, tp: TopicPartition) -> int | None:
        """Return the end of a partition as its broker last said."""
        return self._high.get(tp)

    async def getmany(self, timeout_s: float) -> dict[TopicPartition, Records]:
        """Return what has come, at most a fetch of each partition, waiting for something to come.

        KafkaError: a fetch failed (it is tried again); OffsetOutOfRangeError: a partition does not go back that far.
        """
        now = asyncio.get_running_loop().time()
        if self._given:
            self._took, self._given = now - self._given, 0.0
        if not self._ready and self._error is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
        self._arrived.clear()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        taken, self._ready = self._ready, {}
        if taken:
            self._given = asyncio.get_running_loop().time()
        self._wake.set()
        return taken

    # -- fetching

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            for node, wanted in self._wanted().items():
                self._busy[node] = asyncio.create_task(self._ask(node, wanted))
                self._busy[node].add_done_callback(partial(self._answered, node))
            await self._wake.wait()

    def _answered(self, node: int, _task: asyncio.Task[None]) -> None:
        del self._busy[node]
        self._wake.set()

    def _wanted(self) -> dict[int, list[TopicPartition]]:
        """Return what each idle broker is to be asked for."""
        wanted: dict[int, list[TopicPartition]] = defaultdict(list)
        held = set[int]()
        for tp in self._next:
            node = self._client.cluster.leader_for_partition(tp)
            node = -1 if node is None else node
            wanted[node].append(tp)
            if tp in self._ready:
                held.add(node)
        return {node: tps for node, tps in wanted.items() if node not in self._busy and node not in held}

    async def _ask(self, node: int, wanted: list[TopicPartition]) -> None:
        loop = asyncio.get_running_loop()
        shortest, longest = self._pace_s
        if any(self._high.get(tp, 0) > following for tp, following in self._next.items()):  # behind
            longest = min(longest, PACE_S[1])
        pace = min(max(shortest, _PACE_SHARE * self._took), longest)
        await asyncio.sleep(max(0.0, self._sent.pop(node, 0.0) + pace - loop.time()))
        asked = {tp: self._next[tp] for tp in wanted if tp in self._next}
        if not asked:
            return
        parts: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for tp, offset in asked.items():
            parts[tp.topic].append((tp.partition, offset, self._partition_bytes))
        sent, patience = loop.time(), self._patience[node]
        try:
            async with asyncio.timeout(patience.seconds):
                response = await self._client.send(node, FetchRequest(WAIT_MS, 1, FETCH_BYTES, 0, list(parts.items())))
        except TimeoutError:
            patience.in_vain()
            drop_connections(self._client, node)
            await self._failed(RequestTimedOutError(f"no answer to a fetch for {loop.time() - sent:.0f} s"))
            return
        except KafkaError as error:  # among them: nobody leads a partition (node -1)
            await self._failed(error)
            return
        patience.answered(loop.time() - sent)
        errors: list[KafkaError] = []
        for topic, found in response.topics:
            for partition, code, high, *rest in found:
                tp = TopicPartition(topic, partition)
                if self._next.get(tp) != asked[tp]:
                    continue  # it was sent elsewhere meanwhile, or is no longer ours
                try:
                    self._take(tp, code, high, rest[-1])
                except KafkaError as error:  # its neighbours are good
                    errors.append(error)
        if self._ready:
            self._sent[node] = sent
        if errors:
            await self._failed(errors[0])

    async def _failed(self, error: KafkaError) -> None:
        self._error = error
        self._arrived.set()
        self._client.force_metadata_update()
        await asyncio.sleep(_RETRY_S)

    def _take(self, tp: TopicPartition, code: int, high: int, blob: bytes | None) -> None:
        position = self._next[tp]
        if code:
            kind = for_code(code)
            raise kind({tp: position}) if kind is OffsetOutOfRangeError else kind(f"{tp.topic}-{tp.partition}")
        self._high[tp] = high
        if not blob:
            return
        found = read_batches(blob, position) or by_library(blob, position)
        if found.following == position:
            # Its batch is larger than what was left of the fetch: it comes whole to who is asked for first.
            self._next = {tp: position} | self._next
            return
        self._next[tp] = found.following
        if len(found.records):
            self._ready[tp] = found.records
            self._arrived.set()


def by_library(blob: bytes, first: int) -> Stretch:
    """Return the records of whole batches from offset ``first`` on; CorruptRecordException if one is damaged."""
    batches, found, following = MemoryRecords(blob), list[Record](), first
    while batches.has_next():
        batch: Any = batches.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"a batch at or behind offset {following} does not have its checksum")
        if not batch.is_control_batch:
            records = (Record(r.offset, r.timestamp, r.key, r.value or b"", tuple(r.headers)) for r in batch)
            found += [r for r in records if r.offset >= first]
        following = max(following, batch.next_offset)
    return Stretch(Records.of(found), following)
