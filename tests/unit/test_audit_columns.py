"""The whole log in columns: keys, headers and names are what one by one they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_codecs_recordbatch import batch
from v2x.columns import Record, Records

from v2x_codecs.heads import ABSENT, heads
from v2x_codecs.recordbatch import read_batches
from v2x_loadtest.audit.names import Names

HEADERS = st.lists(st.tuples(st.sampled_from(["rx", "copy", "rxx", "r", ""]), st.binary(max_size=9)), max_size=4)
ROWS = st.lists(st.tuples(st.none() | st.binary(max_size=9), HEADERS), min_size=1, max_size=9)


@settings(deadline=None)
@given(ROWS)
def test_keys_and_headers_in_columns_are_those_of_the_records(
    rows: list[tuple[bytes | None, list[tuple[str, bytes]]]],
) -> None:
    made = [Record(i, 1_790_000_000_000, key, b"value", tuple(found)) for i, (key, found) in enumerate(rows)]
    stretch = read_batches(batch(made), 0)
    assert stretch is not None
    by_kernel, one_by_one = heads(stretch.records, ("rx", "copy")), heads(Records.of(made), ("rx", "copy"))
    for row, record in enumerate(made):
        for head in (by_kernel, one_by_one):
            at, size = int(head.key_at[row]), int(head.key_size[row])
            assert (None if size < 0 else head.heap[at : at + size]) == record.key
            for name, numbers in zip(("rx", "copy"), head.numbers, strict=True):
                values = [value for header, value in record.headers if header == name]
                wanted = int.from_bytes(values[-1][-8:], "big", signed=len(values[-1]) >= 8) if values else ABSENT
                assert numbers[row] == wanted


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=4), max_size=40), max_size=5), st.text(max_size=4))
def test_names_get_numbers_in_their_order(batches: list[list[str]], one: str) -> None:
    names, known = Names(), dict[str, int]()
    for some in batches:
        raw = [name.encode() for name in some]
        size = np.array([len(r) for r in raw], np.int64)
        got = names.take(b"".join(raw), np.cumsum(size) - size, size)
        assert got.tolist() == [known.setdefault(name, len(known)) for name in some]
    assert names[one] == known.setdefault(one, len(known))
    assert names.list() == list(known)


def test_many_names_find_room() -> None:
    names = Names()
    raw = [f"vehicle-{n}-of-a-long-run".encode() for n in range(9_000)]
    size = np.array([len(r) for r in raw], np.int64)
    at = np.cumsum(size) - size
    for begin in range(0, 9_000, 700):
        some = slice(begin, begin + 700)
        assert names.take(b"".join(raw), at[some], size[some]).tolist() == list(range(9_000))[some]
    assert names.take(b"".join(raw), at, size).tolist() == list(range(9_000))
    assert len(names) == 9_000
