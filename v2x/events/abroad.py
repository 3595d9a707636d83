"""What neighbours tell near a border: an incident that is seen or reported on both sides is told by one zone only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import hypot
from typing import Any, Final

from v2x.events.catalogue import Rule
from v2x.events.model import REPORT_EXPIRY_MS, OpenEvent, Place, Source

WORD_MS: Final = 3_000  # a neighbour's word of an event holds this long; by a border it speaks ten times a second


@dataclass(slots=True)
class _Told:
    group: str
    place: Place
    tracks: list[int]
    keys: list[tuple[str, int, str]]  # reports that mean it
    at_ms: int  # the neighbour's last word of it
    heard_ms: int = 0  # the last such report


class Abroad:
    """Events of neighbours, by id."""

    def __init__(self) -> None:
        """Begin with none."""
        self.events: dict[str, _Told] = {}

    def learn(self, event: OpenEvent, now: int) -> None:
        """Note that a neighbour tells an event."""
        known = self.events.get(event.event_id)
        keys = dict.fromkeys([*event.reports, *(known.keys if known is not None else ())])
        self.events[event.event_id] = _Told(event.group, event.place, list(event.tracks), list(keys), now)

    def forget(self, event_id: str) -> None:
        """Forget one: it is ours now."""
        self.events.pop(event_id, None)

    def detects(self, now: int, rule: Rule, track: int, place: Place, beside_m: float) -> bool:
        """Say whether a neighbour tells of this vehicle, or of one that stands within ``beside_m`` of it."""
        for told in self.events.values():
            if told.group == rule.group and now - told.at_ms <= WORD_MS:
                reach = rule.merge_m if rule.group == "congestion" else beside_m  # a queue is long
                beside = not rule.moving and _away(told.place, place) <= reach
                if beside or track in told.tracks:
                    return True
        return False

    def reports(self, now: int, rule: Rule, source: Source, place: Place) -> bool:
        """Say whether a report means what a neighbour tells; one that does goes on to mean it while it is repeated."""
        for told in self.events.values():
            if told.group != rule.group:
                continue
            near = now - told.at_ms <= WORD_MS and _away(told.place, place) <= rule.merge_m + max(place.radius, 0.0)
            if near and source.key not in told.keys:
                told.keys.append(source.key)
            if source.key in told.keys:
                told.heard_ms = now
                return True
        return False

    def tick(self, now: int) -> None:
        """Forget what nobody speaks of any more."""
        self.events = {
            name: told for name, told in self.events.items() if now - max(told.at_ms, told.heard_ms) <= REPORT_EXPIRY_MS
        }

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {name: {**asdict(t), "keys": [list(key) for key in t.keys]} for name, t in self.events.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.events = {}
        for name, row in state.items():
            keys = [(key[0], key[1], key[2]) for key in row["keys"]]
            self.events[name] = _Told(**{**row, "place": Place(**row["place"]), "keys": keys})


def _away(a: Place, b: Place) -> float:
    return hypot(a.east - b.east, a.north - b.north)
