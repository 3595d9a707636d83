"""What happens at the crossings of a planted scene: who runs a red light, who nearly meets, what signals do wrong.

One crossing has traffic on its main street, and its side street belongs to those who run a red light (while the other
side has green, when nobody drives on the main street) and those who only seem to. One has signals that fail. One has no
other vehicles, for what needs room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from v2x_loadtest.planted.actors import F64, Actor, Note, on_path
from v2x_loadtest.planted.layout import CROSSINGS, FRAME, STREET_MPS, XY, arm_xy, rsu_id
from v2x_loadtest.scene import Fault, Thing
from v2x_loadtest.scene.model import STEP_S
from v2x_loadtest.score.crossing import ALL_RED_S, ARM_M, CYCLE_S, GREEN_S, OFFSET_S, STOP_M, Route, crossing
from v2x_loadtest.score.traffic import CAR, LANE_M, PEDESTRIAN

_LINE_M: Final = ARM_M - STOP_M  # along an arm, from its end to the stop line
_THROUGH_M: Final = 2 * ARM_M


@dataclass(slots=True)
class Street:
    """What the crossings bring into a scene."""

    actors: list[Actor] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def street(rng: np.random.Generator, t: F64, *, planted: bool) -> Street:
    """Return all three crossings; without ``planted`` all have traffic and nothing happens."""
    out = Street()
    roles = rng.permutation(3).tolist() if planted else [3, 3, 3]
    for c, role in enumerate(roles):
        if role != 2:
            _traffic(out, c, int(rng.integers(1 << 30)), len(t))
        if planted:
            (_busy, _failing, _quiet)[role](rng, t, c, out)
    return out


def _traffic(out: Street, c: int, seed: int, steps: int) -> None:
    """Add a crossing's own traffic: vehicles on the main street, people and cyclists beside the road."""
    made = crossing(seed, steps * STEP_S, walkers=10, cyclists=4, arms=(0, 2))
    east, north = made.east[:steps] + CROSSINGS[c][0], made.north[:steps] + CROSSINGS[c][1]
    vx, vy = (np.gradient(x, STEP_S, axis=0) for x in (east, north))
    speed = np.nan_to_num(np.hypot(vx, vy))
    for k, cls in enumerate(made.cls.tolist()):
        if np.isfinite(east[:, k]).sum() > 5:
            flags = np.zeros(steps, np.int64)
            out.actors.append(Actor(int(cls), east[:, k].copy(), north[:, k].copy(), speed[:, k].copy(), flags))


def green_from(arm: int, t_s: float) -> float:
    """Return when an arm's next green begins, from ``t_s`` on."""
    begin = arm * (GREEN_S + ALL_RED_S) - OFFSET_S
    return begin + CYCLE_S * float(np.ceil((t_s - begin) / CYCLE_S))


def _way(c: int, arm: int, route: Route) -> Callable[[F64], tuple[F64, F64]]:
    def path(s: F64) -> tuple[F64, F64]:
        x, y = route.place(s)
        a, b = arm_xy(c, arm, x, y)  # type: ignore[arg-type]
        return a, b  # type: ignore[return-value]

    return path


def _straight(lane: int) -> Route:
    return Route(LANE_M * (lane - 0.5), 1.0, 0.0, 12.0)


def _drive(t: F64, c: int, arm: int, route: Route, at: tuple[float, float], v0: float,
           *phases: tuple[float, float]) -> Actor:  # fmt: skip
    """Return who is ``at[1]`` m along a route at second ``at[0]``."""
    return on_path(t, at[0], at[1], _way(c, arm, route), v0, phases, CAR, _THROUGH_M)


def _walk(t: F64, c: int, arm: int, at: tuple[float, float], y: float, seconds: float, mps: float) -> Actor:
    """Return who walks across an arm from its right side: at ``at`` (second, x) he is at ``y``, for ``seconds``."""
    a, b = arm_xy(c, arm, at[1] + 0 * t, y + mps * (t - at[0]))  # type: ignore[arg-type]
    x, y2 = np.array(a, float), np.array(b, float)
    out = (t < at[0]) | (t > at[0] + seconds)
    x[out] = y2[out] = np.nan
    return Actor(PEDESTRIAN, x, y2, np.full(len(t), abs(mps)), np.zeros(len(t), np.int64))


# -- red lights -------------------------------------------------------------------------------------------------------
def _busy(rng: np.random.Generator, t: F64, c: int, out: Street) -> None:
    acts = ["red 1", "red 2", "red 1", "right", "late", "red 2", "yellow", "red 1"]
    rng.shuffle(acts)
    for arm in (1, 3):
        begin = green_from(arm, 12.0)
        while begin + 24 < t[-1] and acts:
            _side(rng, t, c, arm, begin, acts.pop(), out)
            begin += CYCLE_S


