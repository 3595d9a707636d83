"""Accounting: what became of every message that was published, and whether what came out is told once.

The unit is a *stream*: one device, one boot, one message type; in it ``seq`` counts from 0 without gaps, so a set of
numbers says everything. The law that must hold is

    acknowledged = in the log + dead-lettered (- both) + lost

and ``lost`` must be empty. A message that was published but never acknowledged may be missing (the device was told
nothing); it is counted apart. Records may repeat in the log: the reader's rule (device, boot, type, seq) takes the
first, raw copies are counted apart and are no fault. A dead letter whose sequence number could not be read is set
against the messages of that device and type which were sent spoilt on purpose, by count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
_NONE: I64 = np.zeros(0, np.int64)


class Stream(NamedTuple):
    """What ``seq`` counts within: schema names stand for message types (they are one to one for a device)."""

    device: str
    boot: int  # ms UTC
    type: str  # schema name


class Span(NamedTuple):
    """Sequence numbers first..last, both inclusive."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def distinct(seqs: I64) -> I64:
    """Return the numbers in ``seqs``, ascending, each once; of a few numbers much faster than np.unique."""
    ordered = np.sort(seqs)
    if ordered.size < 2:
        return ordered
    fresh = ordered[1:] != ordered[:-1]
    return ordered if fresh.all() else ordered[np.concatenate(([True], fresh))]


def spans(seqs: I64) -> tuple[Span, ...]:
    """Return the runs of consecutive numbers in ``seqs`` (any order, repeats allowed)."""
    if not seqs.size:
        return ()
    some = distinct(seqs)
    if some[-1] - some[0] == some.size - 1:
        return (Span(int(some[0]), int(some[-1])),)
    cuts = np.flatnonzero(np.diff(some) != 1) + 1
    firsts = some[np.concatenate(([0], cuts))]
    lasts = some[np.concatenate((cuts - 1, [some.size - 1]))]
    return tuple(Span(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True))


def missing(seqs: I64) -> tuple[Span, ...]:
    """Return the gaps between the smallest and the largest number of ``seqs``."""
    runs = spans(seqs)
    return tuple(Span(a.last + 1, b.first - 1) for a, b in pairwise(runs))


def _without(these: I64, those: I64) -> I64:
    """Return the numbers of ``these`` that are not in ``those``; both are ascending, each number once."""
    if not these.size or not those.size:
        return these
    return _NONE if np.array_equal(these, those) else np.setdiff1d(these, those, assume_unique=True)


def size(runs: Iterable[Span]) -> int:
    """Return how many numbers ``runs`` hold."""
    return sum(run.last - run.first + 1 for run in runs)


@dataclass(slots=True)
class Sightings:
    """Where the sequence numbers of one stream were seen; arrays in any order, repeats kept."""

    published: I64 = field(default_factory=lambda: _NONE)
    acknowledged: I64 = field(default_factory=lambda: _NONE)
    spoilt: I64 = field(default_factory=lambda: _NONE)  # published bad on purpose
    logged: I64 = field(default_factory=lambda: _NONE)
    fused: I64 = field(default_factory=lambda: _NONE)  # logged at or before the last thing fusion said
    dead: dict[str, I64] = field(default_factory=dict)  # by reason


@dataclass(slots=True)
class StreamAccount:
    """What became of one stream. Counts are of distinct sequence numbers unless said."""

    stream: Stream
    published: int
    acknowledged: int
    logged: int
    repeated: int  # records beyond the first of their number
    dead: dict[str, int]
    fused: int
    lost: tuple[Span, ...]  # acknowledged, in neither place
    unacknowledged: tuple[Span, ...]  # published, never acknowledged, in neither place
    unknown: tuple[Span, ...]  # in the log or dead-lettered, but not in the ledger
    gaps: tuple[Span, ...]  # between the first and last number seen in the log and the dead letters
    excused: int = 0  # taken off ``lost``: spoilt, and a dead letter without a readable number stands for it


