"""The fast decoder: batches of payloads to columns, by one compiled kernel for all schemas."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numba as nb
import numpy as np
import numpy.typing as npt
from v2x.columns import I32, I64, Batch, Table

from v2x_codecs import kernel
from v2x_codecs.layout import Layout
from v2x_codecs.program import compile_layout
from v2x_codecs.reference import MAX_PAYLOAD
from v2x_codecs.registry import Registry

_STEP: Final = 8  # batch sizes are rounded up to 1/8 of a power of two, so that a plan of the store serves many
_MIB: Final = 1 << 20
_SPARE: Final = 1.25
_FORGET: Final = 1024  # batches after which the memory of dense ones is renewed
_ANY: Final = np.empty(0, np.int32)
_ENDLESS: Final = 1 << 40


class ColumnDecoder:
    """``v2x.columns.Decoder``: numba, table-driven, nothing compiled on the data path.

    Not for two threads at once: the room for rows is guessed from earlier batches.
    """

    def __init__(self, registry: Registry, max_payload: int = MAX_PAYLOAD, keep: Collection[str] | None = None) -> None:
        """Compile all schemas. ``keep``: tables wanted beside the root ones; rows of others are checked, not kept."""
        layout = Layout(registry)
        self._program = compile_layout(layout)
        roots = frozenset(layout.schemas)
        self._kept = np.array([keep is None or t.name in roots or t.name in keep for t in layout.tables], np.bool_)
        self._specs = [(t.name, t.fields, t.used) for t in layout.tables]
        self._max = max_payload
        self._pad = bytes(self._program.pad)
        self._dense = np.zeros(len(layout.tables), np.int64)  # rows to make room for in a MiB
        self._filled = np.empty(len(layout.tables), np.int64)
        self._plans: dict[int, _Plan] = {}
        self._batches = 0
        none = np.empty(0, np.int32)
        self._empty = {
            name: Table(name, fields, np.empty((0, len(fields)), np.int64), none, none)
            for name, fields, used in self._specs
            if used
        }
        self.schemas = layout.schemas
        self._roots = roots
        self.field_names = layout.field_names

    def decode_mqtt(self, payloads: Sequence[bytes], expect: I32 | None = None) -> Batch:
        """Decode single-object payloads; ``expect[i]`` is the schema index its topic stands for, -1 for any."""
        heap, sizes = self._joined(payloads)
        return self._decode(heap, *_one_by_one(sizes), expect, self._program.by_fingerprint, mqtt=True)

    def decode_spans(self, heap: bytes, spans: I64, expect: I32 | None = None) -> Batch:
        """Decode single-object payloads where they lie: ``spans`` (n, 2) int64, offset and length in ``heap``.

        No bytes are copied if ``heap`` has enough spare ones behind the last message.
        """
        size, end = _extent(spans)
        if end + len(self._pad) > len(heap):
            heap += self._pad
        return self._decode(heap, spans, size, expect, self._program.by_fingerprint, mqtt=True)

    def decode_kafka(self, values: Sequence[bytes]) -> Batch:
        """Decode values in Confluent framing."""
        heap, sizes = self._joined(values)
        return self._decode(heap, *_one_by_one(sizes), None, self._program.by_id, mqtt=False)

    def decode_heap(self, values: bytes, sizes: I64) -> Batch:
        """Decode values in Confluent framing that lie one behind the other; ``sizes`` (n,) in bytes."""
        return self._decode(values + self._pad, *_one_by_one(sizes), None, self._program.by_id, mqtt=False)

    def _joined(self, payloads: Sequence[bytes]) -> tuple[bytes, I64]:
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
        return b"".join([*payloads, self._pad]), sizes

    def _decode(self, heap: bytes, spans: I64, size: int, expect: I32 | None, known: I64, *, mqtt: bool) -> Batch:
        n = len(spans)
        wanted = _ANY if expect is None else expect
        if len(wanted) not in {0, n}:
            raise ValueError(f"{len(wanted)} expected schemas for {n} payloads")
        verdict, out = np.empty(n, np.int16), np.empty((4, n), np.int32)
        data = np.frombuffer(heap, np.uint8)
        size += len(self._pad)
        p, plan = self._program, self._plan(size)
        store, links = plan.allocate()
        done = 0
        while True:
            done, many = kernel.decode(
                data, spans, done, mqtt, wanted, self._max, known, p.entry, p.ops, p.limits,
                plan.tables, store, links, verdict, out, self._filled,
            )  # fmt: skip
            if done == n:
                break
            share = float(size / max(int(spans[: done + 1, 1].sum()), 1))
            plan, store, links = self._grow(plan, store, links, size, share)
        at, bad_field, schema, row = out
        batch = Batch(verdict, at, bad_field, schema, row, dict(self._empty), heap)
        tables = plan.tables
        for t in self._filled[:many].tolist():
            name, fields, used = self._specs[t]
            if used:
                width, _, base, link, rows, *_ = tables[t].tolist()
                cells = store[base : base + rows * width].reshape(rows, width)
                if width > len(fields):
                    cells = cells[:, : len(fields)]
                link_end = link + rows
                batch.tables[name] = Table(name, fields, cells, links[0, link:link_end], links[1, link:link_end])
                if name in self._roots:
                    batch.roots.append(name)
        return batch

    def _plan(self, size: int) -> _Plan:
        self._batches += 1
        if self._batches % _FORGET == 0:
            peaks = [plan.tables[:-1, kernel.PEAK] for plan in self._plans.values()]
            self._dense = np.max(peaks, axis=0) if peaks else self._dense
            self._plans.clear()
        unit = max(1 << size.bit_length() >> 1, _STEP) // _STEP
        bucket = -(-size // unit) * unit
        plan = self._plans.get(bucket)
        if plan is None:
            room = self._dense * bucket // _MIB + (self._dense > 0)
            plan = self._plans[bucket] = self._room(room)
        return plan

    def _room(self, rows: I64) -> _Plan:
        """Return a plan with room for so many rows a table."""
        return _Plan(self._program.width, rows, self._kept)

    def _grow(self, plan: _Plan, store: I64, links: I32, size: int, share: float) -> tuple[_Plan, I64, I32]:
        """Make room in the table that is full, as if the rest of the batch were like what was read; rows move over."""
        table, rows = int(plan.tables[-1, kernel.ROOM]), int(plan.tables[-1, kernel.ROWS])
        room = plan.tables[:-1, kernel.ROOM].copy()
        room[table] = int(rows * share * _SPARE) + 1
        self._dense[table] = max(int(self._dense[table]), int(room[table]) * _MIB // size)
        self._plans.clear()
        new = self._room(room)
        new.tables[:-1, kernel.ROWS] = plan.tables[:-1, kernel.ROWS]
        new_store, new_links = new.allocate()
        for t in new.tables[:-1, kernel.ROWS].nonzero()[0].tolist():
            width, _, base, link, used, *_ = new.tables[t].tolist()
            old, old_link = int(plan.tables[t, kernel.BASE]), int(plan.tables[t, kernel.LINK])
            new_store[base : base + used * width] = store[old : old + used * width]
            new_links[:, link : link + used] = links[:, old_link : old_link + used]
        return new, new_store, new_links


def _one_by_one(sizes: I64) -> tuple[I64, int]:
    """Return the spans (n, 2) of messages that lie one behind the other, and their bytes."""
    spans = np.empty((len(sizes), 2), np.int64)
    spans[:, 1] = sizes
    ends = np.cumsum(sizes)
    spans[:, 0] = ends - sizes
    return spans, int(ends[-1]) if len(ends) else 0


@nb.njit("UniTuple(int64, 2)(int64[:, :])", nogil=True, cache=True)  # type: ignore[misc, unused-ignore]
def _extent(spans: I64) -> tuple[int, int]:
    """Return the bytes of all messages, and where the last of them ends."""
    size = end = 0
    for i in range(spans.shape[0]):
        size += spans[i, 1]
        end = max(end, spans[i, 0] + spans[i, 1])
    return size, end


class _Plan:
    """Where the rows of each table go in one store, for batches of about one size."""

    __slots__ = ("_cells", "_rows", "tables")

    def __init__(self, width: I64, room: I64, kept: npt.NDArray[np.bool_]) -> None:
        self.tables = np.zeros((len(width) + 1, kernel.T_WIDTH), np.int64)
        table = self.tables[:-1]
        room = np.where(kept, room, 1)
        cells = room * width
        table[:, kernel.WIDTH] = width
        table[:, kernel.ROOM] = np.where(kept, room, _ENDLESS)
        table[:, kernel.STEP] = kept
        table[:, kernel.BASE] = np.cumsum(cells) - cells
        table[:, kernel.LINK] = np.cumsum(room) - room
        self._cells, self._rows = int(cells.sum()), int(room.sum())

    def allocate(self) -> tuple[I64, I32]:
        """Return a store and its links."""
        return np.empty(self._cells, np.int64), np.empty((2, self._rows), np.int32)
