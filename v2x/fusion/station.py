"""Station: one zone at work: its tracks, their ownership, its road and its detector, put together for each frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from v2x.events.detector import Detector
from v2x.fusion import layout as c
from v2x.fusion.outlet import Outlet, Trigger
from v2x.fusion.ownership import Ownership
from v2x.fusion.snapshot import Arrays
from v2x.fusion.zone import ZoneState
from v2x.links import SectionStats
from v2x.road import Road
from v2x.zones import ZoneMap

EVENT_MS: Final = 100  # events are looked for at every second frame
LINK_MS: Final = 1_000


class Station:
    """Everything about one zone."""

    def __init__(self, zones: ZoneMap, zone: str, config: Mapping[str, Any]) -> None:
        self._config = config
        self.zone = ZoneState(zones, zone, config.get("kernel"))
        self.ownership = Ownership(self.zone)
        self.detector = Detector(config.get("events"), zone, self.zone.road)
        self.detector.border.zones = self._zones = zones.zones
        sections: list[Any] = [s for s in zones.sections if s.zone == zone]
        self.sections = SectionStats(zone, sections)
        self.beside: Mapping[str, Station] = {}  # stations of this partition by zone
        self.last: Trigger | None = None  # the last message that fed this zone since events were looked for
        self.frames = 0

    def frame(self, outlet: Outlet, event_ms: int, stream_ms: int, idle_ms: int, inputs: int, trigger: Trigger) -> None:
        """Make one frame and what follows from it."""
        z = self.zone
        z.tidy(event_ms, idle_ms)
        for schema, to, record in self.ownership.step(event_ms, stream_ms):
            rules = self.detector.border.say(record["track"], record["event_ms"] if schema == "release" else 0)
            said, there = {**record, "rules": rules}, self.beside.get(to)
            if there is None:
                outlet.neighbour(schema, to, said)
            else:  # of one log: no need to go through it, and it may be long after an outage
                there.hand(schema, said, stream_ms, idle_ms, event_ms)
        watch = event_ms % EVENT_MS == 0
        outlet.frame(z.report(event_ms, stream_ms, inputs, match=watch))
        self.frames += 1
        if watch:
            cause = self.last or trigger
            for change in self.detector.step(event_ms, z.view(event_ms, stream_ms), cause):
                outlet.event(change.event_id, change.record(), cause)
            self.last = None
        if event_ms % LINK_MS == 0:
            for row in self.sections.advance(event_ms):
                outlet.link(row)

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
        """Return everything but the arrays, JSON-able."""
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

    def load(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Take a ``state`` and its arrays; SnapshotError if they belong to another zone."""
        self.zone.load(state["zone"], arrays)
        self.zone.road = Road.load(state["road"])
        self.detector = Detector(self._config.get("events"), self.zone.id, self.zone.road)
        self.detector.border.zones = self._zones
        self.detector.load(state["detector"])
        self.sections.load(state["sections"])
        self.ownership.counters = Counter(state["ownership"])
        self.frames = state["frames"]
        last = state["last"]
        self.last = (
            None
            if last is None
            else Trigger(last[0], last[1], last[2], tuple((k, bytes.fromhex(v)) for k, v in last[3]))
        )
