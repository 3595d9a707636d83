"""`v2x demo`: the main job, seen working."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def demo(
    duration: Annotated[float, typer.Option(help="Seconds that the devices run.")] = 60.0,
    scene: Annotated[str, typer.Option(help="motorway, urban, or a path to a recorded scene.")] = "motorway",
    out: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill ingest and fusion and restart Kafka on the way.")
    ] = False,
    scale: Annotated[int, typer.Option(min=1, help="Copies of the scene side by side.")] = 1,
    seed: Annotated[int, typer.Option(help="Of sensors, clocks and links.")] = 1,
    offset: Annotated[float, typer.Option(help="Scene second to start at.")] = 0.0,
    keep: Annotated[Path | None, typer.Option(help="Keep data, logs and ledger in this (new) folder.")] = None,
) -> None:
    """Start Kafka, Mosquitto, the services and a simulated road; watch events; audit, latency and score at the end.

    Exit code 0 only if nothing was lost and no event was told twice.
    """
    from v2x_loadtest.demo.run import DemoOptions, run_demo  # noqa: PLC0415 - all of it loads only when asked for

    options = DemoOptions(scene, duration, offset, chaos, scale, seed, out, keep)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a log file has no right edge
    code = run_demo(options, console)
    if code:
        raise typer.Exit(code)
