"""Congestion truth: queues on the lanes of a link, second by second."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from v2x_loadtest.record.lanes import VEHICLE
from v2x_loadtest.record.traffic import Place, Traffic
from v2x_loadtest.scene.model import STEP_S

SLOW: Final = 30 / 3.6  # m/s
GAP_M: Final = 50.0  # a queue ends where the next slow vehicle is farther behind: 20 veh/km, above the rule's 18
DENSE, MANY, FORMING = 5, 10, 2  # vehicles in one lane: dense enough to be judged; many; a queue begins to form
DWELL_S: Final = 5.0
_PAUSE_S: Final = 12.0  # stop and go: the same queue


def level(speed: float) -> int:
    """Return the level of a mean speed (m/s): 1 from 25 to 30 km/h, 2 from 15 to 25, 3 below."""
    return 1 if speed * 3.6 >= 25 else 2 if speed * 3.6 >= 15 else 3


@dataclass(slots=True)
class Queue:
    """Congestion on one link."""

    link: int
    forming: int  # step at which it began to form
    start: int  # step at which the rule's condition first held (dense)
    end: int | None  # step at which it stopped holding
    many: int | None  # step at which one lane first had MANY
    lanes: dict[int, int]  # lane id -> step at which it was dense
    seconds: list[dict[str, Any]] = field(default_factory=list)
    head: tuple[int, float] = (0, 0.0)  # lane and along of the head at the start
    vehicles: list[int] = field(default_factory=list)
    lowest: float = 0.0  # along of the farthest tail ever


def longest(places: list[Place]) -> list[Place]:
    """Return the longest chain of slow vehicles on a lane, tail first."""
    best: list[Place] = []
    chain: list[Place] = []
    for place in places:
        if place.speed > SLOW or (chain and place.along - chain[-1].along > GAP_M):
            chain = []
        if place.speed <= SLOW:
            chain.append(place)
        if len(chain) > len(best):
            best = list(chain)
    return best


def find(traffic: Traffic, steps: int) -> list[Queue]:
    """Return the congestions; a queue before a signal is none (it takes more than a cycle, which no scene holds)."""
    out: list[Queue] = []
    for index, link in enumerate(traffic.lanes.links):
        lanes = [x for x in link.lanes if x.type == VEHICLE and not any(c.phase for c in x.connections)]
        if not lanes:
            continue
        chains = [
            {x.lane_id: longest(traffic.rows.get(s, {}).get((index, x.lane_id), [])) for x in lanes}
            for s in range(steps)
        ]
        count = np.array([max(len(c) for c in at.values()) for at in chains])
        dense = count >= DENSE
        at = np.flatnonzero(dense)
        if not len(at):
            continue
        groups = np.split(at, np.flatnonzero(np.diff(at) > _PAUSE_S / STEP_S) + 1)
        for group in groups:
            a, b = int(group[0]), int(group[-1]) + 1
            if (b - a) * STEP_S >= DWELL_S:
                out.append(_queue(traffic, index, chains, count, a, b))
    return out


def _queue(
    traffic: Traffic, index: int, chains: list[dict[int, list[Place]]], count: np.ndarray[Any, Any], a: int, b: int
) -> Queue:
    forming = a
    while forming > 0 and count[forming - 1] >= FORMING:
        forming -= 1
    many = np.flatnonzero(count[a:b] >= MANY)
    lanes: dict[int, int] = {}
    vehicles: set[int] = set()
    lowest = np.inf
    for step in range(a, b):
        for lane_id, chain in chains[step].items():
            if len(chain) >= DENSE:
                lanes.setdefault(lane_id, step)
                vehicles.update(p.number for p in chain)
                lowest = min(lowest, chain[0].along)
    head_lane, chain = max(chains[a].items(), key=lambda kv: len(kv[1]))
    end = None if b >= len(chains) else b
    queue = Queue(
        index, forming, a, end, a + int(many[0]) if len(many) else None, lanes,
        head=(head_lane, chain[-1].along), vehicles=sorted(vehicles), lowest=float(lowest),
    )  # fmt: skip
    for step in range(a, b, round(1 / STEP_S)):
        every = {k: c for k, c in chains[step].items() if len(c) >= FORMING}
        if not every:
            continue
        lane_id, chain = max(every.items(), key=lambda kv: (len(kv[1]), -kv[1][0].along))
        tail = min((c[0].along, k) for k, c in every.items() if len(c) >= min(DENSE, len(chain)))
        speeds = [p.speed for c in every.values() for p in c]
        lane = traffic.lanes.lane(index, tail[1])
        assert lane is not None
        lat, lon = traffic.lanes.grid.point(*lane.at(tail[0]))
        queue.seconds.append(
            {
                "t": round(step * STEP_S, 1),
                "level": level(float(np.mean(speeds))),
                "queue_m": round(chain[-1].along - tail[0] + 5.0, 1),
                "tail_lat": round(lat, 7),
                "tail_lon": round(lon, 7),
                "vehicles": {str(k): len(c) for k, c in sorted(every.items())},
                "speed": round(float(np.mean(speeds)), 2),
            }
        )
    return queue
