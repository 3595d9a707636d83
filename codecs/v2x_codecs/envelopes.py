"""The envelopes of uplinks in the log (device, boot, seq, ts_ms) as columns, by a kernel that reads nothing else.

For those who account for messages and do not look into them. What a value begins with: ``00``, schema id (4 bytes,
big-endian), device (length and bytes), boot, seq and ts_ms, as Avro's zigzag varints.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt
from v2x.columns import I64
from v2x.topics import UPLINKS

from v2x_codecs.framing import MQTT_HEADER
from v2x_codecs.registry import Registry

UPLINK_SCHEMAS: Final = frozenset(row.schema for row in UPLINKS)
_COLUMNS: Final = 7
_INDEX, _SCHEMA, _AT, _SIZE, _BOOT, _SEQ, _TS = range(_COLUMNS)
_OTHER, _BROKEN = 0, 1
_HEADER: Final = 5
_LATEST_MS: Final = 4_102_444_800_000  # of boot and seq, as every schema has them
_MOST: Final = 1 << 53
_LONGEST: Final = 10  # bytes of a varint
_HEAP: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_ONE: Final[Any] = nb.types.UniTuple(nb.int64, 2)(_HEAP, nb.int64, nb.int64)


@nb.njit(inline="always")
def _number(heap, at, end):
    """Return value and next place of a zigzag varint; the place is -1 if it does not end before ``end``."""
    raw = np.uint64(0)
    for k in range(_LONGEST):
        if at + k >= end:
            break
        byte = np.uint64(heap[at + k])
        raw |= (byte & np.uint64(0x7F)) << np.uint64(7 * k)
        if byte < np.uint64(0x80):
            return np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1)), at + k + 1
    return np.int64(0), np.int64(-1)


@nb.njit(
    nb.int64(_HEAP, nb.int64[::1], nb.int64[::1], nb.int64[:, ::1], nb.int64[::1]),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _read(heap, sizes, schemas, out, sums):
    at, n = np.int64(0), np.int64(0)
    for i in range(sizes.shape[0]):
        begin, end = at, at + sizes[i]
        at = end
        if end - begin < _HEADER or heap[begin] != 0:
            sums[_BROKEN] += 1
            continue
        number = np.int64(0)
        for k in range(1, _HEADER):
            number = (number << 8) | np.int64(heap[begin + k])
        if number >= schemas.shape[0] or schemas[number] < 0:
            sums[_OTHER] += 1
            continue
        size, place = _number(heap, begin + _HEADER, end)
        if place < 0 or size < 0 or size > end - place:
            sums[_BROKEN] += 1
            continue
        out[_INDEX, n], out[_SCHEMA, n], out[_AT, n], out[_SIZE, n] = i, schemas[number], place, size
        place += size
        for column in range(_BOOT, _COLUMNS):
            if place >= 0:
                out[column, n], place = _number(heap, place, end)
        if place < 0:
            sums[_BROKEN] += 1
            continue
        n += 1
    return n


@nb.njit(_ONE, cache=True, error_model="numpy")
def _one(heap, at, end):
    return _number(heap, at, end)


@dataclass(frozen=True, slots=True)
class Envelopes:
    """Columns (n,) of the uplinks among some values, in their order."""

    index: I64  # of the value
    schema: I64  # index into ``EnvelopeReader.schemas``
    device_at: I64  # in the values
    device_size: I64
    boot: I64  # ms UTC
    seq: I64
    ts_ms: I64
    others: int  # values of other schemas
    broken: int  # values that do not begin like one of ours


class EnvelopeReader:
    """Reads envelopes of uplinks of some schemas; all their versions begin alike."""

    def __init__(self, registry: Registry, schemas: Collection[str] = UPLINK_SCHEMAS) -> None:
        self.schemas = tuple(sorted(schemas))
        known = [(version.id, k) for k, name in enumerate(self.schemas) for version in registry.versions(name)]
        self._of = np.full(max(id_ for id_, _ in known) + 1, -1, np.int64)
        for id_, k in known:
            self._of[id_] = k
        self.read(b"", np.zeros(0, np.int64))

    def read(self, values: bytes, sizes: I64) -> Envelopes:
        """Return the envelopes in values that lie one behind the other; ``sizes`` (n,) in bytes."""
        out, sums = np.empty((_COLUMNS, len(sizes)), np.int64), np.zeros(2, np.int64)
        n = int(_read(np.frombuffer(values, np.uint8), sizes, self._of, out, sums))
        index, schema, at, size, boot, seq, ts_ms = out[:, :n]
        return Envelopes(index, schema, at, size, boot, seq, ts_ms, int(sums[_OTHER]), int(sums[_BROKEN]))


def envelope_of(payload: bytes, body: int = MQTT_HEADER) -> tuple[str, int, int] | None:
    """Return device, boot and seq of a payload that is bad further behind; None if they cannot be read.

    ``body``: where it begins, behind the header of MQTT's framing or Kafka's.
    """
    heap = np.frombuffer(payload, np.uint8)
    end = len(heap)
    size, at = _first(heap, body, end)
    if at < 0 or not 0 < size <= end - at:
        return None
    boot, boot_end = _first(heap, at + size, end)
    seq, seq_end = _first(heap, boot_end, end) if boot_end >= 0 else (0, -1)
    if seq_end < 0 or not 0 <= boot <= _LATEST_MS or not 0 <= seq <= _MOST:
        return None
    try:
        return payload[at : at + size].decode(), boot, seq
    except UnicodeDecodeError:
        return None


def _first(heap: npt.NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    value, following = _one(heap, at, end)
    return int(value), int(following)
