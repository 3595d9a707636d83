"""The scene ``urban``: who stands where, what is planted when.

What the rules mean here: the limit is 60 km/h and the lowest speed 25 km/h, so overspeed is above 72 and slow below
22.5 km/h with nobody slow ahead; waiting at a signal or behind somebody who waits is no stop; a queue before a signal
is no congestion, the planted one grows on a link that ends without a signal; wrong-way is against the one-way street.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from v2x.errors import V2XError

from v2x_loadtest.record import plant, signals
from v2x_loadtest.record import urban as u
from v2x_loadtest.record.assemble import ELE_M, choose_obus, scene
from v2x_loadtest.record.drive import Car, Drive, Script
from v2x_loadtest.record.grid import Grid
from v2x_loadtest.record.lanes import NetFile
from v2x_loadtest.record.motion import Raw, rounded, walk
from v2x_loadtest.record.motorway_scene import WANTED
from v2x_loadtest.record.room import best_start
from v2x_loadtest.record.tracks import Shape, Track, make_tracks
from v2x_loadtest.scene.model import CAR, F8, PEDESTRIAN, STEP_S, Bool, Device, Scene

LAT0, LON0 = 31.57, 120.29
LENGTH_S, WARM_S = 150.0, 210.0
RANGE: Final = 250.0
BORDER: Final = 200.0  # x of the zones' border: half-way between the first two streets
DEFAULT_SEED: Final = 1
WALKER, SHAPE_CAR = Shape(PEDESTRIAN, 0.4, 0.6, 1.72), Shape(CAR, 4.7, 1.84, 1.5)


def _light(car: Car) -> bool:
    return car.kind != "bus"


def _fast(car: Car) -> bool:
    return car.kind in {"compact", "saloon", "suv"} and car.speed > 13.5


def _scripts() -> list[Callable[[Drive], Script]]:
    def one(edge: str) -> plant.Stretch:
        return plant.Stretch((edge,), (0.0,))

    a_in = plant.Stretch(
        ("W0_-1250_E", "W0_-800_E", "W0_-540_E", "W0_-500_E", "W0_-350_E"), (0.0, 450.0, 710.0, 750.0, 900.0)
    )
    b_in = plant.Stretch(("W1_-900_E", "W1_-450_E"), (0.0, 450.0))
    b_out = plant.Stretch(("W1_-450_W", "W1_-900_W"), (0.0, 450.0))
    return [
        plant.closure(a_in, (2,), (1, 3.5), u.CLOSED, -6.0, 62.0),
        plant.overspeed(b_in, 2, 1, 3.0, 10.0, 330.0, 25.0, 7.5, _fast),
        plant.hard_brake(one("J10_J20"), 2, 6.0, 60.0, 210.0, 10.5, 6.8, _fast),
        plant.slow(b_out, 1, 2, 8.0, 30.0, 380.0, 4.6, 14.0, _light),
        plant.stranded(one("E0_J20"), 1, 6.0, 5.0, 70.0, _light),
        plant.stopped(one("J21_J11"), 1, 2, 15.0, 10.0, 110.0, 12.0, _light, 4.0),
    ]


def _actors(tracks: list[Track]) -> dict[str, Raw]:
    """Return those that SUMO does not drive, at times when they meet nobody."""
    side = 2 * u.LANE + 1.5
    cross = [u.spot(800.0 + side, 172.0), u.spot(800.0 - side, 176.0)]
    walker = walk(cross, [(0.0, 1.15), (60.0, 1.15)], STEP_S, 0)
    lane = 400.0 + u.LANE / 2
    way = [(384.0, 306.0), (395.0, 300.0), (lane, 284.0), (lane, 128.0), (395.0, 112.0), (384.0, 106.0)]
    line = rounded([u.spot(*p) for p in way])
    driver = walk(line, [(0.0, 6.0), (3.0, 9.5), (18.0, 9.5), (21.0, 6.0), (60.0, 6.0)], STEP_S, 0)
    return {
        "@pedestrian": best_start(walker, WALKER, tracks, round(16 / STEP_S), round(36 / STEP_S), 2.5),
        "@wrong-way": best_start(driver, SHAPE_CAR, tracks, round(20 / STEP_S), round(38 / STEP_S), 1.3),
    }


def _devices(grid: Grid, lanes_node: dict[str, int]) -> tuple[list[Device], dict[str, tuple[float, float]]]:
    where: dict[str, tuple[float, float]] = {}

    def at(kind: str, id_: str, x: float, y: float, **props: Any) -> Device:
        where[id_] = u.spot(x, y)
        lat, lon = grid.point(*where[id_])
        zone, other = ("U-Z1", "U-Z2") if x < BORDER else ("U-Z2", "U-Z1")
        if kind == "rsu" and abs(x - BORDER) < RANGE:
            props["halo"] = [other]
        return Device(kind, id_, round(lat, 7), round(lon, 7), ELE_M, RANGE if kind == "rsu" else 0.0, zone, props)

    out: list[Device] = []
    for name, (x, y) in sorted(u.junctions().items()):
        out.append(at("rsu", f"RSU-U-{len(out) + 1:02d}", x + 11.0, y + 11.0, junction=name, node=lanes_node[name]))
    for x, y in ((-250.0, -11.0), (-600.0, -11.0), (-350.0, u.BLOCK_Y + 11), (-700.0, u.BLOCK_Y + 11)):
        out.append(at("rsu", f"RSU-U-{len(out) + 1:02d}", x, y))
    out += [at("pole", "POLE-U-01", -420.0, -12.0), at("pole", "POLE-U-02", 600.0, u.BLOCK_Y - 12)]
    out += [at("pile", f"PILE-U-{i + 1:02d}", 376.0 + 5 * i, 312.0, power_kw=7) for i in range(2)]
    return out, where


def _zones(grid: Grid) -> list[dict[str, Any]]:
    def area(a: float, b: float) -> list[list[float]]:
        ring = [(a, -400.0), (b, -400.0), (b, u.BLOCK_Y + 400), (a, u.BLOCK_Y + 400)]
        return [[round(v, 7) for v in grid.point(*u.spot(*p))] for p in ring]

    return [
        {"id": "U-Z1", "polygon": area(-1000.0, BORDER), "neighbours": ["U-Z2"]},
        {"id": "U-Z2", "polygon": area(BORDER, 1200.0), "neighbours": ["U-Z1"]},
    ]


def record(seed: int = DEFAULT_SEED, progress: Callable[[float], None] | None = None) -> Scene:
    """Run SUMO and return the scene."""
    grid = Grid(LAT0, LON0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = NetFile(u.build(folder))
        lanes = u.lane_map(net, grid)
        who = u.demand(folder / "u.rou.xml", seed, WARM_S + LENGTH_S)
        drive = Drive(
            folder / "urban.net.xml", folder / "u.rou.xml", seed=seed, warm_s=WARM_S, length_s=LENGTH_S,
        )  # fmt: skip
        drive.run([script(drive) for script in _scripts()], progress)
    shapes = {id_: Shape(k.cls, k.length, k.width, k.height) for id_, k in who.items()}
    shapes |= {id_: WALKER for id_, raw in drive.raw.items() if raw.kind == "person"}
    shapes |= {"@pedestrian": WALKER, "@wrong-way": SHAPE_CAR}
    devices, where = _devices(grid, {node.name: number for number, node in lanes.nodes.items()})
    rsus = [d for d in devices if d.kind == "rsu"]

    def inside(x: F8, y: F8) -> Bool:
        gaps = [np.hypot(x - where[d.id][0], y - where[d.id][1]) for d in rsus]
        out: Bool = np.min(gaps, axis=0) < RANGE + 40.0
        return out

    before = make_tracks(drive.raw, shapes, drive.lanes, lanes, drive.steps, inside)
    tracks = make_tracks(drive.raw | _actors(before), shapes, drive.lanes, lanes, drive.steps, inside)
    planted = [(kind, id_) for kind, id_ in (note.split() for note in drive.notes)]
    planted += [("PEDESTRIAN", "@pedestrian"), ("WRONG_WAY", "@wrong-way"), ("CONGESTION", "U-A-IN1")]
    plans = []
    for device in rsus:
        junction = device.props.get("junction")
        if junction:
            plan = signals.plan(net.programs[junction], device.id, device.props["node"], WARM_S)
            wrong = signals.disagreements(plan, net.programs[junction], drive.lights[junction])
            if wrong:
                msg = f"signal plan of {junction} differs from SUMO's lights in {wrong} seconds"
                raise V2XError(msg)
            plans.append(plan)
    must = [id_ for kind, id_ in planted if kind in {"BREAKDOWN", "HARD_BRAKING"}]

    def zone_of(x: float, y: float) -> str:
        px, _ = u.plane(np.array([x]), np.array([y]))
        return "U-Z1" if float(px[0]) < BORDER else "U-Z2"

    devices += choose_obus(tracks, must, 8, "U", lanes, zone_of)
    return scene(
        "urban",
        "U",
        seed=seed,
        steps=drive.steps,
        lanes=lanes,
        tracks=tracks,
        devices=devices,
        zones=_zones(grid),
        sections=[],
        plans=plans,
        planted=planted,
        post=None,
        grid_xy=where,
        wanted=WANTED,
        notes={"utm_epsg": grid.epsg},
    )
