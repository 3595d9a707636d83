"""Suspected incidents: travel times between two gantries that rise at once, where nobody looks.

What blocks a road delays *everybody*, so the rule asks the quick ones: the lower quartile of the window's travel times
(halts at a service area do not move it, nor a few lorries). It is compared with its own usual value, an exponential
mean that stands still while a suspicion lasts. That a rush hour builds up more slowly is what the mean is for.

Only what nobody sees is suspected. The part of the section without tracks must be long enough for an incident, and a
jam or a standing vehicle that we detect there explains the delay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import exp, hypot
from typing import Any, Final

from v2x.events.merge import EventBook
from v2x.events.model import GANTRY, EventChange, Place, Source
from v2x.events.rule import Rule
from v2x.sections.windows import Signs

_LEVELS: Final = ("enter", "level2", "level3")
_EXPLAIN: Final = ("congestion", "standing")  # groups of events that a delay may come of


@dataclass(slots=True)
class _Section:
    usual_s: float = 0.0
    to_ms: int = 0
    since: int = 0  # ms: begin of the window that first rose; 0 none
    calm: int = 0  # ms: since when it is no more so; 0 not
    told: bool = False
    level: int = 0


class Suspicions:
    """All sections of a zone."""

    def __init__(self, rule: Rule) -> None:
        """Begin without any."""
        self.rule = rule
        self._sections: dict[str, _Section] = {}

    def take(self, now: int, book: EventBook, link: str, signs: Signs, device: str, place: Place) -> list[EventChange]:
        """Take the signs of a section's newest window; return what changes. ``place``: its middle and half its length.

        The report is the section's, under another name than that of its congestion.
        """
        explained = any(
            event.detection
            and event.group in _EXPLAIN
            and not place.opposes(event.place)
            and hypot(event.place.east - place.east, event.place.north - place.north) <= place.radius
            for event in book.open.values()
        )
        level, since = self.judge(link, signs, explained=explained)
        key = (device, GANTRY, f"{link} late")
        if level:
            source = Source(*key, self.rule.confidence, signs.to_ms, 0, self.rule.end_ms)
            book.report(now, self.rule.kind, source, place, since, level, signs.speed_mps)
            return book.flush(now)
        if any(key in event.reports for event in book.open.values()):
            return book.withdraw(now, key, signs.to_ms, signs.to_ms)
        return []

    def judge(self, section: str, signs: Signs, *, explained: bool) -> tuple[int, int]:
        """Return the level of the suspicion after a window, 0 none, and since when (ms)."""
        rule, own = self.rule, self._sections.setdefault(section, _Section())
        if signs.to_ms <= own.to_ms:
            return own.level if own.told else 0, own.since
        step, own.to_ms = signs.to_ms - (own.to_ms or signs.to_ms), signs.to_ms
        enough = signs.quick_s > 0 and signs.vehicles >= rule.limit("vehicles")
        if enough and not own.usual_s:
            own.usual_s = max(signs.quick_s, signs.free_s)
        later = signs.quick_s - own.usual_s
        ratio = signs.quick_s / own.usual_s if enough else 0.0
        least = rule.limit("exit") if own.told else rule.limit("enter")
        risen = ratio >= least and (own.told or later >= rule.limit("later_s"))
        hidden = signs.unseen_m >= rule.limit("unseen_m") and not explained
        if risen and hidden:
            own.since = own.since or signs.from_ms
            own.calm = 0
            own.level = max(1, sum(ratio >= rule.limit(name) for name in _LEVELS))
            own.told = own.told or signs.to_ms - own.since >= rule.dwell_ms + signs.to_ms - signs.from_ms
        elif own.told and not explained:  # an empty window proves nothing for a while
            own.calm = own.calm or signs.to_ms
            if signs.to_ms - own.calm >= rule.end_ms:
                own.told = False
        else:
            own.told = False
        if not own.told and not (risen and hidden):
            own.since = own.calm = own.level = 0
        if enough:
            lasts = rule.limit("frozen_ms") if own.since else rule.limit("usual_ms")
            own.usual_s += (1.0 - exp(-step / lasts)) * later
        return own.level if own.told else 0, own.since

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {name: list(astuple(own)) for name, own in self._sections.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self._sections = {name: _Section(*row) for name, row in state.items()}
