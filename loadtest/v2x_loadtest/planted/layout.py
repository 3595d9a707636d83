"""The road of the planted scenes: a motorway of 5 km both ways, and three signalled crossings south of it.

Metres about the motorway's west end, x east, y north. Lanes count from the median; lane 4 of the motorway is the hard
shoulder. A crossing has four arms (0 west, 1 south, 2 east, 3 north, by where traffic comes from), each with two lanes
in and two out, a crosswalk, a lane for bicycles and a pavement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from v2x.geo import LocalFrame

from v2x_loadtest.scene import Device, SignalPhase, SignalPlan
from v2x_loadtest.scene.build import e7, speed_code, zone_document
from v2x_loadtest.score.crossing import ALL_RED_S, ARM_M, CYCLE_S, GREEN_S, OFFSET_S, STOP_M
from v2x_loadtest.score.traffic import LANE_M

FRAME: Final = LocalFrame(31.5, 120.3)
REGION: Final = 3203
LENGTH_M: Final = 5000.0
LINK_M: Final = 1000.0
SHOULDER: Final = 4
MEDIAN_M: Final = 1.5
EAST, WEST = 1, -1  # directions of the motorway
CROSSINGS: Final = ((1200.0, -1500.0), (2500.0, -1500.0), (3800.0, -1500.0))
RSU_RANGE_M: Final = 250.0
RSU_EVERY_M: Final = 350.0
POLES_M: Final = (250.0, 1250.0, 2500.0, 3750.0, 4750.0)
MOTORWAY_MPS: Final = (60 / 3.6, 120 / 3.6)  # lowest and highest speed
STREET_MPS: Final = 60 / 3.6
_ARTERIAL: Final = 3
_VEHICLE, _EMERGENCY, _CROSSWALK, _BIKE, _SIDEWALK = range(5)
_MAP_M: Final = 350.0  # an RSU tells of links that come this near

XY = tuple[float, float]


def motorway_xy(direction: int, s: float, lane: float, left: float = 0.0) -> XY:
    """Return the point ``s`` m along a direction's carriageway, ``left`` of a lane's centre."""
    off = MEDIAN_M + LANE_M * (lane - 0.5) - left
    return (s, -off) if direction == EAST else (LENGTH_M - s, off)


def turned(arm: int, x: float, y: float) -> XY:
    """Return a point of the arm that comes from the west, turned to another arm."""
    c, d = ((1, 0), (0, 1), (-1, 0), (0, -1))[arm]
    return c * x - d * y, d * x + c * y


def arm_xy(crossing: int, arm: int, x: float, y: float) -> XY:
    """Return a point given in an arm's own metres (traffic comes from -x) in those of the scene."""
    dx, dy = turned(arm, x, y)
    return CROSSINGS[crossing][0] + dx, CROSSINGS[crossing][1] + dy


def rsu_id(crossing: int) -> str:
    """Return the RSU that tells of a crossing's signals."""
    return f"RSU-P-C{crossing + 1}"


def plans() -> list[SignalPlan]:
    """Return the signals' plans: one arm after the other is green."""
    out = []
    for c in range(len(CROSSINGS)):
        phases = []
        for arm in range(4):
            before = arm * (GREEN_S + ALL_RED_S)
            lights = [(6, GREEN_S), (7, ALL_RED_S), (3, CYCLE_S - before - GREEN_S - ALL_RED_S)]
            if before:
                lights.insert(0, (3, before))
            phases.append(SignalPhase(arm + 1, tuple(x for x in lights if x[1] > 0)))
        out.append(SignalPlan(rsu_id(c), REGION, 100 + c, -OFFSET_S % CYCLE_S, tuple(phases)))
    return out


