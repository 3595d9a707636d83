"""Handing over: timers and running events of a track that crosses a border go on in the next zone.

What the rules of one zone know of a track goes as text in the ``rules`` field of adopt and release. It names rules, not
columns, so two versions understand each other; places are geographic, for zones have origins of their own. With the
release the other zone goes on where the first left off; an adopt is kept, should the first fall silent before it can
release, and tells what it tells, so that reports of one incident on both sides of the border make one event.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from v2x.events import kernel as k
from v2x.events.merge import Closed, EventBook
from v2x.events.model import EventChange, OpenEvent
from v2x.events.table import RULE_KINDS, Ghost, TrackTable
from v2x.fusion.place import GID_SHIFT
from v2x.fusion.view import TrackView
from v2x.geo import LocalFrame

_BLOCKS: Final = (k.HELD, k.SINCE, k.OFF, k.ACTIVE)
# Lanes have other indices in another zone: what stopline keeps of them stays behind.
_MARKS: Final = {
    "moved": k.MOVED, "flag": k.FLAG_MS, "line": k.STOP_LINE_MS, "braked": k.BRAKED_MS, "airbag": k.AIRBAG_MS,
    "partner": k.PARTNER, "red": k.RED_TOLD_MS,
}  # fmt: skip
_EAST, _NORTH = 5, 6  # places in OpenEvent.told
MAX_TEXT: Final = 65_536  # as in the schemas; json leaves nothing but ASCII
LATE_MS: Final = 1_000
WORD_MS: Final = 60_000  # so long a track may take from the border's sight to the border

Word = tuple[int, str, float, float, float, float, int]  # event time, text, east, north, velocities; 1: it is ours


@dataclass(slots=True)
class Handed:
    """What came over a border with a track, in this zone's metres."""

    ghost: Ghost | None  # waits in the table for the track
    events: list[OpenEvent]
    closed: list[Closed]
    beside: list[OpenEvent]  # what else the neighbour tells: queues, which may reach over the border


