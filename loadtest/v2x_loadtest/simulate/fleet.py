"""The devices of all copies: who they are, where they stand, how their clocks and links are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.errors import ConfigError
from v2x.topics import UPLINKS, uplink_topic

from v2x_loadtest.scene import Scene
from v2x_loadtest.simulate.encode import BodyWriter
from v2x_loadtest.simulate.options import MAX_DEVICES, Options
from v2x_loadtest.simulate.scale import copy_name, shift_e7

_GOLDEN: Final = 0.6180339887498949  # spreads phases evenly, however many there are
_BOOT_SPREAD_MS: Final = 1000


@dataclass(slots=True)
class Fleet:
    """Columns over the n devices of a run; ``at[copy, base]`` is the device number of a scene's device, or -1."""

    ids: list[str]
    kinds: list[str]
    base: npt.NDArray[np.int64]  # row in scene.devices
    copy: npt.NDArray[np.int64]
    at: npt.NDArray[np.int64]  # (copies, scene devices)
    boot_ms: npt.NDArray[np.int64]
    skew_ms: npt.NDArray[np.float64]  # the device's clock less the true one
    base_ms: npt.NDArray[np.float64]  # constant part of the link's delay
    sensing_ms: npt.NDArray[np.float64]
    phase: npt.NDArray[np.float64]  # place in a step, [0, 1); a device and its copies have the same
    shift_us: npt.NDArray[np.int64]  # a copy's world runs so much later, so that copies do not send at one instant
    ref: npt.NDArray[np.int64]  # (n, 3) 1e-7 deg, 1e-7 deg, 0.1 m
    d_lon: npt.NDArray[np.int64]  # 1e-7 deg east of the scene
    writer: BodyWriter
    seq: npt.NDArray[np.int64]  # (n, types) next number

    def __len__(self) -> int:
        """Return the number of devices."""
        return len(self.ids)

    @property
    def copies(self) -> int:
        """Return the number of copies."""
        return len(self.at)

    def topic(self, device: int, code: int) -> str:
        """Return the topic of a device's messages of one type."""
        return uplink_topic(self.kinds[device], self.ids[device], UPLINKS[code].type)


def phases(n: int) -> npt.NDArray[np.float64]:
    """Return n phases in [0, 1), evenly spread for every n."""
    return np.asarray((np.arange(n) * _GOLDEN) % 1.0)


def copies_needed(scene: Scene, options: Options) -> int:
    """Return how many copies a run has: ``scale``, or as many as ``rsus`` need."""
    has = sum(d.kind == "rsu" for d in scene.devices)
    if options.rsus is None or has == 0 or options.rsus <= has * options.scale:
        return options.scale
    return -(-options.rsus // has)


def make_fleet(scene: Scene, options: Options, wall0_ms: int, rng: np.random.Generator) -> Fleet:
    """Return the fleet of a run that starts at ``wall0_ms``; ConfigError if it is larger than one process can hold."""
    copies = copies_needed(scene, options)
    shift = shift_e7(scene, copies) if copies > 1 else 0
    at = np.full((copies, len(scene.devices)), -1, np.int64)
    rows: list[tuple[int, int]] = []
    rsus = options.rsus if options.rsus is not None else 1 << 30
    for c in range(copies):
        obus = options.obus if options.obus is not None else 1 << 30
        for b, device in enumerate(scene.devices):
            if device.kind == "rsu":
                rsus -= 1
                if rsus < 0:
                    continue
            elif device.kind == "obu":
                obus -= 1
                if obus < 0:
                    continue
            at[c, b] = len(rows)
            rows.append((c, b))
    n = len(rows)
    if n > MAX_DEVICES:
        raise ConfigError(f"{n} devices are more than one process can connect ({MAX_DEVICES}); use --rsus and --obus")
    copy, base = (np.array([r[i] for r in rows], np.int64) for i in (0, 1))
    devices = [scene.devices[b] for b in base]
    kinds = [d.kind for d in devices]
    ids = [copy_name(d.id, int(c)) for d, c in zip(devices, copy, strict=True)]
    d_lon = copy * shift
    places: Any = [(round(d.lat * 1e7), round(d.lon * 1e7), round(d.ele * 10)) for d in devices]
    ref = np.array(places, np.int64).reshape(n, 3)
    ref[:, 1] += d_lon
    is_obu = np.array([k == "obu" for k in kinds])
    is_rsu = np.array([k == "rsu" for k in kinds])
    phase = np.zeros(len(scene.devices))
    for kind in {d.kind for d in scene.devices}:
        mine = [i for i, d in enumerate(scene.devices) if d.kind == kind]
        phase[mine] = phases(len(mine))
    boot = wall0_ms - rng.integers(0, _BOOT_SPREAD_MS, n)
    clock = np.where(is_obu, options.gnss.clock_ms, options.sensors.clock_ms)
    return Fleet(
        ids=ids,
        kinds=kinds,
        base=base,
        copy=copy,
        at=at,
        boot_ms=boot,
        skew_ms=rng.normal(0, 1, n) * clock,
        base_ms=rng.uniform(*options.link.base_ms, n),
        sensing_ms=np.where(is_rsu, rng.uniform(*options.link.sensing_ms, n), options.link.other_ms),
        phase=phase[base],
        shift_us=np.round(phases(copies) * 100_000).astype(np.int64)[copy],
        ref=ref,
        d_lon=d_lon,
        writer=BodyWriter(ids, boot.tolist(), ref, d_lon),
        seq=np.zeros((n, len(UPLINKS)), np.int64),
    )
