"""What `--chaos` does to the running system, and when: kill -9 of ingest and fusion, and a restart of Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from v2x_loadtest.stack import Stack


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, at a share of the run."""

    at: float
    what: str
    part: str
    kill: bool  # kill -9; else a clean stop and start


PLAN: Final = (
    Fault(0.25, "kill -9 of ingest", "ingest", kill=True),
    Fault(0.5, "kill -9 of fusion", "fusion", kill=True),
    Fault(0.75, "restart of Kafka", "kafka", kill=False),
)


async def inflict(stack: Stack, duration_s: float, say: Callable[[str], None], plan: Sequence[Fault] = PLAN) -> None:
    """Carry out the plan; the clock starts now."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for fault in plan:
        await asyncio.sleep(max(0.0, start + fault.at * duration_s - loop.time()))
        say(f"fault: {fault.what}")
        began = loop.time()
        await asyncio.to_thread(_do, stack, fault)
        say(f"fault: {fault.what}: serving again after {loop.time() - began:.1f} s")


def _do(stack: Stack, fault: Fault) -> None:
    if fault.kill:
        stack.wait_ready(fault.part, not_pid=stack.kill(fault.part))
    else:
        stack.restart(fault.part)
