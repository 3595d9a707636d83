"""What the signals say, by lane: who stands at a red light is no event, nor who waits on green for others to pass.

A lane counts as green only if every phase of its connections is protected green: the first in a lane that may go
straight while its left turn is red may well want to turn left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.road import Road

UNKNOWN, RED, GREEN = 0, 1, 2
STALE_MS: Final = 3000  # SPAT comes twice a second or more often
_GREENS: Final = frozenset({6})  # protected; on permissive green (5) one may have to wait, all through it
_REDS: Final = frozenset({2, 3, 4, 7})  # flashing green (4) is about to end

Phase = tuple[int, int, int]  # region, node, phase


class Signals:
    """Lights by phase, and from them by lane."""

    def __init__(self) -> None:
        """Begin without knowledge."""
        self._lights: dict[Phase, tuple[int, int, int]] = {}  # light, since ms, told ms
        self._version = -1
        self._by_lane: list[tuple[int, tuple[Phase, ...]]] = []

    def spat(self, ts_ms: int, intersections: Iterable[Mapping[str, Any]]) -> None:
        """Take the intersections of one SPAT message."""
        for crossing in intersections:
            for row in crossing["phases"]:
                phase = (int(crossing["region"]), int(crossing["node"]), int(row["phase_id"]))
                light = _class(int(row["light"]))
                old = self._lights.get(phase)
                if old is not None and ts_ms < old[2]:
                    continue  # late
                since = old[1] if old is not None and old[0] == light else ts_ms
                self._lights[phase] = (light, since, ts_ms)

    def by_lane(self, now: int, road: Road) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
        """Return (0 unknown, 1 red or yellow, 2 green; green since ms) of every lane."""
        if road.version != self._version:
            self._version = road.version
            self._by_lane = [(i, phases) for i, phases in enumerate(road.phases) if phases]
        light = np.zeros(len(road.lanes), dtype=np.int8)
        since = np.zeros(len(road.lanes), dtype=np.int64)
        for lane, phases in self._by_lane:
            known = [row for row in map(self._lights.get, phases) if row is not None and now - row[2] <= STALE_MS]
            if len(known) < len(phases):
                continue
            if all(row[0] == GREEN for row in known):
                light[lane], since[lane] = GREEN, max(row[1] for row in known)
            elif any(row[0] == RED for row in known):
                light[lane] = RED
        return light, since

    def state(self) -> list[list[int]]:
        """Return everything, JSON-able."""
        return [[*phase, *row] for phase, row in sorted(self._lights.items())]

    def load(self, state: Iterable[list[int]]) -> None:
        """Become a ``state``."""
        self._lights = {(r[0], r[1], r[2]): (r[3], r[4], r[5]) for r in state}


def _class(light: int) -> int:
    if light in _GREENS:
        return GREEN
    return RED if light in _REDS else UNKNOWN
