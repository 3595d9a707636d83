"""The standing audit: reads all uplinks as they are written, and counts what never comes. `v2x audit --standing`.

It reads every record of every partition, but only its envelope: less than a tenth of the CPU that ingest takes, most of
it for the fetching. It begins at the end of the log, and anew after a restart.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Final

import numpy as np
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from v2x.columns import I64, Records
from v2x.errors import V2XError
from v2x.standing import AGAIN, FRESH, LOST, UNPLACED, Standing
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, UPLINKS, MessageClass, parse_uplink

from v2x_codecs.envelopes import EnvelopeReader
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services import topics
from v2x_services.fusion.fetch import LogFetcher
from v2x_services.http import HealthServer
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

TOPICS: Final = (GANTRY, DEVICES, DEADLETTER, OBSERVATIONS)
_POLL_S: Final = 0.2
_PACE_S: Final = (0.2, 0.2)  # few large fetches: at 17,000 records a second small ones cost several times as much
_AGAIN_S: Final = 1.0
_PATIENCE: Final = 10  # sweeps of perishable types to one of reliable types, which devices send again for minutes
_SHOWN: Final = 5
_COUNTS: Final = {FRESH: "seen", AGAIN: "again", LOST: "lost", UNPLACED: "unplaced"}
log = structlog.get_logger("audit")


class StandingAudit:
    """One process audits all partitions."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.why_not_ready = "starting"
        self._settings, self._metrics = settings, metrics
        registry = Registry.load()
        self._letters = ReferenceCodec(registry, strict=False)
        self._reader = EnvelopeReader(registry)
        self._types = {name: k for k, name in enumerate(self._reader.schemas)}
        self.standing = Standing(len(self._types))
        reliable = {row.schema for row in UPLINKS if row.message_class is MessageClass.RELIABLE}
        self._perishable = np.array([name not in reliable for name in self._reader.schemas])
        self._next: dict[TopicPartition, int] = {}
        self._fetcher = LogFetcher(settings.kafka_bootstrap, "v2x-audit-log", _PACE_S)
        self._consumer: AIOKafkaConsumer | None = None
        self._records = {topic: metrics.value("v2x_audit_records_total", topic=topic) for topic in TOPICS}
        self._other = metrics.value("v2x_audit_other_total")
        metrics.before_scrape(self._refresh)

    async def run(self, stop: asyncio.Event) -> None:
        """Audit until ``stop``; raises what cannot be gone on from."""
        tasks = [asyncio.create_task(self._work()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            self.why_not_ready = "stopping"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._fetcher.stop()
            if self._consumer is not None:
                await self._consumer.stop()

    def take(self, topic: str, records: Records) -> None:
        """Take records of one partition, in order."""
        self._records[topic].value += len(records)
        if topic == DEADLETTER:
            for i in range(len(records)):
                self._take_letter(records[i].value)
            return
        found = self._reader.read(records.values, records.size)
        self._other.value += found.others + found.broken
        if len(found.index):
            self.standing.take(records.values, found.schema, found.device_at, found.device_size, found.boot, found.seq)

    def _take_letter(self, value: bytes) -> None:
        """Take a dead letter: its number has come, whatever was wrong with it."""
        try:
            _, letter = self._letters.decode_kafka(value)
            kind = self._types[parse_uplink(letter["topic"]).row.schema]
        except (V2XError, KeyError):
            self._other.value += 1
            return
        if letter["boot"] < 0 or letter["seq"] < 0:
            self._other.value += 1
            return
        device = letter["device"].encode()
        self.standing.take(device, *(_column(n) for n in (kind, 0, len(device), letter["boot"], letter["seq"])))

    async def _work(self) -> None:
        await self._start()
        loop = asyncio.get_running_loop()
        sweep, sweeps = loop.time() + self._settings.audit_sweep_s, 0
        while True:
            await self._read()
            if loop.time() >= sweep:
                sweep, sweeps = loop.time() + self._settings.audit_sweep_s, sweeps + 1
                self._sweep(everything=sweeps % _PATIENCE == 0)

    async def _start(self) -> None:
        self.why_not_ready = "waiting for Kafka"
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap, enable_auto_commit=False, auto_offset_reset="none"
        )
        while True:
            try:
                await self._consumer.start()
                await self._fetcher.start()
                break
            except (KafkaError, OSError) as e:
                self.why_not_ready = f"waiting for Kafka: {type(e).__name__}"
                await asyncio.sleep(_AGAIN_S)
        tps = [TopicPartition(t, p) for t in TOPICS for p in sorted(await topics.partitions_of(self._consumer, t))]
        _, end = await topics.bounds(self._consumer, tps)
        self._next = dict(end)
        await self._fetcher.begin(self._next)
        gc.collect()
        gc.freeze()
        self.why_not_ready = ""
        log.info("auditing from the end of the log on", partitions=len(tps))

    async def _read(self) -> None:
        try:
            fetched = await self._fetcher.getmany(_POLL_S)
        except OffsetOutOfRangeError as e:
            for tp in e.args[0]:
                begin = (await topics.bounds(self._consumer, [tp]))[0][tp]
                self._metrics.inc("v2x_audit_skipped_total", max(0, begin - self._next[tp]), topic=tp.topic)
                self._next[tp] = begin
                self._fetcher.seek(tp, begin)
            return
        except KafkaError as e:
            self._metrics.inc("v2x_audit_faults_total")
            log.warning("fetching failed, trying again", error=repr(e))
            return
        for tp, records in fetched.items():
            self.take(tp.topic, records)
            self._next[tp] = int(records.offset[-1]) + 1

    def _sweep(self, *, everything: bool) -> None:
        before = int(self.standing.counts[:, LOST].sum())
        losses = self.standing.sweep(np.ones_like(self._perishable) if everything else self._perishable)
        lost = int(self.standing.counts[:, LOST].sum()) - before
        if lost:
            named = [f"{x.device} {self._reader.schemas[x.type]} {x.seq} (boot {x.boot})" for x in losses[:_SHOWN]]
            log.error("messages are lost", lost=lost, first=named)

    def _refresh(self) -> None:
        m, standing = self._metrics, self.standing
        for name, k in self._types.items():
            for which, what in _COUNTS.items():
                m.set(f"v2x_audit_{what}_total", float(standing.counts[k, which]), type=name)
        m.set("v2x_audit_missing", standing.missing())
        m.set("v2x_audit_streams", len(standing))
        m.set("v2x_audit_forgotten_total", standing.forgotten)
        lag = dict.fromkeys(TOPICS, 0)
        for tp, following in self._next.items():
            lag[tp.topic] += max(0, (self._fetcher.highwater(tp) or following) - following)
        for topic, n in lag.items():
            m.set("v2x_audit_lag_records", n, topic=topic)


def _column(value: int) -> I64:
    return np.array([value], np.int64)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Audit until ``stop`` is set, with /metrics and health."""
    metrics = Metrics("audit")
    audit = StandingAudit(settings, metrics)
    server = HealthServer(metrics, lambda: audit.why_not_ready, settings.host, settings.metrics_port("audit"))
    await server.start()
    try:
        server.tell(settings.state_dir)
        await audit.run(stop)
    finally:
        await server.stop()
