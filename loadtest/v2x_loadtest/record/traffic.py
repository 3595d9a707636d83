"""Who is ahead of whom: the recording's lanes at each step."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from v2x_loadtest.record.lanes import LaneMap
from v2x_loadtest.record.tracks import Track
from v2x_loadtest.scene.model import PEDESTRIAN


class Place(NamedTuple):
    """One vehicle on a lane at one step."""

    along: float
    speed: float
    number: int
    row: int  # of its track


class Traffic:
    """Vehicles by step and lane, in order along it."""

    def __init__(self, tracks: list[Track], lanes: LaneMap) -> None:
        self.lanes = lanes
        self.tracks = tracks
        self.rows: dict[int, dict[tuple[int, int], list[Place]]] = {}
        for track in tracks:
            if track.shape.cls == PEDESTRIAN:
                continue
            for row, (step, link, lane, along, speed) in enumerate(
                zip(
                    track.step.tolist(),
                    track.link.tolist(),
                    track.lane.tolist(),
                    track.along.tolist(),
                    track.speed.tolist(),
                    strict=True,
                )
            ):
                if link >= 0:
                    self.rows.setdefault(step, {}).setdefault((link, lane), []).append(
                        Place(along, speed, track.number, row)
                    )
        for by_lane in self.rows.values():
            for places in by_lane.values():
                places.sort()
        self._leaving: dict[int, list[int]] = {link.up: [] for link in lanes.links}
        for i, link in enumerate(lanes.links):
            self._leaving[link.up].append(i)

    def leader(self, step: int, link: int, lane_id: int, along: float, reach: float) -> tuple[float, float] | None:
        """Return (gap between centres, speed) of the next vehicle ahead on the lane or where it leads."""
        lane = self.lanes.lane(link, lane_id)
        if lane is None:
            return None
        places = self.rows.get(step, {}).get((link, lane_id), [])
        i = bisect_right(places, (along + 0.5,))
        if i < len(places):
            gap = places[i].along - along
            return (gap, places[i].speed) if gap <= reach else None
        rest = lane.length - along
        best: tuple[float, float] | None = None
        for way in lane.connections:
            for after in self._leaving.get(self.lanes.links[link].down, []):
                if self.lanes.links[after].down != way.to_node:
                    continue
                ahead = self.rows.get(step, {}).get((after, way.to_lane), [])
                if ahead and rest + ahead[0].along <= reach and (best is None or rest + ahead[0].along < best[0]):
                    best = (rest + ahead[0].along, ahead[0].speed)
        return best
