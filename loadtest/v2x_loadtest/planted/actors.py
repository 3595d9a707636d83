"""Who moves in a planted scene, step by step, and the notes of what that was.

A motorway vehicle drives at its lane's speed but for its part: phases of constant acceleration from a moment on. What
it needs free of others is known, so that nothing happens but what is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.planted.layout import EAST, LENGTH_M, MEDIAN_M, XY
from v2x_loadtest.scene.model import STEP_S
from v2x_loadtest.score.traffic import CAR, LANE_M, SHAPES

F64 = npt.NDArray[np.float64]
LANE_MPS: Final = {1: 31.0, 2: 28.0, 3: 23.0}  # of the motorway's free flow
_HEIGHTS: Final = {CAR: 1.5, 5: 3.4, 6: 3.2, 7: 1.7, 8: 1.4, 10: 1.7}


@dataclass(slots=True, eq=False)
class Actor:
    """One vehicle or person: columns over the steps of the scene, NaN where it is not there."""

    cls: int
    x: F64  # m, scene
    y: F64
    speed: F64  # m/s
    flags: npt.NDArray[np.int64]  # VehicleEventFlags
    obu: bool = False
    number: int = -1

    @property
    def size(self) -> tuple[float, float, float]:
        """Return length, width and height, m."""
        length, width, _ = SHAPES[self.cls]
        return length, width, _HEIGHTS[self.cls]


@dataclass(slots=True, eq=False)
class Car(Actor):
    """A vehicle of the motorway."""

    direction: int = 1
    lanes: frozenset[int] = frozenset()
    s: F64 = field(default_factory=lambda: np.zeros(0))  # m along its carriageway


@dataclass(slots=True)
class Note:
    """A true event, before actors have numbers; ``place`` as in the scene's metres."""

    kind: str
    place: XY
    start_s: float
    end_s: float | None
    dwell_s: float
    actors: Sequence[Actor] = ()
    lane: int = 0
    link: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """Where and when something happens on a carriageway: m along it, scene seconds."""

    direction: int
    s: tuple[float, float]
    t: tuple[float, float]

    def meets(self, other: Box, room_m: float, room_s: float) -> bool:
        """Say whether two are nearer than this in place and time."""
        return (
            self.direction == other.direction
            and self.s[0] - room_m < other.s[1]
            and other.s[0] - room_m < self.s[1]
            and self.t[0] - room_s < other.t[1]
            and other.t[0] - room_s < self.t[1]
        )


def times(seconds: float) -> F64:
    """Return the scene seconds of all steps."""
    return np.asarray(np.arange(round(seconds / STEP_S)) * STEP_S, np.float64)


def profile(t: F64, begin: float, v0: float, phases: Sequence[tuple[float, float]]) -> tuple[F64, F64]:
    """Return metres from the place at ``begin`` and speed, m/s: ``v0``, then phases (s, m/s2), then on as it is."""
    seconds, accel = np.array(phases, float).reshape(-1, 2).T
    begins = np.concatenate([[0.0], np.cumsum(seconds)])
    v = np.maximum(np.concatenate([[v0], v0 + np.cumsum(seconds * accel)]), 0.0)
    way = np.concatenate([[0.0], np.cumsum((v[1:] + v[:-1]) / 2 * seconds)])
    after = t - begin
    part = np.clip(np.searchsorted(begins, after, "right") - 1, 0, len(begins) - 1)
    a = np.where(after < 0, 0.0, np.append(accel, 0.0)[part])
    on = after - begins[part]
    speed = np.maximum(v[part] + a * on, 0.0)
    return way[part] + (v[part] + speed) / 2 * on, speed


def car(
    t: F64, direction: int, lane: int, at: tuple[float, float], phases: Sequence[tuple[float, float]],
    *, v0: float | None = None, cls: int = CAR, over: Sequence[tuple[float, float]] = (), obu: bool = False,
    wrong: bool = False,
) -> Car:  # fmt: skip
    """Return a vehicle that is at s = ``at[1]`` at second ``at[0]`` and does ``phases`` from then on.

    ``over``: corners (scene second, m to the left) of what it leaves its lane's centre by; ``wrong``: it drives against
    its lane, from s downwards.
    """
    speed0 = LANE_MPS[lane] if v0 is None else v0
    way, speed = profile(t, at[0], speed0, phases)
    s = at[1] - way if wrong else at[1] + way
    left = np.interp(t, [c[0] for c in over], [c[1] for c in over]) if over else np.zeros(len(t))
    left = left + 0.15 * np.sin(t / 5 + at[1])
    off = MEDIAN_M + LANE_M * (lane - 0.5) - left
    x, y = (s.copy(), -off) if direction == EAST else (LENGTH_M - s, off)
    out = (s < 0) | (s > LENGTH_M)
    x[out] = y[out] = s[out] = np.nan
    lanes = {lane} | {lane - round(b / 3.75) for _, b in over}
    flags = np.zeros(len(t), np.int64)
    return Car(cls, x, y, speed, flags, obu, direction=direction, lanes=frozenset(lanes), s=s)


def on_path(t: F64, begin: float, s0: float, path: Any, v0: float, phases: Sequence[tuple[float, float]], cls: int,
            end_m: float, *, from_m: float = 0.0) -> Actor:  # fmt: skip
    """Return who moves along ``path(s) -> (x, y)`` and is ``s0`` m along it at ``begin``.

    It is there from ``from_m`` to ``end_m``.
    """
    way, speed = profile(t, begin, v0, phases)
    s = s0 + way
    x, y = path(s)
    x, y = np.array(x, float), np.array(y, float)
    out = (s < from_m) | (s > end_m)
    x[out] = y[out] = np.nan
    return Actor(cls, x, y, speed, np.zeros(len(t), np.int64))


def first(mask: npt.NDArray[np.bool_], t: F64) -> float | None:
    """Return the second at which something first holds."""
    at = np.flatnonzero(mask)
    return round(float(t[at[0]]), 2) if len(at) else None


def last(mask: npt.NDArray[np.bool_], t: F64) -> float | None:
    """Return the second at which it last held and after which it does not; None if it goes on to the end."""
    at = np.flatnonzero(mask)
    return None if not len(at) or at[-1] == len(t) - 1 else round(float(t[at[-1] + 1]), 2)
