"""The kernels of ``v2x.standing``: lines of facts, a window of bits each, found by an open hash."""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN201, ANN202, SIM110
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Final

import numba as nb
import numpy as np

WINDOW: Final = 1024
FACTS: Final = 9
HASH, BOOT, TYPE, FLOOR, MARK, TOP, HEARD, SIZE, HOLES = range(FACTS)
FRESH, AGAIN, LOST, UNPLACED = range(4)  # counts of a type: distinct, seen before (or too late), lost, no room
_ID: Final = 64  # bytes of a device's id
_STEP: Final = 1_099_511_628_211

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


@_INLINE
def _is(facts, names, line, h, boot, kind, heap, at, length):
    """Say whether a line is that of a device, boot and type."""
    if facts[line, HASH] != h or facts[line, BOOT] != boot or facts[line, TYPE] != kind or facts[line, SIZE] != length:
        return False
    for k in range(length):
        if names[line, k] != heap[at + k]:
            return False
    return True


@_kernel(
    nb.types.UniTuple(nb.int64, 2)(
        _HEAP, _COLUMN, _COLUMN, _COLUMN, _COLUMN, _COLUMN, _COLUMN, nb.int64, nb.int64, _GRID, _NAMES, _BITS, _LIST,
        nb.int64, _GRID,
    )
)  # fmt: skip
def take(heap, kind, at, size, boot, first, last, longest, now, facts, names, bits, slots, lines, counts):
    """Take runs in order; return how many lines there are now, and how many numbers were told."""
    mask = slots.shape[0] - 1
    told = 0
    for i in range(kind.shape[0]):
        numbers = last[i] - first[i] + 1
        if numbers <= 0 or numbers > longest:
            continue
        told += numbers
        t, length = kind[i], min(size[i], _ID)
        h = (boot[i] * _STEP) ^ t
        for k in range(length):
            h = (h ^ np.int64(heap[at[i] + k])) * _STEP
        h ^= (h >> 29) & 0xFFFFFFFF
        slot = h & mask
        line = np.int64(-1)
        while slots[slot] >= 0:
            if _is(facts, names, slots[slot], h, boot[i], t, heap, at[i], length):
                line = slots[slot]
                break
            slot = (slot + 1) & mask
        if line < 0:
            if lines == facts.shape[0]:
                counts[t, UNPLACED] += numbers
                continue
            line = lines
            lines += 1
            slots[slot] = line
            facts[line, HASH], facts[line, BOOT], facts[line, TYPE], facts[line, SIZE] = h, boot[i], t, length
            facts[line, FLOOR], facts[line, MARK], facts[line, TOP] = first[i], first[i], first[i] - 1
            facts[line, HOLES] = 0
            bits[line, :] = 0
            for k in range(length):
                names[line, k] = heap[at[i] + k]
        facts[line, HEARD] = now
        for s in range(first[i], last[i] + 1):
            floor, top = facts[line, FLOOR], facts[line, TOP]
            if s > top:
                lowest = s - WINDOW + 1
                if lowest > floor:
                    gone = _unseen(bits, line, floor, min(top, lowest - 1))
                    facts[line, HOLES] -= gone
                    counts[t, LOST] += gone + max(0, lowest - 1 - max(top, floor - 1))
                    facts[line, FLOOR] = lowest
                for k in range(max(top + 1, lowest), s):
                    _set(bits, line, k, False)
                    facts[line, HOLES] += 1
                _set(bits, line, s, True)
                facts[line, TOP] = s
                counts[t, FRESH] += 1
            elif s < floor or _seen(bits, line, s):
                counts[t, AGAIN] += 1
                if s > top - WINDOW:  # too late, but ``compare`` is to know
                    _set(bits, line, s, True)
            else:
                _set(bits, line, s, True)
                facts[line, HOLES] -= 1
                counts[t, FRESH] += 1
    return lines, told


@_INLINE
def _name(named, n, line, s):
    """Add a number to the runs that are named; return how many there are."""
    if n > 0 and named[n - 1, 0] == line and named[n - 1, 2] == s - 1:
        named[n - 1, 2] = s
    elif n < named.shape[0]:
        named[n, 0], named[n, 1], named[n, 2] = line, s, s
        n += 1
    return n


@_kernel(nb.int64(nb.int64, nb.boolean[::1], _GRID, _BITS, _GRID, _GRID))
def sweep(lines, which, facts, bits, counts, named):
    """Call lost what is missing up to the marks of lines of some types; return how many runs are named."""
    n = 0
    for line in range(lines):
        t = facts[line, TYPE]
        if not which[t]:
            continue
        floor, mark = facts[line, FLOOR], facts[line, MARK]
        if facts[line, HOLES] > 0:
            for s in range(floor, mark + 1):
                if not _seen(bits, line, s):
                    counts[t, LOST] += 1
                    facts[line, HOLES] -= 1
                    n = _name(named, n, line, s)
        facts[line, FLOOR] = max(floor, mark + 1)
        facts[line, MARK] = facts[line, TOP]
    return n


@_kernel(nb.int64(nb.int64, _GRID, _BITS, _GRID))
def gaps(lines, facts, bits, named):
    """Name what is missing at present; return how many runs are named."""
    n = 0
    for line in range(lines):
        if facts[line, HOLES] > 0:
            for s in range(facts[line, FLOOR], facts[line, TOP] + 1):
                if not _seen(bits, line, s):
                    n = _name(named, n, line, s)
            if n == named.shape[0]:
                break
    return n


@_kernel(
    nb.int64(
        nb.int64, _GRID, _NAMES, _BITS, _GRID, _NAMES, _BITS, _LIST, nb.boolean[::1], nb.int64[::1], _GRID
    )
)  # fmt: skip
def compare(lines, facts, names, bits, told, told_names, told_bits, slots, fixed, sums, named):
    """Count numbers up to the marks that only one side has seen; return how many runs are named.

    ``sums``: in the log and not told; told and not in the log (of ``fixed`` types).
    """
    mask = slots.shape[0] - 1
    n = 0
    for line in range(lines):
        h = facts[line, HASH]
        slot = h & mask
        other = np.int64(-1)
        while slots[slot] >= 0:
            c = slots[slot]
            if _is(told, told_names, c, h, facts[line, BOOT], facts[line, TYPE], names[line], 0, facts[line, SIZE]):
                other = c
                break
            slot = (slot + 1) & mask
        low = max(facts[line, FLOOR], facts[line, TOP] - WINDOW + 1)
        if other >= 0:
            low = max(low, told[other, TOP] - WINDOW + 1)
        for s in range(low, facts[line, MARK] + 1):
            here = _seen(bits, line, s) != np.uint64(0)
            there = other >= 0 and s <= told[other, TOP] and _seen(told_bits, other, s) != np.uint64(0)
            if here and not there:
                sums[0] += 1
            elif there and not here and fixed[facts[line, TYPE]]:
                sums[1] += 1
            else:
                continue
            n = _name(named, n, line, s)
    return n


@_kernel(nb.void(nb.int64, _GRID, _LIST))
def enter(lines, facts, slots):
    """Enter all lines into the slots anew."""
    mask = slots.shape[0] - 1
    slots[:] = -1
    for line in range(lines):
        slot = facts[line, HASH] & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = line
