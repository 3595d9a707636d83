"""True trajectories by step with the lane each is on: what the truth rules look at, and what goes into the scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from v2x_loadtest.record.grid import Grid
from v2x_loadtest.record.lanes import SIDEWALK, Lane, LaneMap
from v2x_loadtest.record.motion import Raw, body
from v2x_loadtest.scene.model import F8, I32, PEDESTRIAN, STEP_S, Bool, Trajectories


@dataclass(frozen=True, slots=True)
class Shape:
    """Class and size of an object."""

    cls: int
    length: float
    width: float
    height: float


@dataclass(slots=True)
class Track:
    """One object within the recording; rows by step, without gaps."""

    id: str  # of SUMO, or of the script
    shape: Shape
    step: I32
    x: F8
    y: F8
    heading: F8  # grid
    speed: F8
    link: I32
    lane: I32
    flags: I32
    front_x: F8
    front_y: F8
    number: int = -1
    along: F8 = field(default_factory=lambda: np.zeros(0))
    lateral: F8 = field(default_factory=lambda: np.zeros(0))
    lane_heading: F8 = field(default_factory=lambda: np.zeros(0))
    accel: F8 = field(default_factory=lambda: np.zeros(0))


def make_tracks(
    raw: Mapping[str, Raw],
    shapes: Mapping[str, Shape],
    sumo_lanes: list[str],
    lanes: LaneMap,
    steps: int,
    inside: Callable[[F8, F8], Bool],
) -> list[Track]:
    """Return tracks of what was inside the recorded area in steps 0 to ``steps``; numbered in order of appearance."""
    known = np.array([(*lanes.of_sumo.get(name, (-1, 0)),) for name in sumo_lanes] + [(-1, 0)], dtype=np.int32)
    out: list[Track] = []
    for id_, r in raw.items():
        shape = shapes[id_]
        b = body(r, shape.length)
        step = b.first + np.arange(len(b.x), dtype=np.int32)
        keep = (step >= 0) & (step < steps) & inside(b.x, b.y)
        if not keep.any():
            continue
        a, z = int(np.argmax(keep)), len(keep) - int(np.argmax(keep[::-1]))
        lane = known[b.lane[a:z]]
        out.append(
            Track(
                id_, shape, step[a:z], b.x[a:z], b.y[a:z], b.heading[a:z], np.round(b.speed[a:z], 2),
                lane[:, 0].copy(), lane[:, 1].copy(), b.flags[a:z], b.front_x[a:z], b.front_y[a:z],
            )
        )  # fmt: skip
    out.sort(key=lambda t: (int(t.step[0]), t.id))
    for track in out:
        if track.id.startswith("@") or track.shape.cls == PEDESTRIAN:
            _match(track, lanes)
    for number, track in enumerate(out):
        track.number = number
        _derive(track, lanes)
    return out


def _match(track: Track, lanes: LaneMap) -> None:
    """Put a scripted object on the lane whose area holds it; walkers may also be on a crosswalk or sidewalk."""
    best = np.full(len(track.x), np.inf)
    for lane in lanes.lanes():
        if track.shape.cls != PEDESTRIAN and lane.type >= SIDEWALK:
            continue
        along, lateral, _ = lane.project(track.x, track.y)
        inside = (np.abs(lateral) <= lane.width / 2) & (along > 0) & (along < lane.length) & (np.abs(lateral) < best)
        best = np.where(inside, np.abs(lateral), best)
        track.link = np.where(inside, lane.link, track.link).astype(np.int32)
        track.lane = np.where(inside, lane.lane_id, track.lane).astype(np.int32)


def _derive(track: Track, lanes: LaneMap) -> None:
    n = len(track.step)
    track.along, track.lateral, track.lane_heading = np.zeros(n), np.zeros(n), np.zeros(n)
    for link, lane_id in {*zip(track.link.tolist(), track.lane.tolist(), strict=True)}:
        lane = lanes.lane(link, lane_id)
        if lane is None:
            continue
        at = (track.link == link) & (track.lane == lane_id)
        track.along[at], track.lateral[at], track.lane_heading[at] = lane.project(track.x[at], track.y[at])
    rows = np.arange(n)
    a, b = np.maximum(rows - 2, 0), np.minimum(rows + 2, n - 1)
    track.accel = (track.speed[b] - track.speed[a]) / (np.maximum(b - a, 1) * STEP_S)


def pack_tracks(tracks: list[Track], grid: Grid) -> Trajectories:
    """Return the tracks as a scene stores them: WGS-84, true headings."""

    def column(pick: Callable[[Track], npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
        return np.concatenate([pick(t) for t in tracks])

    lat, lon = grid.wgs84(column(lambda t: t.x), column(lambda t: t.y))
    heading = np.asarray(column(lambda t: t.heading), np.float64) + grid.convergence(lat, lon)
    ints = {
        "lat": np.round(lat * 1e7),
        "lon": np.round(lon * 1e7),
        "speed": np.round(np.asarray(column(lambda t: t.speed), np.float64) * 100),
        "heading": np.round(heading * 100) % 36000,
        "link": column(lambda t: t.link),
        "lane": column(lambda t: t.lane),
        "step": column(lambda t: t.step),
        "vehicle": column(lambda t: np.full(len(t.step), t.number)),
    }
    return Trajectories(
        **{name: np.asarray(values).astype(np.int32) for name, values in ints.items()},
        flags=np.asarray(column(lambda t: t.flags)).astype(np.uint16),
    )


def lane_of(track: Track, row: int, lanes: LaneMap) -> Lane | None:
    """Return the lane a track is on at one of its rows."""
    return lanes.lane(int(track.link[row]), int(track.lane[row]))
