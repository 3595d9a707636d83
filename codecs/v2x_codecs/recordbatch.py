"""Kafka's record batches (format v2) to columns by a compiled kernel: what a fetch brings, no object for each record.

And the other way, ``seal``: the heads of batches that a producer sends.

::

    offset 8 · length 4 · leader epoch 4 · magic 1 · CRC-32C 4 · attributes 2 · last offset delta 4 · first stamp 8 ·
    last stamp 8 · producer id 8, epoch 2, sequence 4 · records 4 · record …
    record: length, attributes 1, stamp delta, offset delta, key length, key, value length, value, headers, header …

Numbers are big-endian, those of a record zigzag varints. The CRC is over all behind it. A batch that is cut short ends
the stretch (brokers cut at their byte limit). Whatever is not in this plain form (compressed, an older format, damaged)
is left to a full client: ``read_batches`` returns None.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numba as nb
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.extending import intrinsic
from v2x.columns import I64, Record, Records

HEAD: Final = 61
LEAST_RECORD: Final = 7  # bytes
_CRC_FROM: Final = 21
_SLICES: Final = 8
_POLYNOMIAL: Final = 0x82F63B78
_CODEC, _APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20  # attributes
OFFSET, STAMP, SIZE, KEY_AT, KEY_SIZE, REST = range(6)  # lines of the columns; KEY_SIZE -1: no key; REST: its headers
# What the kernel says: records, bytes of values, next offset.
COUNT, BYTES, NEXT = range(3)
PLAIN, CUT, UNLIKE = 0, 1, 2

u64 = np.uint64
u32 = np.uint32
i64 = np.int64
HELPER = nb.njit(nogil=True, error_model="numpy")


def _tables() -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Return the tables of CRC-32C for eight bytes at a time."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(_POLYNOMIAL), np.uint32(0)).astype(np.uint32)
    tables = [table]
    for _ in range(_SLICES - 1):
        tables.append((tables[-1] >> np.uint32(8)) ^ table[tables[-1] & 0xFF])
    return np.ascontiguousarray(np.stack(tables).astype(np.uint32))


CRC_TABLES: Final = _tables()


@HELPER
def _big(heap, at, size):
    """Return a big-endian number of ``size`` bytes, signed."""
    value = u64(0)
    for k in range(size):
        value = (value << u64(8)) | u64(heap[u64(at + k)])
    shift = u64(64 - 8 * size)
    return i64(value << shift) >> i64(shift)


@HELPER
def _varint(heap, at, end):
    """Return value and next place of a zigzag varint; the place is -1 if it does not end before ``end``."""
    raw = u64(0)
    for k in range(10):
        if at + k >= end:
            break
        byte = u64(heap[u64(at + k)])
        raw |= (byte & u64(0x7F)) << u64(7 * k)
        if byte < u64(0x80):
            return i64(raw >> u64(1)) ^ -i64(raw & u64(1)), at + k + 1
    return i64(0), i64(-1)


def _crc_instruction(_typing, _crc, _word):
    """Write the code of ``_crc_step``."""

    def codegen(_context, builder, _signature, args):
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)] * 2)
        name = "llvm.x86.sse42.crc32.64.64"
        return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), args)

    return nb.uint64(nb.uint64, nb.uint64), codegen


_crc_step: Any = intrinsic(_crc_instruction)  # (CRC, eight bytes): the CRC behind them


@HELPER
def crc32c_fast(heap, at, end, t):
    """Return the CRC-32C of heap[at:end], by the processor's instruction for it."""
    wide = u64(0xFFFFFFFF)
    while at + 8 <= end:
        p, word = u64(at), u64(0)
        for k in range(8):
            word |= u64(heap[p + u64(k)]) << u64(8 * k)
        wide = _crc_step(wide, word)
        at += 8
    crc = u32(wide)
    while at < end:
        crc = t[0, (crc ^ u32(heap[u64(at)])) & u32(0xFF)] ^ (crc >> u32(8))
        at += 1
    return crc ^ u32(0xFFFFFFFF)


