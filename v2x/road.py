"""The road of a zone, learnt from MAP messages: links, lanes, their geometry in local metres, and matching to them.

Lanes and links keep their index for ever (they are only appended, in the order in which the log brought them), so an
index held in a track's state stays true when the map grows. A link belongs to the device that told of it first; another
RSU's clip of the same link replaces it only if it is longer, else overlapping RSUs would flap the geometry each second.

How to call (engine)::

    road = Road(origin_lat, origin_lon)              # degrees: the zone's origin, the same that TrackView uses
    changed = road.update(nodes, device)             # dicts as Map.nodes; True if anything changed
    lane, along, lateral = road.match(east, north, heading)   # arrays; lane -1: on no motor lane
    road.lanes.link[lane], road.lanes.lane_id[lane], road.links[...]
    blob = road.state(); road = Road.load(blob)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.geo import F64, LocalFrame
from v2x.road_match import I32, Segments, cover, match


class LaneKind(IntEnum):
    """Map.nodes.links.lanes.lane_type."""

    VEHICLE = 0
    EMERGENCY = 1
    CROSSWALK = 2
    BIKE = 3
    SIDEWALK = 4
    RAMP = 5


class RoadClass(IntEnum):
    """Map.nodes.links.road_class."""

    UNKNOWN = 0
    MOTORWAY = 1
    EXPRESSWAY = 2
    ARTERIAL = 3
    BRANCH = 4
    RAMP = 5


MOTOR: Final = 1 << LaneKind.VEHICLE | 1 << LaneKind.EMERGENCY | 1 << LaneKind.RAMP
RUNNING: Final = 1 << LaneKind.VEHICLE | 1 << LaneKind.RAMP
ON_FOOT: Final = 1 << LaneKind.CROSSWALK | 1 << LaneKind.SIDEWALK
DEFAULT_WIDTH_M: Final = 3.75  # JTG B01: lane width at design speeds of 80 km/h and more
_POINT_NONE: Final = -2097152
_LAT_NONE: Final = 900000001
_SPEED_NONE: Final = 8191
_SPEED_UNIT: Final = 0.02
_LONGER_M: Final = 1.0

NodeKey = tuple[int, int]


@dataclass(slots=True)
class Lanes:
    """Columns by lane index."""

    link: I32  # index into Road.links
    lane_id: I32
    kind: I32  # LaneKind
    road_class: I32  # RoadClass
    half_width: F64  # m
    v_min: F64  # m/s; 0: none
    v_max: F64  # m/s; 0: none
    length: F64  # m; 0: gone from the map
    signal: npt.NDArray[np.bool_]  # a phase controls its end
    junction: npt.NDArray[np.bool_]  # ends where traffic must give way: a signal, or several links leave or meet

    def __len__(self) -> int:
        """Return the number of lanes."""
        return len(self.link)


@dataclass(slots=True)
class _Link:
    """One link as told by MAP."""

    node: NodeKey
    up: NodeKey
    ref: tuple[int, int]  # 1e-7 deg
    device: str
    raw: dict[str, Any]
    total_m: float = 0.0


class Road:
    """Links and lanes of one zone."""

    def __init__(self, origin_lat: float, origin_lon: float) -> None:
        """Begin with no lanes about an origin in degrees."""
        self.frame = LocalFrame(origin_lat, origin_lon)
        self.links: list[str] = []
        self.version = 0  # counts changes
        self._store: dict[str, _Link] = {}
        self._index: dict[tuple[str, int], int] = {}  # (link, lane id) -> lane index
        self._order: list[tuple[str, int]] = []
        self._build()

    # -- what MAP tells ---------------------------------------------------------------------------------------------
    def update(self, nodes: Iterable[Mapping[str, Any]], device: str = "") -> bool:
        """Take the nodes of a MAP message; return whether anything changed. Broken geometry is skipped, not raised."""
        changed = False
        for node in nodes:
            if node["ref_lat"] == _LAT_NONE:
                continue
            key = (int(node["region"]), int(node["node"]))
            ref = (int(node["ref_lat"]), int(node["ref_lon"]))
            for raw in node["links"]:
                changed |= self._take(key, ref, device, raw)
        if changed:
            self.version += 1
            self._build()
        return changed

    def _take(self, key: NodeKey, ref: tuple[int, int], device: str, raw: Mapping[str, Any]) -> bool:
        name = str(raw["link"])
        new = _Link(key, (int(raw["up_region"]), int(raw["up_node"])), ref, device, dict(raw))
        old = self._store.get(name)
        if old is not None and (old.node, old.ref, old.raw) == (new.node, new.ref, new.raw):
            return False
        new.total_m = sum(_length(self._line(new, lane)) for lane in raw["lanes"])
        if old is not None and old.device != device and new.total_m < old.total_m + _LONGER_M:
            return False
        if old is None:
            self.links.append(name)
        self._store[name] = new
        for lane in raw["lanes"]:
            lane_key = (name, int(lane["lane_id"]))
            if lane_key not in self._index:
                self._index[lane_key] = len(self._order)
                self._order.append(lane_key)
        return True

    def _line(self, link: _Link, lane: Mapping[str, Any]) -> F64:
        """Return the centre line, (k, 2) metres."""
        d_lat = np.array([p["d_lat"] for p in lane["points"]], dtype=np.int64)
        d_lon = np.array([p["d_lon"] for p in lane["points"]], dtype=np.int64)
        ok = (d_lat != _POINT_NONE) & (d_lon != _POINT_NONE)
        east, north = self.frame.to_local((link.ref[0] + d_lat[ok]) / 1e7, (link.ref[1] + d_lon[ok]) / 1e7)
        return np.column_stack((east, north))

    def _build(self) -> None:
        """Compile the columns, the grid and the ways from lane to lane."""
        count = len(self._order)
        ints = np.zeros((4, count), dtype=np.int32)
        reals = np.zeros((4, count))
        signal = np.zeros(count, dtype=np.bool_)
        lines: list[F64] = [np.zeros((0, 2)) for _ in range(count)]
        self.phases: list[tuple[tuple[int, int, int], ...]] = [
            () for _ in range(count)
        ]  # (region, node, phase) by lane
        where = {name: i for i, name in enumerate(self.links)}
        lanes = {
            (name, int(lane["lane_id"])): (link, lane)
            for name, link in self._store.items()
            for lane in link.raw["lanes"]
        }
        for i, (name, lane_id) in enumerate(self._order):
            ints[0, i], ints[1, i] = where[name], lane_id
            reals[0, i] = DEFAULT_WIDTH_M / 2
            if (name, lane_id) not in lanes:
                continue  # gone from the map: the index stays, without geometry
            link, lane = lanes[name, lane_id]
            lines[i] = self._line(link, lane)
            ints[2, i], ints[3, i] = lane["lane_type"], link.raw["road_class"]
            reals[0, i] = (lane["width"] / 200.0) or DEFAULT_WIDTH_M / 2
            reals[1, i] = _speed(lane["speed_min"])
            reals[2, i] = _speed(lane["speed_max"])
            reals[3, i] = _length(lines[i])
            ids: set[int] = {int(c["phase_id"]) for c in lane["connections"] if c["phase_id"]}
            if not lane["connections"]:
                ids = {int(m["phase_id"]) for m in link.raw["movements"] if m["phase_id"]}
            self.phases[i] = tuple((*link.node, phase) for phase in sorted(ids))
            signal[i] = bool(ids)
        self._connect(lanes)
        junction = signal | self._junctions(ints[0])
        self.lanes = Lanes(ints[0], ints[1], ints[2], ints[3], reals[0], reals[1], reals[2], reals[3], signal, junction)
        self.lines = lines
        self.segments = Segments.build(lines, reals[0])
        self.seg_start = np.searchsorted(self.segments.lane, np.arange(count + 1)).astype(np.int32)  # by lane
        self.link_lanes: list[tuple[int, ...]] = [() for _ in self.links]
        for i in range(count):
            self.link_lanes[ints[0, i]] += (i,)
        self.link_length = np.array([max((reals[3, i] for i in own), default=0.0) for own in self.link_lanes])

    def _connect(self, lanes: Mapping[tuple[str, int], tuple[_Link, Mapping[str, Any]]]) -> None:
        """Build ``ahead`` (lane -> lanes) and ``down``/``up`` (link -> links)."""
        between: dict[tuple[NodeKey, NodeKey], list[str]] = {}
        for name, link in self._store.items():
            between.setdefault((link.up, link.node), []).append(name)
        where = {name: i for i, name in enumerate(self.links)}
        self.ahead: list[tuple[int, ...]] = [() for _ in self._order]
        down: list[set[int]] = [set() for _ in self.links]
        up: list[set[int]] = [set() for _ in self.links]
        for (name, lane_id), (link, lane) in lanes.items():
            found: set[int] = set()
            for way in lane["connections"]:
                for after in between.get((link.node, (int(way["remote_region"]), int(way["remote_node"]))), ()):
                    down[where[name]].add(where[after])
                    up[where[after]].add(where[name])
                    every = [int(x["lane_id"]) for x in self._store[after].raw["lanes"]]
                    ids = [int(way["remote_lane"])] if way["remote_lane"] else every
                    found |= {self._index[after, i] for i in ids if (after, i) in self._index}
            self.ahead[self._index[name, lane_id]] = tuple(sorted(found))
        self.ahead_start = np.cumsum([0, *map(len, self.ahead)]).astype(np.int32)
        self.ahead_items = np.array([i for own in self.ahead for i in own], dtype=np.int32)
        self.down = [tuple(sorted(s)) for s in down]
        self.up = [tuple(sorted(s)) for s in up]

    def _junctions(self, lane_link: I32) -> npt.NDArray[np.bool_]:
        """Return by lane whether its link ends where others meet or leave (not at a mere change of name)."""
        many = np.array(
            [len(self.down[i]) > 1 or any(len(self.up[j]) > 1 for j in self.down[i]) for i in range(len(self.links))],
            dtype=np.bool_,
        )
        return many[lane_link] if len(lane_link) else np.zeros(0, dtype=np.bool_)

    # -- questions --------------------------------------------------------------------------------------------------
    def match(self, east: F64, north: F64, heading: F64) -> tuple[I32, F64, F64]:
        """Return (lane index or -1, along m, lateral m, left positive) of points; heading in degrees, NaN: none.

        Only lanes for motor vehicles are matched. A wrong-way vehicle matches the lane it is on: direction only decides
        between lanes that are equally near.
        """
        n = len(east)
        lane, along, lateral = np.empty(n, dtype=np.int32), np.empty(n), np.empty(n)
        east, north, heading = (np.ascontiguousarray(x, dtype=np.float64) for x in (east, north, heading))
        self.place(east, north, heading, n, lane, along, lateral)
        return lane, along, lateral

    def place(
        self, east: F64, north: F64, heading: F64, n: int, lane: I32, along: F64, lateral: F64
    ) -> None:  # fmt: skip
        """Do ``match`` for the first n points, into columns that the caller keeps."""
        seg = self.segments
        match(
            east, north, heading, n, MOTOR, seg.xy, seg.lane, seg.keys, seg.start, seg.items, self.lanes.half_width,
            self.lanes.kind, lane, along, lateral,
        )  # fmt: skip

    def cover(self, east: F64, north: F64, mask: int, margin: float = 0.0) -> I32:
        """Return the lane of the types in ``mask`` that holds each point, edges moved out by ``margin`` m; -1: none."""
        lane = np.empty(len(east), dtype=np.int32)
        seg = self.segments
        cover(
            np.ascontiguousarray(east, dtype=np.float64),
            np.ascontiguousarray(north, dtype=np.float64),
            mask,
            float(margin),
            *(seg.xy, seg.lane, seg.keys, seg.start, seg.items),
            *(self.lanes.half_width, self.lanes.kind, lane),
        )
        return lane

    def lane_index(self, link: str, lane_id: int) -> int:
        """Return the index of a lane, -1 if unknown."""
        return self._index.get((link, lane_id), -1)

    def point(self, lane: int, along: float, lateral: float = 0.0) -> tuple[float, float]:
        """Return (east, north) of a place on a lane, clamped to its ends."""
        line = self.lines[lane]
        if len(line) < 2:
            return 0.0, 0.0
        step = np.diff(line, axis=0)
        length = np.hypot(step[:, 0], step[:, 1])
        ends = np.cumsum(length)
        i = min(int(np.searchsorted(ends, along)), len(length) - 1)
        size = max(float(length[i]), 1e-9)
        t = min(max(along - (float(ends[i]) - size), 0.0), size) / size
        east = line[i, 0] + t * step[i, 0] - lateral * step[i, 1] / size
        north = line[i, 1] + t * step[i, 1] + lateral * step[i, 0] / size
        return float(east), float(north)

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "origin": [self.frame.lat, self.frame.lon],
            "version": self.version,
            "order": [list(key) for key in self._order],
            "links": [
                [name, *self._store[name].node, *self._store[name].ref, self._store[name].device, self._store[name].raw]
                for name in self.links
            ],
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Road:
        """Return the road of a ``state``."""
        road = cls(*state["origin"])
        for name, region, node, lat, lon, device, raw in state["links"]:
            link = _Link((region, node), (int(raw["up_region"]), int(raw["up_node"])), (lat, lon), device, dict(raw))
            link.total_m = sum(_length(road._line(link, lane)) for lane in raw["lanes"])
            road.links.append(name)
            road._store[name] = link
        road._order = [(name, lane) for name, lane in state["order"]]
        road._index = {key: i for i, key in enumerate(road._order)}
        road.version = state["version"]
        road._build()
        return road


def _length(line: F64) -> float:
    if len(line) < 2:
        return 0.0
    step = np.diff(line, axis=0)
    return float(np.hypot(step[:, 0], step[:, 1]).sum())


def _speed(raw: int) -> float:
    """Return m/s of a MAP speed; 0 where unavailable."""
    return 0.0 if raw == _SPEED_NONE else raw * _SPEED_UNIT
