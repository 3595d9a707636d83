"""Snapshots: everything an engine knows, so that what it says after a restart is the same to the byte.

::

    "V2XF" · format (1 byte) · BLAKE2b-256 of the rest · length of the head (4 bytes, big-endian) · head (JSON) · arrays

The head names format, code, configuration and schemas, the position in the log, and at its place where each array lies.
Arrays are neither squeezed nor text: either took as long as fusing 0.1 s of a full partition.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import numpy as np

from v2x.errors import SnapshotError

MAGIC: Final = b"V2XF"
FORMAT: Final = 2
_DIGEST: Final = 32
_ARRAY: Final = "#array"
_START: Final = len(MAGIC) + 1

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


class Frozen:
    """A state as it was: to be packed at leisure, in another thread if need be, while the engine goes on.

    Making one copies what the arrays hold and writes the rest as text, so it takes as long as the state is large.
    """

    def __init__(self, head: dict[str, Any]) -> None:
        """``head`` is JSON-able, but may have arrays anywhere."""
        self._arrays: list[bytes] = []
        self._size = 0
        self._text = json.dumps(head, separators=(",", ":"), default=self._keep).encode()

    def _keep(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} does not go into a snapshot")
        found = {_ARRAY: [self._size, value.dtype.str, value.shape]}
        self._arrays.append(value.tobytes())
        self._size += value.nbytes
        return found

    def pack(self) -> bytes:
        """Return the bytes of a snapshot."""
        parts = (len(self._text).to_bytes(4, "big"), self._text, *self._arrays)
        digest = hashlib.blake2b(digest_size=_DIGEST)
        for part in parts:
            digest.update(part)
        return b"".join((MAGIC, bytes([FORMAT]), digest.digest(), *parts))


def unpack(blob: bytes) -> dict[str, Any]:
    """Return the head; SnapshotError if the bytes are damaged or of another format."""
    if blob[: len(MAGIC)] != MAGIC:
        raise SnapshotError("this is no fusion snapshot: it does not begin with V2XF")
    if len(blob) < _START + _DIGEST + 4 or blob[len(MAGIC)] != FORMAT:
        raise SnapshotError(f"snapshot format {blob[len(MAGIC) : _START].hex()} is not {FORMAT:02x}: start its version")
    body = memoryview(blob)[_START + _DIGEST :]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != blob[_START : _START + _DIGEST]:
        raise SnapshotError("snapshot is damaged (checksum): use an older one")
    size = int.from_bytes(body[:4], "big")
    raw = body[4 + size :]

    def found(row: dict[str, Any]) -> Any:
        if _ARRAY not in row:
            return row
        at, dtype, shape = row[_ARRAY]
        return np.frombuffer(raw, dtype, int(np.prod(shape, dtype=np.int64)), at).reshape(shape).copy()

    head: dict[str, Any] = json.loads(bytes(body[4 : 4 + size]), object_hook=found)
    return head
