"""A straight road and vehicles that do as they are told: frames for the event detector's tests.

The motorway: link M1 (1,000 m), then M2 (1,000 m), eastward along y = 0; three lanes and a shoulder (4); 120 / 60 km/h.
The street: link S1 (300 m) to a signal (phase 1), then S2; two lanes, 50 km/h, a crosswalk lane across the end of S1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from v2x.columns import Table
from v2x.events import Detector, EventChange
from v2x.fusion.snapshot import Frozen, unpack
from v2x.fusion.view import TrackView
from v2x.geo import LocalFrame
from v2x.road import Road

T0 = 1_700_000_000_000
LAT, LON = 31.5, 120.3
FRAME = LocalFrame(LAT, LON)
WIDTH = 3.75


def lane_y(lane: int) -> float:
    """North of a lane's centre: lane 1 is the leftmost."""
    return -WIDTH * (lane - 0.5)


def lane_dict(lane: int, a: float, b: float, ref: tuple[int, int], **over: Any) -> dict[str, Any]:
    points = []
    for x in (a, b):
        lat, lon = FRAME.e7(x, lane_y(lane))
        points.append({"d_lat": lat - ref[0], "d_lon": lon - ref[1]})
    row = {
        "lane_id": lane, "lane_type": 0, "width": 375, "speed_min": 8191, "speed_max": 8191,
        "points": points, "connections": [],
    }  # fmt: skip
    return row | over


def way(node: int, lane: int, phase: int = 0) -> dict[str, int]:
    return {"remote_region": 1, "remote_node": node, "remote_lane": lane, "phase_id": phase, "maneuver": 1}


def node_dict(node: int, links: list[dict[str, Any]]) -> dict[str, Any]:
    lat, lon = FRAME.e7(0.0, 0.0)
    return {
        "region": 1,
        "node": node,
        "name": f"n{node}",
        "ref_lat": lat,
        "ref_lon": lon,
        "ref_ele": 50,
        "links": links,
    }


def link_dict(name: str, up: int, cls: int, lanes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"link": name, "up_region": 1, "up_node": up, "road_class": cls, "movements": [], "lanes": lanes}


REF = FRAME.e7(0.0, 0.0)


def motorway_nodes() -> list[dict[str, Any]]:
    nodes = []
    for i, name in enumerate(("M1", "M2")):
        a = 1000.0 * i
        lanes = [
            lane_dict(
                lane, a, a + 1000.0, REF, speed_min=round(60 / 3.6 / 0.02), speed_max=round(120 / 3.6 / 0.02),
                connections=[way(12, lane)] if i == 0 else [],
            )
            for lane in (1, 2, 3)
        ]  # fmt: skip
        lanes.append(lane_dict(4, a, a + 1000.0, REF, lane_type=1, connections=[way(12, 4)] if i == 0 else []))
        nodes.append(node_dict(11 + i, [link_dict(name, 10 + i, 1, lanes)]))
    return nodes


def street_nodes() -> list[dict[str, Any]]:
    lanes1 = [lane_dict(n, 0.0, 300.0, REF, speed_max=694, connections=[way(22, n, 1)]) for n in (1, 2)]
    lanes2 = [lane_dict(n, 320.0, 600.0, REF, speed_max=694) for n in (1, 2)]
    a, b = FRAME.e7(303.0, 5.0), FRAME.e7(303.0, -15.0)
    crosswalk = lane_dict(9, 0, 0, REF, lane_type=2, width=400)
    crosswalk["points"] = [{"d_lat": p[0] - REF[0], "d_lon": p[1] - REF[1]} for p in (a, b)]
    return [
        node_dict(21, [link_dict("S1", 20, 3, lanes1), link_dict("X1", 29, 3, [crosswalk])]),
        node_dict(22, [link_dict("S2", 21, 3, lanes2)]),
    ]


@dataclass
class Car:
    """One track; functions of seconds since T0."""

    id: int
    x: Callable[[float], float]
    v: Callable[[float], float]
    lane: int = 2
    y: float | None = None
    heading: float = 90.0
    cls: int = 3
    born: float = -10.0
    alive: Callable[[float], bool] = field(default=lambda _t: True)
    length: float = 4.5
    age_ms: int = 0
    hits: int = 10


def parked(
    id_: int, x: float, lane: int = 2, arrives: float = 2.0, leaves: float = 1e9, speed: float = 20.0, **kw: Any
) -> Car:
    """A car that stops at x at second ``arrives`` (at 4 m/s2 less a bit) and goes on at ``leaves``."""
    decel = 3.3

    def v(t: float) -> float:
        if t < arrives:
            return min(speed, decel * (arrives - t))
        return min(speed, max(0.0, 2.0 * (t - leaves)))

    def pos(t: float) -> float:
        if t < arrives:
            ramp = min(arrives - t, speed / decel)
            return x - 0.5 * decel * ramp**2 - speed * (arrives - t - ramp)
        gone = max(0.0, t - leaves)
        up = min(gone, speed / 2.0)
        return x + up**2 + speed * (gone - up)

    return Car(id_, pos, v, lane, **kw)


def cruising(id_: int, x0: float, speed: float, lane: int = 2, **kw: Any) -> Car:
    return Car(id_, lambda t: x0 + speed * t, lambda _t: speed, lane, **kw)


