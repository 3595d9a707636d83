"""The scene ``motorway``: who stands where, what is planted when."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from v2x_loadtest.record import motorway as m
from v2x_loadtest.record import plant
from v2x_loadtest.record.assemble import ELE_M, choose_obus, scene
from v2x_loadtest.record.drive import Car, Drive, Script
from v2x_loadtest.record.grid import Grid
from v2x_loadtest.record.lanes import LaneMap, NetFile
from v2x_loadtest.record.motion import Raw, rounded, walk
from v2x_loadtest.record.tracks import Shape, make_tracks
from v2x_loadtest.scene.model import CAR, F8, PEDESTRIAN, STEP_S, Bool, Device, Scene

LAT0, LON0 = 31.5, 120.3
LENGTH_S, WARM_S, RATE = 160.0, 270.0, 0.9
BORDER: Final = 1845.0  # of the zones: only one RSU sees beyond it
RSU_POSTS: Final = tuple(50.0 + 300.0 * i for i in range(14))
RANGE: Final = 250.0
GANTRIES: Final = (("3A0101", 1, 900.0), ("3A0102", 1, 1550.0), ("3A0103", 1, 2250.0),
                   ("3A0201", 2, 3150.0), ("3A0202", 2, 2450.0), ("3A0203", 2, 1800.0))  # fmt: skip
REST_AREA: Final = 560.0  # westbound, its way out against the traffic
DEFAULT_SEED: Final = 3
WANTED: Final = (
    "STOPPED_VEHICLE", "BREAKDOWN", "WRONG_WAY", "OVERSPEED", "SLOW_VEHICLE", "HARD_BRAKING", "PEDESTRIAN",
    "CONGESTION",
)  # fmt: skip


def _cars(car: Car) -> bool:
    return car.kind in {"compact", "saloon", "suv"}


def _light(car: Car) -> bool:
    return car.kind in {"compact", "saloon", "suv", "van", "lorry"}


def _scripts() -> list[Callable[[Drive], Script]]:
    def stretch(way: int) -> plant.Stretch:
        rows = [(name, a) for name, w, a, _ in m.all_edges() if w == way]
        return plant.Stretch(tuple(r[0] for r in rows), tuple(abs(r[1] - rows[0][1]) for r in rows))

    east, west = stretch(0), stretch(1)

    def e(post: float) -> float:
        return post - (m.BEGIN - m.RUN_IN)

    def w(post: float) -> float:
        return m.END + m.RUN_IN - post

    closed, _ = m.edge_at(0, sum(m.CLOSED) / 2)
    return [
        plant.overspeed(west, 3, 2, 1.0, w(4000), w(3200), 46.0, 11.0, _cars),
        plant.hard_brake(east, 2, 8.0, e(350), e(650), 14.0, 6.5, _cars),
        plant.breakdown(west, 1, 9.0, w(3850), w(3500), _light),
        plant.slow(east, 1, 2, 9.0, e(850), e(1100), 10.0, 14.0, _light),
        plant.closure(east, (2, 3), (1, 4.5), closed, -5.0, 70.0),
        plant.stopped(west, 1, 2, 16.0, w(1980), w(1600), 14.0, _light),
    ]


def _actors(axis: m.Axis) -> dict[str, Raw]:
    """Those that SUMO does not drive: they keep to the hard shoulder, where its vehicles never are."""
    edge = -(m.HALF + 3.0)
    walk_in = -(m.MEDIAN + 3 * m.LANE + 1.0)  # a metre inside the shoulder, by the running lane's line
    path = [axis.at(2560.0, edge), axis.at(2562.0, walk_in)]
    path += [axis.at(s, walk_in) for s in np.arange(2565.0, 2596.0, 5.0)]
    path += [axis.at(2600.0, edge)]
    pedestrian = walk(path, [(0.0, 1.3), (60.0, 1.3)], STEP_S, round(20.0 / STEP_S))
    shoulder = m.lane_left(1, 4)
    out = [axis.at(REST_AREA - 40, m.HALF + 22), axis.at(REST_AREA - 15, m.HALF + 10)]
    way = [axis.at(s, shoulder) for s in np.arange(REST_AREA + 10, REST_AREA + 301, 10.0)]
    away = [axis.at(REST_AREA + 325, m.HALF + 8), axis.at(REST_AREA + 350, m.HALF + 20)]
    wrong = walk(
        rounded([*out, *way, *away]), [(0.0, 13.0), (4.0, 15.5), (20.0, 15.5), (24.0, 13.0), (60.0, 13.0)], STEP_S,
        round(34.0 / STEP_S),
    )  # fmt: skip
    return {"@pedestrian": pedestrian, "@wrong-way": wrong}


def _devices(axis: m.Axis, grid: Grid) -> tuple[list[Device], dict[str, tuple[float, float]]]:
    where: dict[str, tuple[float, float]] = {}

    def at(kind: str, id_: str, post: float, left: float, /, **props: Any) -> Device:
        where[id_] = axis.at(post, left)
        lat, lon = grid.point(*where[id_])
        zone, other = ("M-Z1", "M-Z2") if post < BORDER else ("M-Z2", "M-Z1")
        if kind == "rsu":
            props["post"] = post
            if abs(post - BORDER) < RANGE:
                props["halo"] = [other]
        return Device(kind, id_, round(lat, 7), round(lon, 7), ELE_M, RANGE if kind == "rsu" else 0.0, zone, props)

    side = m.HALF + 2.0
    middle = m.MEDIAN + 1.5 * m.LANE
    out = [at("rsu", f"RSU-M-{i + 1:02d}", s, side if i % 2 else -side) for i, s in enumerate(RSU_POSTS)]
    out += [
        at("gantry", f"G-M-{i + 1:02d}", s, -middle if d == 1 else middle, gantry_hex=h, dir=d, post=s)
        for i, (h, d, s) in enumerate(GANTRIES)
    ]
    out += [at("pole", f"POLE-M-{i + 1:02d}", s, side + 1) for i, s in enumerate((1000.0, 3000.0))]
    out += [at("pile", f"PILE-M-{i + 1:02d}", REST_AREA - 60 + 6 * i, m.HALF + 34, power_kw=60) for i in range(2)]
    return out, where


def _sections(grid: Grid, axis: m.Axis) -> list[dict[str, Any]]:
    out = []
    for a, b in itertools.pairwise(GANTRIES):
        if a[1] != b[1]:
            continue
        left = m.lane_left(a[1] - 1, 2)
        line = axis.line(a[2], b[2], left)
        length = sum(grid.distance(p, q) for p, q in itertools.pairwise(line))
        out.append(
            {
                "section": f"{a[0]}>{b[0]}",
                "from": a[0],
                "to": b[0],
                "length_m": round(length, 1),
                "zone": "M-Z1" if (a[2] + b[2]) / 2 < BORDER else "M-Z2",
                "free_speed_mps": 29.0,
            }
        )
    return out


def _zones(axis: m.Axis, grid: Grid) -> list[dict[str, Any]]:
    def area(a: float, b: float) -> list[list[float]]:
        posts = np.linspace(a, b, 9)
        edge = [axis.at(s, -200.0) for s in posts] + [axis.at(s, 200.0) for s in posts[::-1]]
        return [[round(v, 7) for v in grid.point(*p)] for p in edge]

    return [
        {"id": "M-Z1", "polygon": area(m.BEGIN - 50, BORDER), "neighbours": ["M-Z2"]},
        {"id": "M-Z2", "polygon": area(BORDER, m.END + 50), "neighbours": ["M-Z1"]},
    ]


def record(seed: int = DEFAULT_SEED, progress: Callable[[float], None] | None = None) -> Scene:
    """Run SUMO and return the scene."""
    axis, grid = m.Axis(), Grid(LAT0, LON0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = m.build(folder, axis)
        lanes: LaneMap = m.lane_map(NetFile(net), grid, axis)
        who = m.demand(folder / "m.rou.xml", seed, WARM_S + LENGTH_S, RATE)
        drive = Drive(net, folder / "m.rou.xml", seed=seed, warm_s=WARM_S, length_s=LENGTH_S)
        drive.run([script(drive) for script in _scripts()], progress)
    shapes = {id_: Shape(k.cls, k.length, k.width, k.height) for id_, k in who.items()}
    actors = _actors(axis)
    shapes |= {"@pedestrian": Shape(PEDESTRIAN, 0.4, 0.6, 1.72), "@wrong-way": Shape(CAR, 4.7, 1.84, 1.5)}

    def inside(x: F8, y: F8) -> Bool:
        s, _ = axis.post(x, y)
        out: Bool = (s > m.BEGIN) & (s < m.END)
        return out

    tracks = make_tracks(drive.raw | actors, shapes, drive.lanes, lanes, drive.steps, inside)
    planted = [(kind, id_) for kind, id_ in (note.split() for note in drive.notes)]
    planted += [("PEDESTRIAN", "@pedestrian"), ("WRONG_WAY", "@wrong-way"), ("CONGESTION", "M-E7")]
    devices, where = _devices(axis, grid)
    must = [id_ for kind, id_ in planted if kind in {"BREAKDOWN", "HARD_BRAKING"}]

    def zone_of(x: float, y: float) -> str:
        s, _ = axis.post(np.array([x]), np.array([y]))
        return "M-Z1" if float(s[0]) < BORDER else "M-Z2"

    devices += choose_obus(tracks, must, 10, "M", lanes, zone_of)
    return scene(
        "motorway",
        "M",
        seed=seed,
        steps=drive.steps,
        lanes=lanes,
        tracks=tracks,
        devices=devices,
        zones=_zones(axis, grid),
        sections=_sections(grid, axis),
        plans=[],
        planted=planted,
        post=axis.post,
        grid_xy=where,
        wanted=WANTED,
        notes={"flow_veh_per_s_and_direction": RATE, "utm_epsg": grid.epsg},
    )
