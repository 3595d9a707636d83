"""The matrix as a table for people, as JSON, and as the table of docs/guarantees.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text
from v2x.errors import ConfigError

from v2x_loadtest.bench.harness import machine
from v2x_loadtest.chaos.run import ChaosOptions, Outcome
from v2x_loadtest.chaos.table import ROWS

_STYLE: Final = {"pass": "bold green", "FAIL": "bold red", "not possible here": "yellow"}


def as_json(outcomes: Sequence[Outcome], options: ChaosOptions) -> dict[str, Any]:
    """Return everything, each row on its own."""
    return {
        "machine": machine(),
        "rate": options.rate,
        "seconds": options.seconds,
        "seed": options.seed,
        "rows": [outcome.as_dict() for outcome in outcomes],
    }


def merged(path: Path, made: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``made`` with the rows that an earlier result has and it has not; ConfigError if that is none."""
    if not path.exists():
        return dict(made)
    try:
        before = json.loads(path.read_text("utf-8"))
        known = {row["row"]: row for row in before["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--json {path} holds something else ({error!r}); give another file") from error
    rows = {**known, **{row["row"]: row for row in made["rows"]}}
    order = {row.name: nth for nth, row in enumerate(ROWS)}
    return {**made, "rows": sorted(rows.values(), key=lambda row: order.get(row["row"], len(order)))}


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table."""
    table = Table(title="Fault matrix", title_justify="left")
    table.add_column("fault", no_wrap=True)
    for name in ("sent", "acked", "lost rel.", "lost per.", "copies", "twice", "ends missing", "back after"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for outcome in outcomes:
        cells = _cells(outcome.as_dict())
        table.add_row(outcome.row.name, *cells, Text(outcome.verdict, style=_STYLE[outcome.verdict]))
    console.print(table)


def explain(outcome: Outcome, console: Console) -> None:
    """Print what a row found beyond the table."""
    name, f = outcome.row.name, outcome.figures
    if outcome.not_possible:
        console.print(f"{name}: not possible here: {outcome.not_possible}", style="yellow")
    for line in (*outcome.wrong, *(f.faults if f is not None else ())):
        console.print(f"{name}: {line}", style="red")
    if f is None:
        return
    console.print(
        f"[dim]  {f.rate:,.0f}/s, p99 before {f.p99_before_ms:g} ms; longest way into Kafka {f.stall_ingest_s:g} s, "
        f"from Kafka into a track {f.stall_fusion_s:g} s; outputs {f.outputs:,}, missing {f.missing:,}, "
        f"extra {f.extra:,}; events {f.events:,} ({f.open:,} open); dead letters {f.dead:,}; "
        f"not acknowledged {f.unacknowledged:,}; restarts {f.restarts or 'none'}; "
        f"{_facts(f.facts)}{outcome.seconds:.0f} s[/dim]",
        soft_wrap=True,
    )


def _facts(facts: Mapping[str, float]) -> str:
    return "".join(f"{name} {value:,g}; " for name, value in facts.items() if not name.endswith("_us"))


def _cells(row: Mapping[str, Any]) -> list[str]:
    f = row["figures"]
    if f is None:
        return ["–"] * 8
    back = "not" if f["recovery_s"] is None else f"{f['recovery_s']:g} s"
    numbers = ("sent", "acknowledged", "lost_reliable", "lost_perishable", "repeated", "duplicates", "missing_ends")
    return [*(f"{f[name]:,}" for name in numbers), back]


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table of a kept result."""
    head = (
        "fault", "a second", "sent", "acknowledged", "lost reliable", "lost perishable", "raw copies", "told twice",
        "ends missing", "back after", "allowed", "longest way into Kafka", "and on to a track", "verdict",
    )  # fmt: skip
    lines = [head, ["---"] * len(head)]
    lines += [_markdown_row(row) for row in result["rows"]]
    here = result["machine"]
    where = f"`v2x chaos --seconds {result['seconds']:g}` on {here['cpu']}, {here['cores']} cores"
    return f"{where}:\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown_row(row: Mapping[str, Any]) -> list[str]:
    f, cells = row["figures"], _cells(row)
    said = row["not_possible"] or "; ".join(row["wrong"]) or _facts(f["facts"]).rstrip("; ").replace("_", " ")
    text = row["verdict"] + (f": {said}" if said else "")
    fault, allowed = f"{row['fault']} (`{row['row']}`)", f"{row['recovery_limit_s']:g} s"
    if f is None:
        return [fault, "–", *cells, allowed, "–", "–", text]
    stalls = (f"{f['stall_ingest_s']:g} s", f"{f['stall_fusion_s']:g} s")
    return [fault, f"{f['rate']:,.0f}", *cells, allowed, *stalls, text]


def write(path: Path, text: str, flag: str) -> None:
    """Write a file; ConfigError if that cannot be done."""
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be written: {error.strerror}") from error
