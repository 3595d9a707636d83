"""Files that are whole or not there: a crash at any moment leaves the old content or the new."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write ``parts`` beside ``path`` and put that in its place, both on disk before it returns."""
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as f:
        f.writelines(parts)
        f.flush()
        os.fsync(f.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
