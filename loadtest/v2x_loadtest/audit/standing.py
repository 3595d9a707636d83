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
from aiokafka import TopicPartition
from v2x.columns import I64, Records
from v2x.errors import V2XError
from v2x.standing import AGAIN, FRESH, LOST, UNPLACED, Standing
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, UPLINKS, MessageClass, parse_uplink

from v2x_codecs.envelopes import EnvelopeReader
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.http import HealthServer
from v2x_services.metrics import Metrics
from v2x_services.running import until
from v2x_services.settings import Settings
from v2x_services.tap import LogTap

TOPICS: Final = (GANTRY, DEVICES, DEADLETTER, OBSERVATIONS)
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
        self._tap = LogTap(
            settings.kafka_bootstrap,
            "v2x-audit-log",
            TOPICS,
            skipped=self._skipped,
            failed=lambda: metrics.inc("v2x_audit_faults_total"),
        )
        self._records = {topic: metrics.value("v2x_audit_records_total", topic=topic) for topic in TOPICS}
        self._other = metrics.value("v2x_audit_other_total")
        metrics.before_scrape(self._refresh)

    async def run(self, stop: asyncio.Event) -> None:
        """Audit until ``stop``; raises what cannot be gone on from."""
        try:
            await until(stop, self._work())
        finally:
            self.why_not_ready = "stopping"
            await self._tap.stop()

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
            for tp, records in (await self._tap.read()).items():
                self.take(tp.topic, records)
            if loop.time() >= sweep:
                sweep, sweeps = loop.time() + self._settings.audit_sweep_s, sweeps + 1
                self._sweep(everything=sweeps % _PATIENCE == 0)

    async def _start(self) -> None:
        _, end = await self._tap.start(self._say)
        await self._tap.begin(end)
        gc.collect()
        gc.freeze()
        self.why_not_ready = ""
        log.info("auditing from the end of the log on", partitions=len(end))

    def _say(self, why_not_ready: str) -> None:
        self.why_not_ready = why_not_ready

    def _skipped(self, tp: TopicPartition, records: int) -> None:
        self._metrics.inc("v2x_audit_skipped_total", max(0, records), topic=tp.topic)

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
        for topic, n in self._tap.lag().items():
            m.set("v2x_audit_lag_records", n, topic=topic)


def _column(value: int) -> I64:
    return np.array([value], np.int64)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Audit until ``stop`` is set, with /metrics and health."""
    metrics = Metrics("audit")
    audit = StandingAudit(settings, metrics)
    port = settings.metrics_port("audit")
    async with HealthServer(metrics, lambda: audit.why_not_ready, settings.host, port) as server:
        server.tell(settings.state_dir)
        await audit.run(stop)
