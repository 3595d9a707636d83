"""File registry: which schemas exist, their versions, Confluent ids and fingerprints.

``codecs/schemas/{name}.avsc`` is the newest version of a schema, ``{name}.v{n}.avsc`` an earlier one; ``registry.json``
lists every version ever released with its id and two fingerprints. ``fingerprint`` is CRC-64-AVRO of the parsing
canonical form (Avro 1.12, "Schema Fingerprints"), in the byte order of the wire (little-endian). It ignores attributes,
so ``attributes`` pins those too: the first 16 hex digits of SHA-256 over each field's path and range attributes.
A file that does not match its entry is a ``SchemaError``: a change needs a new version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastavro.schema import fingerprint as avro_fingerprint
from fastavro.schema import parse_schema, to_parsing_canonical_form
from v2x.errors import SchemaError

REGISTRY_FILE: Final = "registry.json"
# What a reader relies on beside Avro's own shape; `doc` may change freely.
ATTRIBUTES: Final = ("unit", "min", "max", "unavailable", "minItems", "maxItems", "minLength", "maxLength", "personal")


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of a schema."""

    name: str
    id: int  # Confluent id
    version: int
    fingerprint: bytes  # 8 bytes, as on the wire
    raw: dict[str, Any] = field(repr=False)
    parsed: dict[str, Any] = field(repr=False)  # as fastavro wants it


def schemas_dir() -> Path:
    """Return the folder of the schemas: package data in a wheel, ``codecs/schemas`` in a checkout."""
    here = Path(__file__).resolve().parent
    inside = here / "schemas"
    return inside if inside.is_dir() else here.parent / "schemas"


def wire_fingerprint(raw: Mapping[str, Any]) -> bytes:
    """Return CRC-64-AVRO of the parsing canonical form, 8 bytes, little-endian as in single-object encoding."""
    return bytes.fromhex(avro_fingerprint(to_parsing_canonical_form(dict(raw)), "CRC-64-AVRO"))


def walk_fields(raw: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (dotted path, field) of a record schema and of the records in its arrays."""
    for item in raw["fields"]:
        here = f"{path}.{item['name']}" if path else item["name"]
        yield here, item
        inner = item["type"]
        while isinstance(inner, Mapping) and inner["type"] == "array":
            inner = inner["items"]
        if isinstance(inner, Mapping) and inner["type"] == "record":
            yield from walk_fields(inner, here)


def attributes_digest(raw: Mapping[str, Any]) -> str:
    """Return 16 hex digits over the range attributes of every field."""
    rows = [[path, {k: item[k] for k in ATTRIBUTES if k in item}] for path, item in walk_fields(raw)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def read_avsc(path: Path) -> dict[str, Any]:
    """Return the JSON of a schema file."""
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        msg = f"schema file {path.name} cannot be read ({error.strerror}); registry.json lists it"
        raise SchemaError(msg) from error
    except ValueError as error:
        msg = f"schema file {path.name} is not JSON: {error}"
        raise SchemaError(msg) from error
    if not isinstance(raw, dict) or raw.get("type") != "record":
        msg = f"schema file {path.name} must hold one Avro record"
        raise SchemaError(msg)
    return raw


def avsc_path(root: Path, name: str, version: int, newest: int) -> Path:
    """Return where a version's file is."""
    return root / (f"{name}.avsc" if version == newest else f"{name}.v{version}.avsc")


class Registry:
    """All versions of all schemas; immutable once loaded."""

    def __init__(self, schemas: Mapping[str, tuple[Schema, ...]]) -> None:
        self._versions = {name: tuple(sorted(versions, key=lambda s: s.version)) for name, versions in schemas.items()}
        self.names: tuple[str, ...] = tuple(sorted(self._versions))
        self._by_id: dict[int, Schema] = {}
        self._by_fingerprint: dict[bytes, Schema] = {}
        for name in self.names:
            for schema in self._versions[name]:
                if self._by_id.setdefault(schema.id, schema) is not schema:
                    msg = f"schema id {schema.id} is given to both {self._by_id[schema.id].name} and {name}"
                    raise SchemaError(msg)
                other = self._by_fingerprint.get(schema.fingerprint)
                if other is not None and other.name != name:
                    msg = f"schemas {other.name} and {name} have one fingerprint {schema.fingerprint.hex()}: rename one"
                    raise SchemaError(msg)
                # A version that only widens ranges keeps its fingerprint: the newest one judges.
                self._by_fingerprint[schema.fingerprint] = schema

    @classmethod
    def load(cls, root: Path | None = None) -> Registry:
        """Read the schemas that belong to this package (or those in ``root``) and check them against registry.json."""
        return _packaged() if root is None else cls(_read(root))

    def versions(self, name: str) -> tuple[Schema, ...]:
        """Return all versions, oldest first."""
        try:
            return self._versions[name]
        except KeyError:
            msg = f"no schema {name!r}; there are: {', '.join(self.names)}"
            raise SchemaError(msg) from None

    def get(self, name: str) -> Schema:
        """Return the newest version."""
        return self.versions(name)[-1]

    def by_id(self, schema_id: int) -> Schema:
        """Return the version with this Confluent id."""
        try:
            return self._by_id[schema_id]
        except KeyError:
            msg = f"no schema has id {schema_id}; is the registry older than the writer?"
            raise SchemaError(msg) from None

    def by_fingerprint(self, fingerprint: bytes) -> Schema:
        """Return the (newest) version with this fingerprint, 8 bytes as on the wire."""
        try:
            return self._by_fingerprint[bytes(fingerprint)]
        except KeyError:
            msg = f"no schema has fingerprint {bytes(fingerprint).hex()}; is the registry older than the writer?"
            raise SchemaError(msg) from None


def _read(root: Path) -> dict[str, tuple[Schema, ...]]:
    path = root / REGISTRY_FILE
    try:
        listed = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"cannot read the schema registry {path}: {error}"
        raise SchemaError(msg) from error
    found: dict[str, tuple[Schema, ...]] = {}
    for name, entries in listed.items():
        newest = max(entry["version"] for entry in entries)
        found[name] = tuple(_schema(root, name, entry, newest) for entry in entries)
    return found


def _schema(root: Path, name: str, entry: Mapping[str, Any], newest: int) -> Schema:
    path = avsc_path(root, name, entry["version"], newest)
    raw = read_avsc(path)
    fingerprint, attributes = wire_fingerprint(raw), attributes_digest(raw)
    if (fingerprint.hex(), attributes) != (entry["fingerprint"], entry["attributes"]):
        msg = (
            f"{path.name} does not match version {entry['version']} of {name!r} in registry.json: it has fingerprint "
            f"{fingerprint.hex()}, attributes {attributes}; listed are {entry['fingerprint']}, {entry['attributes']}. "
            f"To change a schema, "
            f"keep the old file as {name}.v{entry['version']}.avsc and add a new version to registry.json"
        )
        raise SchemaError(msg)
    parsed = parse_schema(raw, _write_hint=False)
    assert isinstance(parsed, dict)
    return Schema(name, entry["id"], entry["version"], fingerprint, raw, parsed)


@cache
def _packaged() -> Registry:
    return Registry(_read(schemas_dir()))
