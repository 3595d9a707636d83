"""``v2x fuzz``: mistaken input for what takes input from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from v2x.errors import ConfigError

from v2x_loadtest.fuzz.campaign import BATCH, CORPUS, TARGETS, Tally, batches, keep, load, make, one
from v2x_loadtest.options import AsJson
from v2x_loadtest.workers import spread

_PIECE = 5  # batches that a process takes at a time
_TELLING = re.compile(r"^stat::|Uncaught Python exception|^v2x_|Finding: |ERROR: ")
_KEPT_BYTES = 1024  # longer inputs of atheris are not kept


def fuzz(
    target: Annotated[str, typer.Argument(help=f"One of: {', '.join(TARGETS)}.")],
    cases: Annotated[int, typer.Option(min=1, help="Inputs.")] = 200_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same inputs.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; default: one a core.")] = os.cpu_count() or 1,
    guided: Annotated[bool, typer.Option(help="Let atheris follow the coverage (extra: fuzz); slower, finer.")] = False,
    corpus: Annotated[Path, typer.Option(help="Folder of kept inputs; atheris makes it grow.")] = CORPUS,
    replay: Annotated[str | None, typer.Option(help="Run this one input only, given as hex.")] = None,
    as_json: AsJson = False,
) -> None:
    """Give mistaken input to what takes input from outside; exit 1 where a promise is broken."""
    if target not in TARGETS:
        raise ConfigError(f"no target {target!r}: there are {', '.join(TARGETS)}")
    if replay is not None:
        _replay(target, replay)
    elif guided:
        _guided(target, cases, corpus)
    else:
        _campaign(target, cases, seed, jobs, corpus, as_json=as_json)


def _replay(target: str, text: str) -> None:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise ConfigError("--replay: an input is given as hex") from None
    wrong = one(make(target), data)
    typer.echo(wrong or "nothing wrong with it")
    if wrong:
        raise typer.Exit(1)


def _campaign(target: str, cases: int, seed: int, jobs: int, corpus: Path, *, as_json: bool) -> None:
    total, wanted = Tally(), -(-cases // BATCH)
    inputs = load(target, corpus)
    pieces = [(target, seed, at, min(at + _PIECE, wanted), inputs) for at in range(0, wanted, _PIECE)]
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        spread(_piece, pieces, min(jobs, len(pieces)), silent=True) as found,  # mqtt5's panics print what they find
    ):
        task = progress.add_task("", total=wanted * BATCH)
        for tally in chain.from_iterable(found):
            total.cases += tally.cases
            total.findings += tally.findings
            progress.advance(task, BATCH)
            if total.enough:
                break
    if as_json:
        findings = [{"input": data, "wrong": wrong} for data, wrong in total.findings]
        typer.echo(json.dumps({"target": target, "seed": seed, "cases": total.cases, "findings": findings}))
    else:
        typer.echo(f"{target}: {total.cases:,} inputs of seed {seed}, {len(total.findings)} findings")
        for data, wrong in total.findings:
            typer.secho(f"{wrong}\n  v2x fuzz {target} --replay {data}", fg=typer.colors.RED, err=True)
    if total.findings:
        raise typer.Exit(1)


def _piece(piece: tuple[str, int, int, int, list[bytes]]) -> list[Tally]:
    return list(batches(*piece))


def _guided(target: str, runs: int, corpus: Path) -> None:
    if find_spec("atheris") is None:
        raise ConfigError("--guided needs atheris: pip install 'v2x[fuzz]', or leave --guided out")
    with tempfile.TemporaryDirectory(prefix="v2x-fuzz-") as name:
        folder = Path(name, "corpus")
        folder.mkdir()
        before = {*make(target).seeds(), *load(target, corpus)}
        for i, data in enumerate(before):
            (folder / f"{i}").write_bytes(data)
        command = [sys.executable, "-m", "v2x_loadtest.fuzz.guided", target, str(folder), str(runs)]
        log = Path(name, "log")
        with log.open("wb") as err:  # mqtt5's panics write a lot
            done = subprocess.run(command, cwd=name, check=False, stderr=err)
        said = [line for line in log.read_text("utf-8", "replace").splitlines() if _TELLING.search(line)]
        found = {file.read_bytes() for file in folder.iterdir()}
        crashes = [file.read_bytes() for file in Path(name).glob("crash-*")]
    new = {data for data in found - before if len(data) <= _KEPT_BYTES}
    keep(target, [*(before - set(make(target).seeds())), *new, *crashes], corpus)
    typer.echo("\n".join(said), err=True)
    typer.echo(f"{target}: {len(new)} inputs with new coverage kept in {corpus}, {len(crashes)} findings")
    for data in crashes:
        typer.secho(f"  v2x fuzz {target} --replay {data.hex()}", fg=typer.colors.RED, err=True)
    if done.returncode or crashes:
        raise typer.Exit(1)
