"""``v2x schedules``: ingest or fusion workers under random faults on a virtual clock, and what must hold in each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from v2x_loadtest.options import AsJson, parse_seeds
from v2x_loadtest.workers import spread

if TYPE_CHECKING:
    from v2x_loadtest.schedules.run import Outcome

_ENOUGH = 20  # findings after which a campaign ends
_CHUNK = 4


class Part(StrEnum):
    """What is put to the test."""

    INGEST = "ingest"
    FUSION = "fusion"


def schedules(
    of: Annotated[Part, typer.Option(help="Ingest, or fusion workers that share partitions.")] = Part.INGEST,
    seeds: Annotated[str, typer.Option(help="A-B, or numbers with commas.")] = "1-2000",
    jobs: Annotated[int, typer.Option(min=1, help="Processes; default: one a core.")] = os.cpu_count() or 1,
    trace: Annotated[bool, typer.Option(help="Print plan and every event of the schedules (take few seeds).")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a real service on simulated brokers under random faults; exit 1 if a promise is broken, with its seed.

    Ingest: MQTT source, pipeline, ledger, Kafka sink and producer. Fusion: workers with their stages, snapshots, locks
    and takeovers. All on a virtual clock, so that a schedule of a minute takes some 50 to 100 ms. A seed always gives
    the same schedule: `v2x schedules --seeds SEED --trace` replays one.
    """
    wanted = parse_seeds(seeds)
    total = Totals()
    bad: list[Outcome] = []
    columns = (TextColumn("schedules"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        spread(_runner(of), wanted, jobs, chunk=_CHUNK) as found,
    ):
        task = progress.add_task("", total=len(wanted))
        for outcome in found:
            progress.advance(task)
            total.add(outcome)
            if trace:
                _show(of, outcome)
            if outcome.wrongs:
                bad.append(outcome)
                if len(bad) >= _ENOUGH:
                    break
    if as_json:
        out = {**asdict(total), "wrong": [{"seed": o.seed, "promises": list(o.wrongs)} for o in bad]}
        typer.echo(json.dumps(out, ensure_ascii=False))
    else:
        typer.echo(str(total))
        for outcome in bad:
            for what in outcome.wrongs[:5]:
                typer.secho(f"seed {outcome.seed}: {what}", fg=typer.colors.RED, err=True)
    if bad:
        raise typer.Exit(1)


@dataclass
class Totals:
    """Sums over schedules."""

    schedules: int = 0
    published: int = 0
    repeated: int = 0
    kills: int = 0
    reconnects: int = 0
    renewals: int = 0
    virtual_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self.schedules += 1
        self.published += outcome.published
        self.repeated += outcome.repeated
        self.kills += outcome.kills
        self.reconnects += outcome.reconnects
        self.renewals += outcome.renewals
        self.virtual_s += outcome.seconds

    def __str__(self) -> str:
        return (
            f"{self.schedules:,} schedules, {self.virtual_s / 3600:,.1f} hours of virtual time: "
            f"{self.published:,} messages, {self.repeated:,} copies beyond the first, {self.kills:,} kills, stops "
            f"and freezes, {self.reconnects:,} MQTT reconnects, {self.renewals:,} new producer ids"
        )


def _runner(of: Part) -> Callable[[int], Outcome]:
    from v2x_loadtest.schedules.fusion_run import run_fusion_schedule  # noqa: PLC0415 - numba is slow to import
    from v2x_loadtest.schedules.run import run_schedule  # noqa: PLC0415

    return run_schedule if of is Part.INGEST else run_fusion_schedule


def _show(of: Part, outcome: Outcome) -> None:
    from v2x_loadtest.schedules.fusion_world import FusionPlan  # noqa: PLC0415
    from v2x_loadtest.schedules.plan import Plan  # noqa: PLC0415

    plan = (Plan if of is Part.INGEST else FusionPlan).of(outcome.seed)
    typer.echo(f"seed {plan.seed}: {plan}")
    for at, what in outcome.trace:
        typer.echo(f"{at:12.6f}  {what}")
