"""Traffic of the settings: who is where, computed from a seed, so that every instant of the truth is known exactly.

*Motorway*: three lanes one way, vehicles follow each other by the Intelligent Driver Model (M. Treiber, A. Hennecke,
D. Helbing, "Congested traffic states in empirical observations and microscopic simulations", Phys. Rev. E 62, 2000),
change lanes where there is room, and now and then one brakes without a reason, so that waves run back. *Crossing*: four
arms with signals, one arm at a time; vehicles turn right (8 m, 5-6 m/s), left (14 m, 7-8 m/s) or go straight, people
walk, stand and turn on the pavements, cyclists ride along the kerb and round the corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

STEP_S: Final = 0.1
LANE_M: Final = 3.75
CAR, TRUCK, BUS, CYCLIST, MOTORCYCLE, PEDESTRIAN = 3, 5, 6, 7, 8, 10
# class: length, width (m), of the lane's speed
SHAPES: Final = {
    CAR: (4.6, 1.8, 1.0), TRUCK: (12.0, 2.5, 0.75), BUS: (11.0, 2.5, 0.8), MOTORCYCLE: (2.2, 0.8, 1.0),
    CYCLIST: (1.8, 0.6, 1.0), PEDESTRIAN: (0.5, 0.5, 1.0),
}  # fmt: skip
_SHARES: Final = ((CAR, 0.8), (TRUCK, 0.12), (BUS, 0.03), (MOTORCYCLE, 0.05))
_MARGIN_M: Final = 300.0  # the road goes on beyond both ends
_WARM_S: Final = 60.0
_LANE_MPS: Final = (27.0, 31.0, 34.0)
_HEADWAY_S, _STANDING_M, _ACCEL, _BRAKE = 1.2, 2.5, 1.2, 2.0
_CHANGE_S: Final = 4.0
_CHANGES: Final = 1 / 40  # a second and vehicle, if there is room
_FITS: Final = 1 / 900  # brakings without a reason, a second and vehicle


@dataclass(slots=True)
class Traffic:
    """Columns by step (``STEP_S`` each) and object; NaN where an object is not there. Metres about the origin."""

    east: F64  # (step, object)
    north: F64
    cls: I64  # (object,)

    @property
    def steps(self) -> int:
        """Return how many steps there are."""
        return len(self.east)

    def at(self, t_s: float) -> tuple[I64, F64, F64]:
        """Return who is there at a second, east and north: by a straight line between two steps."""
        x = min(max(t_s / STEP_S, 0.0), self.steps - 1.000001)
        a = int(x)
        w = x - a
        east, north = ((1 - w) * c[a] + w * c[a + 1] for c in (self.east, self.north))
        there = np.flatnonzero(np.isfinite(east))
        return there, east[there], north[there]

    def motion(self, t_s: float, who: I64) -> tuple[F64, F64]:
        """Return velocities (east, north; m/s) of objects at a second, by differences over 0.2 s."""
        a = min(max(round(t_s / STEP_S), 1), self.steps - 2)
        out = []
        for c in (self.east, self.north):
            before, now, after = c[a - 1, who], c[a, who], c[a + 1, who]
            wide = (after - before) / (2 * STEP_S)
            half = np.where(np.isfinite(after), after - now, now - before) / STEP_S
            out.append(np.nan_to_num(np.where(np.isfinite(wide), wide, half)))
        return out[0], out[1]


def _idm(v: F64, wish: F64, gap: F64, closing: F64) -> F64:
    star = _STANDING_M + np.maximum(0.0, v * _HEADWAY_S + v * closing / (2 * np.sqrt(_ACCEL * _BRAKE)))
    accel: F64 = _ACCEL * (1 - (v / wish) ** 4 - (star / np.maximum(gap, 0.5)) ** 2)
    return np.maximum(accel, -8.0)


def motorway(seed: int, seconds: float, vehicles: int, length_m: float, *, both_ways: bool = False) -> Traffic:
    """Return ``vehicles`` on average on ``length_m`` of road along east; the first lane is the one at its right.

    ``both_ways``: half of them go west on a carriageway of their own.
    """
    rng = np.random.default_rng([seed, 1])
    if not both_ways:
        along, left, cls = _carriageway(rng, seconds, vehicles, length_m)
        return Traffic(along, left, cls)
    a, b = (_carriageway(rng, seconds, n, length_m) for n in (vehicles - vehicles // 2, vehicles // 2))
    east, north = np.hstack((a[0], length_m - b[0])), np.hstack((a[1] - 12.0, 12.0 - b[1]))
    return Traffic(east, north, np.concatenate((a[2], b[2])))


def _carriageway(rng: np.random.Generator, seconds: float, vehicles: int, length_m: float) -> tuple[F64, F64, I64]:
    """Return (step, object) metres along and left, and classes; an object lives from end to end."""
    ring = length_m + 2 * _MARGIN_M
    n = round(vehicles * ring / length_m)
    cls = rng.choice([c for c, _ in _SHARES], n, p=[p for _, p in _SHARES]).astype(np.int64)
    lane = np.arange(n) % 3
    lane[(cls == TRUCK) | (cls == BUS)] = rng.integers(0, 2, int(((cls == TRUCK) | (cls == BUS)).sum()))
    size = np.array([SHAPES[int(c)][0] for c in cls])
    wish = np.array(_LANE_MPS)[lane] * np.array([SHAPES[int(c)][2] for c in cls]) * rng.normal(1, 0.06, n).clip(0.8)
    x = np.zeros(n)
    for k in range(3):
        here = np.flatnonzero(lane == k)
        x[here] = (np.arange(len(here)) + rng.uniform(0, 0.5, len(here))) * ring / max(len(here), 1)
    v = np.full(n, 20.0)
    left, aim = lane * LANE_M, lane * LANE_M
    begun = np.full(n, -1e9)
    fit_until = np.full(n, -1e9)
    phase, lap = rng.uniform(0, 2 * np.pi, n), np.zeros(n, np.int64)
    steps, warm = round(seconds / STEP_S) + 2, round(_WARM_S / STEP_S)
    rows: list[tuple[F64, F64, I64]] = []
    for step in range(-warm, steps):
        t = step * STEP_S
        fit_until = np.where(rng.random(n) < _FITS * STEP_S, t + 2.5, fit_until)
        for j in np.flatnonzero((rng.random(n) < _CHANGES * STEP_S) & (t - begun > _CHANGE_S + 2)).tolist():
            to = int(lane[j]) + (1 if rng.random() < 0.5 else -1)
            if not 0 <= to <= (1 if cls[j] in {TRUCK, BUS} else 2):
                continue
            there = np.flatnonzero(lane == to)
            ahead, behind = ((x[there] - x[j]) % ring), ((x[j] - x[there]) % ring)
            if there.size and min(ahead.min() - 12, behind.min() - 12) < 0.4 * v[j]:
                continue
            lane[j], begun[j], left[j], aim[j] = to, t, aim[j], to * LANE_M
        accel = np.zeros(n)
        for k in range(3):
            here = np.flatnonzero(lane == k)
            order = here[np.argsort(x[here])]
            lead = np.roll(order, -1)
            gap = (x[lead] - x[order]) % ring - 0.5 * (size[lead] + size[order])
            accel[order] = _idm(v[order], wish[order], gap, v[order] - v[lead])
        accel = np.where(t < fit_until, np.minimum(accel, -2.5), accel)
        faster = np.maximum(v + accel * STEP_S, 0.0)
        x = x + 0.5 * (v + faster) * STEP_S
        v = faster
        lap += x >= ring
        x = np.where(x >= ring, x - ring, x)
        if step >= 0:
            part = np.clip((t - begun) / _CHANGE_S, 0.0, 1.0)
            y = left + (aim - left) * (1 - np.cos(np.pi * part)) / 2 + 0.2 * np.sin(t / 4 + phase)
            rows.append((x - _MARGIN_M, y, lap.copy()))
    laps = int(max(r[2].max() for r in rows)) + 1
    shape = (steps, n * laps)
    along, aside = np.full(shape, np.nan), np.full(shape, np.nan)
    for k, (px, py, pl) in enumerate(rows):
        column = np.arange(n) * laps + pl
        along[k, column], aside[k, column] = px, py
    return along, aside, np.repeat(cls, laps)
