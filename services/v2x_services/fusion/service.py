"""The fusion service: a thin shell that feeds each partition's log to its pure core and writes what that makes.

::

    Kafka ─► consumer ─► stage (core.feed, suppression) ─► sink ─► Kafka
                            │                                │ all out up to a step
                            └── snapshot ── waits for ───────┘ ─► file

Partitions are assigned by the settings, or among several workers by a consumer group (see ``group``), or are another
process's, and are followed until it ends (see ``standby``). State is in files
beside the process, and a restart with the same folder goes on within a second. The position of a partition is that of
its snapshot; nothing is committed to Kafka. A restart, or another worker, loads the snapshot, feeds the log from there,
and suppresses outputs that are already in the output topics.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from v2x.columns import Record
from v2x.errors import SnapshotError

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services import memory, topics
from v2x_services.fusion.books import Books
from v2x_services.fusion.cores import INPUT_TOPICS, Cores, account
from v2x_services.fusion.fetch import LogFetcher
from v2x_services.fusion.group import Membership
from v2x_services.fusion.loading import load_core
from v2x_services.fusion.saving import Place, Saver
from v2x_services.fusion.snapshots import LOCK, Label, Snapshots, SnapshotStore, StoreHeldError
from v2x_services.fusion.stage import Core, Stage, Steps
from v2x_services.fusion.standby import Follower, Standby
from v2x_services.fusion.tails import OUTPUT_TOPICS, Position, last_positions
from v2x_services.hold import BEAT_S, LOOK_S, Pulse, TakenOverError
from v2x_services.metrics import Metrics
from v2x_services.ports import LogSink
from v2x_services.settings import Settings

log = structlog.get_logger("fusion")
_POLL_S: Final = 0.1
_DRAIN_S: Final = 15.0
_RETRY_S: Final = 0.5
_HELD_S: Final = 5.0  # so long a worker may take to write its last snapshots; whoever is frozen must not stop the road


class Fusion:
    """One process's share of fusion."""

    def __init__(
        self,
        settings: Settings,
        cores: Cores,
        sink: LogSink,
        metrics: Metrics,
        members: Membership | None = None,
        *,
        standing_by: bool = False,
    ) -> None:
        """``standing_by``: while another process fuses the partitions, follow it and take over when it ends."""
        self.why_not_ready = "starting"
        self._members = members
        self._standing_by = standing_by
        self._standby: Standby | None = None
        self._beaten = 0.0
        self._assignment = 0  # the last one of the group's that we followed
        self._waiting: dict[TopicPartition, float] = {}  # ours by the group's word, and since when we try to open it
        self._generations: dict[str, dict[int, str]] = {}
        self._settings, self._cores, self._sink, self._metrics = settings, cores, sink, metrics
        self._steps = Steps(metrics)
        self._places: dict[TopicPartition, Place] = {}
        self._saver = Saver(settings.snapshot_s, metrics)
        self._consumer: Any = None  # asks for ends and tails; the log itself comes by the fetcher
        self._fetcher: Any = None
        self._codec = ReferenceCodec(Registry.load(), strict=False)  # reads our own outputs
        self._books = Books(metrics, sink, self._places, lambda tp: self._fetcher and self._fetcher.highwater(tp))

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
            await self._saver.stop()
            if self._fetcher is not None:
                await self._fetcher.stop()
            if self._consumer is not None:
                await self._consumer.stop()
            await self._sink.stop(0.0)
            for place in self._places.values():
                place.store.close()
            if self._members is not None:
                await self._members.leave()

    def not_ready(self) -> str:
        """Say why this process is not ready, or nothing."""
        if not self.why_not_ready and getattr(self._sink, "last_error", None):
            return f"Kafka takes nothing: {getattr(self._sink, 'last_error', '')}"
        return self.why_not_ready

    # -- start: snapshots, tails, positions

    async def _start(self) -> None:
        self.why_not_ready = "compiling kernels"
        await asyncio.to_thread(self._cores.warm_up)
        memory.settle()
        self.why_not_ready = "waiting for Kafka"
        await self._sink.start(self._steps.done)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            request_timeout_ms=10_000,
            fetch_max_wait_ms=20,  # it reads tails, which are there
        )
        self._fetcher = LogFetcher(self._settings.kafka_bootstrap)
        await _start(self._consumer)
        await _start(self._fetcher)
        self.why_not_ready = "loading snapshots"
        self._generations = await topics.generations(self._settings.kafka_bootstrap, INPUT_TOPICS)
        if self._members is None:
            some = {t: self._settings.partition_list(len(found)) for t, found in self._generations.items()}
            mine = [TopicPartition(t, p) for t, numbers in some.items() for p in numbers]
            if self._standing_by:
                self._stand_by(mine)
            else:
                await self._take_over({tp: self._store(*tp) for tp in mine})
            self.why_not_ready = ""
        else:
            self.why_not_ready = "waiting for the group to assign partitions"
            self._members.start()

    # -- partitions come and go

    async def _follow(self, members: Membership) -> None:
        """Give up what the group has given to others, take over what it has given to us."""
        if members.fatal is not None:
            raise members.fatal
        if members.assigned is None or (members.generation == self._assignment and not self._waiting):
            return
        now = time.monotonic()
        if members.generation != self._assignment:
            self._assignment = members.generation
            lost = self._places.keys() - members.assigned
            self._waiting = {tp: self._waiting.get(tp, now) for tp in members.assigned - self._places.keys()}
            if lost:
                await self._give_up(lost)
        opened = {}
        for tp, since in self._waiting.items():
            with suppress(StoreHeldError):  # the worker that had it still writes its last snapshot
                opened[tp] = self._store(*tp, by_force=now - since > _HELD_S)
        if opened:
            await self._take_over(opened)
        for tp in opened:
            del self._waiting[tp]
        names = sorted(f"{topic}-{p}" for topic, p in self._waiting)
        self.why_not_ready = f"another process has the snapshots of {', '.join(names)}" if names else ""

    async def _give_up(self, lost: Collection[TopicPartition]) -> None:
        """Let others have partitions: everything out, a snapshot exactly there, then the lock."""
        saved = await self._save_all(lost)
        for tp in sorted(lost):
            place = self._places.pop(tp)
            place.store.close()
            self._books.gone(tp, place)
        await self._read()
        log.info("partitions given up", partitions=[f"{t}-{p}" for t, p in sorted(lost)], saved=saved)

    def _store(self, topic: str, partition: int, *, by_force: bool = False) -> SnapshotStore:
        if by_force:
            log.warning("taking snapshots that another process holds open", partition=f"{topic}-{partition}")
        return SnapshotStore(self._folder(topic, partition), by_force=by_force)

    def _folder(self, topic: str, partition: int) -> Path:
        return self._settings.state_dir / "fusion" / f"{topic}-{partition}"

    async def _take_over(
        self, stores: Mapping[TopicPartition, SnapshotStore], followed: Mapping[TopicPartition, Follower] | None = None
    ) -> None:
        """Go on with partitions from their snapshots, or from where we followed; closes the stores if that fails."""
        try:
            await self._place(stores, followed or {})
        except BaseException:
            for store in stores.values():
                store.close()
            raise

    def _stand_by(self, mine: Collection[TopicPartition]) -> None:
        self._standby = Standby(
            self._cores,
            self._generations,
            {tp: Follower(Snapshots(self._folder(*tp)), Pulse(self._folder(*tp) / LOCK)) for tp in mine},
            lambda tp, by_force: self._store(*tp, by_force=by_force),
            accept_other_version=self._settings.accept_other_version,
        )

    async def _follow_the_other(self, standby: Standby) -> None:
        """Take over what the other process has let go, else follow it."""
        now = time.monotonic()
        if not standby.due(now):
            return
        got = standby.look(now)
        if got:
            stores = {tp: store for tp, (store, _) in got.items()}
            await self._take_over(stores, {tp: follower for tp, (_, follower) in got.items()})
            took_s = round(time.monotonic() - now, 3)
            log.info("taken over", took_s=took_s, partitions=[f"{t}-{p}" for t, p in got])
        elif standby.prepare(now):
            await self._read()
        self._metrics.set("v2x_fusion_followed_partitions", len(standby.positions))

    def _beat(self) -> None:
        """Show who stands by that we live; TakenOverError if one thought that we do not."""
        now = time.monotonic()
        if now - self._beaten >= BEAT_S:
            self._beaten = now
            for tp, place in self._places.items():
                if not place.store.beat() and self._members is None:
                    raise TakenOverError(f"another process has taken over {tp.topic}-{tp.partition} from us: stopping")

    async def _place(
        self, stores: Mapping[TopicPartition, SnapshotStore], followed: Mapping[TopicPartition, Follower]
    ) -> None:
        loaded: dict[TopicPartition, tuple[SnapshotStore, Label, Core]] = {}
        limits: dict[TopicPartition, Position] = {}  # of what is out, where that is known without a look
        named: dict[int, str] = {}
        for tp, store in stores.items():
            follower = followed.get(tp)
            if follower is not None and (limit := follower.limit()) is not None:
                limits[tp] = limit
            if follower is not None and follower.core is not None and follower.label is not None:
                label, core = follower.label, follower.core
            else:
                label, core = load_core(
                    store,
                    self._cores,
                    tp,
                    self._generations[tp.topic],
                    accept_other_version=self._settings.accept_other_version,
                )
            loaded[tp] = store, label, core
            if tp.topic == INPUT_TOPICS[0] and tp not in limits:
                named[tp.partition] = label.generation
        out = await last_positions(self._consumer, self._codec, sorted(named), named) if named else {}
        unsure = [tp for tp in loaded if tp not in limits]
        ends = (await topics.bounds(self._consumer, unsure))[1] if unsure else {}
        now = time.monotonic()
        for i, (tp, (store, label, core)) in enumerate(loaded.items()):
            mine_out: dict[str, Position] = {}
            if tp in limits:
                mine_out = dict.fromkeys((*OUTPUT_TOPICS, INPUT_TOPICS[0]), limits[tp])
            elif tp.topic == INPUT_TOPICS[0]:
                mine_out = {t: out[t, tp.partition] for t in OUTPUT_TOPICS if (t, tp.partition) in out}
            furthest = max([label.position, *(offset for offset, _ in mine_out.values())])
            if tp in ends and furthest >= ends[tp]:
                raise SnapshotError(
                    f"{tp.topic}-{tp.partition} ends at {ends[tp]}, but offset {furthest} was already fused: the log "
                    f"has lost its end (a power cut?). Delete the topics, then `v2x topics apply` begins a new world"
                )
            stage = Stage(
                tp.topic, tp.partition, core, sink=self._sink, steps=self._steps, metrics=self._metrics, out=mine_out
            )
            # Spread over the interval, so that not all partitions snapshot in one go.
            due = now + self._settings.snapshot_s * (1 + i / len(loaded))
            self._places[tp] = Place(stage, store, label, due, account(core.counters))
            if tp in followed and followed[tp].kept:
                stage.tell(list(followed[tp].kept), now)
                stage.dirty = True
        if any(tp not in followed or followed[tp].core is None for tp in loaded):  # the others are being read
            await self._read()

    async def _read(self) -> None:
        """Read all our partitions, and those that we follow, on from where their cores are."""
        ours = {tp: place.stage.core.position + 1 for tp, place in self._places.items()}
        await self._fetcher.begin(ours | (self._standby.positions if self._standby is not None else {}))

    # -- the loop

    async def _loop(self, stop: asyncio.Event) -> None:
        limit = self._settings.fetch_records
        while not stop.is_set():
            if self._members is not None:
                await self._follow(self._members)
            if self._standby is not None:
                await self._follow_the_other(self._standby)
            wait = LOOK_S if self._standby is not None and self._standby.waiting else _POLL_S
            if not self._places and not (self._standby is not None and self._standby.positions):
                await asyncio.sleep(wait)
                continue
            self._beat()
            try:
                fetched = await self._fetcher.getmany(wait)
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
                    self._step(tp, records[begin : begin + limit])
                    await asyncio.sleep(0)  # let acknowledgements and fetches in between steps
            self._saver.look(self._places.values())
            if self._sink.pending_records:
                await self._room(stop)

    def _step(self, tp: TopicPartition, records: Sequence[Record]) -> None:
        place = self._places.get(tp)
        if place is not None:
            place.stage.step(records)
        elif self._standby is not None:
            self._standby.feed(tp, records)

    async def _room(self, stop: asyncio.Event) -> None:
        """Wait while Kafka takes no more, but not beyond a stop."""
        while not stop.is_set():
            self._beat()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sink.room(), 0.5)
                return

    async def _overrun(self, error: OffsetOutOfRangeError) -> None:
        """Go on at the beginning of what is left: retention was faster than we."""
        for tp in error.args[0]:
            if self._standby is not None and self._standby.drop(tp):
                await self._read()
                continue
            begin = (await self._consumer.beginning_offsets([tp]))[tp]
            log.error(
                "retention took records that were not fused yet", partition=f"{tp.topic}-{tp.partition}", begin=begin
            )
            self._metrics.inc("v2x_fusion_faults_total", kind="retention_overrun")
            self._fetcher.seek(tp, begin)

    # -- the end

    async def _finish(self) -> None:
        """Stop cleanly: everything out, then of each partition a snapshot exactly there, and its lock."""
        if await self._all_out():
            for tp in sorted(self._places):
                await self._saver.last([self._places[tp]])
                self._places[tp].store.close()  # who stands by need not wait for the others
            log.info("stopped cleanly")

    async def _save_all(self, tps: Collection[TopicPartition]) -> bool:
        """Wait until everything is out, then write clean snapshots; without Kafka the last ones have to do: False."""
        if await self._all_out():
            await self._saver.last([self._places[tp] for tp in tps])
            return True
        return False

    async def _all_out(self) -> bool:
        try:
            await asyncio.wait_for(self._sink.drain(), _DRAIN_S)
        except TimeoutError:
            log.warning(
                "Kafka does not take the last outputs; the next start makes them again", left=self._sink.pending_records
            )
            return False
        return True


async def _start(consumer: Any) -> None:
    while True:
        try:
            await consumer.start()
        except KafkaError as e:
            log.warning("Kafka is not there yet", error=str(e))
            await asyncio.sleep(_RETRY_S)
        else:
            return
