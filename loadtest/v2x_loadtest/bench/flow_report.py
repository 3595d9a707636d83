"""The figures of `v2x bench e2e` and `province` as a table, as JSON and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from v2x_loadtest.bench.flow import FlowReport
from v2x_loadtest.bench.harness import Spread, machine
from v2x_loadtest.bench.plot import Chart, Line, page

HOPS: Final = ("publish_to_ingest", "publish_to_kafka", "kafka_to_track", "publish_to_track")
_QUANTILES: Final = ("p50", "p99", "p999")


def as_json(title: str, reports: Sequence[FlowReport]) -> dict[str, Any]:
    """Return every run on its own."""
    return {"title": title, "machine": machine(), "runs": [r.as_dict() for r in reports]}


def show(title: str, reports: Sequence[FlowReport], console: Console) -> None:
    """Print medians and ranges of runs of one load."""
    first = reports[0]
    here = f"{machine()['cpu']}, {machine()['cores']} cores"
    load = f"{first.rsus:,} RSUs, {first.participants:.1f} participants and {first.payload_bytes:.0f} B an RSM"
    rate = _show(reports, lambda r: r.rate, 0)
    console.print(f"[bold]{title}[/]: {load}, {rate} messages/s; {len(reports)} run(s); {here}")
    table = Table(title="CPU and memory after the warm-up")
    for column in ("", "cores", "µs a message", "MB at first", "MB at last", "growth MB"):
        table.add_column(column, justify="left" if not column else "right")
    for name in first.cores:
        table.add_row(
            name,
            _show(reports, lambda r, n=name: r.cores[n], 2),
            _show(reports, lambda r, n=name: r.cpu_us[n], 1),
            _show(reports, lambda r, n=name: r.rss_mb[n][0], 0),
            _show(reports, lambda r, n=name: r.rss_mb[n][1], 0),
            _show(reports, lambda r, n=name: r.rss_mb[n][1] - r.rss_mb[n][0], 1),
        )
    table.add_row("all", _show(reports, lambda r: sum(r.cores.values()), 2), "", "", "", "")
    console.print(table)
    table = Table(title="Latency, ms, from the intended send time")
    for column in ("", *_QUANTILES, "max", "messages"):
        table.add_column(column, justify="left" if not column else "right")
    for hop in HOPS:
        cells = [_show(reports, lambda r, h=hop, q=q: float(r.latency[h][q] or 0), 1) for q in (*_QUANTILES, "max")]
        table.add_row(hop.replace("_", " "), *cells, f"{sum(int(r.latency[hop]['n'] or 0) for r in reports):,}")
    console.print(table)
    for r in reports:
        lags = [int(row["lag"]) for row in r.series]
        verdict = "[red]falls behind[/]" if r.behind else "[green]keeps up[/]"
        flat = "flat" if r.flat else "[red]growing[/]"
        console.print(
            f"{verdict}: lag of fusion {flat}, at most {max(lags, default=0):,}, at last "
            f"{lags[-1] if lags else 0:,} records; "
            f"published {r.published:,}, acknowledged {r.acknowledged:,}, in Kafka {r.in_kafka:,}, "
            f"lost {'[red]' if r.lost else ''}{r.lost:,}{'[/]' if r.lost else ''}, repeated {r.repeated:,}, "
            f"dead letters {r.dead:,}, without a frame {r.untracked:,}, halo copies {r.halo_copies:,}; "
            f"publisher late p99 {r.late_p99_ms:.1f} ms"
            + ("" if r.drained else "; [red]not drained in time[/]")
            + (f"; [red]restarts {r.restarts}[/]" if r.restarts else "")
        )


def plot(title: str, groups: Sequence[Sequence[FlowReport]]) -> str:
    """Return a page: for each load CPU by process and the latencies."""
    charts: list[Chart | Line] = []
    for reports in groups:
        load = f"{reports[0].rate:,.0f} messages/s"
        cores = {name: [r.cores[name] for r in reports] for name in reports[0].cores}
        charts.append(Chart(f"CPU at {load}", "cores", cores, "ingest", 2))
        for quantile in ("p50", "p99", "p999"):
            values = {h.replace("_", " "): [float(r.latency[h][quantile] or 0) for r in reports] for h in HOPS}
            charts.append(Chart(f"Latency {quantile} at {load}", "ms", values, "publish to track", 1))
        runs = {f"run {k + 1}": [(row["s"], row["lag"]) for row in r.series] for k, r in enumerate(reports)}
        charts.append(Line(f"Lag of fusion at {load}", "records, over seconds", runs))
    notes = [
        f"{reports[0].rsus:,} RSUs, {reports[0].participants:.1f} participants an RSM: lost "
        f"{sum(r.lost for r in reports):,} of {sum(r.acknowledged for r in reports):,} acknowledged."
        for reports in groups
    ]
    return page(title, notes, charts)


def _show(reports: Sequence[FlowReport], value: Any, digits: int) -> str:
    """Return the median, with the range where there are several runs."""
    spread = Spread.of([float(value(r)) for r in reports])
    return spread.show(digits) if len(reports) > 1 else f"{spread.median:,.{digits}f}"
