"""From schemas to tables: one plan that both decoders follow.

A schema's record becomes a table named after the schema, each array field a child table ``parent.field`` with one row
an item (an array of plain values has the one column ``value``). Integers, booleans and enums (index of the symbol) take
one column, a double one with its 64 bits; string, bytes and fixed take two, ``x.off`` and ``x.len``, into the heap.

Columns are those of a schema's newest version. An older version's messages fill what the newest lacks into hidden
columns behind the visible ones, and what they lack themselves with the newest version's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from v2x.errors import SchemaError

from v2x_codecs.registry import Registry, Schema

MAX_ITEMS: Final = 1 << 16  # of an array that states no maxItems
MAX_BYTES: Final = (1 << 31) - 1  # of a string that states no maxLength
MAX_DEPTH: Final = 8  # of arrays within arrays
INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1
LONG_MIN, LONG_MAX = -(1 << 63), (1 << 63) - 1


class Kind(IntEnum):
    """What a field is on the wire."""

    INT = 0
    LONG = 1
    ENUM = 2
    BOOLEAN = 3
    DOUBLE = 4
    STRING = 5
    BYTES = 6
    FIXED = 7
    ARRAY = 8


@dataclass(slots=True)
class TablePlan:
    """Columns of one record type."""

    index: int
    name: str
    fields: tuple[str, ...] = ()  # visible columns
    hidden: tuple[str, ...] = ()  # columns of older versions
    used: bool = True  # false: only older versions have it


@dataclass(slots=True)
class FieldPlan:
    """One field of one schema version; ``lo`` and ``hi`` bound the value, the length in bytes, or the item count."""

    index: int  # into ``Layout.field_names``
    name: str
    kind: Kind
    lo: int
    hi: int
    column: int = -1  # first column; -1 for arrays
    size: int = 0  # of a fixed
    symbols: tuple[str, ...] = ()
    items: RecordPlan | None = None


@dataclass(slots=True)
class RecordPlan:
    """One record type of one schema version."""

    table: TablePlan
    fields: list[FieldPlan] = field(default_factory=list)
    defaults: list[tuple[int, int]] = field(default_factory=list)  # (column, value) that this version does not send
    plain: bool = False  # items of an array of plain values

    @property
    def min_size(self) -> int:
        """Bytes that a row takes at least: what bounds the rows a message can ask for."""
        return sum(_MIN_SIZE.get(f.kind, 1) if f.kind is not Kind.FIXED else f.size for f in self.fields)


_MIN_SIZE: Final = {Kind.DOUBLE: 8}
_PRIMITIVE: Final = {
    "int": Kind.INT,
    "long": Kind.LONG,
    "boolean": Kind.BOOLEAN,
    "double": Kind.DOUBLE,
    "string": Kind.STRING,
    "bytes": Kind.BYTES,
    "enum": Kind.ENUM,
    "fixed": Kind.FIXED,
    "array": Kind.ARRAY,
}
_HEAPED: Final = frozenset({Kind.STRING, Kind.BYTES, Kind.FIXED})


class Layout:
    """Tables, field names and the plan of every schema version in a registry."""

    def __init__(self, registry: Registry) -> None:
        self.schemas: tuple[str, ...] = registry.names
        self.tables: list[TablePlan] = []
        self.plans: list[tuple[Schema, RecordPlan]] = []
        self._tables: dict[str, TablePlan] = {}
        self._names: dict[str, int] = {}
        self._defaults: dict[str, list[tuple[int, int]]] = {}  # path to (column, value)
        for name in registry.names:
            newest = registry.get(name)
            for schema in reversed(registry.versions(name)):  # the newest lays out the columns
                self.plans.append((schema, self._record(name, schema.raw, {}, newest=schema is newest)))
        self.field_names: tuple[str, ...] = tuple(self._names)

    def _field_index(self, path: str) -> int:
        return self._names.setdefault(path, len(self._names))

    def _table(self, name: str, *, newest: bool) -> TablePlan:
        if name not in self._tables:
            self._tables[name] = TablePlan(len(self._tables), name, used=newest)
            self.tables.append(self._tables[name])
        return self._tables[name]

    def _record(self, path: str, raw: Mapping[str, Any], named: dict[str, Any], *, newest: bool) -> RecordPlan:
        named[raw["name"]] = raw
        table = self._table(path, newest=newest)
        plan = RecordPlan(table)
        for item in raw["fields"]:
            plan.fields.append(self._field(path, table, item, named, newest=newest))
        if not plan.fields:
            raise SchemaError(f"record {path} has no fields: an array of them would cost no bytes")
        if newest:
            self._remember_defaults(path, raw, plan)
        else:
            self._fill_defaults(plan)
        return plan

    def _field(
        self, path: str, table: TablePlan, item: Mapping[str, Any], named: dict[str, Any], *, newest: bool
    ) -> FieldPlan:
        here = f"{path}.{item['name']}"
        inner = item["type"]
        if isinstance(inner, str) and inner not in _PRIMITIVE:
            inner = named.get(inner, named.get(inner.rpartition(".")[2], inner))
        kind_name = inner["type"] if isinstance(inner, Mapping) else inner
        kind = _PRIMITIVE.get(kind_name) if isinstance(kind_name, str) else None
        if kind is None:
            raise SchemaError(f"{here}: {kind_name!r} has no column form; use integers with an 'unavailable' code")
        plan = FieldPlan(self._field_index(here), item["name"], kind, *_bounds(kind, item, inner))
        if kind is Kind.ARRAY:
            assert isinstance(inner, Mapping)
            if here.count(".") > MAX_DEPTH:
                raise SchemaError(f"{here}: arrays are nested deeper than {MAX_DEPTH}")
            plan.items = self._items(here, inner["items"], named, newest=newest)
            return plan
        if isinstance(inner, Mapping):
            named[inner["name"]] = inner
            plan.size = inner.get("size", 0)
            plan.symbols = tuple(inner.get("symbols", ()))
        plan.column = _place(table, item["name"], kind, newest=newest)
        return plan

    def _items(self, here: str, items: Any, named: dict[str, Any], *, newest: bool) -> RecordPlan:
        if isinstance(items, str) and items not in _PRIMITIVE:
            items = named.get(items, named.get(items.rpartition(".")[2], items))
        if isinstance(items, Mapping) and items["type"] == "record":
            return self._record(here, items, named, newest=newest)
        table = self._table(here, newest=newest)
        value = self._field(here, table, {"name": "value", "type": items}, named, newest=newest)
        if value.kind is Kind.ARRAY:
            raise SchemaError(f"{here}: an array of arrays has no table form; put a record between")
        return RecordPlan(table, [value], plain=True)

    def _remember_defaults(self, path: str, raw: Mapping[str, Any], plan: RecordPlan) -> None:
        for item, target in zip(raw["fields"], plan.fields, strict=True):
            if "default" in item:
                self._defaults[f"{path}.{item['name']}"] = _default(f"{path}.{item['name']}", item["default"], target)

    def _fill_defaults(self, plan: RecordPlan) -> None:
        sent = {f.name for f in plan.fields}
        table = plan.table
        for name in dict.fromkeys(column.rpartition(".")[0] or column for column in table.fields):
            if name in sent:
                continue
            try:
                pairs = self._defaults[f"{table.name}.{name}"]
            except KeyError:
                raise SchemaError(f"{table.name}.{name} is new and has no default: older messages lack it") from None
            plan.defaults.extend(pairs)


def _bounds(kind: Kind, item: Mapping[str, Any], inner: Any) -> tuple[int, int]:
    if kind in {Kind.INT, Kind.LONG}:
        lo, hi = (INT_MIN, INT_MAX) if kind is Kind.INT else (LONG_MIN, LONG_MAX)
        lo, hi = max(lo, item.get("min", lo)), min(hi, item.get("max", hi))
        if "unavailable" in item:  # legal even where it lies outside the range of values
            lo, hi = min(lo, item["unavailable"]), max(hi, item["unavailable"])
        return lo, hi
    if kind is Kind.ENUM:
        return 0, len(inner["symbols"]) - 1
    if kind is Kind.ARRAY:
        return item.get("minItems", 0), item.get("maxItems", MAX_ITEMS)
    return item.get("minLength", 0), item.get("maxLength", MAX_BYTES)


def _place(table: TablePlan, name: str, kind: Kind, *, newest: bool) -> int:
    columns = (f"{name}.off", f"{name}.len") if kind in _HEAPED else (name,)
    everything = table.fields + table.hidden
    if columns[0] in everything:
        return everything.index(columns[0])
    if newest:
        table.fields += columns
    else:
        table.hidden += columns
    return len(everything)


def _default(path: str, value: Any, plan: FieldPlan) -> list[tuple[int, int]]:
    if plan.kind is Kind.ARRAY and value == []:
        return []
    if plan.kind in _HEAPED and value == "":
        return [(plan.column, 0), (plan.column + 1, 0)]
    if plan.kind is Kind.ENUM and value in plan.symbols:
        return [(plan.column, plan.symbols.index(value))]
    if plan.kind in {Kind.INT, Kind.LONG, Kind.BOOLEAN} and isinstance(value, int):
        return [(plan.column, int(value))]
    raise SchemaError(f"{path}: the default {value!r} has no column form; use 0, '' or []")
