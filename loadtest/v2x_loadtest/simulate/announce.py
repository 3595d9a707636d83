"""Which RSU announces what by RSI: the nearest one tells of an obstruction some seconds after it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from v2x_loadtest.scene import Scene, TruthEvent
from v2x_loadtest.simulate.motion import metres_per_degree

# What an operator or a roadside unit would announce; an event may say otherwise in details["rsi"].
ANNOUNCED: Final = frozenset({"BREAKDOWN", "ACCIDENT", "DEBRIS", "ROAD_WORKS"})
_NOTICED_S: Final = (6.0, 10.0)  # after the start
_OVER_S: Final = 2.0  # after the end
_GOODBYES: Final = 3  # messages with ended = 1
_POSITION_M: Final = 2.0
_IDS: Final = 65_535


@dataclass(frozen=True, slots=True)
class Announcement:
    """One event at one RSU; times in scene seconds of one loop."""

    rsu: int  # row in scene.devices
    event: TruthEvent
    number: int
    from_s: float
    end_s: float | None
    lat_e7: int
    lon_e7: int

    def rte(self, t_s: float, loop: int, events: int, event_ms: Any, d_lon: int) -> dict[str, Any] | None:
        """Return the event as said at ``t_s`` (scene second of the loop); None while there is nothing to say."""
        if t_s < self.from_s:
            return None
        over = self.end_s is not None and t_s >= self.end_s + _OVER_S
        if self.end_s is not None and t_s >= self.end_s + _OVER_S + _GOODBYES:
            return None
        return {
            "rte_id": (loop * events + self.number) % _IDS + 1,
            "event_type": self.event.code,
            "lat": self.lat_e7,
            "lon": self.lon_e7 + d_lon,
            "radius": 100,
            "lane_id": self.event.lane,
            "start_ms": round(event_ms(self.event.start_s)),
            "end_ms": round(event_ms(self.end_s)) if over and self.end_s is not None else 0,
            "ended": int(over),
            "description": self.event.kind.lower().replace("_", " "),
        }


def announcements(scene: Scene, rng: np.random.Generator) -> list[Announcement]:
    """Return what will be announced in one run of the scene."""
    rsus = [i for i, d in enumerate(scene.devices) if d.kind == "rsu"]
    out = []
    for number, event in enumerate(scene.events):
        wait, off = rng.uniform(*_NOTICED_S), rng.normal(0, _POSITION_M, 2)
        if not rsus or not event.details.get("rsi", event.kind in ANNOUNCED):
            continue
        at = event.start_s + wait
        if event.end_s is not None and at >= event.end_s:
            continue
        north, east = metres_per_degree(event.lat)
        rsu = _nearest(scene, rsus, event, float(north), float(east))
        lat, lon = event.lat + off[1] / north, event.lon + off[0] / east
        out.append(Announcement(rsu, event, number, at, event.end_s, round(lat * 1e7), round(lon * 1e7)))
    return out


def _nearest(scene: Scene, rsus: Sequence[int], event: TruthEvent, north: float, east: float) -> int:
    def distance(i: int) -> float:
        d = scene.devices[i]
        return ((d.lat - event.lat) * north) ** 2 + ((d.lon - event.lon) * east) ** 2

    return min(rsus, key=distance)
