"""Things on the road that are no traffic: debris and animals, from the obstacles that RSUs report in their RSM.

An RSU's obstacle ids break like its track ids, so a thing is known by its place: reports nearer than 5 m are one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import hypot
from typing import Any, Final

from v2x.events.catalogue import Rule

# SSM obsType to our kind; cones, triangles and roadblocks are put there by people and told by RSI.
KIND_OF_OBSTACLE: Final = {1: "DEBRIS", 2: "DEBRIS", 3: "ANIMAL", 5: "DEBRIS"}
_TOKEN: Final = -1_000_000_000


@dataclass(slots=True)
class Thing:
    """One thing."""

    number: int
    kind: str
    east: float
    north: float
    first_ms: int
    last_ms: int
    reports: int = 1
    told: bool = False  # is an event

    @property
    def token(self) -> int:
        """Return what stands for it among tracks: negative, beyond the jams'."""
        return _TOKEN - self.number


class Things:
    """All things of a zone."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        """Begin with an empty road."""
        self.rules = rules
        self.items: list[Thing] = []
        self.count = 0

    def see(self, device: str, ts_ms: int, obs_type: int, east: float, north: float) -> None:  # noqa: ARG002
        """Take one obstacle of an RSM (``device`` is for the reader of the call)."""
        kind = KIND_OF_OBSTACLE.get(obs_type)
        if kind is None:
            return
        for thing in self.items:
            if thing.kind == kind and hypot(thing.east - east, thing.north - north) <= self.rules[kind].limit("same_m"):
                thing.reports += 1
                thing.last_ms = max(thing.last_ms, ts_ms)
                if self.rules[kind].moving:
                    thing.east, thing.north = east, north
                return
        self.items.append(Thing(self.count, kind, east, north, ts_ms, ts_ms))
        self.count += 1

    def advance(self, now: int) -> Iterable[tuple[Thing, bool]]:
        """Return (thing, True) for those that become events now, (thing, False) for events whose thing is gone."""
        out: list[tuple[Thing, bool]] = []
        stay: list[Thing] = []
        for thing in self.items:
            dwell = self.rules[thing.kind].dwell_ms
            if now - thing.last_ms > self.rules[thing.kind].limit("gone_ms"):
                if thing.told:
                    out.append((thing, False))
                continue
            stay.append(thing)
            enough = thing.reports >= self.rules[thing.kind].limit("reports")
            if not thing.told and enough and thing.last_ms - thing.first_ms >= dwell:
                thing.told = True
                out.append((thing, True))
        self.items = stay
        return out

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {"count": self.count, "items": [asdict(t) for t in self.items]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.count = state["count"]
        self.items = [Thing(**row) for row in state["items"]]
