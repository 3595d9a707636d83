"""A message field by field, as far as it can be read: for people who look at what was refused.

``walk`` says what is wrong first; this goes the same way and keeps what it passes. A value out of its range is marked
and passed; behind anything else that is wrong nothing can be read.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final, NamedTuple

from v2x.columns import Verdict

from v2x_codecs import framing
from v2x_codecs.layout import FieldPlan, Kind, Layout, RecordPlan
from v2x_codecs.registry import Registry
from v2x_codecs.walk import LONG_BYTES, RefusedError, check, varint

_DOUBLE: Final = struct.Struct("<d")
Value = int | float | bool | str | bytes


class Line(NamedTuple):
    """One value of a message: where its bytes are, what it is, and what is wrong with it (empty: nothing)."""

    at: int
    size: int
    path: str
    value: Value | None  # None: it cannot be read
    wrong: str = ""


def explain(registry: Registry, payload: bytes) -> tuple[str, list[Line]]:
    """Return schema (name and version) and values of a message in MQTT framing.

    DecodeError if that is no header, SchemaError if it names no schema of ours.
    """
    schema, _ = framing.unframe_mqtt(registry, payload)
    plan = next(plan for found, plan in _layout(registry).plans if found is schema)
    lines: list[Line] = []
    try:
        end = _record(plan, payload, framing.MQTT_HEADER, "", lines)
        if end < len(payload):
            lines.append(Line(end, len(payload) - end, "", None, "bytes are left over"))
    except _EndError:
        pass
    return f"{schema.name} version {schema.version}", lines


@cache
def _layout(registry: Registry) -> Layout:
    return Layout(registry)


class _EndError(Exception):
    """Nothing behind this can be read."""


def _record(plan: RecordPlan, data: bytes, pos: int, path: str, lines: list[Line]) -> int:
    for item in plan.fields:
        name = path if plan.plain else f"{path}.{item.name}".lstrip(".")
        pos = _array(item, data, pos, name, lines) if item.kind is Kind.ARRAY else _value(item, data, pos, name, lines)
    return pos


def _value(item: FieldPlan, data: bytes, pos: int, path: str, lines: list[Line]) -> int:
    try:
        after = check(item, data, pos)
    except RefusedError as refused:
        if refused.verdict is not Verdict.OUT_OF_RANGE or item.kind not in {Kind.INT, Kind.LONG}:
            lines.append(Line(pos, len(data) - pos, path, None, _why(item, refused.verdict)))
            raise _EndError from None
        value, after = varint(data, pos, item.index, LONG_BYTES)
        lines.append(Line(pos, after - pos, path, value, _why(item, refused.verdict)))
        return after
    lines.append(Line(pos, after - pos, path, _read(item, data, pos, after)))
    return after


def _read(item: FieldPlan, data: bytes, pos: int, after: int) -> Value:
    match item.kind:
        case Kind.DOUBLE:
            return float(_DOUBLE.unpack_from(data, pos)[0])
        case Kind.BOOLEAN:
            return data[pos] == 1
        case Kind.FIXED:
            return data[pos:after]
        case Kind.STRING | Kind.BYTES:
            _, start = varint(data, pos, item.index, LONG_BYTES)
            raw = data[start:after]
            return raw.decode() if item.kind is Kind.STRING else raw
    value, _ = varint(data, pos, item.index, LONG_BYTES)
    return item.symbols[value] if item.kind is Kind.ENUM else value


def _array(item: FieldPlan, data: bytes, pos: int, path: str, lines: list[Line]) -> int:
    assert item.items is not None
    total = 0
    while True:
        at, end = pos, -1
        try:
            count, pos = varint(data, pos, item.index, LONG_BYTES)
            if count < 0:  # the block's size in bytes follows
                size, pos = varint(data, pos, item.index, LONG_BYTES)
                end = pos + max(size, 0)
        except RefusedError as refused:
            lines.append(Line(at, len(data) - at, f"{path}[]", None, _why(item, refused.verdict)))
            raise _EndError from None
        first, total = total, total + abs(count)
        wrong = "" if total <= item.hi and (count or total >= item.lo) else f"must be {item.lo} to {item.hi} items"
        if count or wrong:
            lines.append(Line(at, pos - at, f"{path}[]", abs(count), wrong))
        if not count:
            return pos
        for k in range(first, total):
            if pos >= len(data):  # so that an absurd count ends with the bytes
                lines.append(Line(pos, 0, f"{path}[{k}]", None, "the message ends here"))
                raise _EndError
            pos = _record(item.items, data, pos, f"{path}[{k}]", lines)
        if end not in {-1, pos}:
            lines.append(Line(at, pos - at, f"{path}[]", None, f"the block says that it ends at byte {end}"))


def _why(item: FieldPlan, verdict: Verdict) -> str:
    if verdict is Verdict.OUT_OF_RANGE:
        what = "bytes" if item.kind in {Kind.STRING, Kind.BYTES} else ""
        return f"must be {item.lo} to {item.hi} {what}".rstrip()
    return {
        Verdict.TRUNCATED: "the message ends here",
        Verdict.BAD_VARINT: "a number of too many bytes, or beyond its type",
        Verdict.BAD_VALUE: "no such value, or text that is not UTF-8",
    }.get(verdict, verdict.name.lower())
