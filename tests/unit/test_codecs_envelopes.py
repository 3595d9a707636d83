"""Envelopes by the kernel are those that fastavro reads; whatever is cut or strange is counted, nothing is invented."""

from __future__ import annotations

import numpy as np
import pytest
from v2x.topics import UPLINKS

from v2x_codecs import vectors
from v2x_codecs.envelopes import EnvelopeReader, envelope_of
from v2x_codecs.registry import Registry

REGISTRY = Registry.load()
VECTORS = vectors.load(REGISTRY)
SCHEMAS = {row.schema for row in UPLINKS}


def sizes(values: list[bytes]) -> np.ndarray:
    return np.array([len(v) for v in values], np.int64)


def test_they_are_those_of_the_golden_vectors() -> None:
    values = [v.kafka for v in VECTORS]
    reader = EnvelopeReader(REGISTRY)
    joined = b"".join(values)
    found = reader.read(joined, sizes(values))
    want = [(i, v) for i, v in enumerate(VECTORS) if v.schema in SCHEMAS]
    assert found.index.tolist() == [i for i, _ in want]
    assert (found.others, found.broken) == (len(values) - len(want), 0)
    for row, (_, v) in enumerate(want):
        at, size = int(found.device_at[row]), int(found.device_size[row])
        assert reader.schemas[found.schema[row]] == v.schema
        assert joined[at : at + size].decode() == v.record["device"]
        names = ("boot", "seq", "ts_ms")
        assert [int(getattr(found, name)[row]) for name in names] == [v.record[name] for name in names]


def test_only_what_was_asked_for() -> None:
    values = [v.kafka for v in VECTORS]
    found = EnvelopeReader(REGISTRY, {"rsi"}).read(b"".join(values), sizes(values))
    assert [VECTORS[i].schema for i in found.index] == ["rsi"] * len(found.index)
    assert len(found.index) > 0


@pytest.mark.parametrize(
    "strange",
    [b"", b"\x00", b"\x01\x00\x00\x00\x11\x02a", b"\x00\x00\x00\x00\x11\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"],
)
def test_strange_values_are_counted_and_their_neighbours_read(strange: bytes) -> None:
    good = next(v.kafka for v in VECTORS if v.schema == "rsi")
    values = [good, strange, good]
    found = EnvelopeReader(REGISTRY).read(b"".join(values), sizes(values))
    assert (found.index.tolist(), found.broken) == ([0, 2], 1)


def test_a_value_cut_anywhere_in_its_envelope_is_broken_not_read_into_its_neighbour() -> None:
    good = next(v for v in VECTORS if v.schema == "pile_status" and v.name == "typical")
    end = 5 + 1 + len(good.record["device"]) + 6 + 1
    for cut in range(5, end):
        values = [good.kafka[:cut], good.kafka]
        found = EnvelopeReader(REGISTRY).read(b"".join(values), sizes(values))
        assert (found.index.tolist(), found.broken) == ([1], 1)


def test_the_envelope_of_a_message_that_is_bad_further_behind() -> None:
    for v in VECTORS:
        if v.schema in SCHEMAS:
            want = v.record["device"], v.record["boot"], v.record["seq"]
            assert envelope_of(v.mqtt) == want
            assert envelope_of(v.mqtt[:-1]) in {want, None}
    good = next(v for v in VECTORS if v.schema == "rsi" and v.name == "typical")
    found = [envelope_of(good.mqtt[:cut]) for cut in range(len(good.mqtt))]
    assert found[-1] is not None
    assert set(found) == {None, found[-1]}
    frame = good.mqtt[:10]
    assert envelope_of(frame + b"\x02\xff" + bytes(4)) is None  # no text
    assert envelope_of(frame + b"\x02a\x02\x01") is None  # seq -1
    assert envelope_of(frame + b"\x02a" + b"\xff" * 12) is None
