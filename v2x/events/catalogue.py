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
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from v2x.errors import ConfigError


class Limit(NamedTuple):
    """One figure of a rule."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of event."""

    kind: str  # symbol of traffic_event.kind: the identity
    code: int  # GB/T 29100; 0 where none exists
    group: str  # kinds of one group at one place are one incident
    rank: int  # within a group the highest names the incident
    dwell_ms: int  # the condition must hold this long
    end_ms: int  # ... and be gone this long
    cooldown_ms: int  # the same track raises no second one within this time of the end
    lost_ms: int  # the track may vanish this long (and be born again) before the event ends
    confidence: int  # 0.5 %, of our own detection
    level: int  # default; the detector raises it by the text in ``level_rule``
    level_rule: str
    moving: bool  # the place moves with the vehicle
    merge_m: float  # reports of others within this distance are the same incident
    update_ms: int  # no more MODIFIED than one in this time
    move_m: float  # a change of place below this is not material
    what: str
    limits: Mapping[str, Limit]

    def limit(self, name: str) -> float:
        """Return one threshold."""
        return self.limits[name].value


_TRACK: Final = {
    "age_ms": Limit(1000, "ms", "ours: a false track seldom lives a second"),
    "hits": Limit(4, "scans", "ours: several measurements, or one sensor's hiccup would count"),
    "fresh_ms": Limit(600, "ms", "ours: a coasting track proves nothing"),
}

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "STOPPED_VEHICLE", 903, "standing", 1, 5000, 2000, 5000, 4000, 170, 2,
        "1 on the shoulder, 2 on a running lane, 3 on a motorway's running lane",
        False, 40.0, 1000, 10.0,
        "A vehicle stands; not in a queue, not at a red light or at a junction's stop line",
        {
            "enter_mps": Limit(2.778, "m/s", "field: 10 km/h"),
            "exit_mps": Limit(4.0, "m/s", "ours: above the enter threshold by 4 sigma of a filtered speed"),
            "queue_gap_m": Limit(60.0, "m", "ours: with a slow leader within this, it stands in a queue"),
            "queue_mps": Limit(5.0, "m/s", "ours: a leader slower than 18 km/h is a queue's end"),
            "jam_m": Limit(100.0, "m", "ours: who stops this near to a jam stands in it"),
            "stop_line_m": Limit(30.0, "m", "ours: the first of a red light's queue stands within four car lengths"),
            "green_ms": Limit(15000, "ms", "ours: a queue's head that stands this long on green is no longer waiting"),
            "give_way_ms": Limit(60000, "ms", "ours: longest wait at a stop line without a signal"),
            "unseen_ms": Limit(5000, "ms", "ours: added dwell for what was never seen moving (clutter stands still)"),
            "seen_mps": Limit(4.0, "m/s", "ours: faster than this is moving"),
        },
    ),
    Rule(
        "BREAKDOWN", 101, "standing", 2, 30000, 2000, 5000, 4000, 170, 2,
        "as STOPPED_VEHICLE",
        False, 40.0, 1000, 10.0,
        "A vehicle stands for 30 s, or 5 s with hazard lights or the disabled flag in its BSM",
        {
            "flag_dwell_ms": Limit(5000, "ms", "field: as for stopped; the flag says why it stands"),
            "flag_hold_ms": Limit(3000, "ms", "ours: a flag holds over lost BSMs (10 Hz)"),
            "flag_m": Limit(6.0, "m", "ours: a BSM's position and its track"),
        },
    ),
    Rule(
        "ACCIDENT", 100, "standing", 3, 0, 2000, 5000, 4000, 120, 3, "3",
        False, 40.0, 1000, 10.0, "Reported by others only (RSI)", {},
    ),
    Rule(
        "WRONG_WAY", 904, "wrong way", 1, 1000, 2000, 10000, 4000, 180, 3, "3",
        True, 60.0, 1000, 30.0,
        "A vehicle drives against its lane's direction",
        {
            "angle_deg": Limit(30.0, "deg", "field: within 30 deg of the opposite direction"),
            "enter_mps": Limit(2.8, "m/s", "field"),
            "exit_mps": Limit(1.5, "m/s", "ours: slower, it has stopped, which another rule sees"),
            "end_m": Limit(8.0, "m", "ours: near a junction's lane ends a turning vehicle crosses the lane"),
            "inside_m": Limit(0.3, "m", "ours: the centre is this far inside the lane, not on its line"),
        },
    ),
    Rule(
        "OVERSPEED", 901, "overspeed", 1, 5000, 2000, 10000, 3000, 180, 1,
        "1, from 1.5 times the limit 2",
        True, 60.0, 5000, 100.0,
        "A vehicle is faster than 1.2 times its lane's limit",
        {
            "factor": Limit(1.2, "", "law: the first penalty bracket ends at 20 % above the limit"),
            "exit_factor": Limit(1.15, "", "ours: hysteresis of 5 %"),
            "no_limit_mps": Limit(33.33, "m/s", "field: 120 km/h where the map has no limit"),
            "grave_factor": Limit(1.5, "", "law: the bracket of 50 % above"),
        },
    ),
    Rule(
        "SLOW_VEHICLE", 902, "slow", 1, 5000, 2000, 10000, 3000, 150, 1, "1",
        True, 60.0, 5000, 100.0,
        "A vehicle is slower than the road allows, and nothing slow is ahead of it",
        {
            "factor": Limit(0.9, "", "law: below the lane's lowest speed by 10 %"),
            "exit_factor": Limit(1.0, "", "ours: hysteresis up to the lowest speed itself"),
            "no_limit_mps": Limit(11.11, "m/s", "field: 40 km/h on a motorway whose map has no lowest speed"),
            "stop_mps": Limit(2.778, "m/s", "field: slower is stopped, another kind"),
            "accel_mps2": Limit(0.4, "m/s2", "ours: who speeds up this fast leaves a queue or the shoulder"),
            "queue_gap_m": Limit(100.0, "m", "ours: with a slow leader within 4 s at 25 m/s, it follows"),
            "jam_behind_m": Limit(250.0, "m", "ours: a jam makes slow from here on, by 2 m/s2 from 120 km/h"),
            "jam_ahead_m": Limit(200.0, "m", "ours: ... and up to here, by 1 m/s2 to 60 km/h"),
        },
    ),
    Rule(
        "HARD_BRAKING", 0, "hard braking", 1, 1000, 1000, 5000, 1500, 160, 1,
        "1, from 6 m/s2 2",
        True, 50.0, 1000, 50.0,
        "A vehicle slows by 4 m/s2 for a second, by its filtered speed",
        {
            "enter_mps2": Limit(4.0, "m/s2", "field: 3 is common and too near daily driving; 4 is hard"),
            "exit_mps2": Limit(2.5, "m/s2", "ours: hysteresis"),
            "max_mps2": Limit(13.0, "m/s2", "ours: no tyre brakes harder; a swapped track does"),
            "grave_mps2": Limit(6.0, "m/s2", "ours: emergency braking"),
            "age_ms": Limit(2000, "ms", "ours: a young track's speed still settles"),
        },
    ),
    Rule(
        "PEDESTRIAN", 405, "pedestrian", 1, 1000, 2000, 5000, 3000, 160, 2,
        "2, on a motorway 3",
        True, 30.0, 1000, 15.0,
        "A pedestrian on a lane for motor vehicles (motorway: also the shoulder), not on a crosswalk",
        {
            "inside_m": Limit(0.3, "m", "ours: this far inside the lane, not on the kerb"),
            "crosswalk_m": Limit(1.5, "m", "ours: beside the stripes is still crossing there"),
            "age_ms": Limit(600, "ms", "ours: the danger is great and pedestrians are slow: shorter than for vehicles"),
        },
    ),
    Rule(
        "EMERGENCY_LANE", 0, "emergency lane", 1, 5000, 2000, 10000, 3000, 150, 1, "1",
        True, 60.0, 5000, 100.0,
        "A vehicle drives on the hard shoulder",
        {
            "enter_mps": Limit(8.33, "m/s", "ours: 30 km/h; slower, it comes to a stop or leaves one"),
            "exit_mps": Limit(6.0, "m/s", "ours: hysteresis"),
            "inside_m": Limit(0.4, "m", "ours: the centre is this far inside the shoulder"),
            "brake_mps2": Limit(0.7, "m/s2", "ours: who slows or speeds up this fast is about to stop, or has stood"),
        },
    ),
    Rule(
        "CONGESTION", 707, "congestion", 1, 5000, 5000, 0, 0, 170, 1,
        "by mean speed: 25 to 30 km/h 1, 15 to 25 km/h 2, below 3",
        False, 300.0, 1000, 20.0,
        "A queue: vehicles in one lane, slow and dense",
        {
            "vehicles": Limit(5, "vehicles", "ours: fewer in one lane have no density; OpenV2X waits for 10"),
            "enter_mps": Limit(8.333, "m/s", "OpenV2X: mean 30 km/h"),
            "exit_mps": Limit(9.722, "m/s", "ours: 35 km/h, hysteresis"),
            "level2_mps": Limit(6.944, "m/s", "OpenV2X: 25 km/h"),
            "level3_mps": Limit(4.167, "m/s", "OpenV2X: 15 km/h"),
            "level_band_mps": Limit(0.3, "m/s", "ours: a level changes only this far beyond its bound"),
            "gap_m": Limit(50.0, "m", "field: 18 veh/km is a vehicle each 55 m, its length included"),
            "signal_dwell_ms": Limit(120000, "ms", "ours: at a signal a queue is one only beyond a cycle"),
        },
    ),
    Rule(
        "DEBRIS", 401, "thing", 1, 1000, 5000, 5000, 0, 120, 2, "2",
        False, 15.0, 1000, 5.0, "A thing on the road, from RSM obstacles",
        {
            "reports": Limit(3, "reports", "ours: one detection may be a shadow"),
            "same_m": Limit(5.0, "m", "ours: two reports nearer than this are of one thing"),
            "gone_ms": Limit(5000, "ms", "ours: unseen for this long, it is gone"),
        },
    ),
    Rule("ANIMAL", 406, "animal", 1, 500, 3000, 5000, 0, 120, 2, "2", True, 30.0, 1000, 15.0,
         "An animal on the road, from RSM obstacles", {}),
    Rule("FOG", 305, "fog", 1, 0, 0, 0, 0, 120, 1, "1", False, 2000.0, 10000, 500.0, "Reported (RSI, pole)", {}),
    Rule("RAIN", 301, "rain", 1, 0, 0, 0, 0, 120, 1, "1", False, 2000.0, 10000, 500.0, "Reported", {}),
    Rule("STANDING_WATER", 407, "water", 1, 0, 0, 0, 0, 120, 2, "2", False, 100.0, 10000, 20.0, "Reported", {}),
    Rule("SLIPPERY", 408, "slippery", 1, 0, 0, 0, 0, 120, 2, "2", False, 300.0, 10000, 50.0, "Reported", {}),
    Rule("ICE", 409, "ice", 1, 0, 0, 0, 0, 120, 2, "2", False, 300.0, 10000, 50.0, "Reported", {}),
    Rule("ROAD_WORKS", 501, "works", 1, 0, 0, 0, 0, 120, 2, "2", False, 200.0, 10000, 20.0, "Reported", {}),
    Rule("OTHER", 0, "other", 1, 0, 0, 0, 0, 100, 1, "1", False, 50.0, 10000, 20.0, "Reported, of another code", {}),
)  # fmt: skip

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
