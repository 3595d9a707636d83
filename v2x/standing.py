"""The standing audit's core: gaps of every device's sequence numbers, found as the log goes by, in bounded memory.

A line is one device, boot and message type. It remembers which of the last ``WINDOW`` numbers were seen::

     floor        mark              top
    ──┴─────────────┴────────────────┴──►  seq        floor … top: one bit each

A *sweep* calls lost what is still missing up to ``mark``, lifts the floor over it and puts the mark at the top: so a
number has one to two sweeps to come late (other partitions, devices that send again). What leaves the window unseen is
lost as well. Numbers before the first one seen and behind the last one are no loss here: `v2x audit` with a ledger sees
those.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba as nb
import numpy as np
import numpy.typing as npt

from v2x.columns import I64

WINDOW: Final = 1024
_WORDS: Final = WINDOW // 64
_ID: Final = 64  # bytes of a device's id
_FACTS: Final = 8
_HASH, _BOOT, _TYPE, _FLOOR, _MARK, _TOP, _HEARD, _SIZE = range(_FACTS)
FRESH, AGAIN, LOST, UNPLACED = range(4)  # counts of a type: distinct, seen before (or too late), lost, no room
_IDLE: Final = 20  # sweeps without a word after which a line may make room for others
_STEP: Final = 1_099_511_628_211
_NAMED: Final = 64  # losses that a sweep names

_HEAP: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_LIST: Final = nb.int64[::1]
_COLUMN: Final = nb.int64[:]
_GRID: Final = nb.int64[:, ::1]
_BITS: Final = nb.uint64[:, ::1]
_NAMES: Final = nb.uint8[:, ::1]
_INLINE: Final = nb.njit(inline="always")


def _kernel(signature):
    return nb.njit(signature, nogil=True, cache=True, error_model="numpy")


@_INLINE
def _seen(bits, line, seq):
    place = seq % WINDOW
    return (bits[line, place >> 6] >> np.uint64(place & 63)) & np.uint64(1)


@_INLINE
def _set(bits, line, seq, value):
    place = seq % WINDOW
    one = np.uint64(1) << np.uint64(place & 63)
    if value:
        bits[line, place >> 6] |= one
    else:
        bits[line, place >> 6] &= ~one


@_INLINE
def _unseen(bits, line, first, last):
    n = 0
    for seq in range(first, last + 1):
        n += _seen(bits, line, seq) == np.uint64(0)
    return n


@_kernel(
    nb.int64(_HEAP, _COLUMN, _COLUMN, _COLUMN, _COLUMN, _COLUMN, nb.int64, _GRID, _NAMES, _BITS, _LIST, nb.int64, _GRID)
)
def _take(heap, kind, at, size, boot, seq, now, facts, names, bits, slots, lines, counts):
    """Take records in order; return how many lines there are now."""
    mask = slots.shape[0] - 1
    for i in range(kind.shape[0]):
        t, length = kind[i], min(size[i], _ID)
        h = (boot[i] * _STEP) ^ t
        for k in range(length):
            h = (h ^ np.int64(heap[at[i] + k])) * _STEP
        h ^= (h >> 29) & 0xFFFFFFFF
        slot = h & mask
        line = np.int64(-1)
        while slots[slot] >= 0:
            c = slots[slot]
            if (
                facts[c, _HASH] == h
                and facts[c, _BOOT] == boot[i]
                and facts[c, _TYPE] == t
                and facts[c, _SIZE] == length
            ):
                same = True
                for k in range(length):
                    same &= names[c, k] == heap[at[i] + k]
                if same:
                    line = c
                    break
            slot = (slot + 1) & mask
        s = seq[i]
        if line < 0:
            if lines == facts.shape[0]:
                counts[t, UNPLACED] += 1
                continue
            line = lines
            lines += 1
            slots[slot] = line
            facts[line, _HASH], facts[line, _BOOT], facts[line, _TYPE], facts[line, _SIZE] = h, boot[i], t, length
            facts[line, _FLOOR], facts[line, _MARK], facts[line, _TOP] = s, s, s - 1
            bits[line, :] = 0
            for k in range(length):
                names[line, k] = heap[at[i] + k]
        facts[line, _HEARD] = now
        floor, top = facts[line, _FLOOR], facts[line, _TOP]
        if s > top:
            lowest = s - WINDOW + 1
            if lowest > floor:
                counts[t, LOST] += _unseen(bits, line, floor, min(top, lowest - 1)) + max(
                    0, lowest - 1 - max(top, floor - 1)
                )
                facts[line, _FLOOR] = lowest
            for k in range(max(top + 1, lowest), s):
                _set(bits, line, k, False)
            _set(bits, line, s, True)
            facts[line, _TOP] = s
            counts[t, FRESH] += 1
        elif s < floor or _seen(bits, line, s):
            counts[t, AGAIN] += 1
        else:
            _set(bits, line, s, True)
            counts[t, FRESH] += 1
    return lines


@_kernel(nb.int64(nb.int64, nb.boolean[::1], _GRID, _BITS, _GRID, _GRID))
def _sweep(lines, which, facts, bits, counts, named):
    """Call lost what is missing up to the marks of lines of some types; return how many losses are named."""
    n = 0
    for line in range(lines):
        t = facts[line, _TYPE]
        if not which[t]:
            continue
        floor, mark = facts[line, _FLOOR], facts[line, _MARK]
        for s in range(floor, mark + 1):
            if not _seen(bits, line, s):
                counts[t, LOST] += 1
                if n < named.shape[0]:
                    named[n, 0], named[n, 1] = line, s
                    n += 1
        facts[line, _FLOOR] = max(floor, mark + 1)
        facts[line, _MARK] = facts[line, _TOP]
    return n


@_kernel(nb.int64(nb.int64, _GRID, _BITS))
def _missing(lines, facts, bits):
    n = 0
    for line in range(lines):
        n += _unseen(bits, line, facts[line, _FLOOR], facts[line, _TOP])
    return n


@_kernel(nb.void(nb.int64, _GRID, _LIST))
def _enter(lines, facts, slots):
    mask = slots.shape[0] - 1
    slots[:] = -1
    for line in range(lines):
        slot = facts[line, _HASH] & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = line


class Loss(NamedTuple):
    """A number that a sweep calls lost."""

    device: str
    boot: int  # ms UTC
    type: int  # as it was given to ``take``
    seq: int


class Standing:
    """Lines of all devices; at most ``capacity`` of them, some 270 bytes each."""

    def __init__(self, types: int, capacity: int = 65_536) -> None:
        """``types``: how many message types there are, numbered from 0."""
        self.counts: I64 = np.zeros((types, 4), np.int64)
        self.forgotten = 0
        self._facts: I64 = np.zeros((capacity, _FACTS), np.int64)
        self._names = np.zeros((capacity, _ID), np.uint8)
        self._bits = np.zeros((capacity, _WORDS), np.uint64)
        self._slots = np.full(1 << (2 * capacity - 1).bit_length(), -1, np.int64)
        self._lines = self._sweeps = 0

    def __len__(self) -> int:
        return self._lines

    def take(self, heap: bytes, kind: I64, at: I64, size: I64, boot: I64, seq: I64) -> None:
        """Take records: columns (n,) of type, place and length of the device's id in ``heap``, boot, seq."""
        data: Any = np.frombuffer(heap, np.uint8)
        self._lines = int(
            _take(data, kind, at, size, boot, seq, self._sweeps, self._facts, self._names, self._bits, self._slots,
                  self._lines, self.counts)
        )  # fmt: skip

    def sweep(self, types: npt.NDArray[np.bool_]) -> list[Loss]:
        """Call lost what has not come in time, of some types; return the first of them by name."""
        self._sweeps += 1
        named = np.empty((_NAMED, 2), np.int64)
        n = int(_sweep(self._lines, types, self._facts, self._bits, self.counts, named))
        losses = []
        for line, seq in named[:n].tolist():
            _, boot, kind, _, _, _, _, size = self._facts[line].tolist()
            losses.append(Loss(self._names[line, :size].tobytes().decode("utf-8", "replace"), boot, kind, seq))
        if self._lines > 0.9 * len(self._facts):
            self._make_room()
        return losses

    def missing(self) -> int:
        """Return how many numbers are missing at present, and may still come."""
        return int(_missing(self._lines, self._facts, self._bits))

    def _make_room(self) -> None:
        """Forget lines without a word for long, all but the newest half if they are not enough."""
        heard = self._facts[: self._lines, _HEARD]
        keep = np.flatnonzero(heard >= self._sweeps - _IDLE)
        if keep.size > 0.9 * len(self._facts):
            keep = np.sort(np.argsort(-heard, kind="stable")[: len(self._facts) // 2])
        n = keep.size
        self.forgotten += self._lines - n
        for column in (self._facts, self._names, self._bits):
            column[:n] = column[keep]
        self._lines = n
        _enter(n, self._facts, self._slots)
