"""The audit and the latencies as tables for people."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from v2x_loadtest.audit.verdict import Verdict
from v2x_loadtest.latency import Latency

SHOWN_FAULTS: Final = 10
_HOPS: Final = {
    "publish_to_ingest": "sent → ingest",
    "ingest_to_kafka": "ingest → Kafka",
    "publish_to_kafka": "sent → Kafka",
    "kafka_to_track": "Kafka → track",
    "publish_to_track": "sent → track",
    "publish_to_event": "sent → event",
}


def account_table(verdict: Verdict) -> RenderableType:
    """Return the account by message type, and what is wrong below it."""
    table = Table(title="Audit: what became of every message", title_justify="left")
    table.add_column("type", no_wrap=True)
    for name in ("published", "acked", "in Kafka", "copies", "dead", "fused", "unacked", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [*verdict.account.by_type().items(), ("all", verdict.account)]
    for name, part in rows:
        dead = sum(part.dead.values())
        cells = (part.published, part.acknowledged, part.logged, part.repeated, dead, part.fused, part.unacknowledged)
        last = name == "all"
        lost = Text(f"{part.lost:,}", style="bold red" if part.lost else "bold green" if last else "")
        table.add_row(
            name,
            *(f"{cell:,}" for cell in cells),
            lost,
            style="bold" if last else None,
            end_section=name == rows[-2][0],
        )
    return Group(table, *_remarks(verdict))


def _remarks(verdict: Verdict) -> list[Text]:
    total = verdict.account
    out: list[Text] = []
    if not total.ledger:
        out.append(Text("No ledger: lost is what sequence gaps show; what came before or after them is not seen."))
    if total.dead:
        out.append(Text("Dead letters: " + ", ".join(f"{reason} {n:,}" for reason, n in total.dead.items())))
    for row in total.faults()[:SHOWN_FAULTS]:
        runs = ", ".join(str(run) for run in row.lost[:8]) + (" …" if len(row.lost) > 8 else "")
        out.append(
            Text(f"lost: {row.stream.device} {row.stream.type} (boot {row.stream.boot}): seq {runs}", style="red")
        )
    if verdict.behind:
        out.append(
            Text(f"{verdict.behind:,} messages are in the log and fusion has not spoken after them", style="yellow")
        )
    if total.unknown:
        out.append(Text(f"{total.unknown:,} messages are in nobody's ledger (another simulator?)", style="yellow"))
    if verdict.strange:
        out.append(Text(f"records that nothing of ours writes: {verdict.strange}", style="yellow"))
    check = verdict.events
    style = "green" if not check.faults else "red"
    out.append(
        Text(
            f"Events: {check.events:,} told in {check.records:,} records ({check.copies:,} raw copies), "
            f"{check.open:,} still open, told twice {check.duplicates:,}",
            style=style,
        )
    )
    out += [Text(f"  {line}", style="red") for line in check.faults[:SHOWN_FAULTS]]
    frames = verdict.frames
    out.append(Text(f"Frames: {frames.records:,} records, {frames.copies:,} raw copies"))
    out += [Text(f"  {line}", style="red") for line in frames.conflicts[:SHOWN_FAULTS]]
    return out


def latency_table(latency: Latency) -> Table:
    """Return the latency of every hop, and age below."""
    table = Table(title="Latency from the intended send time, ms", title_justify="left")
    table.add_column("hop", no_wrap=True)
    names = ("p50", "p90", "p99", "p999", "max", "n")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    rows: list[tuple[str, dict[str, Any]]] = [
        (label, latency.hops[hop]) for hop, label in _HOPS.items() if hop in latency.hops
    ]
    rows += [(f"age at {name}", row) for name, row in latency.age.items()]
    for label, row in rows:
        table.add_row(label, *(_number(row[name]) for name in names))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def print_audit(console: Console, verdict: Verdict, latency: Latency | None) -> None:
    """Print both."""
    console.print(account_table(verdict))
    if latency is not None:
        console.print(latency_table(latency))
