"""The service's state on disk: streams, and the offsets up to which the log is in them; one file, whole or absent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from v2x_services.whole import write_whole

_FORMAT: Final = 1
log = structlog.get_logger("confirm")


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file holds."""

    generations: dict[str, dict[str, str]]  # by topic and partition: the world it belongs to
    offsets: dict[str, dict[str, int]]  # by topic and partition: to go on from
    streams: list[Any]  # of ``Confirmations.dump``


def load(path: Path) -> Saved | None:
    """Return what was saved; None if there is nothing, or nothing whole."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    try:
        label = json.loads(head)
        if label["format"] == _FORMAT and label["sha256"] == hashlib.sha256(body).hexdigest():
            return Saved(**json.loads(body))
    except (ValueError, TypeError, KeyError):
        pass
    log.error("the saved state is damaged: reading the log from its beginning", file=str(path))
    return None


def save(path: Path, saved: Saved) -> None:
    """Write beside the file, then put it in its place."""
    body = json.dumps(
        {"generations": saved.generations, "offsets": saved.offsets, "streams": saved.streams}, separators=(",", ":")
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"format": _FORMAT, "sha256": hashlib.sha256(body).hexdigest()}).encode()
    write_whole(path, head + b"\n", body)
