"""The true state of the road between two steps of a scene."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from v2x_loadtest.scene import Scene

F8 = npt.NDArray[np.float64]


class Motion(NamedTuple):
    """Objects at a step and what they change until the next; rows by ascending ``idx``."""

    idx: npt.NDArray[np.int32]
    lat: F8
    lon: F8
    ele: F8
    speed: F8
    heading: F8
    accel: F8
    yaw: F8
    flags: npt.NDArray[np.uint16]
    d_lat: F8  # deg a step
    d_lon: F8
    d_speed: F8
    d_heading: F8  # deg a step, the short way round

    def take(self, row: npt.NDArray[np.int64], frac: F8 | float) -> Motion:
        """Return the state of ``row`` a fraction of a step later."""
        m = Motion._make(column[row] for column in self)
        return m._replace(
            lat=m.lat + m.d_lat * frac,
            lon=m.lon + m.d_lon * frac,
            speed=m.speed + m.d_speed * frac,
            heading=(m.heading + m.d_heading * frac) % 360,
        )


def metres_per_degree(lat: npt.ArrayLike) -> tuple[F8, F8]:
    """Return metres of a degree of latitude and of longitude there (WGS-84 series, good to 0.1 m a degree)."""
    phi = np.radians(np.asarray(lat, np.float64))
    north = 111_132.954 - 559.822 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
    east = 111_412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi) + 0.118 * np.cos(5 * phi)
    return north, east


def motion(scene: Scene, step: int) -> Motion:
    """Return the objects of ``step``; who is gone at the next step goes on as it was."""
    now = scene.frame(step)
    n = len(now.idx)
    north, east = metres_per_degree(now.lat)
    way = now.speed * scene.step_s
    turn = np.radians(now.heading)
    d_lat, d_lon = way * np.cos(turn) / north, way * np.sin(turn) / east
    d_speed, d_heading = now.accel * scene.step_s, now.yaw * scene.step_s
    if (step + 1) * scene.step_s < scene.duration_s - 1e-9 and n:
        later = scene.frame(step + 1)
        at = np.searchsorted(later.idx, now.idx)
        both = np.flatnonzero(at < len(later.idx))
        both = both[later.idx[at[both]] == now.idx[both]]
        to = at[both]
        d_lat[both], d_lon[both] = later.lat[to] - now.lat[both], later.lon[to] - now.lon[both]
        d_speed[both] = later.speed[to] - now.speed[both]
        d_heading[both] = (later.heading[to] - now.heading[both] + 180) % 360 - 180
    return Motion(
        now.idx,
        now.lat,
        now.lon,
        now.ele,
        now.speed,
        now.heading,
        now.accel,
        now.yaw,
        now.flags,
        d_lat,
        d_lon,
        d_speed,
        d_heading,
    )
