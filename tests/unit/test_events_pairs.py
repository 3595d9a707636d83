"""Pairs of vehicles are found wherever they are: near misses off all lanes, all over a large zone."""

from __future__ import annotations

import numpy as np
from tests.unit.events_world import Car, World, motorway_nodes
from v2x.events import conflicts

_SPEED = 15.0
_AWAY_M = 30.0  # both are so far from where their ways cross
_PAIRS = 100
_BUCKETS = 512  # of so many


def crossing_pair(number: int, x: float, y: float) -> list[Car]:
    """One goes north to (x, y), the other east; both are there after two seconds."""
    north = Car(2 * number + 1, lambda _t: x, lambda _t: _SPEED, y=y - _AWAY_M, heading=0.0)
    east = Car(2 * number + 2, lambda t: x - _AWAY_M + _SPEED * t, lambda _t: _SPEED, y=y)
    return [north, east]


def found(places: list[tuple[float, float]]) -> list[list[int]]:
    w = World(motorway_nodes())
    cars = [car for number, place in enumerate(places) for car in crossing_pair(number, *place)]
    while w.t < 0.8:
        w.run(cars, w.t + 0.1)
        for car in cars[::2]:
            assert car.y is not None
            car.y += 0.1 * _SPEED
    return sorted(c.tracks for _, c in w.of("NEAR_MISS") if c.status == "ADDED")


def everyone(count: int) -> list[list[int]]:
    return [[2 * n + 1, 2 * n + 2] for n in range(count)]


def test_every_pair_is_found_all_over_a_zone():
    rng = np.random.default_rng(1)
    places = [
        (400.0 * i + rng.uniform(0, 200), 400.0 * j + rng.uniform(0, 200)) for i in range(-9, 9) for j in range(-20, -2)
    ]
    assert found(places) == everyone(len(places))


def test_pairs_whose_cells_have_the_last_and_the_first_bucket_are_found():
    cell = conflicts._CELL_M
    corners = ((cell * i, cell * j) for i in range(-2_000, 2_000, 8) for j in range(-1_000, -100, 8))
    first = (
        (x + 50.0, y + 10.0)  # the one that goes north is in the cell south of it
        for x, y in corners
        if conflicts._bucket(conflicts._cell(x + 1.0, y + 1.0), _BUCKETS) == 0
    )
    places = [place for _, place in zip(range(_PAIRS), first, strict=False)]
    assert len(places) == _PAIRS
    assert found(places) == everyone(_PAIRS)
