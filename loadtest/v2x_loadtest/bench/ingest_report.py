"""The figures of `v2x bench ingest` as a table, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from rich.console import Console
from rich.table import Table

from v2x_loadtest.bench.candidates import OURS
from v2x_loadtest.bench.harness import Spread, machine
from v2x_loadtest.bench.ingest import Report, Sample
from v2x_loadtest.bench.plot import Chart, page

Runs = Mapping[str, Sequence[Sample]]


def as_json(report: Report) -> dict[str, Any]:
    """Return everything, each round on its own, and ratios to ours round by round."""
    return {
        "title": _title(report),
        "machine": machine(),
        "options": asdict(report.options),
        "payload_bytes": report.bytes,
        "what": report.what,
        "absent": report.absent,
        "failed": report.failed,
        "closed": {name: [s.as_dict() for s in samples] for name, samples in report.closed.items()},
        "open": {name: [s.as_dict() for s in samples] for name, samples in report.open.items()},
        "cpu_ratio": {
            kind: {name: asdict(spread) for name, spread in _ratios(runs).items()}
            for kind, runs in (("closed", report.closed), ("open", report.open))
        },
        "durability": report.durability,
    }


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    o = report.options
    caption = f"{machine()['cpu']}, {machine()['cores']} cores; median (range) of {o.rounds} rounds of {o.seconds:g} s"
    for kind, runs in (("closed loop", report.closed), ("open loop", report.open)):
        if runs:
            console.print(_table(f"{_title(report)}: {kind}", runs, caption, latency=kind == "open loop"))
            console.print(_counts(f"What became of the messages, {kind}", runs))
    if report.durability:
        table = Table(title="PUBACK waits for Kafka? (Kafka killed -9, messages, forwarder killed -9, both back)")
        for column in ("", "waits", "lost", "repeated", "stayed up", "starts", "back after s"):
            table.add_column(column, justify="left" if not column else "right")
        for name, row in report.durability.items():
            waits = "[green]yes[/]" if row["waits"] else "[red]no[/]"
            lost = f"{row['lost']:,} of {row['acknowledged']:,}"
            stayed = "yes" if row["stayed_up"] else "no"
            table.add_row(name, waits, lost, f"{row['repeated']:,}", stayed, str(row["starts"]), f"{row['back_s']:.1f}")
        console.print(table)
    for name, what in report.what.items():
        console.print(f"[dim]{name}: {what}{_started(report, name)}[/]")
    for name, why in report.absent.items():
        console.print(f"[yellow]{name}: absent, {why}[/]")
    for name, why in report.failed.items():
        console.print(f"[red]{name}: failed, {why}[/]")


def plot(report: Report) -> str:
    """Return a page."""
    o = report.options
    charts = []
    rows: tuple[tuple[str, str, Runs, Callable[[Sample], float], int], ...] = (
        ("CPU a message at its capacity", "µs", report.closed, _self_us, 1),
        ("Capacity, closed loop", "messages/s", report.closed, lambda s: s.rate, 0),
        (f"CPU a message at {o.rate:,.0f}/s", "µs", report.open, _self_us, 1),
        (f"Intended time to Kafka at {o.rate:,.0f}/s, p50", "ms", report.open, lambda s: _ms(s, "p50"), 1),
        (f"Intended time to Kafka at {o.rate:,.0f}/s, p99", "ms", report.open, lambda s: _ms(s, "p99"), 1),
        ("Resident memory", "MB", report.open or report.closed, lambda s: s.rss_mb, 0),
    )
    for title, unit, runs, value, digits in rows:
        if runs:
            drawn = {n: [v for s in runs[n] if isfinite(v := value(s))] for n in runs}
            charts.append(Chart(title, unit, drawn, OURS, digits))
    notes = [f"{name}: {what}." for name, what in report.what.items()]
    notes += [f"{name}: absent, {why}." for name, why in report.absent.items()]
    notes += [
        f"{name}: {row['lost']} of {row['acknowledged']} messages lost"
        " when Kafka was dead and the forwarder was killed."
        for name, row in report.durability.items()
    ]
    return page(_title(report), notes, charts)


def _table(title: str, runs: Runs, caption: str, *, latency: bool) -> Table:
    table = Table(title=title, caption=caption)
    table.add_column("")
    for column in ("messages/s", "µs CPU", "x ours", "MB", *(("p50 ms", "p99 ms", "p99.9 ms") if latency else ())):
        table.add_column(column, justify="right")
    ratios = _ratios(runs)
    for name, samples in runs.items():
        cells = [_show(samples, lambda s: s.rate, 0), _show(samples, _self_us, 1)]
        cells += [
            _spread(ratios[name], 2, len(samples)) if name in ratios else "",
            _show(samples, lambda s: s.rss_mb, 0),
        ]
        if latency:
            cells += [_show(samples, lambda s, q=q: _ms(s, q), 1) for q in ("p50", "p99", "p999")]  # type: ignore[misc]
        table.add_row(name, *cells)
    return table


def _counts(title: str, runs: Runs) -> Table:
    late = max((s.late_p99_ms for samples in runs.values() for s in samples), default=0.0)
    table = Table(title=title, caption=f"the publisher itself was late by {late:.1f} ms (p99) at most")
    for column in ("", "acknowledged", "delivered", "too late", "lost", "repeated"):
        table.add_column(column, justify="left" if not column else "right")
    for name, samples in runs.items():
        cells = []
        for count in ("acknowledged", "delivered", "undelivered", "lost", "repeated"):
            n = sum(getattr(s, count) for s in samples)
            cells.append(f"[red]{n:,}[/]" if n and count in {"lost", "undelivered"} else f"{n:,}")
        table.add_row(name, *cells)
    return table


def _started(report: Report, name: str) -> str:
    samples = [s for runs in (report.closed, report.open) for s in runs.get(name, ())]
    return f"; ready after {_spread(Spread.of([s.start_s for s in samples]), 1, 1)} s" if samples else ""


def _show(samples: Sequence[Sample], value: Callable[[Sample], float], digits: int) -> str:
    return _spread(Spread.of([value(s) for s in samples]), digits, len(samples)) if samples else ""


def _spread(spread: Spread, digits: int, rounds: int) -> str:
    """Return the median, and below it the range where there is one."""
    median, low, high = (
        "never" if value == inf else f"{value:,.{digits}f}" for value in (spread.median, spread.low, spread.high)
    )
    return median if rounds == 1 else f"{median}\n[dim]{low}-{high}[/]"


def _ratios(runs: Runs) -> dict[str, Spread]:
    """Return CPU a message against ours of the same round."""
    ours = runs.get(OURS, ())
    out = {}
    for name, samples in runs.items():
        pairs = [(_self_us(s), _self_us(o)) for s, o in zip(samples, ours, strict=False)]
        values = [theirs / mine for theirs, mine in pairs if mine > 0]
        if values:
            out[name] = Spread.of(values)
    return out


def _self_us(sample: Sample) -> float:
    return sample.cpu_us.get("self", 0.0)


def _ms(sample: Sample, quantile: str) -> float:
    """Return a quantile over all messages that were due; inf if it falls on one that never arrived."""
    value = sample.latency_ms.get(quantile)
    return inf if value is None else float(value)


def _title(report: Report) -> str:
    o = report.options
    what = "RSM of 20 participants" if o.payload == "rsm" else "BSM"
    return f"Ingest, {what}, {report.bytes:.0f} B, {o.connections:,} connections, {o.partitions} partitions"
