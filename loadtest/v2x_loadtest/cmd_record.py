"""``v2x record``: make a scene again with SUMO."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from v2x.errors import ConfigError

from v2x_loadtest.scene import Scene, save_scene
from v2x_services.paper import paper

SCENES: Final = ("motorway", "urban")


def record(
    scene: Annotated[str, typer.Argument(help=f"Which: {' or '.join(SCENES)}.")] = "motorway",
    out: Annotated[Path | None, typer.Option(help="File to write; default: SCENE.npz here.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of demand and drivers; default: that of the shipped scene.")
    ] = None,
    zones: Annotated[Path | None, typer.Option(help="Also write the zone map (zones.json) here.")] = None,
) -> None:
    """Record a traffic scene with SUMO; the same seed gives the same file."""
    if scene not in SCENES:
        raise ConfigError(f"no scene {scene!r} to record; known are {' and '.join(SCENES)}")
    target = out if out is not None else Path(f"{scene}.npz")
    if not target.parent.is_dir():
        raise ConfigError(f"cannot write {target}: {target.parent} is no folder")
    console = Console(stderr=True)
    from v2x_loadtest.record.drive import need_sumo  # noqa: PLC0415 - SUMO is an extra

    need_sumo()
    maker = importlib.import_module(f"v2x_loadtest.record.{scene}_scene")
    with Progress(
        TextColumn("recording {task.description}"), BarColumn(), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(scene, total=1.0)
        made: Scene = maker.record(
            maker.DEFAULT_SEED if seed is None else seed, lambda part: bar.update(task, completed=part)
        )
    size = save_scene(made, target)
    if zones is not None:
        import json  # noqa: PLC0415 - only here

        zones.write_text(json.dumps(made.zones, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    console = paper()
    console.print(event_table(made))
    console.print(f"{target}: {size / 1e6:.2f} MB, {made.duration_s:.0f} s, {len(made.vehicles)} objects")
    optional = sum("optional" in e.details for e in made.events)
    console.print(f"{optional} more are optional: at a rule's limits, part of a queue, or said better by another event")
    missing = sorted(set(made.info["planted"]) - {e.kind for e in made.events if e.details.get("planted")})
    if missing:
        console.print(f"[yellow]with this seed nobody fitted for: {', '.join(missing)}; try another[/yellow]")


def event_table(scene: Scene) -> Table:
    """Return the events that a detector must find as a table."""
    table = Table(title=f"{scene.name}: what must be found", box=SIMPLE_HEAD, padding=0, title_justify="left")
    for name in ("id", "kind", "code", "from s", "to s", "dwell s", "link", "lane", "origin"):
        table.add_column(name, no_wrap=True)
    for e in scene.events:
        if "optional" not in e.details:
            origin = ("planted" if e.details["planted"] else "natural") + ("" if e.observable else ", unseen")
            end = "-" if e.end_s is None else f"{e.end_s:.1f}"
            cells = (
                e.id,
                e.kind,
                str(e.code),
                f"{e.start_s:.1f}",
                end,
                f"{e.dwell_s:.0f}",
                e.link,
                str(e.lane),
                origin,
            )
            table.add_row(*cells)
    return table
