"""A tap on the log: partitions of some topics, in columns, for a service that reads along and owns none of them.

It reads in few large fetches, since at 17,000 records a second small ones cost several times as much. A service that
only reads lives through whatever Kafka does: it waits for it at the start, and tries again afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from v2x.columns import Records

from v2x_services import topics
from v2x_services.fusion.fetch import LogFetcher

_POLL_S: Final = 0.2
_PACE_S: Final = 0.2
_PARTITION_BYTES: Final = 1 << 20
_AGAIN_S: Final = 1.0
Offsets = dict[TopicPartition, int]
log = structlog.get_logger("tap")


class LogTap:
    """Reads ``names``; ``skipped`` hears how many records of a partition retention took before they were read."""

    def __init__(
        self,
        bootstrap: str,
        client_id: str,
        names: Sequence[str],
        *,
        skipped: Callable[[TopicPartition, int], None],
        failed: Callable[[], None],
        pace_s: float = _PACE_S,
    ) -> None:
        """``failed`` is called when a fetch failed, which is tried again; ``pace_s``: between fetches."""
        self.next: Offsets = {}  # offset to be read next
        self.partitions: dict[str, list[TopicPartition]] = {}  # of each topic
        self._bootstrap, self._client_id, self._names = bootstrap, client_id, tuple(names)
        self._skipped, self._failed = skipped, failed
        self._poll_s = max(pace_s, _POLL_S)
        self._fetcher = LogFetcher(bootstrap, client_id, (pace_s, pace_s), _PARTITION_BYTES)
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self, say: Callable[[str], None]) -> tuple[Offsets, Offsets]:
        """Wait for Kafka, telling ``say`` for what; return where each partition begins and ends."""
        say("waiting for Kafka")
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="none"
        )
        while True:
            try:
                await self._consumer.start()
                await self._fetcher.start()
                break
            except (KafkaError, OSError) as e:
                say(f"waiting for Kafka: {type(e).__name__}")
                await asyncio.sleep(_AGAIN_S)
        for name in self._names:
            found = sorted(await topics.partitions_of(self._consumer, name))
            self.partitions[name] = [TopicPartition(name, p) for p in found]
        return await topics.bounds(self._consumer, [tp for of in self.partitions.values() for tp in of])

    async def begin(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read these partitions, and no others, from these offsets on; may be called again."""
        self.next = dict(offsets)
        await self._fetcher.begin(self.next)

    async def read(self) -> dict[TopicPartition, Records]:
        """Return what has come, after a while nothing."""
        try:
            fetched = await self._fetcher.getmany(self._poll_s)
        except OffsetOutOfRangeError as e:
            for tp in e.args[0]:
                begin = (await topics.bounds(self._consumer, [tp]))[0][tp]
                self._skipped(tp, begin - self.next[tp])
                self.next[tp] = begin
                self._fetcher.seek(tp, begin)
            return {}
        except KafkaError as e:
            self._failed()
            log.warning("fetching failed, trying again", error=repr(e))
            return {}
        for tp, records in fetched.items():
            self.next[tp] = int(records.offset[-1]) + 1
        return fetched

    async def ends(self, tps: Iterable[TopicPartition]) -> Offsets:
        """Return where partitions end now; KafkaError if nobody says."""
        return (await topics.bounds(self._consumer, list(tps)))[1]

    async def stretch(
        self, tps: Iterable[TopicPartition], since_ms: int
    ) -> AsyncIterator[tuple[TopicPartition, Records]]:
        """Read partitions from a stamp on to the end of this moment, apart from ``read``; KafkaError if that fails."""
        assert self._consumer is not None
        tps = list(tps)
        found = await self._consumer.offsets_for_times(dict.fromkeys(tps, since_ms))
        end = await self.ends(tps)
        following = {tp: at.offset for tp in tps if (at := found[tp]) is not None and at.offset < end[tp]}
        fetcher = LogFetcher(self._bootstrap, f"{self._client_id}-again")
        try:
            await fetcher.start()
            await fetcher.begin(following)
            while any(following[tp] < end[tp] for tp in following):
                for tp, records in (await fetcher.getmany(_POLL_S)).items():
                    following[tp] = int(records.offset[-1]) + 1
                    yield tp, records
        finally:
            await fetcher.stop()

    def lag(self) -> dict[str, int]:
        """Return by topic how many records have not been read, as far as Kafka has said."""
        out = dict.fromkeys(self._names, 0)
        for tp, following in self.next.items():
            out[tp.topic] += max(0, (self._fetcher.highwater(tp) or following) - following)
        return out

    async def stop(self) -> None:
        """Close what is open."""
        await self._fetcher.stop()
        if self._consumer is not None:
            await self._consumer.stop()
