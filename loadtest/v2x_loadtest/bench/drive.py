"""Driving the publisher's process: start it, give it credit (closed loop) or let it run (open), hear its summary."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from v2x.errors import BrokerError

from v2x_loadtest.bench.publisher import CREDIT, OPEN_LOOP, SENT_ROWS, STOP

_LEAD_US: Final = 200_000
_STOP_S: Final = 30.0


class Publishing:
    """One run of the publisher's process; a context manager, so that it never outlives the benchmark."""

    def __init__(
        self, folder: Path, host: str, port: int, max_rows: int, ledger: Path, credit: int = OPEN_LOOP
    ) -> None:
        """``folder`` holds the load; ``credit`` rows may be sent at first, OPEN_LOOP: as they are due."""
        control = np.zeros(8, np.int64)
        control[CREDIT] = credit
        control.tofile(folder / "control")
        self.control = np.memmap(folder / "control", np.int64, "r+", shape=(8,))
        self._log = (folder / "publisher.log").open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "v2x_loadtest.bench.publisher",
                str(folder), host, str(port), str(max_rows), str(ledger),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._log_path = folder / "publisher.log"

    @property
    def pid(self) -> int:
        """Return its pid."""
        return self.process.pid

    @property
    def sent(self) -> int:
        """Return how many rows went out."""
        return int(self.control[SENT_ROWS])

    def wait_ready(self) -> None:
        """Wait until all devices are connected."""
        self._line("ready")

    def go(self, seconds: float, start_ms: Callable[[int], int] | None = None) -> int:
        """Begin; return when the first pass begins, microseconds UTC. ``start_ms`` says which moments are allowed."""
        earliest = (time.time_ns() // 1000 + _LEAD_US) // 1000
        t0_us = (start_ms(earliest) if start_ms else earliest) * 1000
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"t0_us": t0_us, "seconds": seconds}).encode() + b"\n")
        self.process.stdin.flush()
        return t0_us

    def running(self) -> bool:
        """Say whether it lives."""
        return self.process.poll() is None

    def summary(self) -> dict[str, Any]:
        """Wait for the end; return what it says."""
        found: dict[str, Any] = json.loads(self._line("{"))
        self.process.wait(_STOP_S)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.control[STOP] = 1
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(_STOP_S)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def _line(self, begins: str) -> str:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode().strip()
            if line.startswith(begins):
                return line
        said = self._log_path.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise BrokerError(f"the publisher ended: {said[-1][:500]}")
