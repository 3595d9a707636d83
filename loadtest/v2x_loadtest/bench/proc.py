"""CPU and memory of processes, from /proc: user and system time of all threads, resident set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11  # of the fields after the command's name
_STIME: Final = 12


def cpu_s(pid: int) -> float:
    """Return the CPU seconds (user and system) that a process has used; 0 if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0.0
    return cpu_of_stat(stat)


def cpu_of_stat(stat: str) -> float:
    """Return utime + stime of a line of /proc/PID/stat; the command's name in it may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_S


def rss_mb(pid: int) -> float:
    """Return the resident set in MB (10^6 bytes); 0 if the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of named processes at a moment."""

    cpu: Mapping[str, float]

    @classmethod
    def of(cls, pids: Mapping[str, int | None]) -> Usage:
        """Read it."""
        return cls({name: cpu_s(pid) for name, pid in pids.items() if pid is not None})

    def since(self, before: Usage) -> dict[str, float]:
        """Return CPU seconds used since ``before``."""
        return {name: self.cpu[name] - before.cpu[name] for name in self.cpu if name in before.cpu}


def pin(pid: int, cores: Iterable[int]) -> bool:
    """Keep a process, with the threads it has, on these cores; False where that cannot be done."""
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), set(cores))
    except (OSError, AttributeError):
        return False
    return True
