"""Record batches that we write, read by aiokafka: the same records."""

from __future__ import annotations

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from v2x_codecs.recordbatch import HEAD, seal
from v2x_services.lanes import Chunk, Lanes
from v2x_services.ports import ROW_COLUMNS, Headers, Rows

LANES = (("a", 0), ("a", 1), ("b", 0))
KINDS: tuple[Headers, ...] = (
    [("rx", b"12345678")],
    [("rx", b"12345678"), ("copy", b"1")],
)
sizes = st.one_of(st.integers(0, 200), st.sampled_from([63, 64, 8_187, 8_192, 20_000]))
row = st.tuples(st.integers(0, 2), st.binary(max_size=70), sizes, st.integers(0, 2**31 - 1), st.integers(0, 1))
single = st.tuples(
    st.integers(0, 2), st.one_of(st.none(), st.binary(max_size=70)), sizes, st.lists(st.sampled_from(KINDS[1]))
)
Made = tuple[int, tuple[bytes, bytes, Headers]]
Expected = list[tuple[bytes | None, bytes, Headers]]


def batch_of(chunk: Chunk, *numbers: int) -> bytes:
    """Return a chunk's batch, from the middle of what is sent."""
    out = bytearray(b"before" + bytes(HEAD) + b"".join(chunk.parts))
    seal(out, [(6, len(out) - 6 - HEAD, chunk.records, *numbers)], 1_700_000_000_000)
    return bytes(out[6:])


def rows_of(
    some: list[tuple[int, bytes, int, int, int]], token: int
) -> tuple[Rows, list[tuple[int, tuple[bytes, bytes, Headers]]]]:
    heap, data, expected = bytearray(), np.zeros((len(some), ROW_COLUMNS), np.int64), []
    for i, (lane, key, size, schema, kind) in enumerate(some):
        body = bytes([i & 0xFF]) * size
        data[i] = lane, len(heap), len(key), len(heap) + len(key), size, schema, kind, token + i
        heap += key + body
        expected.append((lane, (key, b"\0" + schema.to_bytes(4, "big") + body, KINDS[kind])))
    return Rows(LANES, bytes(heap), data, KINDS), expected


@given(st.lists(st.one_of(st.lists(row, min_size=1, max_size=70), single), max_size=8))
def test_columns_and_single_records_share_a_batch(steps: list[object]) -> None:
    lanes = Lanes(1 << 20, 1 << 30)
    expected: list[Expected] = [[] for _ in LANES]
    told: list[list[int]] = [[] for _ in LANES]
    token = 0
    for step in steps:
        if isinstance(step, list):
            rows, made = rows_of(step, token)
            assert lanes.append_rows(rows)
            for lane, record in made:
                expected[lane].append(record)
                told[lane].append(token)
                token += 1
        else:
            lane, key, size, headers = step  # type: ignore[misc]
            lanes.append(*LANES[lane], key, bytes(size), headers, token)
            expected[lane].append((key, bytes(size), headers))
            told[lane].append(token)
            token += 1
    assert lanes.records == token
    for place, wanted, tokens in zip(LANES, expected, told, strict=True):
        if not wanted:
            continue
        (chunk,) = lanes.all[place].queue
        batch = DefaultRecordBatch(batch_of(chunk, 7, 3, 1000))
        assert batch.validate_crc()
        assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (7, 3, 1000)
        assert batch.last_offset_delta == len(wanted) - 1
        found = list(batch)
        assert [(r.key, r.value, r.headers) for r in found] == [(k, v, list(h)) for k, v, h in wanted]
        assert [r.offset for r in found] == list(range(len(wanted)))
        assert chunk.told() == tokens


def test_a_chunk_taken_apart_counts_for_the_same_bytes() -> None:
    lanes = Lanes(1 << 20, 1 << 30)
    rows, made = rows_of([(0, b"k", 10, 1, 0), (0, b"l", 300, 1, 1)], 5)
    lanes.append_rows(rows)
    (chunk,) = lanes.all["a", 0].queue
    apart = chunk.apart("a")
    assert [(r.key, r.value, list(r.headers)) for _, r in apart] == [(k, v, list(h)) for _, (k, v, h) in made]
    assert sum(one.bytes for one, _ in apart) == chunk.bytes == lanes.bytes
    assert [one.told() for one, _ in apart] == [[5], [6]]


def test_a_batch_never_grows_beyond_its_bound() -> None:
    lanes = Lanes(10_000, 1 << 30)
    for i in range(30):
        rows, _ = rows_of([(0, b"k", 900, 1, 0)] * 5, i)
        assert lanes.append_rows(rows)
    sizes = []
    for chunk in lanes.all["a", 0].queue:
        out = batch_of(chunk, 1, 1, 0)
        assert DefaultRecordBatch(out).validate_crc()
        sizes.append(len(out))
    assert max(sizes) <= 10_000
    assert sum(c.records for c in lanes.all["a", 0].queue) == 150
    assert not lanes.append_rows(rows_of([(0, b"k", 900, 1, 0)] * 12, 0)[0])
