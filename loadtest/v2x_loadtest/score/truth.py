"""The scene's truth at any moment, in metres, and which part of it the roadside sensors cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from v2x.geo import LocalFrame

from v2x_loadtest.scene import Scene

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

EDGE_M: Final = 20.0  # clipped off the sensors' range: a track is born and dies a little inside of it


@dataclass(slots=True)
class Moment:
    """Everything on the road at one instant; rows by ascending ``idx``."""

    idx: I64  # vehicle or pedestrian
    east: F64  # m about the scene's origin
    north: F64


class Truth:
    """A scene in local metres about its first RSU (else its first device)."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        rsus = [d for d in scene.devices if d.kind == "rsu"]
        origin = (rsus or scene.devices)[0]
        self.frame = LocalFrame(origin.lat, origin.lon)
        self._east, self._north = self.frame.to_local([d.lat for d in rsus], [d.lon for d in rsus])
        self._range = np.array([d.range_m for d in rsus])

    def at(self, t_s: float) -> Moment:
        """Return the objects at scene second ``t_s``, between two steps by a straight line."""
        scene = self.scene
        step = min(max(int(t_s / scene.step_s), 0), scene.steps - 1)
        part = min(max(t_s / scene.step_s - step, 0.0), 1.0)
        a = scene.frame(step)
        lat, lon = a.lat.copy(), a.lon.copy()
        if part > 0 and step + 1 < scene.steps:
            b = scene.frame(step + 1)
            _, mine, theirs = np.intersect1d(a.idx, b.idx, assume_unique=True, return_indices=True)
            lat[mine] += part * (b.lat[theirs] - a.lat[mine])
            lon[mine] += part * (b.lon[theirs] - a.lon[mine])
        east, north = self.frame.to_local(lat, lon)
        return Moment(a.idx.astype(np.int64), east, north)

    def place(self, vehicle: int, t_s: float) -> tuple[float, float] | None:
        """Return where a vehicle is (m), or None if it is not on the road then."""
        if not 0 <= t_s < self.scene.duration_s:
            return None
        now = self.at(t_s)
        row = int(np.searchsorted(now.idx, vehicle))
        if row == now.idx.size or now.idx[row] != vehicle:
            return None
        return float(now.east[row]), float(now.north[row])

    def covered(self, east: F64, north: F64, *, slack_m: float = -EDGE_M) -> Bool:
        """Return which points an RSU reaches, its range widened by ``slack_m`` (or narrowed, as it is by default)."""
        if not self._range.size or not east.size:
            return np.zeros(east.size, bool)
        gap = np.hypot(east[:, None] - self._east, north[:, None] - self._north)
        return np.asarray((gap <= self._range + slack_m).any(axis=1))
