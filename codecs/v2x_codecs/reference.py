"""fastavro: the reference codec, for all that is not hot, and the slow decoder that the fast one is measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
from fastavro import schemaless_reader, schemaless_writer
from v2x.columns import I32, I64, Batch, Table, Verdict
from v2x.errors import DecodeError, SchemaError

from v2x_codecs import framing
from v2x_codecs.layout import FieldPlan, Kind, Layout, RecordPlan, TablePlan
from v2x_codecs.registry import Registry, Schema
from v2x_codecs.walk import RefusedError, walk

MAX_PAYLOAD: Final = 1 << 18  # bytes; a RSM of 255 participants has 10 KB, a large MAP 100 KB


class ReferenceCodec:
    """Records to bytes and back, one at a time.

    Encoding checks types, not ranges (``problem`` does). Decoding checks all, unless ``strict`` is off: bytes of our
    own making decode three times faster without.
    """

    def __init__(self, registry: Registry, *, strict: bool = True) -> None:
        self._registry = registry
        self._strict = strict
        self._layout = Layout(registry)
        self._plans = {schema.id: plan for schema, plan in self._layout.plans}

    def encode_body(self, name: str, record: Mapping[str, Any]) -> bytes:
        """Return the bare Avro body, by the newest version of ``name``; SchemaError if the record does not fit."""
        return self._body(self._registry.get(name), record)

    def encode_mqtt(self, name: str, record: Mapping[str, Any]) -> bytes:
        """Return the MQTT payload."""
        schema = self._registry.get(name)
        return framing.mqtt_frame(schema, self._body(schema, record))

    def encode(self, schema: str, record: Mapping[str, Any]) -> bytes:
        """Return the Kafka value (the port ``v2x.columns.Encoder``)."""
        found = self._registry.get(schema)
        return framing.kafka_frame(found, self._body(found, record))

    def decode_mqtt(self, payload: bytes) -> tuple[str, dict[str, Any]]:
        """Return schema name and record; DecodeError or SchemaError says what is wrong."""
        schema, body = framing.unframe_mqtt(self._registry, payload)
        return schema.name, self.decode_body(schema, body)

    def decode_kafka(self, value: bytes) -> tuple[str, dict[str, Any]]:
        """Return schema name and record; DecodeError or SchemaError says what is wrong."""
        schema, body = framing.unframe_kafka(self._registry, value)
        return schema.name, self.decode_body(schema, body)

    def decode_body(self, schema: Schema, body: bytes) -> dict[str, Any]:
        """Return the record as the newest version of its schema has it; DecodeError with place and field if refused."""
        wrong = self.problem(schema, body) if self._strict else None
        if wrong is not None:
            raise DecodeError(f"{schema.name} version {schema.version}: {wrong}")
        try:
            return read(self._registry, schema, body)
        except (EOFError, ValueError, IndexError, OverflowError) as error:
            raise DecodeError(f"{schema.name} version {schema.version}: {error!r}") from error

    def problem(self, schema: Schema, body: bytes) -> str | None:
        """Return what is wrong with a body (shape and ranges), or None."""
        try:
            walk(self._plans[schema.id], body)
        except RefusedError as refused:
            field = f" in {self._layout.field_names[refused.field]}" if refused.field >= 0 else ""
            return f"{refused.verdict.name} at byte {refused.at} of the body{field}"
        return None

    @staticmethod
    def _body(schema: Schema, record: Mapping[str, Any]) -> bytes:
        out = BytesIO()
        try:
            schemaless_writer(out, schema.parsed, record, strict_allow_default=True)
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            raise SchemaError(f"record does not fit schema {schema.name!r}: {error!r}") from error
        return out.getvalue()


def read(registry: Registry, schema: Schema, body: bytes) -> dict[str, Any]:
    """Return the record of a good body, resolved to the newest version."""
    newest = registry.get(schema.name)
    record = schemaless_reader(BytesIO(body), schema.parsed, None if newest is schema else newest.parsed)
    assert isinstance(record, dict)
    return record


class ReferenceDecoder:
    """``v2x.columns.Decoder`` with fastavro: the same tables and verdicts, a thousand times slower."""

    def __init__(self, registry: Registry, max_payload: int = MAX_PAYLOAD) -> None:
        self._registry = registry
        self._layout = Layout(registry)
        self._plans = {schema.id: plan for schema, plan in self._layout.plans}
        self._newest = {name: self._plans[registry.get(name).id] for name in registry.names}
        self._max = max_payload
        self.schemas = self._layout.schemas
        self.field_names = self._layout.field_names

    def decode_mqtt(self, payloads: Sequence[bytes], expect: I32 | None = None) -> Batch:
        """Decode single-object payloads; ``expect[i]`` is the schema index its topic stands for, -1 for any."""
        return self._decode(payloads, expect, mqtt=True)

    def decode_spans(self, heap: bytes, spans: I64, expect: I32 | None = None) -> Batch:
        """Decode single-object payloads that lie in ``heap``: ``spans`` (n, 2) has their offsets and lengths."""
        return self.decode_mqtt([heap[at : at + size] for at, size in spans.tolist()], expect)

    def decode_kafka(self, values: Sequence[bytes]) -> Batch:
        """Decode values in Confluent framing."""
        return self._decode(values, None, mqtt=False)

    def decode_heap(self, values: bytes, sizes: I64) -> Batch:
        """Decode values in Confluent framing that lie one behind the other; ``sizes`` (n,) in bytes."""
        ends = np.cumsum(sizes).tolist()
        return self.decode_kafka([values[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)])

    def _decode(self, payloads: Sequence[bytes], expect: I32 | None, *, mqtt: bool) -> Batch:
        n = len(payloads)
        rows = _Rows(self._layout.tables)
        batch = Batch(
            verdict=np.zeros(n, np.int16),
            at=np.full(n, -1, np.int32),
            bad_field=np.full(n, -1, np.int32),
            schema=np.full(n, -1, np.int32),
            row=np.full(n, -1, np.int32),
            tables={},
        )
        for i, payload in enumerate(payloads):
            try:
                schema, body_at = self._header(payload, mqtt=mqtt)
                batch.schema[i] = self.schemas.index(schema.name)
                if expect is not None:
                    _expected(int(expect[i]), int(batch.schema[i]))
                walk(self._plans[schema.id], payload, body_at)
            except RefusedError as refused:
                batch.verdict[i], batch.at[i], batch.bad_field[i] = refused.verdict, refused.at, refused.field
                continue
            record = read(self._registry, schema, payload[body_at:])
            batch.row[i] = rows.add(self._newest[schema.name], record, i, i)
        batch.tables = rows.tables()
        batch.roots = [name for name in self.schemas if len(batch.tables[name].msg)]
        batch.heap = bytes(rows.heap)
        return batch

    def _header(self, payload: bytes, *, mqtt: bool) -> tuple[Schema, int]:
        magic, length = (framing.MQTT_MAGIC, framing.MQTT_HEADER) if mqtt else (b"\x00", framing.KAFKA_HEADER)
        if not payload:
            raise RefusedError(Verdict.EMPTY, 0)
        if len(payload) > self._max:
            raise RefusedError(Verdict.TOO_LARGE, 0)
        if payload[: len(magic)] != magic[: len(payload)]:
            raise RefusedError(Verdict.BAD_FRAMING, 0)
        if len(payload) < length:
            raise RefusedError(Verdict.TRUNCATED, 0)
        try:
            return (framing.unframe_mqtt if mqtt else framing.unframe_kafka)(self._registry, payload)[0], length
        except SchemaError:
            raise RefusedError(Verdict.UNKNOWN_SCHEMA, len(magic)) from None


def _expected(wanted: int, found: int) -> None:
    if wanted not in {-1, found}:
        raise RefusedError(Verdict.WRONG_SCHEMA, len(framing.MQTT_MAGIC))


_NONE: Final = np.empty(0, np.int32)


class _Rows:
    """Tables that grow row by row."""

    def __init__(self, plans: Sequence[TablePlan]) -> None:
        self._plans = plans
        self._data: list[list[list[int]]] = [[] for _ in plans]
        self._links: list[list[tuple[int, int]]] = [[] for _ in plans]
        self.heap = bytearray()

    def add(self, plan: RecordPlan, record: Any, msg: int, parent: int) -> int:
        """Append a record and what hangs on it; return its row."""
        t = plan.table.index
        row = len(self._data[t])
        values: list[int] = []
        self._data[t].append(values)
        self._links[t].append((msg, parent))
        for item in plan.fields:
            value = record if plan.plain else record[item.name]
            if item.kind is Kind.ARRAY:
                assert item.items is not None
                for inner in value:
                    self.add(item.items, inner, msg, row)
            else:
                values += self._cells(item, value)
        return row

    def _cells(self, item: FieldPlan, value: Any) -> list[int]:
        match item.kind:
            case Kind.STRING | Kind.BYTES | Kind.FIXED:
                raw = value.encode() if isinstance(value, str) else value
                self.heap += raw
                return [len(self.heap) - len(raw), len(raw)]
            case Kind.ENUM:
                return [item.symbols.index(value)]
            case Kind.DOUBLE:
                return [int(np.float64(value).view(np.int64))]
            case _:
                return [int(value)]

    def tables(self) -> dict[str, Table]:
        """Return what was appended."""
        out = {}
        for plan, data, links in zip(self._plans, self._data, self._links, strict=True):
            if not plan.used:
                continue
            if not data:
                out[plan.name] = Table(plan.name, plan.fields, np.empty((0, len(plan.fields)), np.int64), _NONE, _NONE)
                continue
            ends = np.array(links, np.int32).reshape(-1, 2)
            cells = np.array(data, np.int64).reshape(len(data), len(plan.fields))
            out[plan.name] = Table(plan.name, plan.fields, cells, ends[:, 0].copy(), ends[:, 1].copy())
        return out