def account(stream: Stream, seen: Sightings, *, ledger: bool = True) -> StreamAccount:
    """Settle one stream. Without a ledger, what is lost is what the sequence gaps say."""
    published, acknowledged = distinct(seen.published), distinct(seen.acknowledged)
    logged = distinct(seen.logged)
    dead = {reason: distinct(seqs) for reason, seqs in sorted(seen.dead.items())}
    arrived = distinct(np.concatenate((logged, *dead.values()))) if dead else logged
    gaps = missing(arrived)
    silent = _without(published, acknowledged)
    return StreamAccount(
        stream=stream,
        published=published.size,
        acknowledged=acknowledged.size,
        logged=logged.size,
        repeated=seen.logged.size - logged.size,
        dead={reason: seqs.size for reason, seqs in dead.items()},
        fused=distinct(seen.fused).size,
        lost=spans(_without(acknowledged, arrived)) if ledger else gaps,
        unacknowledged=spans(_without(silent, arrived)),
        unknown=spans(_without(arrived, published)) if ledger else (),
        gaps=gaps,
    )


@dataclass(slots=True)
class Account:
    """The whole table: streams, and what no stream could be found for."""

    streams: list[StreamAccount]
    unreadable: dict[str, int]  # dead letters whose sequence number could not be read, by reason
    ledger: bool

    def _sum(self, name: str) -> int:
        return sum(getattr(row, name) for row in self.streams)

    @property
    def published(self) -> int:
        """Messages published (repeats of one number once)."""
        return self._sum("published")

    @property
    def acknowledged(self) -> int:
        """Messages that the sender was told are taken."""
        return self._sum("acknowledged")

    @property
    def logged(self) -> int:
        """Distinct messages in Kafka."""
        return self._sum("logged")

    @property
    def repeated(self) -> int:
        """Raw copies in Kafka beyond the first of each message."""
        return self._sum("repeated")

    @property
    def fused(self) -> int:
        """Distinct messages that fusion has taken in."""
        return self._sum("fused")

    @property
    def dead(self) -> dict[str, int]:
        """Dead letters by reason, those without a readable number included."""
        total: Counter[str] = Counter(self.unreadable)
        for row in self.streams:
            total.update(row.dead)
        return dict(sorted(total.items()))

    @property
    def lost(self) -> int:
        """Messages acknowledged and in neither place; the audit's verdict. Without a ledger: the gaps."""
        return sum(size(row.lost) - row.excused for row in self.streams)

    @property
    def unacknowledged(self) -> int:
        """Messages published, never acknowledged, and in neither place."""
        return sum(size(row.unacknowledged) for row in self.streams)

    @property
    def unknown(self) -> int:
        """Messages that arrived but are in nobody's ledger."""
        return sum(size(row.unknown) for row in self.streams)

    def by_type(self) -> dict[str, Account]:
        """Return the table split by message type."""
        split: dict[str, list[StreamAccount]] = defaultdict(list)
        for row in self.streams:
            split[row.stream.type].append(row)
        return {name: Account(rows, {}, self.ledger) for name, rows in sorted(split.items())}

    def faults(self) -> list[StreamAccount]:
        """Return the streams that lost something, worst first."""
        bad = [row for row in self.streams if size(row.lost) > row.excused]
        return sorted(bad, key=lambda row: (-size(row.lost), row.stream))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Dead letters of one device and type whose sequence number could not be read."""

    device: str
    type: str
    reason: str
    count: int


def settle(
    sightings: Mapping[Stream, Sightings], unreadable: Iterable[Unreadable] = (), *, ledger: bool = True
) -> Account:
    """Settle all streams, and set dead letters without a readable number against spoilt messages, by count."""
    rows = [account(stream, seen, ledger=ledger) for stream, seen in sorted(sightings.items())]
    left: Counter[tuple[str, str]] = Counter()
    reasons: Counter[str] = Counter()
    for item in unreadable:
        left[item.device, item.type] += item.count
        reasons[item.reason] += item.count
    for row in rows:
        key = (row.stream.device, row.stream.type)
        if not left[key] or not row.lost:
            continue
        spoilt = np.unique(sightings[row.stream].spoilt)
        gone = sum(int(np.searchsorted(spoilt, b, "right") - np.searchsorted(spoilt, a)) for a, b in row.lost)
        row.excused = min(gone, left[key])
        left[key] -= row.excused
    return Account(rows, dict(reasons), ledger)


# --- What came out ----------------------------------------------------------


class EventRow(NamedTuple):
    """A record of the event topic, in the order of its partition."""

    event_id: str
    revision: int
    status: str  # ADDED, MODIFIED, ENDED
    digest: int  # of the value: copies must be equal
    partition: int = 0


@dataclass(slots=True)
class EventCheck:
    """Whether events are told once, whole and in order, after the reader's rule (first of each id and revision)."""

    records: int = 0
    events: int = 0
    copies: int = 0  # raw repeats, equal in every byte: no fault
    open: int = 0  # not ENDED yet
    conflicts: list[str] = field(default_factory=list)  # same id and revision, other content
    gaps: list[str] = field(default_factory=list)  # a revision is missing, or revisions run backwards
    beginnings: list[str] = field(default_factory=list)  # revision 0 is not ADDED, or ADDED comes again
    endings: list[str] = field(default_factory=list)  # ENDED twice, or something after it

    @property
    def duplicates(self) -> int:
        """Events told twice after the reader's rule."""
        return len(self.conflicts) + len(self.beginnings) + len(self.endings)

    @property
    def faults(self) -> list[str]:
        """Return all that is wrong, in words."""
        return [*self.conflicts, *self.gaps, *self.beginnings, *self.endings]


