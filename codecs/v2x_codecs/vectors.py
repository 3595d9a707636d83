"""Golden vectors: for each schema a few records with their exact bytes, for everyone who writes a codec.

``codecs/vectors/{name}.json``: ``{"schema", "version", "vectors": [{"name", "record", "body", "mqtt", "kafka"}]}``.
The three encodings are hex; in a record, bytes and fixed are hex too, enums are symbols, all else is plain JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2x.errors import SchemaError

from v2x_codecs.framing import kafka_frame, mqtt_frame
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry, schemas_dir


@dataclass(frozen=True, slots=True)
class Vector:
    """One record and its bytes."""

    schema: str
    version: int
    name: str
    record: dict[str, Any]  # as fastavro takes and gives it
    body: bytes
    mqtt: bytes
    kafka: bytes


def vectors_dir() -> Path:
    """Return the folder of the vectors in a checkout (a wheel has none)."""
    return schemas_dir().parent / "vectors"


def plain(raw: Any, value: Any) -> Any:
    """Return a value of schema ``raw`` as JSON can hold it."""
    return _convert(raw, value, lambda data: bytes(data).hex())


def unplain(raw: Any, value: Any) -> Any:
    """Return a value of schema ``raw`` read from JSON as the codec takes it."""
    return _convert(raw, value, bytes.fromhex)


def _convert(raw: Any, value: Any, binary: Any) -> Any:
    kind = raw["type"] if isinstance(raw, Mapping) else raw
    if kind in {"bytes", "fixed"}:
        return binary(value)
    if kind == "array":
        return [_convert(raw["items"], item, binary) for item in value]
    if kind == "record":
        inner = {f["name"]: f["type"] for f in raw["fields"]}
        return {name: _convert(inner[name], item, binary) for name, item in value.items()}
    return value


def load(registry: Registry, root: Path | None = None) -> list[Vector]:
    """Read all vectors; SchemaError on a broken file or a schema without vectors."""
    folder = vectors_dir() if root is None else root
    found: list[Vector] = []
    for name in registry.names:
        path = folder / f"{name}.json"
        try:
            doc = json.loads(path.read_bytes())
            versions = {schema.version: schema for schema in registry.versions(name)}
            for row in doc["vectors"]:
                raw = versions[doc["version"]].raw
                record = unplain(raw, row["record"])
                encodings = (bytes.fromhex(row[key]) for key in ("body", "mqtt", "kafka"))
                found.append(Vector(name, doc["version"], row["name"], record, *encodings))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SchemaError(f"golden vectors {path.name}: {error!r}") from error
    return found


def dump(registry: Registry, name: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the vector file of a schema's newest version for named records."""
    schema, codec = registry.get(name), ReferenceCodec(registry)
    rows = []
    for label, record in records.items():
        body = codec.encode_body(name, record)
        rows.append(
            {
                "name": label,
                "record": plain(schema.raw, record),
                "body": body.hex(),
                "mqtt": mqtt_frame(schema, body).hex(),
                "kafka": kafka_frame(schema, body).hex(),
            }
        )
    return json.dumps({"schema": name, "version": schema.version, "vectors": rows}, indent=1, ensure_ascii=False) + "\n"


def problems(registry: Registry, vectors: list[Vector]) -> list[str]:
    """Return what does not hold: each vector decodes to its record, and the newest version encodes to its bytes."""
    codec, found = ReferenceCodec(registry), []
    for vector in vectors:
        where = f"{vector.schema} vector {vector.name!r}"
        schema = next(s for s in registry.versions(vector.schema) if s.version == vector.version)
        wrong = codec.problem(schema, vector.body)
        if wrong is not None:
            found.append(f"{where} is refused: {wrong}")
            continue
        if (mqtt_frame(schema, vector.body), kafka_frame(schema, vector.body)) != (vector.mqtt, vector.kafka):
            found.append(f"{where}: a framing differs")
        decoded = codec.decode_body(schema, vector.body)
        if {name: decoded.get(name) for name in vector.record} != vector.record:
            found.append(f"{where} decodes to something else")
        if schema is registry.get(vector.schema) and codec.encode_body(vector.schema, vector.record) != vector.body:
            found.append(f"{where} encodes to other bytes")
    return found
