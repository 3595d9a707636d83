"""From tracks, lanes and devices to a scene."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from v2x_loadtest.record.lanes import LaneMap
from v2x_loadtest.record.tracks import Track, pack_tracks
from v2x_loadtest.record.truth import events
from v2x_loadtest.scene.build import plate, zone_document
from v2x_loadtest.scene.model import F8, PEDESTRIAN, STEP_S, Device, Passages, Scene, SignalPlan, Vehicles

ELE_M = 5.0


def vehicles(tracks: Sequence[Track], seed: int) -> Vehicles:
    """Return plates and tags for the tracks, in their order."""
    rng, taken = random.Random(seed), set[str]()
    plates: list[tuple[str, int, int]] = []
    obus: list[str] = []
    for track in tracks:
        if track.shape.cls == PEDESTRIAN:
            plates.append(("", 9, 0))
            obus.append("")
        else:
            plates.append(plate(rng, track.shape.cls, taken))
            obus.append(f"3201{rng.randrange(10**12):012d}" if rng.random() < 0.92 else "")
    return Vehicles(
        cls=np.array([t.shape.cls for t in tracks], dtype=np.int16),
        length_m=np.array([t.shape.length for t in tracks]),
        width_m=np.array([t.shape.width for t in tracks]),
        height_m=np.array([t.shape.height for t in tracks]),
        plate=[p[0] for p in plates],
        plate_colour=np.array([p[1] for p in plates], dtype=np.int16),
        vehicle_type=np.array([p[2] for p in plates], dtype=np.int16),
        has_obu=np.array([bool(o) for o in obus]),
        obu_sn=obus,
    )


def passages(tracks: Sequence[Track], devices: Sequence[Device], post: Callable[[F8, F8], tuple[F8, F8]]) -> Passages:
    """Return the crossings of the gantries' lines: ``props`` of a gantry has ``post`` and ``dir``."""
    rows: list[tuple[float, int, int, float, int, int]] = []
    for track in tracks:
        if track.shape.cls == PEDESTRIAN:
            continue
        s, left = post(track.front_x, track.front_y)
        for i, device in enumerate(devices):
            if device.kind != "gantry":
                continue
            up = device.props["dir"] == 1
            rel = (s - device.props["post"]) * (1 if up else -1)
            mine = (left < 0) if up else (left > 0)
            # Traffic in its own direction only: a wrong-way driver has no transaction.
            for k in np.flatnonzero((rel[:-1] < 0) & (rel[1:] >= 0) & mine[1:]).tolist():
                part = float(-rel[k] / (rel[k + 1] - rel[k]))
                rows.append(
                    (
                        (float(track.step[k]) + part) * STEP_S,
                        i,
                        track.number,
                        float(track.speed[k] + part * (track.speed[k + 1] - track.speed[k])),
                        int(track.lane[k]),
                        int(device.props["dir"]),
                    )
                )
    rows.sort()
    p = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Passages(
        gantry=p[:, 1].astype(np.int32),
        vehicle=p[:, 2].astype(np.int32),
        t_s=np.round(p[:, 0], 3),
        speed_mps=np.round(p[:, 3], 2),
        lane=p[:, 4].astype(np.int32),
        dir=p[:, 5].astype(np.int32),
    )


def choose_obus(
    tracks: Sequence[Track],
    must: Sequence[str],
    count: int,
    prefix: str,
    lanes: LaneMap,
    zone_of: Callable[[float, float], str],
) -> list[Device]:
    """Return on-board units: those vehicles that must have one, and others that stay for most of the first minute."""

    def minute(t: Track) -> int:
        return int((t.step < 600).sum())

    cars = [t for t in tracks if t.shape.cls != PEDESTRIAN and not t.id.startswith("@")]
    picked = [t for t in cars if t.id in must]
    rest = sorted((t for t in cars if t.id not in must and minute(t) >= 450), key=lambda t: (float(t.x[0]), t.number))
    want = count - len(picked)
    picked += [rest[(2 * i + 1) * len(rest) // (2 * want)] for i in range(want)]  # spread over the road
    out = []
    for i, track in enumerate(picked):
        lat, lon = lanes.grid.point(float(track.x[0]), float(track.y[0]))
        out.append(
            Device(
                "obu", f"OBU-{prefix}-{i + 1:04d}", round(lat, 7), round(lon, 7), ELE_M, 0.0,
                zone_of(float(track.x[0]), float(track.y[0])), {"vehicle": track.number},
            )
        )  # fmt: skip
    return out


def scene(
    name: str,
    prefix: str,
    *,
    seed: int,
    steps: int,
    lanes: LaneMap,
    tracks: list[Track],
    devices: list[Device],
    zones: list[dict[str, Any]],
    sections: list[dict[str, Any]],
    plans: list[SignalPlan],
    planted: list[tuple[str, str]],
    post: Callable[[F8, F8], tuple[F8, F8]] | None,
    grid_xy: dict[str, tuple[float, float]],
    wanted: Sequence[str],
    notes: dict[str, Any],
) -> Scene:
    """Put a scene together; ``grid_xy`` has the grid points of the RSUs."""
    rsus = [d for d in devices if d.kind == "rsu"]
    return Scene(
        name,
        steps=steps,
        zones=zone_document(name, zones, devices, sections),
        vehicles=vehicles(tracks, seed + 1),
        trajectories=pack_tracks(tracks, lanes.grid),
        links=[link.name for link in lanes.links],
        devices=devices,
        maps={d.id: lanes.nodes_near(*grid_xy[d.id], d.range_m, ELE_M) for d in rsus},
        plans=plans,
        passages=passages(tracks if post else [], devices, post or (lambda x, y: (x, y))),
        events=events(prefix, lanes, tracks, steps, planted, rsus),
        ele_m=ELE_M,
        info={
            "seed": seed,
            "made_with": f"Eclipse SUMO {version('eclipse-sumo')} (EPL-2.0 OR GPL-2.0-or-later)",
            "network": "our own, Apache-2.0",
            "planted": sorted({kind for kind, _ in planted} | set(wanted)),
            **notes,
        },
    )
