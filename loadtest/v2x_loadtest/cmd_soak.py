"""`v2x soak`: a long run with a random fault every minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long.")] = 10.0,
    rate: Annotated[float, typer.Option(min=1, help="Messages a second, at least.")] = 2000.0,
    every: Annotated[float, typer.Option(min=10, help="Seconds from fault to fault.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the faults' order and of the simulated devices.")] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a page with lag and memory over time (HTML with SVG).")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep data, logs and ledger below this folder.")] = None,
) -> None:
    """Run everything under load with a random fault every minute; sample memory and lag; audit at the end.

    Exit code 0 only if nothing was lost or told twice and no process has grown. Needs about 2.5 times the disk of what
    is published (1.4 MB/s at 2,000 messages a second).
    """
    from v2x_loadtest.bench.plot import write  # noqa: PLC0415 - all of it loads only when asked for
    from v2x_loadtest.chaos import report as tables  # noqa: PLC0415
    from v2x_loadtest.chaos import soak as long  # noqa: PLC0415
    from v2x_loadtest.demo.interrupt import interruptible  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    with interruptible():
        found = long.soak(
            long.SoakOptions(minutes, rate, seed, every, keep),
            lambda line: console.print(f"  {line}", style="dim", markup=False),
        )
    f = found.figures
    console.print(
        f"{f.sent:,} messages ({f.rate:,.0f}/s), acknowledged {f.acknowledged:,}; lost {f.lost:,}, raw copies "
        f"{f.repeated:,}, told twice {f.duplicates:,}; events {f.events:,} ({f.open:,} open); "
        f"{len(found.faults)} faults"
    )
    console.print("grown from the first third to the last, MB: " + str(found.grown_mb))
    for line in (*found.wrong, *f.faults):
        console.print(line, style="red")
    if out is not None:
        tables.write(out, json.dumps(found.as_dict(), indent=1) + "\n", "--json")
    if plot is not None:
        write(plot, long.plot(found))
    console.print("[bold red]FAIL[/]" if found.wrong else "[bold green]pass[/]")
    if found.wrong:
        raise typer.Exit(1)
