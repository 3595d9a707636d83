"""The event rules, applied to true trajectories: what a faultless observer would have to report.

Each rule is tried at three strengths. What holds at the *clear* one is required of a detector; what holds only at the
rule's own figures (or just misses them) is listed with ``details["optional"]`` and the reason: sensors cannot decide
it, so neither finding nor missing it is a mistake. Thresholds are the project's own contract, written here a second
time on purpose: truth must not import the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from v2x_loadtest.record.lanes import CROSSWALK, EMERGENCY, VEHICLE, LaneMap
from v2x_loadtest.record.tracks import Track
from v2x_loadtest.record.traffic import Traffic
from v2x_loadtest.scene.model import FLAG_DISABLED, FLAG_HAZARD, PEDESTRIAN, STEP_S, Bool

CLEAR, NOMINAL, LOOSE = 0, 1, 2
STOP, WALK_OFF = 2.778, 0.3
_MERGE_S: Final = 5.0


@dataclass(slots=True)
class Found:
    """A rule held for one track, rows ``a`` up to ``b``."""

    kind: str
    code: int
    dwell_s: float
    track: Track
    a: int
    b: int
    optional: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a single vehicle: condition by strength, and for how long it must hold by strength."""

    kind: str
    code: int
    dwell: tuple[float, float, float]
    holds: Callable[[World, Track, int], Bool]


class World:
    """Lanes and traffic, with per-track lane attributes."""

    def __init__(self, lanes: LaneMap, traffic: Traffic) -> None:
        self.lanes, self.traffic = lanes, traffic
        self._cache: dict[tuple[int, str], Any] = {}

    def column(self, track: Track, name: str) -> Any:
        """Return an attribute of the lane the track is on, by row; NaN off the road."""
        key = (track.number, name)
        if key not in self._cache:
            out = np.full(len(track.step), np.nan)
            for link, lane_id in {*zip(track.link.tolist(), track.lane.tolist(), strict=True)}:
                lane = self.lanes.lane(link, lane_id)
                if lane is None:
                    continue
                value = {
                    "type": lane.type,
                    "v_min": lane.v_min,
                    "v_max": lane.v_max,
                    "width": lane.width,
                    "length": lane.length,
                    "signal": any(c.phase for c in lane.connections),
                    "class": self.lanes.links[link].road_class,
                }[name]
                if value is not None:
                    out[(track.link == link) & (track.lane == lane_id)] = value
            self._cache[key] = out
        return self._cache[key]

    def alone(self, track: Track, rows: Bool, reach: float, slow: float) -> Bool:
        """Return where nobody slower than ``slow`` is within ``reach`` metres ahead; only ``rows`` are looked at."""
        out = np.zeros(len(rows), bool)
        for i in np.flatnonzero(rows):
            ahead = self.traffic.leader(
                int(track.step[i]), int(track.link[i]), int(track.lane[i]), float(track.along[i]), reach
            )
            out[i] = ahead is None or ahead[1] >= slow
        return out


def runs(mask: Bool, least: float) -> Iterator[tuple[int, int]]:
    """Yield [a, b) of the runs of True that last at least ``least`` seconds."""
    edge = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    for a, b in zip(np.flatnonzero(edge == 1).tolist(), np.flatnonzero(edge == -1).tolist(), strict=True):
        if (b - a) * STEP_S >= least - 1e-9:
            yield a, b


def _motor(world: World, t: Track) -> Bool:
    out: Bool = (t.link >= 0) & np.isin(world.column(t, "type"), (VEHICLE, EMERGENCY))
    return out & (t.shape.cls != PEDESTRIAN)


def _stopped(world: World, t: Track, strength: int) -> Bool:
    slow = _motor(world, t) & (t.speed <= (2.2, STOP, 3.2)[strength])
    if not slow.any():
        return slow
    to_end = world.column(t, "length") - t.along
    at_line = (world.column(t, "signal") > 0) & (to_end < (50.0, 30.0, 25.0)[strength])
    out: Bool = world.alone(t, slow & ~at_line, (80.0, 60.0, 50.0)[strength], 5.0)
    return out


def _flagged(world: World, t: Track, strength: int) -> Bool:
    del strength
    out: Bool = _motor(world, t) & (t.speed <= STOP) & ((t.flags & (FLAG_HAZARD | FLAG_DISABLED)) != 0)
    return out


def _wrong_way(world: World, t: Track, strength: int) -> Bool:
    off = np.abs((t.heading - t.lane_heading) % 360.0 - 180.0)
    inside = np.abs(t.lateral) < world.column(t, "width") / 2 - (0.5, 0.0, -0.3)[strength]
    out: Bool = (
        _motor(world, t) & inside & (off <= (22.0, 30.0, 35.0)[strength]) & (t.speed >= (3.5, 2.8, 2.4)[strength])
    )
    return out


def _overspeed(world: World, t: Track, strength: int) -> Bool:
    out: Bool = _motor(world, t) & (t.speed > (1.25, 1.2, 1.17)[strength] * world.column(t, "v_max"))
    return out


