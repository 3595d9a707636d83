"""`v2x score`: cases over scenes, variants and seeds, their figures with intervals, and the bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from v2x_loadtest.score import kinds
from v2x_loadtest.score.bars import FIGURES, Verdict, judge, mean_of
from v2x_loadtest.score.case_run import CaseScore, Say, run_case
from v2x_loadtest.score.cases import Case, make_case, scene_row, variant_row

Rows = dict[str, dict[int, dict[str, float | None]]]  # tracker -> seed -> figure -> value


@dataclass(slots=True)
class Part:
    """One scene in one variant."""

    scene: str
    variant: str
    seeds: list[int] = field(default_factory=list)
    trackers: Rows = field(default_factory=dict)
    first: CaseScore | None = None  # of the first seed, for the report
    told: list[dict[str, Any]] = field(default_factory=list)  # events missed, invented and told twice, by seed
    kinds: dict[str, kinds.Tally] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return what it is."""
        return f"{self.scene}, {self.variant}"

    def verdicts(self) -> list[Verdict]:
        """Return the verdicts on ours."""
        return judge(self.scene, self.variant, self.trackers)

    def take(self, score: CaseScore) -> None:
        """Add a seed."""
        seed = score.case.seed
        self.seeds.append(seed)
        for name, values in score.values.items():
            self.trackers.setdefault(name, {})[seed] = values
        if self.first is None:
            self.first = score
        score.case.messages.clear()
        if score.events is not None:
            self.told += _told(score, seed)
            kinds.add(self.kinds, score.events)


def run_part(
    scene: str,
    variant: str,
    seeds: Sequence[int],
    baselines: Sequence[str],
    say: Say,
    *,
    seconds: float | None = None,
    draw: bool = False,
) -> Part:
    """Score a scene in a variant over the seeds."""
    part = Part(scene, variant)
    for seed in seeds:
        where = f"{scene} {variant} seed {seed}"

        def here(what: str, done: float, where: str = where) -> None:
            say(f"{where}: {what}", done)

        here("making the log", 0.0)
        case = make_case(scene, variant, seed, seconds)
        part.take(run_case(case, baselines, here, draw=draw and part.first is None))
    return part


def run_log(case: Case, baselines: Sequence[str], say: Say, *, draw: bool = False) -> Part:
    """Score one case that is made already."""
    part = Part(case.scene, case.variant)
    part.take(run_case(case, baselines, say, draw=draw))
    return part


def to_dict(parts: Sequence[Part]) -> dict[str, Any]:
    """Return everything as JSON has it."""
    return {"parts": [_part(part) for part in parts]}


def _part(part: Part) -> dict[str, Any]:
    trackers: dict[str, Any] = {}
    for tracker, rows in part.trackers.items():
        figures = {}
        for name in FIGURES:
            mean = mean_of(rows, name)
            if mean is not None:
                values = {str(seed): row.get(name) for seed, row in rows.items()}
                figures[name] = {"mean": mean.mean, "low": mean.low, "high": mean.high, "seeds": values}
        trackers[tracker] = figures
    return {
        "scene": part.scene,
        "variant": part.variant,
        "seeds": part.seeds,
        "trackers": trackers,
        "bars": [
            {"figure": v.bar.figure, "bar": v.bar.text, "value": v.value, "reached": v.reached, "note": v.why}
            for v in part.verdicts()
        ],
        "events": part.told,
        "kinds": kinds.to_dict(part.kinds) if part.kinds else {},
    }


def _told(score: CaseScore, seed: int) -> list[dict[str, Any]]:
    assert score.events is not None
    events, ledger = score.events, score.case.ledger
    rows = [
        {"seed": seed, "verdict": "missed", "id": e.id, "kind": e.kind, "start_s": e.start_s, "link": e.link,
         "lane": e.lane}
        for e in events.missed
    ]  # fmt: skip
    for verdict, told in (
        *(("invented", t) for t in events.invented),
        *(("told twice", t) for t, _ in events.repeated),
    ):
        brief = told.brief(ledger)
        kept = {k: brief[k] for k in ("id", "start_s", "link", "lane")}
        rows.append({"seed": seed, "verdict": verdict, "kind": "/".join(told.kinds), **kept})
    return rows


def check(scenes: Sequence[str], variants: Sequence[str]) -> None:
    """Raise ConfigError for what does not exist, before anything is computed."""
    for scene in scenes:
        scene_row(scene)
    for variant in variants:
        variant_row(variant)
