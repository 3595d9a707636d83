"""The ingest service: two MQTT sessions, each with a Kafka producer of its own, and what they share.

A slow partition full of perishable messages must not hold up a gantry's transaction, so *reliable* and *perishable*
have a session, a ledger, a Receive Maximum and a producer each.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import structlog
from v2x.devices import DeviceTable
from v2x.errors import ConfigError
from v2x.quarantine import Quarantine, QuarantineLimits
from v2x.routing import Router
from v2x.shards import Shard, known_devices
from v2x.timerules import TimeLimits, TimeRules
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, SUMMARIES, MessageClass
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services import memory
from v2x_services.hold import BEAT_S, LOOK_S, HeldError, Hold, Pulse, TakenOverError
from v2x_services.http import HealthServer
from v2x_services.ingest.counts import SessionCounts
from v2x_services.ingest.mqtt import MqttConfig, MqttSource
from v2x_services.ingest.onboarding import Onboarding
from v2x_services.ingest.pipeline import TABLES, Pipeline, Shared
from v2x_services.ingest.privacy import Keys
from v2x_services.ingest.routes import Routes
from v2x_services.ingest.summaries import Summaries
from v2x_services.ingest.ticks import Silence, Ticker
from v2x_services.ingest.topics import SESSION_NAMES, TopicTable, session_filters
from v2x_services.kafka import KafkaSink
from v2x_services.metrics import Metrics
from v2x_services.ports import SystemClock
from v2x_services.running import until
from v2x_services.settings import Settings

log = structlog.get_logger("ingest")

WRITES: Final = (OBSERVATIONS, GANTRY, DEVICES, DEADLETTER, SUMMARIES)
_WATCH_S: Final = 5.0
SUMMARY_S: Final = 1.0
_BAD_SHARE: Final = 0.5  # of all messages in a watch interval: alert, and not ready
_BAD_LEAST: Final = 100  # fewer messages say nothing
_LOOK_S: Final = 0.05
_DRAIN_S: Final = 10.0
_LAST_S: Final = 2.0  # for the last summaries
_GRACE_MS: Final = 60_000  # beyond the outage budget


class Ingest:
    """One shard of ingest."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        shard: Shard | None = None,
        *,
        leaving: bool = False,
        standing_by: bool = False,
    ) -> None:
        """Read zone map and keys; ConfigError where they are wrong. ``leaving``: only empty and end the sessions.

        ``standing_by``: connect to MQTT only when no other process of this shard does that.
        """
        self.why_not_ready = "starting"
        self._standing_by = standing_by
        self._turn: Hold | None = None
        self._shard = shard or Shard()
        self._leaving = leaving
        self._onboarding: Onboarding | None = None
        self._settings = settings
        self._metrics = metrics
        self._clock = SystemClock()
        self._zones = ZoneMap.load(settings.zones_path)
        self._keys = Keys.load(settings.key_file, settings.state_dir)
        self._registry = Registry.load()
        self._devices = DeviceTable()
        self._times = TimeRules(
            self._devices.capacity,
            TimeLimits(
                ahead_ms=int(settings.ahead_s * 1000),
                perishable_ms=int(settings.outage_budget_s * 1000) + _GRACE_MS,
            ),
        )
        self._quarantine = Quarantine(
            self._devices.capacity,
            QuarantineLimits(bad_per_minute=settings.bad_per_minute, bytes_per_second=settings.bytes_per_second),
        )
        self._sinks: dict[MessageClass, KafkaSink] = {}
        self._sources: dict[MessageClass, MqttSource] = {}
        self._pipelines: list[Pipeline] = []
        self._ticker: Ticker | None = None
        self._alarm = ""
        self._seen = (0.0, 0.0)
        self._received: dict[str, float] = {}
        metrics.before_scrape(self._refresh)

    async def run(self, stop: asyncio.Event) -> None:
        """Take messages until ``stop``; raises what cannot be gone on from."""
        try:
            await until(stop, self._work())
        finally:
            self.why_not_ready = "stopping"
            await self._finish()

    def not_ready(self) -> str:
        """Say why this process is not ready, or nothing."""
        if self.why_not_ready:
            return self.why_not_ready
        for kind, source in self._sources.items():
            if not source.connected:
                return f"MQTT session {SESSION_NAMES[kind]}: {source.last_error or 'not connected yet'}"
        for kind, sink in self._sinks.items():
            if sink.last_error:
                return f"Kafka takes nothing from {SESSION_NAMES[kind]}: {sink.last_error}"
        return self._alarm

    async def _work(self) -> None:
        self.why_not_ready = "loading the decoder"
        decoder = await asyncio.to_thread(ColumnDecoder, self._registry, self._settings.max_payload, TABLES)
        await asyncio.to_thread(decoder.decode_mqtt, [b"\xc3\x01"])
        memory.settle()
        codec = ReferenceCodec(self._registry)
        self.why_not_ready = "waiting for Kafka"
        s = self._settings
        known = known_devices(self._zones)
        wanted = {kind: session_filters(self._shard, kind, known) for kind in SESSION_NAMES}
        for kind in [kind for kind, some in wanted.items() if some]:
            self._sinks[kind] = KafkaSink(
                s.kafka_bootstrap,
                WRITES,
                client_id=f"{s.ingest_id}-{SESSION_NAMES[kind]}",
                max_pending=s.pending_bytes,
            )
            await self._sinks[kind].connect()
        partitions = {topic: self._sinks[MessageClass.PERISHABLE].partitions(topic) for topic in WRITES}
        routes = Routes(Router(self._zones, partitions[OBSERVATIONS]))
        silence = Silence(partitions[OBSERVATIONS], self._clock)
        shared = Shared(
            registry=self._registry,
            decoder=decoder,
            codec=codec,
            routes=routes,
            topics=TopicTable(self._devices, routes, decoder.schemas, partitions),
            devices=self._devices,
            times=self._times,
            quarantine=self._quarantine,
            keys=self._keys,
            silence=silence,
            clock=self._clock,
            max_pending=s.pending_bytes,
            max_in_flight=2 * s.receive_maximum,
        )
        if self._standing_by:
            await self._wait_for_our_turn()
        self.why_not_ready = "waiting for the MQTT broker"
        for kind, sink in self._sinks.items():
            name = SESSION_NAMES[kind]
            source = self._sources[kind] = MqttSource(self._mqtt(kind, wanted[kind]), self._clock)
            if kind is MessageClass.PERISHABLE and not self._shard.alone:
                self._onboarding = Onboarding(self._shard, known, source, leaving=self._leaving)
                shared.topics.on_first = self._onboarding.first
            summaries = Summaries(self._session_name(kind), shared.topics, sink, codec, self._clock)
            pipeline = Pipeline(kind, shared, source, sink, SessionCounts(self._metrics, name), summaries)
            self._pipelines.append(pipeline)
            await pipeline.start()
        self._ticker = Ticker(s.ingest_id, self._sinks[MessageClass.PERISHABLE], silence, codec, self._clock, s.tick_ms)
        self.why_not_ready = ""
        if self._leaving:
            await self._leave()
            return
        log.info(
            "taking messages",
            shard=str(self._shard),
            mqtt=f"{s.mqtt_host}:{s.mqtt_port}",
            kafka=s.kafka_bootstrap,
            zones=self._zones.name,
        )
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(work) for work in (self._ticker.run(), self._sum_up(), self._watch())]
            if self._turn is not None:
                while self._turn.beat():  # noqa: ASYNC110 - a file tells nobody
                    await asyncio.sleep(BEAT_S)
                for task in working:
                    task.cancel()
        if self._turn is not None:
            raise TakenOverError(f"another process has taken over ingest's shard {self._shard} from us: stopping")

    async def _wait_for_our_turn(self) -> None:
        """Stand by, with all loaded and Kafka connected, until no other process has the shard's sessions."""
        s = self._settings
        path = s.state_dir / "ingest" / f"{s.ingest_id}-{self._shard.index}of{self._shard.count}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pulse, loop = Pulse(path), asyncio.get_running_loop()
            while self._turn is None:
                try:
                    self._turn = Hold(path, by_force=pulse.frozen(loop.time()))
                except HeldError:
                    if self.why_not_ready:
                        log.info("standing by", shard=str(self._shard))
                        self.why_not_ready = ""
                    await asyncio.sleep(LOOK_S)
        except OSError as e:
            raise ConfigError(f"cannot stand by: {path}: {e}; give another state_dir (V2X_STATE_DIR)") from e

    def _session_name(self, kind: MessageClass) -> str:
        # Named by the set of shards too: of two sets that run side by side, each has sessions of its own.
        place = "0" if self._shard.alone else f"{self._shard.index}of{self._shard.count}"
        return f"v2x-{self._settings.ingest_id}-{place}-{SESSION_NAMES[kind]}"

    def _mqtt(self, kind: MessageClass, wanted: tuple[str, ...]) -> MqttConfig:
        s = self._settings
        return MqttConfig(
            host=s.mqtt_host,
            port=s.mqtt_port,
            client_id=self._session_name(kind),
            filters=() if self._leaving else wanted,
            dropped=wanted if self._leaving else (),
            receive_maximum=s.receive_maximum,
            pace_s=s.pace_ms / 1000,
            session_expiry_s=s.session_expiry_s,
            username=s.mqtt_username,
            password=s.mqtt_password,
        )

    async def _leave(self) -> None:
        """Write what our sessions still hold to Kafka, then let the broker forget them.

        Their filters go first, so a queue only becomes shorter; it is empty once the broker has dealt with our last
        PUBACK and nothing came meanwhile.
        """
        sources = self._sources.values()
        self.why_not_ready = "leaving: emptying the queues in the broker"
        quiet = False
        while not quiet:
            await asyncio.sleep(_LOOK_S)
            taken = self._metrics.total("v2x_ingest_received_total")
            if self._metrics.total("v2x_ingest_in_flight") or not all(source.connected for source in sources):
                continue
            answers = [await source.ping() and source.subscriptions.settled for source in sources]
            quiet = all(answers) and taken == self._metrics.total("v2x_ingest_received_total")
        for source in sources:
            source.end_session = True
        log.info("left: sessions ended, nothing queued", shard=str(self._shard), taken=int(taken))

    async def _sum_up(self) -> None:
        """Tell in the log what was written to it, once a second (``summaries``)."""
        while True:
            await asyncio.sleep(SUMMARY_S)
            for pipeline in self._pipelines:
                pipeline.sum_up()

    async def _watch(self) -> None:
        """Raise an alarm while a large share of all messages is bad; acknowledging goes on."""
        while True:
            await asyncio.sleep(_WATCH_S)
            received = self._metrics.total("v2x_ingest_received_total")
            bad = self._metrics.total("v2x_ingest_dead_letters_total")
            was_received, was_bad = self._seen
            self._seen = (received, bad)
            n = received - was_received
            share = (bad - was_bad) / n if n >= _BAD_LEAST else 0.0
            alarm = f"{share:.0%} of all messages are bad" if share > _BAD_SHARE else ""
            if alarm and not self._alarm:
                log.error("a large share of all messages is bad", share=round(share, 2))
            self._alarm = alarm
            self._tell_outage_budget()

    def _tell_outage_budget(self) -> None:
        """Show how long we may be away before the broker drops: until the session expires, or its queue is full."""
        s = self._settings
        for kind in self._sources:
            name = SESSION_NAMES[kind]
            received = self._metrics.value("v2x_ingest_received_total", session=name).value
            rate = (received - self._received.get(name, 0.0)) / _WATCH_S
            self._received[name] = received
            budget = min(float(s.session_expiry_s), s.queue_messages / rate) if rate > 0 else float(s.session_expiry_s)
            self._metrics.set("v2x_ingest_outage_budget_seconds", budget, session=name)

    async def _finish(self) -> None:
        """Stop reading, let what is on its way become durable and acknowledged, then disconnect."""
        for source in self._sources.values():
            source.pause()
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                await asyncio.gather(*(sink.drain() for sink in self._sinks.values()))
        for pipeline in self._pipelines:
            pipeline.sum_up(final=True)
        await asyncio.gather(*(sink.stop(_LAST_S) for sink in self._sinks.values()))
        for source in self._sources.values():
            await source.stop()
        if self._turn is not None:
            self._turn.close()

    def _refresh(self) -> None:
        m = self._metrics
        m.set("v2x_ingest_known_devices", len(self._devices))
        m.set("v2x_ingest_guest_devices", len(self._onboarding.guests) if self._onboarding else 0)
        m.set("v2x_ingest_quarantined_devices", len(self._quarantine.devices))
        m.set("v2x_ingest_clock_suspect", int(self._times.suspect))
        if self._ticker is not None:
            m.set("v2x_ingest_ticks_total", self._ticker.ticks)
        records: dict[str, int] = {}
        for sink in self._sinks.values():
            for topic, n in sink.counters.records.items():
                records[topic] = records.get(topic, 0) + n
        for topic, n in records.items():
            m.set("v2x_ingest_records_total", n, topic=topic)
            m.set("v2x_sink_records_total", n, topic=topic)
        for name, field in (("batches", "batches"), ("retries", "retries"), ("failed", "refused")):
            totals: dict[str, int] = {}
            for sink in self._sinks.values():
                for topic, n in getattr(sink.counters, field).items():
                    totals[topic] = totals.get(topic, 0) + n
            for topic, n in totals.items():
                m.set(f"v2x_sink_{name}_total", n, topic=topic)
        m.set("v2x_sink_pending_bytes", sum(sink.pending_bytes for sink in self._sinks.values()))