def _slow(world: World, t: Track, strength: int) -> Bool:
    floor = world.column(t, "v_min") * 0.9
    most = np.where(np.isnan(floor), np.where(world.column(t, "class") == 1, 11.11, -1.0), floor)
    running = _motor(world, t) & (world.column(t, "type") == VEHICLE)
    slow: Bool = running & (t.speed < most - (0.6, 0.0, -0.4)[strength]) & (t.speed > (3.1, STOP, 2.6)[strength])
    slow = slow & (t.accel < (0.3, 0.4, 0.6)[strength])
    if not slow.any():
        return slow
    return world.alone(t, slow, (130.0, 100.0, 80.0)[strength], float(np.nanmax(most)))


def _hard(world: World, t: Track, strength: int) -> Bool:
    del world
    out: Bool = (t.accel <= -(4.7, 4.0, 3.4)[strength]) & (t.shape.cls != PEDESTRIAN)
    return out


def _shoulder(world: World, t: Track, strength: int) -> Bool:
    on = _motor(world, t) & (world.column(t, "type") == EMERGENCY)
    out: Bool = on & (t.speed >= (9.0, 8.33, 7.8)[strength]) & (np.abs(t.accel) < (0.6, 0.7, 0.9)[strength])
    return out


def _on_foot(world: World, t: Track, strength: int) -> Bool:
    if t.shape.cls != PEDESTRIAN:
        return np.zeros(len(t.step), bool)
    inside = np.zeros(len(t.step), bool)
    crossing = np.zeros(len(t.step), bool)
    margin = (0.0, 0.0, 0.3)[strength]
    for lane in world.lanes.lanes():
        if lane.type not in {VEHICLE, EMERGENCY, CROSSWALK}:
            continue
        along, lateral, _ = lane.project(t.x, t.y)
        wide = 1.5 if lane.type == CROSSWALK else margin
        near = (np.abs(lateral) <= lane.width / 2 + wide) & (along > 0.0) & (along < lane.length)
        if lane.type == CROSSWALK:
            crossing |= near
        else:
            inside |= near
    out: Bool = inside & ~crossing
    if strength == CLEAR:  # sure is who has been inside for half a second, and stays for as long
        half = round(0.5 / STEP_S)
        out = np.convolve(~out, np.ones(2 * half + 1), mode="same") < 0.5
    return out


RULES: Final = (
    Rule("STOPPED_VEHICLE", 903, (7.0, 5.0, 4.5), _stopped),
    Rule("BREAKDOWN", 101, (7.0, 5.0, 4.5), _flagged),
    Rule("WRONG_WAY", 904, (2.0, 1.0, 0.7), _wrong_way),
    Rule("OVERSPEED", 901, (6.5, 5.0, 4.5), _overspeed),
    Rule("SLOW_VEHICLE", 902, (6.5, 5.0, 4.0), _slow),
    Rule("HARD_BRAKING", 0, (1.3, 1.0, 0.7), _hard),
    Rule("PEDESTRIAN", 405, (2.5, 1.0, 0.7), _on_foot),
    Rule("EMERGENCY_LANE", 0, (6.5, 5.0, 4.5), _shoulder),
)
LONG_STOP_S: Final = 30.0


def scan(world: World, tracks: list[Track]) -> list[Found]:
    """Return everything that satisfies a rule, or nearly does."""
    out: list[Found] = []
    for rule in RULES:
        for track in tracks:
            out += _scan(rule, world, track)
    for stop in [f for f in out if f.kind == "STOPPED_VEHICLE"]:
        if (stop.b - stop.a) * STEP_S >= LONG_STOP_S and not any(
            f.kind == "BREAKDOWN" and f.track is stop.track for f in out
        ):
            out.append(Found("BREAKDOWN", 101, LONG_STOP_S, stop.track, stop.a, stop.b, stop.optional))
    return out


def _scan(rule: Rule, world: World, track: Track) -> list[Found]:
    loose = list(runs(rule.holds(world, track, LOOSE), rule.dwell[LOOSE]))
    if not loose:
        return []
    nominal = list(runs(rule.holds(world, track, NOMINAL), rule.dwell[NOMINAL]))
    clear = list(runs(rule.holds(world, track, CLEAR), rule.dwell[CLEAR]))
    merged: list[tuple[int, int]] = []
    for a, b in loose:
        if merged and (a - merged[-1][1]) * STEP_S <= _MERGE_S:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    out = []
    for a, b in merged:
        own = [(p, q) for p, q in nominal if p >= a and q <= b] or [(a, b)]
        sure = any(p >= a and q <= b for p, q in clear)
        out.append(
            Found(
                rule.kind,
                rule.code,
                rule.dwell[NOMINAL],
                track,
                own[0][0],
                own[-1][1],
                "" if sure else "near the rule's limits: sensors cannot decide it",
            )
        )
    return out
