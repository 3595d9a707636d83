"""The confirm service: what the log holds of reliable messages is told to their devices, about once a second.

::

    Kafka, all partitions of gantry, devices, deadletter, observations
      └► envelopes ─► Confirmations (v2x.confirm) ─► each second: a confirm for each stream that moved ─► MQTT, QoS 0
                            └► every 10 s, and at the stop: a file with streams and offsets

A start reads the file, or the log from its beginning, and tells nothing before it has seen all that was in the log when
it began: the records of one gantry are in several partitions, and what is not yet read would be called missing. Kafka
hands out a record only when it is durable by its word (below the high watermark).
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from aiokafka import TopicPartition
from v2x.confirm import Confirmations, Report
from v2x.topics import UPLINKS, downlink_topic

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services import topics
from v2x_services.confirm import saved
from v2x_services.confirm.downlink import Downlink
from v2x_services.confirm.intake import TOPICS, Intake
from v2x_services.metrics import Metrics
from v2x_services.running import until
from v2x_services.settings import Settings
from v2x_services.tap import LogTap

_SAVE_S: Final = 10.0
_LEAVE_S: Final = 600.0
log = structlog.get_logger("confirm")


class Confirm:
    """One process confirms all partitions; a second one beside it would only say the same."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.why_not_ready = "starting"
        self._settings, self._metrics = settings, metrics
        self._registry = Registry.load()
        self._codec = ReferenceCodec(self._registry)
        self._streams = Confirmations()
        self._intake = Intake(self._registry, self._streams, metrics)
        self._file = settings.state_dir / "confirm" / "streams.json"
        self._generations: dict[str, dict[int, str]] = {}
        self._behind: dict[TopicPartition, int] = {}  # partitions still to be read to here before anything is told
        self._tap = LogTap(
            settings.kafka_bootstrap,
            "v2x-confirm-log",
            TOPICS,
            skipped=self._skipped,
            failed=lambda: metrics.inc("v2x_confirm_faults_total"),
        )
        s = settings
        self._downlink = Downlink(s.mqtt_host, s.mqtt_port, "v2x-confirm", s.mqtt_username, s.mqtt_password)
        self._sent, self._unsent = metrics.value("v2x_confirm_sent_total"), metrics.value("v2x_confirm_unsent_total")
        metrics.before_scrape(self._refresh)

    async def run(self, stop: asyncio.Event) -> None:
        """Confirm until ``stop``; raises what cannot be gone on from."""
        try:
            await until(stop, self._work())
        finally:
            clean = not self.why_not_ready
            self.why_not_ready = "stopping"
            await self._downlink.stop()
            await self._tap.stop()
            if clean:
                saved.save(self._file, self._state())
                log.info("stopped cleanly", devices=len(self._streams))

    def not_ready(self) -> str:
        """Say why this process is not ready, or nothing."""
        return self.why_not_ready or (self._downlink.last_error or "")

    async def _work(self) -> None:
        await self._start()
        self._downlink.start()
        loop = asyncio.get_running_loop()
        tell = keep = loop.time()
        leave = tell + _LEAVE_S
        while True:
            await self._read()
            now = loop.time()
            if self._behind:
                continue
            if now >= tell:
                tell = max(tell + self._settings.confirm_s, now)
                self._tell()
            if now >= keep:
                keep = now + _SAVE_S
                await asyncio.to_thread(saved.save, self._file, self._state())
                self._metrics.inc("v2x_confirm_snapshots_total")
            if now >= leave:
                leave = now + _LEAVE_S
                self._streams.leave_idle()

    async def _start(self) -> None:
        begin, end = await self._tap.start(self._say)
        self._generations = await topics.generations(self._settings.kafka_bootstrap, topics.GENESIS_TOPICS)
        known = self._offsets(begin, end)
        following = {tp: known.get(tp, first) for tp, first in begin.items()}
        self._behind = {tp: end[tp] for tp, offset in following.items() if end[tp] > offset}
        self.why_not_ready = "" if not self._behind else "reading the log to its end"
        log.info("reading", records=sum(end[tp] - n for tp, n in following.items()), devices=len(self._streams))
        await self._tap.begin(following)

    def _say(self, why_not_ready: str) -> None:
        self.why_not_ready = why_not_ready

    def _offsets(self, begin: dict[TopicPartition, int], end: dict[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Take over the saved streams, and return where to go on; nothing, if they are of another world."""
        found = saved.load(self._file)
        if found is None:
            return {}
        offsets = {
            TopicPartition(topic, int(p)): offset for topic, of in found.offsets.items() for p, offset in of.items()
        }
        was = {(t, int(p)): g for t, of in found.generations.items() for p, g in of.items() if len(g) > 1}
        now = {(t, p): g for t, of in self._generations.items() for p, g in of.items() if len(g) > 1}
        if any(now.get(place, g) != g for place, g in was.items()) or any(
            offset > end.get(tp, 0) for tp, offset in offsets.items()
        ):
            log.warning("the saved state is of another world: reading the log from its beginning")
            return {}
        self._streams.load(found.streams)
        for tp, offset in offsets.items():
            self._skipped(tp, begin[tp] - offset)
        return {tp: max(offset, begin[tp]) for tp, offset in offsets.items()}

    def _skipped(self, tp: TopicPartition, records: int) -> None:
        if records > 0:
            self._metrics.inc("v2x_confirm_skipped_total", records, topic=tp.topic)
            log.error("retention took records before they were read", partition=f"{tp.topic}-{tp.partition}", n=records)

    async def _read(self) -> None:
        for tp, records in (await self._tap.read()).items():
            self._intake.take(tp.topic, records)
        if self._behind:
            self._behind = {tp: end for tp, end in self._behind.items() if self._tap.next[tp] < end}
            if not self._behind:
                self.why_not_ready = ""
                log.info("at the end of the log", devices=len(self._streams))

    def _tell(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        for report in self._streams.due():
            if self._downlink.publish(*confirm_message(self._codec, report, now_ms)):
                self._sent.value += 1
            else:
                self._unsent.value += 1

    def _state(self) -> saved.Saved:
        offsets: dict[str, dict[str, int]] = {}
        for tp, offset in self._tap.next.items():
            offsets.setdefault(tp.topic, {})[str(tp.partition)] = offset
        generations = {t: {str(p): g for p, g in of.items()} for t, of in self._generations.items()}
        return saved.Saved(generations, offsets, self._streams.dump())

    def _refresh(self) -> None:
        m, streams = self._metrics, self._streams
        m.set("v2x_confirm_devices", len(streams))
        m.set("v2x_confirm_missing", streams.missing())
        m.set("v2x_confirm_given_up_total", streams.given_up)
        m.set("v2x_confirm_forgotten_total", streams.forgotten)
        m.set("v2x_confirm_connected", int(self._downlink.connected))
        for topic, n in self._tap.lag().items():
            m.set("v2x_confirm_lag_records", n, topic=topic)


def confirm_message(codec: ReferenceCodec, report: Report, now_ms: int) -> tuple[str, bytes]:
    """Return topic and payload of a confirm."""
    row = UPLINKS[report.code]
    record = {
        "device": report.device,
        "ts_ms": now_ms,
        "type": row.type,
        "boot": report.boot,
        "upto": report.upto,
        "gaps": report.gaps,
        "refused": report.refused,
        "floor": report.floor,
    }
    return downlink_topic(row.kind, report.device, "confirm"), codec.encode_mqtt("confirm", record)
