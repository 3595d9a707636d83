"""A clock that jumps, for one process: a small library that is preloaded into it (see clock.c)."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

from v2x.errors import ConfigError

_SOURCE: Final = Path(__file__).with_name("clock.c")


def why_not() -> str:
    """Return why no clock can be made here, or nothing."""
    if platform.system() != "Linux":
        return "clocks of single processes are changed by LD_PRELOAD, which is Linux's"
    return "" if shutil.which("cc") else "no C compiler `cc` to make the clock with (Debian: apt install gcc)"


class Clock:
    """The library and the file with its shift, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        """Compile it; ConfigError if that fails."""
        folder.mkdir(parents=True, exist_ok=True)
        self._shift, library = folder / "shift", folder / "clock.so"
        self.set(0)
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise ConfigError(f"the clock cannot be compiled: {done.stderr.strip()[-500:]}")
        self.environment = {"LD_PRELOAD": str(library), "V2X_CLOCK": str(self._shift)}

    def set(self, seconds: int) -> None:
        """Let the clock be so much ahead of the true one, from now on."""
        data = seconds.to_bytes(8, "little", signed=True)
        if self._shift.exists():
            with self._shift.open("r+b") as file:  # the file that is mapped, not a new one
                file.write(data)
        else:
            self._shift.write_bytes(data)
