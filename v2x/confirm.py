"""End-to-end confirmation: what of each device's reliable messages is durable, derived from the log alone.

A *stream* is one device, boot and reliable message type; ``seq`` counts in it from 0 without gaps. Of each stream we
keep::

     floor            hole            top
    ──┴────durable────┴─missing─┴─durable─┘      refused: dead-lettered, settled as well
    below: nothing is known or told

A report says ``upto``, and what is missing at or below it, so it is cumulative: any later one makes up for a lost one.
It never calls a number durable that is not. Where holes are too many to be told, ``upto`` ends before the first untold
one; where they are too many to be kept, or were told ``PATIENCE`` times in vain (their device has long given up),
``floor`` goes over them, and numbers below it are *not* confirmed.

Nothing here reads a clock: a second is what the caller calls ``due`` for, and idle streams leave by the log's stamps.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any, Final, NamedTuple

from v2x.topics import UPLINKS, MessageClass

TOLD: Final = 1000  # missing numbers in a report; so many are assumed missing before the first number of a stream
REFUSED: Final = 64  # refused numbers kept, the newest
HOLES: Final = 4096  # runs of missing numbers kept of a stream
PATIENCE: Final = 300  # reports that tell a hole in vain
REPEATS: Final = 3  # reports after the last record of a stream
REPEATS_MISSING: Final = 30  # the same while something is missing
BOOTS: Final = 3  # kept of a device and type, the last heard ones
DEVICES: Final = 200_000  # devices and types kept
IDLE_MS: Final = 31 * 86_400_000  # beyond what ingest takes of a reliable message
_FORGET: Final = 16  # a full table forgets one in so many, the longest idle ones
RELIABLE: Final = tuple(row for row in UPLINKS if row.message_class is MessageClass.RELIABLE)
_FIRST, _LAST, _SINCE = range(3)  # of a hole; since which report it is told, -1 not yet


class Report(NamedTuple):
    """What is said of one stream."""

    code: int  # UPLINKS
    device: str
    boot: int  # ms UTC
    floor: int
    upto: int
    gaps: list[int]
    refused: list[int]


class Stream:
    """What is known of one device, boot and type."""

    __slots__ = ("boot", "code", "device", "floor", "holes", "quiet", "refused", "reports", "stamp_ms", "top")

    def __init__(self, code: int, device: str, boot: int, seq: int) -> None:
        """Begin with the first number that is settled."""
        self.code, self.device, self.boot = code, device, boot
        self.floor, self.top = max(0, seq - TOLD), seq
        self.holes: list[list[int]] = [[self.floor, seq - 1, -1]] if seq > self.floor else []
        self.refused: list[int] = []
        self.reports = self.quiet = self.stamp_ms = 0

    def settle(self, seq: int) -> bool:
        """Take a number that is durable or refused; return whether it is news."""
        if seq > self.top:
            if seq > self.top + 1:
                self.holes.append([self.top + 1, seq - 1, -1])
                if len(self.holes) > HOLES:
                    self._pass_over()
            self.top = seq
            return True
        at = bisect_right(self.holes, seq, key=itemgetter(_FIRST)) - 1
        if at < 0 or seq > self.holes[at][_LAST]:
            return False
        first, last, _ = self.holes[at]
        # What is left of it begins anew: a device that fills its holes is not to be given up.
        self.holes[at : at + 1] = [[a, b, -1] for a, b in ((first, seq - 1), (seq + 1, last)) if a <= b]
        return True

    def refuse(self, seq: int) -> bool:
        """Take a number that is dead-lettered; one that is durable stays so."""
        if not self.settle(seq):
            return False
        insort(self.refused, seq)
        del self.refused[:-REFUSED]
        return True

    def missing(self) -> int:
        """Return how many numbers are missing."""
        return sum(last - first + 1 for first, last, _ in self.holes)

    def report(self) -> tuple[Report, int]:
        """Return what is to be said, and how many numbers are given up from now on."""
        given_up = 0
        while self.holes and 0 <= self.holes[0][_SINCE] <= self.reports - PATIENCE:
            given_up += self._pass_over()
        gaps: list[int] = []
        upto = self.top
        for hole in self.holes:
            first, last, since = hole
            if since < 0:
                hole[_SINCE] = self.reports
            end = min(last + 1, first + TOLD - len(gaps))
            gaps += range(first, end)
            if end <= last:
                upto = end - 1
                break
        self.reports += 1
        refused = [seq for seq in self.refused if seq <= upto]
        return Report(self.code, self.device, self.boot, self.floor, upto, gaps, refused), given_up

    def _pass_over(self) -> int:
        first, last, _ = self.holes.pop(0)
        self.floor = last + 1
        return last - first + 1


class Confirmations:
    """All streams, bounded. Feed it the log's records of reliable types, in the order of each partition."""

    def __init__(self, devices: int = DEVICES) -> None:
        self._most = devices
        self._streams: dict[tuple[int, str], dict[int, Stream]] = {}
        self._told: dict[Stream, None] = {}  # with something to say
        self._now_ms = 0  # newest stamp
        self.durable = self.repeated = self.refused = self.given_up = self.forgotten = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def telling(self) -> int:
        """Streams that reports are made of at present."""
        return len(self._told)

    def missing(self) -> int:
        """Return how many numbers are missing in streams that reports are made of."""
        return sum(stream.missing() for stream in self._told)

    def take(self, code: int, device: str, boot: int, seq: int, stamp_ms: int) -> None:
        """Take a record that is in the log. ``code``: of UPLINKS; ``stamp_ms``: the log's."""
        stream = self._streams.get((code, device), {}).get(boot)
        if stream is None:
            stream = self._begin(code, device, boot, seq)
            self.durable += 1
        elif stream.settle(seq):
            self.durable += 1
        else:
            self.repeated += 1
            if seq in stream.refused:  # it was mended and sent again
                stream.refused.remove(seq)
        self._touch(stream, stamp_ms)

    def refuse(self, code: int, device: str, boot: int, seq: int, stamp_ms: int) -> None:
        """Take a dead letter whose number is known."""
        stream = self._streams.get((code, device), {}).get(boot)
        if stream is None:
            stream = self._begin(code, device, boot, seq)
            insort(stream.refused, seq)
            self.refused += 1
        else:
            self.refused += stream.refuse(seq)
        self._touch(stream, stamp_ms)

    def due(self) -> Iterator[Report]:
        """Yield what is to be said now; call it about once a second."""
        for stream in list(self._told):
            report, given_up = stream.report()
            self.given_up += given_up
            stream.quiet += 1
            if stream.quiet >= (REPEATS_MISSING if stream.holes else REPEATS):
                del self._told[stream]
            yield report

    def leave_idle(self) -> None:
        """Forget what has been idle for so long that nothing of it can come any more; call it now and then."""
        old = self._now_ms - IDLE_MS
        for key, boots in list(self._streams.items()):
            if max(stream.stamp_ms for stream in boots.values()) < old:
                self._forget(key)

    def dump(self) -> list[Any]:
        """Return all streams, JSON-able."""
        rows: list[Any] = []
        for (code, device), boots in self._streams.items():
            of = [
                [s.boot, s.floor, s.top, [hole[:_SINCE] for hole in s.holes], s.refused, s.stamp_ms]
                for s in boots.values()
            ]
            rows.append([code, device, of])
        return rows

    def load(self, rows: Iterable[Any], *, recent_ms: int = 600_000) -> None:
        """Take over what ``dump`` returned; streams heard of lately are told of again."""
        for code, device, boots in rows:
            known = self._streams.setdefault((code, device), {})
            for boot, floor, top, holes, refused, stamp_ms in boots:
                stream = known[boot] = Stream(code, device, boot, top)
                stream.floor, stream.stamp_ms = floor, stamp_ms
                stream.holes = [[first, last, -1] for first, last in holes]
                stream.refused = list(refused)
                self._now_ms = max(self._now_ms, stamp_ms)
        for boots in self._streams.values():
            for stream in boots.values():
                if stream.stamp_ms >= self._now_ms - recent_ms:
                    self._told[stream] = None

    def _begin(self, code: int, device: str, boot: int, seq: int) -> Stream:
        boots = self._streams.get((code, device))
        if boots is None:
            if len(self._streams) >= self._most:
                self._make_room()
            boots = self._streams[code, device] = {}
        stream = boots[boot] = Stream(code, device, boot, seq)
        if len(boots) > BOOTS:
            stream.stamp_ms = self._now_ms
            oldest = min(boots.values(), key=lambda s: s.stamp_ms)
            del boots[oldest.boot]
            self._told.pop(oldest, None)
        return stream

    def _touch(self, stream: Stream, stamp_ms: int) -> None:
        stream.stamp_ms = max(stream.stamp_ms, stamp_ms)
        self._now_ms = max(self._now_ms, stamp_ms)
        stream.quiet = 0
        self._told[stream] = None

    def _make_room(self) -> None:
        """Forget the longest idle devices."""
        by_age = sorted(self._streams, key=lambda key: max(s.stamp_ms for s in self._streams[key].values()))
        for key in by_age[: max(1, len(by_age) // _FORGET)]:
            self._forget(key)

    def _forget(self, key: tuple[int, str]) -> None:
        for stream in self._streams.pop(key).values():
            self._told.pop(stream, None)
            self.forgotten += 1