def devices() -> list[Device]:
    """Return what stands at the road; ``props["pole"]`` of a pole is its number."""
    out: list[Device] = []

    def at(kind: str, id_: str, x: float, y: float, range_m: float = 0.0, **props: Any) -> None:
        lat, lon = FRAME.to_geo(x, y)
        zone = "P-Z3" if y < -700 else "P-Z1" if x < LENGTH_M / 2 else "P-Z2"
        if kind == "rsu" and y > -700 and abs(x - LENGTH_M / 2) < range_m:
            props["halo"] = ["P-Z2" if zone == "P-Z1" else "P-Z1"]
        out.append(Device(kind, id_, round(float(lat), 7), round(float(lon), 7), 5.0, range_m, zone, props))

    x = 50.0
    while x < LENGTH_M:
        at("rsu", f"RSU-P-M{round(x):04d}", x, 18.0, RSU_RANGE_M, place=(x, 0.0))
        x += RSU_EVERY_M
    for c, (x, y) in enumerate(CROSSINGS):
        at("rsu", rsu_id(c), x + 16, y + 16, 180.0, place=(x, y))
        at("rsu", f"RSU-P-D{c + 1}", x - 16, y - 16, 180.0, place=(x, y))
    for n, x in enumerate(POLES_M):
        at("pole", f"POLE-P-{n + 1}", x, -19.0, pole=n)
    return out


def zones(fixed: Iterable[Device]) -> dict[str, Any]:
    """Return the zone document: the motorway's west and east half, and the streets."""

    def area(a: float, b: float, c: float, d: float) -> list[list[float]]:
        corners = ((a, c), (b, c), (b, d), (a, d))
        return [[round(float(v), 7) for v in FRAME.to_geo(*p)] for p in corners]

    half = LENGTH_M / 2
    rows = [
        {"id": "P-Z1", "polygon": area(-500, half, -700, 500), "neighbours": ["P-Z2"]},
        {"id": "P-Z2", "polygon": area(half, LENGTH_M + 500, -700, 500), "neighbours": ["P-Z1"]},
        {"id": "P-Z3", "polygon": area(-500, LENGTH_M + 500, -2500, -700), "neighbours": []},
    ]
    return zone_document("planted", rows, fixed, [])


def maps(fixed: Iterable[Device]) -> dict[str, list[dict[str, Any]]]:
    """Return the MAP nodes that each RSU tells of."""
    out = {}
    for d in fixed:
        if d.kind != "rsu":
            continue
        x, y = d.props["place"]
        out[d.id] = [_crossing(c) for c, at in enumerate(CROSSINGS) if at == (x, y)] or _motorway(x)
        if y < 0:
            out[d.id] += [_outer(c, arm) for c, at in enumerate(CROSSINGS) if at == (x, y) for arm in range(4)]
    return out


def _node(number: int, name: str, place: XY, links: list[dict[str, Any]]) -> dict[str, Any]:
    lat, lon = (e7(float(v)) for v in FRAME.to_geo(*place))
    for link in links:
        for lane in link["lanes"]:
            points = [[e7(float(v)) for v in FRAME.to_geo(*p)] for p in lane["points"]]
            lane["points"] = [{"d_lat": a - lat, "d_lon": b - lon} for a, b in points]
    return {
        "region": REGION, "node": number, "name": name, "ref_lat": lat, "ref_lon": lon, "ref_ele": 50, "links": links,
    }  # fmt: skip