class World:
    """A road, its detector, and what came of it."""

    def __init__(self, nodes: list[dict[str, Any]], config: Any = None) -> None:
        self.road = Road(LAT, LON)
        assert self.road.update(nodes, "RSU-1")
        self.det = Detector(config, "Z", self.road)
        self.changes: list[tuple[float, EventChange]] = []
        self.t = 0.0
        self.own = True  # whether SPAT is of the zone's own devices

    def restart(self) -> None:
        """Let detector and road go through their states."""
        road = Road.load(json.loads(json.dumps(self.road.state())))
        det = Detector(None, "Z", road)
        blob = Frozen(self.det.state()).pack()
        det.load(unpack(blob))
        assert Frozen(det.state()).pack() == blob
        self.road, self.det = road, det

    def view(self, cars: list[Car], t: float) -> TrackView:
        live = sorted((c for c in cars if c.alive(t)), key=lambda c: c.id)
        ms = T0 + round(t * 1000)
        x = np.array([c.x(t) for c in live])
        y = np.array([lane_y(c.lane) if c.y is None else c.y for c in live])
        v = np.array([c.v(t) for c in live])
        h = np.array([c.heading for c in live], dtype=float)
        lane, along, lateral = self.road.match(x, y, h)
        age = np.array([c.age_ms for c in live], dtype=np.int64)
        rad = np.radians(h)
        return TrackView(
            zone="Z", event_ms=ms, stream_ms=ms,
            id=np.array([c.id for c in live], dtype=np.int64),
            cls=np.array([c.cls for c in live], dtype=np.int16),
            east=x, north=y, vel_e=v * np.sin(rad), vel_n=v * np.cos(rad), speed=v, heading=h, accel=np.zeros(len(x)),
            length=np.array([c.length for c in live]), width=np.full(len(x), 1.8),
            lane=lane, along=along, lateral=lateral, age_ms=age,
            hits=np.array([c.hits for c in live], dtype=np.int64),
            born_ms=np.array([T0 + round(c.born * 1000) for c in live], dtype=np.int64),
            last_ms=ms - age, sigma=np.full(len(x), 0.3),
        )  # fmt: skip

    def run(
        self, cars: list[Car], until: float, each: Callable[[float], list[EventChange] | None] | None = None
    ) -> None:
        """Step to ``until`` seconds; ``each`` may feed the detector before a step and return changes."""
        while self.t < until - 1e-9:
            extra = each(self.t) if each else None
            self.changes += [(self.t, c) for c in extra or []]
            step = self.det.step(T0 + round(self.t * 1000), self.view(cars, self.t))
            self.changes += [(self.t, c) for c in step]
            self.t = round(self.t + 0.1, 6)

    def spat(self, t: float, *crossings: dict[str, Any], device: str = "RSU-1") -> None:
        """Say a SPAT: dicts as Spat.intersections (status 0 unless given)."""
        self.det.spat(device, T0 + round(t * 1000), 0, *spat_tables(crossings), own=self.own)

    def light(self, t: float, light: int, phase: int = 1, node: int = 21) -> None:
        self.spat(t, {"region": 1, "node": node, "phases": [{"phase_id": phase, "light": light}]})

    def of(self, *kinds: str) -> list[tuple[float, EventChange]]:
        return [(t, c) for t, c in self.changes if c.kind in kinds]

    def ids(self, *kinds: str) -> list[str]:
        return list(dict.fromkeys(c.event_id for _, c in (self.of(*kinds) if kinds else self.changes)))

    def told(self) -> list[str]:
        return [f"{c.kind} {c.status}" for _, c in self.changes]


def spat_tables(crossings: Any) -> tuple[Table, Table]:
    """The batch decoder's tables of one SPAT."""
    nodes = [[c["region"], c["node"], c.get("status", 0)] for c in crossings]
    rows = [(i, [p["phase_id"], p["light"]]) for i, c in enumerate(crossings) for p in c["phases"]]

    def table(name: str, fields: tuple[str, ...], data: Any, parent: Any) -> Table:
        columns = np.array(data, dtype=np.int64).reshape(-1, len(fields))
        zeros = np.zeros(len(columns), dtype=np.int32)
        return Table(name, fields, columns, zeros, np.array(parent, dtype=np.int32))

    return (
        table("spat.intersections", ("region", "node", "status"), nodes, [0] * len(nodes)),
        table("spat.intersections.phases", ("phase_id", "light"), [r for _, r in rows], [i for i, _ in rows]),
    )


def rte(t: float, code: int, x: float, lane: int = 2, **over: Any) -> dict[str, Any]:
    """A row of rsi.rtes with its message's device and time."""
    lat, lon = FRAME.e7(x, lane_y(lane))
    row = {
        "device": "RSU-1", "ts_ms": T0 + round(t * 1000), "rte_id": 7, "event_type": code, "event_source": 5,
        "confidence": 160, "priority": 4, "lat": lat, "lon": lon, "ele": 50, "radius": 100, "lane_id": lane,
        "start_ms": T0, "end_ms": 0, "ended": 0, "speed": 8191, "queue": 65535, "description": "",
    }  # fmt: skip
    return row | over


def bsm(
    t: float, x: float, lane: int = 2, flags: int = 0, lights: int = 0, device: str = "OBU-1", **over: Any
) -> dict[str, Any]:
    lat, lon = FRAME.e7(x, lane_y(lane))
    row = {
        "device": device, "ts_ms": T0 + round(t * 1000), "temp_id": "aa", "lat": lat, "lon": lon,
        "event_flags": flags, "lights": lights, "abs": 2, "traction": 2, "scs": 2,
    }  # fmt: skip
    return row | over
