"""A child process with a folder of its own: log, pid file, a start that waits until it serves, a stop by pid."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Self

from v2x.errors import BrokerError

_STOP_S: Final = 20.0


class Process:
    """Base of brokers and services that we start. ``name`` names its files; the command line must name ``folder``."""

    name = ""
    start_s = 60.0

    def __init__(self, folder: Path | str, on_line: Callable[[str], None] | None = None) -> None:
        """``on_line`` hears each line that the process writes (it goes to the log file as well)."""
        self.folder = Path(folder).resolve()
        self.process: subprocess.Popen[bytes] | None = None
        self._on_line = on_line
        self._pump: threading.Thread | None = None

    def check(self) -> None:
        """Raise BrokerError if it cannot be started, for reasons that it would itself tell badly."""

    def command(self) -> Sequence[str]:
        """Return the command line, having made what it needs."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        """Return its environment; None for ours."""
        return None

    def serves(self) -> bool:
        """Say whether it is of use yet."""
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """Return the pid while the process lives."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    @property
    def log_path(self) -> Path:
        """Return where what it writes goes."""
        return self.folder / f"{self.name}.log"

    def start(self) -> Self:
        """Start and wait until it serves; BrokerError, with what it said last, if it does not."""
        self.spawn()
        self.wait_until_serving()
        return self

    def spawn(self) -> None:
        """Start without waiting."""
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stop_left_over()
        self.check()
        _raise_open_files()
        command = self.command()
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C reaches us first, and we say in which order things stop.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log if self._on_line is None else subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                start_new_session=True,
            )
        self._pid_file.write_text(str(self.process.pid))
        if self.process.stdout is not None:
            self._pump = threading.Thread(target=self._pump_lines, args=(self.process.stdout,), daemon=True)
            self._pump.start()

    def wait_until_serving(self) -> None:
        """Wait until it serves."""
        process = self.process
        assert process is not None
        deadline = time.monotonic() + self.start_s
        while not self.serves():
            code = process.poll()
            if code is not None or time.monotonic() > deadline:
                self.kill()
                why = f"ended with {code}" if code is not None else f"does not serve after {self.start_s:.0f} s"
                raise BrokerError(f"{self.name} {why}: {self.last_line()} (log: {self.log_path})")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop cleanly; kill if that takes over 20 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9, as a fault."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    def last_line(self) -> str:
        """Return the last line of its log."""
        with contextlib.suppress(OSError, IndexError):
            return self.log_path.read_bytes()[-4000:].decode("utf-8", "replace").strip().splitlines()[-1][:500]
        return "it said nothing"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def _pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    def _end(self, how: signal.Signals) -> None:
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._pump is not None:
            self._pump.join(1.0)
        self._pid_file.unlink(missing_ok=True)

    def _pump_lines(self, pipe: IO[bytes]) -> None:
        assert self._on_line is not None
        with pipe, self.log_path.open("ab") as log:
            for line in pipe:
                log.write(line)
                log.flush()
                self._on_line(line.decode("utf-8", "replace").rstrip("\n"))

    def _stop_left_over(self) -> None:
        """Stop what a killed supervisor left: the process of the pid file, if its command line names the folder."""
        try:
            pid = int(self._pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if str(self.folder).encode() in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_S
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.05)


def _raise_open_files() -> None:
    """Let children open as many files as the system allows: a broker has a connection for each device."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
