"""The detector of one zone: tracks, reports, flags and signals in; changes of events out. Pure and deterministic.

How the engine calls it, in the order of the log::

    det = Detector(config, zone_id, road)         # config: overrides of the catalogue by kind, or None; road: shared
    out  = det.rsi(row)                           # one row of rsi.rtes with the message's device and ts_ms added
    det.bsm_flags(row)                            # a BSM: device, temp_id (hex), ts_ms, place, flags, lights, brakes
    det.spat(device, ts_ms, n, nodes, phases, own=True)  # message n of a batch, its tables of intersections, phases
    det.alive(device, ts_ms)                      # an RSU said something else than SPAT
    det.env(device, ts_ms, row)                   # a pole's measurement
    out += det.section(row, device, east, north, half_m, course)  # a row of link_state: between two gantries
    out += det.suspect(link, signs, device, east, north, half_m, course)  # what its newest window is a sign of
    det.obstacles(device, ts_ms, rows)            # rows: obs_type, obs_id, lat, lon (1e-7 deg, absolute)
    out += det.step(event_ms, view)               # each 100 ms of stream clock

A change comes out in the call that caused it (a report) or at the next step (all else). MAP goes to ``road.update``;
when a track crosses into another zone, ``det.border`` hands its timers and events over: they go on there, under their
ids. ``state()`` and ``load()`` are JSON-able and exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import atan2, degrees
from typing import Any, Final

import numpy as np

from v2x.columns import Table
from v2x.events import kernel as k
from v2x.events.braking import deceleration
from v2x.events.catalogue import kind_of_code, with_overrides
from v2x.events.congestion import Congestion, JamChange, level_of
from v2x.events.handing import Border
from v2x.events.merge import EventBook
from v2x.events.model import GANTRY, RSI, EventChange, LaneQueue, Place, Source
from v2x.events.signals import Signals
from v2x.events.suspicion import Suspicions
from v2x.events.table import BRAKE_WINDOW_MS, RULE_KINDS, Crossing, TrackTable
from v2x.events.things import Things
from v2x.events.weather import Weather
from v2x.events.witness import Witnesses
from v2x.fusion.layout import BEYOND
from v2x.fusion.view import TrackView
from v2x.road import LaneKind, Road, RoadClass
from v2x.sections.windows import Signs

_MOTORWAY: Final = int(RoadClass.MOTORWAY)  # as plain numbers: an enum's names cost more than the rest of the test
_SHOULDER: Final = int(LaneKind.EMERGENCY)
_LAT_NONE: Final = 900000001
_LON_NONE: Final = 1800000001
_SPEED_NONE: Final = 8191
_QUEUE_NONE: Final = 65535
_RADIUS_NONE: Final = 65535
_ON_FOOT: Final = (7, 10)  # object classes: cyclist, pedestrian
_SIGNAL_TOKEN: Final = -2_000_000_000  # stands for a node's signals among tracks: negative, beyond the things'
_STANDING_RULES: Final = (k.STOPPED, k.BREAKDOWN, k.ACCIDENT)  # stages of one incident
_MAX_LATE_MS: Final = 10_000  # an older report is history, not news


class Detector:
    """Rules, merging and the life of events in one zone."""

    def __init__(self, config: Mapping[str, Mapping[str, float]] | None, zone: str, road: Road) -> None:
        """Begin with nothing open; ConfigError if an override names what does not exist."""
        self.rules = with_overrides(config)
        self.zone, self.road = zone, road
        self.table = TrackTable(self.rules)
        self.congestion = Congestion(self.rules["CONGESTION"])
        self.signals = Signals(self.rules["SIGNAL_FAILURE"])
        self.book = EventBook(zone, road.frame, self.rules)
        self.things = Things(self.rules)
        self.suspicions = Suspicions(self.rules["INCIDENT_SUSPECTED"])
        self.border = Border(self.table, self.book)
        self.now = 0
        self.weather = Weather(self.rules, self.book, self._point_place)
        self.counters: Counter[str] = Counter()
        self.witnesses = Witnesses(self.rules, road.frame, self.book, self.table, self.counters)

    # -- what comes in ----------------------------------------------------------------------------------------------
    def spat(self, device: str, ts_ms: int, n: int, nodes: Table, phases: Table, *, own: bool) -> None:
        """Take the signals of one SPAT: message ``n`` of a batch; ``own``: of a device of this zone."""
        self.signals.spat(device, ts_ms, n, nodes, phases, own=own)

    def alive(self, device: str, ts_ms: int) -> None:
        """Note that an RSU lives, whatever its signals do."""
        self.signals.alive(device, ts_ms)

    def bsm_flags(self, row: Mapping[str, Any]) -> None:
        """Take a BSM's flags: they are a witness for the vehicle's track, never an event of their own."""
        self.witnesses.take(row)

    def env(self, device: str, ts_ms: int, row: Mapping[str, Any]) -> None:
        """Take a pole's measurement: the fields of pole_env."""
        if row["lat"] == _LAT_NONE or row["lon"] == _LON_NONE:
            self.counters["pole_no_position"] += 1
            return
        self.weather.measure(device, ts_ms, row, *self.road.frame.point(int(row["lat"]), int(row["lon"])))

    def section(
        self, row: Mapping[str, Any], device: str, east: float, north: float, half_m: float, course: float
    ) -> list[EventChange]:
        """Take the state of a section between gantries (link_state): its middle, half its length and its course, deg.

        Only travel times of level ``section_level`` and worse are a report, which stands for the whole section.
        """
        rule = self.rules["CONGESTION"]
        key, ts = (device, GANTRY, str(row["link"])), int(row["to_ms"])
        now = max(self.now, ts)
        if now - ts > rule.limit("section_ms") or not row["level"]:
            return []
        level = int(row["level"] - rule.limit("section_level")) + 1
        if level < 1:
            return self.book.withdraw(now, key, ts, ts)
        place = Place(east, north, radius=half_m, course=course)
        source = Source(*key, int(rule.limit("section_confidence")), ts, 0, int(rule.limit("section_ms")))
        self.book.report(now, rule.kind, source, place, int(row["from_ms"]), level, row["speed"] * 0.01)
        return self.book.flush(now)

    def suspect(
        self, link: str, signs: Signs, device: str, east: float, north: float, half_m: float, course: float
    ) -> list[EventChange]:
        """Take what a section's newest window is a sign of; place as for ``section``."""
        place = Place(east, north, radius=half_m, course=course)
        return self.suspicions.take(max(self.now, signs.to_ms), self.book, link, signs, device, place)

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
        lights = self.signals.by_lane(now, self.road)
        felt = self.witnesses.assign(now, view)
        out = self.border.arrivals(now, view)
        crossings = self.table.advance(now, view, self.road, lights, self.congestion.covers(self.road))
        for old, new in self.table.heirs:
            self.book.succeed(old, new)
            self.witnesses.succeed(old, new)
        for crossing in crossings:
            out += self._crossed(crossing, view)
        self._follow(view)
        jams = self.congestion.advance(now, view, self.road, self.table.lead, self.table.gap, self.table.slow)
        for change in jams:
            out += self._jam(change)
        out += self._things(now)
        out += self._signals(now)
        out += self.weather.advance(now, felt)
        out += self.book.tick(now)
        out += self.book.flush(now)
        return out

    # -- tracks -----------------------------------------------------------------------------------------------------
    def _crossed(self, c: Crossing, view: TrackView) -> list[EventChange]:
        kind = RULE_KINDS[c.rule]
        rule = self.rules[kind]
        if not c.started:
            if c.rule in _STANDING_RULES and any(self._still(c, rule_) for rule_ in _STANDING_RULES):
                return []
            change = self.book.lift(self.now, c.track, rule.group, c.at_ms, lost=c.row < 0)
            return [change] if change is not None else []
        place = self._track_place(view, c.row)
        speed = float(view.speed[c.row])
        level = self._level(kind, place, speed, int(view.lane[c.row]))
        ints, began = self.table.ints[c.row], c.at_ms
        if c.rule == k.HARD_BRAKING:
            level = self._braking(c.row)
            began -= BRAKE_WINDOW_MS
        elif c.rule == k.NEAR_MISS:
            level = self._near_miss(view, c.row)
        elif c.rule == k.RED_LIGHT:
            began = int(ints[k.RED_MS])
        home = self.border.home(c.track)
        partner = int(ints[k.PARTNER]) if c.rule == k.ACCIDENT else 0
        event = self.book.detect(self.now, kind, began, c.track, place, level, speed, home=home, partner=partner)
        if event is None:
            ints[k.ACTIVE + c.rule] = 0  # asked again at the next step, until it is not too soon
            return []
        if c.rule == k.NEAR_MISS:
            event.members = [track for track in (c.track, int(ints[k.PARTNER])) if track < BEYOND]
        self.witnesses.testify(event, c.track)
        return []

    def _near_miss(self, view: TrackView, row: int) -> int:
        partner = int(self.table.ints[row, k.PARTNER])
        at = int(view.id.searchsorted(partner))
        if at < len(view) and view.id.item(at) == partner and view.cls.item(at) in _ON_FOOT:
            return 3
        return 2 if self.table.reals[row, k.TTC] < self.rules["NEAR_MISS"].limit("grave_s") else 1

    def _still(self, c: Crossing, rule: int) -> bool:
        return c.row >= 0 and bool(self.table.ints[c.row, k.ACTIVE + rule])

    def _braking(self, row: int) -> int:
        speeds = self.table.reals[row, : k.HISTORY]
        grave = self.rules["HARD_BRAKING"].limit("grave_mps2")
        return 2 if speeds[0] >= 0.0 and deceleration(speeds, self.table.times) >= grave else 1

    def _follow(self, view: TrackView) -> None:
        """Keep place and speed of the events whose vehicle moves."""
        if not self.book.open:
            return
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
                if event.kind == "HARD_BRAKING":
                    level = self._braking(row)
                else:
                    level = self._level(event.kind, place, event.speed, view.lane.item(row))
                event.level = max(event.level, level)

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
        course = degrees(atan2(jam.head[0] - jam.tail[0], jam.head[1] - jam.tail[1])) % 360.0
        place = Place(*jam.head, link, lane, course=course)
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
        event.queue, event.tail, event.members, event.growth = jam.queue, jam.tail, jam.tracks, jam.growth
        event.lanes = [
            LaneQueue(self.road.links[lanes.link[x]], int(lanes.lane_id[x]), p.level, p.count, p.speed, p.queue, p.tail)
            for x, p in jam.lanes.items()
        ]
        return []

    def _things(self, now: int) -> list[EventChange]:
        out: list[EventChange] = []
        if not self.things.items:
            return out
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

    # -- signals and weather ----------------------------------------------------------------------------------------
    def _signals(self, now: int) -> list[EventChange]:
        out: list[EventChange] = []
        rule = self.rules["SIGNAL_FAILURE"]
        for row, cause, at_ms in self.signals.judge(now, self.road):
            token = _SIGNAL_TOKEN - row
            event = self.book.of_track(token, rule.group)
            if not cause:
                ended = self.book.lift(now, token, rule.group, at_ms, lost=False)
                out += [ended] if ended is not None else []
            elif event is not None:
                event.level = cause
            else:
                lanes = self.road.node_lanes.get(self.signals.nodes[row], ())
                ends = [self.road.lines[x][-1] for x in lanes if len(self.road.lines[x])]
                if not ends:
                    self.counters["signal_without_map"] += 1
                    continue
                east, north = np.mean(ends, axis=0).tolist()
                ref = ".".join(map(str, self.signals.nodes[row]))
                self.book.detect(now, rule.kind, at_ms, token, Place(east, north), cause, -1.0, ref=ref)
        return out

    # -- places and levels ------------------------------------------------------------------------------------------
    def _lane_place(self, east: float, north: float, lane: int) -> Place:
        if lane < 0:
            return Place(east, north)
        lanes = self.road.lanes
        return Place(east, north, self.road.links[lanes.link.item(lane)], lanes.lane_id.item(lane))

    def _track_place(self, view: TrackView, row: int) -> Place:
        return self._lane_place(view.east.item(row), view.north.item(row), view.lane.item(row))

    def _point_place(self, east: float, north: float) -> Place:
        lane = int(self.road.cover(np.array([east]), np.array([north]), -1, 5.0)[0])
        return self._lane_place(east, north, lane)

    def _place(self, row: Mapping[str, Any]) -> Place:
        """Return the place of a report, with the link found on our map."""
        place = self._point_place(*self.road.frame.point(int(row["lat"]), int(row["lon"])))
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
        return level_of(rule, speed)

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
            "suspicions": self.suspicions.state(),
            "weather": self.weather.state(),
            "witnesses": self.witnesses.state(),
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
        self.suspicions.load(state["suspicions"])
        self.weather.load(state["weather"])
        self.witnesses.load(state["witnesses"])
        self.border.load(state["border"])
        self.counters.clear()
        self.counters.update(state["counters"])


__all__ = ["Detector", "EventChange"]
