"""The network's real lanes as links of a MAP: names, lane ids from the median, centre lines, and where a point is."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.record.grid import Grid, grid_heading
from v2x_loadtest.scene.build import e7, speed_code
from v2x_loadtest.scene.model import F8

REGION: Final = 3202  # our own; nodes 0 to 255 are for tests by the standard
VEHICLE, EMERGENCY, CROSSWALK, BIKE, SIDEWALK = 0, 1, 2, 3, 4
_TOLERANCE: Final = 0.03  # m: a centre line's points that are nearer to a straight one are left out


@dataclass(slots=True)
class Connection:
    """Where a lane leads at its end."""

    to_node: int
    to_lane: int
    phase: int
    maneuver: int  # bits: 1 straight, 2 left, 4 right, 8 U-turn


@dataclass(slots=True)
class Lane:
    """One lane of a link; ``line`` in grid metres, in driving direction."""

    link: int
    lane_id: int
    type: int
    width: float
    v_min: float | None
    v_max: float | None
    line: F8
    connections: list[Connection] = field(default_factory=list)
    along: F8 = field(init=False)

    def __post_init__(self) -> None:
        """Measure the line."""
        self.along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(self.line, axis=0).T))])

    @property
    def length(self) -> float:
        """Return the length of the centre line, m."""
        return float(self.along[-1])

    def project(self, x: F8, y: F8) -> tuple[F8, F8, F8]:
        """Return (along, lateral with left positive, grid heading of the lane there) of points."""
        a, d = self.line[:-1], np.diff(self.line, axis=0)
        length = np.hypot(d[:, 0], d[:, 1])
        u = d / length[:, None]
        px, py = np.asarray(x)[:, None] - a[:, 0], np.asarray(y)[:, None] - a[:, 1]
        t = np.clip(px * u[:, 0] + py * u[:, 1], 0.0, length)
        gap = np.hypot(px - t * u[:, 0], py - t * u[:, 1])
        best = np.argmin(gap, axis=1)
        rows = np.arange(len(best))
        lateral = u[best, 0] * py[rows, best] - u[best, 1] * px[rows, best]
        return self.along[best] + t[rows, best], lateral, grid_heading(u[best, 0], u[best, 1])

    def at(self, along: float, left: float = 0.0) -> tuple[float, float]:
        """Return the grid point ``along`` the lane and ``left`` of its centre."""
        i = int(np.clip(np.searchsorted(self.along, along, side="right") - 1, 0, len(self.along) - 2))
        d = self.line[i + 1] - self.line[i]
        u = d / np.hypot(*d)
        p = self.line[i] + (along - self.along[i]) * u
        return float(p[0] - left * u[1]), float(p[1] + left * u[0])


@dataclass(slots=True)
class Link:
    """One link of the MAP: a chain of SUMO edges between two of its nodes."""

    name: str
    up: int
    down: int
    road_class: int
    lanes: list[Lane] = field(default_factory=list)
    one_way: bool = True


@dataclass(slots=True)
class Node:
    """A node of the MAP."""

    number: int
    name: str
    x: float
    y: float


class LaneMap:
    """Links, nodes and lanes of a network, and which of them each SUMO lane is."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.nodes: dict[int, Node] = {}
        self.links: list[Link] = []
        self.of_sumo: dict[str, tuple[int, int]] = {}  # SUMO lane -> (link, lane id)

    def lane(self, link: int, lane_id: int) -> Lane | None:
        """Return a lane, None if there is none."""
        if not 0 <= link < len(self.links):
            return None
        return next((lane for lane in self.links[link].lanes if lane.lane_id == lane_id), None)

    def lanes(self) -> list[Lane]:
        """Return all lanes."""
        return [lane for link in self.links for lane in link.lanes]

    def nodes_near(self, x: float, y: float, reach: float, ele: float) -> list[dict[str, Any]]:
        """Return the Map.nodes whose links come within ``reach`` metres of a point."""
        point = np.array([[x, y]])
        wanted: dict[int, list[int]] = {}
        for i, link in enumerate(self.links):
            for lane in link.lanes:
                along, _, _ = lane.project(point[:, 0], point[:, 1])
                nearest = np.array(lane.at(float(along[0])))
                if np.hypot(*(nearest - point[0])) <= reach:
                    wanted.setdefault(link.down, []).append(i)
                    break
        return [self._node(number, wanted[number], ele) for number in sorted(wanted)]

    def _node(self, number: int, links: list[int], ele: float) -> dict[str, Any]:
        node = self.nodes[number]
        lat, lon = self.grid.point(node.x, node.y)
        ref = (e7(lat), e7(lon))
        return {
            "region": REGION,
            "node": number,
            "name": node.name,
            "ref_lat": ref[0],
            "ref_lon": ref[1],
            "ref_ele": round(ele * 10),
            "links": [self._link(i, ref) for i in links],
        }

    def _link(self, index: int, ref: tuple[int, int]) -> dict[str, Any]:
        link = self.links[index]
        movements = sorted({(c.to_node, c.phase) for lane in link.lanes for c in lane.connections})
        return {
            "link": link.name,
            "up_region": REGION,
            "up_node": link.up,
            "road_class": link.road_class,
            "movements": [{"remote_region": REGION, "remote_node": n, "phase_id": p} for n, p in movements],
            "lanes": [self._lane(lane, ref) for lane in link.lanes],
        }

    def _lane(self, lane: Lane, ref: tuple[int, int]) -> dict[str, Any]:
        lat, lon = self.grid.wgs84(lane.line[:, 0], lane.line[:, 1])
        return {
            "lane_id": lane.lane_id,
            "lane_type": lane.type,
            "width": round(lane.width * 100),
            "speed_min": speed_code(lane.v_min),
            "speed_max": speed_code(lane.v_max),
            "points": [
                {"d_lat": e7(a) - ref[0], "d_lon": e7(b) - ref[1]}
                for a, b in zip(lat.tolist(), lon.tolist(), strict=True)
            ],
            "connections": [
                {
                    "remote_region": REGION,
                    "remote_node": c.to_node,
                    "remote_lane": c.to_lane,
                    "phase_id": c.phase,
                    "maneuver": c.maneuver,
                }
                for c in lane.connections
            ],
        }


