"""When a scripted object, which SUMO's drivers do not see, can move without meeting anybody."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from v2x_loadtest.record.motion import Raw, body
from v2x_loadtest.record.tracks import Shape, Track
from v2x_loadtest.scene.model import F8

_STEP: int = 3  # of starts that are tried: 0.3 s


def clearance(first: int, x: F8, y: F8, shape: Shape, tracks: list[Track]) -> float:
    """Return the least gap (m, along or across the other's axis) to any track while the object moves."""
    least = np.inf
    for track in tracks:
        a, b = max(first, int(track.step[0])), min(first + len(x), int(track.step[-1]) + 1)
        if a >= b:
            continue
        own, other = slice(a - first, b - first), slice(a - int(track.step[0]), b - int(track.step[0]))
        h = np.radians(track.heading[other])
        dx, dy = x[own] - track.x[other], y[own] - track.y[other]
        along = np.abs(dx * np.sin(h) + dy * np.cos(h)) - (shape.length + track.shape.length) / 2
        across = np.abs(dx * np.cos(h) - dy * np.sin(h)) - (shape.width + track.shape.width) / 2
        least = min(least, float(np.maximum(along, across).min()))
    return float(least)


def best_start(raw: Raw, shape: Shape, tracks: list[Track], lo: int, hi: int, enough: float) -> Raw:
    """Return the object moved to the first start in steps [lo, hi) with ``enough`` metres of room."""
    b = body(raw, shape.length)
    near = [
        t
        for t in tracks
        if t.x.max() > b.x.min() - 30
        and t.x.min() < b.x.max() + 30
        and t.y.max() > b.y.min() - 30
        and t.y.min() < b.y.max() + 30
    ]
    best, room = lo, -np.inf
    for first in range(lo, hi, _STEP):
        gap = clearance(first, b.x, b.y, shape, near)
        if gap > room:
            best, room = first, gap
        if gap >= enough:
            break
    return replace(raw, first=best)
