"""The fusion service: a thin shell that feeds each partition's log to its pure core and writes what that makes.

::

    Kafka ─► consumer ─► stage (core.feed, suppression) ─► sink ─► Kafka
                            │                                │ all out up to a step
                            └── snapshot ── waits for ───────┘ ─► file

Partitions are assigned by the settings, not by a group: state is in files beside the process, and a restart with the
same folder goes on within a second. The position of a partition is that of its snapshot; nothing is committed to Kafka.
A restart loads the snapshot, feeds the log from there, and suppresses outputs that are already in the output topics.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from v2x.errors import BrokerError, SnapshotError

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services import topics
from v2x_services.fusion.cores import INPUT_TOPICS, Cores, account
from v2x_services.fusion.fetch import LogFetcher
from v2x_services.fusion.snapshots import Label, SnapshotStore
from v2x_services.fusion.stage import Core, Stage, Steps
from v2x_services.fusion.tails import OUTPUT_TOPICS, Position, last_positions
from v2x_services.metrics import Metrics
from v2x_services.ports import LogSink
from v2x_services.settings import Settings

log = structlog.get_logger("fusion")
_POLL_S: Final = 0.1
_DRAIN_S: Final = 15.0
_RETRY_S: Final = 0.5


@dataclass(slots=True)
class _Pending:
    """A snapshot that waits until the outputs before it are in Kafka."""

    label: Label
    blob: bytes
    number: int
    started: float


@dataclass(slots=True)
class _Place:
    """A stage with its files."""

    stage: Stage
    store: SnapshotStore
    label: Label
    due: float
    before: tuple[int, dict[str, int]]  # the core's books when this process took it over
    pending: _Pending | None = None


class Fusion:
    """One process's share of fusion."""

    def __init__(self, settings: Settings, cores: Cores, sink: LogSink, metrics: Metrics) -> None:
        self.why_not_ready = "starting"
        self._settings, self._cores, self._sink, self._metrics = settings, cores, sink, metrics
        self._steps = Steps(metrics)
        self._places: dict[TopicPartition, _Place] = {}
        self._stores: list[SnapshotStore] = []
        self._saving: set[asyncio.Task[None]] = set()
        self._consumer: Any = None  # asks for ends and tails; the log itself comes by the fetcher
        self._fetcher: Any = None
        metrics.before_scrape(self._refresh)

    async def run(self, stop: asyncio.Event) -> None:
        """Fuse until ``stop``; raises what cannot be gone on from."""
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return  # asked to stop while Kafka is away: there is nothing to save
            await starting
            log.info("fusing", partitions=[f"{tp.topic}-{tp.partition}" for tp in self._places])
            await self._loop(stop)
            self.why_not_ready = "stopping"
            await self._finish()
        finally:
            for waiting in (starting, stopping):
                waiting.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await waiting
            self.why_not_ready = self.why_not_ready or "stopped"
            for task in self._saving:
                with suppress(Exception):
                    await task
            if self._fetcher is not None:
                await self._fetcher.stop()
            if self._consumer is not None:
                await self._consumer.stop()
            await self._sink.stop(0.0)
            for store in self._stores:
                store.close()

    def not_ready(self) -> str:
        """Say why this process is not ready, or nothing."""
        if not self.why_not_ready and getattr(self._sink, "last_error", None):
            return f"Kafka takes nothing: {getattr(self._sink, 'last_error', '')}"
        return self.why_not_ready

    # -- start: snapshots, tails, positions

    async def _start(self) -> None:
        self.why_not_ready = "compiling kernels"
        await asyncio.to_thread(self._cores.warm_up)
        self.why_not_ready = "waiting for Kafka"
        await self._sink.start(self._steps.done)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            request_timeout_ms=10_000,
        )
        self._fetcher = LogFetcher(self._settings.kafka_bootstrap)
        await _start(self._consumer)
        await _start(self._fetcher)
        self.why_not_ready = "loading snapshots"
        await self._place_all()
        self.why_not_ready = ""

    async def _place_all(self) -> None:
        bootstrap = self._settings.kafka_bootstrap
        generations = await topics.generations(bootstrap, INPUT_TOPICS)
        codec = ReferenceCodec(Registry.load())
        mine = {t: self._settings.partition_list(len(found)) for t, found in generations.items()}
        road = generations[INPUT_TOPICS[0]]
        named = {p: g for p, g in road.items() if p in mine[INPUT_TOPICS[0]]}
        loaded: dict[TopicPartition, tuple[SnapshotStore, Label, Core]] = {}
        for topic, by_partition in generations.items():
            for p in mine[topic]:
                found = self._load(topic, p, len(by_partition), by_partition[p])
                loaded[TopicPartition(topic, p)] = found
                if topic == INPUT_TOPICS[0]:
                    named[p] = found[1].generation
        out = await last_positions(self._consumer, codec, mine[INPUT_TOPICS[0]], named)
        _, ends = await topics.bounds(self._consumer, list(loaded))
        now = time.monotonic()
        for i, (tp, (store, label, core)) in enumerate(loaded.items()):
            mine_out: dict[str, Position] = {}
            if tp.topic == INPUT_TOPICS[0]:
                mine_out = {t: out[t, tp.partition] for t in OUTPUT_TOPICS if (t, tp.partition) in out}
            furthest = max([label.position, *(offset for offset, _ in mine_out.values())])
            if furthest >= ends[tp]:
                raise SnapshotError(
                    f"{tp.topic}-{tp.partition} ends at {ends[tp]}, but offset {furthest} was already fused: the log "
                    f"has lost its end (a power cut?). Delete the topics, then `v2x topics apply` begins a new world"
                )
            stage = Stage(
                tp.topic, tp.partition, core, sink=self._sink, steps=self._steps, metrics=self._metrics, out=mine_out
            )
            # Spread over the interval, so that not all partitions snapshot in one go.
            due = now + self._settings.snapshot_s * (1 + i / len(loaded))
            self._places[tp] = _Place(stage, store, label, due, account(core.counters))
        await self._fetcher.begin({tp: place.label.position + 1 for tp, place in self._places.items()})

    def _load(self, topic: str, partition: int, partitions: int, generation: str) -> tuple[SnapshotStore, Label, Core]:
        """Return store, label and core of a partition: from its snapshot if there is one of this world."""
        where = f"{topic}-{partition}"
        if not generation:
            raise BrokerError(f"{where} has no genesis record: run `v2x topics apply`")
        store = SnapshotStore(self._settings.state_dir / "fusion" / where)
        self._stores.append(store)
        fresh = Label(topic, partition, partitions, generation, -1, True, self._cores.code, self._cores.config)
        found = store.load()
        if found is not None and generation not in {found[0].generation, "?"}:
            log.warning("snapshots belong to another world, putting them aside", partition=where)
            store.retire()
            found = None
        if found is None:
            if generation == "?":
                raise SnapshotError(
                    f"{where} has lost its genesis to retention and there is no snapshot in {store.folder}"
                )
            return store, fresh, self._cores.fresh(topic, partition, partitions)
        label, blob = found
        if (label.code, label.config) != (fresh.code, fresh.config) and not label.clean:
            if not self._settings.accept_other_version:
                raise SnapshotError(
                    f"the snapshot of {where} is not from a clean stop and belongs to other code or configuration: "
                    f"start and stop that version once, or accept a seam here with --accept-other-version"
                )
            log.warning("going on from an unclean snapshot of another version", partition=where)
        log.info("snapshot loaded", partition=where, position=label.position, clean=label.clean)
        label = replace(label, code=fresh.code, config=fresh.config)
        try:
            core = self._cores.restore(topic, partition, partitions, blob)
        except SnapshotError as e:
            raise SnapshotError(
                f"{where}: {e}; go back to the zone map and version it was made with, or begin anew: delete "
                f"{store.folder}, or take another state_dir (--run-dir with `v2x up`)"
            ) from e
        return store, label, core

    # -- the loop

    async def _loop(self, stop: asyncio.Event) -> None:
        limit = self._settings.fetch_records
        while not stop.is_set():
            try:
                fetched = await self._fetcher.getmany(_POLL_S)
            except OffsetOutOfRangeError as e:
                await self._overrun(e)
                continue
            except KafkaError as e:
                log.warning("fetch failed, trying again", error=repr(e))
                self._metrics.inc("v2x_fusion_faults_total", kind=type(e).__name__)
                await asyncio.sleep(_RETRY_S)
                continue
            for tp, records in fetched.items():
                for begin in range(0, len(records), limit):
                    self._places[tp].stage.step(records[begin : begin + limit])
                    await asyncio.sleep(0)  # let acknowledgements and fetches in between steps
            self._snapshots()
            if self._sink.pending_records:
                await self._room(stop)

    async def _room(self, stop: asyncio.Event) -> None:
        """Wait while Kafka takes no more, but not beyond a stop."""
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sink.room(), 0.5)
                return

    async def _overrun(self, error: OffsetOutOfRangeError) -> None:
        """Go on at the beginning of what is left: retention was faster than we."""
        for tp in error.args[0]:
            begin = (await self._consumer.beginning_offsets([tp]))[tp]
            log.error(
                "retention took records that were not fused yet", partition=f"{tp.topic}-{tp.partition}", begin=begin
            )
            self._metrics.inc("v2x_fusion_faults_total", kind="retention_overrun")
            self._fetcher.seek(tp, begin)

    # -- snapshots

    def _snapshots(self) -> None:
        now = time.monotonic()
        for place in self._places.values():
            stage = place.stage
            if place.pending is None and now >= place.due and stage.dirty:
                place.due = now + self._settings.snapshot_s
                place.pending = self._take(place, clean=False)
            pending = place.pending
            if pending is not None and stage.all_out(pending.number):
                place.pending = None
                task = asyncio.create_task(self._save(place, pending))
                self._saving.add(task)
                task.add_done_callback(self._saving.discard)

    def _take(self, place: _Place, *, clean: bool) -> _Pending:
        started = time.monotonic()
        core = place.stage.core
        label = replace(place.label, position=core.position, clean=clean)
        place.stage.dirty = False
        return _Pending(label, core.snapshot(), place.stage.emitted, started)

    async def _save(self, place: _Place, pending: _Pending) -> None:
        topic = place.stage.topic
        try:
            size = await asyncio.to_thread(place.store.save, pending.label, pending.blob)
        except OSError as e:  # a full disk: the older snapshots still serve
            log.error("snapshot not written", partition=f"{topic}-{place.stage.partition}", error=str(e))  # noqa: TRY400
            self._metrics.inc("v2x_fusion_faults_total", kind="snapshot")
            return
        self._metrics.inc("v2x_fusion_snapshots_total", topic=topic)
        self._metrics.observe("v2x_fusion_snapshot_seconds", time.monotonic() - pending.started, topic=topic)
        self._metrics.observe("v2x_fusion_snapshot_bytes", size, topic=topic)

    async def _finish(self) -> None:
        """Stop cleanly: everything out, then a snapshot exactly there; without Kafka the last snapshot has to do."""
        try:
            await asyncio.wait_for(self._sink.drain(), _DRAIN_S)
        except TimeoutError:
            log.warning(
                "Kafka does not take the last outputs; the next start makes them again", left=self._sink.pending_records
            )
            return
        await asyncio.gather(*self._saving, return_exceptions=True)
        for place in self._places.values():
            if place.stage.core.position >= 0:
                await self._save(place, self._take(place, clean=True))
        log.info("stopped cleanly")

    def _refresh(self) -> None:
        """Bring what others keep into the metrics, at a scrape."""
        m = self._metrics
        m.set("v2x_fusion_outputs_in_flight", self._sink.pending_records)
        export_sink(m, self._sink)
        for tp, place in self._places.items():
            high = self._fetcher.highwater(tp) if self._fetcher else None
            if high is not None:
                lag = max(0, high - 1 - place.stage.core.position)
                m.set("v2x_fusion_lag_records", lag, topic=tp.topic, partition=str(tp.partition))
        self._account()

    def _account(self) -> None:
        """Bring the cores' books into the metrics: what this process added to them."""
        effect: Counter[str] = Counter()
        dropped: Counter[tuple[str, str]] = Counter()
        for tp, place in self._places.items():
            counters = place.stage.core.counters
            took, left = account(counters)
            took_before, left_before = place.before
            effect[tp.topic] += took - took_before
            dropped.update({(tp.topic, reason): n - left_before.get(reason, 0) for reason, n in left.items()})
            if "tracks" in counters:
                self._metrics.set("v2x_fusion_tracks", counters["tracks"], partition=str(tp.partition))
        for topic, n in effect.items():
            self._metrics.set("v2x_fusion_fused_total", n, topic=topic)
        for (topic, reason), n in dropped.items():
            self._metrics.set("v2x_fusion_dropped_total", n, topic=topic, reason=reason)


def export_sink(metrics: Metrics, sink: LogSink) -> None:
    """Bring a sink's own counters into the metrics."""
    metrics.set("v2x_sink_pending_bytes", sink.pending_bytes)
    counters = getattr(sink, "counters", None)  # a fake has none
    if counters is not None:
        for field in ("records", "batches", "retries", "refused"):
            for topic, n in getattr(counters, field).items():
                metrics.set(f"v2x_sink_{field}_total", n, topic=topic)


async def _start(consumer: Any) -> None:
    while True:
        try:
            await consumer.start()
        except KafkaError as e:
            log.warning("Kafka is not there yet", error=str(e))
            await asyncio.sleep(_RETRY_S)
        else:
            return
