"""Snapshots of one input partition: files written atomically, the newest three kept, a damaged one passed over.

A file is one JSON line (what the snapshot belongs to, and the CRC-32 of the rest) and the core's own bytes. It is
complete or absent: written beside its place, fsynced, renamed, the folder fsynced. A lock keeps a second process away.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import structlog
from v2x.errors import ConfigError

from v2x_services.hold import HeldError, Hold
from v2x_services.whole import write_whole

KEEP: Final = 3
LOCK: Final = "lock"
_FORMAT: Final = 2
# How a file is summed, by its format; a new version goes on from what an old one has left.
_SUMS: Final[dict[int, tuple[str, Callable[[bytes | memoryview], str]]]] = {
    1: ("sha256", lambda blob: hashlib.sha256(blob).hexdigest()),
    2: ("crc32", lambda blob: f"{zlib.crc32(blob):08x}"),
}
log = structlog.get_logger("fusion")


@dataclass(frozen=True, slots=True)
class Label:
    """What a snapshot belongs to."""

    topic: str
    partition: int
    partitions: int
    generation: str  # of the input topic
    position: int  # last input offset taken in
    clean: bool  # everything up to the position is out, and nothing beyond
    code: str  # version of the code, and of the schemas
    config: str  # checksum of the zones and of what changes results


class StoreHeldError(ConfigError):
    """Another process has these snapshots open."""


class Snapshots:
    """Snapshots of one partition in ``folder``, to be read, whoever writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self) -> tuple[Label, bytes] | None:
        """Return the newest snapshot that is whole, or None."""
        for path in self._newest_first():
            found = _read(path)
            if found is not None:
                return found
            log.error("snapshot is damaged, taking the one before", file=str(path))
        return None

    def label(self) -> Label | None:
        """Return what the newest snapshot says of itself, or None."""
        for path in self._newest_first():
            try:
                with path.open("rb") as f:
                    fields = json.loads(f.readline())
                name, _ = _SUMS[fields.pop("format")]
                del fields[name]
                return Label(**fields)
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return None

    def position(self) -> int:
        """Return the position of the newest snapshot, by its file's name; -1 if there is none."""
        return max((int(path.stem) for path in self.folder.glob("*.snap")), default=-1)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.snap"), reverse=True)


class SnapshotStore(Snapshots):
    """Snapshots of one partition in ``folder``; raises StoreHeldError if another process has them open."""

    def __init__(self, folder: Path, *, by_force: bool = False) -> None:
        """``by_force``: take them even so. Both write the same then, for a snapshot is a function of the log."""
        super().__init__(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._hold = Hold(folder / LOCK, by_force=by_force)
        except OSError as e:
            msg = f"cannot keep snapshots in {folder}: {e}; give another state_dir (V2X_STATE_DIR)"
            raise ConfigError(msg) from e
        except HeldError as e:
            msg = f"another process fuses from {folder}; stop it, or give this one another state_dir or partitions"
            raise StoreHeldError(msg) from e

    def beat(self) -> bool:
        """Show that we live; False where the snapshots are ours no more."""
        return self._hold.beat()

    def close(self) -> None:
        """Let others have the folder."""
        self._hold.close()

    def save(self, label: Label, blob: bytes | memoryview) -> int:
        """Write a snapshot and drop the oldest; return the file's size."""
        name, sum_of = _SUMS[_FORMAT]
        head = json.dumps({"format": _FORMAT, name: sum_of(blob), **asdict(label)}).encode()
        path = self.folder / f"{label.position:020d}.snap"
        write_whole(path, head + b"\n", blob)
        for old in self._newest_first()[KEEP:]:
            old.unlink(missing_ok=True)
        return len(head) + 1 + len(blob)

    def retire(self) -> None:
        """Put all snapshots aside: they belong to another world."""
        for path in self._newest_first():
            path.rename(path.with_suffix(".retired"))


def _read(path: Path) -> tuple[Label, bytes] | None:
    try:
        head, _, blob = path.read_bytes().partition(b"\n")
        fields = json.loads(head)
        name, sum_of = _SUMS[fields.pop("format")]
        if fields.pop(name) != sum_of(blob):
            return None
        return Label(**fields), blob
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
