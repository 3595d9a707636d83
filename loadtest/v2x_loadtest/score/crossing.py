"""The traffic of a crossing: turns of 90 degrees, queues at signals, people who walk and stand, cyclists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from v2x_loadtest.score.traffic import (
    BUS,
    CAR,
    CYCLIST,
    F64,
    LANE_M,
    MOTORCYCLE,
    PEDESTRIAN,
    STEP_S,
    TRUCK,
    Traffic,
)

ARM_M: Final = 110.0
STOP_M: Final = 14.0  # from the middle to the line
GREEN_S: Final = 9.0
ALL_RED_S: Final = 3.0
CYCLE_S: Final = 4 * (GREEN_S + ALL_RED_S)  # one arm after the other
OFFSET_S: Final = float(np.random.default_rng(7).uniform(0, CYCLE_S))  # second 0 is so far in the first arm's cycle
_SPEED: Final = 12.0
_HEADWAY_S, _STANDING_M, _ACCEL, _BRAKE, _CALM = 1.2, 2.5, 1.8, 2.5, 1.5


@dataclass(slots=True)
class Route:
    """A line, an arc to the right (turn < 0) or left (turn > 0) or none, a line; from an arm's end."""

    lateral: float  # of the approach, right of the middle
    radius: float
    turn: float  # rad
    mps: float  # in the arc
    entry: float = 0.0  # along the route where the arc begins

    def place(self, s: F64) -> tuple[F64, F64]:
        """Return (x, y) of points along the route; the approach comes from -x."""
        x0, y0 = -ARM_M, -self.lateral
        side = np.sign(self.turn)
        arc = abs(self.turn) * self.radius
        into = np.clip(s - self.entry, 0.0, arc)
        angle = side * into / self.radius if self.turn else np.zeros_like(s)
        x = x0 + np.minimum(s, self.entry)
        y = np.full_like(s, y0)
        if self.turn:
            x = x + self.radius * np.sin(abs(angle))
            y = y + side * self.radius * (1 - np.cos(angle))
        rest = np.maximum(s - self.entry - arc, 0.0)
        return x + rest * np.cos(self.turn), y + rest * np.sin(self.turn)

    def limit(self, s: float) -> float:
        """Return the speed one drives here, with the turn in sight."""
        if not self.turn:
            return _SPEED
        if s < self.entry:
            return min(_SPEED, float(np.sqrt(self.mps**2 + 2 * _CALM * (self.entry - s))))
        return self.mps if s < self.entry + abs(self.turn) * self.radius else _SPEED


def _routes(rng: np.random.Generator, lane: int) -> Route:
    """Return a route from a lane: 0 the left one (left or straight), 1 the right one (right or straight)."""
    lateral = LANE_M * (lane + 0.5)
    if rng.random() < 0.3:
        return Route(lateral, 1.0, 0.0, _SPEED)
    if lane == 0:  # into the left arm's left lane
        radius = 14.0
        return Route(lateral, radius, np.pi / 2, float(rng.uniform(7, 8)), ARM_M + LANE_M * 0.5 - radius)
    radius = 8.0
    return Route(lateral, radius, -np.pi / 2, float(rng.uniform(5, 6)), ARM_M - LANE_M * 1.5 - radius)


