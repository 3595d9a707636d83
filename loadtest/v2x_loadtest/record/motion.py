"""From front bumpers to centres: the body follows the path of its front, and the heading is that of the body.

SUMO reports the front bumper and an angle that jumps at the vertices of a lane; a detector reports the centre.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from v2x_loadtest.record.grid import azimuth_unit, grid_heading
from v2x_loadtest.scene.model import F8, I32

_SMOOTH: int = 2  # steps each side over which the heading is averaged: 0.2 s


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
    """Let a body of ``length`` metres follow the path of its front; before the first sample the path is straight."""
    x, y = np.array(raw.x), np.array(raw.y)
    ex, ey = azimuth_unit(raw.angle[0])
    steps = np.hypot(np.diff(x), np.diff(y))
    s = np.concatenate([[0.0], np.cumsum(steps)])
    keep = np.concatenate([[True], steps > 1e-4])
    back = length + 1.0
    path_s = np.concatenate([[-back], s[keep]])
    path_x = np.concatenate([[x[0] - back * ex], x[keep]])
    path_y = np.concatenate([[y[0] - back * ey], y[keep]])

    def at(behind: float) -> tuple[F8, F8]:
        where = s - behind
        return np.interp(where, path_s, path_x), np.interp(where, path_s, path_y)

    cx, cy = at(length / 2)
    fx, fy = at(length * 0.1)
    rx, ry = at(length * 0.9)
    heading = _smooth(grid_heading(fx - rx, fy - ry))
    # The lane of the centre is the lane the front was on when it was there.
    rows = np.searchsorted(s, s - length / 2, side="right") - 1
    return Body(
        raw.first,
        raw.kind,
        cx,
        cy,
        heading,
        np.array(raw.speed),
        np.array(raw.lane, dtype=np.int32)[np.maximum(rows, 0)],
        np.array(raw.flags, dtype=np.int32),
        x,
        y,
    )


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
