"""Tripwires around what compiled code reads and writes: it checks no bounds of arrays itself.

Reading: messages lie against the end of a stretch of memory, behind which a page may not be touched: the first byte
read beyond the zeros that the decoder is promised kills the process, and ``watch`` finds the case. Writing: between the
stores of all tables are cells that must stay as they are.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt
from v2x.columns import I32, I64, Batch

from v2x_codecs import kernel
from v2x_codecs.decoder import ColumnDecoder, _Plan
from v2x_codecs.registry import Registry
from v2x_loadtest.fuzz.mutants import U8

_GAP: Final = 16  # cells between two tables
_WIRE: Final = 0x5AA5_5AA5
_NO_ACCESS: Final = 0


class Fence:
    """Memory that ends where no byte may be read."""

    def __init__(self, size: int) -> None:
        """Take at least ``size`` bytes."""
        page = mmap.PAGESIZE
        size = -(-size // page) * page
        self._map = mmap.mmap(-1, size + page)
        self.bytes: U8 = np.frombuffer(self._map, np.uint8, size)
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self.bytes.ctypes.data + size)
        if libc.mprotect(address, ctypes.c_size_t(page), _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")

    def heap(self) -> memoryview:
        """Return all of it, as a decoder takes it."""
        return memoryview(self.bytes.data).toreadonly()


class _Wired(_Plan):
    """A store with wires between its tables."""

    __slots__ = ("_cell_wires", "_link_wires", "_used")

    def __init__(self, width: I64, rows: I64, kept: npt.NDArray[np.bool_], used: list[tuple[_Wired, I64, I32]]) -> None:
        super().__init__(width, rows, kept)
        tables = self.tables[:-1]
        room: I64 = np.where(tables[:, kernel.STEP], tables[:, kernel.ROOM], 1)
        nth = np.arange(1, len(tables) + 1) * _GAP
        tables[:, kernel.BASE] += nth
        tables[:, kernel.LINK] += nth
        self._cells += _GAP * (len(tables) + 1)
        self._rows += _GAP * (len(tables) + 1)
        self._cell_wires = _wires(tables[:, kernel.BASE] + room * width)
        self._link_wires = _wires(tables[:, kernel.LINK] + room)
        self._used = used

    def allocate(self) -> tuple[I64, I32]:
        """Return a store and its links, wires in place."""
        store, links = super().allocate()
        store[self._cell_wires] = _WIRE
        links[:, self._link_wires] = _WIRE
        self._used.append((self, store, links))
        return store, links

    def whole(self, store: I64, links: I32) -> bool:
        """Say whether no wire was touched."""
        return bool((store[self._cell_wires] == _WIRE).all() and (links[:, self._link_wires] == _WIRE).all())


def _wires(ends: I64) -> I64:
    places: I64 = np.concatenate((np.zeros(1, np.int64), ends))
    return (places[:, None] + np.arange(_GAP)).reshape(-1)


class WiredDecoder(ColumnDecoder):
    """The decoder as it is, with wires."""

    def __init__(self, registry: Registry, max_payload: int, keep: Collection[str] | None = None) -> None:
        self._used: list[tuple[_Wired, I64, I32]] = []
        super().__init__(registry, max_payload, keep)

    def _room(self, rows: I64) -> _Plan:
        return _Wired(self._program.width, rows, self._kept, self._used)

    @property
    def spare(self) -> int:
        """Bytes behind the last message that it may read."""
        return len(self._pad)

    def decode_kafka_spans(self, heap: bytes, spans: I64) -> Batch:
        """Decode values in Confluent framing where they lie, as ``decode_spans``; zeros must be behind them."""
        return self._decode(heap, spans, int(spans[:, 1].sum()), None, self._program.by_id, mqtt=False)

    def whole(self) -> bool:
        """Say whether the batches since the last call wrote only where they may."""
        held = all(plan.whole(store, links) for plan, store, links in self._used)
        self._used.clear()
        return held