def _queue(rng: np.random.Generator, steps: int, arm: int, lane: int) -> list[tuple[F64, F64, int]]:
    """Return (x, y, class) of all vehicles of one approach lane, x towards the middle."""
    line = ARM_M - STOP_M
    routes: list[Route] = []
    spots: list[F64] = []
    kinds: list[int] = []
    s, v, born = list[float](), list[float](), 0.0
    cycle, offset = CYCLE_S, OFFSET_S
    for step in range(-300, steps):
        t = step * STEP_S
        if t >= born and (not s or s[-1] > 15.0):
            routes.append(_routes(rng, lane))
            kinds.append(int(rng.choice([CAR, TRUCK, BUS, MOTORCYCLE], p=[0.8, 0.07, 0.05, 0.08])))
            spots.append(np.full(steps, np.nan))
            s.append(0.0)
            v.append(9.0)
            born = t + 3.0 + rng.exponential(7.0)
        green = (t + offset - arm * (GREEN_S + ALL_RED_S)) % cycle < GREEN_S
        for j, route in enumerate(routes):
            if s[j] > 2.6 * ARM_M:
                continue
            gap, closing = 1e6, 0.0
            if j and (s[j - 1] < line + 12 or routes[j - 1].turn == route.turn) and s[j - 1] < 2.6 * ARM_M:
                gap, closing = s[j - 1] - s[j] - (5.0 if kinds[j - 1] in {CAR, MOTORCYCLE} else 12.0), v[j] - v[j - 1]
            if not green and s[j] < line and line - s[j] < gap and (line - s[j]) > v[j] ** 2 / 7:
                gap, closing = line - s[j], v[j]
            star = _STANDING_M + max(0.0, v[j] * _HEADWAY_S + v[j] * closing / (2 * np.sqrt(_ACCEL * _BRAKE)))
            wish = route.limit(s[j])
            accel = _ACCEL * (1 - (v[j] / wish) ** 4 - (star / max(gap, 0.5)) ** 2)
            faster = max(v[j] + max(accel, -5.0) * STEP_S, 0.0)
            s[j] += 0.5 * (v[j] + faster) * STEP_S
            v[j] = faster
            if step >= 0:
                spots[j][step] = s[j]
    return [(*route.place(spot), cls) for route, spot, cls in zip(routes, spots, kinds, strict=True)]


def _walker(rng: np.random.Generator, steps: int) -> tuple[F64, F64]:
    """Return somebody on foot on one corner's pavement: walks, stands, turns."""
    x, y = rng.uniform(14, 40, 2)
    angle, speed = rng.choice(4) * np.pi / 2, 0.0
    wish = rng.uniform(1.0, 1.6)
    until, walks = 0.0, True
    out = np.zeros((steps, 2))
    for step in range(steps):
        t = step * STEP_S
        if t >= until:
            walks = not walks
            until = t + (rng.uniform(4, 10) if walks else rng.uniform(1.5, 4))
            if walks:
                angle += rng.choice([0.0, np.pi / 2, -np.pi / 2, np.pi], p=[0.5, 0.2, 0.2, 0.1])
        speed += np.clip((wish if walks else 0.0) - speed, -1.5 * STEP_S, 1.0 * STEP_S)
        x, y = x + speed * np.cos(angle) * STEP_S, y + speed * np.sin(angle) * STEP_S
        if not 11.5 < x < 60 or not 11.5 < y < 60:
            angle += np.pi
            x, y = np.clip(x, 11.6, 59.9), np.clip(y, 11.6, 59.9)
        out[step] = x, y
    return out[:, 0], out[:, 1]


def _cyclist(rng: np.random.Generator, steps: int) -> tuple[F64, F64]:
    """Return a cyclist along the kerb, round the corner to the right."""
    radius = 4.0
    route = Route(9.0, radius, -np.pi / 2, 3.5, ARM_M - 9.0 - radius)
    s = rng.uniform(20, 60) + np.cumsum(np.full(steps, rng.uniform(3.8, 5.2) * STEP_S))
    return route.place(s)


def crossing(
    seed: int, seconds: float, walkers: int = 16, cyclists: int = 6, arms: Sequence[int] = range(4)
) -> Traffic:
    """Return a crossing's traffic about its middle; arms reach ``ARM_M`` to east, north, west and south.

    ``arms``: from where vehicles come; 0 west, 1 south, 2 east, 3 north.
    """
    rng = np.random.default_rng([seed, 2])
    steps = round(seconds / STEP_S) + 2
    columns: list[tuple[F64, F64, int]] = []

    def add(x: F64, y: F64, turns: int, cls: int) -> None:
        c, d = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
        columns.append((c * x - d * y, d * x + c * y, cls))

    for arm in arms:
        for lane in range(2):
            for x, y, cls in _queue(rng, steps, arm, lane):
                add(x, y, arm, cls)
    for k in range(walkers):
        add(*_walker(rng, steps), k % 4, PEDESTRIAN)
    for k in range(cyclists):
        add(*_cyclist(rng, steps), k % 4, CYCLIST)
    east, north = (np.stack([c[k] for c in columns], axis=1) for k in (0, 1))
    beyond = np.maximum(abs(east), abs(north)) > ARM_M
    east[beyond] = north[beyond] = np.nan
    return Traffic(east, north, np.array([c[2] for c in columns], np.int64))
