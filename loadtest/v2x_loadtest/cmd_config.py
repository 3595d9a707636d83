"""`v2x config`."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from v2x_loadtest.options import Config
from v2x_services.settings import PREFIX, Settings


def config(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="A v2x.toml with every setting and what it means.")] = False,
) -> None:
    """Show the settings in force and where each came from: flag, environment (V2X_*), file (v2x.toml) or default."""
    rows = Settings.load(config).provenance()
    if as_json:
        typer.echo(json.dumps({n: {"value": v, "from": where} for n, (v, where, _) in rows.items()}, default=str))
        return
    if toml:
        for name, (value, where, what) in rows.items():
            plain = value if isinstance(value, bool | int | float) else str(value)
            line = f"{name} = {json.dumps(plain, ensure_ascii=False) if value is not None else ''}"  # JSON's are TOML's
            typer.echo(f"# {what}\n{'# ' if where == 'default' else ''}{line}\n")
        return
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from v2x_services.paper import paper  # noqa: PLC0415

    table = Table("setting", "value", "from", "what it is", box=SIMPLE_HEAD)
    for name, (value, where, what) in rows.items():
        table.add_row(name, "" if value is None else str(value), "" if where == "default" else where, what)
    paper().print(table)
    known = {PREFIX + name.upper() for name in rows} | {f"{PREFIX}CONFIG"}
    for stranger in sorted(k for k in os.environ if k.startswith(PREFIX) and k not in known):
        typer.secho(f"{stranger} in the environment is no setting of ours", fg="yellow", err=True)
