"""A tap on the log: all partitions of some topics, in columns, for a service that reads along and owns none of them.

It reads in few large fetches, since at 17,000 records a second small ones cost several times as much. A service that
only reads lives through whatever Kafka does: it waits for it at the start, and tries again afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from v2x.columns import Records

from v2x_services import topics
from v2x_services.fusion.fetch import LogFetcher

_POLL_S: Final = 0.2
_PACE_S: Final = (0.2, 0.2)
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
    ) -> None:
        """``failed`` is called when a fetch failed, which is tried again."""
        self.next: Offsets = {}  # offset to be read next
        self._bootstrap, self._names = bootstrap, tuple(names)
        self._skipped, self._failed = skipped, failed
        self._fetcher = LogFetcher(bootstrap, client_id, _PACE_S)
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
        partitions = {name: await topics.partitions_of(self._consumer, name) for name in self._names}
        tps = [TopicPartition(name, p) for name, of in partitions.items() for p in sorted(of)]
        return await topics.bounds(self._consumer, tps)

    async def begin(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Read from ``offsets`` on."""
        self.next = dict(offsets)
        await self._fetcher.begin(self.next)

    async def read(self) -> dict[TopicPartition, Records]:
        """Return what has come, after a while nothing."""
        try:
            fetched = await self._fetcher.getmany(_POLL_S)
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
