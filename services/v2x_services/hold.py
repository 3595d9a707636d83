"""A lock on a file that says who does the work, and a pulse that says that he lives.

The system lets the lock go when its holder ends, however that ends. A holder beats now and then, by the file's time (a
counter: no clock is read); one that has not beaten for ``FROZEN_S`` may lose the lock by force, and sees it at its next
beat: it must stop then, and what it does until then must do no harm.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from v2x.errors import BrokerError, V2XError

LOOK_S: Final = 0.02  # between two tries of who waits
BEAT_S: Final = 1.0
FROZEN_S: Final = 8.0
_STOOD_S: Final = 2.0


class HeldError(V2XError):
    """Another process has the lock."""


class TakenOverError(BrokerError):
    """Another process has taken the lock by force, since we seemed to be frozen: it does the work now."""


class Hold:
    """The lock at ``path``, whose folder must exist; raises HeldError, or OSError where it cannot be made."""

    def __init__(self, path: Path, *, by_force: bool = False) -> None:
        self._path = path
        if by_force:
            path.unlink(missing_ok=True)  # the other keeps its lock, on a file without a name
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self.close()
            raise HeldError(f"another process has {path}") from e

    def beat(self) -> bool:
        """Show that we live; False where the lock of that name is ours no more."""
        try:
            ours, named = os.fstat(self._file), self._path.stat()
            os.utime(self._file, ns=(ours.st_atime_ns, ours.st_mtime_ns + 1))
        except OSError:
            return False
        return ours.st_ino == named.st_ino

    def close(self) -> None:
        """Let it go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class Pulse:
    """The pulse of whoever has the lock at ``path``, as one sees it that waits for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beats = -1
        self._heard = self._looked = float("-inf")

    def frozen(self, now: float) -> bool:
        """Look, and say whether it has not beaten for too long; ``now``: monotonic, seconds."""
        try:
            beats = self._path.stat().st_mtime_ns
        except OSError:
            beats = 0  # there is no lock
        # If we stood still ourselves, the other may have stood still with us.
        if beats != self._beats or now - self._looked > _STOOD_S:
            self._beats, self._heard = beats, now
        self._looked = now
        return now - self._heard > FROZEN_S
