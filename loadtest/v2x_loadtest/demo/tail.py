"""Events as they appear, read from Kafka like any reader would: the first of each (event id, revision) counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from v2x.topics import EVENTS

from v2x_codecs.framing import unframe_kafka
from v2x_codecs.reference import read
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.log import topic_partitions

_RETRY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Seen:
    """A revision of an event, and when it was in Kafka."""

    value: dict[str, Any]
    stamp_ms: int

    @property
    def after_s(self) -> float:
        """Seconds from the event time at which its rule was fulfilled to being told."""
        return (self.stamp_ms - int(self.value["detected_ms"])) / 1000

    @property
    def dwell_s(self) -> float:
        """Seconds that it had lasted when it was found."""
        return (int(self.value["detected_ms"]) - int(self.value["start_ms"])) / 1000

    def hops(self) -> list[tuple[str, float]]:
        """Return (hop, ms) of the message that made it; empty where a tick did."""
        value = self.value
        if not value["trigger_rx_us"]:
            return []
        rx = value["trigger_rx_us"] / 1000
        return [
            ("road→ingest", rx - value["trigger_ts_ms"]),
            ("→Kafka", max(value["trigger_stamp_ms"] - rx, 0.0)),  # stamps are whole milliseconds
            ("→event", self.stamp_ms - value["trigger_stamp_ms"]),
        ]


@dataclass(slots=True)
class EventTail:
    """Follows the event topic from its start, over Kafka restarts, until cancelled."""

    bootstrap: str
    show: Callable[[Seen], None]
    events: dict[str, Seen] = field(default_factory=dict)  # latest revision by id
    copies: int = 0
    _known: set[tuple[str, int]] = field(default_factory=set)

    async def run(self) -> None:
        """Read until cancelled; whatever happens to Kafka, go on from where we were."""
        registry = Registry.load()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        try:
            partitions = (await topic_partitions(self.bootstrap, (EVENTS,)))[EVENTS]
            await consumer.start()
            consumer.assign([TopicPartition(EVENTS, number) for number in partitions])
            while True:
                try:
                    batches = await consumer.getmany(timeout_ms=500)
                except KafkaError:
                    await asyncio.sleep(_RETRY_S)
                    continue
                for records in batches.values():
                    for record in records:
                        self.take(Seen(read(registry, *unframe_kafka(registry, record.value)), record.timestamp))
        finally:
            with contextlib.suppress(Exception):
                await consumer.stop()

    def take(self, seen: Seen) -> None:
        """Apply the reader's rule to one record."""
        name = (seen.value["event_id"], seen.value["revision"])
        if name in self._known:
            self.copies += 1
            return
        self._known.add(name)
        newest = self.events.get(name[0])
        if newest is None or newest.value["revision"] < name[1]:  # partitions may be read out of turn
            self.events[name[0]] = seen
        self.show(seen)