@HELPER
def crc32c_table(heap, at, end, t):
    """Return the CRC-32C of heap[at:end], by tables, eight bytes at a time."""
    crc = u32(0xFFFFFFFF)
    while at + 8 <= end:
        p = u64(at)
        crc ^= (
            u32(heap[p]) | (u32(heap[p + u64(1)]) << u32(8)) | (u32(heap[p + u64(2)]) << u32(16))
            | (u32(heap[p + u64(3)]) << u32(24))
        )  # fmt: skip
        crc = (
            t[7, crc & u32(0xFF)] ^ t[6, (crc >> u32(8)) & u32(0xFF)] ^ t[5, (crc >> u32(16)) & u32(0xFF)]
            ^ t[4, crc >> u32(24)] ^ t[3, heap[p + u64(4)]] ^ t[2, heap[p + u64(5)]] ^ t[1, heap[p + u64(6)]]
            ^ t[0, heap[p + u64(7)]]
        )  # fmt: skip
        at += 8
    while at < end:
        crc = t[0, (crc ^ u32(heap[u64(at)])) & u32(0xFF)] ^ (crc >> u32(8))
        at += 1
    return crc ^ u32(0xFFFFFFFF)


crc32c = crc32c_fast if get_host_cpu_features().get("sse4.2") else crc32c_table
_HEAP = nb.types.Array(nb.uint8, 1, "C", readonly=True)


@HELPER
def _put(out, at, value, size):
    for k in range(size):
        out[at + k] = (value >> (8 * (size - 1 - k))) & 0xFF


@nb.njit(
    nb.void(nb.uint8[::1], nb.int64[:, ::1], nb.int64, nb.uint32[:, ::1]), nogil=True, cache=True, error_model="numpy"
)
def _seal(out, batches, now_ms, t):
    for b in range(batches.shape[0]):
        at, size, records = batches[b, 0], batches[b, 1], batches[b, 2]
        out[at : at + HEAD] = 0
        _put(out, at + 8, size + HEAD - 12, 4)
        out[at + 16] = 2
        _put(out, at + 23, records - 1, 4)
        _put(out, at + 27, now_ms, 8)
        _put(out, at + 35, now_ms, 8)
        _put(out, at + 43, batches[b, 3], 8)
        _put(out, at + 51, batches[b, 4], 2)
        _put(out, at + 53, batches[b, 5], 4)
        _put(out, at + 57, records, 4)
        _put(out, at + 17, i64(crc32c(out, at + _CRC_FROM, at + HEAD + size, t)), 4)


def seal(out: bytearray, batches: Sequence[Sequence[int]], now_ms: int) -> None:
    """Write the heads of batches whose records are in ``out`` already, with HEAD bytes before them.

    Of each batch: where its head begins, bytes of its records, their number, producer id and epoch, sequence number.
    """
    _seal(np.frombuffer(out, np.uint8), np.array(batches, np.int64), now_ms, CRC_TABLES)


@nb.njit(nb.int64(_HEAP), nogil=True, cache=True, error_model="numpy")
def _room(heap):
    """Return how many records all whole batches hold, -1 if one is not in plain form."""
    at, count = i64(0), i64(0)
    while at + HEAD <= heap.shape[0]:
        length = _big(heap, at + 8, 4)
        if length < HEAD - 12:
            return i64(-1)
        end = at + 12 + length
        if end > heap.shape[0]:
            break
        here = _big(heap, at + 57, 4)
        if heap[at + 16] != 2 or heap[at + 22] & _CODEC or here < 0 or here * LEAST_RECORD > end - at - HEAD:
            return i64(-1)
        count += here
        at = end
    return count


