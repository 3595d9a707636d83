"""`v2x score`: how well fusion does, against truth and against other trackers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from v2x.errors import ConfigError

from v2x_loadtest.options import parse_seeds
from v2x_services.paper import paper

_DEFAULT_SEEDS = "1001-1003"
_MOST_SEEDS = 1000


def score(
    scene: Annotated[
        list[str] | None, typer.Option(help="Scene, or a file of `v2x record`; again for more; all. --list names them.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Variant of the sensors; again for more; all.")] = None,
    seeds: Annotated[str, typer.Option(help="A-B, or numbers with commas; tuning used 1-50.")] = _DEFAULT_SEEDS,
    seconds: Annotated[float | None, typer.Option(min=3, help="Only so much of each scene.")] = None,
    baselines: Annotated[
        str, typer.Option(help="none, all, or names with commas: single, hungarian, gnn (slow, needs Stone Soup).")
    ] = "single,hungarian",
    log: Annotated[
        str | None, typer.Option(help="Not a scene: a saved log (--save-log), or `kafka` for the topics as they are.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="With --log kafka: the folder that the simulator wrote.")] = None,
    kafka: Annotated[str | None, typer.Option(help="With --log kafka: bootstrap, host:port.")] = None,
    save_log: Annotated[Path | None, typer.Option(help="Keep the log of the first seed in this file.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write everything here; - is the output.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures and plots here.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit code 1 if a bar is missed.")] = False,
    show: Annotated[bool, typer.Option("--list", help="List scenes, variants and baselines.")] = False,
) -> None:
    """Replay scenes through decoder and fusion, without brokers, and score tracks, events and travel times.

    Figures are means over the seeds with 95 % intervals; other trackers get the same inputs. Bars are marked pass or
    FAIL. Ctrl-C prints what is done.

      v2x score --scene motorway --scene urban --seeds 1001-1010 --html score.html

      v2x score --scene prototype --variant all --strict
    """
    from v2x_loadtest.score import bars, run, saved, table  # noqa: PLC0415  (numba and scipy are slow to import)
    from v2x_loadtest.score.baselines import BASELINES  # noqa: PLC0415
    from v2x_loadtest.score.cases import SCENES, VARIANTS, known, make_case, pairs  # noqa: PLC0415

    console, err = paper(), Console(stderr=True)
    if show:
        _list(console, {"scenes": {k: v.what for k, v in SCENES.items()},
                        "variants": {k: v.what for k, v in VARIANTS.items()},
                        "baselines": {k: v[0] for k, v in BASELINES.items()}})  # fmt: skip
        return
    for path in (save_log, html, as_json):
        if path is not None and str(path) != "-" and not path.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {path}: {path.absolute().parent} is no folder")
    scenes, variants = known(scene or ["motorway"], SCENES), known(variant or ["plain"], VARIANTS)
    if log is not None and (scene or variant):
        raise ConfigError("--log is scored as it is: leave out --scene and --variant")
    run.check(scenes, variants)
    others = pick_baselines(baselines, list(BASELINES))
    wanted = parse_seeds(seeds, _MOST_SEEDS)
    parts: list[Any] = []
    interrupted = False
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True
    ) as progress:
        task, last = progress.add_task("", total=1.0), ""

        def say(what: str, done: float) -> None:
            nonlocal last
            progress.update(task, description=what, completed=min(max(done, 0.0), 1.0))
            if what != last and not err.is_terminal:  # a log has no bar
                typer.echo(what, err=True)
            last = what

        try:
            if log is not None:
                case = saved.from_kafka(kafka, ledger) if log == "kafka" else saved.load(Path(log))
                parts.append(run.run_log(case, others, say, draw=html is not None))
            for name, change in pairs(scenes, variants) if log is None else ():
                if save_log is not None and not parts:
                    saved.save(make_case(name, change, wanted[0], seconds), save_log, seconds)
                part = run.run_part(name, change, wanted, others, say, seconds=seconds, draw=html is not None)
                parts.append(part)
        except KeyboardInterrupt:
            interrupted = True
    _write(parts, as_json, html)
    if as_json is None or str(as_json) != "-":
        for part in parts:
            table.print_part(console, part)
    if interrupted:
        err.print("interrupted: scenes that were not finished are left out")
        raise typer.Exit(130)
    if strict and any(bars.missed(part.verdicts()) for part in parts):
        raise typer.Exit(1)


def pick_baselines(text: str, every: list[str]) -> list[str]:
    """Return the baselines named; ConfigError for one that is not known, or whose library is not installed."""
    if text == "none":
        return []
    names = every if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in every:
            raise ConfigError(f"--baselines {text}: no baseline {name!r}; choose from none, all, {', '.join(every)}")
    if "gnn" in names:
        from importlib.util import find_spec  # noqa: PLC0415

        if find_spec("stonesoup") is None:
            raise ConfigError(
                "the baseline gnn needs Stone Soup, which is not installed: pip install 'v2x-core[compare]', or leave "
                "it out: --baselines single,hungarian"
            )
    return names


def _list(console: Console, tables: dict[str, dict[str, str]]) -> None:
    for title, rows in tables.items():
        console.print(title, style="bold")
        for name, what in rows.items():
            console.print(f"  {name:<10} {what}", highlight=False)


def _write(parts: list[Any], as_json: Path | None, html: Path | None) -> None:
    from v2x_loadtest.score.run import to_dict  # noqa: PLC0415

    if as_json is not None:
        text = json.dumps(to_dict(parts), ensure_ascii=False, indent=2)
        if str(as_json) == "-":
            typer.echo(text)
        else:
            _put(as_json, text + "\n")
    if html is not None:
        from v2x_loadtest.score.page import page  # noqa: PLC0415

        _put(html, page(parts))


def _put(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
