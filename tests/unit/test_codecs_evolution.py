"""Messages of an older version land in the columns of the newest, in the reference and in the fast decoder."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_writer
from fastavro.schema import parse_schema
from v2x.columns import Batch, Decoder, Verdict
from v2x.errors import SchemaError

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.framing import kafka_frame, mqtt_frame
from v2x_codecs.layout import Layout
from v2x_codecs.program import Op, compile_layout
from v2x_codecs.reference import ReferenceDecoder
from v2x_codecs.registry import Registry, Schema, wire_fingerprint


def record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def integer(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "int", "min": 0, "max": 100, **more}


def array(name: str, items: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": {"type": "array", "items": items}, **more}


def enum(*symbols: str) -> dict[str, Any]:
    return {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": list(symbols), "default": "A"}}


def nested(depth: int) -> dict[str, Any]:
    inner = record("Leaf", integer("x"))
    for k in range(depth):
        inner = record(f"Level{k}", array("a", inner))
    return inner


OLD = record(
    "Thing",
    integer("a"),
    {"name": "gone", "type": "string", "default": ""},
    integer("b"),
    enum("A", "B"),
    array("points", record("Point", integer("x"), integer("out", default=0), integer("y"))),
    array("dropped", "int", default=[]),
)
NEW = record(
    "Thing",
    integer("fresh", default=7),
    integer("b"),
    {"name": "text", "type": "string", "maxLength": 9, "default": ""},
    enum("A", "B", "C"),
    array("points", record("Point", integer("y"), integer("z", default=5), integer("x"))),
    array("more", record("More", integer("m")), default=[]),
    integer("a"),
)


def versions(*raws: dict[str, Any]) -> Registry:
    schemas = []
    for k, raw in enumerate(raws, 1):
        parsed = parse_schema(raw, _write_hint=False)
        assert isinstance(parsed, dict)
        schemas.append(Schema("thing", k, k, wire_fingerprint(raw), raw, parsed))
    return Registry({"thing": tuple(schemas)})


def body(schema: Schema, value: dict[str, Any]) -> bytes:
    out = BytesIO()
    schemaless_writer(out, schema.parsed, value)
    return out.getvalue()


REGISTRY = versions(OLD, NEW)
OLD_MESSAGE = body(REGISTRY.by_id(1), {
    "a": 1, "gone": "away", "b": 2, "kind": "B", "points": [{"x": 1, "out": 9, "y": 2}, {"x": 3, "out": 9, "y": 4}],
    "dropped": [1, 2, 3],
})  # fmt: skip
NEW_MESSAGE = body(REGISTRY.by_id(2), {
    "fresh": 8, "b": 3, "text": "t", "kind": "C", "points": [{"y": 6, "z": 7, "x": 5}], "more": [{"m": 1}], "a": 4,
})  # fmt: skip


@pytest.fixture(params=[ReferenceDecoder, ColumnDecoder], ids=["reference", "column"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return request.param(REGISTRY)


def check(batch: Batch) -> None:
    assert batch.verdict.tolist() == [0, 0, 0]
    assert batch.schema.tolist() == [0, 0, 0]
    assert batch.tables.keys() == {"thing", "thing.points", "thing.more"}
    things = batch.tables["thing"]
    assert things.fields == ("fresh", "b", "text.off", "text.len", "kind", "a")
    assert [things.col(name).tolist() for name in ("fresh", "b", "kind", "a")] == [
        [7, 8, 7], [2, 3, 2], [1, 2, 1], [1, 4, 1],
    ]  # fmt: skip
    assert [batch.text("thing", row, "text") for row in range(3)] == ["", "t", ""]
    points = batch.tables["thing.points"]
    assert points.fields == ("y", "z", "x")
    assert points.data.tolist() == [[2, 5, 1], [4, 5, 3], [6, 7, 5], [2, 5, 1], [4, 5, 3]]
    assert points.parent.tolist() == [0, 0, 1, 2, 2]
    assert batch.tables["thing.more"].data.tolist() == [[1]]


def test_old_and_new_messages_side_by_side(decoder: Decoder) -> None:
    old, new = REGISTRY.versions("thing")
    check(
        decoder.decode_mqtt([mqtt_frame(old, OLD_MESSAGE), mqtt_frame(new, NEW_MESSAGE), mqtt_frame(old, OLD_MESSAGE)])
    )
    frames = [kafka_frame(old, OLD_MESSAGE), kafka_frame(new, NEW_MESSAGE), kafka_frame(old, OLD_MESSAGE)]
    check(decoder.decode_kafka(frames))


@pytest.mark.parametrize("kind", [ReferenceDecoder, ColumnDecoder])
def test_arrays_may_be_nested_eight_deep(kind: type[Decoder]) -> None:
    registry = versions(nested(8))
    value: dict[str, Any] = {"x": 5}
    for _ in range(8):
        value = {"a": [value, value] if "x" in value else [value]}
    schema = registry.get("thing")
    batch = kind(registry).decode_mqtt([mqtt_frame(schema, body(schema, value))])  # type: ignore[call-arg]
    assert batch.verdict.tolist() == [0]
    assert batch.tables["thing" + ".a" * 8].data.tolist() == [[5], [5]]


def test_the_heap_has_slack_for_the_longest_run() -> None:
    """The fast decoder reads a run of integers without looking at the end of the message."""
    program = compile_layout(Layout(Registry.load()))
    runs = program.ops[program.ops[:, 0] == Op.INTS][:, 3].tolist()
    leaves = program.ops[program.ops[:, 0] == Op.LEAF][:, 5].tolist()
    assert program.pad >= max(runs + leaves) + 5


def test_old_messages_are_held_to_their_own_ranges(decoder: Decoder) -> None:
    old = REGISTRY.versions("thing")[0]
    bad = bytearray(OLD_MESSAGE)
    bad[0] = 0x03  # a = -2
    batch = decoder.decode_mqtt([mqtt_frame(old, bytes(bad))])
    assert batch.verdict.tolist() == [Verdict.OUT_OF_RANGE]
    assert decoder.field_names[batch.bad_field[0]] == "thing.a"


@pytest.mark.parametrize(
    ("raws", "match"),
    [
        ([record("R", integer("a")), record("R", integer("a"), integer("b"))], r"thing\.b is new and has no default"),
        ([record("R", {"name": "s", "type": "string", "default": "x"})], r"thing\.s: the default 'x' has no column"),
        ([record("R", {"name": "u", "type": ["null", "int"]})], r"thing\.u: .* has no column form"),
        ([record("R", {"name": "f", "type": "float"})], r"thing\.f: 'float' has no column form"),
        ([record("R", array("aa", {"type": "array", "items": "int"}))], r"thing\.aa: an array of arrays"),
        ([record("R", array("e", record("E")))], r"record thing\.e has no fields"),
        ([record("R")], "record thing has no fields"),
        ([nested(9)], "arrays are nested deeper than 8"),
    ],
)
def test_what_has_no_columns_is_a_schema_error(raws: list[dict[str, Any]], match: str) -> None:
    with pytest.raises(SchemaError, match=match):
        Layout(versions(*raws))