@nb.njit(
    nb.int64(_HEAP, nb.int64, nb.uint32[:, ::1], nb.int64[:, ::1], nb.uint8[::1], nb.int64[::1]),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _read(heap, first, crc, out, values, said):
    """Read all whole batches into columns and values, from offset ``first`` on; return PLAIN or UNLIKE."""
    at, n, used, following = i64(0), i64(0), i64(0), first
    while at + HEAD <= heap.shape[0]:
        end = at + 12 + _big(heap, at + 8, 4)
        if end > heap.shape[0]:
            break
        if u32(_big(heap, at + 17, 4)) != crc32c(heap, at + _CRC_FROM, end, crc):
            return UNLIKE
        base, attributes = _big(heap, at, 8), heap[at + 22]
        stamp, newest = _big(heap, at + 27, 8), _big(heap, at + 35, 8)
        place = at + HEAD
        for _ in range(0 if attributes & _CONTROL else _big(heap, at + 57, 4)):
            length, place = _varint(heap, place, end)
            stop = place + length
            if place < 0 or length < LEAST_RECORD - 1 or stop > end:
                return UNLIKE
            later, place = _varint(heap, place + 1, stop)
            if place < 0:
                return UNLIKE
            ahead, place = _varint(heap, place, stop)
            if place < 0:
                return UNLIKE
            key_size, key_at = _varint(heap, place, stop)
            if key_at < 0 or key_size > stop - key_at:
                return UNLIKE
            size, value_at = _varint(heap, key_at + max(key_size, 0), stop)
            if value_at < 0 or size > stop - value_at:
                return UNLIKE
            size = max(size, 0)
            place = stop
            if base + ahead < first:
                continue
            out[OFFSET, n] = base + ahead
            out[STAMP, n] = newest if attributes & _APPEND_TIME else stamp + later
            out[SIZE, n] = size
            out[KEY_AT, n], out[KEY_SIZE, n], out[REST, n] = key_at, key_size, value_at + size
            values[used : used + size] = heap[value_at : value_at + size]
            used += size
            n += 1
        if place != end and not attributes & _CONTROL:
            return UNLIKE
        following = max(following, base + _big(heap, at + 23, 4) + 1)
        at = end
    said[COUNT], said[BYTES], said[NEXT] = n, used, following
    return PLAIN


class Stretch(NamedTuple):
    """Records that a fetch brought, and the offset to fetch next."""

    records: Records
    following: int


def read_batches(blob: bytes, first: int) -> Stretch | None:
    """Return the records of whole batches from offset ``first`` on; None if the bytes are not in plain form."""
    heap = np.frombuffer(blob, np.uint8)
    room = int(_room(heap))
    if room < 0:
        return None
    out, values, said = np.empty((6, room), np.int64), np.empty(len(blob), np.uint8), np.zeros(3, np.int64)
    if _read(heap, first, CRC_TABLES, out, values, said) != PLAIN:
        return None
    n, used, following = said.tolist()
    return Stretch(
        Records(out[OFFSET, :n], out[STAMP, :n], out[SIZE, :n], values[:used].tobytes(), Source(blob, out)), following
    )


class Source:
    """Makes single records of ``blob``, whose columns are ``out``."""

    __slots__ = ("blob", "out")

    def __init__(self, blob: bytes, out: I64) -> None:
        self.blob, self.out = blob, out

    def __call__(self, n: int) -> Record:
        """Return the n-th record."""
        offset, stamp, size, key_at, key_size, rest = self.out[:, n].tolist()
        blob = self.blob
        key = blob[key_at : key_at + key_size] if key_size >= 0 else None
        return Record(offset, stamp, key, blob[rest - size : rest], _headers(blob, rest))


def _headers(blob: bytes, at: int) -> tuple[tuple[str, bytes], ...]:
    count, at = _number(blob, at)
    found = []
    for _ in range(count):
        size, at = _number(blob, at)
        name, at = blob[at : at + size].decode(), at + size
        size, at = _number(blob, at)
        found.append((name, blob[at : at + max(size, 0)]))
        at += max(size, 0)
    return tuple(found)


def _number(blob: bytes, at: int) -> tuple[int, int]:
    """Return value and next place of a zigzag varint."""
    raw = shift = 0
    while True:
        byte = blob[at]
        raw |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return (raw >> 1) ^ -(raw & 1), at