def simplify(line: F8, tolerance: float = _TOLERANCE) -> F8:
    """Return the polyline with as few of its points as keep it within ``tolerance`` metres (Douglas-Peucker)."""
    keep = np.zeros(len(line), bool)
    keep[[0, -1]] = True
    stack = [(0, len(line) - 1)]
    while stack:
        a, b = stack.pop()
        if b <= a + 1:
            continue
        d = line[b] - line[a]
        rel = line[a + 1 : b] - line[a]
        length = max(float(np.hypot(*d)), 1e-9)
        off = np.abs(d[0] * rel[:, 1] - d[1] * rel[:, 0]) / length
        worst = int(np.argmax(off))
        if off[worst] > tolerance:
            m = a + 1 + worst
            keep[m] = True
            stack += [(a, m), (m, b)]
    out: F8 = line[keep]
    return out


def join(pieces: Sequence[F8]) -> F8:
    """Return one polyline of pieces that meet end to start, without doubled points."""
    line = np.concatenate(list(pieces))
    step = np.hypot(*np.diff(line, axis=0).T)
    out: F8 = line[np.concatenate([[True], step > 0.05])]
    return out


class NetFile:
    """What we need of a SUMO network file."""

    def __init__(self, path: Path) -> None:
        root = ET.parse(path).getroot()  # noqa: S314 - netconvert wrote it just now
        self.shape: dict[str, F8] = {}
        self.width: dict[str, float] = {}
        self.speed: dict[str, float] = {}
        self.edge_lanes: dict[str, list[str]] = {}
        self.function: dict[str, str] = {}
        self.connections: list[dict[str, str]] = [dict(c.attrib) for c in root.findall("connection")]
        self.programs: dict[str, ET.Element] = {p.attrib["id"]: p for p in root.findall("tlLogic")}
        self.junctions: dict[str, dict[str, str]] = {j.attrib["id"]: dict(j.attrib) for j in root.findall("junction")}
        self.allow: dict[str, str] = {}
        location = root.find("location")
        self.offset = (0.0, 0.0)
        if location is not None:
            dx, dy = location.attrib["netOffset"].split(",")
            self.offset = (float(dx), float(dy))
        for edge in root.findall("edge"):
            id_ = edge.attrib["id"]
            self.function[id_] = edge.attrib.get("function", "normal")
            self.edge_lanes[id_] = []
            for lane in edge.findall("lane"):
                name = lane.attrib["id"]
                self.edge_lanes[id_].append(name)
                self.shape[name] = points(lane.attrib["shape"]) - np.array(self.offset)
                self.width[name] = float(lane.attrib.get("width", "3.2"))
                self.speed[name] = float(lane.attrib["speed"])
                self.allow[name] = lane.attrib.get("allow", "")

    def internal_of(self) -> dict[str, str]:
        """Return for each internal lane the lane it comes from."""
        out: dict[str, str] = {}
        for c in self.connections:
            if "via" in c:
                out[c["via"]] = f"{c['from']}_{c['fromLane']}"
        for c in self.connections:  # a second piece of a way through a junction comes from the first
            name = f"{c['from']}_{c['fromLane']}"
            if c["from"].startswith(":") and "via" in c and name in out:
                out[c["via"]] = out[name]
        return out


def points(text: str) -> npt.NDArray[np.float64]:
    """Return a SUMO shape as (k, 2)."""
    return np.array([[float(v) for v in p.split(",")[:2]] for p in text.split()])
