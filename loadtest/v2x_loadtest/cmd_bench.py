"""`v2x bench`: figures that a stranger can get again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from v2x.errors import ConfigError

from v2x_codecs.registry import Registry

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _bench() -> None:
    """Benchmarks: interleaved rounds, median and range, the peer in the same run."""


@app.command()
def decode(
    schema: Annotated[str, typer.Option(help="Which message.")] = "rsm",
    participants: Annotated[int, typer.Option(min=0, max=255, help="In an RSM.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Decode to checked columns, against fastavro."""
    from v2x_loadtest.bench.decode import run  # noqa: PLC0415  (numba is slow to import)

    if schema not in Registry.load().names:
        raise ConfigError(f"no schema {schema!r}; `v2x schemas list` shows them")
    run(schema, participants, rounds, Console(), as_json=as_json)
