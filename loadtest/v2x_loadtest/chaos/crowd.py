"""The load: `v2x simulate` as a child process, a recorded road side by side as often as the wanted rate needs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from v2x.errors import BrokerError

SCENE: Final = "motorway"
COPY_RATE: Final = 270.0  # messages a second of one copy of the scene
OFFSET_S: Final = 20.0  # traffic fills the road by then
_PUBLISHED: Final = re.compile(r"published ([\d,]+)")
_CONNECT_S: Final = 60.0
_STOP_S: Final = 30.0


def copies_for(rate: float) -> int:
    """Return how many copies send at least ``rate`` messages a second."""
    return max(1, -(-round(rate) // round(COPY_RATE)))


class Crowd:
    """One run of the simulator; devices keep their ids, boots and sequence numbers over reconnects."""

    def __init__(self, mqtt: str, folder: Path, copies: int, seed: int) -> None:
        """``folder`` takes its ledger and its log."""
        self.published = 0
        self.ledger = folder / "ledger"
        command = [sys.executable, "-m", "v2x_loadtest.cli", "simulate", "--scene", SCENE, "--mqtt", mqtt]
        command += ["--ledger", str(self.ledger), "--scale", str(copies), "--seed", str(seed), "--loop", "--json"]
        command += ["--offset", str(OFFSET_S), "--duration", str(10**6)]
        # A session of its own: Ctrl-C reaches us first, and we stop it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._log = folder / "simulate.log"
        self._said = ""
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    @property
    def pid(self) -> int:
        """Return its pid."""
        return self._process.pid

    def wait_until_sending(self) -> None:
        """Wait for the first messages; BrokerError if none come."""
        deadline = time.monotonic() + _CONNECT_S
        while not self.published:
            self.check()
            if time.monotonic() > deadline:
                raise BrokerError(f"the simulator sends nothing after {_CONNECT_S:.0f} s: {self._said}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise BrokerError if it has ended."""
        if self._process.poll() is not None:
            raise BrokerError(f"the simulator ended with {self._process.returncode}: {self._said or 'it said nothing'}")

    def end(self) -> dict[str, Any]:
        """Stop sending, wait for what can still be acknowledged; return the simulator's summary."""
        self._process.terminate()
        assert self._process.stdout is not None
        said = self._process.stdout.read()
        self._process.wait(_STOP_S)
        self._listening.join(5.0)
        if self._process.returncode:
            raise BrokerError(f"the simulator ended with {self._process.returncode}: {self._said}")
        found: dict[str, Any] = json.loads(said)
        return found

    def close(self) -> None:
        """End it if it still runs, whatever became of it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError, ValueError):
                    pipe.close()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError), self._log.open("w") as log:
            for line in self._process.stderr:
                log.write(line)
                found = _PUBLISHED.search(line)
                if found:
                    self.published = int(found[1].replace(",", ""))
                elif line.strip():
                    self._said = line.strip()
