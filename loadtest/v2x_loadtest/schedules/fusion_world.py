"""Fusion workers that share partitions or stand by for each other, killed, frozen and stopped on a virtual clock.

The service is the real one, with its stages, suppression, snapshots (files), locks and takeovers; Kafka, the group's
coordinator and the core are simulated. What must hold: by the reader's rule the outputs are those of one quiet run,
none missing, none other; copies are equal; every partition is fused to its end.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from aiokafka import TopicPartition
from v2x.columns import Output
from v2x.topics import GANTRY, OBSERVATIONS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.schedules.fusion_parts import GENERATION, Consumer, Fetcher, Log, Members, Sink, ToyCore, ToyCores
from v2x_loadtest.schedules.loop import LIFE, VirtualLoop
from v2x_services import topics
from v2x_services.fusion import service, stage
from v2x_services.fusion.cores import INPUT_TOPICS
from v2x_services.fusion.snapshots import SnapshotStore
from v2x_services.fusion.tails import OUTPUT_TOPICS
from v2x_services.hold import TakenOverError
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

_SESSION_S: Final = 3.0  # the group's session time-out
_BEAT_S: Final = 0.25
_TELL_S: Final = (0.0, 0.6)  # until a member hears of an assignment
_WORKERS: Final = 3
# Each fault: how likely it is chosen, and how long it lasts at most, in seconds.
FAULTS: Final[dict[str, tuple[float, float]]] = {
    "a worker is killed": (4, 6),
    "a worker is frozen": (4, 14),
    "a worker is stopped": (3, 6),
    "a worker is killed and its snapshots damaged": (2, 2),
}


@dataclass(frozen=True, slots=True)
class FusionPlan:
    """What a seed stands for."""

    seed: int
    partitions: int
    snapshot_s: float
    fetch_records: int
    slow_s: float  # what Kafka takes at most, to write, and to answer
    repeat: float  # how often a batch is written twice
    appends: tuple[tuple[float, int], ...]  # when, and how many records
    faults: tuple[tuple[float, str, float], ...]
    standby: bool  # one worker fuses all, the others stand by; else they share the partitions as a group

    @classmethod
    def of(cls, seed: int) -> FusionPlan:
        """Return the plan of a seed."""
        rng = random.Random(f"fusion {seed}")
        lasts = rng.uniform(5.0, 25.0)
        kinds = list(FAULTS)
        chosen = [rng.choices(kinds, [FAULTS[kind][0] for kind in kinds])[0] for _ in range(rng.randint(0, 6))]
        return cls(
            seed=seed,
            partitions=rng.choice((1, 2, 3)),
            snapshot_s=rng.choice((0.3, 1.0, 4.0)),
            fetch_records=rng.choice((1, 7, 500)),
            slow_s=rng.choice((0.05, 0.05, 1.5)),
            repeat=rng.choice((0.0, 0.1)),
            appends=tuple(sorted((rng.uniform(0.0, lasts), rng.randint(1, 8)) for _ in range(rng.randint(20, 80)))),
            faults=tuple(
                sorted((rng.uniform(0.5, lasts), what, rng.uniform(0.1, max(FAULTS[what][1], 0.1))) for what in chosen)
            ),
            standby=rng.random() < 0.4,
        )


@cache
def codec() -> ReferenceCodec:
    """Return the codec, made once."""
    return ReferenceCodec(Registry.load())


@dataclass(slots=True)
class Worker:
    """One worker's present life."""

    number: int
    life: int = 0
    members: Members = field(default_factory=Members)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    frozen: bool = False
    seen: float = 0.0  # by the coordinator

    @property
    def runs(self) -> bool:
        """Say whether there is a process."""
        return self.task is not None and not self.task.done()


