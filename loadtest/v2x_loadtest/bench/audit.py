"""`v2x bench audit`: CPU of the audits, as shares of what ingest takes for the same messages.

The load is that of `v2x bench province`: RSUs with ten RSMs a second each. Ingest and the standing audit are measured
from before the first message until all are in the log; then the full audit, a process of its own, reads that log and
judges it by the publisher's ledger. So all counts are of the same messages. What the full audit takes to start, imports
and kernels, is told apart: it is the same for any log. Shares travel, absolute figures do not; the fewer messages a
second come, the more ingest takes for each, and the smaller are the shares.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from v2x.errors import BrokerError

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Log, read_log
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.bench import flow
from v2x_loadtest.bench.drive import Publishing
from v2x_loadtest.bench.flow import FlowOptions
from v2x_loadtest.bench.proc import Usage
from v2x_loadtest.stack import Stack

PARTS: Final = {"ingest": "ingest", "standing": "standing audit", "full": "full audit, afterwards"}
_SERVICES: Final = {"ingest": "ingest", "standing": "audit"}
_MAKING_S: Final = 8.0
_FULL_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class AuditRound:
    """One run."""

    published: int
    messages: int  # that ingest forwarded
    records: int  # uplinks that the full audit read, halo copies left out
    cpu: dict[str, float]  # seconds, by the names of ``PARTS``
    start: float  # CPU seconds of the full audit's start, not in ``cpu``
    lost: int  # by the full audit
    standing_lost: int

    def shares(self) -> dict[str, float]:
        """Return the CPU as shares of ingest's."""
        return {name: round(s / self.cpu["ingest"], 4) for name, s in self.cpu.items() if name != "ingest"}


def run(options: FlowOptions, rounds: int, say: Callable[[str], None]) -> list[AuditRound]:
    """Run all rounds, each with brokers of its own; there is no warm-up."""
    made = []
    for nth in range(rounds):
        say(f"round {nth + 1} of {rounds}")
        with tempfile.TemporaryDirectory(prefix="v2x-bench-", ignore_cleanup_errors=True) as folder:
            made.append(_round(options, Path(folder), say))
    return made


def _round(options: FlowOptions, folder: Path, say: Callable[[str], None]) -> AuditRound:
    scene, doc, _ = flow.prepare(options, say)
    zones = folder / "zones.json"
    zones.write_text(json.dumps(doc, ensure_ascii=False), "utf-8")
    with Stack(folder / "run", zones, partitions=options.partitions, confirm=False, audit=True) as stack:
        load = flow.content(scene, options, _MAKING_S)
        load.save(folder / "load")
        rows = round(load.rate * options.seconds * 1.02) + 1000
        pids = {part: stack.pid(name) for part, name in _SERVICES.items()}
        ledger = folder / "ledger"
        with Publishing(folder / "load", stack.mqtt_host, stack.mqtt_port, rows, ledger) as publishing:
            publishing.wait_ready()
            before = Usage.of(pids)
            publishing.go(options.seconds, load.start_ms)
            while publishing.running():
                time.sleep(0.2)
            summary = publishing.summary()
        if not flow.drain(stack):
            raise BrokerError("ingest or fusion did not come to the end of the load: give fewer RSUs")
        used, told = Usage.of(pids).since(before), flow.metrics(stack)
        full = _full(stack.kafka_bootstrap, ledger)
        return AuditRound(
            published=summary["sent"],
            messages=int(told["v2x_ingest_forwarded_total"]),
            records=full["records"],
            cpu={part: full["cpu_s"] if part == "full" else used[part] for part in PARTS},
            start=full["start_s"],
            lost=full["lost"],
            standing_lost=int(told.get("v2x_audit_lost_total", 0.0)),
        )


def _full(bootstrap: str, ledger: Path) -> dict[str, Any]:
    """Run the full audit in a process of its own; return what it says."""
    command = (sys.executable, "-m", __name__, bootstrap, str(ledger))
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FULL_S, check=False)
    if done.returncode:
        raise BrokerError(f"the full audit failed: {done.stderr.strip()[-300:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def audit_in_full(bootstrap: str, ledger: Path) -> dict[str, Any]:
    """Read and judge the whole log; return what that took of this process' CPU, and what was found."""
    log = Log()
    start = time.process_time()
    verdict = judge(asyncio.run(read_log(bootstrap, log=log)), Ledger.load(ledger))
    cpu = time.process_time() - start
    return {"start_s": start, "cpu_s": cpu, "records": len(log), "lost": verdict.account.lost}


def as_dict(options: FlowOptions, rounds: list[AuditRound]) -> dict[str, Any]:
    """Return everything, JSON-able."""
    return {
        "rsus": options.rsus,
        "seconds": options.seconds,
        "participants": options.participants,
        "partitions": options.partitions,
        "rounds": [asdict(r) | {"shares": r.shares()} for r in rounds],
        "shares": {name: median(r.shares()[name] for r in rounds) for name in rounds[0].shares()},
    }


def show(rounds: list[AuditRound], console: Console) -> None:
    """Print a table: medians, and the range over the rounds."""
    table = Table(title="CPU for the same messages", title_justify="left")
    for head in ("part", "CPU s", "µs a message", "share of ingest's", "range"):
        table.add_column(head, justify="left" if head == "part" else "right", no_wrap=True)
    for name, text in PARTS.items():
        row = [f"{median(r.cpu[name] for r in rounds):.2f}"]
        row.append(f"{median(1e6 * r.cpu[name] / max(r.messages, 1) for r in rounds):.2f}")
        if name != "ingest":
            shares = [r.shares()[name] for r in rounds]
            row += [f"{median(shares):.1%}", f"{min(shares):.1%} – {max(shares):.1%}"]
        table.add_row(text, *row)
    console.print(table)
    messages, lost, seen = (sum(getattr(r, n) for r in rounds) for n in ("messages", "lost", "standing_lost"))
    console.print(
        f"{messages:,} messages; lost {lost:,}, by the standing audit {seen:,}; "
        f"the full audit's start took {median(r.start for r in rounds):.2f} s more",
        highlight=False,
    )


if __name__ == "__main__":
    print(json.dumps(audit_in_full(sys.argv[1], Path(sys.argv[2]))))
