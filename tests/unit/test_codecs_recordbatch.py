"""Kafka's record batches to columns: what aiokafka's own reader makes of the same bytes, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from v2x.columns import Record, Records

from v2x_codecs import recordbatch as rb
from v2x_services.fusion.fetch import by_library

APPEND_TIME, CONTROL = 0x08, 0x20


def batch(records: Sequence[Record], compression: int = 0, attributes: int = 0) -> bytes:
    """Return a batch as a broker keeps it; records without gaps in their offsets."""
    builder: Any = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 20)
    for n, r in enumerate(records):
        builder.append(n, timestamp=r.stamp_ms, key=r.key, value=r.value, headers=list(r.headers))
    made = bytearray(builder.build())
    made[:8] = records[0].offset.to_bytes(8, "big")
    made[22] |= attributes
    made[17:21] = crc(bytes(made)).to_bytes(4, "big")
    return bytes(made)


@numba.njit
def by_table(heap: Any, begin: int, t: Any) -> Any:
    return rb.crc32c_table(heap, begin, heap.shape[0], t)


@numba.njit
def by_instruction(heap: Any, begin: int, t: Any) -> Any:
    return rb.crc32c_fast(heap, begin, heap.shape[0], t)


def crc(blob: bytes, way: Any = by_table, begin: int = 21) -> int:
    return int(way(np.frombuffer(blob, np.uint8), begin, rb.CRC_TABLES))


BYTES = st.binary(max_size=300)
RECORDS = st.lists(
    st.builds(
        Record, st.just(0), st.integers(1_789_999_999_000, 1_790_000_001_000), st.none() | BYTES, BYTES,
        st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=3).map(tuple),
    ),
    min_size=1, max_size=12,
)  # fmt: skip
BATCHES = st.lists(st.tuples(RECORDS, st.sampled_from([0, 0, APPEND_TIME, CONTROL]), st.integers(0, 9)), max_size=4)


def fetched(batches: list[tuple[list[Record], int, int]], base: int = 1_000) -> bytes:
    blob = b""
    for records, attributes, hole in batches:
        placed = [r._replace(offset=base + n) for n, r in enumerate(records)]
        blob += batch(placed, attributes=attributes)
        base += len(records) + hole  # compaction leaves holes
    return blob


@settings(deadline=None)
@given(BATCHES, st.integers(990, 1_040), st.integers(0, 200))
def test_columns_are_what_the_library_reads(batches: list[tuple[list[Record], int, int]], first: int, cut: int) -> None:
    blob = fetched(batches)
    blob = blob[: len(blob) - cut]  # brokers cut at their limit
    found, wanted = rb.read_batches(blob, first), by_library(blob, first)
    assert found is not None
    assert list(found.records) == list(wanted.records)
    assert found.following == wanted.following
    for column in ("offset", "stamp_ms", "size"):
        assert getattr(found.records, column).tolist() == getattr(wanted.records, column).tolist()
    assert found.records.values == wanted.records.values


def some(n: int = 5) -> list[Record]:
    return [Record(70 + k, 1_790_000_000_000 + k, b"key", b"value %d" % k, (("rx", bytes(8)),)) for k in range(n)]


def test_a_stretch_of_records_is_records() -> None:
    found = rb.read_batches(batch(some()), 0)
    assert found is not None
    for records in (found.records, Records.of(some())):
        assert list(records[1:4]) == some()[1:4]
        assert records[1:4].values == b"value 1value 2value 3"
        assert list(records[1:4][1:]) == some()[2:4]
        assert records[-1] == some()[4]
        with pytest.raises(IndexError):
            records[5]


def test_compressed_batches_are_left_to_the_library() -> None:
    blob = batch(some(), compression=1)
    assert rb.read_batches(blob, 0) is None
    assert list(by_library(blob, 72).records) == some()[2:]


def test_no_damage_passes() -> None:
    blob = batch(some())
    for at in range(16, len(blob)):
        damaged = blob[:at] + bytes([blob[at] ^ 0x10]) + blob[at + 1 :]
        assert rb.read_batches(damaged, 0) is None
    with pytest.raises(CorruptRecordException):
        by_library(blob[:-3] + b"xxx", 0)


def test_a_length_that_lies_reads_nothing_beyond_the_record() -> None:
    good = bytearray(batch(some(1)))
    for at in range(61, len(good)):  # with a checksum that fits
        for byte in (0x7E, 0x7F, 0x80, 0xFF):
            bad = good.copy()
            bad[at] = byte
            bad[17:21] = crc(bytes(bad)).to_bytes(4, "big")
            found = rb.read_batches(bytes(bad), 0)
            if found is not None and len(found.records):
                assert len(found.records) == 1
                assert found.records.values in bytes(bad)


@pytest.mark.skipif(rb.crc32c is rb.crc32c_table, reason="this processor has no instruction for it")
def test_both_ways_to_a_checksum_agree() -> None:
    assert crc(b"123456789", by_table, 0) == 0xE3069283
    for n in range(40):
        assert crc(bytes(range(n)), by_instruction, 0) == crc(bytes(range(n)), by_table, 0)
