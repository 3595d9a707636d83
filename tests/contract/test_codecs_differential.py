"""The fast decoder against fastavro and the strict walk: golden vectors, invented records, and broken bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v2x.columns import Batch, Verdict

from v2x_codecs import vectors
from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.framing import mqtt_frame, to_kafka, unframe_mqtt
from v2x_codecs.reference import ReferenceCodec, ReferenceDecoder
from v2x_codecs.registry import Registry

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
FAST = ColumnDecoder(REGISTRY)
SLOW = ReferenceDecoder(REGISTRY)
VECTORS = vectors.load(REGISTRY)
LIMITS = {"int": (-(1 << 31), (1 << 31) - 1), "long": (-(1 << 63), (1 << 63) - 1)}


def assert_same(fast: Batch, slow: Batch) -> None:
    for name in ("verdict", "at", "bad_field", "schema", "row"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), name)
    assert fast.tables.keys() == slow.tables.keys()
    for name, wanted in slow.tables.items():
        found = fast.tables[name]
        assert (found.name, found.fields, found.data.shape) == (name, wanted.fields, wanted.data.shape)
        if len(wanted.data) == 0:
            continue
        np.testing.assert_array_equal(found.msg, wanted.msg)
        np.testing.assert_array_equal(found.parent, wanted.parent)
        for column in wanted.fields:
            if column.endswith(".off"):
                base = column.removesuffix(".off")
                assert texts(fast, name, base) == texts(slow, name, base)
            else:
                np.testing.assert_array_equal(found.col(column), wanted.col(column), f"{name}.{column}")


def texts(batch: Batch, table: str, name: str) -> list[bytes]:
    rows = batch.tables[table]
    pairs = zip(rows.col(f"{name}.off").tolist(), rows.col(f"{name}.len").tolist(), strict=True)
    return [batch.heap[off : off + size] for off, size in pairs]


def values(raw: Any, attributes: dict[str, Any], *, outside: bool) -> st.SearchStrategy[Any]:
    """Values of a type; with ``outside`` now and then beyond its range, but encodable."""
    kind = raw["type"] if isinstance(raw, dict) else raw
    if kind in LIMITS:
        low, high = attributes.get("min", LIMITS[kind][0]), attributes.get("max", LIMITS[kind][1])
        inside = st.integers(low, high) | st.sampled_from([low, high, min(max(0, low), high)])
        return inside | st.integers(*LIMITS[kind]) if outside else inside
    if kind == "string":
        least, most = attributes.get("minLength", 0), attributes.get("maxLength", 40)
        text = st.text(max_size=min(most, 40) // 4).map(lambda s: s + "x" * (least - len(s.encode())))
        return text | st.just("路" * (most // 3 + 1)) if outside else text
    if kind == "array":
        item = values(raw["items"], {}, outside=outside)
        least, most = attributes.get("minItems", 0), attributes.get("maxItems", 4)
        return st.lists(item, min_size=0 if outside else least, max_size=min(most, least + 3))
    match kind:
        case "record":
            fields = {f["name"]: values(f["type"], f, outside=outside) for f in raw["fields"]}
            return st.fixed_dictionaries(fields)
        case "fixed":
            return st.binary(min_size=raw["size"], max_size=raw["size"])
        case "enum":
            return st.sampled_from(raw["symbols"])
        case "bytes":
            return st.binary(max_size=50)
        case "double":
            return st.floats(allow_nan=False)
        case "boolean":
            return st.booleans()
    raise AssertionError(kind)


@pytest.mark.parametrize("mqtt", [True, False], ids=["mqtt", "kafka"])
def test_golden_vectors(mqtt: bool) -> None:
    payloads = [v.mqtt if mqtt else v.kafka for v in VECTORS]
    fast = FAST.decode_mqtt(payloads) if mqtt else FAST.decode_kafka(payloads)
    assert not fast.verdict.any()
    assert_same(fast, SLOW.decode_mqtt(payloads) if mqtt else SLOW.decode_kafka(payloads))


@pytest.mark.parametrize("name", REGISTRY.names)
@pytest.mark.parametrize("outside", [False, True], ids=["legal", "any"])
def test_invented_records(name: str, outside: bool) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True, database=None,
              suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])  # fmt: skip
    @given(st.lists(values(REGISTRY.get(name).raw, {}, outside=outside), min_size=1, max_size=3))
    def run(records: list[dict[str, Any]]) -> None:
        payloads = [CODEC.encode_mqtt(name, record) for record in records]
        fast = FAST.decode_mqtt(payloads)
        assert_same(fast, SLOW.decode_mqtt(payloads))
        if not outside:
            assert not fast.verdict.any()
        for payload, record, verdict in zip(payloads, records, fast.verdict, strict=True):
            if verdict == Verdict.OK:
                assert CODEC.decode_mqtt(payload) == (name, record)
        kafka = FAST.decode_kafka([to_kafka(REGISTRY, payload) for payload in payloads])
        np.testing.assert_array_equal(kafka.verdict, fast.verdict)

    run()


EDITS = st.tuples(
    st.sampled_from(["set", "flip", "insert", "delete", "cut"]),
    st.integers(0, 1 << 16),
    st.sampled_from([b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x10"]),
)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from(VECTORS), st.lists(EDITS, min_size=1, max_size=4)), min_size=1, max_size=8))
def test_broken_bytes(cases: list[tuple[vectors.Vector, list[tuple[str, int, bytes]]]]) -> None:
    payloads = []
    for vector, edits in cases:
        data = bytearray(vector.mqtt)
        for what, where, new in edits:
            at = 10 + where % max(len(data) - 10, 1)
            if what == "set":
                data[at : at + 1] = new[:1]
            elif what == "flip" and at < len(data):
                data[at] ^= 0x80
            elif what == "insert":
                data[at:at] = new
            elif what == "delete":
                del data[at : at + 2]
            else:
                del data[at:]
        payloads.append(bytes(data))
    assert_same(FAST.decode_mqtt(payloads), SLOW.decode_mqtt(payloads))


@pytest.mark.parametrize("name", REGISTRY.names)
def test_every_prefix_is_truncated(name: str) -> None:
    vector = next(v for v in VECTORS if v.schema == name and v.name == "typical")
    prefixes = [vector.mqtt[:k] for k in range(10, len(vector.mqtt))]
    fast = FAST.decode_mqtt(prefixes)
    assert_same(fast, SLOW.decode_mqtt(prefixes))
    assert (fast.verdict == Verdict.TRUNCATED).all()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(max_size=40), st.sampled_from(REGISTRY.names))
def test_random_bodies(body: bytes, name: str) -> None:
    payloads = [mqtt_frame(REGISTRY.get(name), body), body]
    assert_same(FAST.decode_mqtt(payloads), SLOW.decode_mqtt(payloads))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.binary(min_size=1, max_size=12))
def test_text_is_utf8_exactly_when_python_says_so(text: bytes) -> None:
    payload = mqtt_frame(REGISTRY.get("tick"), bytes([2 * len(text)]) + text + b"\x02")
    try:
        text.decode()
        wanted = Verdict.OK
    except UnicodeDecodeError:
        wanted = Verdict.BAD_VALUE
    assert FAST.decode_mqtt([payload]).verdict[0] == wanted


def test_what_fastavro_refuses_is_refused() -> None:
    """The walk decides what the reference decoder takes; fastavro, on its own, must agree with all it takes."""
    for vector in VECTORS:
        schema, body = unframe_mqtt(REGISTRY, vector.mqtt)
        for cut in range(0, len(body), 7):
            broken = body[:cut] + b"\xff" + body[cut + 1 :]
            if CODEC.problem(schema, broken) is None:
                assert CODEC.decode_body(schema, broken)
