"""Registry and framings: fingerprints as the Avro specification has them, and no change without a new version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from v2x.errors import DecodeError, SchemaError
from v2x.topics import UPLINKS

from v2x_codecs import framing, vectors
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry, schemas_dir, walk_fields, wire_fingerprint

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)


def rabin(data: bytes) -> int:
    """CRC-64-AVRO as the specification's pseudo code computes it."""
    empty = 0xC15D213AA4D7A795
    crc = empty
    for byte in data:
        low = (crc ^ byte) & 0xFF
        for _ in range(8):
            low = (low >> 1) ^ (empty if low & 1 else 0)
        crc = (crc >> 8) ^ low
    return crc


def test_fingerprints_are_crc_64_avro_little_endian() -> None:
    assert wire_fingerprint({"type": "record", "name": "Empty", "fields": []}) == rabin(
        b'{"name":"Empty","type":"record","fields":[]}'
    ).to_bytes(8, "little")
    canonical = b'{"name":"v2x.Tick","type":"record","fields":[{"name":"source","type":"string"},'
    canonical += b'{"name":"ts_ms","type":"long"}]}'
    assert REGISTRY.get("tick").fingerprint == rabin(canonical).to_bytes(8, "little")


def test_a_tick_byte_by_byte() -> None:
    tick = REGISTRY.get("tick")
    body = CODEC.encode_body("tick", {"source": "ingest-0", "ts_ms": 300})
    assert body == bytes([16]) + b"ingest-0" + bytes([0xD8, 0x04])
    payload = framing.mqtt_frame(tick, body)
    assert payload == b"\xc3\x01" + tick.fingerprint + body
    value = framing.to_kafka(REGISTRY, payload)
    assert value == b"\x00" + tick.id.to_bytes(4, "big") + body
    assert framing.unframe_mqtt(REGISTRY, payload) == (tick, body)
    assert framing.unframe_kafka(REGISTRY, value) == (tick, body)
    assert CODEC.decode_kafka(value) == CODEC.decode_mqtt(payload) == ("tick", {"source": "ingest-0", "ts_ms": 300})


@pytest.mark.parametrize("payload", [b"", b"\xc3\x01\x00", b"\xc3\x02" + bytes(20), b"\x00" * 20])
def test_bad_mqtt_headers(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        framing.unframe_mqtt(REGISTRY, payload)


@pytest.mark.parametrize("value", [b"", b"\x00\x00", b"\x01" + bytes(20)])
def test_bad_kafka_headers(value: bytes) -> None:
    with pytest.raises(DecodeError):
        framing.unframe_kafka(REGISTRY, value)


def test_unknown_schemas() -> None:
    with pytest.raises(SchemaError, match="no schema has fingerprint 0000"):
        framing.unframe_mqtt(REGISTRY, b"\xc3\x01" + bytes(10))
    with pytest.raises(SchemaError, match="no schema has id 99999"):
        framing.unframe_kafka(REGISTRY, b"\x00" + (99999).to_bytes(4, "big"))
    with pytest.raises(SchemaError, match="no schema 'nothing'; there are: ack"):
        REGISTRY.get("nothing")


def test_errors_say_where() -> None:
    body = CODEC.encode_body("tick", {"source": "a", "ts_ms": -1})
    with pytest.raises(DecodeError, match=r"tick version 1: OUT_OF_RANGE at byte 2 of the body in tick\.ts_ms"):
        CODEC.decode_kafka(framing.kafka_frame(REGISTRY.get("tick"), body))
    with pytest.raises(SchemaError, match="record does not fit schema 'tick'"):
        CODEC.encode("tick", {"source": "a"})
    with pytest.raises(SchemaError, match="record does not fit schema 'tick'"):
        CODEC.encode("tick", {"source": 5, "ts_ms": 1})


def test_a_lax_codec_skips_ranges_but_not_shape() -> None:
    lax = ReferenceCodec(REGISTRY, strict=False)
    value = CODEC.encode("tick", {"source": "a", "ts_ms": -1})
    assert lax.decode_kafka(value) == ("tick", {"source": "a", "ts_ms": -1})
    for broken in (value[:-1], value[:5] + b"\x02\xff\x02", value[:5] + b"\x7f"):
        with pytest.raises(DecodeError, match="tick version 1"):
            lax.decode_kafka(broken)


def test_every_uplink_has_a_schema_with_the_envelope() -> None:
    for row in UPLINKS:
        fields = [f["name"] for f in REGISTRY.get(row.schema).raw["fields"]]
        assert fields[:4] == ["device", "boot", "seq", "ts_ms"], row


def test_every_integer_has_a_range_and_holds_its_unavailable_value() -> None:
    for name in REGISTRY.names:
        for path, item in walk_fields(REGISTRY.get(name).raw):
            if item["type"] in ("int", "long"):
                assert item["min"] <= item.get("unavailable", item["min"]) <= item["max"], f"{name}.{path}"
            if item["type"] == "string" and name != "map_state":
                assert 0 <= item["minLength"] <= item["maxLength"], f"{name}.{path}"


def test_golden_vectors_hold() -> None:
    golden = vectors.load(REGISTRY)
    assert vectors.problems(REGISTRY, golden) == []
    assert {v.schema for v in golden} == set(REGISTRY.names)
    assert {v.name for v in golden if v.schema == "rsm"} >= {"typical", "unavailable", "minimal", "maximal"}


def test_golden_vectors_notice_a_changed_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = vectors.load(REGISTRY)
    changed = [v if v.schema != "tick" else vectors.Vector(**{**asdict(v), "record": {"source": "x", "ts_ms": 1}})
               for v in golden]  # fmt: skip
    assert "tick vector 'typical' decodes to something else" in vectors.problems(REGISTRY, changed)


def asdict(vector: vectors.Vector) -> dict[str, object]:
    return {name: getattr(vector, name) for name in vector.__slots__}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(schemas_dir(), tmp_path / "schemas"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"type": "long"', '"type": "int"'),  # shape: the fingerprint
        ('"max": 4102444800000', '"max": 4102444800001'),  # range: the attributes
        ('"unit": "ms"', '"unit": "s"'),
    ],
)
def test_a_change_needs_a_new_version(copy: Path, old: str, new: str) -> None:
    edit(copy / "tick.avsc", old, new)
    with pytest.raises(SchemaError, match=r"tick\.avsc does not match version 1 of 'tick' .* add a new version"):
        Registry.load(copy)


def test_a_better_doc_is_no_new_version(copy: Path) -> None:
    edit(copy / "tick.avsc", "Its clock, UTC.", "The clock of that ingest, UTC.")
    assert Registry.load(copy).get("tick").fingerprint == REGISTRY.get("tick").fingerprint


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("registry.json", "{", "cannot read the schema registry"),
        ("tick.avsc", "{", r"tick\.avsc is not JSON"),
        ("tick.avsc", '"int"', "must hold one Avro record"),
    ],
)
def test_broken_files(copy: Path, name: str, text: str, match: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(SchemaError, match=match):
        Registry.load(copy)


def test_missing_files_and_ids_given_twice(copy: Path) -> None:
    (copy / "tick.avsc").unlink()
    with pytest.raises(SchemaError, match=r"tick\.avsc cannot be read"):
        Registry.load(copy)
    shutil.copy(schemas_dir() / "tick.avsc", copy)
    listed = json.loads((copy / "registry.json").read_text())
    listed["tick"][0]["id"] = listed["ack"][0]["id"]
    (copy / "registry.json").write_text(json.dumps(listed))
    with pytest.raises(SchemaError, match="is given to both ack and tick"):
        Registry.load(copy)
