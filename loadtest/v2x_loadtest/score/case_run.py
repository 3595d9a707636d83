"""One case: played, and everything about it scored; baselines on the same scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from v2x_loadtest.score.baselines import BASELINES
from v2x_loadtest.score.cases import Case
from v2x_loadtest.score.events import EventScore, score_events
from v2x_loadtest.score.figures import Trace, track_figures
from v2x_loadtest.score.jam import score_jams
from v2x_loadtest.score.play import Played, Player
from v2x_loadtest.score.scans import scans
from v2x_loadtest.score.travel import score_travel

Say = Callable[[str, float], None]  # what is going on, and how far it is (0 to 1)


@dataclass(slots=True)
class CaseScore:
    """Figures by tracker ("ours" and the baselines), and what the report of a case draws."""

    case: Case
    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    events: EventScore | None = None
    counters: Mapping[str, int] = field(default_factory=dict)


def run_case(
    case: Case, baselines: Sequence[str], say: Say, *, draw: bool = False, config: Mapping[str, Any] | None = None
) -> CaseScore:
    """Play and score a case; ``config``: overrides of kernel parameters and event rules by name."""
    out = CaseScore(case)

    def told(what: str) -> Callable[[float], None]:
        return lambda at_ms: say(what, (at_ms - case.begin_ms) / (case.end_ms - case.begin_ms))

    if case.logs is not None:
        played = Player(case.zones, case.frame, config, len(case.logs)).replay(case.logs)
    else:
        player = Player(case.zones, case.frame, config)
        played = player.run(case.messages, case.begin_ms, case.end_ms, told("fusing"))
    out.counters = played.counters
    say("scoring", 1.0)
    ours = track_figures(case, played.frames, draw=draw)
    out.values["ours"], out.traces["ours"] = ours.values, ours.trace
    if case.truth is not None:
        out.values["ours"] |= _events(case, played, out)
    if baselines:
        inputs = scans(case.messages, case.frame)
        instants = sorted((t, at) for t, at in played.told_at.items() if t in played.frames)
        for name in baselines:
            say(name, 0.0)
            frames = BASELINES[name][1](inputs, instants, told(name))
            made = track_figures(case, frames)
            out.values[name], out.traces[name] = made.values, made.trace
    return out


def _events(case: Case, played: Played, out: CaseScore) -> dict[str, float | None]:
    """Return the figures of events, congestions and travel times."""
    assert case.truth is not None
    found = score_events(played.events, case.truth, case.ledger, case.window_s)
    jams = score_jams(found.matches, played.events, case.truth, case.ledger)
    travel = score_travel(played.links, case.truth.scene, case.ledger)
    values: dict[str, float | None] = {
        "tail_right": jams.tail_right,
        "level_right": jams.level_right,
        "travel_mape": travel.mape,
        "gantry_speed_mape": travel.speeds.get("speed"),
        "rsu_speed_mape": travel.speeds.get("rsu_speed"),
        "fused_speed_mape": travel.speeds.get("fused_speed"),
        "fused_speed_nees": travel.speed_nees,
    }
    if case.judge_events:
        out.events = found
        delays = [match.delay_s for match in found.matches]
        values |= {
            "precision": found.precision,
            "recall": found.recall,
            "delay_p50_s": float(np.median(delays)) if delays else None,
            "delay_p90_s": float(np.percentile(delays, 90)) if delays else None,
            "duplicates": float(len(found.repeated)),
            "false_zone_hour": len(found.invented) / case.zone_hours,
        }
    return values
