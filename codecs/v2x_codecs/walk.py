"""Strict walk over one Avro body, in plain Python: says what is wrong, where, and in which field.

Avro libraries forgive much (trailing bytes, over-long varints, numbers beyond their type); a message from the road is
not forgiven. This walk is the readable statement of the rules; ``kernel`` is the fast one, and tests hold them equal.

The first thing wrong in the order of the bytes decides; ``at`` is the offset of the first byte of the offending field:

* a varint has at most 5 bytes for an int, 10 for a long, and no bits beyond 32 or 64: else ``BAD_VARINT``;
* integers lie in [min, max] of the schema, strings have minLength to maxLength *bytes* of UTF-8: else ``OUT_OF_RANGE``;
* an array's items, over all its blocks, are counted before they are read: more than maxItems is ``TOO_MANY``, more than
  the bytes left could hold ``TRUNCATED``; a block that states its size in bytes must have that size;
* nothing follows the body: else ``TRAILING``.
"""

from __future__ import annotations

from typing import Final

from v2x.columns import Verdict

from v2x_codecs.layout import INT_MAX, INT_MIN, FieldPlan, Kind, RecordPlan

_INT_BYTES: Final = 5
LONG_BYTES: Final = 10
_U64: Final = (1 << 64) - 1


class RefusedError(Exception):
    """A body does not follow its schema."""

    def __init__(self, verdict: Verdict, at: int, field: int = -1) -> None:
        super().__init__(f"{verdict.name} at byte {at}")
        self.verdict, self.at, self.field = verdict, at, field


def walk(plan: RecordPlan, data: bytes, start: int = 0) -> None:
    """Check the body that fills ``data`` from ``start``; RefusedError if it is not exactly one good record."""
    end = _record(plan, data, start)
    if end != len(data):
        raise RefusedError(Verdict.TRAILING, end)


def _record(plan: RecordPlan, data: bytes, pos: int) -> int:
    for item in plan.fields:
        pos = check(item, data, pos)
    return pos


def check(item: FieldPlan, data: bytes, pos: int) -> int:
    """Check one field, whose bytes begin at ``pos``; return where they end."""
    match item.kind:
        case Kind.INT | Kind.ENUM:
            value, after = varint(data, pos, item.index, _INT_BYTES)
            if not INT_MIN <= value <= INT_MAX:
                raise RefusedError(Verdict.BAD_VARINT, pos, item.index)
            if not item.lo <= value <= item.hi:
                wrong = Verdict.OUT_OF_RANGE if item.kind is Kind.INT else Verdict.BAD_VALUE
                raise RefusedError(wrong, pos, item.index)
            return after
        case Kind.LONG:
            value, after = varint(data, pos, item.index, LONG_BYTES)
            if not item.lo <= value <= item.hi:
                raise RefusedError(Verdict.OUT_OF_RANGE, pos, item.index)
            return after
        case Kind.BOOLEAN:
            _need(data, pos, 1, item.index, pos)
            if data[pos] > 1:
                raise RefusedError(Verdict.BAD_VALUE, pos, item.index)
            return pos + 1
        case Kind.DOUBLE:
            _need(data, pos, 8, item.index, pos)
            return pos + 8
        case Kind.FIXED:
            _need(data, pos, item.size, item.index, pos)
            return pos + item.size
        case Kind.STRING | Kind.BYTES:
            return _text(item, data, pos)
        case Kind.ARRAY:
            return _array(item, data, pos)


def _need(data: bytes, pos: int, count: int, field: int, at: int) -> None:
    if len(data) - pos < count:
        raise RefusedError(Verdict.TRUNCATED, at, field)


def varint(data: bytes, pos: int, field: int, most: int, at: int | None = None) -> tuple[int, int]:
    """Read a zigzag varint of at most ``most`` bytes; return its value, and the place behind it."""
    at = pos if at is None else at
    raw = 0
    for k in range(most):
        _need(data, pos + k, 1, field, at)
        byte = data[pos + k]
        raw |= (byte & 0x7F) << (7 * k)
        if byte < 0x80:
            if raw > _U64:
                break
            return (raw >> 1) ^ -(raw & 1), pos + k + 1
    raise RefusedError(Verdict.BAD_VARINT, at, field)


def _text(item: FieldPlan, data: bytes, pos: int) -> int:
    length, start = varint(data, pos, item.index, LONG_BYTES)
    if length < 0:
        raise RefusedError(Verdict.BAD_VALUE, pos, item.index)
    if not item.lo <= length <= item.hi:
        raise RefusedError(Verdict.OUT_OF_RANGE, pos, item.index)
    _need(data, start, length, item.index, pos)
    if item.kind is Kind.STRING:
        try:
            data[start : start + length].decode()
        except UnicodeDecodeError:
            raise RefusedError(Verdict.BAD_VALUE, pos, item.index) from None
    return start + length


def _array(item: FieldPlan, data: bytes, pos: int) -> int:
    assert item.items is not None
    first, total = pos, 0
    while True:
        at = pos
        count, pos = varint(data, pos, item.index, LONG_BYTES)
        if count == 0:
            break
        total += abs(count)
        if total > item.hi:
            raise RefusedError(Verdict.TOO_MANY, at, item.index)
        block_end = -1
        if count < 0:  # the block's size in bytes follows
            size, pos = varint(data, pos, item.index, LONG_BYTES, at)
            if size < 0:
                raise RefusedError(Verdict.BAD_VALUE, at, item.index)
            block_end = pos + size
            _need(data, pos, size, item.index, at)
        _need(data, pos, abs(count) * item.items.min_size, item.index, at)
        for _ in range(abs(count)):
            pos = _record(item.items, data, pos)
        if block_end not in {-1, pos}:
            raise RefusedError(Verdict.BAD_VALUE, at, item.index)
    if total < item.lo:
        raise RefusedError(Verdict.TOO_MANY, first, item.index)
    return pos
