"""`v2x bench audit`: CPU of the audits and of confirm, as shares of what ingest takes for the same messages.

Everything runs as `v2x up` runs it, under the simulator's load. Ingest, the standing audit and confirm are measured
from before the first message until all are in the log; then the full audit, a process of its own, reads that log and
judges it by the simulator's ledger. So all counts are of the same messages. What the full audit takes to start, imports
and kernels, is told apart: it is the same for any log. Shares travel, absolute figures do not.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from v2x.errors import BrokerError

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Log, read_log
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.bench.proc import Usage
from v2x_loadtest.chaos.crowd import SCENE, Crowd, copies_for
from v2x_loadtest.chaos.world import World
from v2x_loadtest.scene import load_scene
from v2x_loadtest.simulate.scale import scaled_zones
from v2x_loadtest.stack import Stack

PARTS: Final = {
    "ingest": "ingest",
    "standing": "standing audit",
    "full": "full audit, afterwards",
    "confirm": "confirm",
}
_SERVICES: Final = {"ingest": "ingest", "standing": "audit", "confirm": "confirm"}
_KEEP_UP_S: Final = 30.0
_DRAIN_S: Final = 60.0
_FULL_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What was asked for."""

    rate: float = 2000.0  # messages a second
    seconds: float = 30.0
    rounds: int = 3
    partitions: int = 8
    seed: int = 1


@dataclass(frozen=True, slots=True)
class AuditRound:
    """One run."""

    messages: int  # that ingest forwarded
    records: int  # uplinks that the full audit read, halo copies left out
    cpu: dict[str, float]  # seconds, by the names of ``PARTS``
    start: float  # CPU seconds of the full audit's start, not in ``cpu``
    lost: int  # by the full audit
    standing_lost: int

    def shares(self) -> dict[str, float]:
        """Return the CPU as shares of ingest's."""
        return {name: round(s / self.cpu["ingest"], 4) for name, s in self.cpu.items() if name != "ingest"}


def run(options: AuditOptions, say: Callable[[str], None]) -> list[AuditRound]:
    """Run all rounds, each with brokers of its own."""
    made = []
    for nth in range(options.rounds):
        say(f"round {nth + 1} of {options.rounds}")
        with tempfile.TemporaryDirectory(prefix="v2x-bench-", ignore_cleanup_errors=True) as folder:
            made.append(_round(options, Path(folder), say))
    return made


def _round(options: AuditOptions, folder: Path, say: Callable[[str], None]) -> AuditRound:
    copies = copies_for(options.rate)
    zones = folder / "zones.json"
    zones.write_text(json.dumps(scaled_zones(load_scene(SCENE), copies), ensure_ascii=False), "utf-8")
    with Stack(folder / "run", zones, partitions=options.partitions, audit=True) as stack:
        world = World(stack, folder, options.rate, say, options.seed)
        pids = {part: stack.pid(name) for part, name in _SERVICES.items()}
        before, had = Usage.of(pids), world.sums()
        world.crowd = crowd = Crowd(f"{stack.mqtt_host}:{stack.mqtt_port}", folder, copies, options.seed)
        try:
            crowd.wait_until_sending()
            if not world.wait_until_keeping_up(_KEEP_UP_S):
                raise BrokerError(f"ingest does not keep up with {options.rate:g} messages a second on this machine")
            world.rest(options.seconds)
            crowd.end()
        finally:
            crowd.close()
            world.crowd = None
        if not world.drain(_DRAIN_S):
            raise BrokerError("ingest and fusion did not come to the end of the load")
        used, has = Usage.of(pids).since(before), world.sums()
        name = "v2x_ingest_forwarded_total"
        full = _full(stack.kafka_bootstrap, crowd.ledger)
        return AuditRound(
            messages=int(has[name] - had.get(name, 0.0)),
            records=full["records"],
            cpu={part: full["cpu_s"] if part == "full" else used[part] for part in PARTS},
            start=full["start_s"],
            lost=full["lost"],
            standing_lost=int(has.get("v2x_audit_lost_total", 0.0)),
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


def as_dict(options: AuditOptions, rounds: list[AuditRound]) -> dict[str, Any]:
    """Return everything, JSON-able."""
    rows = [
        {
            "messages": r.messages, "records": r.records, "lost": r.lost, "standing_lost": r.standing_lost,
            "cpu_s": {name: round(s, 3) for name, s in r.cpu.items()}, "full_start_s": round(r.start, 3),
            "shares": r.shares(),
        }
        for r in rounds
    ]  # fmt: skip
    return {
        "rate": options.rate, "seconds": options.seconds, "partitions": options.partitions, "rounds": rows,
        "shares": {name: median(r.shares()[name] for r in rounds) for name in rounds[0].shares()},
    }  # fmt: skip


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
