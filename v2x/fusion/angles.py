"""Angles without the library's functions: those take one at a time and 20 to 30 ns; these become vector instructions.

They differ from the library in the last bits, and are the same on every machine, which the library is not.
"""

from __future__ import annotations

from math import pi
from typing import Any, Final

import numpy as np

from v2x.fusion.jit import helper

DEGREE: Final = 80  # units of 0.0125 degrees
_UNIT: Final = pi / 180.0 / DEGREE  # rad
_TAN_22: Final = np.sqrt(2.0) - 1.0  # of 22.5 degrees
_SINE: Final = np.sin(np.radians(np.arange(361.0)))
_COSINE: Final = np.cos(np.radians(np.arange(361.0)))


@helper
def turn(sine: float, cosine: float, by: float) -> tuple[float, float]:
    """Return sine and cosine of an angle that is greater by ``by`` (rad), to 1e-15 where that is below 0.01."""
    q = by * by
    s = by * (1.0 - q * (1.0 / 6.0 - q * (1.0 / 120.0)))
    c = 1.0 - q * (0.5 - q * (1.0 / 24.0 - q * (1.0 / 720.0)))
    return sine * c + cosine * s, cosine * c - sine * s


@helper
def compass(heading: int) -> tuple[float, float]:
    """Return (east, north) of the unit vector with a heading of 0.0125 degrees, 0 to 28,800."""
    near = (heading + DEGREE // 2) // DEGREE
    east, north = turn(_SINE[near], _COSINE[near], (heading - near * DEGREE) * _UNIT)
    return east, north


@helper
def bearing(x: float, y: float) -> Any:
    """Return the angle of (x, y) clockwise from (0, 1), rad, 0 <= angle <= 2 pi, to 1e-9; (0, 0) has 0.

    It is a series about the nearest multiple of 45 degrees.
    """
    a, b = abs(x), abs(y)
    steep = a > b
    m = (b / a if steep else a / b) if a + b > 0.0 else 0.0
    far = m > _TAN_22
    t = (m - 1.0) / (m + 1.0) if far else m
    q = t * t
    rest = 1.0 / 13.0 - q * (1.0 / 15.0 - q * (1.0 / 17.0 - q * (1.0 / 19.0 - q * (1.0 / 21.0))))
    rest = 1.0 / 3.0 - q * (1.0 / 5.0 - q * (1.0 / 7.0 - q * (1.0 / 9.0 - q * (1.0 / 11.0 - q * rest))))
    angle = t - t * q * rest + (pi / 4.0 if far else 0.0)
    angle = pi / 2.0 - angle if steep else angle
    angle = pi - angle if y < 0.0 else angle
    return 2.0 * pi - angle if x < 0.0 else angle
