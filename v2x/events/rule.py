"""The shape of a rule: what the catalogue says of one kind of event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


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
    tests: str  # where its scenes are, in tests/unit
    limits: Mapping[str, Limit]

    def limit(self, name: str) -> float:
        """Return one threshold."""
        return self.limits[name].value
