"""What the signals say, by lane: who stands at a red light is no event, nor who waits on green for others to pass.

A lane counts as green only if every phase of its connections is protected green: the first in a lane that may go
straight while its left turn is red may well want to turn left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.fusion.jit import kernel
from v2x.road import Road

UNKNOWN, RED, GREEN = 0, 1, 2
STALE_MS: Final = 3000  # SPAT comes twice a second or more often
_GREENS: Final = frozenset({6})  # protected; on permissive green (5) one may have to wait, all through it
_REDS: Final = frozenset({2, 3, 4, 7})  # flashing green (4) is about to end

_LIGHT, _SINCE, _TOLD = range(3)  # columns of the phases' table

Phase = tuple[int, int, int]  # region, node, phase
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@kernel("void(int64, int64[:,::1], int32[::1], int32[::1], int8[::1], int64[::1])")
def _lanes(now: Any, table: Any, start: Any, items: Any, light: Any, since: Any) -> None:
    """Write light and since of every lane; ``items[start[lane]:start[lane + 1]]`` are its phases' rows, -1 unknown."""
    for lane in range(light.shape[0]):
        first, last = start[lane], start[lane + 1]
        greens, reds, known, latest = 0, 0, 0, 0
        for x in range(first, last):
            row = items[x]
            if row < 0 or now - table[row, _TOLD] > STALE_MS:
                continue
            known += 1
            if table[row, _LIGHT] == GREEN:
                greens += 1
                latest = max(latest, table[row, _SINCE]) if greens > 1 else table[row, _SINCE]
            elif table[row, _LIGHT] == RED:
                reds += 1
        light[lane], since[lane] = UNKNOWN, 0
        if known == last - first and known > 0:
            if greens == known:
                light[lane], since[lane] = GREEN, latest
            elif reds > 0:
                light[lane] = RED


class Signals:
    """Lights by phase, and from them by lane."""

    def __init__(self) -> None:
        """Begin without knowledge."""
        self._rows: dict[Phase, int] = {}
        self._table: I64 = np.zeros((0, 3), dtype=np.int64)  # light, since ms, told ms
        self._map = (-1, -1)  # the road's version and the number of phases that ``_start`` and ``_items`` are of
        self._start: I32 = np.zeros(1, dtype=np.int32)
        self._items: I32 = np.zeros(0, dtype=np.int32)
        self._light: I8 = np.zeros(0, dtype=np.int8)
        self._since: I64 = np.zeros(0, dtype=np.int64)

    def spat(self, ts_ms: int, intersections: Iterable[Mapping[str, Any]]) -> None:
        """Take the intersections of one SPAT message."""
        for crossing in intersections:
            for told in crossing["phases"]:
                phase = (int(crossing["region"]), int(crossing["node"]), int(told["phase_id"]))
                light = _class(int(told["light"]))
                row = self._rows.get(phase)
                if row is None:
                    self._learn(phase, light, ts_ms, ts_ms)
                    continue
                old = self._table[row]
                if ts_ms < old[_TOLD]:
                    continue  # late
                if old[_LIGHT] != light:
                    old[_LIGHT], old[_SINCE] = light, ts_ms
                old[_TOLD] = ts_ms

    def _learn(self, phase: Phase, light: int, since: int, told: int) -> None:
        row = self._rows[phase] = len(self._rows)
        if row == len(self._table):
            self._table = np.vstack((self._table, np.zeros((max(row, 8), 3), dtype=np.int64)))
        self._table[row] = light, since, told

    def by_lane(self, now: int, road: Road) -> tuple[I8, I64]:
        """Return (0 unknown, 1 red or yellow, 2 green; green since ms) of every lane; good until the next call."""
        here = (road.version, len(self._rows))
        if here != self._map or len(self._light) != len(road.lanes):
            self._map = here
            self._start = np.cumsum([0, *map(len, road.phases)]).astype(np.int32)
            rows = [self._rows.get(phase, -1) for phases in road.phases for phase in phases]
            self._items = np.array(rows, dtype=np.int32)
            self._light = np.zeros(len(road.lanes), dtype=np.int8)
            self._since = np.zeros(len(road.lanes), dtype=np.int64)
        _lanes(now, self._table, self._start, self._items, self._light, self._since)
        return self._light, self._since

    def state(self) -> list[list[int]]:
        """Return everything, JSON-able."""
        return [[*phase, *self._table[row].tolist()] for phase, row in sorted(self._rows.items())]

    def load(self, state: Iterable[list[int]]) -> None:
        """Become a ``state``."""
        self._rows.clear()
        self._map = (-1, -1)
        for r in state:
            self._learn((r[0], r[1], r[2]), r[3], r[4], r[5])


def _class(light: int) -> int:
    if light in _GREENS:
        return GREEN
    return RED if light in _REDS else UNKNOWN
