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
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.geo import F64, LocalFrame
from v2x.road_match import I32, I64, Piece, Segments, cover, match


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
ON_FOOT: Final = 1 << LaneKind.CROSSWALK | 1 << LaneKind.SIDEWALK
DEFAULT_WIDTH_M: Final = 3.75  # JTG B01: lane width at design speeds of 80 km/h and more
_POINT_NONE: Final = -2097152
_LAT_NONE: Final = 900000001
_SPEED_NONE: Final = 8191
_SPEED_UNIT: Final = 0.02
_LONGER_M: Final = 1.0
_RIGHT: Final = 4  # AllowedManeuvers

_NOWHERE: Final = np.zeros((0, 2))
_NO_PIECE: Final = Piece.cut(_NOWHERE, DEFAULT_WIDTH_M / 2, LaneKind.VEHICLE)

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
    right: npt.NDArray[np.bool_]  # one may turn right from it, or MAP does not say where to

    def __len__(self) -> int:
        """Return the number of lanes."""
        return len(self.link)


@dataclass(frozen=True, slots=True)
class _Lane:
    """What is made of a lane when it is told of."""

    raw: Mapping[str, Any]
    line: F64  # (k, 2) m: its centre
    length: float  # m
    half_width: float  # m
    piece: Piece


@dataclass(slots=True)
class _Link:
    """One link as told by MAP."""

    node: NodeKey
    up: NodeKey
    ref: tuple[int, int]  # 1e-7 deg
    device: str
    raw: dict[str, Any]
    lanes: dict[int, _Lane] = field(default_factory=dict)  # by lane id
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
        self._compile(new)
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

    def _compile(self, link: _Link) -> None:
        """Make the lanes of a link, and its total length."""
        for raw in link.raw["lanes"]:
            d_lat = np.array([p["d_lat"] for p in raw["points"]], dtype=np.int64)
            d_lon = np.array([p["d_lon"] for p in raw["points"]], dtype=np.int64)
            ok = (d_lat != _POINT_NONE) & (d_lon != _POINT_NONE)
            line = np.column_stack(
                self.frame.to_local((link.ref[0] + d_lat[ok]) / 1e7, (link.ref[1] + d_lon[ok]) / 1e7)
            )
            half = (raw["width"] / 200.0) or DEFAULT_WIDTH_M / 2
            lane = _Lane(raw, line, _length(line), half, Piece.cut(line, half, raw["lane_type"]))
            link.lanes[int(raw["lane_id"])] = lane
            link.total_m += lane.length

    def _build(self) -> None:
        """Put the columns, the grid and the ways from lane to lane together."""
        count = len(self._order)
        ints = np.zeros((4, count), dtype=np.int32)
        reals = np.zeros((4, count))
        signal, right = np.zeros(count, dtype=np.bool_), np.ones(count, dtype=np.bool_)
        lines: list[F64] = []
        pieces: list[Piece] = []
        self.phases: list[tuple[tuple[int, int, int], ...]] = []  # (region, node, phase) by lane
        self.link_lanes: list[tuple[int, ...]] = [() for _ in self.links]
        self.node_lanes: dict[NodeKey, tuple[int, ...]] = {}  # that end at a node and have phases
        where = {name: i for i, name in enumerate(self.links)}
        for i, (name, lane_id) in enumerate(self._order):
            ints[0, i], ints[1, i] = where[name], lane_id
            self.link_lanes[where[name]] += (i,)
            link = self._store[name]
            lane = link.lanes.get(lane_id)
            if lane is None:  # gone from the map: the index stays, without geometry
                reals[0, i] = DEFAULT_WIDTH_M / 2
                lines.append(_NOWHERE)
                pieces.append(_NO_PIECE)
                self.phases.append(())
                continue
            lines.append(lane.line)
            pieces.append(lane.piece)
            raw = lane.raw
            ints[2, i], ints[3, i] = raw["lane_type"], link.raw["road_class"]
            reals[:, i] = lane.half_width, _speed(raw["speed_min"]), _speed(raw["speed_max"]), lane.length
            ids: set[int] = {int(c["phase_id"]) for c in raw["connections"] if c["phase_id"]}
            if not raw["connections"]:
                ids = {int(m["phase_id"]) for m in link.raw["movements"] if m["phase_id"]}
            self.phases.append(tuple((*link.node, phase) for phase in sorted(ids)))
            signal[i] = bool(ids)
            turns = [int(c["maneuver"]) for c in raw["connections"]]
            right[i] = not turns or any(turn & _RIGHT or not turn for turn in turns)
            if ids:
                self.node_lanes[link.node] = (*self.node_lanes.get(link.node, ()), i)
        self._connect(where)
        junction = signal | self._junctions(ints[0])
        self.lanes = Lanes(
            ints[0], ints[1], ints[2], ints[3], reals[0], reals[1], reals[2], reals[3], signal, junction, right
        )
        self.lines = lines
        self.segments = Segments.build(pieces)
        self.seg_start = np.searchsorted(self.segments.lane, np.arange(count + 1)).astype(np.int32)  # by lane
        self.link_length = np.array([max((reals[3, i] for i in own), default=0.0) for own in self.link_lanes])

    def _connect(self, where: Mapping[str, int]) -> None:
        """Build ``ahead``, ``ways`` (lane -> lanes; with phase and maneuvers) and ``down``/``up`` (link -> links)."""
        between: dict[tuple[NodeKey, NodeKey], list[str]] = {}
        for name, link in self._store.items():
            between.setdefault((link.up, link.node), []).append(name)
        self.ahead: list[tuple[int, ...]] = [() for _ in self._order]
        self.ways: list[tuple[tuple[int, int, int], ...]] = [() for _ in self._order]
        down: list[set[int]] = [set() for _ in self.links]
        up: list[set[int]] = [set() for _ in self.links]
        lanes = [(name, i, link, lane) for name, link in self._store.items() for i, lane in link.lanes.items()]
        for name, lane_id, link, lane in lanes:
            found: set[tuple[int, int, int]] = set()
            for way in lane.raw["connections"]:
                for after in between.get((link.node, (int(way["remote_region"]), int(way["remote_node"]))), ()):
                    down[where[name]].add(where[after])
                    up[where[after]].add(where[name])
                    ids = [int(way["remote_lane"])] if way["remote_lane"] else self._store[after].lanes
                    how = int(way["phase_id"]), int(way["maneuver"])
                    found |= {(self._index[after, i], *how) for i in ids if (after, i) in self._index}
            self.ways[self._index[name, lane_id]] = tuple(sorted(found))
            self.ahead[self._index[name, lane_id]] = tuple(sorted({way[0] for way in found}))
        self.ahead_start = np.cumsum([0, *map(len, self.ahead)]).astype(np.int32)
        self.ahead_items = np.array([i for own in self.ahead for i in own], dtype=np.int32)
        turns = [{way[0] for way in own if way[2] & _RIGHT} for own in self.ways]
        self.ahead_right = np.array(
            [i in turn for own, turn in zip(self.ahead, turns, strict=True) for i in own], dtype=np.bool_
        )
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
        head_e, head_n = (np.nan_to_num(turn(np.radians(heading))) for turn in (np.sin, np.cos))
        hints = np.full((n, 2), -1, dtype=np.int32)
        self.place(east, north, head_e, head_n, np.arange(n), n, hints, lane, along, lateral)
        return lane, along, lateral

    def place(
        self, east: F64, north: F64, head_e: F64, head_n: F64, who: I64, n: int, hints: I32, lane: I32, along: F64,
        lateral: F64,
    ) -> None:  # fmt: skip
        """Do ``match`` for the first n points, into columns that the caller keeps.

        ``head_*``: heading as a unit vector, zeros none. ``hints`` (rows of two, -1 at first) are the caller's to keep:
        row ``who[k]`` is that of point k.
        """
        seg = self.segments
        match(
            east, north, head_e, head_n, n, MOTOR, seg.xy, seg.lane, seg.keys, seg.start, seg.items, who, hints, lane,
            along, lateral,
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
            *(seg.xy, seg.lane, seg.keys, seg.start, seg.items, lane),
        )
        return lane

    def lanes_at(self, east: float, north: float) -> int:
        """Return how many lanes for motor vehicles the carriageway at a point has, its shoulder left out; 0: none."""
        lane = int(self.cover(np.array([east]), np.array([north]), MOTOR, DEFAULT_WIDTH_M)[0])
        if lane < 0:
            return 0
        own = self.link_lanes[self.lanes.link[lane]]
        return sum(bool(self.lanes.kind[x] == LaneKind.VEHICLE and self.lanes.length[x] > 0) for x in own)

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
            road._compile(link)
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