class Border:
    """What a zone's detector says to its neighbours and hears from them."""

    def __init__(self, table: TrackTable, book: EventBook) -> None:
        """Begin with nothing heard."""
        self.table, self.book = table, book
        self.zones: Sequence[str] = ()  # all, as ids of tracks number them
        self.counters: Counter[str] = Counter()
        self._words: dict[int, Word] = {}  # track -> what a neighbour said of it last
        self._given: dict[int, int] = {}  # track -> last event time for which it is told here

    def home(self, track: int) -> str:
        """Return the zone that gave a track its id.

        It names the events of the track: two zones that both believe to own it then mean one event.
        """
        number = (track >> GID_SHIFT) - 1
        return self.zones[number] if 0 <= number < len(self.zones) else self.book.zone

    def say(self, track: int, until_ms: int = 0) -> str:
        """Return what a neighbour must know of a track; ``until_ms``: told here up to then, judged no more."""
        now = self.table.now
        text = pack(self.table, self.book, track, now)
        if until_ms:
            self._given[track] = until_ms
            self.table.drop(track)
            self.book.give(track, now)
        return text

    def hear(self, track: int, text: str, at_ms: int, place: tuple[float, float, float, float], *, ours: bool) -> None:
        """Take a neighbour's word of a track that is at ``place`` (east, north, velocities; m, m/s) at ``at_ms``.

        ``ours``: we tell it for event times after that; else the word is kept, should the neighbour fall silent.
        """
        if not ours and self.table.now - at_ms > LATE_MS:
            return  # it was away, and tells of the past
        self._words.pop(track, None)
        if text:
            self._words[track] = (at_ms, text, *place, int(ours))
            handed = self._read(track)
            for event in handed.beside if ours else [*handed.events, *handed.beside]:
                self.book.abroad.learn(event, self.table.now)

    def arrivals(self, now: int, view: TrackView) -> list[EventChange]:
        """Go on with the tracks that came over a border, and with those of a neighbour that fell silent."""
        if not self._words and not self._given:
            return []
        out: list[EventChange] = []
        for track, word in list(self._words.items()):
            row = int(view.id.searchsorted(track))
            here = row < len(view) and view.id.item(row) == track and now > self._given.get(track, 0)
            if not word[-1] and not here:
                if now - word[0] > WORD_MS:
                    del self._words[track]
                continue
            handed = self._read(track)
            del self._words[track]
            if handed.ghost is not None:
                self.table.expect(handed.ghost)
            for event in handed.events:
                out += self.book.take(event, now)
            for closed in handed.closed:
                self.book.recall(closed)
            self.counters["handed_tracks"] += 1
            self.counters["handed_events"] += len(handed.events)
        self._given = {track: until for track, until in self._given.items() if now <= until}
        return out

    def _read(self, track: int) -> Handed:
        """Return a neighbour's word; empty if it cannot be read."""
        at_ms, text, east, north, ve, vn, _ = self._words[track]
        try:
            return unpack(text, track, at_ms, (east, north, ve, vn), self.book.frame)
        except (ValueError, KeyError, TypeError):
            self.counters["handed_unreadable"] += 1
            return Handed(None, [], [], [])

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        words = [[track, *word] for track, word in self._words.items()]
        return {"words": words, "given": [list(x) for x in self._given.items()], "counters": dict(self.counters)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self._words = {r[0]: (r[1], r[2], r[3], r[4], r[5], r[6], r[7]) for r in state["words"]}
        self._given = dict(state["given"])
        self.counters = Counter(state["counters"])


def pack(table: TrackTable, book: EventBook, track: int, now: int) -> str:
    """Return what the rules know of a track at event time ``now``; empty if nothing of it matters."""
    events = [event for event in book.open.values() if event.tracks == [track]]
    closed = book.cooling(track, now)
    row = table.row(track)
    rules: dict[str, list[int]] = {}
    out: dict[str, Any] = {"t": now, "rules": rules}
    if row is not None:
        ints, reals = row
        for rule, kind in enumerate(RULE_KINDS):
            if ints[k.SINCE + rule] or ints[k.ACTIVE + rule]:
                rules[kind] = [int(ints[block + rule]) for block in _BLOCKS]
        slow = reals[k.HISTORY - 1] < table.p[k.P_SEEN]  # who is faster has moved, as the next frame shows
        if rules or (slow and ints[k.MOVED]):
            out |= {name: int(ints[at]) for name, at in _MARKS.items()}
            speeds = zip(table.times.tolist(), reals[: k.HISTORY].tolist(), strict=True)
            out["speeds"] = [[t, v] for t, v in speeds if v >= 0.0]
            out["slowest"] = float(reals[k.SLOWEST])
    jams = [event for event in book.open.values() if event.group == "congestion"]
    if len(out) == 2 and not events and not closed and not jams:
        return ""
    out["beside"] = [_event_out(event, book.frame) for event in jams]
    out["events"] = [_event_out(event, book.frame) for event in events]
    out["closed"] = [[_event_out(c.event, book.frame), c.at_ms, c.lost, [list(key) for key in c.keys]] for c in closed]
    text = json.dumps(out, sort_keys=True, separators=(",", ":"))
    return text if len(text) <= MAX_TEXT else ""  # hundreds of reports of one event: it begins anew


def unpack(text: str, track: int, until_ms: int, place: tuple[float, float, float, float], frame: LocalFrame) -> Handed:
    """Return what ``pack`` said of a track that is at ``place`` (east, north, m; velocities, m/s) at ``until_ms``.

    ValueError, KeyError or TypeError if it is no such text.
    """
    told: Mapping[str, Any] = json.loads(text)
    ghost = None
    if "speeds" in told:
        ints, reals = np.zeros(k.INT_WIDTH, np.int64), np.full(k.REAL_WIDTH, -1.0)
        for kind, row in told["rules"].items():
            if kind in RULE_KINDS:  # a newer version may have more
                for block, value in zip(_BLOCKS, row, strict=True):
                    ints[block + RULE_KINDS.index(kind)] = value
        for name, at in _MARKS.items():
            ints[at] = told.get(name, 0)
        ints[k.SEEN_MS] = until_ms
        reals[[k.EAST, k.NORTH, k.VEL_E, k.VEL_N]] = place
        reals[k.SLOWEST] = told["slowest"]
        ghost = Ghost(track, until_ms, ints, reals, int(told["t"]), [(int(t), float(v)) for t, v in told["speeds"]])
    closed = [
        Closed(_event_in(event, frame), at, lost, [(key[0], key[1], key[2]) for key in keys], [track])
        for event, at, lost, keys in told["closed"]
    ]
    events, beside = ([_event_in(event, frame) for event in told.get(name, ())] for name in ("events", "beside"))
    return Handed(ghost, events, closed, beside)


def _event_out(event: OpenEvent, frame: LocalFrame) -> dict[str, Any]:
    out = event.state()
    out["place"]["east"], out["place"]["north"] = frame.e7(event.place.east, event.place.north)
    if out["told"]:
        out["told"] = list(out["told"])
        out["told"][_EAST], out["told"][_NORTH] = frame.e7(out["told"][_EAST], out["told"][_NORTH])
    out["tail"], out["lanes"] = None, []
    return out


def _event_in(row: Mapping[str, Any], frame: LocalFrame) -> OpenEvent:
    event = OpenEvent.load(row)
    event.place.east, event.place.north = frame.point(int(row["place"]["east"]), int(row["place"]["north"]))
    if event.told:
        event.told[_EAST], event.told[_NORTH] = frame.point(int(event.told[_EAST]), int(event.told[_NORTH]))
    return event
