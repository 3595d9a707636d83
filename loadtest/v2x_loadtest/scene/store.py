"""Scenes on disk: a zip of ``meta.json`` and small integer arrays (.npy), each LZMA-compressed.

Positions are stored as second differences, speeds and headings as first differences, zigzag-coded and split into byte
planes: traffic is smooth, so the high planes are zeros and the low ones small. The same scene gives the same bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.errors import ConfigError

from v2x_loadtest.scene.model import (
    Device,
    Passages,
    Scene,
    SignalPhase,
    SignalPlan,
    Trajectories,
    TruthEvent,
    Vehicles,
)

FORMAT: Final = 1
FOLDER: Final = Path(__file__).resolve().parent.parent / "scenes"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # a fixed stamp, so that equal scenes are equal files
# How often each trajectory column is differenced before it is stored.
_ORDERS: Final = {"lat": 2, "lon": 2, "speed": 1, "heading": 1, "link": 1, "lane": 1, "flags": 1}


def pack(values: npt.NDArray[Any], order: int) -> npt.NDArray[np.uint8]:
    """Return byte planes (4, n) of the zigzag-coded ``order``-th difference of int32 ``values``."""
    v = values.astype(np.int64)
    for _ in range(order):
        v = np.diff(v, prepend=0)
    zigzag = ((v << 1) ^ (v >> 63)).astype(np.uint64)
    if zigzag.size and int(zigzag.max()) >= 1 << 32:
        msg = "values jump too far to be stored"
        raise ValueError(msg)
    return np.ascontiguousarray(zigzag.astype("<u4").view(np.uint8).reshape(-1, 4).T)


def unpack(planes: npt.NDArray[np.uint8], order: int) -> npt.NDArray[np.int32]:
    """Undo ``pack``."""
    zigzag = np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.int64)
    v = (zigzag >> 1) ^ -(zigzag & 1)
    for _ in range(order):
        v = np.cumsum(v)
    return v.astype(np.int32)


def save_scene(scene: Scene, path: Path) -> int:
    """Write the scene; return the size in bytes; ValueError for what is computed only."""
    if scene.things or scene.weather or scene.faults:
        msg = f"scene {scene.name} has things, weather or faults of signals, which the file cannot hold"
        raise ValueError(msg)
    tr, veh, pas = scene.trajectories, scene.vehicles, scene.passages
    new = np.ones(len(tr.vehicle), bool)
    new[1:] = (tr.vehicle[1:] != tr.vehicle[:-1]) | (tr.step[1:] != tr.step[:-1] + 1)
    at = np.flatnonzero(new)
    arrays: dict[str, npt.NDArray[Any]] = {
        "run_vehicle": tr.vehicle[at].astype("<i4"),
        "run_step": tr.step[at].astype("<i4"),
        "run_length": np.diff(np.append(at, len(new))).astype("<i4"),
        **{name: pack(getattr(tr, name), order) for name, order in _ORDERS.items()},
        "veh_cls": veh.cls.astype("<i2"),
        "veh_size": np.round(np.stack([veh.length_m, veh.width_m, veh.height_m]) * 100).astype("<i4"),
        "veh_colour": veh.plate_colour.astype("<i2"),
        "veh_type": veh.vehicle_type.astype("<i2"),
        "veh_obu": veh.has_obu.astype(np.uint8),
        "pas_gantry": pas.gantry.astype("<i4"),
        "pas_vehicle": pas.vehicle.astype("<i4"),
        "pas_t": np.round(pas.t_s * 1000).astype("<i4"),
        "pas_speed": np.round(pas.speed_mps * 100).astype("<i4"),
        "pas_lane": pas.lane.astype("<i4"),
        "pas_dir": pas.dir.astype("<i4"),
    }
    meta = {
        "format": FORMAT,
        "name": scene.name,
        "steps": scene.steps,
        "ele_m": scene.ele_m,
        "info": scene.info,
        "zones": scene.zones,
        "links": scene.links,
        "plates": veh.plate,
        "obu_sn": veh.obu_sn,
        "devices": [asdict(d) for d in scene.devices],
        "maps": scene.maps,
        "plans": [asdict(p) for p in scene.plans],
        "events": [asdict(e) for e in scene.events],
    }
    members = {"meta.json": json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode()}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        members[name + ".npy"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, data)
    return path.stat().st_size


def scene_names() -> list[str]:
    """Return the names of the scenes that come with the project."""
    return sorted(p.stem for p in FOLDER.glob("*.npz"))


def load_scene(name_or_path: str | Path) -> Scene:
    """Load a scene that comes with the project by name, or any by path; ConfigError if there is none or it is broken.

    ``synthetic`` is a small one that is computed, not read.
    """
    if str(name_or_path) == "synthetic":
        from v2x_loadtest.scene.synthetic import synthetic_scene  # noqa: PLC0415 - it builds on this package

        return synthetic_scene()
    path = Path(name_or_path)
    if path.suffix != ".npz":
        path = FOLDER / f"{name_or_path}.npz"
    if not path.is_file():
        known = ", ".join([*scene_names(), "synthetic"])
        msg = f"no scene {str(name_or_path)!r} ({path} is no file); give a path to an .npz, or one of: {known}"
        raise ConfigError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            arrays = {
                n.removesuffix(".npy"): np.load(io.BytesIO(archive.read(n)), allow_pickle=False)
                for n in archive.namelist()
                if n.endswith(".npy")
            }
        if meta["format"] != FORMAT:
            msg = (
                f"scene file {path} has format {meta['format']}, this version reads {FORMAT}; make it again: v2x record"
            )
            raise ConfigError(msg)
        return _scene(meta, arrays)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        msg = f"scene file {path} is broken ({error}); make it again with: v2x record"
        raise ConfigError(msg) from error


def _scene(meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Scene:
    length = arrays["run_length"].astype(np.int64)
    within = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
    columns = {name: unpack(arrays[name], order) for name, order in _ORDERS.items()}
    size = arrays["veh_size"] / 100.0
    return Scene(
        meta["name"],
        steps=meta["steps"],
        zones=meta["zones"],
        vehicles=Vehicles(
            cls=arrays["veh_cls"],
            length_m=size[0],
            width_m=size[1],
            height_m=size[2],
            plate=meta["plates"],
            plate_colour=arrays["veh_colour"],
            vehicle_type=arrays["veh_type"],
            has_obu=arrays["veh_obu"].astype(bool),
            obu_sn=meta["obu_sn"],
        ),
        trajectories=Trajectories(
            vehicle=np.repeat(arrays["run_vehicle"], length).astype(np.int32),
            step=(np.repeat(arrays["run_step"], length) + within).astype(np.int32),
            lat=columns["lat"],
            lon=columns["lon"],
            speed=columns["speed"],
            heading=columns["heading"],
            link=columns["link"],
            lane=columns["lane"],
            flags=columns["flags"].astype(np.uint16),
        ),
        links=meta["links"],
        devices=[Device(**d) for d in meta["devices"]],
        maps=meta["maps"],
        plans=[
            SignalPlan(
                rsu=p["rsu"],
                region=p["region"],
                node=p["node"],
                offset_s=p["offset_s"],
                phases=tuple(
                    SignalPhase(f["phase_id"], tuple((int(a), float(b)) for a, b in f["lights"])) for f in p["phases"]
                ),
            )
            for p in meta["plans"]
        ],
        passages=Passages(
            gantry=arrays["pas_gantry"],
            vehicle=arrays["pas_vehicle"],
            t_s=arrays["pas_t"] / 1000.0,
            speed_mps=arrays["pas_speed"] / 100.0,
            lane=arrays["pas_lane"],
            dir=arrays["pas_dir"],
        ),
        events=[TruthEvent(**e) for e in meta["events"]],
        ele_m=meta["ele_m"],
        info=meta["info"],
    )
