"""``v2x schemas``: what there is on the wire, and whether a change of it is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from v2x.errors import SchemaError
from v2x.topics import UPLINKS

from v2x_codecs import compat, vectors
from v2x_codecs.registry import Registry, Schema, walk_fields
from v2x_services.paper import paper

app = typer.Typer(no_args_is_help=True, help="List, show and check the Avro schemas.")
_ENOUGH = 20  # findings after which a campaign ends
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
    paper().print(table)


@app.command()
def show(name: str, as_json: AsJson = False) -> None:
    """Show the fields of a schema: type, unit, range, the value that means unavailable."""
    schema = Registry.load().get(name)
    if as_json:
        _print({**_head(schema), "schema": schema.raw})
        return
    head = _head(schema)
    console = paper()
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


@app.command()
def fuzz(
    cases: Annotated[int, typer.Option(min=1, help="Messages, good and broken.")] = 200_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same messages.")] = 1,
    first: Annotated[int, typer.Option("--from", min=0, help="Go on behind so many messages of this seed.")] = 0,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the refused that fastavro is asked about.")] = 0.25,
    corpus: Annotated[Path | None, typer.Option(help="Keep what is new in this folder (ours: codecs/corpus).")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold the fast decoder against fastavro on mistaken messages; exit 1 if they differ where no row says why."""
    from v2x_codecs.campaign import BATCH, Campaign, Tally  # noqa: PLC0415  (numba is slow to import)
    from v2x_codecs.corpus import Corpus  # noqa: PLC0415

    registry = Registry.load()
    golden = [v.mqtt for v in vectors.load(registry)] if vectors.vectors_dir().is_dir() else []
    campaign = Campaign(registry, golden, seed, share)
    kept = Corpus.load(corpus).renewed(campaign) if corpus else Corpus()
    console, total, new = Console(stderr=True), Tally(), 0
    nth, last = first // BATCH, -(-(first + cases) // BATCH)
    columns = (TextColumn("messages"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    stopped = False
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=(last - nth) * BATCH)
            for tally, found in campaign.batches(nth):
                total.add(tally)
                new += kept.add(found)
                nth += 1
                progress.advance(task, BATCH)
                if nth >= last or len(total.findings) >= _ENOUGH:
                    break
    except KeyboardInterrupt:
        stopped = True
    if corpus:
        kept.save(corpus)
    made: dict[str, Any] = {
        "ok": not total.findings, "seed": seed, "next": nth * BATCH, "cases": total.cases, "accepted": total.accepted,
        "compared_refused": total.compared, "verdicts": dict(total.verdicts.most_common()),
        "differences": dict(total.differences.most_common()), "new": new, "findings": total.findings,
    }  # fmt: skip
    if as_json:
        _print(made)
    else:
        _show_fuzz(made)
    if stopped:
        todo = (last - nth) * BATCH
        typer.secho(f"stopped; to go on: v2x schemas fuzz --seed {seed} --from {nth * BATCH} --cases {todo}", err=True)
        raise typer.Exit(130)
    if total.findings:
        raise typer.Exit(1)


def _show_fuzz(made: Mapping[str, Any]) -> None:
    console = paper()
    for title, key in (("verdict", "verdicts"), ("fastavro takes, we refuse (of those asked about)", "differences")):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(title)
        table.add_column("messages", justify="right")
        for name, n in made[key].items():
            table.add_row(name, f"{n:,}")
        console.print(table)
    console.print(
        f"{made['cases']:,} messages of seed {made['seed']}: {made['accepted']:,} taken, each with fastavro's values; "
        f"{made['compared_refused']:,} of the refused compared; {made['new']:,} new in the corpus",
        highlight=False,
    )
    for line in made["findings"]:
        typer.secho(line, fg=typer.colors.RED, err=True)


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
