"""Schemas as data for the kernel: a short opcode program for each schema version, its limits in tables beside it.

An opcode is a row of eight int64. A field's limits are four int64 at its *slot*; fields that follow each other in a
record have consecutive slots, so a run of integers is one opcode. Runs and arrays of integers
(what 99 % of the bytes are) are one opcode each; all the rest takes one a field.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from v2x_codecs.layout import FieldPlan, Kind, Layout, RecordPlan
from v2x_codecs.registry import Schema

I64 = npt.NDArray[np.int64]

WIDTH: Final = 8  # int64 of an opcode
_U64: Final = (1 << 64) - 1
SLACK: Final = 16  # zero bytes behind the heap, beyond the longest run


class Op(IntEnum):
    """Opcodes, with their operands in order."""

    END = 0
    INTS = 1  # slot, column, count: int and enum fields
    LONGS = 2  # slot, column, count
    TEXT = 3  # slot, column, 1 if UTF-8 is required
    FIXED = 4  # slot, column, size
    BOOLEAN = 5  # slot, column
    DOUBLE = 6  # slot, column
    CONST = 7  # column, value: what this version does not send
    LEAF = 8  # array slot, table, bytes an item at least, slot, count: an array whose items are one run of INTS
    ARRAY = 9  # array slot, table, bytes an item at least, program counter behind NEXT
    NEXT = 10  # end of an item


@dataclass(slots=True)
class Program:
    """All schema versions of a registry, compiled."""

    ops: I64  # (n, 8)
    limits: I64  # (4 * slots,) lo; hi - lo (as uint64); 1 if out of range is an unknown symbol; field name's index
    entry: I64  # (versions, 5): schema index, program counter, root table, first table, table behind the last
    width: I64  # (tables,) columns
    by_fingerprint: I64  # (2, 2**k) open hash: keys (fingerprint as int64), rows of ``entry`` or -1
    by_id: I64
    pad: int  # zero bytes that the kernel may read behind the heap


class _Builder:
    def __init__(self) -> None:
        self.ops: list[list[int]] = []
        self.limits: list[tuple[int, int, int, int]] = []  # see Program.limits
        self.longest = 1

    def emit(self, op: Op, *operands: int) -> int:
        """Append an opcode; return where it is."""
        self.ops.append([int(op), *operands, *[0] * (WIDTH - 1 - len(operands))])
        return len(self.ops) - 1

    def slot(self, item: FieldPlan) -> int:
        """Give a field's limits the next slot."""
        low = item.lo & _U64
        self.limits.append((low, item.hi - item.lo, int(item.kind is Kind.ENUM), item.index))
        return len(self.limits) - 1

    def record(self, plan: RecordPlan) -> None:
        """Append the opcodes of a record's fields."""
        run: list[FieldPlan] = []
        for item in plan.fields:
            if run and not _continues(run[-1], item):
                self.run(run)
                run = []
            if _family(item) is not None:
                run.append(item)
            else:
                self.single(item)
        self.run(run)
        for column, value in plan.defaults:
            self.emit(Op.CONST, column, value)

    def run(self, run: list[FieldPlan]) -> None:
        """Append one opcode for a run of integers."""
        if run:
            slots = [self.slot(item) for item in run]
            self.emit(Op.LONGS if run[0].kind is Kind.LONG else Op.INTS, slots[0], run[0].column, len(run))
            self.longest = max(self.longest, len(run))

    def single(self, item: FieldPlan) -> None:
        """Append the opcodes of any other field."""
        slot = self.slot(item)
        match item.kind:
            case Kind.STRING | Kind.BYTES:
                self.emit(Op.TEXT, slot, item.column, int(item.kind is Kind.STRING))
            case Kind.FIXED:
                self.emit(Op.FIXED, slot, item.column, item.size)
            case Kind.BOOLEAN:
                self.emit(Op.BOOLEAN, slot, item.column)
            case Kind.DOUBLE:
                self.emit(Op.DOUBLE, slot, item.column)
            case _:
                assert item.items is not None
                self.array(slot, item.items)

    def array(self, slot: int, items: RecordPlan) -> None:
        """Append an array and its items."""
        count = len(items.fields)
        whole = [f.column for f in items.fields] == list(range(count)) and not items.defaults
        if whole and all(_family(f) is Op.INTS for f in items.fields):
            slots = [self.slot(f) for f in items.fields]
            self.emit(Op.LEAF, slot, items.table.index, items.min_size, slots[0], count)
            self.longest = max(self.longest, count)
            return
        here = self.emit(Op.ARRAY, slot, items.table.index, items.min_size)
        self.record(items)
        self.emit(Op.NEXT)
        self.ops[here][4] = len(self.ops)


def _family(item: FieldPlan) -> Op | None:
    if item.kind is Kind.LONG:
        return Op.LONGS
    return Op.INTS if item.kind in {Kind.INT, Kind.ENUM} else None


def _continues(last: FieldPlan, item: FieldPlan) -> bool:
    return _family(last) is _family(item) is not None and item.column == last.column + 1


def compile_layout(layout: Layout) -> Program:
    """Compile every schema version."""
    build = _Builder()
    entry = []
    for schema, plan in layout.plans:
        index = layout.schemas.index(schema.name)
        mine = [t.index for t in layout.tables if t.name.partition(".")[0] == schema.name]
        entry.append((index, len(build.ops), plan.table.index, mine[0], mine[-1] + 1))
        build.record(plan)
        build.emit(Op.END)
    schemas = [schema for schema, _ in layout.plans]
    return Program(
        ops=np.array(build.ops, np.int64),
        limits=np.array(build.limits, np.uint64).view(np.int64).reshape(-1),
        entry=np.array(entry, np.int64),
        width=np.array([len(t.fields) + len(t.hidden) for t in layout.tables], np.int64),
        by_fingerprint=_hash(_newest_first(schemas)),
        by_id=_hash([(schema.id, k) for k, schema in enumerate(schemas)]),
        pad=build.longest + SLACK,
    )


def _newest_first(schemas: list[Schema]) -> list[tuple[int, int]]:
    """Return (fingerprint, entry); of versions that share one (only ranges differ) the newest, which comes first."""
    found: dict[int, int] = {}
    for k, schema in enumerate(schemas):
        found.setdefault(int.from_bytes(schema.fingerprint, "little", signed=True), k)
    return list(found.items())


def _hash(pairs: list[tuple[int, int]]) -> I64:
    size = 16
    while size < 4 * len(pairs):
        size *= 2
    table = np.full((2, size), -1, np.int64)
    for key, value in pairs:
        at = key & (size - 1)
        while table[1, at] >= 0:
            at = (at + 1) & (size - 1)
        table[:, at] = key, value
    return table
