"""A queue on the motorway of a planted scene, and the account of every second of it."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x_loadtest.planted.actors import F64, LANE_MPS, Car, Note, car
from v2x_loadtest.planted.layout import EAST, FRAME, LENGTH_M, MEDIAN_M
from v2x_loadtest.planted.motorway import Act
from v2x_loadtest.record.queues import DENSE, level, longest
from v2x_loadtest.record.traffic import Place
from v2x_loadtest.scene.model import STEP_S
from v2x_loadtest.score.traffic import LANE_M

_HEADWAY_S, _STANDING_M, _ACCEL, _BRAKE = 1.4, 2.5, 1.4, 1.8
_LENGTH: Final = 4.6
_CRAWLS: Final = ((3.3, 3.7), (5.2, 6.0))  # m/s, above a stop and off the levels' bounds
_OTHERS: Final = (9, 12)  # followers in a lane


def jam(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Crawl for most of a minute, in this lane and in the one to its left, with those behind queueing up."""
    out = Act(clear_m=(700.0, 300.0))
    crawl, stay = float(rng.uniform(*_CRAWLS[int(rng.integers(2))])), float(rng.uniform(38, 46))
    others, meet = int(rng.integers(*_OTHERS)), (at[0] + 20.0, at[1] + 250.0)  # both begin to crawl there
    for one in (lane, lane - 1):
        u = LANE_MPS[one]
        less = u - crawl
        first = (meet[0] - less / 1.3, meet[1] - (u * u - crawl * crawl) / 2.6)
        lead = car(t, d, one, first, [(less / 1.3, -1.3), (stay, 0.0), (less / 1.2, 1.2)])
        out.cars.append(lead)
        ahead = lead
        for _ in range(others):
            ahead = _follower(t, d, one, ahead, float(rng.uniform(1.5, 2.2)))
            out.cars.append(ahead)
    out.notes += account(t, out.cars)
    return out


def _follower(t: F64, d: int, lane: int, ahead: Car, headway_s: float) -> Car:
    """Return who follows by the Intelligent Driver Model, from ``headway_s`` behind where the other came from."""
    u = LANE_MPS[lane]
    s, speed = np.empty(len(t)), np.empty(len(t))
    lead_s, lead_v = ahead.s.copy(), ahead.speed
    there = np.flatnonzero(np.isfinite(lead_s))
    lead_s[: there[0]] = lead_s[there[0]] - lead_v[there[0]] * (t[there[0]] - t[: there[0]])
    lead_s[there[-1] + 1 :] = LENGTH_M + 1e4
    x, v = float(lead_s[0]) - u * headway_s - _LENGTH, u
    for k in range(len(t)):
        s[k], speed[k] = x, v
        gap = max(float(lead_s[k]) - x - _LENGTH, 0.5)
        star = _STANDING_M + max(0.0, v * _HEADWAY_S + v * (v - float(lead_v[k])) / (2 * np.sqrt(_ACCEL * _BRAKE)))
        a = max(_ACCEL * (1 - (v / (u * 1.02)) ** 4 - (star / gap) ** 2), -3.3)
        faster = max(v + a * STEP_S, 0.0)
        x, v = x + (v + faster) / 2 * STEP_S, faster
    out = car(t, d, lane, (0.0, 0.0), [])
    off = MEDIAN_M + LANE_M * (lane - 0.5) - 0.15 * np.sin(t / 5 + s[0])
    out.x, out.y = (s.copy(), -off) if d == EAST else (LENGTH_M - s, off)
    gone = (s < 0) | (s > LENGTH_M)
    out.x[gone] = out.y[gone] = s[gone] = np.nan
    out.s, out.speed = s, speed
    return out


def chain(cars: list[Car], k: int) -> list[Car]:
    """Return the longest chain of slow vehicles of one lane at a step, its tail first (by number of vehicles)."""
    own = sorted((c for c in cars if np.isfinite(c.s[k])), key=lambda c: float(c.s[k]))
    places = [Place(float(c.s[k]), float(c.speed[k]), n, n) for n, c in enumerate(own)]
    return [own[place.number] for place in longest(places)]


def account(t: F64, cars: list[Car]) -> list[Note]:
    """Return the note of the congestion that these are, if they are one; ``seconds`` in its details."""
    lanes = sorted({min(c.lanes) for c in cars})
    by_lane = {lane: [c for c in cars if min(c.lanes) == lane] for lane in lanes}
    dense = [k for k in range(len(t)) if any(len(chain(own, k)) >= DENSE for own in by_lane.values())]
    if not dense:
        return []
    seconds: list[dict[str, Any]] = []
    for k in range(dense[0], dense[-1] + 1, round(1 / STEP_S)):
        chains = {lane: c for lane, own in by_lane.items() if len(c := chain(own, k)) >= DENSE}
        if not chains:
            continue
        every = [c for own in chains.values() for c in own]
        speed = float(np.mean([c.speed[k] for c in every]))
        long = max(chains.values(), key=lambda own, k=k: float(own[-1].s[k] - own[0].s[k]))  # type: ignore[misc]
        low = long[0]
        lat, lon = (float(v) for v in FRAME.to_geo(low.x[k], low.y[k]))
        seconds.append({
            "t": round(float(t[k]), 1), "level": level(speed),
            "tail_lat": lat, "tail_lon": lon, "speed": round(speed, 2),
            "queue_m": round(float(long[-1].s[k] - low.s[k]) + 5.0, 1),
            "vehicles": {str(lane): len(own) for lane, own in chains.items()},
        })  # fmt: skip
    head = _head(by_lane, dense[0])
    k = dense[0]
    end = None if dense[-1] == len(t) - 1 else round(float(t[dense[-1] + 1]), 1)
    place = (float(head.x[k]), float(head.y[k]))
    return [Note("CONGESTION", place, round(float(t[k]), 1), end, 5.0, cars, min(head.lanes), "", {"seconds": seconds})]


def _head(by_lane: dict[int, list[Car]], k: int) -> Car:
    """Return the front of the longest chain."""
    return max((chain(own, k) for own in by_lane.values()), key=len)[-1]
