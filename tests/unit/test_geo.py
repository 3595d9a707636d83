"""Local metres, against the ellipsoid itself."""

from __future__ import annotations

from math import cos, radians, sin, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from v2x.geo import ECC2, SEMI_MAJOR_M, LocalFrame


def ecef(lat: float, lon: float) -> np.ndarray:
    phi, lam = radians(lat), radians(lon)
    n = SEMI_MAJOR_M / sqrt(1 - ECC2 * sin(phi) ** 2)
    return np.array([n * cos(phi) * cos(lam), n * cos(phi) * sin(lam), n * (1 - ECC2) * sin(phi)])


@given(st.floats(-60, 60), st.floats(-170, 170), st.floats(-4000, 4000), st.floats(-4000, 4000))
def test_there_and_back(lat: float, lon: float, east: float, north: float) -> None:
    frame = LocalFrame(lat, lon)
    there = frame.to_geo(east, north)
    back = frame.to_local(*there)
    assert (float(back[0]), float(back[1])) == pytest.approx((east, north), abs=1e-6)
    assert frame.e7(east, north) == (round(float(there[0]) * 1e7), round(float(there[1]) * 1e7))


@pytest.mark.parametrize("lat", [0.0, 31.5, -45.0, 53.0])
@pytest.mark.parametrize(("dlat", "dlon"), [(0.001, 0.0), (0.0, 0.001), (0.002, -0.003), (0.02, 0.02)])
def test_distances_are_the_ellipsoids(lat: float, dlat: float, dlon: float) -> None:
    frame = LocalFrame(lat, 120.0)
    east, north = frame.to_local(lat + dlat, 120.0 + dlon)
    chord = float(np.linalg.norm(ecef(lat + dlat, 120.0 + dlon) - ecef(lat, 120.0)))
    # A plane cannot keep all distances of a curved surface: 2 km north and east it is off by less than 1e-3.
    assert float(np.hypot(east, north)) == pytest.approx(chord, rel=1e-3, abs=0.01)


def test_neighbours_far_from_the_origin_keep_their_distance() -> None:
    """With one fixed cosine, two points 5 km north of the origin would be 0.05 % too far apart: 4 m at 5 km."""
    frame = LocalFrame(31.5, 120.0)
    east, _ = frame.to_local(31.545, 120.05)
    parallel = float(np.linalg.norm(ecef(31.545, 120.05) - ecef(31.545, 120.0)))
    assert float(east) == pytest.approx(parallel, abs=0.02)


def test_point_is_the_same_without_numpy() -> None:
    frame = LocalFrame(31.5, 120.0)
    assert frame.point(315100000, 1200200000) == pytest.approx(
        tuple(float(x) for x in frame.to_local(31.51, 120.02)), abs=1e-9
    )