async def run(
    settings: Settings,
    shard: Shard | None = None,
    stop: asyncio.Event | None = None,
    *,
    leaving: bool = False,
    standby: int | None = None,
) -> None:
    """Run ingest until ``stop`` is set (or cancelled), with /metrics and health; raises what ended it otherwise.

    ``leaving``: only until the sessions that this shard left in the broker are empty and ended.
    ``standby``: this process's number among those of the shard, of which one works and the others stand by.
    """
    shard = shard or Shard()
    stop = stop or asyncio.Event()
    fatal: list[BaseException] = []

    def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Stop the service: an error that nobody caught must not leave it half alive."""
        loop.default_exception_handler(context)
        error = context.get("exception")
        if isinstance(error, Exception):
            fatal.append(error)
            stop.set()

    asyncio.get_running_loop().set_exception_handler(on_error)
    metrics = Metrics("ingest")
    ingest = Ingest(settings, metrics, shard, leaving=leaving, standing_by=standby is not None)
    port = settings.metrics_port("ingest", shard.index + shard.count * (standby or 0)) if not leaving else 0
    name = shard.name if standby is None else f"{shard.name}-standby-{standby}"
    async with HealthServer(metrics, ingest.not_ready, settings.host, port) as server:
        server.tell(settings.state_dir, name + (".leave" if leaving else ""))
        await ingest.run(stop)
    if fatal:
        raise fatal[0]
