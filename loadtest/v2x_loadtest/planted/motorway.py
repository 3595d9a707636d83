"""What happens on the motorway of a planted scene: one function an act, each true or only near to it.

An act says what its vehicles do from a moment ``at`` (scene second, metres along the carriageway) on, what of it is
true by the catalogue's words, and where it needs the road to itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from v2x_loadtest.planted.actors import F64, LANE_MPS, Actor, Box, Car, Note, car, first, last
from v2x_loadtest.planted.layout import EAST, FRAME, LENGTH_M, SHOULDER, motorway_xy
from v2x_loadtest.scene.model import FLAG_AIRBAG, FLAG_HAZARD, Thing
from v2x_loadtest.score.traffic import LANE_M, PEDESTRIAN

STOP_MPS: Final = 2.778
_AWAY: Final = 1.6  # m/s2, of who drives off
_LENGTH: Final = 4.6


@dataclass(slots=True)
class Act:
    """What an act brings onto the road."""

    cars: list[Car] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    clear_m: tuple[float, float] = (150.0, 220.0)  # of its lanes, behind and ahead of each vehicle


Make = Callable[[np.random.Generator, F64, int, int, tuple[float, float]], Act]


@dataclass(frozen=True, slots=True)
class Row:
    """An act in the table: how often, on which lanes, how far and how long it goes."""

    make: Make
    count: int
    lanes: tuple[int, ...]
    reach_m: float
    seconds: float


def _note(kind: str, c: Car, start: float | None, end: float | None, dwell: float, lane: int, *more: Actor,
          optional: str = "") -> Note:  # fmt: skip
    """Return the note of an event of a vehicle that holds from ``start`` to ``end``."""
    assert start is not None, kind
    k = min(round(start * 10), len(c.x) - 1)
    details: dict[str, Any] = {"optional": optional} if optional else {}
    if kind in {"BREAKDOWN", "ACCIDENT"}:
        details["rsi"] = False  # fusion is to find it by itself
    return Note(kind, (float(c.x[k]), float(c.y[k])), start, end, dwell, (c, *more), lane, "", details)


def _braked(c: Car, start: float, seconds: float, lane: int) -> Note:
    return _note("HARD_BRAKING", c, start, start + seconds, 1.0, lane)


def _stands(t: F64, c: Car) -> tuple[float | None, float | None]:
    slow = (c.speed <= STOP_MPS) & np.isfinite(c.x)
    return first(slow, t), last(slow, t)


# -- true -------------------------------------------------------------------------------------------------------------
def stopped(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Stop on a running lane by usual braking, stand, go on."""
    u, wait = LANE_MPS[lane], float(rng.uniform(9, 15))
    c = car(t, d, lane, at, [(u / 2, -2.0), (wait, 0.0), (u / _AWAY, _AWAY)])
    return Act([c], [_note("STOPPED_VEHICLE", c, *_stands(t, c), 5.0, lane)])


