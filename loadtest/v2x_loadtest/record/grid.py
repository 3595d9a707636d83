"""From the plane that SUMO drives in to WGS-84: a UTM zone about an origin, with grid north turned to true north."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj

from v2x_loadtest.scene.model import F8


class Grid:
    """Metres east and north (grid) of an origin, in the origin's UTM zone."""

    def __init__(self, lat0: float, lon0: float) -> None:
        self.lat0, self.lon0 = lat0, lon0
        zone = int((lon0 + 180) // 6) + 1
        self.meridian = zone * 6.0 - 183.0
        self.epsg = (32600 if lat0 >= 0 else 32700) + zone
        self._to = pyproj.Transformer.from_crs(4326, self.epsg, always_xy=True)
        self._back = pyproj.Transformer.from_crs(self.epsg, 4326, always_xy=True)
        self._e0, self._n0 = self._to.transform(lon0, lat0)

    def wgs84(self, x: Any, y: Any) -> tuple[F8, F8]:
        """Return latitude and longitude (deg) of grid points."""
        lon, lat = self._back.transform(np.asarray(x, float) + self._e0, np.asarray(y, float) + self._n0)
        return np.asarray(lat), np.asarray(lon)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Return latitude and longitude (deg) of one grid point."""
        lat, lon = self.wgs84(x, y)
        return float(lat), float(lon)

    def convergence(self, lat: F8, lon: F8) -> F8:
        """Return what to add to a grid heading to have a true heading (deg)."""
        out: F8 = np.degrees(np.arctan(np.tan(np.radians(lon - self.meridian)) * np.sin(np.radians(lat))))
        return out

    def distance(self, a: tuple[float, float], b: tuple[float, float]) -> float:
        """Return the true distance (m) of two grid points: UTM stretches by up to 0.04 % here."""
        (lat_a, lat_b), (lon_a, lon_b) = self.wgs84([a[0], b[0]], [a[1], b[1]])
        return float(pyproj.Geod(ellps="WGS84").inv(lon_a, lat_a, lon_b, lat_b)[2])


def grid_heading(dx: F8, dy: F8) -> F8:
    """Return the heading (deg, clockwise from grid north) of a displacement."""
    out: F8 = np.degrees(np.arctan2(dx, dy)) % 360.0
    return out
