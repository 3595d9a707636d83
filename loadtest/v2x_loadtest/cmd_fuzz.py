"""``v2x fuzz``: mistaken input for what takes input from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing.pool import IMapIterator
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from v2x.errors import ConfigError

from v2x_loadtest.fuzz.campaign import TARGETS, kind, load, make, one
from v2x_loadtest.fuzz.record import keep, row
from v2x_loadtest.fuzz.totals import Tally, Totals
from v2x_loadtest.fuzz.watch import Piece, alone, run, watched
from v2x_loadtest.options import AsJson
from v2x_loadtest.workers import spread

_PIECE = 50_000  # cases that a process takes at a time
_GUIDED = "guided"  # as its own program names its totals


def fuzz(
    target: Annotated[str, typer.Argument(help=f"One of: {', '.join(TARGETS)}.")],
    cases: Annotated[int, typer.Option(min=1, help="Inputs; with --corpus those of earlier runs count.")] = 200_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same inputs.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; default: one a core.")] = os.cpu_count() or 1,
    guided: Annotated[bool, typer.Option(help="Let atheris follow the coverage (extra: fuzz); slower, finer.")] = False,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Folder of inputs and totals: --guided makes it grow, and a run that was cut goes on."),
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Keep the outcome in this file (docs/fuzz.json).")] = None,
    batch: Annotated[
        int | None, typer.Option(min=0, help="Run this one batch of the seed, as a finding names it.")
    ] = None,
    replay: Annotated[str | None, typer.Option(help="Run this one input only, given as hex.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give mistaken input to what takes input from outside; exit 1 where a promise is broken.

    Cases are made by one compiled call a batch, from the target's own inputs, those kept, and those of --corpus.
    decoder: batches through the compiled decoder, twice, checked in columns; one message in 500 beside fastavro.
    config: four of five cases are tables of settings, the rest texts; one text in sixteen is loaded as a file.
    """
    if target not in TARGETS:
        raise ConfigError(f"no target {target!r}: there are {', '.join(TARGETS)}")
    if replay is not None:
        _replay(target, replay)
    elif batch is not None:
        total = alone(Piece(target, seed, batch, batch + 1, (*load(target), *Totals(corpus, target).load())), batch)
        _tell(target, f"batch {batch} of seed {seed}", total, None, as_json=as_json)
        _end(total, stopped=False)
    elif guided:
        _guided(target, cases, corpus, record, as_json=as_json)
    else:
        _campaign(target, cases, seed, jobs, corpus, record, as_json=as_json)


def _replay(target: str, text: str) -> None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise ConfigError("--replay: an input is given as hex") from None
    wrong = one(make(target), data)
    typer.echo(wrong or "nothing wrong with it")
    if wrong:
        raise typer.Exit(1)


def _campaign(
    target: str, cases: int, seed: int, jobs: int, corpus: Path | None, record: Path | None, *, as_json: bool
) -> None:
    totals = Totals(corpus, target)
    batch = kind(target).batch
    total, wanted, step = totals.of(f"seed {seed}"), -(-cases // batch), max(_PIECE // batch, 1)
    inputs = (*load(target), *totals.load())
    done = total.cases // batch
    pieces = [Piece(target, seed, at, min(at + step, wanted), inputs) for at in range(done, wanted, step)]
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stopped = False
    if pieces and not total.enough:
        try:
            with (
                Progress(*columns, console=Console(stderr=True), transient=True) as progress,
                # mqtt5's panics print what they find
                spread(run, pieces, min(jobs, len(pieces)), silent=True) as found,
            ):
                task = progress.add_task("", total=wanted * batch, completed=total.cases)
                for tally in watched(cast("IMapIterator[list[Tally]]", found), pieces):
                    total.add(tally)
                    totals.save(now=False)
                    progress.update(task, completed=total.cases)
                    if total.enough:
                        break
        except KeyboardInterrupt:
            stopped = True
        totals.save()
    _tell(target, f"seed {seed}", total, record, as_json=as_json)
    _end(total, stopped=stopped)


def _tell(target: str, key: str, total: Tally, record: Path | None, *, as_json: bool) -> None:
    if record is not None:
        keep(record, row(target, key, total, datetime.now(UTC).date().isoformat()))
    if as_json:
        findings = [{"input": data, "wrong": wrong} for data, wrong in total.findings]
        made = {"target": target, "run": key, "cases": total.cases, "cpu_s": total.cpu_s, "seen": total.seen}
        typer.echo(json.dumps({**made, "findings": findings}))
        return
    typer.echo(f"{target}: {total.cases:,} inputs of {key}, {len(total.findings)} findings")
    for data, wrong in total.findings:
        again = f"\n  v2x fuzz {target} --replay {data}" if data else ""
        typer.secho(f"{wrong}{again}", fg=typer.colors.RED, err=True)


def _end(total: Tally, *, stopped: bool) -> None:
    if total.findings:
        raise typer.Exit(1)
    if stopped:
        typer.secho("stopped; with --corpus the same command goes on from here", err=True)
        raise typer.Exit(130)


def _guided(target: str, runs: int, corpus: Path | None, record: Path | None, *, as_json: bool) -> None:
    if find_spec("atheris") is None:
        raise ConfigError("--guided needs atheris: pip install 'v2x[fuzz]', or leave --guided out")
    if corpus is None:
        raise ConfigError("--guided needs --corpus, a folder that takes the inputs it finds")
    totals = Totals(corpus, target)
    totals.keep([*make(target).seeds(), *load(target)])
    total = totals.of(_GUIDED)
    failed = False
    if total.cases < runs and not total.enough:
        child = subprocess.Popen([sys.executable, "-m", "v2x_loadtest.fuzz.guided", target, str(corpus), str(runs)])
        try:
            failed = child.wait() != 0
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)  # it ends behind the input at hand, and has its totals saved
            failed = child.wait() != 0
        total = Totals(corpus, target).of(_GUIDED)
    # A hang, too much memory, a dead process: what a target cannot tell of itself libFuzzer writes down.
    for file in sorted(corpus.glob(f"{target}.*-*")):
        total.findings.append((file.read_bytes().hex(), f"{file.suffix[1:].partition('-')[0]} ({file})"))
    _tell(target, _GUIDED, total, record, as_json=as_json)
    if failed and not total.findings:
        raise typer.Exit(1)
    _end(total, stopped=total.cases < runs)
