"""Snapshots: everything an engine knows, so that what it says after a restart is the same to the byte.

::

    "V2XF" · format (1 byte) · CRC-32 of the rest · length of the head (4 bytes each, big-endian) · head (JSON) · arrays

The head names format, code, configuration and schemas, the position in the log, and at its place where each array lies.
Arrays are neither squeezed nor text: either took as long as fusing 0.1 s of a full partition. The sum is there to find
damage, not forgery; BLAKE2 took five times as long.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

import numpy as np

from v2x.errors import SnapshotError

MAGIC: Final = b"V2XF"
FORMAT: Final = 4
_SUM: Final = 4
_ARRAY: Final = "#array"
_START: Final = len(MAGIC) + 1
_BODY: Final = _START + _SUM

Array = np.ndarray[Any, np.dtype[Any]]


class Frozen:
    """A state as it was: to be packed at leisure, in another thread if need be, while the engine goes on.

    Making one copies what the arrays hold and writes the rest as text, so it takes as long as the state is large. All
    of it is one block, which is given back whole: hundreds of small ones would stay in the heap and cut it up.
    """

    def __init__(self, head: dict[str, Any]) -> None:
        """``head`` is JSON-able, but may have arrays anywhere."""
        self._arrays: list[Array] = []
        self._size = 0
        text = json.dumps(head, separators=(",", ":"), default=self._keep).encode()
        before = b"".join((MAGIC, bytes([FORMAT]), bytes(_SUM), len(text).to_bytes(4, "big"), text))
        self._blob = np.empty(len(before) + self._size, np.uint8)
        self._blob[: len(before)] = np.frombuffer(before, np.uint8)
        at = len(before)
        for array in self._arrays:
            self._blob[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            at += array.nbytes
        self._arrays.clear()

    def _keep(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} does not go into a snapshot")
        found = {_ARRAY: [self._size, value.dtype.str, value.shape]}
        self._arrays.append(value)
        self._size += value.nbytes
        return found

    def pack(self) -> memoryview:
        """Return the bytes of a snapshot."""
        blob = self._blob.data
        blob[_START:_BODY] = zlib.crc32(blob[_BODY:]).to_bytes(_SUM, "big")
        return blob.toreadonly()


def unpack(blob: bytes | memoryview) -> dict[str, Any]:
    """Return the head; SnapshotError if the bytes are damaged or of another format."""
    if blob[: len(MAGIC)] != MAGIC:
        raise SnapshotError("this is no fusion snapshot: it does not begin with V2XF")
    if len(blob) < _BODY + 4 or blob[len(MAGIC)] != FORMAT:
        raise SnapshotError(f"snapshot format {blob[len(MAGIC) : _START].hex()} is not {FORMAT:02x}: start its version")
    body = memoryview(blob)[_BODY:]
    if zlib.crc32(body).to_bytes(_SUM, "big") != blob[_START:_BODY]:
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
