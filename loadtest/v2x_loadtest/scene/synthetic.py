"""A small scene that is computed, not recorded: for tests, and to try a device without SUMO.

A straight road of 1 km at 60 deg from north, one link each way of two lanes and a hard shoulder; twenty cars at steady
speed, one that stops from second 10 to 25 and goes on, a pedestrian on the shoulder; three RSUs, two gantries.
"""

from __future__ import annotations

import math
import random
from typing import Any, Final

import numpy as np

from v2x_loadtest.scene.build import e7, plate, speed_code, wgs84, zone_document
from v2x_loadtest.scene.model import (
    CAR,
    PEDESTRIAN,
    STEP_S,
    Device,
    Passages,
    Scene,
    Trajectories,
    TruthEvent,
    Vehicles,
)

LAT0, LON0, ELE = 31.5, 120.3, 5.0
LENGTH: Final = 1000.0
AXIS: Final = 60.0  # direction of link SYN-E
WIDTH: Final = 3.75
STEPS: Final = 600
_LINKS: Final = ("SYN-E", "SYN-W")
_STOP: Final = (10.0, 25.0)  # the stopped car stands, scene seconds
_GANTRIES: Final = (150.0, 800.0)


def place(along: float, left: float) -> tuple[float, float]:
    """Return WGS-84 of a point ``along`` the road's axis and ``left`` of it (m)."""
    a = math.radians(AXIS)
    east = along * math.sin(a) - left * math.cos(a)
    north = along * math.cos(a) + left * math.sin(a)
    return wgs84(LAT0, LON0, east, north)


def lane_left(link: int, lane: int) -> float:
    """Return how far left of the axis the centre of a lane is: the carriageways are 1.5 m off it."""
    off = 1.5 + WIDTH * (lane - 0.5)
    return off if link else -off


