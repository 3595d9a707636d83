"""The fast decoder: batches of payloads to columns, by one compiled kernel for all schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from v2x.columns import I32, I64, Batch, Table

from v2x_codecs.kernel import decode
from v2x_codecs.layout import Layout
from v2x_codecs.program import compile_layout
from v2x_codecs.reference import MAX_PAYLOAD
from v2x_codecs.registry import Registry

_DECAY: Final = 0.95  # how fast the memory of dense batches fades
_SPARE: Final = 1.25
_ANY: Final = np.empty(0, np.int32)


class ColumnDecoder:
    """``v2x.columns.Decoder``: numba, table-driven, nothing compiled on the data path.

    Not for two threads at once: room for rows is guessed from earlier batches.
    """

    def __init__(self, registry: Registry, max_payload: int = MAX_PAYLOAD) -> None:
        layout = Layout(registry)
        self._program = compile_layout(layout)
        self._plans = [(t.index, t.name, t.fields) for t in layout.tables if t.used]
        self._max = max_payload
        self._pad = bytes(self._program.pad)
        self._density = np.zeros(len(layout.tables))  # rows a byte, lately
        none = np.empty(0, np.int32)
        self._empty = {
            name: Table(name, fields, np.empty((0, len(fields)), np.int64), none, none)
            for _, name, fields in self._plans
        }
        self.schemas = layout.schemas
        self.field_names = layout.field_names

    def decode_mqtt(self, payloads: Sequence[bytes], expect: I32 | None = None) -> Batch:
        """Decode single-object payloads; ``expect[i]`` is the schema index its topic stands for, -1 for any."""
        return self._decode(
            payloads, _ANY if expect is None else np.array(expect, np.int32), self._program.by_fingerprint, mqtt=True
        )

    def decode_kafka(self, values: Sequence[bytes]) -> Batch:
        """Decode values in Confluent framing."""
        return self._decode(values, _ANY, self._program.by_id, mqtt=False)

    def _decode(self, payloads: Sequence[bytes], expect: I32, table: I64, *, mqtt: bool) -> Batch:
        n = len(payloads)
        heap = b"".join([*payloads, self._pad])
        ends = np.cumsum(np.fromiter(map(len, payloads), np.int64, n))
        size = len(heap)
        batch = Batch(
            verdict=np.empty(n, np.int16),
            at=np.empty(n, np.int32),
            bad_field=np.empty(n, np.int32),
            schema=np.empty(n, np.int32),
            row=np.empty(n, np.int32),
            tables=dict(self._empty),
            heap=heap,
        )
        p = self._program
        rows = np.zeros(len(p.width), np.int64)
        store = _Store(p.width, np.ceil(self._density * (size * _SPARE)).astype(np.int64))
        need = np.zeros(2, np.int64)
        data = np.frombuffer(heap, np.uint8)
        done = 0
        while True:
            done = decode(
                data, ends, done, mqtt, expect, self._max, table,
                p.entry, p.ops, p.lo, p.span, p.enum, p.field, p.width,
                store.room, store.base, store.link_base, rows, store.cells, store.msg, store.parent, need,
                batch.verdict, batch.at, batch.bad_field, batch.schema, batch.row,
            )  # fmt: skip
            if done == n:
                break
            # Assume that what is left is as dense as what made the table overflow.
            share = size / max(int(ends[done]), 1)
            store = store.grown(int(need[0]), int(need[1] * share * _SPARE) + 1, rows)
        np.maximum(self._density * _DECAY, rows / size, out=self._density)
        for index, name, fields in self._plans:
            if rows[index]:
                batch.tables[name] = store.table(index, name, fields, int(rows[index]))
        return batch


class _Store:
    """One allocation for the cells of all tables, one each for their links."""

    def __init__(self, width: I64, room: I64) -> None:
        self.width, self.room = width, room
        cells = room * width
        self.base = np.cumsum(cells) - cells
        self.link_base = np.cumsum(room) - room
        self.cells = np.empty(int(cells.sum()), np.int64)
        self.msg = np.empty(int(room.sum()), np.int32)
        self.parent = np.empty(len(self.msg), np.int32)

    def grown(self, table: int, rows: int, used: I64) -> _Store:
        """Return a copy with more room in one table."""
        room = self.room.copy()
        room[table] = rows
        new = _Store(self.width, room)
        for t in np.flatnonzero(used):
            count = int(used[t])
            cells = count * int(self.width[t])
            new.cells[new.base[t] : new.base[t] + cells] = self.cells[self.base[t] : self.base[t] + cells]
            old, at = int(self.link_base[t]), int(new.link_base[t])
            new.msg[at : at + count] = self.msg[old : old + count]
            new.parent[at : at + count] = self.parent[old : old + count]
        return new

    def table(self, index: int, name: str, fields: tuple[str, ...], rows: int) -> Table:
        """Return the rows of a table, as views."""
        base, width, link = int(self.base[index]), int(self.width[index]), int(self.link_base[index])
        data = self.cells[base : base + rows * width].reshape(rows, width)[:, : len(fields)]
        return Table(name, fields, data, self.msg[link : link + rows], self.parent[link : link + rows])
