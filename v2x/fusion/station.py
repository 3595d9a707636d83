"""Station: one zone at work: its tracks, their ownership, its road, its detector, and what follows from a frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import atan2, degrees
from typing import Any, Final

from v2x.events.detector import Detector
from v2x.events.model import EventChange
from v2x.fusion import layout as c
from v2x.fusion.outlet import Outlet, Trigger
from v2x.fusion.ownership import Ownership
from v2x.fusion.view import TrackView
from v2x.fusion.zone import ZoneState
from v2x.road import Road
from v2x.sections.sight import Strip
from v2x.sections.windows import STEP_MS, SectionStats
from v2x.zones import Section, ZoneMap

EVENT_MS: Final = 100  # events are looked for at every second frame (v2x.fusion.rounds)
LINK_MS: Final = 1_000  # a multiple of it


class Station:
    """Everything about one zone."""

    def __init__(self, zones: ZoneMap, zone: str, config: Mapping[str, Any]) -> None:
        self._config = config
        self.zone = ZoneState(zones, zone, config.get("kernel"))
        self.ownership = Ownership(self.zone)
        self.detector = Detector(config.get("events"), zone, self.zone.road)
        self.detector.border.zones = self._zones = zones.zones
        sections: list[Any] = [s for s in zones.sections if s.zone == zone]
        strips = {s.section: self._strip(zones, s) for s in sections}
        self.sections = SectionStats(zone, sections, strips)
        self._ends = {name: (strip.to_east, strip.to_north) for name, strip in strips.items()}
        self._places = {s.section: self._place(zones, s) for s in sections}
        self.beside: Mapping[str, Station] = {}  # stations of this partition by zone
        self._judged = 0  # windows up to this end were judged
        self.last: Trigger | None = None  # what fed this zone since events were looked for, if Runs has not
        self.frames = 0

    def tell(self, outlet: Outlet, told: list[list[int]], taken: int, times: tuple[int, int, int]) -> None:
        """Tell neighbours what was decided for a frame; ``times`` are event time, stream and idle clock."""
        event_ms, stream_ms, idle_ms = times
        for schema, to, record in self.ownership.tell(told, taken, event_ms):
            rules = self.detector.border.say(record["track"], record["event_ms"] if schema == "release" else 0)
            said, there = {**record, "rules": rules}, self.beside.get(to)
            if there is None:
                outlet.neighbour(schema, to, said)
            else:  # of one log: no need to go through it, and it may be long after an outage
                there.hand(schema, said, stream_ms, idle_ms, event_ms)

    def watch(self, outlet: Outlet, view: TrackView, cause: Callable[[], Trigger]) -> None:
        """Look for events in a frame, and say the sections' states when they are due."""
        self._say(outlet, self.detector.step(view.event_ms, view), cause)
        second = view.event_ms // LINK_MS * LINK_MS
        if view.event_ms - second < EVENT_MS:
            self.sections.sight.watch(view, self.zone.road, STEP_MS)
            if second % STEP_MS == 0:
                for name, (east, north) in self._ends.items():
                    self.sections.carriageway(name, self.zone.road.lanes_at(east, north))
            for row in self.sections.advance(second):
                outlet.link(row)
                self._say(outlet, self.detector.section(row, *self._places[row["link"]]), cause)
            if self.sections.next_ms != self._judged:
                self._judged = self.sections.next_ms
                for name, signs in self.sections.signs().items():
                    self._say(outlet, self.detector.suspect(name, signs, *self._places[name]), cause)

    def _say(self, outlet: Outlet, changes: Sequence[EventChange], cause: Callable[[], Trigger]) -> None:
        if changes:
            trigger = cause()
            for change in changes:
                outlet.event(change.event_id, change.record(), trigger)

    def _strip(self, zones: ZoneMap, section: Section) -> Strip:
        first, last = zones.gantries[section.from_hex], zones.gantries[section.to_hex]
        (a, c), (b, d) = self.zone.frame.to_local([first.lat, last.lat], [first.lon, last.lon])
        return Strip(float(a), float(b), float(c), float(d), section.length_m)

    def _place(self, zones: ZoneMap, section: Section) -> tuple[str, float, float, float, float]:
        """Return a section's second gantry, middle (east, north), half length (m) and course (deg)."""
        first, last = zones.gantries[section.from_hex], zones.gantries[section.to_hex]
        (a, c), (b, d) = self.zone.frame.to_local([first.lat, last.lat], [first.lon, last.lon])
        course = degrees(atan2(c - a, d - b)) % 360.0
        return last.device, float(a + c) / 2, float(b + d) / 2, section.length_m / 2, course

    def hand(self, schema: str, record: Mapping[str, Any], stream_ms: int, idle_ms: int, told_ms: int) -> None:
        """Take a neighbour's adopt or release."""
        border, track = self.detector.border, record["track"]
        if schema == "release":
            self.ownership.release(record, stream_ms, idle_ms, told_ms)
        elif self.ownership.adopt(record, stream_ms, idle_ms, told_ms):
            border.say(track, record["event_ms"])  # its owner knows better
        text = record["rules"]
        place = self.ownership.here(record)[:4] if text else (0.0, 0.0, 0.0, 0.0)  # mostly there is nothing to say
        border.hear(track, text, record["event_ms"], place, ours=schema == "release")

    def counters(self) -> dict[str, int]:
        """Return this zone's counters."""
        total: Counter[str] = Counter(dict(zip(c.STAT_NAMES, self.zone.stat.tolist(), strict=False)))
        total["frames"] = self.frames
        total["tracks"] = int(self.zone.ctl[c.CTL_LIVE])
        total.update({f"ownership_{k}": n for k, n in self.ownership.counters.items()})
        total["passages_unknown"], total["passages_late"] = self.sections.unknown, self.sections.late
        total.update({f"events_{k}": n for k, n in self.detector.counters.items()})
        total.update({f"events_{k}": n for k, n in self.detector.border.counters.items()})
        return dict(total)

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able but for arrays."""
        last = self.last
        return {
            "zone": self.zone.state(),
            "road": self.zone.road.state(),
            "detector": self.detector.state(),
            "sections": self.sections.state(),
            "ownership": dict(self.ownership.counters),
            "frames": self.frames,
            "last": None
            if last is None
            else [last.stamp_ms, last.device, last.ts_ms, [[k, v.hex()] for k, v in last.headers]],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a ``state``; SnapshotError if it belongs to another zone."""
        self.zone.load(state["zone"])
        self.zone.road = Road.load(state["road"])
        self.detector = Detector(self._config.get("events"), self.zone.id, self.zone.road)
        self.detector.border.zones = self._zones
        self.detector.load(state["detector"])
        self.sections.load(state["sections"])
        self._judged = self.sections.next_ms
        self.ownership.counters = Counter(state["ownership"])
        self.frames = state["frames"]
        last = state["last"]
        self.last = (
            None
            if last is None
            else Trigger(last[0], last[1], last[2], tuple((k, bytes.fromhex(v)) for k, v in last[3]))
        )