def _side(rng: np.random.Generator, t: F64, c: int, arm: int, begin: float, act: str, out: Street) -> None:
    """Let somebody come from the other side while ``arm`` has green from ``begin`` on (or from ``arm``: yellow)."""
    other = (arm + 2) % 4
    when = begin + float(rng.uniform(2.0, 6.0))
    if act.startswith("red"):
        lane = int(act[-1])
        mps = float(rng.uniform(9, 13))
        who = _drive(t, c, other, _straight(lane), (when, _LINE_M), mps)
        place = arm_xy(c, other, -STOP_M, -LANE_M * (lane - 0.5))
        out.notes.append(Note("RED_LIGHT", place, round(when, 2), round(when + 1, 2), 0.0, (who,), lane))
    elif act == "right":
        radius = 8.0
        route = Route(1.5 * LANE_M, radius, -np.pi / 2, 5.5, ARM_M - LANE_M * 1.5 - radius)
        who = _drive(t, c, other, route, (when, _LINE_M), 5.5, (4.0, 0.0), (4.0, 1.5))
    elif act == "late":  # stops with its middle beyond the line, and waits there
        v0, b = 11.0, 3.0
        at = (when - v0 / b, _LINE_M + 1.5 - v0 * v0 / (2 * b))
        wait = green_from(other, when) + 1 - when
        who = _drive(t, c, other, _straight(1), at, v0, (v0 / b, -b), (wait, 0.0), (6.0, 1.8))
    else:  # on yellow
        who = _drive(t, c, arm, _straight(1), (begin + GREEN_S + float(rng.uniform(0.5, 2.0)), _LINE_M), 11.0)
    out.actors.append(who)


# -- signals ----------------------------------------------------------------------------------------------------------
def _failing(rng: np.random.Generator, t: F64, c: int, out: Street) -> None:
    out_of_order = ("status", int(rng.choice([1 << 2, 1 << 8, 1 << 9])))
    faults: list[tuple[str, int, float, bool]] = [
        ("silent", 0, float(rng.uniform(22, 30)), True),
        (*(("dark", 0) if rng.random() < 0.5 else out_of_order), float(rng.uniform(12, 18)), True),
        ("clash", 0, float(rng.uniform(5, 8)), True),
        ("silent", 0, 6.0, False),
        ("dark", 0, 3.0, False),
    ]
    at = 12.0
    for k in rng.permutation(len(faults)).tolist():
        what, status, seconds, true = faults[k]
        begin, at = at, at + seconds + float(rng.uniform(13, 17))
        if at > t[-1]:
            break
        out.faults.append(Fault(rsu_id(c), begin, begin + seconds, what, status))
        if true:
            dwell = {"silent": 10.0, "clash": 2.0}.get(what, 5.0)
            out.notes.append(Note("SIGNAL_FAILURE", CROSSINGS[c], begin, begin + seconds, dwell))


# -- where there is room ----------------------------------------------------------------------------------------------
def _quiet(rng: np.random.Generator, t: F64, c: int, out: Street) -> None:
    acts = [_conflict, _conflict, _stray, _stray, _jaywalk, _wrong, _fast, _stands, _debris, _animal, _crosses, _kerb]
    begin = 8.0
    for k in rng.permutation(len(acts)).tolist():
        if begin + 22 > t[-1]:
            break
        act = Street()
        over = acts[k](rng, t, c, begin, act)
        if over > t[-1] - 3:
            continue
        begin = max(begin + 19.0, over + 3.0)
        out.actors += act.actors
        out.notes += act.notes
        out.things += act.things