def _lane(
    lane: int, kind: int, points: list[XY], limits: tuple[float | None, float | None], width: float = LANE_M,
    ways: Iterable[tuple[int, int, int, int]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return a lane; ``ways``: remote node, remote lane, phase, manoeuvre."""
    low, high = limits
    return {
        "lane_id": lane, "lane_type": kind, "width": round(width * 100), "speed_min": speed_code(low),
        "speed_max": speed_code(high), "points": points,
        "connections": [
            {"remote_region": REGION, "remote_node": n, "remote_lane": to, "phase_id": p, "maneuver": m}
            for n, to, p, m in ways
        ],
    }  # fmt: skip


def _link(name: str, up: int, road_class: int, lanes: list[dict[str, Any]]) -> dict[str, Any]:
    phases = sorted({(c["remote_node"], c["phase_id"]) for lane in lanes for c in lane["connections"]})
    return {
        "link": name, "up_region": REGION, "up_node": up, "road_class": road_class, "lanes": lanes,
        "movements": [{"remote_region": REGION, "remote_node": n, "phase_id": p} for n, p in phases],
    }  # fmt: skip


def _motorway(x: float) -> list[dict[str, Any]]:
    """Return the nodes with the motorway's links near ``x``."""
    count = round(LENGTH_M / LINK_M)
    nodes: dict[int, list[dict[str, Any]]] = {}
    for direction in (EAST, WEST):
        for k in range(count):
            a, b = k * LINK_M, (k + 1) * LINK_M
            low, high = (a, b) if direction == EAST else (LENGTH_M - b, LENGTH_M - a)
            if not low - _MAP_M < x < high + _MAP_M:
                continue
            at = k if direction == EAST else count - k
            lanes = []
            for lane in range(1, SHOULDER + 1):
                kind = _EMERGENCY if lane == SHOULDER else _VEHICLE
                ways = [(10 + at + 2 * direction, lane, 0, 1)] if k + 1 < count else []
                points = [motorway_xy(direction, s, lane) for s in (a, b)]
                limits = (None if lane == SHOULDER else MOTORWAY_MPS[0], MOTORWAY_MPS[1])
                lanes.append(_lane(lane, kind, points, limits, ways=ways))
            name = f"P-{'E' if direction == EAST else 'W'}{k + 1}"
            nodes.setdefault(at + direction, []).append(_link(name, 10 + at, 1, lanes))
    return [_node(10 + n, f"P {n}", (n * LINK_M, 0.0), links) for n, links in sorted(nodes.items())]


def _crossing(c: int) -> dict[str, Any]:
    """Return the node of a crossing: its arms' lanes inwards."""
    links = []
    for arm in range(4):

        def line(*points: XY, arm: int = arm) -> list[XY]:
            return [arm_xy(c, arm, *p) for p in points]

        def out(turn: int, arm: int = arm) -> int:
            return 200 + 10 * c + (arm + turn) % 4

        phase, y1, y2 = arm + 1, -LANE_M / 2, -LANE_M * 1.5
        none = (None, None)
        lanes = [
            _lane(1, _VEHICLE, line((-ARM_M, y1), (-STOP_M, y1)), (None, STREET_MPS),
                  ways=((out(2), 1, phase, 1), (out(3), 1, phase, 2))),
            _lane(2, _VEHICLE, line((-ARM_M, y2), (-STOP_M, y2)), (None, STREET_MPS),
                  ways=((out(2), 2, phase, 1), (out(1), 2, phase, 4))),
            _lane(5, _CROSSWALK, line((-11.0, -2 * LANE_M), (-11.0, 2 * LANE_M)), none, 4.0),
            _lane(6, _BIKE, line((-ARM_M, -9.0), (-STOP_M, -9.0)), none, 2.0),
            _lane(7, _SIDEWALK, line((-ARM_M, -13.0), (-STOP_M, -13.0)), none, 5.0),
        ]  # fmt: skip
        links.append(_link(f"P-C{c + 1}A{arm}", 200 + 10 * c + arm, _ARTERIAL, lanes))
    return _node(100 + c, f"P C{c + 1}", CROSSINGS[c], links)


def _outer(c: int, arm: int) -> dict[str, Any]:
    """Return the node at an arm's end: its lanes outwards."""
    lanes = [
        _lane(n + 1, _VEHICLE, [arm_xy(c, arm, x, LANE_M * (n + 0.5)) for x in (-STOP_M, -ARM_M)], (None, STREET_MPS))
        for n in range(2)
    ]
    place = arm_xy(c, arm, -ARM_M, 0.0)
    number = 200 + 10 * c + arm
    return _node(number, f"P {number}", place, [_link(f"P-C{c + 1}X{arm}", 100 + c, _ARTERIAL, lanes)])