class FusionWorld:
    """Everything of one schedule, and what went wrong in it."""

    def __init__(self, plan: FusionPlan) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.rng = random.Random(f"fusion world {plan.seed}")
        self.log = Log(plan.partitions)
        self.inputs = [TopicPartition(topic, p) for topic in INPUT_TOPICS for p in range(plan.partitions)]
        self.wrongs: list[str] = []
        self.trace: list[tuple[float, str]] = []
        self.kills = 0
        self.repeated = 0  # copies in the outputs beyond the first
        self.workers = [Worker(i) for i in range(_WORKERS)]
        self._lives = 0
        self._members: frozenset[int] = frozenset()
        self._stores: dict[int, list[SnapshotStore]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="v2x-schedule-", dir=_fast_disk())
        self._numbered = 0
        self._looked_at, self._done = -1, False

    def wrong(self, what: str) -> None:
        """Note a broken promise."""
        self.wrongs.append(f"{self.loop.now:.6f} s: {what}")

    def tell(self, what: str) -> None:
        """Write down what happened."""
        self.trace.append((self.loop.now, what))

    # -- workers

    def start(self, worker: Worker) -> None:
        """Start a worker."""
        self._lives += 1
        worker.life, worker.members, worker.stop = self._lives, Members(), asyncio.Event()
        worker.frozen, worker.seen = False, self.loop.now
        context = contextvars.copy_context()
        context.run(LIFE.set, worker.life)
        worker.task = self.loop.create_task(self._run(worker), context=context)
        self.tell(f"worker {worker.number} starts")
        if worker.number in self._members:
            self._inform(worker)  # it has not been missed: static membership gives back what it had

    async def _run(self, worker: Worker) -> None:
        plan = self.plan
        settings = Settings.load(
            state_dir=Path(self._folder.name), snapshot_s=plan.snapshot_s, fetch_records=plan.fetch_records
        )
        sink = Sink(self.log, self.rng, plan.repeat, plan.slow_s)
        members: Any = None if plan.standby else worker.members
        cores, metrics = ToyCores(codec()), Metrics("fusion")
        fusion = service.Fusion(settings, cores, sink, metrics, members, standing_by=plan.standby)
        await fusion.run(worker.stop)

    def kill(self, worker: Worker) -> None:
        """End a worker as kill -9 does: nothing of it runs on, the system closes its files."""
        self.tell(f"worker {worker.number} is killed")
        self.loop.end_life(worker.life)
        for store in self._stores.pop(worker.life, ()):
            store.close()
        worker.task, worker.frozen = None, False

    def store(self, folder: Path, *, by_force: bool = False) -> SnapshotStore:
        """Open snapshots for the life that asks."""
        made = SnapshotStore(folder, by_force=by_force)
        self._stores.setdefault(LIFE.get(), []).append(made)
        return made

    # -- the coordinator of the group

    async def coordinate(self) -> None:
        """Share the partitions among the workers that are heard of."""
        while True:
            await asyncio.sleep(_BEAT_S)
            now = self.loop.now
            for worker in self.workers:
                if worker.runs and not worker.frozen and not worker.stop.is_set():
                    worker.seen = now
            here = frozenset(
                w.number for w in self.workers if w.seen and now - w.seen < _SESSION_S and not self._has_left(w)
            )
            if here != self._members:
                self._members = here
                self._assign()

    async def keep(self) -> None:
        """Start again who was frozen, and stopped when it saw that another has taken over."""
        while True:
            await asyncio.sleep(_BEAT_S)
            for worker in self.workers:
                task = worker.task
                if task is not None and task.done() and isinstance(task.exception(), TakenOverError):
                    self.start(worker)

    def _has_left(self, worker: Worker) -> bool:
        return worker.stop.is_set() and not worker.runs

    def _assign(self) -> None:
        self.tell(f"members {sorted(self._members)}")
        for number in sorted(self._members):
            self._inform(self.workers[number])

    def _inform(self, worker: Worker) -> None:
        """Tell a member in a while what is its own then; one that is frozen hears of it afterwards."""
        life = worker.life

        def told() -> None:
            if worker.life != life or not worker.runs:
                return
            if worker.frozen:
                self.loop.call_later(_BEAT_S, told)
            elif worker.number in self._members:
                numbers = sorted(self._members)
                at = numbers.index(worker.number)
                worker.members.take([tp for tp in self.inputs if tp.partition % len(numbers) == at])

        self.loop.call_later(self.rng.uniform(*_TELL_S), told)

    # -- input and faults

    async def append(self) -> None:
        """Write the input as planned."""
        for tp in self.inputs:
            genesis = {
                "generation": GENERATION,
                "partition": tp.partition,
                "partitions": self.plan.partitions,
                "ts_ms": 0,
            }
            self.log.append(tp, b"genesis", codec().encode("genesis", genesis))
        begin = self.loop.now
        for at, count in self.plan.appends:
            await asyncio.sleep(max(0.0, begin + at - self.loop.now))
            for _ in range(count):
                self._numbered += 1
                tp = self.rng.choice(self.inputs)
                self.log.append(tp, b"k", b"%d" % self._numbered, int(self.loop.now * 1000))

    async def suffer(self) -> None:
        """Have the faults happen; they may overlap."""
        begin = self.loop.now
        async with asyncio.TaskGroup() as group:
            for at, what, lasts in self.plan.faults:
                await asyncio.sleep(max(0.0, begin + at - self.loop.now))
                group.create_task(self._suffer(what, lasts))

    async def _suffer(self, what: str, lasts: float) -> None:
        worker = self.rng.choice(self.workers)
        if not worker.runs or worker.stop.is_set():
            return
        self.kills += 1
        match what:
            case "a worker is killed":
                self.kill(worker)
                await asyncio.sleep(lasts)
                self.start(worker)
            case "a worker is frozen":
                life = worker.life
                self.tell(f"worker {worker.number} is frozen")
                worker.frozen = True
                self.loop.freeze(life)
                await asyncio.sleep(lasts)
                if worker.life == life and worker.frozen:
                    self.tell(f"worker {worker.number} goes on")
                    worker.frozen = False
                    self.loop.thaw(life)
            case "a worker is stopped":
                self.tell(f"worker {worker.number} is asked to stop")
                worker.stop.set()
                with suppress(Exception):
                    await asyncio.wait([worker.task] if worker.task else [], timeout=30)
                await asyncio.sleep(lasts)
                if worker.runs:  # frozen meanwhile, and asked to stop: somebody loses patience
                    self.kill(worker)
                self.start(worker)
            case _:
                self.kill(worker)
                self._damage()
                await asyncio.sleep(lasts)
                self.start(worker)

    def _damage(self) -> None:
        """Cut the newest file of each partition, as a full or a broken disk does."""
        for folder in sorted(Path(self._folder.name).glob("fusion/*")):
            newest = max(folder.glob("*.snap"), default=None)
            if newest is not None:
                newest.write_bytes(newest.read_bytes()[:-3])

    # -- the verdict

    @property
    def outputs(self) -> list[TopicPartition]:
        """Return the partitions that fusion writes to."""
        return [TopicPartition(topic, p) for topic in OUTPUT_TOPICS for p in range(self.plan.partitions)]

    def done(self) -> bool:
        """Say whether every output is there."""
        size = sum(len(self.log.of(tp)) for tp in (*self.inputs, *self.outputs))
        if size != self._looked_at:
            self._looked_at = size
            self._done = self.expected().keys() <= self.found().keys()
        return self._done

    def expected(self) -> dict[tuple[str, int, int, int], bytes]:
        """Return what one quiet run over the input puts out, by topic, partition, offset and index."""
        made: list[Output] = []
        for tp in self.inputs:
            made += ToyCore(tp.topic, tp.partition, codec()).feed(self.log.of(tp))
        return {(o.topic, o.partition, o.offset, o.nth): o.value for o in made}

    def found(self) -> dict[tuple[str, int, int, int], bytes]:
        """Return what a reader has by its rule; copies that differ are told."""
        out: dict[tuple[str, int, int, int], bytes] = {}
        for topic, p in self.outputs:
            for record in self.log.of(TopicPartition(topic, p)):
                key = topic, p, *_position(record.value)
                if out.setdefault(key, record.value) != record.value:
                    self.wrong(f"two outputs at {key} differ")
        return out

    def failed(self) -> Iterator[str]:
        """Yield what ended workers that nobody asked to end."""
        for worker in self.workers:
            task = worker.task
            if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
                yield f"worker {worker.number} ended: {error!r}"

    def close(self) -> None:
        """Leave nothing behind."""
        for worker in self.workers:
            if worker.runs:
                self.kill(worker)
        self._folder.cleanup()


