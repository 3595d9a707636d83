"""Keeping processes alive: whatever ends is started again with back-off, until it is let go."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from v2x.errors import BrokerError

from v2x_services.process import Process

Say = Callable[[str, str], None]  # who, line
_BACK_OFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SETTLED_S: Final = 30.0


class Service(Process):
    """One `v2x ingest` or `v2x fuse`; ``name`` is also that of its port file."""

    start_s = 240.0  # the first start on a machine compiles kernels: a minute of CPU, and others may want it too

    def __init__(
        self,
        name: str,
        args: list[str],
        folder: Path,
        env: Mapping[str, str],
        say: Say,
        state_dir: Path | None = None,
    ) -> None:
        super().__init__(folder, lambda line: say(name, line))
        self.name = name
        self.state_dir = state_dir or self.folder / "state"  # of its snapshots and port file
        self.env = env  # read at each start
        self._args = args

    @property
    def url(self) -> str:
        """Return where it serves /metrics, /healthz and /readyz; empty before it told."""
        try:
            return f"http://127.0.0.1:{int((self.state_dir / f'{self.name}.port').read_text())}"
        except (OSError, ValueError):
            return ""

    def command(self) -> list[str]:
        """Return the command line; the old port file goes, so that ``serves`` asks the new process."""
        (self.state_dir / f"{self.name}.port").unlink(missing_ok=True)
        return [sys.executable, "-m", "v2x_loadtest.cli", *self._args, "--state-dir", str(self.state_dir)]

    def environment(self) -> Mapping[str, str]:
        """Return our environment with the settings it was given."""
        return {**os.environ, **self.env}

    def serves(self) -> bool:
        """Ask /readyz."""
        return self.not_ready() == ""

    def not_ready(self) -> str:
        """Return why it is not ready, or nothing."""
        if not self.url:
            return "no answer yet"
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2.0):  # noqa: S310  (our own loopback port)
                return ""
        except urllib.error.HTTPError as e:
            return str(json.loads(e.read() or b"{}").get("why", e))
        except (OSError, ValueError) as e:
            return str(e)


class Keeper:
    """Starts processes again whenever they end."""

    def __init__(self, say: Say) -> None:
        self.restarts: dict[str, int] = {}
        self.stopping = threading.Event()
        self._say = say
        self._watchers: dict[str, tuple[threading.Thread, threading.Event]] = {}

    def watch(self, process: Process) -> None:
        """Watch a process that was started."""
        let_go = threading.Event()
        watcher = threading.Thread(
            target=self._watch, args=(process, let_go), name=f"watch {process.name}", daemon=True
        )
        self._watchers[process.name] = watcher, let_go
        watcher.start()

    def release(self, name: str) -> None:
        """Watch a process no more; it is not stopped by that."""
        watcher, let_go = self._watchers.pop(name, (None, None))
        if watcher is not None and let_go is not None:
            let_go.set()
            watcher.join(5.0)

    def stop(self) -> None:
        """Watch nothing any more."""
        self.stopping.set()
        for _, let_go in self._watchers.values():
            let_go.set()
        for name in list(self._watchers):
            self.release(name)

    def _watch(self, process: Process, let_go: threading.Event) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            code = _wait(process, let_go)
            if code is None:
                return
            attempt = 0 if time.monotonic() - began > _SETTLED_S else attempt
            wait = _BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)] if code or attempt else 0.0  # as asked: no fault
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            self._say("up", f"{process.name} {how}, starting it again in {wait} s")
            if let_go.wait(wait):
                return
            attempt += 1
            self.restarts[process.name] = self.restarts.get(process.name, 0) + 1
            try:
                process.spawn()
            except (BrokerError, OSError) as e:
                self._say("up", f"{process.name} cannot be started: {e}")


def stop_all(processes: Sequence[Process]) -> None:
    """Stop processes cleanly, all at once."""
    with ThreadPoolExecutor(max_workers=max(1, len(processes))) as pool:
        list(pool.map(lambda process: process.stop(), processes))


def _wait(process: Process, let_go: threading.Event) -> int | None:
    """Return the exit code once the process has ended; None when it is let go."""
    while not let_go.is_set():
        child = process.process
        code = child.poll() if child is not None else 1
        if code is not None:
            return code
        let_go.wait(0.02)
    return None