def check_events(rows: Iterable[EventRow]) -> EventCheck:
    """Check event records, each partition's in its order.

    An event that crosses into a zone of another partition goes on there, so its revisions are put together first;
    within a partition they must ascend.
    """
    check = EventCheck()
    found: dict[str, dict[int, EventRow]] = {}
    last: dict[tuple[str, int], int] = {}  # by event and partition
    for row in rows:
        check.records += 1
        told = found.setdefault(row.event_id, {})
        name = f"{row.event_id} revision {row.revision}"
        known = told.get(row.revision)
        if known is not None:
            if known.digest == row.digest:
                check.copies += 1
            else:
                check.conflicts.append(f"{name} is there twice with different content")
            continue
        told[row.revision] = row
        before = last.get((row.event_id, row.partition), -1)
        if row.revision < before:
            check.gaps.append(f"{name} follows revision {before}")
        last[row.event_id, row.partition] = max(row.revision, before)
    for told in found.values():
        _check_story([told[revision] for revision in sorted(told)], check)
    check.events = len(found)
    return check


def _check_story(rows: list[EventRow], check: EventCheck) -> None:
    """Check the revisions of one event, ascending."""
    before: EventRow | None = None
    for row in rows:
        name = f"{row.event_id} revision {row.revision}"
        if row.revision != (0 if before is None else before.revision + 1):
            check.gaps.append(f"{name} follows {'nothing' if before is None else f'revision {before.revision}'}")
        if (row.status == "ADDED") != (row.revision == 0):
            check.beginnings.append(f"{name} is {row.status}")
        if before is not None and before.status == "ENDED":
            check.endings.append(f"{name} ({row.status}) comes after ENDED")
        before = row
    check.open += rows[-1].status != "ENDED"


@dataclass(slots=True)
class PositionCheck:
    """Whether records of one topic are unique by position; copies must be equal."""

    records: int = 0
    copies: int = 0
    conflicts: list[str] = field(default_factory=list)


def check_positions(generation: I64, partition: I64, offset: I64, nth: I64, digest: I64) -> PositionCheck:
    """Check that a position stands for one content only (a zombie may write copies, never another story).

    Columns (n,) of records in their order: a number for the generation, input partition and offset, the record's
    ``index``, and a digest of its value.
    """
    check = PositionCheck(records=len(offset))
    order = np.lexsort((nth, offset, partition, generation))
    keys = np.stack((generation, partition, offset, nth))[:, order]
    known = np.concatenate(([False], (keys[:, 1:] == keys[:, :-1]).all(axis=0)))[: len(order)]
    first = np.maximum.accumulate(np.where(known, 0, np.arange(len(order))))
    equal = digest[order] == digest[order[first]]
    check.copies = int(np.count_nonzero(known & equal))
    for i in np.sort(order[known & ~equal]).tolist():
        check.conflicts.append(f"partition {partition[i]} offset {offset[i]} index {nth[i]} has two contents")
    return check
