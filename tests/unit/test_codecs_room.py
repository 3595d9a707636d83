"""Room for rows: tables grow in the middle of a batch, and no message can ask for more than its bytes are worth."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
from v2x.columns import Verdict

from v2x_codecs import vectors
from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.framing import mqtt_frame
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
VECTORS = vectors.load(REGISTRY)
TYPICAL = {v.schema: v for v in VECTORS if v.name == "typical"}
PARTICIPANT = TYPICAL["rsm"].record["participants"][0]


def rsm(count: int, seq: int) -> bytes:
    crowd = [{**PARTICIPANT, "ptc_id": k} for k in range(count)]
    return CODEC.encode_mqtt("rsm", {**TYPICAL["rsm"].record, "seq": seq, "participants": crowd})


def test_rows_survive_any_mixture_of_batches() -> None:
    """Counts jump between batches and within them; every row arrives, whatever room was guessed."""
    rng, decoder = random.Random(5), ColumnDecoder(REGISTRY)
    others = [v.mqtt for v in VECTORS]
    for _ in range(150):
        counts = [rng.choice([0, 0, 1, 2, 20, 255]) for _ in range(rng.choice([1, 2, 40]))]
        payloads = [p for k, count in enumerate(counts) for p in (rsm(count, k), rng.choice(others))]
        batch = decoder.decode_mqtt(payloads)
        assert not batch.verdict.any()
        ours = batch.tables["rsm"].msg % 2 == 0
        assert batch.tables["rsm"].col("seq")[ours].tolist() == list(range(len(counts)))
        people = batch.tables["rsm.participants"]
        mine = people.msg % 2 == 0
        wanted = [k for count in counts for k in range(count)]
        assert people.col("ptc_id")[mine].tolist() == wanted
        assert (batch.row[people.msg] == people.parent).all()


def test_rows_that_nobody_wants_are_checked_all_the_same() -> None:
    """Damaged and whole messages of every kind: the same verdicts and places, the same rows of what is kept."""
    rng = random.Random(7)
    payloads = [v.mqtt for v in VECTORS] + [rsm(count, count) for count in (0, 1, 255, 256)]
    for payload in list(payloads):
        for _ in range(20):
            damaged = bytearray(payload[: rng.randrange(10, len(payload) + 1)])
            damaged[rng.randrange(10, len(damaged)) if len(damaged) > 10 else 0] ^= 1 << rng.randrange(8)
            payloads.append(bytes(damaged))
    rng.shuffle(payloads)
    whole, part = ColumnDecoder(REGISTRY), ColumnDecoder(REGISTRY, keep=("map.nodes",))
    for begin in (0, 0, 100):  # the second time there is room for all
        a, b = whole.decode_mqtt(payloads[begin:]), part.decode_mqtt(payloads[begin:])
        for column in ("verdict", "at", "bad_field", "schema", "row", "roots"):
            assert list(getattr(a, column)) == list(getattr(b, column))
        for name in (*whole.schemas, "map.nodes"):
            assert a.tables[name].data.tolist() == b.tables[name].data.tolist()
            assert a.tables[name].msg.tolist() == b.tables[name].msg.tolist()
        assert len(a.tables["rsm.participants"].msg)
        assert not len(b.tables["rsm.participants"].msg)
        assert not len(b.tables["map.nodes.links"].msg)


def test_the_memory_of_dense_batches_fades() -> None:
    decoder = ColumnDecoder(REGISTRY)
    decoder.decode_mqtt([rsm(255, 0)])
    assert decoder._dense.sum() > 0
    for _ in range(2050):
        decoder.decode_mqtt([TYPICAL["tick"].mqtt])
    assert np.flatnonzero(decoder._dense).tolist() == [
        decoder._specs.index(("tick", ("source.off", "source.len", "ts_ms"), True))
    ]
    assert not decoder.decode_mqtt([rsm(255, 0)]).verdict.any()


def test_bombs_get_no_memory() -> None:
    """Arrays that claim 2^31 items, or as many as maxItems allows, in a few bytes."""
    decoder = ColumnDecoder(REGISTRY)
    head = b"\x02d\x02\x06rsi\x02\x02"
    claims = [b"\xfe\xff\xff\xff\x0f", b"\x80\x80\x08", b"\xff\xff\x07\x7e", b"\x02\x02" * 50]
    payloads = [mqtt_frame(REGISTRY.versions("confirm")[0], head + claim + bytes(100)) for claim in claims] * 200
    tracemalloc.start()
    batch = decoder.decode_mqtt(payloads)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert set(batch.verdict.tolist()) <= {Verdict.TOO_MANY, Verdict.TRUNCATED, Verdict.TRAILING, Verdict.BAD_VALUE}
    assert all(len(table.data) == 0 for table in batch.tables.values())
    assert peak < 20 * sum(map(len, payloads))


def test_refused_messages_leave_nothing_when_tables_grow_for_them() -> None:
    decoder = ColumnDecoder(REGISTRY)
    bad = rsm(255, 1)[:-1]
    batch = decoder.decode_mqtt([bad, rsm(3, 2), bad, rsm(4, 3), bad])
    assert batch.verdict.tolist() == [Verdict.TRUNCATED, 0, Verdict.TRUNCATED, 0, Verdict.TRUNCATED]
    assert batch.tables["rsm.participants"].col("ptc_id").tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.tables["rsm.participants"].parent.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_batches_stay_as_they_are_when_the_next_is_decoded() -> None:
    decoder = ColumnDecoder(REGISTRY)
    first = decoder.decode_mqtt([rsm(20, 1)])
    before = first.tables["rsm.participants"].data.copy()
    for _ in range(5):
        decoder.decode_mqtt([rsm(20, 2), TYPICAL["bsm"].mqtt])
    np.testing.assert_array_equal(first.tables["rsm.participants"].data, before)
