"""The standing audit's state on disk: one file, whole or absent, from which it goes on after a kill."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from v2x_services.whole import write_whole

FORMAT: Final = 1
log = structlog.get_logger("audit")


class Kept(NamedTuple):
    """What a file holds: plain values, and arrays by name."""

    head: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def save(path: Path, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write the file; its members have checksums."""
    blob = io.BytesIO()
    text = json.dumps({"format": FORMAT, **head}).encode()
    np.savez(blob, allow_pickle=False, head=np.frombuffer(text, np.uint8), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, blob.getbuffer())


def load(path: Path) -> Kept | None:
    """Return what was saved; None if there is nothing, nothing whole, or nothing of this format."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = dict(file)
        head = json.loads(arrays.pop("head").tobytes())
        if head["format"] == FORMAT:
            return Kept(head, arrays)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
        pass
    log.error("the saved state is damaged or of another version: beginning at the end of the log", file=str(path))
    return None
