"""Keys and headers of records in columns, for who reads the whole log: no object for each record."""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numba as nb
import numpy as np
from v2x.columns import I64, Records

from v2x_codecs.recordbatch import KEY_AT, KEY_SIZE, REST, Source

ABSENT: Final = -(1 << 63)
_HEAP: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_REST: Final = REST  # numba's cache notices changes of this file only
assert _REST == 5, "not as recordbatch says"


class Heads(NamedTuple):
    """Columns of n records: where their keys are in ``heap`` (size -1: no key), and numbers of some headers."""

    heap: bytes
    key_at: I64
    key_size: I64
    numbers: I64  # (headers, n): the header's bytes as a big-endian number, the last eight of them; ABSENT


@nb.njit(inline="always")
def _number(heap, at):
    """Return value and next place of a zigzag varint; what a batch holds was checked when it was read."""
    raw, shift = np.uint64(0), np.uint64(0)
    while at < heap.shape[0] and shift < np.uint64(70):
        byte = np.uint64(heap[at])
        raw |= (byte & np.uint64(0x7F)) << shift
        at += 1
        shift += np.uint64(7)
        if byte < np.uint64(0x80):
            return np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1)), at
    return np.int64(0), heap.shape[0]


@nb.njit(
    nb.void(_HEAP, nb.int64[:, :], _HEAP, nb.int64[::1], nb.int64[:, ::1]),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _headers(heap, out, names, sizes, numbers):
    for i in range(numbers.shape[1]):
        count, at = _number(heap, out[_REST, i])
        for _ in range(count):
            size, at = _number(heap, at)
            name_at, end = at, at + size
            length, at = _number(heap, end)
            if size < 0 or at > heap.shape[0] or at + max(length, 0) > heap.shape[0]:
                break
            name = np.int64(0)
            for h in range(sizes.shape[0]):
                same = size == sizes[h]
                k = np.int64(0)
                while same and k < size:
                    same = heap[name_at + k] == names[name + k]
                    k += 1
                if same:
                    value = np.int64(0)
                    for k in range(max(length, 0)):
                        value = (value << 8) | np.int64(heap[at + k])
                    numbers[h, i] = value
                name += sizes[h]
            at += max(length, 0)


def heads(records: Records, headers: Sequence[str]) -> Heads:
    """Return the keys of records, and what these headers of theirs hold."""
    n = len(records)
    numbers = np.full((len(headers), n), ABSENT, np.int64)
    source = records.maker
    if isinstance(source, Source):
        names = [name.encode() for name in headers]
        sizes = np.array([len(name) for name in names], np.int64)
        heap = np.frombuffer(source.blob, np.uint8)
        _headers(heap, source.out, np.frombuffer(b"".join(names), np.uint8), sizes, numbers)
        return Heads(source.blob, source.out[KEY_AT, :n], source.out[KEY_SIZE, :n], numbers)
    for i, record in enumerate(records):
        for name, value in record.headers:
            if name in headers:
                numbers[headers.index(name), i] = int.from_bytes(value[-8:], "big", signed=len(value) >= 8)
    keys = [record.key for record in records]
    size = np.array([-1 if key is None else len(key) for key in keys], np.int64)
    length = np.maximum(size, 0)
    return Heads(b"".join(key or b"" for key in keys), np.cumsum(length) - length, size, numbers)
