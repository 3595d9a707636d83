"""The table of event kinds: what each is called, when it begins and ends, and where the figures come from.

A rule is read by three parties: the kernel (thresholds, dwell), the book of open events (merge distance, cooldown,
update rate) and the documentation generator. Thresholds are named, in the unit given, with their source:

    field   the thresholds in common use by Chinese roadside event detectors (stopped 10 km/h, slow 40 km/h, overspeed
            120 km/h, 5 s each; density 18 veh/km)
    GB/T    GB/T 29100-2012 (codes), GB/T 33171-2016 (levels)
    OpenV2X its congestion levels by mean speed, with the gaps between the levels closed
    law     Road Traffic Safety Law regulation, art. 78: lowest speed on a motorway 60 km/h
    ours    chosen here; the text says why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from v2x.errors import ConfigError
from v2x.events.rule import Limit, Rule

__all__ = ["KINDS", "REPORT_EXPIRY_MS", "RULES", "TRACK_LIMITS", "Limit", "Rule", "kind_of_code", "with_overrides"]

_TRACK: Final = {
    "age_ms": Limit(1000, "ms", "ours: a false track seldom lives a second"),
    "hits": Limit(4, "scans", "ours: several measurements, or one sensor's hiccup would count"),
    "fresh_ms": Limit(600, "ms", "ours: a coasting track proves nothing"),
}


def _reported(kind: str, code: int, merge_m: float, *, level: int = 1, confidence: int = 120) -> Rule:
    """Return a kind that we do not detect: others report it."""
    return Rule(
        kind=kind,
        code=code,
        group=kind.lower().replace("_", " "),
        rank=1,
        dwell_ms=0,
        end_ms=0,
        cooldown_ms=0,
        lost_ms=0,
        confidence=confidence,
        level=level,
        level_rule=str(level),
        moving=False,
        merge_m=merge_m,
        update_ms=10_000,
        move_m=max(20.0, merge_m / 5),
        what="Reported by others only (RSI, poles)",
        limits={},
    )


RULES: Final[tuple[Rule, ...]] = (
    Rule(
        kind="STOPPED_VEHICLE",
        code=903,
        group="standing",
        rank=1,
        dwell_ms=5000,
        end_ms=2000,
        cooldown_ms=5000,
        lost_ms=8000,
        confidence=170,
        level=2,
        level_rule="1 on the shoulder, 2 on a running lane, 3 on a motorway's running lane",
        moving=False,
        merge_m=40.0,
        update_ms=1000,
        move_m=10.0,
        what="A vehicle stands; not in a queue, not at a red light or at a junction's stop line",
        limits={
            "enter_mps": Limit(2.778, "m/s", "field: 10 km/h"),
            "exit_mps": Limit(4, "m/s", "ours: above the enter threshold by 4 sigma of a filtered speed"),
            "queue_gap_m": Limit(60, "m", "ours: with a slow leader within this, it stands in a queue"),
            "queue_mps": Limit(5, "m/s", "ours: a leader slower than 18 km/h is a queue's end"),
            "jam_m": Limit(100, "m", "ours: who stops this near to a jam stands in it"),
            "stop_line_m": Limit(30, "m", "ours: the first of a red light's queue stands within four car lengths"),
            "green_ms": Limit(15000, "ms", "ours: a queue's head that stands this long on green is no longer waiting"),
            "give_way_ms": Limit(60000, "ms", "ours: longest wait at a stop line without a signal"),
            "unseen_ms": Limit(5000, "ms", "ours: added dwell for what was never seen moving (clutter stands still)"),
            "seen_mps": Limit(4, "m/s", "ours: faster than this is moving"),
        },
    ),
    Rule(
        kind="BREAKDOWN",
        code=101,
        group="standing",
        rank=2,
        dwell_ms=30000,
        end_ms=2000,
        cooldown_ms=5000,
        lost_ms=8000,
        confidence=170,
        level=2,
        level_rule="as STOPPED_VEHICLE",
        moving=False,
        merge_m=40.0,
        update_ms=1000,
        move_m=10.0,
        what="A vehicle stands for 30 s, or 5 s with hazard lights or the disabled flag in its BSM",
        limits={
            "flag_dwell_ms": Limit(5000, "ms", "field: as for stopped; the flag says why it stands"),
            "flag_hold_ms": Limit(3000, "ms", "ours: a flag holds over lost BSMs (10 Hz)"),
            "flag_m": Limit(6, "m", "ours: a BSM's position and its track"),
        },
    ),
    Rule(
        kind="ACCIDENT",
        code=100,
        group="standing",
        rank=3,
        dwell_ms=0,
        end_ms=2000,
        cooldown_ms=5000,
        lost_ms=8000,
        confidence=120,
        level=3,
        level_rule="3",
        moving=False,
        merge_m=40.0,
        update_ms=1000,
        move_m=10.0,
        what="Reported by others only (RSI)",
        limits={},
    ),
    Rule(
        kind="WRONG_WAY",
        code=904,
        group="wrong way",
        rank=1,
        dwell_ms=1000,
        end_ms=2000,
        cooldown_ms=10000,
        lost_ms=4000,
        confidence=180,
        level=3,
        level_rule="3",
        moving=True,
        merge_m=60.0,
        update_ms=1000,
        move_m=30.0,
        what="A vehicle drives against its lane's direction",
        limits={
            "angle_deg": Limit(30, "deg", "field: within 30 deg of the opposite direction"),
            "enter_mps": Limit(2.8, "m/s", "field"),
            "exit_mps": Limit(1.5, "m/s", "ours: slower, it has stopped, which another rule sees"),
            "end_m": Limit(8, "m", "ours: near a junction's lane ends a turning vehicle crosses the lane"),
            "inside_m": Limit(0.3, "m", "ours: the centre is this far inside the lane, not on its line"),
        },
    ),
    Rule(
        kind="OVERSPEED",
        code=901,
        group="overspeed",
        rank=1,
        dwell_ms=5000,
        end_ms=2000,
        cooldown_ms=10000,
        lost_ms=3000,
        confidence=180,
        level=1,
        level_rule="1, from 1.5 times the limit 2",
        moving=True,
        merge_m=60.0,
        update_ms=5000,
        move_m=100.0,
        what="A vehicle is faster than 1.2 times its lane's limit",
        limits={
            "factor": Limit(1.2, "", "law: the first penalty bracket ends at 20 % above the limit"),
            "exit_factor": Limit(1.15, "", "ours: hysteresis of 5 %"),
            "no_limit_mps": Limit(33.33, "m/s", "field: 120 km/h where the map has no limit"),
            "grave_factor": Limit(1.5, "", "law: the bracket of 50 % above"),
        },
    ),
    Rule(
        kind="SLOW_VEHICLE",
        code=902,
        group="slow",
        rank=1,
        dwell_ms=5000,
        end_ms=2000,
        cooldown_ms=10000,
        lost_ms=3000,
        confidence=150,
        level=1,
        level_rule="1",
        moving=True,
        merge_m=60.0,
        update_ms=5000,
        move_m=100.0,
        what="A vehicle is slower than the road allows, and nothing slow is ahead of it",
        limits={
            "factor": Limit(0.9, "", "law: below the lane's lowest speed by 10 %"),
            "exit_factor": Limit(1, "", "ours: hysteresis up to the lowest speed itself"),
            "no_limit_mps": Limit(11.11, "m/s", "field: 40 km/h on a motorway whose map has no lowest speed"),
            "stop_mps": Limit(2.778, "m/s", "field: slower is stopped, another kind"),
            "accel_mps2": Limit(1.0, "m/s2", "ours: who speeds up this fast leaves a queue or the shoulder"),
            "gain_mps": Limit(2.0, "m/s", "ours: ... and so does who gains this within the dwell, 0.4 m/s2"),
            "queue_gap_m": Limit(100, "m", "ours: with a slow leader within 4 s at 25 m/s, it follows"),
            "jam_behind_m": Limit(250, "m", "ours: a jam makes slow from here on, by 2 m/s2 from 120 km/h"),
            "jam_ahead_m": Limit(200, "m", "ours: ... and up to here, by 1 m/s2 to 60 km/h"),
        },
    ),
    Rule(
        kind="HARD_BRAKING",
        code=0,
        group="hard braking",
        rank=1,
        dwell_ms=1000,
        end_ms=1000,
        cooldown_ms=5000,
        lost_ms=1500,
        confidence=160,
        level=1,
        level_rule="1, from 6 m/s2 2",
        moving=True,
        merge_m=50.0,
        update_ms=1000,
        move_m=50.0,
        what="A vehicle slows by 4 m/s2 for a second, by its filtered speed",
        limits={
            "enter_mps2": Limit(4, "m/s2", "field: 3 is common and too near daily driving; 4 is hard"),
            "exit_mps2": Limit(2.5, "m/s2", "ours: hysteresis"),
            "max_mps2": Limit(13, "m/s2", "ours: no tyre brakes harder; a swapped track does"),
            "grave_mps2": Limit(6, "m/s2", "ours: emergency braking"),
            "age_ms": Limit(2000, "ms", "ours: a young track's speed still settles"),
        },
    ),
    Rule(
        kind="PEDESTRIAN",
        code=405,
        group="pedestrian",
        rank=1,
        dwell_ms=1000,
        end_ms=2000,
        cooldown_ms=5000,
        lost_ms=3000,
        confidence=160,
        level=2,
        level_rule="2, on a motorway 3",
        moving=True,
        merge_m=30.0,
        update_ms=1000,
        move_m=15.0,
        what="A pedestrian on a lane for motor vehicles (motorway: also the shoulder), not on a crosswalk",
        limits={
            "inside_m": Limit(0.6, "m", "ours: with half a metre of error, who walks beside the road is not on it"),
            "crosswalk_m": Limit(1.5, "m", "ours: beside the stripes is still crossing there"),
            "age_ms": Limit(600, "ms", "ours: the danger is great and pedestrians are slow: shorter than for vehicles"),
        },
    ),
    Rule(
        kind="EMERGENCY_LANE",
        code=0,
        group="emergency lane",
        rank=1,
        dwell_ms=5000,
        end_ms=2000,
        cooldown_ms=10000,
        lost_ms=3000,
        confidence=150,
        level=1,
        level_rule="1",
        moving=True,
        merge_m=60.0,
        update_ms=5000,
        move_m=100.0,
        what="A vehicle drives on the hard shoulder",
        limits={
            "enter_mps": Limit(8.33, "m/s", "ours: 30 km/h; slower, it comes to a stop or leaves one"),
            "exit_mps": Limit(6, "m/s", "ours: hysteresis"),
            "inside_m": Limit(0.4, "m", "ours: the centre is this far inside the shoulder"),
            "brake_mps2": Limit(0.7, "m/s2", "ours: who slows or speeds up this fast is about to stop, or has stood"),
        },
    ),
    Rule(
        kind="CONGESTION",
        code=707,
        group="congestion",
        rank=1,
        dwell_ms=5000,
        end_ms=5000,
        cooldown_ms=0,
        lost_ms=0,
        confidence=170,
        level=1,
        level_rule="by mean speed: 25 to 30 km/h 1, 15 to 25 km/h 2, below 3",
        moving=False,
        merge_m=300.0,
        update_ms=1000,
        move_m=20.0,
        what="A queue: vehicles in one lane, slow and dense",
        limits={
            "vehicles": Limit(5, "vehicles", "ours: fewer in one lane have no density; OpenV2X waits for 10"),
            "enter_mps": Limit(8.333, "m/s", "OpenV2X: mean 30 km/h"),
            "exit_mps": Limit(9.722, "m/s", "ours: 35 km/h, hysteresis"),
            "level2_mps": Limit(6.944, "m/s", "OpenV2X: 25 km/h"),
            "level3_mps": Limit(4.167, "m/s", "OpenV2X: 15 km/h"),
            "level_band_mps": Limit(0.3, "m/s", "ours: a level changes only this far beyond its bound"),
            "gap_m": Limit(50, "m", "field: 18 veh/km is a vehicle each 55 m, its length included"),
            "signal_dwell_ms": Limit(180000, "ms", "ours: before a signal only what outlasts the longest usual cycle"),
        },
    ),
    Rule(
        kind="DEBRIS",
        code=401,
        group="thing",
        rank=1,
        dwell_ms=1000,
        end_ms=5000,
        cooldown_ms=5000,
        lost_ms=0,
        confidence=120,
        level=2,
        level_rule="2",
        moving=False,
        merge_m=15.0,
        update_ms=1000,
        move_m=5.0,
        what="A thing on the road, from RSM obstacles",
        limits={
            "reports": Limit(3, "reports", "ours: one detection may be a shadow"),
            "same_m": Limit(5, "m", "ours: two reports nearer than this are of one thing"),
            "gone_ms": Limit(5000, "ms", "ours: unseen for this long, it is gone"),
        },
    ),
    Rule(
        kind="ANIMAL",
        code=406,
        group="animal",
        rank=1,
        dwell_ms=500,
        end_ms=3000,
        cooldown_ms=5000,
        lost_ms=0,
        confidence=120,
        level=2,
        level_rule="2",
        moving=True,
        merge_m=30.0,
        update_ms=1000,
        move_m=15.0,
        what="An animal on the road, from RSM obstacles",
        limits={
            "reports": Limit(3, "reports", "ours: one detection may be a shadow"),
            "same_m": Limit(10.0, "m", "ours: as for debris, and it moves"),
            "gone_ms": Limit(5000, "ms", "ours: unseen for this long, it is gone"),
        },
    ),
    _reported("FOG", 305, 2000.0),
    _reported("RAIN", 301, 2000.0),
    _reported("STANDING_WATER", 407, 100.0, level=2),
    _reported("SLIPPERY", 408, 300.0, level=2),
    _reported("ICE", 409, 300.0, level=2),
    _reported("ROAD_WORKS", 501, 200.0, level=2),
    _reported("OTHER", 0, 50.0, confidence=100),
)

KINDS: Final = {rule.kind: rule for rule in RULES}
TRACK_LIMITS: Final[Mapping[str, Limit]] = _TRACK
_BY_CODE: Final = {rule.code: rule.kind for rule in RULES if rule.code}
REPORT_EXPIRY_MS: Final = 10_000  # an RSI not repeated for this long is over (sent each second or more often)


def kind_of_code(code: int) -> str:
    """Return our kind of a GB/T 29100 code; OTHER where we have none."""
    return _BY_CODE.get(code, "OTHER")


def with_overrides(config: Mapping[str, Mapping[str, float]] | None) -> dict[str, Rule]:
    """Return the table with a deployment's own figures: ``{"OVERSPEED": {"dwell_ms": 3000, "factor": 1.1}}``."""
    rules = dict(KINDS)
    for kind, values in (config or {}).items():
        if kind not in rules:
            raise ConfigError(f"events: no kind {kind!r}; known are {', '.join(sorted(rules))}")
        rule = rules[kind]
        limits = dict(rule.limits)
        fields: dict[str, int] = {}
        for name, value in values.items():
            if name in limits:
                limits[name] = Limit(float(value), limits[name].unit, "configured")
            elif name in {"dwell_ms", "end_ms", "cooldown_ms", "lost_ms", "confidence", "update_ms"}:
                fields[name] = int(value)
            else:
                raise ConfigError(f"events: {kind} has no threshold {name!r}; it has {', '.join(sorted(limits))}")
        rules[kind] = replace(rule, limits=limits, **fields)  # type: ignore[arg-type]
    return rules
