"""Chains of slow vehicles, one behind the other: where they are in one frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.fusion.jit import helper, kernel
from v2x.fusion.view import TrackView
from v2x.geo import F64
from v2x.road import LaneKind, Road

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_PEDESTRIAN: Final = 10
_CYCLIST: Final = 7
_EMERGENCY: Final = int(LaneKind.EMERGENCY)
_D = "float64[::1]"
_L = "int64[::1]"
_I = "int32[::1]"


Part = tuple[list[int], list[float]]  # on one lane: lane, vehicles, row of the last, slow ones; their speeds, from, to


@dataclass(slots=True)
class Chain:
    """A row of slow vehicles."""

    head: int  # rows of the view
    tail: int
    count: int
    slow: int  # of them, below the speed at which a vehicle begins to be slow
    length: float  # m, from the front of the head to the rear of the tail
    speed_sum: float  # of the slow ones
    spans: dict[int, list[float]]  # link -> [from, to] m along
    lanes: list[Part]  # what is on each lane


@helper
def _front(
    row: int, count: int, slow: Any, lead: Any, gap: Any, length: Any, reach: float, lane: Any, signal: Any
) -> tuple[int, float]:
    """Return the front vehicle of a slow row's chain and the way to it (front to front), m."""
    at, way = row, 0.0
    for _ in range(count):
        ahead = lead[at]
        if ahead < 0 or slow[ahead] == 0 or gap[at] > reach or ahead == row:
            break
        if signal[lane[at]] and lane[ahead] != lane[at]:
            break  # it waits for the light, not for who is beyond
        way += max(gap[at], 0.0) + length[ahead]
        at = ahead
    return at, way


@kernel(
    f"int64({_I}, int16[::1], {_D}, {_D}, {_L}, {_D}, {_I}, {_I}, boolean[::1], boolean[::1], float64, float64, "
    f"float64, int64, {_D}, {_L}, {_L})"
)
def _find(
    lane: Any, cls: Any, speed: Any, length: Any, lead: Any, gap: Any, lane_kind: Any, lane_link: Any, signal: Any,
    hot: Any, enter: float, leave: float, reach: float, least: int, way: Any, members: Any, ends: Any,
) -> Any:  # fmt: skip
    """Find chains of at least ``least`` vehicles, by the row of their head; return how many.

    The members of chain x, ascending, are ``members[ends[x - 1]:ends[x]]``, its head is ``ends[n + x]``; ``way`` is
    that from each member's front to the head's. A vehicle is slow below ``enter`` m/s, on a hot link below ``leave``.
    """
    n = lane.shape[0]
    slow = np.zeros(n, np.uint8)
    motor = total = 0
    for row in range(n):
        at = lane[row]
        if at < 0 or cls[row] == _PEDESTRIAN or cls[row] == _CYCLIST or lane_kind[at] == _EMERGENCY:
            continue
        motor += 1
        if speed[row] <= (leave if hot[lane_link[at]] else enter):
            slow[row] = 1
            total += 1
    if total < least:
        return 0
    root = np.full(n, -1, np.int64)
    sizes = np.zeros(n, np.int64)
    for row in range(n):
        if slow[row] != 0:
            root[row], way[row] = _front(row, motor, slow, lead, gap, length, reach, lane, signal)
            sizes[root[row]] += 1
    found = used = 0
    for head in range(n):
        if sizes[head] < least:
            continue
        for row in range(n):
            if root[row] == head:
                members[used] = row
                used += 1
        ends[found], ends[n + found] = used, head
        found += 1
    return found


@kernel(f"int64({_L}, {_I}, {_D}, {_D}, {_D}, float64, int64[:, ::1], float64[:, ::1])")
def _parts(members: Any, lane: Any, along: Any, length: Any, speed: Any, enter: float, ints: Any, reals: Any) -> Any:
    """Write what is on each lane, in order of members, as ``Part`` has it; return how many."""
    found = 0
    for row in members:
        rear, front = along[row] - length[row] / 2, along[row] + length[row] / 2
        x = 0
        while x < found and ints[x, 0] != lane[row]:
            x += 1
        if x == found:
            ints[x, 0], ints[x, 1], ints[x, 2], ints[x, 3] = lane[row], 0, row, 0
            reals[x, 0], reals[x, 1], reals[x, 2] = 0.0, rear, front
            found += 1
        ints[x, 1] += 1
        if speed[row] <= enter:
            ints[x, 3] += 1
            reals[x, 0] += speed[row]
        if rear < reals[x, 1]:
            reals[x, 1], ints[x, 2] = rear, row
        reals[x, 2] = max(reals[x, 2], front)
    return found


class Finder:
    """Finds chains; keeps nothing but scratch from frame to frame."""

    def __init__(self) -> None:
        """Begin without room."""
        self._way: F64 = np.zeros(0)
        self._members: I64 = np.zeros(0, dtype=np.int64)
        self._ends: I64 = np.zeros(0, dtype=np.int64)
        self._ints: I64 = np.zeros((0, 4), dtype=np.int64)
        self._reals: F64 = np.zeros((0, 3))

    def chains(
        self, view: TrackView, road: Road, lead: I64, gap: F64, hot: Flags, speeds: tuple[float, float], reach: float,
        least: int,
    ) -> list[Chain]:  # fmt: skip
        """Return the chains of at least ``least`` vehicles, each at most ``reach`` m behind its leader.

        ``hot``: by link whether a vehicle counts as slow up to the second of ``speeds`` instead of the first, m/s.
        """
        lanes, n = road.lanes, len(view)
        if not len(lanes) or not n:
            return []
        if len(self._way) < n:
            self._way, self._members = np.zeros(2 * n), np.zeros(2 * n, dtype=np.int64)
            self._ends = np.zeros(4 * n, dtype=np.int64)
            self._ints, self._reals = np.zeros((2 * n, 4), dtype=np.int64), np.zeros((2 * n, 3))
        found = _find(
            view.lane, view.cls, view.speed, view.length, lead, gap, lanes.kind, lanes.link, lanes.signal, hot, *speeds,
            reach, least, self._way, self._members, self._ends,
        )  # fmt: skip
        ends = self._ends[:found].tolist()
        return [
            self._chain(view, road, head, self._members[first:last], speeds[0])
            for head, first, last in zip(self._ends[n : n + found].tolist(), [0, *ends], ends, strict=False)
        ]

    def _chain(self, view: TrackView, road: Road, head: int, members: I64, enter: float) -> Chain:
        tail = int(members[self._way[members].argmax()])
        n = _parts(members, view.lane, view.along, view.length, view.speed, enter, self._ints, self._reals)
        parts = list(zip(self._ints[:n].tolist(), self._reals[:n].tolist(), strict=True))
        where: dict[int, list[float]] = {}
        slow, speeds = 0, 0.0
        for (lane, _, _, some), (total, low, high) in parts:
            widen(where, road.lanes.link.item(lane), low, high)
            slow, speeds = slow + some, speeds + total
        length = self._way.item(tail) + view.length.item(tail)
        return Chain(head, tail, len(members), slow, length, speeds, where, parts)


def widen(spans: dict[int, list[float]], link: int, low: float, high: float) -> None:
    """Let the span of a link reach from ``low`` to ``high`` m along, at least."""
    if link in spans:
        spans[link] = [min(spans[link][0], low), max(spans[link][1], high)]
    else:
        spans[link] = [low, high]
