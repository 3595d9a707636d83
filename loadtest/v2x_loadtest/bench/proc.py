"""CPU and memory of processes with all their children, from /proc; on which cores they run, and their end by force."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PARENT: Final = 1  # of the fields after the command's name
_TIMES: Final = slice(11, 15)  # user and system, of the process and of its children that have ended


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it; nothing if it is gone."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text("utf-8", "replace").rpartition(")")[2].split()
            children.setdefault(int(fields[_PARENT]), []).append(int(path.parent.name))
    found = [pid] if Path(f"/proc/{pid}").exists() else []
    for one in found:  # grows as it goes
        found += children.get(one, [])
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) of a process and its children that have ended; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0.0
    return cpu_of_stat(stat)


def cpu_of_stat(stat: str) -> float:
    """Return the CPU seconds in a line of /proc/PID/stat; the command's name in it may hold anything."""
    return sum(map(int, stat.rpartition(")")[2].split()[_TIMES])) * _TICK_S


def rss_mb(pid: int) -> float:
    """Return the resident set in MB (10^6 bytes) of a process and its children; shared pages count in each."""
    return sum(map(_rss_mb, tree(pid)))


def _rss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of named processes, each with its children, at a moment."""

    cpu: Mapping[str, float]

    @classmethod
    def of(cls, pids: Mapping[str, int | None]) -> Usage:
        """Read it."""
        return cls({name: sum(map(cpu_s, tree(pid))) for name, pid in pids.items() if pid is not None})

    def since(self, before: Usage) -> dict[str, float]:
        """Return CPU seconds used since ``before``."""
        return {name: self.cpu[name] - before.cpu[name] for name in self.cpu if name in before.cpu}


def kill_tree(pid: int) -> None:
    """Kill -9 a process and all its children."""
    for one in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Keep this thread, and what it starts, on these cores; no cores, or a system without the call: as it was."""
    wanted = set(cores)
    if not wanted or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