class _Time:
    """The module ``time``, on the virtual clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic: Callable[[], float] = loop.time
        self.time: Callable[[], float] = loop.time


@contextmanager
def simulated(world: FusionWorld) -> Iterator[None]:
    """Have the service meet the simulated parts where it would meet the real ones."""

    async def generations(_bootstrap: str, names: Any) -> dict[str, dict[int, str]]:
        return {topic: dict.fromkeys(range(world.plan.partitions), GENERATION) for topic in names}

    clock = _Time(world.loop)
    Consumer.log = Fetcher.log = world.log
    Fetcher.rng = world.rng
    wanted: list[tuple[Any, str, Any]] = [
        (service, "AIOKafkaConsumer", Consumer),
        (service, "LogFetcher", Fetcher),
        (service, "SnapshotStore", world.store),
        (service, "time", clock),
        (stage, "time", clock),
        (topics, "generations", generations),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in wanted]
    for module, name, what in wanted:
        setattr(module, name, what)
    try:
        yield
    finally:
        for module, name, what in before:
            setattr(module, name, what)


@lru_cache(1 << 14)
def _position(value: bytes) -> tuple[int, int]:
    record = codec().decode_kafka(value)[1]
    return record["offset"], record["index"]


def _fast_disk() -> str | None:
    """Return a folder in memory, if the system has one: fsync costs nothing there."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


assert {OBSERVATIONS, GANTRY} == set(INPUT_TOPICS)
