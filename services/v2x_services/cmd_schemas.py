"""``v2x schemas``: what there is on the wire, and whether a change of it is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from v2x.errors import SchemaError
from v2x.topics import UPLINKS

from v2x_codecs import compat, vectors
from v2x_codecs.registry import Registry, Schema, walk_fields

app = typer.Typer(no_args_is_help=True, help="List, show and check the Avro schemas.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _uplinks(name: str) -> list[str]:
    return [f"{row.kind}/+/{row.type}" for row in UPLINKS if row.schema == name]


@app.command("list")
def list_schemas(as_json: AsJson = False) -> None:
    """List every version of every schema with its Confluent id and fingerprint."""
    registry = Registry.load()
    every = [schema for name in registry.names for schema in registry.versions(name)]
    if as_json:
        _print([{**_head(schema), "uplinks": _uplinks(schema.name)} for schema in every])
        return
    table = _table("schema", "v", "id", "fingerprint", rest="what, and the uplinks that carry it")
    for schema in every:
        table.add_row(
            schema.name,
            str(schema.version),
            str(schema.id),
            schema.fingerprint.hex(),
            " ".join([schema.raw.get("doc", "").partition(".")[0], *(f"[cyan]{u}[/]" for u in _uplinks(schema.name))]),
        )
    Console().print(table)


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """Show the fields of a schema: type, unit, range, the value that means unavailable."""
    schema = Registry.load().get(name)
    if as_json:
        _print({**_head(schema), "schema": schema.raw})
        return
    head = _head(schema)
    console = Console()
    console.print(f"[bold]{name}[/] version {head['version']}, id {head['id']}, fingerprint {head['fingerprint']}")
    console.print(schema.raw.get("doc", ""), highlight=False)
    table = _table("field", "unit", "range", "unavailable", rest="type and meaning")
    for path, item in walk_fields(schema.raw):
        table.add_row(
            "  " * path.count(".") + item["name"],
            item.get("unit", ""),
            _range(item),
            str(item.get("unavailable", "")),
            f"[cyan]{_type(item['type'])}[/] {item.get('doc', '')}",
        )
    console.print(table)


@app.command()
def check(
    path: Annotated[Path | None, typer.Argument(help="Folder with *.avsc and registry.json; default: ours.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check files against registry.json, versions against each other, and the golden vectors; exit 1 if any fails."""
    try:
        registry = Registry.load(path)
        problems = compat.check(registry)
        folder = vectors.vectors_dir() if path is None else path.parent / "vectors"
        golden = vectors.load(registry, folder) if folder.is_dir() else []
        problems += vectors.problems(registry, golden)
        counts = {"schemas": len(registry.names), "vectors": len(golden)}
    except SchemaError as error:
        problems, counts = [str(error)], {}
    if as_json:
        _print({"ok": not problems, **counts, "problems": problems})
    else:
        for line in problems:
            typer.secho(line, fg=typer.colors.RED, err=True)
        if not problems:
            typer.echo(f"{counts['schemas']} schemas and {counts['vectors']} golden vectors are in order")
    if problems:
        raise typer.Exit(1)


def _table(*columns: str, rest: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column(rest, ratio=1, overflow="fold", min_width=20)
    return table


def _head(schema: Schema) -> dict[str, Any]:
    return {
        "name": schema.name,
        "version": schema.version,
        "id": schema.id,
        "fingerprint": schema.fingerprint.hex(),
        "doc": schema.raw.get("doc", ""),
    }


def _type(raw: Any) -> str:
    if not isinstance(raw, dict):
        return str(raw)
    match raw["type"]:
        case "array":
            return f"array of {_type(raw['items'])}"
        case "fixed":
            return f"fixed({raw['size']})"
        case "enum":
            return "enum: " + ", ".join(raw["symbols"])
        case kind:
            return f"{kind} {raw['name']}"


def _range(item: Mapping[str, Any]) -> str:
    for low, high, what in (("min", "max", ""), ("minLength", "maxLength", " B"), ("minItems", "maxItems", " items")):
        if low in item or high in item:
            return f"{item.get(low, '')} … {item.get(high, '')}{what}"
    return ""
