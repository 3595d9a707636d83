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


@dataclass(slots=True)
class Chain:
    """A row of slow vehicles."""

    head: int  # rows of the view
    tail: int
    count: int
    length: float  # m, from the front of the head to the rear of the tail
    speed_sum: float
    spans: dict[int, list[float]]  # link -> [from, to] m along


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


@kernel(f"int64({_L}, {_I}, {_D}, {_D}, {_I}, int64[::1], float64[:, ::1])")
def _spans(members: Any, lane: Any, along: Any, length: Any, lane_link: Any, links: Any, spans: Any) -> Any:
    """Write the links that members are on, in order of the members, with [from, to] m along each; return how many."""
    found = 0
    for row in members:
        link = lane_link[lane[row]]
        rear, front = along[row] - length[row] / 2, along[row] + length[row] / 2
        x = 0
        while x < found and links[x] != link:
            x += 1
        if x == found:
            links[x], spans[x, 0], spans[x, 1] = link, rear, front
            found += 1
        else:
            spans[x, 0], spans[x, 1] = min(spans[x, 0], rear), max(spans[x, 1], front)
    return found


class Finder:
    """Finds chains; keeps nothing but scratch from frame to frame."""

    def __init__(self) -> None:
        """Begin without room."""
        self._way: F64 = np.zeros(0)
        self._members: I64 = np.zeros(0, dtype=np.int64)
        self._ends: I64 = np.zeros(0, dtype=np.int64)
        self._links: I64 = np.zeros(0, dtype=np.int64)
        self._spans: F64 = np.zeros((0, 2))

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
            self._links, self._spans = np.zeros(2 * n, dtype=np.int64), np.zeros((2 * n, 2))
        found = _find(
            view.lane, view.cls, view.speed, view.length, lead, gap, lanes.kind, lanes.link, lanes.signal, hot, *speeds,
            reach, least, self._way, self._members, self._ends,
        )  # fmt: skip
        ends = self._ends[:found].tolist()
        return [
            self._chain(view, road, head, self._members[first:last])
            for head, first, last in zip(self._ends[n : n + found].tolist(), [0, *ends], ends, strict=False)
        ]

    def _chain(self, view: TrackView, road: Road, head: int, members: I64) -> Chain:
        tail = int(members[self._way[members].argmax()])
        n = _spans(members, view.lane, view.along, view.length, road.lanes.link, self._links, self._spans)
        where = dict(zip(self._links[:n].tolist(), self._spans[:n].tolist(), strict=True))
        length = self._way.item(tail) + view.length.item(tail)
        return Chain(head, tail, len(members), length, float(view.speed[members].sum()), where)
