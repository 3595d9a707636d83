"""Interleaved rounds of several candidates, their median and range, and the ratio round by round.

Machines are shared and drift: a ratio of two candidates of the same round holds where two absolute figures do not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return the spread of ``values``."""
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int) -> str:
        """Return ``median (low-high)``."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


def interleave(candidates: Mapping[str, Callable[[], float]], rounds: int, console: Console) -> dict[str, list[float]]:
    """Run every candidate once a round, in turn; the first round warms up and does not count."""
    results: dict[str, list[float]] = {name: [] for name in candidates}
    for nth in track(range(rounds + 1), "rounds", console=console, transient=True):
        for name, run in candidates.items():
            value = run()
            if nth:
                results[name].append(value)
    return results


def machine() -> dict[str, Any]:
    """Return what the figures were made on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def report(
    title: str,
    unit: str,
    results: Mapping[str, list[float]],
    base: str,
    console: Console,
    *,
    as_json: bool,
    **facts: Any,
) -> None:
    """Print a table of medians, ranges and ratios against ``base``; or all of it as JSON."""
    spreads = {name: Spread.of(values) for name, values in results.items()}
    ratios = {
        name: Spread.of([theirs / ours for theirs, ours in zip(values, results[base], strict=True)])
        for name, values in results.items()
    }
    if as_json:
        rows = {
            name: {
                "median": s.median, "low": s.low, "high": s.high, "rounds": results[name],
                "ratio_median": ratios[name].median, "ratio_low": ratios[name].low, "ratio_high": ratios[name].high,
            }
            for name, s in spreads.items()
        }  # fmt: skip
        print(json.dumps({"title": title, "unit": unit, "base": base, "machine": machine(), **facts, "results": rows}))
        return
    table = Table(title=title, caption=f"{machine()['cpu']}, {machine()['cores']} cores; median (range) of the rounds")
    table.add_column("")
    table.add_column(unit, justify="right")
    table.add_column(f"times {base}", justify="right")
    for name, spread in spreads.items():
        table.add_row(name, spread.show(2), ratios[name].show(2))
    console.print(table)
