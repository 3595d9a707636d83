"""Obstacles as RSUs report them in their RSM: the things of a scene, seen with the errors that RSUs have of objects.

A thing keeps its local id as long as an object does (``id_break``), is missed as often, and lies off by the RSU's bias
and noise. Things that are not there are as rare as false participants, and last as short.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from v2x_loadtest.scene import Device, Thing
from v2x_loadtest.simulate.encode import varint
from v2x_loadtest.simulate.motion import metres_per_degree
from v2x_loadtest.simulate.options import SensorModel
from v2x_loadtest.simulate.sensors import F8

_TYPES: Final = (3, 5)  # what a false one is taken for
_FALSE: Final = 0.1  # of the false participants' rate


class Obstacles:
    """What all RSUs see of a scene's things; ``sense`` is called step by step."""

    def __init__(
        self,
        rsus: list[Device],
        things: list[Thing],
        errors: tuple[F8, F8],
        step_s: float,
        model: SensorModel,
        rng: np.random.Generator,
    ) -> None:
        """``errors``: sigma (n,) and bias (2, n; east, north) of the RSUs, m."""
        self._rsus, self._things, self._step_s, self._model, self._rng = rsus, things, step_s, model, rng
        self._sigma, self._bias = errors
        self._ids = np.array([[r * 997 + t * 31 + 1 for t in range(len(things))] for r in range(len(rsus))])
        self._ghosts: dict[int, tuple[int, float, float, int]] = {}  # RSU -> type, east, north, scans to come

    def sense(self, step: int, ts_ms: int) -> dict[int, bytes]:
        """Return Rsm.obstacles, encoded, of the RSUs that report any; ``ts_ms`` gives them their second mark."""
        t = step * self._step_s
        out: dict[int, list[bytes]] = {}
        live = [(n, x) for n, x in enumerate(self._things) if x.from_s <= t < x.to_s]
        for r, device in enumerate(self._rsus):
            per_north, per_east = (float(x) for x in metres_per_degree(device.lat))
            for n, thing in live:
                east = (thing.lon - device.lon) * per_east + thing.east_mps * (t - thing.from_s)
                north = (thing.lat - device.lat) * per_north + thing.north_mps * (t - thing.from_s)
                if np.hypot(east, north) >= device.range_m or self._rng.random() < self._model.miss:
                    continue
                if self._rng.random() < self._model.id_break:
                    self._ids[r, n] += 1
                off_e, off_n = (self._bias[:, r] + self._sigma[r] * self._rng.normal(0, 1, 2)).tolist()
                place = ((north + off_n) / per_north, (east + off_e) / per_east)
                out.setdefault(r, []).append(_obstacle(thing.obs_type, int(self._ids[r, n]), ts_ms, place))
            ghost = self._ghosts.pop(r, None)
            rate = float(np.mean(self._model.false_per_scan)) * _FALSE
            if ghost is None and self._rng.random() < rate:
                reach = device.range_m * float(np.sqrt(self._rng.random()))
                angle = float(self._rng.uniform(0, 2 * np.pi))
                lives = 1 + int(self._rng.choice(3, p=self._model.false_lives))
                kind = int(self._rng.choice(_TYPES))
                ghost = (kind, float(reach * np.sin(angle)), float(reach * np.cos(angle)), lives)
            if ghost is not None:
                kind, east, north, lives = ghost
                place = (north / per_north, east / per_east)
                out.setdefault(r, []).append(_obstacle(kind, 60_000 + r, ts_ms, place))
                if lives > 1:
                    self._ghosts[r] = (kind, east, north, lives - 1)
        return {r: varint(len(rows)) + b"".join(rows) + b"\0" for r, rows in out.items()}


def _obstacle(obs_type: int, obs_id: int, ts_ms: int, place: tuple[float, float]) -> bytes:
    """Return one item: type, id, source, second mark, place off the reference, and what is not known."""
    d_lat, d_lon = (round(x * 1e7) for x in place)
    row = (obs_type, obs_id % 65_536, 7, ts_ms % 60_000, d_lat, d_lon, -4096, 8191, 28_800, 0, 0, 0)
    return b"".join(map(varint, row))