def _conflict(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Run a red light into the way of who has green, and brake just in time."""
    v, b, early = 10.0, 8.5, 0.62
    when = green_from(1, begin + 11) + float(rng.uniform(5.0, 7.0))  # both would be there
    lane = LANE_M / 2
    meets = ARM_M + lane - 0.9 - 2.3  # its middle, when its front is at the other's side
    ours = _drive(t, c, 0, _straight(1), (when - early, meets - v * early), v, (v / b, -b), (1.5, 0.0), (6.0, 1.8))
    other = _drive(t, c, 1, _straight(1), (when, ARM_M - lane + float(rng.uniform(-0.5, 0.5))), v)
    out.actors += [ours, other]
    passed = when - (meets - _LINE_M) / v
    out.notes += [
        Note("NEAR_MISS", arm_xy(c, 0, -3.0, -lane), when - 1.4, when + 0.2, 0.3, (ours, other)),
        Note("RED_LIGHT", arm_xy(c, 0, -STOP_M, -lane), passed, passed + 1, 0.0, (ours,), 1),
        Note("HARD_BRAKING", arm_xy(c, 0, -5.0, -lane), when - early, when - early + v / b, 1.0, (ours,), 1,
             details={"optional": "near the rule's limits: 1.2 s from 36 km/h"}),
    ]  # fmt: skip
    return when + 12


def _stray(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Step into the road before a vehicle that has green; it brakes hard."""
    arm = int(rng.integers(4))
    v, b, mps, x = 12.0, 8.0, float(rng.uniform(0.95, 1.1)), float(rng.uniform(-70, -50))
    when = green_from(arm, begin + 12) + 1.0
    early = 0.85
    who = _walk(t, c, arm, (when - 5.0, x), -5.5 - 5.0 * mps, 22.0, mps)
    at = (when - early, ARM_M + x - 2.3 - 0.25 - v * early)
    ours = _drive(t, c, arm, _straight(2), at, v, (v / b, -b), (1.2, 0.0), (6.0, 1.8))
    out.actors += [who, ours]
    place = arm_xy(c, arm, x, -5.5)
    edge = when - (7.5 - 5.5) / mps
    out.notes += [
        Note("PEDESTRIAN", place, edge, edge + 15.0 / mps, 1.0, (who,)),
        Note("NEAR_MISS", place, when - 1.25, when + 0.6, 0.3, (ours, who)),
        Note("HARD_BRAKING", place, when - early, when - early + v / b, 1.0, (ours,), 2),
    ]
    return when + 18


def _jaywalk(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Cross the road where there is no crosswalk."""
    arm, mps = int(rng.integers(4)), float(rng.uniform(1.0, 1.6))
    who = _walk(t, c, arm, (begin, float(rng.uniform(-90, -40))), -13.0, 26.0 / mps, mps)
    edge = begin + 5.5 / mps
    out.actors.append(who)
    k = round((edge + 1) / STEP_S)
    out.notes.append(Note("PEDESTRIAN", (float(who.x[k]), float(who.y[k])), edge, edge + 15 / mps, 1.0, (who,)))
    return begin + 26 / mps


def _wrong(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Drive on the left side, through the whole crossing."""
    arm, v = int(rng.integers(4)), float(rng.uniform(9, 11))
    lane = float(rng.integers(1, 3))
    route = Route(-LANE_M * (lane - 0.5), 1.0, 0.0, v)
    who = _drive(t, c, arm, route, (begin, 0.0), v)
    out.actors.append(who)
    place = arm_xy(c, arm, -ARM_M + 10, LANE_M * (lane - 0.5))
    out.notes.append(Note("WRONG_WAY", place, begin + 8 / v, begin + _THROUGH_M / v, 1.0, (who,), int(lane)))
    return begin + _THROUGH_M / v


def _fast(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Drive far too fast through a green light."""
    arm, v = int(rng.integers(4)), float(rng.uniform(21.5, 24))
    when = green_from(arm, begin + 6) + 3.0
    who = _drive(t, c, arm, _straight(1), (when, _LINE_M), v)
    out.actors.append(who)
    start = when - _LINE_M / v
    assert v > 1.25 * STREET_MPS
    out.notes.append(Note("OVERSPEED", arm_xy(c, arm, -60, -LANE_M / 2), start, start + _THROUGH_M / v, 5.0, (who,), 1))
    return when + 8


def _stands(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Stop behind the crossing, where nothing makes one stop."""
    arm, v, wait = int(rng.integers(4)), 11.0, float(rng.uniform(8, 11))
    when = green_from(arm, begin + 9) + 3.0  # passes the line
    stop = _THROUGH_M - float(rng.uniform(30, 45))
    at = (when + (stop - v * v / 4 - _LINE_M) / v, stop - v * v / 4)
    who = _drive(t, c, arm, _straight(2), at, v, (v / 2, -2.0), (wait, 0.0), (6.0, 1.6))
    out.actors.append(who)
    start, end = at[0] + (v - 2.778) / 2, at[0] + v / 2 + wait + 2.778 / 1.6
    place = arm_xy(c, arm, stop - ARM_M, -LANE_M * 1.5)
    out.notes.append(Note("STOPPED_VEHICLE", place, start, end, 5.0, (who,), 2))
    return end + 8


def _thing(rng: np.random.Generator, c: int, begin: float, kind: str, stay: float, out: Street) -> float:
    arm = int(rng.integers(4))
    place: XY = arm_xy(c, arm, float(rng.uniform(-80, -30)), -LANE_M * float(rng.uniform(0.3, 1.7)))
    lat, lon = (float(v) for v in FRAME.to_geo(*place))
    obs_type = 3 if kind == "ANIMAL" else int(rng.choice([1, 2, 5]))
    out.things.append(Thing(obs_type, begin, begin + stay, lat, lon))
    out.notes.append(Note(kind, place, begin, begin + stay, 0.5 if kind == "ANIMAL" else 1.0, details={"rsi": False}))
    return begin + stay


def _debris(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:  # noqa: ARG001
    """Lose goods."""
    return _thing(rng, c, begin, "DEBRIS", float(rng.uniform(8, 14)), out)


def _animal(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:  # noqa: ARG001
    """Sit in the road."""
    return _thing(rng, c, begin, "ANIMAL", float(rng.uniform(5, 9)), out)


def _crosses(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Cross on a crosswalk: nothing."""
    out.actors.append(_walk(t, c, int(rng.integers(4)), (begin, -11.0), -13.0, 20.0, 1.3))
    return begin + 20


def _kerb(rng: np.random.Generator, t: F64, c: int, begin: float, out: Street) -> float:
    """Stand at the kerb, ready to cross, and not do it: nothing."""
    arm, x = int(rng.integers(4)), float(rng.uniform(-80, -40))
    out.actors.append(_walk(t, c, arm, (begin, x), -8.0, 15.0, 0.0))
    return begin + 15
