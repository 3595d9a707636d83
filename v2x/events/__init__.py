"""Traffic events: the catalogue of kinds, rules per track, congestion, merging with reports, and their life."""

from v2x.events.catalogue import KINDS, RULES, Rule
from v2x.events.detector import Detector
from v2x.events.model import EventChange

__all__ = ["KINDS", "RULES", "Detector", "EventChange", "Rule"]
