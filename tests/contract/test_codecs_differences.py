"""Each row of the table of what fastavro takes and we refuse, with both decoders and both framings."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from fastavro import schemaless_reader
from fastavro.schema import parse_schema
from v2x.columns import Decoder

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.differences import DIFFERENCES, Difference, explain
from v2x_codecs.framing import kafka_frame, mqtt_frame
from v2x_codecs.layout import Kind, Layout
from v2x_codecs.mutate import zigzag
from v2x_codecs.reference import ReferenceDecoder
from v2x_codecs.registry import Registry, Schema, wire_fingerprint

GOOD = {
    "int": b"\x02",
    "long": b"\x02",
    "string": b"\x02a",
    "boolean": b"\x01",
    "array": b"\x02\x02\x00",
    "enum": b"\0",
}


def registry_of(field: Any) -> Registry:
    raw = {"type": "record", "name": "Thing", "fields": [{"name": "v", **field}]}
    parsed = parse_schema(raw, _write_hint=False)
    return Registry({"thing": (Schema("thing", 1, 1, wire_fingerprint(raw), raw, parsed),)})


@pytest.mark.parametrize("kind", [ReferenceDecoder, ColumnDecoder], ids=["reference", "column"])
@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.name)
def test_fastavro_takes_it_and_we_do_not(row: Difference, kind: Any) -> None:
    registry = registry_of(row.field)
    schema = registry.get("thing")
    assert schemaless_reader(BytesIO(row.body), schema.parsed, None) == {"v": row.theirs}
    decoder: Decoder = kind(registry)
    type_ = row.field["type"]
    good = GOOD[type_ if isinstance(type_, str) else type_["type"]]
    for frame, decode in ((mqtt_frame, decoder.decode_mqtt), (kafka_frame, decoder.decode_kafka)):
        one, bad = frame(schema, good), frame(schema, row.body)
        batch = decode([one, bad, one])
        assert batch.verdict.tolist() == [0, row.verdict, 0]
        assert batch.at.tolist() == [-1, len(bad) - len(row.body) + row.at, -1]
        field = batch.bad_field[1]
        assert (decoder.field_names[field] if field >= 0 else None) == ("thing.v" if row.kinds else None)
        assert batch.row.tolist() == [0, -1, 1]
        assert len(batch.tables["thing"].data) == 2


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.name)
def test_each_example_is_explained_by_its_own_row(row: Difference) -> None:
    kind = Layout(registry_of(row.field)).plans[0][1].fields[0].kind if row.kinds else None
    assert explain(row.verdict, kind, row.body, row.at) is row


def test_what_no_row_explains_is_not_explained() -> None:
    whole = next(row for row in DIFFERENCES if not row.kinds)
    assert explain(whole.verdict, Kind.INT, b"\x02\x00", 1) is None
    wide = next(row for row in DIFFERENCES if row.name == "a long in 11 bytes or more")
    assert explain(wide.verdict, Kind.LONG, zigzag(1, 9), 0) is None


def test_names_are_unique() -> None:
    assert len({row.name for row in DIFFERENCES}) == len(DIFFERENCES)
