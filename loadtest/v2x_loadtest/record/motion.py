"""From front bumpers to centres: the body follows the path of its front, and the heading is that of the body.

SUMO reports the front bumper and an angle that jumps at the vertices of a lane; a detector reports the centre.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from v2x_loadtest.record.grid import grid_heading
from v2x_loadtest.scene.model import F8, I32, STEP_S

_JUMP_M: Final = 1.5  # sideways in one step: a lane change
_HALF: Final = 15  # steps
_TINY: Final = 1e-6  # m
_CRAB_MPS: Final = 8.0  # a slower car slides over without turning that far
_SMOOTH: Final = 2  # steps each side over which the heading is averaged: 0.2 s


@dataclass(slots=True)
class Raw:
    """What SUMO said of one vehicle, step by step, without gaps."""

    first: int  # step of the first sample
    kind: str
    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    angle: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    lane: list[int] = field(default_factory=list)  # index of the SUMO lane that the front is on
    flags: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Body:
    """Centre of one object, step by step, in grid metres."""

    first: int
    kind: str
    x: F8
    y: F8
    heading: F8  # deg from grid north
    speed: F8
    lane: I32
    flags: I32
    front_x: F8
    front_y: F8


def body(raw: Raw, length: float) -> Body:
    """Let a body of ``length`` metres follow the path of its front; before the first sample the path is straight.

    SUMO's lane changes take one step. Here the whole body moves over in 3 s, half before and half after; a slow car's
    gap has only just opened, so it moves after. (SUMO can spread them itself, ``lanechange.duration``, but then a car
    that must stop astride is driven through.)
    """
    x, y = np.array(raw.x), np.array(raw.y)
    angle = np.radians(np.array(raw.angle))
    east, north = np.cos(angle), -np.sin(angle)  # unit vector to the right
    dx, dy = np.diff(x, prepend=x[:1]), np.diff(y, prepend=y[:1])
    right = dx * east + dy * north
    jumps = np.flatnonzero(np.abs(right) > _JUMP_M).tolist()
    steps = np.hypot(dx, dy)
    steps[jumps] = np.abs(dx * np.sin(angle) + dy * np.cos(angle))[jumps]
    s = np.cumsum(steps)
    keep = np.concatenate([[True], steps[1:] > 1e-4])
    keep[jumps] = True
    back = length + 1.0
    path = [(-back, x[0] - back * np.sin(angle[0]), y[0] - back * np.cos(angle[0]))]
    for k in np.flatnonzero(keep).tolist():
        if k in jumps:  # two points: where it would have been, and where it is
            path.append((s[k], x[k] - right[k] * east[k], y[k] - right[k] * north[k]))
            path.append((s[k] + _TINY, x[k], y[k]))
        else:
            path.append((s[k], x[k], y[k]))
    path_s, path_x, path_y = np.array(path).T

    # How far over each jump is, by step, and the shift of a point that has (or has not yet) passed its place.
    ramps = [(k, _over(len(x), k + (_HALF if raw.speed[k] < _CRAB_MPS else 0))) for k in jumps]

    def at(behind: float) -> tuple[F8, F8]:
        where = s - behind
        px, py = np.interp(where, path_s, path_x), np.interp(where, path_s, path_y)
        for k, done in ramps:
            part = right[k] * (done - (where > s[k] + _TINY / 2))
            px, py = px + part * east[k], py + part * north[k]
        return px, py

    cx, cy = at(length / 2)
    fx, fy = at(length * 0.1)
    rx, ry = at(length * 0.9)
    sideways = np.zeros(len(x))
    for k, done in ramps:
        sideways += right[k] * np.gradient(done, STEP_S) if len(x) > 1 else 0.0
    speed = np.array(raw.speed)
    heading = _smooth(grid_heading(fx - rx, fy - ry) + np.degrees(np.arctan2(sideways, np.maximum(speed, _CRAB_MPS))))
    # The lane of the centre is the lane the front was on when it was there.
    rows = np.searchsorted(s, s - length / 2, side="right") - 1
    return Body(
        raw.first,
        raw.kind,
        cx,
        cy,
        heading,
        speed,
        np.array(raw.lane, dtype=np.int32)[np.maximum(rows, 0)],
        np.array(raw.flags, dtype=np.int32),
        x,
        y,
    )


def _over(n: int, k: int) -> F8:
    """Return how far a lane change at step ``k`` is done, 0 to 1, by step."""
    t = np.clip((np.arange(n) - k + _HALF + 0.5) / (2 * _HALF), 0.0, 1.0)
    out: F8 = (1 - np.cos(np.pi * t)) / 2
    return out


def _smooth(heading: F8) -> F8:
    """Average a heading over +-0.2 s, across 360."""
    n = 2 * _SMOOTH + 1
    if len(heading) < n:
        return heading
    turn = np.unwrap(heading, period=360.0)
    padded = np.pad(turn, _SMOOTH, mode="edge")
    out: F8 = np.convolve(padded, np.full(n, 1 / n), mode="valid") % 360.0
    return out


def walk(points: list[tuple[float, float]], speed: list[tuple[float, float]], step: float, first: int) -> Raw:
    """Drive or walk a polyline: ``speed`` is (seconds, m/s) corners of a profile from 0 on; ends at either's end.

    The result is an object that SUMO does not know, with its *front* on the line.
    """
    xy = np.array(points)
    s_line = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy, axis=0).T))])
    times = np.arange(0.0, speed[-1][0] + 1e-9, step)
    v = np.interp(times, [c[0] for c in speed], [c[1] for c in speed])
    s = np.concatenate([[0.0], np.cumsum((v[1:] + v[:-1]) / 2 * step)])
    inside = s <= s_line[-1]
    s, v = s[inside], v[inside]
    x, y = np.interp(s, s_line, xy[:, 0]), np.interp(s, s_line, xy[:, 1])
    angle = float(grid_heading(np.array([xy[1, 0] - xy[0, 0]]), np.array([xy[1, 1] - xy[0, 1]]))[0])
    n = len(s)
    return Raw(first, "", x.tolist(), y.tolist(), [angle] * n, v.tolist(), [-1] * n, [0] * n)


def rounded(path: list[tuple[float, float]], passes: int = 4) -> list[tuple[float, float]]:
    """Return a path with its corners cut (Chaikin), so that a car can drive it."""
    line = np.array(path)
    for _ in range(passes):
        a, b = line[:-1], line[1:]
        inner = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], axis=1).reshape(-1, 2)
        line = np.concatenate([line[:1], inner, line[-1:]])
    return [(float(x), float(y)) for x, y in line]
