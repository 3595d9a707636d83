"""Snapshots: everything an engine knows, so that what it says after a restart is the same to the byte.

::

    "V2XF" · format (1 byte) · BLAKE2b-256 of the rest · length of the head (4 bytes, big-endian) · head (JSON) · arrays

The head names format, code, configuration and schemas, the position in the log, and where each array lies; the arrays
follow as one zlib stream. They are stored, not squeezed: that took as long as fusing 0.1 s of a full partition.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any, Final

import numpy as np

from v2x.errors import SnapshotError

MAGIC: Final = b"V2XF"
FORMAT: Final = 1
_DIGEST: Final = 32
_LEVEL: Final = 0  # stored
_START: Final = len(MAGIC) + 1

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


class Frozen:
    """A state as it was: to be packed at leisure, in another thread if need be, while the engine goes on."""

    def __init__(self, head: dict[str, Any], arrays: Arrays) -> None:
        table = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
        self._text = json.dumps({**head, "arrays": table}, separators=(",", ":")).encode()
        self._arrays = [array.tobytes() for array in arrays.values() if array.size]

    def pack(self) -> bytes:
        """Return the bytes of a snapshot."""
        press = zlib.compressobj(_LEVEL)
        parts = [press.compress(array) for array in self._arrays]
        body = b"".join((len(self._text).to_bytes(4, "big"), self._text, *parts, press.flush()))
        return MAGIC + bytes([FORMAT]) + hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def unpack(blob: bytes) -> tuple[dict[str, Any], Arrays]:
    """Return head and arrays; SnapshotError if the bytes are damaged or of another format."""
    if blob[: len(MAGIC)] != MAGIC:
        raise SnapshotError("this is no fusion snapshot: it does not begin with V2XF")
    if len(blob) < _START + _DIGEST + 4 or blob[len(MAGIC)] != FORMAT:
        raise SnapshotError(f"snapshot format {blob[len(MAGIC) : _START].hex()} is not {FORMAT:02x}: start its version")
    digest, body = blob[_START : _START + _DIGEST], blob[_START + _DIGEST :]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise SnapshotError("snapshot is damaged (checksum): use an older one")
    size = int.from_bytes(body[:4], "big")
    head: dict[str, Any] = json.loads(body[4 : 4 + size])
    raw = zlib.decompress(body[4 + size :])
    arrays: Arrays = {}
    at = 0
    for name, dtype, shape in head.pop("arrays"):
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(raw, dtype, count, at).reshape(shape).copy()
        arrays[name] = array
        at += array.nbytes
    return head, arrays
