"""`v2x chaos`: faults under load, one after the other, and an audit as the verdict of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from v2x_services.paper import paper


def chaos(
    rows: Annotated[list[str] | None, typer.Argument(help="Rows to run (default: all; see --list).")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the rows and what each expects; run nothing.")] = False,
    rate: Annotated[float, typer.Option(min=1, help="Messages a second, at least.")] = 2000.0,
    seconds: Annotated[float, typer.Option(min=2, help="Of load before the fault, and after recovery.")] = 8.0,
    seed: Annotated[int, typer.Option(help="Of the simulated devices.")] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Keep the result here; rows it has stay.")] = None,
    page: Annotated[Path | None, typer.Option("--markdown", help="Write the table of the result here.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep data, logs and ledgers below this folder.")] = None,
) -> None:
    """Start brokers, services and a simulated road for each row, do the fault, and count what became of every message.

    Exit code 0 only if every row that is possible here is as expected: nothing lost, nothing told twice, no end
    missing, what came out is what one quiet process makes of the same log, and publish to track is back to a p99 of
    100 ms in time. Everything binds to the loopback, on free ports, in temporary folders.
    """
    from v2x_loadtest.chaos import report  # noqa: PLC0415 - all of it loads only when asked for
    from v2x_loadtest.chaos.run import ChaosOptions, run_row  # noqa: PLC0415
    from v2x_loadtest.chaos.table import rows as chosen  # noqa: PLC0415
    from v2x_loadtest.demo.interrupt import interruptible  # noqa: PLC0415

    console = paper(highlight=False)
    picked = chosen(rows or [])
    if listed:
        for row in picked:
            why = row.why_not()
            console.print(
                f"[bold]{row.name:20}[/] {row.what}: {row.expect.text()}" + (f" [yellow]({why})[/]" if why else "")
            )
        return
    options = ChaosOptions(rate, seconds, seed, keep)
    outcomes = []
    with interruptible():
        for nth, row in enumerate(picked, 1):
            console.print(f"[bold cyan]{nth} of {len(picked)}: {row.what}[/]")
            outcome = run_row(
                row, options, lambda line: console.print(f"  {line}", style="dim", markup=False, soft_wrap=True)
            )
            outcomes.append(outcome)
            report.explain(outcome, console)
            console.print(f"  {row.name}: {outcome.verdict}", style="green" if outcome.verdict == "pass" else "red")
            if out is not None:
                found = report.merged(out, report.as_json(outcomes, options))
                report.write(out, json.dumps(found, indent=1) + "\n", "--json")
    report.show(outcomes, console)
    if page is not None:
        report.write(page, report.markdown(report.as_json(outcomes, options)), "--markdown")
    if any(outcome.wrong for outcome in outcomes):
        raise typer.Exit(1)
