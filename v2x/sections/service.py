"""Levels and indices by the standards' tables.

GB/T 33171-2016 judges speed: v / v_free. JTG B01-2014 judges how much of its capacity a motorway uses: v/C, in cars.
Beyond capacity the flow falls again while the density goes on rising, so that a jam would look free by v/C alone:
density has the last word there (HCM 6th ed., basic freeway segments: 45 passenger cars per mile and lane is capacity).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# GB/T 33171-2016: v / v_free above this is level 1 (free) .. 4; else 5
LEVEL_RATIOS: Final = (0.70, 0.50, 0.40, 0.30)
# delay-time proportion 1 - v / v_free at TPI 0, 2, 4, 6, 8, 10
TPI_KNOTS: Final = (0.0, 0.3, 0.5, 0.6, 0.7, 1.0)
# JTG B01-2014, motorways: v/C up to this is service level 1 .. 5; else 6
SERVICE_RATIOS: Final = (0.35, 0.55, 0.75, 0.90, 1.00)
# JTG B01-2014, motorways: design speed (km/h) from which a lane's capacity is so many passenger cars an hour
CAPACITY: Final = ((120, 2200), (100, 2100), (0, 2000))
FORCED_DENSITY: Final = 28.0  # passenger cars per km and lane: HCM's 45 a mile
# JTG B01-2014: small 1.0 (to 19 seats, to 2 t), medium 1.5 (from 20 seats, 2 to 7 t), large 2.5 (7 to 20 t), trains 4.0
# (above 20 t); by toll types of JT/T 489-2019, which count seats, axles and gross weight. Special ones as goods.
CAR_UNITS: Final[Mapping[int, float]] = {
    1: 1.0, 2: 1.0, 3: 1.5, 4: 1.5,
    11: 1.0, 12: 1.5, 13: 2.5, 14: 2.5, 15: 4.0, 16: 4.0,
    21: 1.0, 22: 1.5, 23: 2.5, 24: 2.5, 25: 4.0, 26: 4.0,
}  # fmt: skip


def level(speed_mps: float, free_mps: float) -> int:
    """Return the level by GB/T 33171: 1 free, 2 mostly free, 3 light, 4 moderate, 5 severe congestion; 0 unknown."""
    if speed_mps <= 0 or free_mps <= 0:
        return 0
    ratio = speed_mps / free_mps
    return 1 + sum(ratio <= bound for bound in LEVEL_RATIOS)


def tpi(speed_mps: float, free_mps: float) -> float:
    """Return the traffic performance index, 0 (free) to 10, linear between the bounds of the levels."""
    delay = min(1.0, max(0.0, 1.0 - speed_mps / free_mps))
    for i in range(1, len(TPI_KNOTS)):
        low, high = TPI_KNOTS[i - 1], TPI_KNOTS[i]
        if delay <= high:
            return 2.0 * (i - 1) + 2.0 * (delay - low) / (high - low)
    return 10.0


def service(units_h: float, lanes: int, speed_mps: float, free_mps: float) -> int:
    """Return the level of service by JTG B01-2014, 1 to 6; 0 where lanes or speed are not known.

    ``units_h``: flow of the carriageway in passenger cars an hour.
    """
    if lanes <= 0 or speed_mps <= 0 or free_mps <= 0:
        return 0
    each = units_h / lanes
    if each / (speed_mps * 3.6) > FORCED_DENSITY:
        return 1 + len(SERVICE_RATIOS)
    capacity = next(c for kmh, c in CAPACITY if free_mps * 3.6 >= kmh)
    return 1 + sum(each / capacity > bound for bound in SERVICE_RATIOS)
