"""The book of open events: one incident is one event, whoever reports it and however often.

Kinds of one group (stopped, broken down, accident) at one place are one incident; the highest rank names it. A report
(RSI) is known by (device, id at the device): repeated, it only stays alive. Our own detection is known by its track.
An event ends when nobody supports it any more. What ended because it was lost sight of, or because reports ceased, and
comes back at the same place within a minute, goes on under its old id (MODIFIED, the next revision).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any, Final

from v2x.events.abroad import Abroad
from v2x.events.catalogue import Rule
from v2x.events.model import ADDED, ENDED, MODIFIED, EventChange, OpenEvent, Place, Source, event_id
from v2x.geo import LocalFrame

REOPEN_MS: Final = 60_000
REOPEN_M: Final = 8.0
SAME_M: Final = 15.0  # two vehicles that stand this near on one link are one incident
QUEUE_M: Final = 15.0  # a change of a queue below this is not material; who drives towards its tail needs no less


@dataclass(slots=True)
class Closed:
    """An event that has just ended."""

    event: OpenEvent
    at_ms: int
    lost: bool  # nobody saw it end
    keys: list[tuple[str, int, str]]  # reports it had
    tracks: list[int]


class EventBook:
    """Open events of one zone."""

    def __init__(self, zone: str, frame: LocalFrame, rules: Mapping[str, Rule]) -> None:
        """Begin empty."""
        self.zone, self.frame, self.rules = zone, frame, rules
        self.open: dict[str, OpenEvent] = {}
        self._closed: list[Closed] = []
        self._withdrawn: dict[tuple[str, int, str], int] = {}  # report -> ts of its withdrawal
        self.abroad = Abroad()

    # -- our own detection ------------------------------------------------------------------------------------------
    def detect(
        self, now: int, kind: str, start_ms: int, track: int, place: Place, level: int, speed: float, *, ref: str = "",
        home: str = "", partner: int = 0,
    ) -> OpenEvent | None:  # fmt: skip
        """Open an event of a track, or join the one that is there; None: it is too soon after the last one.

        ``ref``: what its source is called, if not by the track (or what stands for one). ``home``: the zone that names
        it, if it is not this one. ``partner``: the other track of an incident of two; 0 none.
        """
        ref = ref or str(track)
        rule = self.rules[kind]
        event = self.of_track(track, rule.group) or self._joinable(rule, place)
        if event is None and partner:  # they may stand on two links
            theirs = self.of_track(partner, rule.group)
            if theirs is not None and hypot(theirs.place.east - place.east, theirs.place.north - place.north) <= SAME_M:
                event = theirs
        if event is None and (self._cooling(now, rule, track) or self.abroad.detects(now, rule, track, place, SAME_M)):
            return None
        if event is None:
            event = self._reopen_lost(rule, place)
        if event is None:
            name = self._fresh_id(event_id(home or self.zone, kind, start_ms, ref))
            event = OpenEvent(name, kind, rule.code, rule.group, level, place, start_ms, now)
            self.open[name] = event
        if track not in event.tracks:
            event.tracks.append(track)
        self._upgrade(event, rule)
        if not event.detection:
            event.place, event.detection_ref = place, ref
            event.start_ms = min(event.start_ms, start_ms) if event.revision >= 0 else start_ms
        if event.kind == kind:  # what it is named by counts: it surely stands, and is perhaps an accident
            event.detection = rule.confidence
        event.detection = event.detection or rule.confidence
        event.level, event.speed = max(event.level, level), speed
        return event

    def of_track(self, track: int, group: str) -> OpenEvent | None:
        """Return the open event of a group that a track supports."""
        for event in self.open.values():
            if event.group == group and track in event.tracks:
                return event
        return None

    def lift(self, now: int, track: int, group: str, at_ms: int, *, lost: bool) -> EventChange | None:
        """Take a track's support away; return the end of the event if it was the last."""
        event = self.of_track(track, group)
        if event is None:
            return None
        event.tracks.remove(track)
        return None if event.alive else self._end(event, now, at_ms, lost=lost, tracks=[track])

    def succeed(self, old: int, new: int) -> None:
        """Let a track that was born again take the place of its former self."""
        for event in self.open.values():
            if old in event.tracks:
                event.tracks[event.tracks.index(old)] = new
                event.tracks = list(dict.fromkeys(event.tracks))

    def testify(self, event: OpenEvent, source: Source) -> None:
        """Add or refresh a report's support."""
        event.reports[source.key] = source

    # -- reports ----------------------------------------------------------------------------------------------------
    def report(
        self, now: int, kind: str, source: Source, place: Place, start_ms: int, level: int, speed: float
    ) -> OpenEvent | None:
        """Take a report; return its event, None if the report was withdrawn after it was made."""
        if self._withdrawn.get(source.key, -1) >= source.seen_ms:
            return None
        rule = self.rules[kind]
        for event in self.open.values():
            if source.key in event.reports:
                if event.group == rule.group:
                    self.testify(event, source)
                    self._upgrade(event, rule)
                    first = next(iter(event.reports)) == source.key  # two that disagree must not make it flap
                    if first and not event.detection:  # else we know the place better
                        event.place, event.level = place, level
                        event.speed = speed
                    return event
                del event.reports[source.key]  # the device now calls it something else
                break
        found = self.near(rule, place)
        if found is None and self.abroad.reports(now, rule, source, place):
            return None
        found = found or self._reopen_report(source.key, rule)
        if found is None:
            name = self._fresh_id(event_id(self.zone, kind, start_ms, source.device + "." + source.ref))
            found = OpenEvent(name, kind, rule.code, rule.group, level, place, start_ms, now, speed=speed)
            self.open[name] = found
        self.testify(found, source)
        self._upgrade(found, rule)
        return found

    def withdraw(self, now: int, key: tuple[str, int, str], ts_ms: int, at_ms: int) -> list[EventChange]:
        """Take a report back."""
        self._withdrawn[key] = max(ts_ms, self._withdrawn.get(key, ts_ms))
        mine = [event for event in self.open.values() if event.reports.pop(key, None) is not None]
        return [self._end(event, now, at_ms, lost=False, tracks=[]) for event in mine if not event.alive]

    # -- time -------------------------------------------------------------------------------------------------------
    def tick(self, now: int) -> list[EventChange]:
        """End what nobody repeats, and what was announced to end."""
        out = []
        for event in list(self.open.values()):
            last = event.end_ms
            lost = True
            for key, source in list(event.reports.items()):
                if source.until_ms and now >= source.until_ms:
                    last, lost = source.until_ms, False
                    self._withdrawn[key] = source.seen_ms
                elif now - source.seen_ms > source.hold_ms:
                    last = source.seen_ms
                else:
                    continue
                out_of = event.reports.pop(key)
                if not event.alive:
                    out.append(self._end(event, now, last, lost=lost, tracks=[], keys=[out_of.key]))
        if self._closed:
            self._closed = [c for c in self._closed if now - c.at_ms <= REOPEN_MS]
        self.abroad.tick(now)
        if len(self._withdrawn) > 64:
            self._withdrawn = {k: ts for k, ts in self._withdrawn.items() if now - ts <= 60 * REOPEN_MS}
        return out

    def flush(self, now: int) -> list[EventChange]:
        """Return the revisions that are due: new events, and material changes no more often than their rule says."""
        out = []
        for event in self.open.values():
            view = self._view(event)
            if event.revision < 0:
                out.append(self._tell(event, ADDED, now, view))
            elif self._material(event, view, now):
                out.append(self._tell(event, MODIFIED, now, view))
        return out

    # -- borders ----------------------------------------------------------------------------------------------------
    def give(self, track: int, now: int) -> None:
        """Let a neighbour have the events that a track alone supports."""
        for event in [e for e in self.open.values() if e.tracks == [track]]:
            del self.open[event.event_id]
            self.abroad.learn(event, now)

    def take(self, event: OpenEvent, now: int) -> list[EventChange]:
        """Go on with a neighbour's event; return the end of one of ours that is the same incident."""
        self.abroad.forget(event.event_id)
        mine = self.open.get(event.event_id)
        if mine is not None:  # taken over unasked: what we told since stands
            mine.revision = max(mine.revision, event.revision)
            return []
        if any(c.event.event_id == event.event_id for c in self._closed):
            return []  # we have seen its end
        if event.told:
            event.told[4] = [["handed over"]]  # whose it is now is material: the next revision says so
        rule = self.rules[event.kind]
        twins = [e for e in self.open.values() if e.group == event.group and self._same(rule, e, event)]
        self.open[event.event_id] = event
        out = []
        for twin in twins:
            event.reports.update(twin.reports)
            event.tracks = list(dict.fromkeys([*event.tracks, *twin.tracks]))
            self._upgrade(event, self.rules[twin.kind])
            if twin.revision < 0:
                del self.open[twin.event_id]
            else:
                out.append(self.close(twin, now, now))
        return out

    def recall(self, closed: Closed) -> None:
        """Remember what a neighbour ended a moment ago."""
        if all(c.event.event_id != closed.event.event_id for c in self._closed):
            self._closed.append(closed)

    def cooling(self, track: int, now: int) -> list[Closed]:
        """Return the events of a track that ended so short a time ago that no second one may begin."""
        return [c for c in self._closed if track in c.tracks and now - c.at_ms < self.rules[c.event.kind].cooldown_ms]

    @staticmethod
    def _same(rule: Rule, mine: OpenEvent, theirs: OpenEvent) -> bool:
        if set(mine.tracks) & set(theirs.tracks) or mine.reports.keys() & theirs.reports.keys():
            return True
        away = hypot(mine.place.east - theirs.place.east, mine.place.north - theirs.place.north)
        return not mine.tracks and away <= rule.merge_m + max(mine.place.radius, 0.0)

    # -- inside -----------------------------------------------------------------------------------------------------
    def _tell(self, event: OpenEvent, status: str, now: int, view: list[Any]) -> EventChange:
        event.revision += 1
        event.told, event.told_ms = view, now
        return event.change(self.zone, self.frame, status, now)

    def _end(
        self,
        event: OpenEvent,
        now: int,
        at_ms: int,
        *,
        lost: bool,
        tracks: list[int],
        keys: list[tuple[str, int, str]] | None = None,
    ) -> EventChange:
        event.end_ms = max(at_ms, event.start_ms)
        change = self._tell(event, ENDED, now, self._view(event))
        del self.open[event.event_id]
        self._closed.append(Closed(event, now, lost, keys or [], tracks))
        return change

    def close(self, event: OpenEvent, now: int, at_ms: int) -> EventChange:
        """End an event whatever supports it."""
        event.tracks, event.reports = [], {}
        return self._end(event, now, at_ms, lost=False, tracks=[])

    def _upgrade(self, event: OpenEvent, rule: Rule) -> None:
        if rule.rank > self.rules[event.kind].rank:
            event.kind, event.code = rule.kind, rule.code

    @staticmethod
    def _view(event: OpenEvent) -> list[Any]:
        """Return what is compared to see whether a change is material."""
        place = event.place
        reports = [[*key] for key in event.reports]
        if len(reports) > 1:
            reports.sort()
        return [
            event.kind, event.level, place.link, place.lane, reports, place.east, place.north, event.queue,
            bool(event.detection),
        ]  # fmt: skip

    def _material(self, event: OpenEvent, view: list[Any], now: int) -> bool:
        rule, told = self.rules[event.kind], event.told
        if view[:2] != told[:2] or view[4] != told[4] or view[8] != told[8]:
            return True  # kind, level or sources: at once
        if now - event.told_ms < rule.update_ms:
            return False
        if abs(view[7] - told[7]) >= QUEUE_M:
            return True
        moved = hypot(view[5] - told[5], view[6] - told[6])
        if rule.moving:
            return moved >= rule.move_m
        return view[2:4] != told[2:4] or moved >= rule.move_m

    def _joinable(self, rule: Rule, place: Place) -> OpenEvent | None:
        """Return the event that our detection is part of: reported near and not yet seen, or standing side by side."""
        best, nearest = None, float("inf")
        for event in self.open.values():
            if event.group != rule.group or place.opposes(event.place):
                continue
            away = hypot(event.place.east - place.east, event.place.north - place.north)
            if event.tracks:
                reach = SAME_M if not rule.moving and event.place.link == place.link else -1.0
            else:
                reach = rule.merge_m + max(event.place.radius, 0.0)
            if away <= reach and away < nearest:
                best, nearest = event, away
        return best

    def near(self, rule: Rule, place: Place) -> OpenEvent | None:
        """Return the nearest open event of the group that a report can mean."""
        best, nearest = None, float("inf")
        for event in self.open.values():
            if event.group != rule.group or place.opposes(event.place):
                continue
            reach = rule.merge_m + max(place.radius, 0.0) + max(event.queue, 0.0)
            away = hypot(event.place.east - place.east, event.place.north - place.north)
            if event.tail is not None:
                away = min(away, hypot(event.tail[0] - place.east, event.tail[1] - place.north))
            if away <= reach and away < nearest:
                best, nearest = event, away
        return best

    def _cooling(self, now: int, rule: Rule, track: int) -> bool:
        """Say whether the same vehicle had one of these a moment ago."""
        return any(
            c.event.group == rule.group and track in c.tracks and now - c.at_ms < rule.cooldown_ms for c in self._closed
        )

    def _reopen_lost(self, rule: Rule, place: Place) -> OpenEvent | None:
        """Return the event that stood here and was lost from sight."""
        if rule.moving:
            return None
        for closed in reversed(self._closed):
            old = closed.event
            away = hypot(old.place.east - place.east, old.place.north - place.north)
            if closed.lost and old.group == rule.group and away <= REOPEN_M and old.place.link == place.link:
                return self._reopen(closed)
        return None

    def _reopen_report(self, key: tuple[str, int, str], rule: Rule) -> OpenEvent | None:
        for closed in reversed(self._closed):
            if closed.lost and key in closed.keys and closed.event.group == rule.group:
                return self._reopen(closed)
        return None

    def _reopen(self, closed: Closed) -> OpenEvent:
        self._closed.remove(closed)
        event = closed.event
        event.end_ms, event.told[4] = 0, [["reopened"]]  # a source more than it had: material at once
        self.open[event.event_id] = event
        return event

    def _fresh_id(self, name: str) -> str:
        """Return the id, marked if an event that is open or just ended has it (one device, one id, one start)."""
        taken = self.open.keys() | {c.event.event_id for c in self._closed}
        nth, out = 2, name
        while out in taken:
            out = f"{name[:60]}~{nth}"
            nth += 1
        return out

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "open": [e.state() for e in self.open.values()],
            "closed": [[c.event.state(), c.at_ms, c.lost, [list(k) for k in c.keys], c.tracks] for c in self._closed],
            "withdrawn": [[*key, ts] for key, ts in self._withdrawn.items()],
            "abroad": self.abroad.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.open = {e.event_id: e for e in map(OpenEvent.load, state["open"])}
        self._closed = [
            Closed(OpenEvent.load(e), at, lost, [(k[0], k[1], k[2]) for k in keys], list(tracks))
            for e, at, lost, keys, tracks in state["closed"]
        ]
        self._withdrawn = {(d, k, r): ts for d, k, r, ts in state["withdrawn"]}
        self.abroad.load(state["abroad"])
