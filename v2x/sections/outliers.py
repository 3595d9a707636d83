"""Which passages of a window are of the traffic, and why the others are not.

A passage is compared with its like (cars with cars, lorries with lorries) where there are enough of them, by the median
and the median absolute deviation: neither moves while less than half is wrong. A travel time that no vehicle can have
is left out first. What lies outside the fences is one of three things:

    faster than can be, or than all others   FAST    a clock, a plate misread, an ambulance
    later than the others                    STOP    a halt at a service area
    later than a halt explains               MISSED  it left and came back: a gantry missed a passage between

A change of the traffic looks like outliers at first: free before, slow since. Who halts arrives among others who do
not; so where the last arrivals are *all* outside the fences, and on one side, it is the traffic that has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

MIN_VEHICLES: Final = 3  # fewer say nothing about the traffic
LIKE_VEHICLES: Final = 5  # fewer of one class are compared with all
RUN_VEHICLES: Final = 4  # a tenth of all halt at a service area: four running do so once in 10,000 windows
IMPLAUSIBLE_FACTOR: Final = 1.5  # of the free speed (domain: beyond 1.5 times the limit)
SLOWEST_MPS: Final = 0.5  # slower, it was not on the way all the time
LONGEST_HALT_S: Final = 2700.0  # ours: a meal and a charge at a service area
MAD_SIGMAS: Final = 3.5
MAD_TO_SIGMA: Final = 1.4826
MIN_SPREAD: Final = 0.5  # of the median: lorries among cars are no outliers, a halt at a service area is

KEPT, FAST, STOP, MISSED = 0, 1, 2, 3
REASONS: Final = {FAST: "fast", STOP: "stop", MISSED: "missed"}
PASSENGER, GOODS, SPECIAL = 1, 2, 3  # link_state.classes.vehicle_class; 0 unknown


def class_of(vehicle_type: int) -> int:
    """Return the class of a toll vehicle type: 1-4 passenger, 11-16 goods, 21-26 special; 0 unknown."""
    for known, first, last in ((PASSENGER, 1, 4), (GOODS, 11, 16), (SPECIAL, 21, 26)):
        if first <= vehicle_type <= last:
            return known
    return 0


def sift(travel_s: Sequence[float], classes: Sequence[int], length_m: float, free_mps: float) -> list[int]:
    """Return KEPT or a reason for each travel time; rows in order of arrival, ``classes`` as of ``class_of``."""
    # Whole seconds: on a short section a true passage may look a second shorter than it was.
    fastest = length_m / (free_mps * IMPLAUSIBLE_FACTOR) - 1.0
    slowest = length_m / SLOWEST_MPS
    out = [FAST if t < fastest or t <= 0 else MISSED if t > slowest else KEPT for t in travel_s]
    rows = [i for i, reason in enumerate(out) if reason == KEPT]
    if len(rows) < MIN_VEHICLES:
        return out
    fences = {}
    every = _fences([travel_s[i] for i in rows])
    for kind in set(classes):
        like = [travel_s[i] for i in rows if classes[i] == kind]
        fences[kind] = _fences(like) if len(like) >= LIKE_VEHICLES else every
    sides = [(travel_s[i] > fences[classes[i]][2]) - (travel_s[i] < fences[classes[i]][0]) for i in rows]
    changed = len(rows)
    while changed and sides[changed - 1] and sides[changed - 1] == sides[-1]:
        changed -= 1
    if len(rows) - changed < RUN_VEHICLES:
        changed = len(rows)
    for i, side in zip(rows[:changed], sides, strict=False):
        if side < 0:
            out[i] = FAST
        elif side > 0:
            out[i] = MISSED if travel_s[i] > fences[classes[i]][1] + LONGEST_HALT_S else STOP
    return out


def _fences(travel_s: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower fence, the median and the upper fence."""
    middle = median(travel_s)
    spread = median(abs(t - middle) for t in travel_s)
    reach = max(MAD_SIGMAS * MAD_TO_SIGMA * spread, MIN_SPREAD * middle)
    return middle - reach, middle, middle + reach
