"""The order of vehicles along their lanes, which the rules keep from step to step."""

from __future__ import annotations

from functools import partial

import numpy as np
from tests.unit.events_world import T0, World, cruising, lane_y, motorway_nodes


def test_the_order_along_lanes_is_kept_through_births_deaths_and_lane_changes():
    w = World(motorway_nodes())
    rng = np.random.default_rng(3)
    cars = []
    for k in range(60):
        born, gone = sorted(rng.uniform(-3.0, 9.0, 2))
        lives = partial(lambda t, born, gone: born <= t <= gone, born=born, gone=gone)
        y, cls = lane_y(int(rng.integers(1, 5))) + rng.uniform(-2.0, 2.0), int(rng.choice([3, 7]))
        id_ = int(rng.permutation(500)[0]) * 100 + k
        cars.append(cruising(id_, rng.uniform(0, 1500), rng.uniform(0, 40), y=y, cls=cls, alive=lives))
    t = 0.0
    while t < 8.0:
        view = w.view(cars, t)
        w.det.step(T0 + round(t * 1000), view)
        rows = np.flatnonzero((view.lane >= 0) & (view.cls == 3))
        table = w.det.table
        wanted = rows[np.lexsort((view.along[rows], view.lane[rows]))]
        assert table._order[: table._ordered].tolist() == wanted.tolist()
        assert len(wanted) > 5
        t = round(t + 0.1, 6)
