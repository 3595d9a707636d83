"""Standby: partitions that another process fuses are followed without a word, and taken over when it stops or dies.

::

    waiting ── newest snapshot loaded ─► following: fed from the log, what it makes is kept, not told
       │                                     │        (a snapshot of the other: forget up to its position)
       └────────── lock got ─────────────────┴─► taken over: what is not out yet is told, then as usual

The lock of a partition's snapshots says who fuses it (see ``hold``). A clean stop leaves a snapshot exactly at
the last position that is out, so what is kept beyond it is told; after any other end the output topics say how far
they are, as at every start. Partitions are taken in one order and only after those before them, so two processes that
start at once do not share them.

One that is of another version follows nothing, since it must not repeat the other's range: it waits, with all loaded,
for the snapshot of a clean stop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka import TopicPartition
from v2x.columns import Output, Record
from v2x.errors import SnapshotError

from v2x_services.fusion.cores import Cores
from v2x_services.fusion.snapshots import Label, Snapshots, SnapshotStore, StoreHeldError
from v2x_services.fusion.stage import Core
from v2x_services.fusion.tails import Position
from v2x_services.hold import LOOK_S, Pulse

log = structlog.get_logger("fusion")
_PREPARE_S: Final = 1.0
_KEPT_BYTES: Final = 64 << 20  # of a partition; beyond, it is begun anew at the next snapshot


@dataclass(slots=True)
class Follower:
    """One partition as far as we have followed it."""

    snapshots: Snapshots
    pulse: Pulse
    label: Label | None = None
    core: Core | None = None  # None: not followed
    kept: deque[Output] = field(default_factory=deque)
    bytes: int = 0
    least: int = -1  # a snapshot up to here is of no use
    newest: int = -1  # position of the newest snapshot at the last look at the folder

    def limit(self) -> Position | None:
        """Return up to where everything is out and beyond which nothing is, if the last holder just said it."""
        label = self.snapshots.label()
        # An older clean snapshot is that of one before the last holder.
        if label is None or not label.clean or label.position <= self.newest:
            return None
        return label.position, 1 << 31


class Standby:
    """What one process follows; ``open_store`` takes a partition's lock, or raises StoreHeldError."""

    def __init__(
        self,
        cores: Cores,
        generations: Mapping[str, Mapping[int, str]],
        followers: Mapping[TopicPartition, Follower],
        open_store: Callable[[TopicPartition, bool], SnapshotStore],
        *,
        accept_other_version: bool,
    ) -> None:
        self.waiting = dict(sorted(followers.items()))
        self._cores, self._generations, self._open = cores, generations, open_store
        self._accept_other_version = accept_other_version
        self._looked = self._prepared = float("-inf")

    @property
    def positions(self) -> dict[TopicPartition, int]:
        """Return the next offset of each partition that is followed."""
        return {tp: f.core.position + 1 for tp, f in self.waiting.items() if f.core is not None}

    def due(self, now: float) -> bool:
        """Say whether it is time to ``look``."""
        return bool(self.waiting) and now - self._looked >= LOOK_S

    def look(self, now: float) -> dict[TopicPartition, tuple[SnapshotStore, Follower]]:
        """Return partitions that are ours from now on, with their locks."""
        self._looked = now
        got: dict[TopicPartition, tuple[SnapshotStore, Follower]] = {}
        frozen = {tp: follower.pulse.frozen(now) for tp, follower in self.waiting.items()}
        for tp, follower in self.waiting.items():
            if follower.core is None and not self._fit(follower.snapshots.label()):
                break
            try:
                got[tp] = self._open(tp, frozen[tp]), follower
            except StoreHeldError:
                break
        for tp in got:
            del self.waiting[tp]
        return got

    def prepare(self, now: float) -> bool:
        """Follow one more partition, and forget what is out; return whether there is one more."""
        if now - self._prepared < _PREPARE_S:
            return False
        more = None
        for tp, follower in self.waiting.items():
            position = follower.snapshots.position()
            follower.newest = position
            if follower.core is not None:
                _forget(follower, position)
            elif more is None and position > follower.least:
                more = tp
        if more is None:
            self._prepared = now
            return False
        return self._begin(more, self.waiting[more])

    def feed(self, tp: TopicPartition, records: Sequence[Record]) -> None:
        """Follow a partition by some records."""
        follower = self.waiting.get(tp)
        if follower is None or follower.core is None:
            return
        outputs = follower.core.feed(records)
        follower.kept += outputs
        follower.bytes += sum(len(o.value) for o in outputs)
        if follower.bytes > _KEPT_BYTES:
            log.warning("too much is kept since the last snapshot, beginning anew at the next", partition=_name(tp))
            self.drop(tp)

    def drop(self, tp: TopicPartition) -> bool:
        """Follow a partition no more until there is a newer snapshot; False if it was not followed."""
        follower = self.waiting.get(tp)
        if follower is None or follower.core is None:
            return False
        follower.least = follower.snapshots.position()
        follower.core = follower.label = None
        follower.kept.clear()
        follower.bytes = 0
        return True

    def _fit(self, label: Label | None) -> bool:
        """Say whether we may go on from the newest snapshot."""
        ours = self._cores.code, self._cores.config
        return label is None or label.clean or self._accept_other_version or (label.code, label.config) == ours

    def _begin(self, tp: TopicPartition, follower: Follower) -> bool:
        generations = self._generations[tp.topic]
        label = follower.snapshots.label()
        follower.least = follower.snapshots.position()  # unless all goes well, the next one is tried
        ours = generations[tp.partition], self._cores.code, self._cores.config
        if label is None or (label.generation, label.code, label.config) != ours:
            return False
        found = follower.snapshots.load()
        if found is None:
            return False
        try:
            follower.core = self._cores.restore(tp.topic, tp.partition, len(generations), found[1])
        except SnapshotError:
            return False  # it is told when it matters
        follower.label = found[0]
        log.info("following", partition=_name(tp), position=found[0].position)
        return True


def _forget(follower: Follower, position: int) -> None:
    kept = follower.kept
    while kept and kept[0].offset <= position:
        follower.bytes -= len(kept.popleft().value)


def _name(tp: TopicPartition) -> str:
    return f"{tp.topic}-{tp.partition}"