def broken(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Stand on a running lane for over half a minute, without a word."""
    u, wait = LANE_MPS[lane], float(rng.uniform(36, 42))
    c = car(t, d, lane, at, [(u / 2, -2.0), (wait, 0.0), (u / _AWAY, _AWAY)])
    stands = _stands(t, c)
    return Act([c], [
        _note("BREAKDOWN", c, *stands, 30.0, lane),
        _note("STOPPED_VEHICLE", c, *stands, 5.0, lane, optional="same vehicle: is a BREAKDOWN"),
    ])  # fmt: skip


def flagged(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Roll out onto the hard shoulder, hazard lights on, and go on after a while."""
    u, wait, t0 = LANE_MPS[lane], float(rng.uniform(10, 16)), at[0]
    off = t0 + u / 2 + wait + 8
    over = [(t0, 0.0), (t0 + 4, -LANE_M), (off, -LANE_M), (off + 4, 0.0)]
    c = car(t, d, lane, at, [(u / 2, -2.0), (wait, 0.0), (u / _AWAY, _AWAY)], over=over, obu=True)
    start, end = _stands(t, c)
    c.flags[(c.speed <= 8.0) & np.isfinite(c.x)] |= FLAG_HAZARD
    return Act([c], [
        _note("BREAKDOWN", c, start, end, 5.0, SHOULDER),
        _note("STOPPED_VEHICLE", c, start, end, 5.0, SHOULDER, optional="same vehicle: is a BREAKDOWN"),
    ])  # fmt: skip


def crash(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Brake hard, and be driven into by who follows too near."""
    u, gap, wait = LANE_MPS[lane], float(rng.uniform(17, 22)), float(rng.uniform(16, 24))
    b1, b2 = float(rng.uniform(6.2, 7.2)), float(rng.uniform(7.6, 8.6))
    lead = car(t, d, lane, at, [(u / b1, -b1), (wait, 0.0), (u / _AWAY, _AWAY)])
    stop = at[1] + u * u / (2 * b1) - _LENGTH - float(rng.uniform(0.0, 0.4))
    begin = stop - u * u / (2 * b2)
    at2 = (at[0] + (begin - (at[1] - gap)) / u, begin)
    tail = car(t, d, lane, at2, [(u / b2, -b2), (wait + 4, 0.0), (u / _AWAY, _AWAY)])
    slow = (lead.speed <= STOP_MPS) & (tail.speed <= STOP_MPS) & np.isfinite(tail.x)
    start, end = first(slow, t), last(slow, t)
    return Act([lead, tail], [
        _note("ACCIDENT", lead, start, end, 3.0, lane, tail),
        _braked(lead, at[0], u / b1, lane), _braked(tail, at2[0], u / b2, lane),
        _note("NEAR_MISS", tail, at[0], end, 0.3, lane, lead, optional="the accident says it"),
    ])  # fmt: skip


def airbag(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Brake as hard as tyres can, and an air bag goes off."""
    u, wait, b = LANE_MPS[lane], float(rng.uniform(14, 22)), 8.5
    c = car(t, d, lane, at, [(u / b, -b), (wait, 0.0), (u / _AWAY, _AWAY)], obu=True)
    stands = (c.speed <= 1.0) & np.isfinite(c.x)
    c.flags[stands] |= FLAG_AIRBAG | FLAG_HAZARD
    accident = _note("ACCIDENT", c, first(stands, t), last(stands, t), 0.7, lane)
    return Act([c], [accident, _braked(c, at[0], u / b, lane)])


def near(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Come up behind a slower one, and brake at the last moment."""
    u, b, room0 = LANE_MPS[lane], 8.0, float(rng.uniform(15.0, 17.0))
    v = u - 13.0
    lead = car(t, d, lane, at, [(13 / 1.5, -1.5), (19.0, 0.0), (13.0, 1.0)])
    k = round((at[0] + 13 / 1.5 + 8.0) * 10)
    brakes = float(t[k])
    at2 = (brakes, float(lead.s[k]) - _LENGTH - room0)
    tail = car(t, d, lane, at2, [(13 / b, -b), (1.5, -1.0), (14.0, 0.0), ((u - v + 1.5) / 1.0, 1.0)])
    room, closing = lead.s - tail.s - _LENGTH, tail.speed - lead.speed
    danger = (closing >= 2.8) & (room <= 2.14 * closing) & (closing**2 >= 2 * room * 3.4)
    miss = _note("NEAR_MISS", tail, first(danger, t), last(danger, t), 0.3, lane, lead)
    return Act([lead, tail], [miss, _braked(tail, brakes, 13 / b, lane)])


def against(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Drive against the lane for some seconds."""
    seconds = float(rng.uniform(10, 14))
    c = car(t, d, lane, at, [], v0=float(rng.uniform(10, 15)), wrong=True)
    out = (t < at[0]) | (t > at[0] + seconds)
    c.x[out] = c.y[out] = c.s[out] = np.nan
    notes = [_note("WRONG_WAY", c, at[0] + 0.1, at[0] + seconds, 1.0, lane)]
    if lane == SHOULDER:
        why = "same vehicle: WRONG_WAY"
        notes.append(_note("EMERGENCY_LANE", c, at[0] + 0.1, at[0] + seconds, 5.0, lane, optional=why))
    return Act([c], notes, clear_m=(400.0, 400.0))


def fast(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Drive far above the limit."""
    u, hold = LANE_MPS[lane], float(rng.uniform(8, 11))
    more = float(rng.uniform(42.5, 46)) - u
    c = car(t, d, lane, at, [(more / 1.5, 1.5), (hold, 0.0), (more / 1.2, -1.2)])
    over = (c.speed > 40.0) & np.isfinite(c.x)
    return Act([c], [_note("OVERSPEED", c, first(over, t), last(over, t), 5.0, lane)])


def slow(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Slow down gently below the lowest speed, with a free road ahead."""
    u, hold = LANE_MPS[lane], float(rng.uniform(9, 13))
    less = u - float(rng.uniform(9, 13))
    c = car(t, d, lane, at, [(less / 1.2, -1.2), (hold, 0.0), (less / _AWAY, _AWAY)])
    under = (c.speed < 15.0) & np.isfinite(c.x)
    return Act([c], [_note("SLOW_VEHICLE", c, first(under, t), last(under, t), 5.0, lane)])


def hard(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Brake hard for no reason that others can see."""
    b, seconds = float(rng.uniform(5.2, 7.0)), float(rng.uniform(1.6, 1.75))
    c = car(t, d, lane, at, [(seconds, -b), (1.0, 0.0), (b * seconds / 1.2, 1.2)])
    return Act([c], [_braked(c, at[0], seconds, lane)])


def shoulder(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Overtake on the hard shoulder."""
    stay, t0 = float(rng.uniform(10, 14)), at[0]
    over = [(t0, 0.0), (t0 + 3, -LANE_M), (t0 + 3 + stay, -LANE_M), (t0 + 6 + stay, 0.0)]
    c = car(t, d, lane, at, [], over=over)
    return Act([c], [_note("EMERGENCY_LANE", c, t0 + 1.8, t0 + 4.2 + stay, 5.0, SHOULDER)])


def walker(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Climb over the guard rail and walk along the hard shoulder."""
    stay, t0 = float(rng.uniform(10, 18)), at[0]
    over = [(t0, -4.0), (t0 + 4, 0.3), (t0 + 4 + stay, 0.3), (t0 + 8 + stay, -4.0)]
    c = car(t, d, lane, at, [], v0=float(rng.uniform(1.0, 1.5)), cls=PEDESTRIAN, over=over)
    out = (t < t0) | (t > t0 + 8 + stay)
    c.x[out] = c.y[out] = c.s[out] = np.nan
    c.lanes = frozenset({lane})
    return Act([c], [_note("PEDESTRIAN", c, t0 + 2.0, t0 + 6 + stay, 1.0, lane)])


def _thing(kind: str, obs_type: int, d: int, lane: int, at: tuple[float, float], stay: float, mps: float) -> Act:
    x, y = motorway_xy(d, at[1], lane)
    lat, lon = (float(v) for v in FRAME.to_geo(x, y))
    thing = Thing(obs_type, at[0], at[0] + stay, lat, lon, mps * d)
    place = (x, y + mps * d * 1.0)
    note = Note(kind, place, at[0], at[0] + stay, 0.5 if kind == "ANIMAL" else 1.0, (), lane, "", {"rsi": False})
    return Act([], [note], [thing])


def debris(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:  # noqa: ARG001
    """Lose goods."""
    return _thing("DEBRIS", int(rng.choice([1, 2, 5])), d, lane, at, float(rng.uniform(8, 20)), 0.0)


def animal(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:  # noqa: ARG001
    """Run across the carriageway."""
    return _thing("ANIMAL", 3, d, lane, at, float(rng.uniform(5, 8)), float(rng.uniform(0.8, 1.8)))


# -- near to it -------------------------------------------------------------------------------------------------------
def _only(*phases: tuple[float, float]) -> Make:
    """Return an act of a vehicle that does this, and which is nothing."""

    def make(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:  # noqa: ARG001
        return Act([car(t, d, lane, at, phases)])

    return make


def brief_stop(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:  # noqa: ARG001
    """Stop for a moment."""
    u = LANE_MPS[lane]
    return Act([car(t, d, lane, at, [(u / 2, -2.0), (0.3, 0.0), (u / _AWAY, _AWAY)])])


def brief_shoulder(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:  # noqa: ARG001
    """Touch the hard shoulder for a moment."""
    t0 = at[0]
    over = [(t0, 0.0), (t0 + 2, -LANE_M), (t0 + 3.2, -LANE_M), (t0 + 5.2, 0.0)]
    return Act([car(t, d, lane, at, [], over=over)])


def beside(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Walk behind the guard rail, two metres off the hard shoulder."""
    t0 = at[0]
    c = car(t, d, lane, at, [], v0=float(rng.uniform(0.8, 1.5)), cls=PEDESTRIAN, over=[(0.0, -3.9)])
    out = (t < t0) | (t > t0 + 20)
    c.x[out] = c.y[out] = c.s[out] = np.nan
    c.lanes = frozenset({lane})
    return Act([c])


def follow(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:
    """Come up behind a slower one, and brake as one does (3 m/s2)."""
    u = LANE_MPS[lane]
    lead = car(t, d, lane, at, [(8.0, -1.25), (16.0, 0.0), (10.0, 1.0)])
    k = round((at[0] + 14.0) * 10)
    at2 = (float(t[k]), float(lead.s[k]) - _LENGTH - float(rng.uniform(34, 38)))
    tail = car(t, d, lane, at2, [(10 / 3, -3.0), (14.0, 0.0), (10.0, 1.0)])
    assert u > 10
    return Act([lead, tail])


def cone(rng: np.random.Generator, t: F64, d: int, lane: int, at: tuple[float, float]) -> Act:  # noqa: ARG001
    """Put down a cone: somebody's work, told by RSI if at all."""
    act = _thing("DEBRIS", 6, d, lane, at, float(rng.uniform(10, 20)), 0.0)
    return Act([], [], act.things)


ACTS: Final[dict[str, Row]] = {
    "slow": Row(slow, 3, (1, 2, 3), 400, 30),
    "broken": Row(broken, 2, (1, 2, 3), 260, 62),
    "fast": Row(fast, 3, (1,), 900, 30),
    "near": Row(near, 3, (1,), 500, 40),
    "shoulder": Row(shoulder, 3, (3,), 480, 20),
    "crash": Row(crash, 3, (1, 2, 3), 90, 34),
    "airbag": Row(airbag, 2, (1, 2, 3), 60, 28),
    "flagged": Row(flagged, 3, (3,), 200, 34),
    "stopped": Row(stopped, 4, (1, 2, 3), 220, 34),
    "against": Row(against, 3, (3, SHOULDER), 200, 16),
    "walker": Row(walker, 3, (SHOULDER,), 40, 26),
    "hard": Row(hard, 2, (1,), 120, 16),
    "debris": Row(debris, 4, (1, 2, 3, 4), 10, 22),
    "animal": Row(animal, 4, (1, 2, 3), 10, 12),
    "brakes 2.5": Row(_only((3.0, -2.5), (6.0, 1.25)), 3, (1, 2), 200, 14),
    "brakes 3.2": Row(_only((1.5, -3.2), (4.0, 1.2)), 2, (1, 2), 160, 10),
    "brakes 6 for 0.4 s": Row(_only((0.4, -6.0), (2.0, 1.2)), 2, (1, 2), 100, 6),
    "a little fast": Row(_only((4.0, 1.75), (10.0, 0.0), (7.0, -1.0)), 2, (1,), 800, 24),
    "a little slow": Row(_only((5.2, -1.0), (12.0, 0.0), (5.2, 1.0)), 2, (3,), 460, 26),
    "brief stop": Row(brief_stop, 2, (2, 3), 220, 28),
    "brief shoulder": Row(brief_shoulder, 2, (3,), 140, 8),
    "beside": Row(beside, 2, (SHOULDER,), 40, 22),
    "follow": Row(follow, 2, (1, 2), 500, 40),
    "cone": Row(cone, 2, (2, 3, 4), 10, 22),
}  # fmt: skip


def slowly(t: F64, c: Car) -> list[Note]:
    """Return where a vehicle is slow for long enough only because it is about to stop; event or not, as one likes."""
    if c.cls == PEDESTRIAN:
        return []
    steady = np.gradient(c.speed, t) < 0.5
    under = (c.speed < 15.0) & (c.speed > STOP_MPS) & steady & np.isfinite(c.x)
    edge = np.diff(np.concatenate([[0], under.astype(np.int8), [0]]))
    out = []
    for a, b in zip(np.flatnonzero(edge == 1).tolist(), np.flatnonzero(edge == -1).tolist(), strict=True):
        if b - a >= 40:
            seconds = (float(t[a]), float(t[min(b, len(t) - 1)]))
            out.append(_note("SLOW_VEHICLE", c, *seconds, 5.0, min(c.lanes), optional="on its way to a stop"))
    return out


def box(row: Row, d: int, at: tuple[float, float]) -> Box:
    """Return where and when an act happens."""
    return Box(d, (at[1] - 30, at[1] + row.reach_m), (at[0], at[0] + row.seconds))


def link_of(d: int, s: float) -> str:
    """Return the link of a place along a carriageway."""
    return f"P-{'E' if d == EAST else 'W'}{min(int(max(s, 0.0) // 1000), round(LENGTH_M / 1000) - 1) + 1}"