def _car(number: int) -> tuple[int, int, list[float], list[float]]:
    """Return link, lane, distance along the link and speed of a car, by step."""
    link, lane = number % 2, 1 + (number // 2) % 2
    if link == 0 and number > 4:
        lane = 2  # past the one that stops in lane 1
    cruise = 20.0 if lane == 1 else 22.0
    s, v, along, speed = -50.0 * (number // 2) - 13.0 * lane + 300.0, cruise, [], []
    for step in range(STEPS):
        t = step * STEP_S
        if number == 4:  # brakes at 2 m/s2 to stand at _STOP[0], then goes on
            v = max(0.0, min(cruise, 2.0 * (_STOP[0] - t))) if t < _STOP[1] else min(cruise, v + 1.5 * STEP_S)
        s += v * STEP_S
        along.append(s)
        speed.append(v)
    return link, lane, along, speed


def synthetic_scene(cars: int = 20, seed: int = 1) -> Scene:
    """Return the scene."""
    rng, taken = random.Random(seed), set[str]()
    rows: list[tuple[int, ...]] = []
    passages: list[tuple[float, int, int, float, int, int]] = []
    stop_at = (0.0, 0.0)
    start_slow = 0.0
    for number in range(cars):
        link, lane, along, speed = _car(number)
        heading = (AXIS + 180 * link) % 360
        for step in range(STEPS):
            s = along[step]
            if not 0 <= s <= LENGTH:
                continue
            lat, lon = place(LENGTH - s if link else s, lane_left(link, lane))
            rows.append((number, step, e7(lat), e7(lon), round(speed[step] * 100), round(heading * 100), link, lane, 0))
            if number == 4 and speed[step] <= 2.778 and not start_slow:
                start_slow = step * STEP_S
            if number == 4 and math.isclose(step * STEP_S, _STOP[1]):
                stop_at = (lat, lon)
            front, before = s + 2.3, along[step - 1] + 2.3 if step else s + 2.3
            for g, gantry_at in enumerate(_GANTRIES):
                if link == 0 and before < gantry_at <= front:
                    t = (step - (front - gantry_at) / max(front - before, 1e-9)) * STEP_S
                    passages.append((t, 3 + g, number, speed[step], lane, 1))
    for step in range(300, 500):
        lat, lon = place(700.0 - 1.2 * (step - 300) * STEP_S, lane_left(0, 3))
        rows.append((cars, step, e7(lat), e7(lon), 120, round((AXIS + 180) % 360 * 100), 0, 3, 0))
    data = np.array(rows, dtype=np.int64).T.astype(np.int32)
    names = [plate(rng, CAR, taken) for _ in range(cars)]
    n = cars + 1
    walker_lat, walker_lon = place(700.0, lane_left(0, 3))
    devices = _devices()
    passages.sort()
    p = np.array(passages, dtype=np.float64).reshape(-1, 6)
    return Scene(
        "synthetic",
        steps=STEPS,
        zones=_zones(devices),
        vehicles=Vehicles(
            cls=np.array([CAR] * cars + [PEDESTRIAN], dtype=np.int16),
            length_m=np.array([4.6] * cars + [0.4]),
            width_m=np.array([1.8] * cars + [0.6]),
            height_m=np.array([1.5] * cars + [1.7]),
            plate=[x[0] for x in names] + [""],
            plate_colour=np.array([x[1] for x in names] + [9], dtype=np.int16),
            vehicle_type=np.array([x[2] for x in names] + [0], dtype=np.int16),
            has_obu=np.array([i % 10 != 9 for i in range(cars)] + [False]),
            obu_sn=[f"3201{i:012d}" if i % 10 != 9 else "" for i in range(cars)] + [""],
        ),
        trajectories=Trajectories(
            vehicle=data[0],
            step=data[1],
            lat=data[2],
            lon=data[3],
            speed=data[4],
            heading=data[5],
            link=data[6],
            lane=data[7],
            flags=data[8].astype(np.uint16),
        ),
        links=_LINKS,
        devices=devices,
        maps={d.id: _nodes() for d in devices if d.kind == "rsu"},
        plans=[],
        passages=Passages(
            gantry=p[:, 1].astype(np.int32),
            vehicle=p[:, 2].astype(np.int32),
            t_s=p[:, 0],
            speed_mps=p[:, 3],
            lane=p[:, 4].astype(np.int32),
            dir=p[:, 5].astype(np.int32),
        ),
        events=[
            TruthEvent(
                "SYN-1", "STOPPED_VEHICLE", 903, *stop_at, round(start_slow, 1), 26.8, 5.0, "SYN-E", 1, [4], True
            ),
            TruthEvent("SYN-2", "PEDESTRIAN", 405, walker_lat, walker_lon, 30.0, 50.0, 1.0, "SYN-E", 3, [n - 1], True),
        ],
        ele_m=ELE,
        info={"seed": seed, "origin": "computed"},
    )


def _devices() -> list[Device]:
    def at(kind: str, id_: str, along: float, left: float, **props: Any) -> Device:
        lat, lon = place(along, left)
        zone, other = ("SYN-Z1", "SYN-Z2") if along < LENGTH / 2 else ("SYN-Z2", "SYN-Z1")
        if kind == "rsu" and abs(along - LENGTH / 2) < 250:
            props["halo"] = [other]
        return Device(kind, id_, lat, lon, ELE, 250.0 if kind == "rsu" else 0.0, zone, props)

    return [
        at("rsu", "RSU-S-01", 200, 14),
        at("rsu", "RSU-S-02", 480, 14),
        at("rsu", "RSU-S-03", 780, 14),
        *(at("gantry", f"G-S-0{i + 1}", s, 0, gantry_hex=f"3A0F0{i + 1}", dir=1) for i, s in enumerate(_GANTRIES)),
        at("pole", "POLE-S-01", 500, -16),
        at("pile", "PILE-S-01", 520, -40),
        at("obu", "OBU-S-0001", 300, -3, vehicle=0),
    ]


def _zones(devices: list[Device]) -> dict[str, Any]:
    def area(a: float, b: float) -> list[list[float]]:
        return [list(place(s, left)) for s, left in ((a, -200), (b, -200), (b, 200), (a, 200))]

    half = LENGTH / 2
    length = _GANTRIES[1] - _GANTRIES[0]
    return zone_document(
        "synthetic",
        [
            {"id": "SYN-Z1", "polygon": area(-200, half), "neighbours": ["SYN-Z2"]},
            {"id": "SYN-Z2", "polygon": area(half, LENGTH + 200), "neighbours": ["SYN-Z1"]},
        ],
        devices,
        [
            {
                "section": "3A0F01>3A0F02",
                "from": "3A0F01",
                "to": "3A0F02",
                "length_m": length,
                "zone": "SYN-Z1",
                "free_speed_mps": 22.0,
            }
        ],
    )


def _nodes() -> list[dict[str, Any]]:
    nodes = []
    for link, name in enumerate(_LINKS):
        end = 0.0 if link else LENGTH
        lat0, lon0 = place(end, 0.0)
        lanes = []
        for lane in (1, 2, 3):
            ends = [place(s, lane_left(link, lane)) for s in (LENGTH - end, end)]
            lanes.append(
                {
                    "lane_id": lane,
                    "lane_type": 1 if lane == 3 else 0,
                    "width": round(WIDTH * 100),
                    "speed_min": speed_code(None),
                    "speed_max": speed_code(120 / 3.6),
                    "points": [{"d_lat": e7(lat) - e7(lat0), "d_lon": e7(lon) - e7(lon0)} for lat, lon in ends],
                    "connections": [],
                }
            )
        nodes.append(
            {
                "region": 320,
                "node": 301 + link,
                "name": f"SYN {301 + link}",
                "ref_lat": e7(lat0),
                "ref_lon": e7(lon0),
                "ref_ele": round(ELE * 10),
                "links": [
                    {
                        "link": name,
                        "up_region": 320,
                        "up_node": 302 - link,
                        "road_class": 1,
                        "movements": [],
                        "lanes": lanes,
                    }
                ],
            }
        )
    return nodes
