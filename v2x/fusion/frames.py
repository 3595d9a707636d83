"""TrackView to the record ``track_frame``: the schema's units and limits."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x.fusion.view import F64, TrackView
from v2x.geo import LocalFrame
from v2x.road import Road

MAX_SPEED: Final = 8_190
MAX_LENGTH: Final = 4_095
MAX_WIDTH: Final = 1_023
MAX_SIGMA: Final = 65_535
LANES: Final = 256


def _whole(values: F64, unit: float, top: int) -> list[int]:
    found: list[int] = np.clip(np.rint(values / unit), -top, top).astype(np.int64).tolist()
    return found


def columns(view: TrackView, frame: LocalFrame, road: Road) -> dict[str, Any]:
    """Return the column fields of a track_frame."""
    lat, lon = frame.to_geo(view.east, view.north)
    links: list[str] = []
    lane: list[int] = [-1] * len(view)
    if len(road.links):
        known = view.lane >= 0
        used = np.unique(road.lanes.link[view.lane[known]])
        links = [road.links[int(x)] for x in used]
        at = np.full(len(view), -1, np.int64)
        at[known] = (
            np.searchsorted(used, road.lanes.link[view.lane[known]]) * LANES + road.lanes.lane_id[view.lane[known]]
        )
        lane = at.tolist()
    return {
        "track": view.id.tolist(),
        "object_class": view.cls.tolist(),
        "lat": np.rint(lat * 1e7).astype(np.int64).tolist(),
        "lon": np.rint(lon * 1e7).astype(np.int64).tolist(),
        "speed": _whole(view.speed, 0.02, MAX_SPEED),
        "heading": (np.rint(view.heading / 0.0125).astype(np.int64) % 28_800).tolist(),
        "accel": _whole(view.accel, 0.01, 2_000),
        "pos_sigma": _whole(view.sigma, 0.01, MAX_SIGMA),
        "length": _whole(view.length, 0.01, MAX_LENGTH),
        "width": _whole(view.width, 0.01, MAX_WIDTH),
        "lane": lane,
        "hits": view.hits.tolist(),
        "age_ms": view.age_ms.tolist(),
        "links": links,
    }
