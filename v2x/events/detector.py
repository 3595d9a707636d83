"""The detector of one zone: tracks, reports, flags and signals in; changes of events out. Pure and deterministic.

How the engine calls it, in the order of the log::

    det = Detector(config, zone_id, road)         # config: overrides of the catalogue by kind, or None; road: shared
    out  = det.rsi(row)                           # one row of rsi.rtes with the message's device and ts_ms added
    det.bsm_flags(row)                            # a BSM: device, temp_id (hex), ts_ms, lat, lon, event_flags, lights
    det.spat(ts_ms, intersections)                # dicts as Spat.intersections
    det.obstacles(device, ts_ms, rows)            # rows: obs_type, obs_id, lat, lon (1e-7 deg, absolute)
    out += det.step(event_ms, view)               # each 100 ms of stream clock

A change comes out in the call that caused it (a report) or at the next step (all else). MAP goes to ``road.update``;
when a track crosses into another zone, ``det.border`` hands its timers and events over: they go on there, under their
ids. ``state()`` and ``load()`` are JSON-able and exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from v2x.events import kernel as k
from v2x.events.catalogue import REPORT_EXPIRY_MS, kind_of_code, with_overrides
from v2x.events.congestion import Congestion, JamChange
from v2x.events.handing import Border
from v2x.events.merge import EventBook
from v2x.events.model import BSM, RSI, EventChange, OpenEvent, Place, Source
from v2x.events.signals import Signals
from v2x.events.table import BRAKE_WINDOW_MS, RULE_KINDS, Crossing, TrackTable
from v2x.events.things import Things
from v2x.fusion.view import TrackView
from v2x.road import LaneKind, Road, RoadClass

_MOTORWAY: Final = int(RoadClass.MOTORWAY)  # as plain numbers: an enum's names cost more than the rest of the test
_SHOULDER: Final = int(LaneKind.EMERGENCY)
_LAT_NONE: Final = 900000001
_LON_NONE: Final = 1800000001
_SPEED_NONE: Final = 8191
_QUEUE_NONE: Final = 65535
_RADIUS_NONE: Final = 65535
FLAG_HAZARD, FLAG_HARD_BRAKING, FLAG_DISABLED = 1 << 0, 1 << 7, 1 << 11  # VehicleEventFlags
LIGHT_HAZARD: Final = 1 << 4  # ExteriorLights
_STANDING_FLAGS: Final = FLAG_HAZARD | FLAG_DISABLED
_BSM_CONFIDENCE: Final = 180  # the vehicle itself says so
_MAX_LATE_MS: Final = 10_000  # an older report is history, not news


class Detector:
    """Rules, merging and the life of events in one zone."""

    def __init__(self, config: Mapping[str, Mapping[str, float]] | None, zone: str, road: Road) -> None:
        """Begin with nothing open; ConfigError if an override names what does not exist."""
        self.rules = with_overrides(config)
        self.zone, self.road = zone, road
        self.table = TrackTable(self.rules)
        self.congestion = Congestion(self.rules["CONGESTION"])
        self.signals = Signals()
        self.book = EventBook(zone, road.frame, self.rules)
        self.things = Things(self.rules)
        self.border = Border(self.table, self.book)
        self.now = 0
        self.counters: Counter[str] = Counter()
        self._flags: list[tuple[int, float, float, int, str, str]] = []  # ts, east, north, bits, device, ref
        self._flagged: dict[int, tuple[int, int, str, str]] = {}  # track -> (ts, bits, device, ref)

    # -- what comes in ----------------------------------------------------------------------------------------------
    def spat(self, ts_ms: int, intersections: Iterable[Mapping[str, Any]]) -> None:
        """Take the signals of one SPAT message."""
        self.signals.spat(ts_ms, intersections)

    def bsm_flags(self, row: Mapping[str, Any]) -> None:
        """Take a BSM's flags: they are a witness for the vehicle's track, never an event of their own."""
        bits = int(row["event_flags"]) & (_STANDING_FLAGS | FLAG_HARD_BRAKING)
        if int(row["lights"]) & LIGHT_HAZARD:
            bits |= FLAG_HAZARD
        if not bits or row["lat"] == _LAT_NONE or row["lon"] == _LON_NONE:
            return
        east, north = self.road.frame.point(int(row["lat"]), int(row["lon"]))
        self._flags.append((int(row["ts_ms"]), east, north, bits, str(row["device"]), str(row["temp_id"])))

    def rsi(self, row: Mapping[str, Any]) -> list[EventChange]:
        """Take one event of an RSI: the fields of rsi.rtes, and ``device`` and ``ts_ms`` of the message."""
        ts = int(row["ts_ms"])
        now = max(self.now, ts) if self.now == 0 else self.now
        device, ref = str(row["device"]), str(row["rte_id"])
        key = (device, RSI, ref)
        end_ms = int(row["end_ms"])
        if row["ended"] or (end_ms and end_ms <= now):
            return self.book.withdraw(now, key, ts, min(end_ms or ts, now))
        if now - ts > _MAX_LATE_MS:
            self.counters["rsi_late"] += 1
            return []
        if row["lat"] == _LAT_NONE or row["lon"] == _LON_NONE:
            self.counters["rsi_no_position"] += 1
            return []
        kind = kind_of_code(int(row["event_type"]))
        place = self._place(row)
        speed = -1.0 if row["speed"] == _SPEED_NONE else row["speed"] * 0.02
        level = self._jam_level(speed) if kind == "CONGESTION" else self._level(kind, place, speed)
        source = Source(device, RSI, ref, int(row["confidence"]), ts, end_ms)
        event = self.book.report(now, kind, source, place, int(row["start_ms"]) or ts, level, speed)
        if event is not None and kind == "CONGESTION" and not event.detection and row["queue"] != _QUEUE_NONE:
            event.queue = float(row["queue"])
        return self.book.flush(now)

    def obstacles(self, device: str, ts_ms: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the obstacles of one RSM: obs_type, obs_id and absolute lat, lon (1e-7 deg) each."""
        for row in rows:
            if row["lat"] != _LAT_NONE and row["lon"] != _LON_NONE:
                east, north = self.road.frame.point(int(row["lat"]), int(row["lon"]))
                self.things.see(device, ts_ms, int(row["obs_type"]), east, north)

    def step(self, event_ms: int, view: TrackView, trigger: Any = None) -> list[EventChange]:  # noqa: ARG002 - contract
        """Take one frame; return what changed. ``trigger`` is the engine's to add."""
        now = self.now = max(event_ms, self.now)
        light, green_ms = self.signals.by_lane(now, self.road)
        self._take_flags(view)
        out = self.border.arrivals(now, view)
        crossings = self.table.advance(now, view, self.road, light, green_ms, self.congestion.covers(self.road))
        for old, new in self.table.heirs:
            self.book.succeed(old, new)
            if old in self._flagged:
                self._flagged[new] = self._flagged.pop(old)
        for crossing in crossings:
            out += self._crossed(crossing, view)
        self._follow(view)
        jams = self.congestion.advance(now, view, self.road, self.table.lead, self.table.gap)
        for change in jams:
            out += self._jam(change)
        out += self._things(now)
        out += self.book.tick(now)
        out += self.book.flush(now)
        return out

    # -- tracks -----------------------------------------------------------------------------------------------------
    def _crossed(self, c: Crossing, view: TrackView) -> list[EventChange]:
        kind = RULE_KINDS[c.rule]
        rule = self.rules[kind]
        if not c.started:
            if c.rule == k.STOPPED and self._still(c, k.BREAKDOWN):
                return []
            change = self.book.lift(self.now, c.track, rule.group, c.at_ms, lost=c.row < 0)
            return [change] if change is not None else []
        place = self._track_place(view, c.row)
        speed = float(view.speed[c.row])
        level = self._level(kind, place, speed, int(view.lane[c.row]))
        if c.rule == k.HARD_BRAKING:
            level = 2 if self._braking(c.row) >= rule.limit("grave_mps2") else 1
        began = c.at_ms - BRAKE_WINDOW_MS if c.rule == k.HARD_BRAKING else c.at_ms
        event = self.book.detect(self.now, kind, began, c.track, place, level, speed, self.border.home(c.track))
        if event is None:
            self.table.ints[c.row, k.ACTIVE + c.rule] = 0  # asked again at the next step, until it is not too soon
            return []
        self._witness(event, c.track)
        return []

    def _still(self, c: Crossing, rule: int) -> bool:
        return c.row >= 0 and bool(self.table.ints[c.row, k.ACTIVE + rule])

    def _braking(self, row: int) -> float:
        reals, times = self.table.reals[row], self.table.times
        span = (times[-1] - times[0]) / 1000.0
        return float((reals[0] - reals[k.HISTORY - 1]) / span) if span > 0 else 0.0

    def _follow(self, view: TrackView) -> None:
        """Keep place and speed of the events whose vehicle moves."""
        count = len(view)
        for event in self.book.open.values():
            if not event.tracks or event.group == "congestion" or not self.rules[event.kind].moving:
                continue
            row = int(view.id.searchsorted(event.tracks[0]))
            if row < count and view.id.item(row) == event.tracks[0]:
                place = self._track_place(view, row)
                if not place.link:  # in a junction, or off the map for a moment
                    place.link, place.lane = event.place.link, event.place.lane
                event.place, event.speed = place, view.speed.item(row)
                event.level = max(event.level, self._level(event.kind, place, event.speed, view.lane.item(row)))

    def _take_flags(self, view: TrackView) -> None:
        """Give each flag to the track nearest to where its BSM says it is."""
        if not self._flags and not self._flagged:
            return
        reach = self.rules["BREAKDOWN"].limit("flag_m")
        known = self.table.id
        for ts, east, north, bits, device, ref in self._flags:
            if not len(view):
                break
            away = np.hypot(view.east - east, view.north - north)
            row = int(np.argmin(away))
            track = int(view.id[row])
            if away[row] > reach:
                self.counters["flag_without_track"] += 1
                continue
            self._flagged[track] = (ts, bits, device, ref)
            at = int(np.searchsorted(known, track))
            if bits & _STANDING_FLAGS and at < len(known) and known[at] == track:
                self.table.ints[at, k.FLAG_MS] = ts
            for group, mask in (("standing", _STANDING_FLAGS), ("hard braking", FLAG_HARD_BRAKING)):
                event = self.book.of_track(track, group) if bits & mask else None
                if event is not None:
                    self._witness(event, track)
        self._flags = []
        hold = self.rules["BREAKDOWN"].limit("flag_hold_ms")
        self._flagged = {t: row for t, row in self._flagged.items() if self.now - row[0] <= hold}

    def _witness(self, event: OpenEvent, track: int) -> None:
        """Add the vehicle's own flags to the event's sources."""
        ts, bits, device, ref = self._flagged.get(track, (0, 0, "", ""))
        wanted = {"standing": _STANDING_FLAGS, "hard braking": FLAG_HARD_BRAKING}.get(event.group, 0)
        if bits & wanted:
            for key in event.reports:  # temporary ids rotate and RSUs relay: the vehicle is one witness all the same
                if key[1] == BSM:
                    device, ref = key[0], key[2]
                    break
            self.book.testify(event, Source(device, BSM, ref, _BSM_CONFIDENCE, ts, 0))

    # -- jams and things --------------------------------------------------------------------------------------------
    def _jam(self, change: JamChange) -> list[EventChange]:
        jam, rule = change.jam, self.rules["CONGESTION"]
        token = -1 - jam.number  # stands for it among tracks
        if change.ended:
            event = self.book.open.get(jam.event_id)
            if event is None:
                return []
            if change.into is not None:
                return [self.book.close(event, self.now, self.now)]
            ended = self.book.lift(self.now, token, rule.group, jam.off, lost=False)
            return [ended] if ended is not None else []
        lanes = self.road.lanes
        link = self.road.links[lanes.link[jam.head_lane]] if jam.head_lane >= 0 else ""
        lane = int(lanes.lane_id[jam.head_lane]) if jam.head_lane >= 0 else 0
        place = Place(*jam.head, link, lane)
        if change.started:
            event = self.book.detect(self.now, rule.kind, jam.since, token, place, jam.level, jam.speed)
            if event is None:
                return []
            jam.event_id = event.event_id
        else:
            event = self.book.open.get(jam.event_id)
            if event is None:
                return []
        event.place, event.level, event.speed = place, jam.level, jam.speed
        event.queue, event.tail, event.members = jam.queue, jam.tail, jam.tracks
        return []

    def _things(self, now: int) -> list[EventChange]:
        out: list[EventChange] = []
        for thing, started in self.things.advance(now):
            rule = self.rules[thing.kind]
            if started:
                lane = int(self.road.cover(np.array([thing.east]), np.array([thing.north]), -1, 3.0)[0])
                place = self._lane_place(thing.east, thing.north, lane)
                level = self._level(thing.kind, place, -1.0, lane)
                if self.book.detect(now, thing.kind, thing.first_ms, thing.token, place, level, -1.0) is None:
                    thing.told = False
                continue
            ended = self.book.lift(now, thing.token, rule.group, thing.last_ms, lost=False)
            out += [ended] if ended is not None else []
        return out

    # -- places and levels ------------------------------------------------------------------------------------------
    def _lane_place(self, east: float, north: float, lane: int) -> Place:
        if lane < 0:
            return Place(east, north)
        lanes = self.road.lanes
        return Place(east, north, self.road.links[lanes.link.item(lane)], lanes.lane_id.item(lane))

    def _track_place(self, view: TrackView, row: int) -> Place:
        return self._lane_place(view.east.item(row), view.north.item(row), view.lane.item(row))

    def _place(self, row: Mapping[str, Any]) -> Place:
        """Return the place of a report, with the link found on our map."""
        east, north = self.road.frame.point(int(row["lat"]), int(row["lon"]))
        lane = int(self.road.cover(np.array([east]), np.array([north]), -1, 5.0)[0])
        place = self._lane_place(east, north, lane)
        place.lane = int(row["lane_id"]) or place.lane
        place.radius = -1.0 if row["radius"] == _RADIUS_NONE else row["radius"] / 10.0
        place.ele = int(row["ele"])
        return place

    def _level(self, kind: str, place: Place, speed: float, lane: int = -1) -> int:
        """Return the level by the catalogue's text."""
        rule, lanes = self.rules[kind], self.road.lanes
        if lane < 0:
            lane = self.road.lane_index(place.link, place.lane)
        motorway = lane >= 0 and lanes.road_class.item(lane) == _MOTORWAY
        if kind in {"STOPPED_VEHICLE", "BREAKDOWN"} and lane >= 0:
            return 1 if lanes.kind.item(lane) == _SHOULDER else 3 if motorway else 2
        if kind == "OVERSPEED" and lane >= 0:
            limit = lanes.v_max.item(lane) or rule.limit("no_limit_mps") / rule.limit("factor")
            return 2 if speed >= limit * rule.limit("grave_factor") else 1
        if kind == "PEDESTRIAN" and motorway:
            return 3
        return rule.level

    def _jam_level(self, speed: float) -> int:
        rule = self.rules["CONGESTION"]
        if speed < 0:
            return rule.level
        return 3 if speed < rule.limit("level3_mps") else 2 if speed < rule.limit("level2_mps") else 1

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything but the road (it has its own), JSON-able but for arrays."""
        return {
            "now": self.now,
            "table": self.table.state(),
            "congestion": self.congestion.state(),
            "signals": self.signals.state(),
            "book": self.book.state(),
            "things": self.things.state(),
            "flags": [list(row) for row in self._flags],
            "flagged": [[track, *row] for track, row in self._flagged.items()],
            "border": self.border.state(),
            "counters": dict(self.counters),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``; the road must be the one of that moment."""
        self.now = state["now"]
        self.table.load(state["table"])
        self.congestion.load(state["congestion"])
        self.signals.load(state["signals"])
        self.book.load(state["book"])
        self.things.load(state["things"])
        self._flags = [(r[0], r[1], r[2], r[3], r[4], r[5]) for r in state["flags"]]
        self._flagged = {r[0]: (r[1], r[2], r[3], r[4]) for r in state["flagged"]}
        self.border.load(state["border"])
        self.counters = Counter(state["counters"])


__all__ = ["REPORT_EXPIRY_MS", "Detector", "EventChange"]
