"""The world that a fault befalls: the stack, the crowd that sends, and what can be done to them.

A fault marks when it began and when it was lifted; recovery counts from the latter. A kill has both at once: what comes
after it is the recovery. What a fault starts or stops beside the stack is undone when the world ends.
"""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from v2x.errors import BrokerError

from v2x_loadtest.bench.proc import rss_mb
from v2x_loadtest.chaos.crowd import Crowd
from v2x_loadtest.chaos.side import Side
from v2x_loadtest.demo.scrape import sums
from v2x_loadtest.stack import Stack

_POLL_S: Final = 0.25
_NEAR_S: Final = 0.25  # fusion is this much of the input behind at most: it keeps up
_QUIET: Final = 4  # looks in a row
_PASS: Final = ("v2x_ingest_forwarded_total", "v2x_fusion_fused_total")
_LEAST: Final = 100  # records; ticks keep coming


class World:
    """Running brokers, services and crowd."""

    def __init__(self, stack: Stack, folder: Path, rate: float, say: Callable[[str], None], seed: int) -> None:
        self.stack, self.folder, self.rate, self.seed = stack, folder, rate, seed
        self.crowd: Crowd | None = None
        self.sides: list[Side] = []
        self.parts: dict[str, Any] = {}  # what the row's setup made: a cluster, a tunnel, a clock, a build
        self.facts: dict[str, float] = {}  # what a row's own expectation needs
        self.began_us = self.lifted_us = 0
        self._say = say
        self._before: dict[str, float] = {}

    def begin(self, what: str) -> None:
        """Mark the beginning of a fault."""
        now = time.time_ns() // 1000
        self.began_us = self.began_us or now
        self.lifted_us = now
        self._say(f"fault: {what}")

    def lift(self, what: str) -> None:
        """Mark that the fault is over."""
        self.lifted_us = time.time_ns() // 1000
        self._say(f"over: {what}")

    def rest(self, seconds: float) -> None:
        """Let time pass; BrokerError if the crowd has gone meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.crowd is not None:
                self.crowd.check()
            time.sleep(min(left, 0.2))

    # Processes.

    def kill(self, *names: str) -> None:
        """Kill -9 parts at once; they are started again by their keeper. Waits until they serve."""
        self.begin(f"kill -9 of {' and '.join(names)}")
        killed = {name: self.stack.kill(name) for name in names}
        for name, pid in killed.items():
            self.stack.wait_ready(name, not_pid=pid)

    def freeze(self, *names: str, seconds: float) -> None:
        """SIGSTOP parts for some time, then SIGCONT."""
        self.begin(f"SIGSTOP of {' and '.join(names)} for {seconds:g} s")
        with self.stopped(*names):
            self.rest(seconds)
        self.lift("SIGCONT")

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """Keep parts stopped; they go on at the end whatever happens."""
        pids = [pid for name in names if (pid := self.stack.pid(name)) is not None]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Stop a part cleanly and start it again."""
        self.begin(f"clean restart of {name}")
        self.stack.restart(name)

    def outage(self, name: str, seconds: float) -> None:
        """Kill -9 a part and keep it away for some time; the outage ends when it is started."""
        self.begin(f"{name} is killed and away for {seconds:g} s")
        self.stack.down(name)
        self.rest(seconds)
        self.lift(f"{name} is started")
        self.stack.revive(name)
        self.stack.wait_ready(name)

    # Figures.

    def metrics(self, name: str = "") -> str:
        """Return the metrics of a service as text, of all without a name; empty where nobody answers."""
        out = ""
        for service in self.stack.services.values():
            if service.url and name in {"", service.name}:
                with suppress(OSError, ValueError):
                    found = urllib.request.urlopen(f"{service.url}/metrics", timeout=1.0)  # noqa: S310 - our own port
                    with found:
                        out += found.read().decode()
        return out

    def sums(self) -> dict[str, float]:
        """Return the sum over all series and services of each metric."""
        return sums(self.metrics().splitlines())

    def busiest(self, kind: str = "fusion", metric: str = "v2x_fusion_tracks") -> str:
        """Return the process of a kind that has the most of a metric now: the fusion worker with the most tracks."""
        names = [name for name in self.stack.services if name.startswith(kind)]
        return max(names, key=lambda name: sums(self.metrics(name).splitlines()).get(metric, 0.0))

    def dropped(self) -> int:
        """Return how many messages ingest has dropped and counted; those that its other session has are none."""
        lines = [line for line in self.metrics().splitlines() if 'reason="elsewhere"' not in line]
        return int(sums(lines).get("v2x_ingest_dropped_total", 0.0))

    def memory(self) -> dict[str, float]:
        """Return the resident MB of each part."""
        parts = {"kafka": self.stack.kafka, "mosquitto": self.stack.mosquitto, **self.stack.services}
        return {name: rss_mb(part.pid) for name, part in parts.items() if part is not None and part.pid is not None}

    def keeps_up(self) -> bool:
        """Say whether messages pass, and none is held back anywhere, as far as metrics tell."""
        now, before = self.sums(), self._before
        self._before = now
        # A service whose connection is dead without its knowing says that all is well, but nothing passes.
        passes = all(0 < before.get(name, 0.0) < now.get(name, 0.0) for name in _PASS)
        near = max(self.rate * _NEAR_S, _LEAST)
        held = not 0 <= now.get("v2x_fusion_lag_records", -1.0) <= near or now.get("v2x_ingest_in_flight", near) >= near
        return passes and not held

    def wait_until_keeping_up(self, seconds: float) -> bool:
        """Wait until the services keep up, looked at several times."""
        return self._several(self.keeps_up, seconds)

    def drain(self, seconds: float) -> bool:
        """With the crowd gone: wait until the MQTT broker has nothing more for ingest, and fusion is at its end."""
        before = -1.0

        def idle() -> bool:
            nonlocal before
            now = self.sums()
            received, before_ = now.get("v2x_ingest_received_total", -1.0), before
            before = received
            behind = now.get("v2x_fusion_lag_records", 1e9)
            return received == before_ and not now.get("v2x_ingest_in_flight", 1.0) and 0 <= behind <= _LEAST

        return self._several(idle, seconds, _QUIET * 2)

    def settle(self) -> None:
        """Stop ingest, let fusion take what is left, stop fusion: then the log is at its end, and all is told of it."""
        for name in [n for n in self.stack.services if n.startswith("ingest")]:
            self.stack.retire(name)
        self._several(lambda: self.sums().get("v2x_fusion_lag_records", 1.0) == 0.0, 20.0, 2)
        for name in [n for n in self.stack.services if n.startswith("fusion")]:
            self.stack.retire(name)

    def _several(self, true: Callable[[], bool], seconds: float, times: int = _QUIET) -> bool:
        deadline, quiet = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            if self.crowd is not None:
                self.crowd.check()
            quiet = quiet + 1 if true() else 0
            if quiet >= times:
                return True
            time.sleep(_POLL_S)
        return False

    def outage_budget_s(self) -> float:
        """Return what ingest says of the perishable session; BrokerError if it says nothing."""
        for line in self.metrics("ingest").splitlines():
            if line.startswith("v2x_ingest_outage_budget_seconds{") and 'session="perishable"' in line:
                return float(line.rpartition(" ")[2])
        raise BrokerError("ingest does not tell its outage budget")
