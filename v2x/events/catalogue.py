"""The table of event kinds: what each is called, when it begins and ends, and where the figures come from.

A rule is read by three parties: the kernel (thresholds, dwell), the book of open events (merge distance, cooldown,
update rate) and the documentation generator. Thresholds are named, in the unit given, with their source:

    field   the thresholds in common use by Chinese roadside event detectors (stopped 10 km/h, slow 40 km/h, overspeed
            120 km/h, 5 s each; density 18 veh/km)
    GB/T    GB/T 29100-2012 (codes), GB/T 33171-2016 (levels)
    OpenV2X its congestion levels by mean speed, with the gaps between the levels closed; its collision warning
    law     Road Traffic Safety Law regulation, art. 78 (lowest speed on a motorway 60 km/h), art. 81 (visibility)
    ours    chosen here; the text says why
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from v2x.errors import ConfigError
from v2x.events.rule import Limit, Rule
from v2x.events.rules_places import PLACE_RULES
from v2x.events.rules_tracks import TRACK_RULES

__all__ = ["KINDS", "RULES", "TRACK_LIMITS", "Limit", "Rule", "kind_of_code", "with_overrides"]

_TRACK: Final = {
    "age_ms": Limit(1000, "ms", "ours: a false track seldom lives a second"),
    "hits": Limit(4, "scans", "ours: several measurements, or one sensor's hiccup would count"),
    "fresh_ms": Limit(600, "ms", "ours: a coasting track proves nothing"),
}


RULES: Final = (*TRACK_RULES, *PLACE_RULES)

KINDS: Final = {rule.kind: rule for rule in RULES}
TRACK_LIMITS: Final[Mapping[str, Limit]] = _TRACK
_BY_CODE: Final = {rule.code: rule.kind for rule in RULES if rule.code}


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
