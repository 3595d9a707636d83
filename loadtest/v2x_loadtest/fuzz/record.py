"""What campaigns came to, kept as a file of the documentation: a row for each target and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from v2x.errors import ConfigError

from v2x_loadtest.fuzz.totals import Tally

_HEAD = ("target", "run", "cases", "on", "CPU s", "cases / CPU s", "what they came to", "findings")


def row(target: str, run: str, tally: Tally, day: str) -> dict[str, Any]:
    """Return the row of a run."""
    return {
        "target": target, "run": run, "cases": tally.cases, "date": day, "cpu_s": round(tally.cpu_s, 1),
        "seen": dict(tally.seen.most_common()), "findings": len(tally.findings),
    }  # fmt: skip


def keep(path: Path, new: dict[str, Any]) -> None:
    """Put a row into a file, in place of that of an earlier time; ConfigError if the file is something else."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if path.is_file():
        try:
            rows = {(r["target"], r["run"]): r for r in json.loads(path.read_bytes())["runs"]}
        except (ValueError, TypeError, KeyError) as e:
            raise ConfigError(f"--record: {path} is no record of v2x fuzz ({e!r})") from e
    rows[new["target"], new["run"]] = new
    path.write_text(json.dumps({"runs": [rows[key] for key in sorted(rows)]}, indent=1) + "\n", "utf-8")


def markdown(record: dict[str, Any]) -> str:
    """Return the table of a record."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for r in record["runs"]:
        seen = ", ".join(f"{name.replace('_', ' ').lower()} {n:,}" for name, n in r["seen"].items())
        speed = f"{r['cases'] / r['cpu_s']:,.0f}" if r["cpu_s"] else ""
        spent = f"{r['cpu_s']:,.0f}" if r["cpu_s"] else ""  # not known of runs that began before it was counted
        cells = r["target"], r["run"], f"{r['cases']:,}", r["date"], spent, speed, seen, str(r["findings"])
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
