"""Scenes that a seed makes: traffic with planted events of every kind, and with what only looks like one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Kinds that take hours of traffic to be told from a rush hour: not planted, but scored by a program of their own.
HOURS: Final[Mapping[str, str]] = {"INCIDENT_SUSPECTED": "python -m v2x_loadtest.score.sections"}
