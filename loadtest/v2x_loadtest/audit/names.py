"""Names as numbers, whole columns of them at once."""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

from typing import Final

import numba as nb
import numpy as np
from v2x.columns import I64

_ROOM: Final = 1024
_HEAP: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_HASH, _AT, _SIZE = range(3)
_SEED: Final = np.int64(-3_750_763_034_362_895_579)
_STEP: Final = np.int64(1_099_511_628_211)


@nb.njit(
    nb.int64(_HEAP, nb.int64[:], nb.int64[:], nb.uint8[::1], nb.int64[:, ::1], nb.int64[::1], nb.int64, nb.int64[::1]),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _number(heap, at, size, pool, places, slots, count, out):
    """Give each name its number, new ones the next; return how many there are. There must be room."""
    mask = slots.shape[0] - 1
    for i in range(at.shape[0]):
        begin, length = at[i], max(size[i], 0)
        h = _SEED
        for k in range(length):
            h = (h ^ np.int64(heap[begin + k])) * _STEP
        h ^= (h >> 29) & 0xFFFFFFFF
        slot = h & mask
        found = np.int64(-1)
        while slots[slot] >= 0 and found < 0:
            c = slots[slot]
            if places[c, _HASH] == h and places[c, _SIZE] == length:
                same, k = True, np.int64(0)
                while same and k < length:
                    same = pool[places[c, _AT] + k] == heap[begin + k]
                    k += 1
                if same:
                    found = c
            slot = (slot + 1) & mask
        if found < 0:
            while slots[slot] >= 0:
                slot = (slot + 1) & mask
            found = count
            used = places[count - 1, _AT] + places[count - 1, _SIZE] if count > 0 else 0
            slots[slot] = count
            places[count, _HASH], places[count, _AT], places[count, _SIZE] = h, used, length
            for k in range(length):
                pool[used + k] = heap[begin + k]
            count += 1
        out[i] = found
    return count


@nb.njit(nb.void(nb.int64[:, ::1], nb.int64, nb.int64[::1]), nogil=True, cache=True, error_model="numpy")
def _enter(places, count, slots):
    mask = slots.shape[0] - 1
    for c in range(count):
        slot = places[c, _HASH] & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = c


class Names:
    """Strings as numbers, from 0 in the order in which they come."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._pool = np.zeros(32 * _ROOM, np.uint8)
        self._places: I64 = np.zeros((_ROOM, 3), np.int64)
        self._slots: I64 = np.full(4 * _ROOM, -1, np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> int:
        raw = name.encode()
        return int(self.take(raw, np.zeros(1, np.int64), np.array([len(raw)], np.int64))[0])

    def take(self, heap: bytes, at: I64, size: I64) -> I64:
        """Return the numbers of names (n,) that lie in ``heap``; a size below 0 is an empty name."""
        self._make_room(len(at), int(np.maximum(size, 0).sum()))
        out, known = np.empty(len(at), np.int64), len(self._names)
        count = _number(np.frombuffer(heap, np.uint8), at, size, self._pool, self._places, self._slots, known, out)
        for begin, length in self._places[known:count, _AT:].tolist():
            self._names.append(self._pool[begin : begin + length].tobytes().decode("utf-8", "replace"))
        return out

    def list(self) -> list[str]:
        """Return the names in the order of their numbers."""
        return list(self._names)

    def _make_room(self, names: int, size: int) -> None:
        known = len(self._names)
        used = int(self._places[known - 1, _AT:].sum()) if known else 0
        if used + size > len(self._pool):
            self._pool = np.concatenate((self._pool, np.zeros(used + size, np.uint8)))
        if known + names > len(self._places):
            self._places = np.concatenate((self._places, np.zeros((known + names, 3), np.int64)))
            self._slots = np.full(1 << (4 * len(self._places)).bit_length(), -1, np.int64)
            _enter(self._places, known, self._slots)
