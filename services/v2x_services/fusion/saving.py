"""When snapshots are taken, and how they are written: in a thread, once all that was said before them is in Kafka."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from v2x_services.fusion.snapshots import Label, SnapshotStore
from v2x_services.fusion.stage import Frozen, Stage
from v2x_services.metrics import Metrics

log = structlog.get_logger("fusion")


@dataclass(slots=True)
class Pending:
    """A snapshot that waits until the outputs before it are in Kafka."""

    label: Label
    frozen: Frozen
    number: int
    started: float


@dataclass(slots=True)
class Place:
    """A stage with its files."""

    stage: Stage
    store: SnapshotStore
    label: Label
    due: float
    before: tuple[int, dict[str, int]]  # the core's books when this process took it over
    pending: Pending | None = None


class Saver:
    """Takes the snapshots of one process."""

    def __init__(self, interval_s: float, metrics: Metrics) -> None:
        self._interval_s, self._metrics = interval_s, metrics
        self._saving: set[asyncio.Task[None]] = set()
        # One thread: each would keep the memory of its largest snapshot, and no two are worth having at a time.
        self._writer = ThreadPoolExecutor(1, "snapshots")

    def look(self, places: Collection[Place]) -> None:
        """Take what is due and write what waits no more: one at a time, for each is a copy and makes the road wait.

        One whose outputs Kafka does not take for long holds nobody else up.
        """
        now = time.monotonic()
        pending = [place for place in places if place.pending is not None]
        for place in pending:
            assert place.pending is not None
            if place.stage.all_out(place.pending.number):
                task = asyncio.create_task(self._save(place, place.pending))
                place.pending = None
                self._saving.add(task)
                task.add_done_callback(self._saving.discard)
        if self._saving or any(now - p.pending.started < self._interval_s for p in pending if p.pending is not None):
            return
        due = [p for p in places if p.pending is None and now >= p.due and p.stage.dirty]
        if due:
            place = min(due, key=lambda p: p.due)
            place.due = now + self._interval_s
            place.pending = _take(place, clean=False)

    async def last(self, places: Iterable[Place]) -> None:
        """Write clean snapshots: everything up to their positions is out."""
        await asyncio.gather(*self._saving, return_exceptions=True)
        for place in places:
            place.pending = None
            if place.stage.core.position >= 0:
                await self._save(place, _take(place, clean=True))

    async def stop(self) -> None:
        """Wait for what is being written."""
        for task in list(self._saving):  # each leaves the set when it ends
            with suppress(Exception):
                await task
        self._writer.shutdown(wait=False)

    async def _save(self, place: Place, pending: Pending) -> None:
        topic = place.stage.topic
        try:
            size = await asyncio.get_running_loop().run_in_executor(
                self._writer, lambda: place.store.save(pending.label, pending.frozen.pack())
            )
        except OSError as e:  # a full disk: the older snapshots still serve
            log.error("snapshot not written", partition=f"{topic}-{place.stage.partition}", error=str(e))  # noqa: TRY400
            self._metrics.inc("v2x_fusion_faults_total", kind="snapshot")
            return
        self._metrics.inc("v2x_fusion_snapshots_total", topic=topic)
        self._metrics.observe("v2x_fusion_snapshot_seconds", time.monotonic() - pending.started, topic=topic)
        self._metrics.observe("v2x_fusion_snapshot_bytes", size, topic=topic)


def _take(place: Place, *, clean: bool) -> Pending:
    started = time.monotonic()
    core = place.stage.core
    label = replace(place.label, position=core.position, clean=clean)
    place.stage.dirty = False
    return Pending(label, core.freeze(), place.stage.emitted, started)
