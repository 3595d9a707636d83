"""Interleaved rounds of several candidates, their median and range, and the ratio round by round.

Machines are shared and drift: a ratio of two candidates of the same round holds where two absolute figures do not.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Results:
    """Rounds of several candidates, one figure each; ``base`` is ours."""

    title: str
    unit: str
    rounds: Mapping[str, list[float]]
    base: str
    facts: Mapping[str, Any]

    def ratios(self, name: str) -> Spread:
        """Return a candidate's figure against ours, round by round."""
        pairs = zip(self.rounds[name], self.rounds[self.base], strict=True)
        return Spread.of([theirs / ours for theirs, ours in pairs])


def as_dict(results: Results) -> dict[str, Any]:
    """Return everything as JSON has it."""
    rows = {}
    for name, values in results.rounds.items():
        s, ratio = Spread.of(values), results.ratios(name)
        rows[name] = {
            "median": s.median, "low": s.low, "high": s.high, "rounds": values,
            "ratio_median": ratio.median, "ratio_low": ratio.low, "ratio_high": ratio.high,
        }  # fmt: skip
    head = {"title": results.title, "unit": results.unit, "base": results.base, "machine": machine()}
    return {**head, **results.facts, "results": rows}


def show(results: Results, console: Console) -> None:
    """Print a table of medians, ranges and ratios against ours."""
    caption = f"{machine()['cpu']}, {machine()['cores']} cores; median (range) of the rounds"
    table = Table(title=results.title, caption=caption)
    table.add_column("")
    table.add_column(results.unit, justify="right")
    table.add_column(f"times {results.base}", justify="right")
    for name, values in results.rounds.items():
        table.add_row(name, Spread.of(values).show(2), results.ratios(name).show(2))
    console.print(table)


def plot_of(results: Results) -> str:
    """Return a page of bars."""
    from v2x_loadtest.bench.plot import Chart, page  # noqa: PLC0415  (it needs ``Spread``)

    return page(results.title, [], [Chart(results.title, results.unit, results.rounds, results.base, 2)])
