"""The tracks on a section: how fast they are, and on how much of it anyone sees them.

Once a second the tracks between a section's gantries are counted, with their speeds, by stretches of about 100 m. Over
a window the sums are all time and all distance that was driven there: their ratio is the space-mean speed (Edie).

Who passes both gantries has passed every metre between them. So a stretch on which much less driving is seen than the
gantries' vehicles must have done is one that no living roadside unit sees, whatever the map says: units that are dead,
blind or not there look the same. One vehicle in ten that speaks for itself (BSM) does not make a road seen.

A section is taken as the straight strip between its gantries: exact to 2 % of length where a road turns by 40 degrees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from v2x.fusion.view import F64, TrackView
from v2x.road import LaneKind, Road

CELL_M: Final = 100.0
ASIDE_M: Final = 40.0  # ours: half a motorway and the bow of a bend of 2.5 km radius over 800 m
ASIDE_SHARE: Final = 0.05  # of the length, where that is more
ALONG: Final = 0.5  # cosine of the angle between a track and the section: the other carriageway runs against it
CARS: Final = (3, 6)  # object classes: car, van, truck, bus
SEEN_SHARE: Final = 0.3  # of the driving that must have been there
_SHOULDER: Final = int(LaneKind.EMERGENCY)


@dataclass(frozen=True, slots=True)
class Strip:
    """Where a section lies: its two gantries, metres about the zone's origin, and its length."""

    east: float
    north: float
    to_east: float
    to_north: float
    length_m: float

    @property
    def cells(self) -> int:
        """Return the number of stretches."""
        return max(1, round(self.length_m / CELL_M))


@dataclass(slots=True)
class Seen:
    """Sums over the tracks of one section in one step of the windows."""

    seconds: float = 0.0
    metres: float = 0.0
    squares: float = 0.0  # of speeds
    cells: list[int] = field(default_factory=list)  # seconds by stretch


class Sight:
    """The sections of a zone, as its tracks show them."""

    def __init__(self, strips: Mapping[str, Strip]) -> None:
        """Begin with nothing seen."""
        self._strips = dict(strips)
        self._seen: dict[str, dict[int, Seen]] = {name: {} for name in strips}

    def watch(self, view: TrackView, road: Road, step_ms: int) -> None:
        """Take the tracks of a frame; to be called once a second of event time."""
        if not self._strips or not len(view):
            return
        cars = np.flatnonzero((view.cls >= CARS[0]) & (view.cls <= CARS[1]) & (view.lane >= 0))
        cars = cars[road.lanes.kind[view.lane[cars]] != _SHOULDER]
        east, north, speed = view.east[cars], view.north[cars], view.speed[cars]
        course = np.radians(view.heading[cars])
        end = (view.event_ms // step_ms + 1) * step_ms
        for name, strip in self._strips.items():
            along, inside = _between(strip, east, north, np.sin(course), np.cos(course))
            if not inside.any():
                continue
            seen = self._seen[name].setdefault(end, Seen(cells=[0] * strip.cells))
            fast = speed[inside]
            seen.seconds += len(fast)
            seen.metres += float(fast.sum())
            seen.squares += float((fast * fast).sum())
            for cell in (along[inside] * strip.cells).astype(np.int64).tolist():
                seen.cells[min(cell, strip.cells - 1)] += 1

    def window(self, name: str, start_ms: int, end_ms: int) -> Seen:
        """Return the sums over the steps that end in (start, end]."""
        strip = self._strips.get(name)
        out = Seen(cells=[0] * (strip.cells if strip is not None else 1))
        for end, seen in self._seen.get(name, {}).items():
            if start_ms < end <= end_ms:
                out.seconds += seen.seconds
                out.metres += seen.metres
                out.squares += seen.squares
                out.cells = [a + b for a, b in zip(out.cells, seen.cells, strict=True)]
        return out

    def forget(self, before_ms: int) -> None:
        """Drop the steps that end before."""
        for steps in self._seen.values():
            for end in [end for end in steps if end < before_ms]:
                del steps[end]

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            name: [[end, s.seconds, s.metres, s.squares, list(s.cells)] for end, s in steps.items()]
            for name, steps in self._seen.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``; sections that the map no longer has are dropped."""
        for name, rows in state.items():
            if name in self._seen:
                self._seen[name] = {end: Seen(a, b, c, list(cells)) for end, a, b, c, cells in rows}


def share(seen: Seen, vehicles: int, length_m: float, free_mps: float) -> float:
    """Return the share of a section that is seen, given how many vehicles drove through it in the window.

    Without vehicles it is the share on which there were tracks.
    """
    cells = len(seen.cells)
    needed = max(1.0, SEEN_SHARE * vehicles * length_m / cells / free_mps)
    return sum(seconds >= needed for seconds in seen.cells) / cells


def _between(strip: Strip, east: F64, north: F64, sin: F64, cos: F64) -> tuple[F64, Any]:
    """Return how far along each point is, 0 to 1, and which of them are on the strip and drive along it."""
    de, dn = strip.to_east - strip.east, strip.to_north - strip.north
    span = float(np.hypot(de, dn)) or 1.0
    ue, un = de / span, dn / span
    x, y = east - strip.east, north - strip.north
    along = (x * ue + y * un) / span
    aside = np.abs(y * ue - x * un)
    reach = max(ASIDE_M, ASIDE_SHARE * span)
    return along, (along >= 0) & (along < 1) & (aside <= reach) & (sin * ue + cos * un >= ALONG)
