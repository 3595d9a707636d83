"""Kafka record batches (format 2, KIP-98), written as columns: no Python object for a record.

A batch is built in parts. Each part is one ``bytes`` or a slice of what ``write`` made of many messages at once; a
record's place in the batch is in its bytes, so a part belongs to the place for which it was written. The head is
written last, by ``v2x_codecs.recordbatch.seal``: then the batch's sequence number is known.

::

    head 61 bytes │ record │ record │ …
                    └ length, 0, time 0, place, key, value, headers
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numba as nb
import numpy as np
import numpy.typing as npt
from aiokafka.record.default_records import DefaultRecordBatch
from v2x.columns import I64

from v2x_codecs.recordbatch import HEAD, seal
from v2x_services.ports import ROW_COLUMNS, Headers

RECORD_OVERHEAD: Final = 96  # bytes, at most: the batch's header, and the varints of one record
_PREFIX: Final = 5  # Confluent framing: 00 and a schema id
R_LANE, R_KEY, R_KEY_LEN, R_VALUE, R_VALUE_LEN, R_SCHEMA, R_HEADERS, R_TOKEN = range(ROW_COLUMNS)


def records_of(parts: Sequence[bytes | memoryview], count: int) -> Iterator[tuple[bytes | None, bytes, Headers]]:
    """Read records back: key, value and headers of each (where a batch must be taken apart)."""
    out = bytearray().join((bytes(HEAD), *parts))
    seal(out, [(0, len(out) - HEAD, count, -1, -1, -1)], 0)
    for record in DefaultRecordBatch(bytes(out)):
        yield record.key, record.value or b"", [(name, value or b"") for name, value in record.headers]


def headers_bytes(headers: Headers) -> bytes:
    """Return the end of a record: its headers."""
    out = [_varint(len(headers))]
    for name, value in headers:
        raw = name.encode()
        out += (_varint(len(raw)), raw, _varint(len(value)), value)
    return b"".join(out)


def record_bytes(place: int, key: bytes | None, value: bytes, headers: Headers) -> bytes:
    """Return one record for a place in its batch."""
    body = b"".join(
        (
            b"\0\0",
            _varint(place),
            b"\1" if key is None else _varint(len(key)) + key,
            _varint(len(value)),
            value,
            headers_bytes(headers) if headers else b"\0",
        )
    )
    return _varint(len(body)) + body


def _varint(value: int) -> bytes:
    """Return a zigzag varint of a number that is not negative."""
    if value < len(_SMALL):
        return _SMALL[value]
    return _long(value)


def _long(value: int) -> bytes:
    rest, out = value << 1, bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_SMALL: Final = tuple(_long(value) for value in range(4096))


@nb.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _size(value: int) -> int:
    """Return the bytes of a zigzag varint of a number that is not negative."""
    rest = value << 1
    n = 1
    while rest > 0x7F:
        rest >>= 7
        n += 1
    return n


@nb.njit(inline="always")  # type: ignore[misc, unused-ignore]
def put_long(out: npt.NDArray[np.uint8], at: int, value: int) -> int:
    """Write a zigzag varint of a number that is not negative; return the place behind it."""
    rest = value << 1
    while rest > 0x7F:
        out[at] = (rest & 0x7F) | 0x80
        rest >>= 7
        at += 1
    out[at] = rest
    return at + 1


@nb.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _copy(out: npt.NDArray[np.uint8], at: int, source: npt.NDArray[np.uint8], start: int, size: int) -> int:
    out[at : at + size] = source[start : start + size]
    return at + size


@nb.njit(inline="always")  # type: ignore[misc, unused-ignore]
def _body(rows: I64, i: int, place: int, split: I64) -> int:
    """Return the bytes of a record behind its length field."""
    kind = rows[i, R_HEADERS]
    value = rows[i, R_VALUE_LEN] + _PREFIX
    key = rows[i, R_KEY_LEN]
    size: int = 2 + _size(place) + _size(key) + key + _size(value) + value + split[kind + 1] - split[kind]
    return size  # type: ignore[no-any-return, unused-ignore]


_BYTES: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_SIGNATURE: Final = nb.void(
    _BYTES, nb.int64[:, ::1], _BYTES, nb.int64[::1], nb.uint8[::1], nb.int64[:, ::1], nb.int64[::1]
)


@nb.njit(_SIGNATURE, nogil=True, cache=True, error_model="numpy")  # type: ignore[misc, unused-ignore]
def write(
    heap: npt.NDArray[np.uint8],
    rows: I64,
    headers: npt.NDArray[np.uint8],
    split: I64,
    out: npt.NDArray[np.uint8],
    lanes: I64,
    tokens: I64,
) -> None:
    """Write records for many lanes at once, lane after lane.

    ``rows`` (n, 8): see ``ports.Rows``. ``headers``: ends of records, one behind the other; kind k is
    ``split[k]:split[k + 1]``. ``lanes`` (L, 5): records that the lane's open batch has already; filled in: where the
    lane's part begins in ``out``, its bytes, its records, and where its tokens begin in ``tokens`` (n,). ``out`` must
    hold ``room(…)`` bytes.
    """
    lanes[:, 1:] = 0
    n = rows.shape[0]
    for i in range(n):
        lane = rows[i, R_LANE]
        size = _body(rows, i, lanes[lane, 0] + lanes[lane, 3], split)
        lanes[lane, 2] += size + _size(size)
        lanes[lane, 3] += 1
    total = before = 0
    for lane in range(lanes.shape[0]):
        lanes[lane, 1], lanes[lane, 4] = total, before
        total += lanes[lane, 2]
        before += lanes[lane, 3]
        lanes[lane, 2] = lanes[lane, 3] = 0
    for i in range(n):
        lane = rows[i, R_LANE]
        place = lanes[lane, 0] + lanes[lane, 3]
        begin = lanes[lane, 1] + lanes[lane, 2]
        at = put_long(out, begin, _body(rows, i, place, split))
        out[at] = out[at + 1] = 0
        at = put_long(out, at + 2, place)
        at = put_long(out, at, rows[i, R_KEY_LEN])
        at = _copy(out, at, heap, rows[i, R_KEY], rows[i, R_KEY_LEN])
        at = put_long(out, at, rows[i, R_VALUE_LEN] + _PREFIX)
        schema = rows[i, R_SCHEMA]
        out[at] = 0
        for k in range(4):
            out[at + 1 + k] = (schema >> (24 - 8 * k)) & 0xFF
        at = _copy(out, at + _PREFIX, heap, rows[i, R_VALUE], rows[i, R_VALUE_LEN])
        kind = rows[i, R_HEADERS]
        at = _copy(out, at, headers, split[kind], split[kind + 1] - split[kind])
        tokens[lanes[lane, 4] + lanes[lane, 3]] = rows[i, R_TOKEN]
        lanes[lane, 2] += at - begin
        lanes[lane, 3] += 1


@nb.njit("int64(int64[:, ::1], int64)", nogil=True, cache=True)  # type: ignore[misc, unused-ignore]
def room(rows: I64, longest_headers: int) -> int:
    """Return bytes that are enough for what ``write`` makes of ``rows``."""
    size = rows.shape[0] * (longest_headers + _PREFIX + RECORD_OVERHEAD)
    for i in range(rows.shape[0]):
        size += rows[i, R_KEY_LEN] + rows[i, R_VALUE_LEN]
    return size  # type: ignore[no-any-return, unused-ignore]
