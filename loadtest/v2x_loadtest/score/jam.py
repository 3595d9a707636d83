"""Congestion as it goes on: second by second, was the tail told where it is, and the level as it is.

A second counts once the congestion has been told; what is told then is the newest revision that readers had by then.
Where the true mean speed is within ``BAND_MPS`` of a bound between two levels, either is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Stamped
from v2x_loadtest.record.queues import level
from v2x_loadtest.score.events import Match
from v2x_loadtest.score.truth import Truth

TAIL_M: Final = 30.0
BAND_MPS: Final = 0.3  # 1 km/h: a rule that did not wait for as much would flap


@dataclass(slots=True)
class JamScore:
    """Seconds of all congestions that were found; shares are None without one."""

    seconds: int = 0
    tail_right: float | None = None  # share of the seconds whose tail is told within TAIL_M
    tail_p50_m: float | None = None
    tail_p90_m: float | None = None
    level_right: float | None = None


def score_jams(matches: Sequence[Match], records: Sequence[Stamped], truth: Truth, ledger: Ledger) -> JamScore:
    """Compare the congestions that were found with the scene's account of every second of them."""
    away: list[float] = []
    right: list[bool] = []
    for match in matches:
        rows: list[dict[str, Any]] = match.truth.details.get("seconds") or []
        if match.truth.kind != "CONGESTION" or not rows:
            continue
        told = sorted((r for r in records if r.value["event_id"] == match.told.id), key=lambda r: r.stamp_ms)
        stamps = np.array([r.stamp_ms for r in told])
        for row in rows:
            n = int(np.searchsorted(stamps, ledger.wall_ms(row["t"]), "right")) - 1
            if n < 0 or told[n].value["status"] == "ENDED":
                continue
            value = told[n].value
            here = truth.frame.to_local([value["tail_lat"] * 1e-7], [value["tail_lon"] * 1e-7])
            there = truth.frame.to_local([row["tail_lat"]], [row["tail_lon"]])
            away.append(float(np.hypot(here[0] - there[0], here[1] - there[1])[0]))
            right.append(value["level"] in {level(row["speed"] + by) for by in (-BAND_MPS, 0.0, BAND_MPS)})
    if not away:
        return JamScore()
    return JamScore(
        len(away),
        float(np.mean(np.array(away) <= TAIL_M)),
        float(np.median(away)),
        float(np.percentile(away, 90)),
        float(np.mean(right)),
    )
