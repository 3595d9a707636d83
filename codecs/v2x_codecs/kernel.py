"""The interpreter: whole batches of Avro bodies to int64 rows, by the opcodes of ``program`` and the rules of ``walk``.

Theory. Nearly all bytes are runs of small integers, so a run is decoded on the bold path: no look at the message's end,
no stop at a bad value, only one flag that gathers whatever was wrong. The heap has zero bytes behind it, so reading on
is harmless. If the flag is set, or the run went beyond the message, the run is done again on the careful path, which
knows place, field and verdict. Everything else is always careful.

Rows of a message are counted in ``rows``; a refused message gets its counts set back, so it leaves none. If a table is
full the kernel returns, the caller makes room and calls again: the message starts anew. Item counts are held against
the bytes left before rows are taken, so a message of n bytes never asks for more than n rows a table.

One file, though long: numba's cache of compiled code notices changes of this file only. Indices are unsigned
throughout: numba turns signed ones into a test for negative.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

import numba as nb
import numpy as np
from v2x.columns import Verdict

from v2x_codecs.layout import MAX_DEPTH
from v2x_codecs.program import Op

# Literals, not looked up: numba bakes them in, and its cache notices only changes of this file.
OK, EMPTY, BAD_FRAMING, UNKNOWN_SCHEMA, WRONG_SCHEMA, TRUNCATED = 0, 1, 2, 3, 4, 5
TRAILING, BAD_VARINT, BAD_VALUE, OUT_OF_RANGE, TOO_MANY, TOO_LARGE = 6, 7, 8, 9, 10, 11
FULL = -1  # a table has no room
END, INTS, LONGS, TEXT, FIXED, BOOLEAN, DOUBLE, CONST, LEAF, ARRAY, NEXT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
DEPTH = 8
assert {v.name: int(v) for v in Verdict}.items() <= globals().items(), "verdicts differ from v2x.columns.Verdict"
assert {v.name: int(v) for v in Op}.items() <= globals().items(), "opcodes differ from v2x_codecs.program.Op"
assert DEPTH == MAX_DEPTH

u64 = np.uint64
i64 = np.int64
ONE = u64(1)
LOW7 = u64(0x7F)
CONTINUES = u64(0x80)

# Columns of ``tables``. PEAK: most rows in a MiB of late. STEP: 1, or 0 where all rows are written to the same place,
# since nobody wants to read them.
WIDTH, ROOM, BASE, LINK, ROWS, PEAK, STEP = range(7)
T_WIDTH = 7
AT, BAD_FIELD, SCHEMA, ROW = range(4)  # lines of ``out``
# Columns of the stack of open arrays.
S_BODY, S_LEFT, S_TABLE, S_WRITE, S_ROW, S_TOTAL, S_FIRST, S_BLOCK, S_STOP = range(9)
S_WIDTH = 9


# Helpers are compiled into ``decode``; only that one is compiled (or loaded from the cache) at import.
HELPER = nb.njit(nogil=True, error_model="numpy")


@nb.njit(inline="always")
def _zigzag(raw):
    return i64(raw >> ONE) ^ -i64(raw & ONE)


@HELPER
def varint(heap, pos, end, most):
    """Return value, next position and verdict of a varint of at most ``most`` bytes."""
    raw = u64(0)
    for k in range(most):
        if pos + k >= end:
            return i64(0), pos, i64(TRUNCATED)
        byte = u64(heap[u64(pos + k)])
        if k == 9 and byte > ONE and byte < CONTINUES:
            break  # bits beyond 64
        raw |= (byte & LOW7) << u64(7 * k)
        if byte < CONTINUES:
            return _zigzag(raw), pos + k + 1, i64(OK)
    return i64(0), pos, i64(BAD_VARINT)


@HELPER
def is_utf8(heap, pos, end):
    """Return whether the bytes are UTF-8 (Unicode, table 3-7: no overlong forms, no surrogates)."""
    while pos < end:
        b = heap[u64(pos)]
        pos += 1
        if b < 0x80:
            continue
        if b < 0xC2 or b > 0xF4:
            return False
        follow = 1 if b < 0xE0 else (2 if b < 0xF0 else 3)
        if end - pos < follow:
            return False
        c = heap[u64(pos)]
        low = 0xA0 if b == 0xE0 else (0x90 if b == 0xF0 else 0x80)
        high = 0x9F if b == 0xED else (0x8F if b == 0xF4 else 0xBF)
        if c < low or c > high:
            return False
        for k in range(1, follow):
            c = heap[u64(pos + k)]
            if c < 0x80 or c > 0xBF:
                return False
        pos += follow
    return True


@nb.njit(inline="always")
def _bold_ints(heap, pos, limits, slot, count, store, write):
    """Decode ``count`` ints; return the position behind them and whether anything was wrong."""
    p = u64(pos)
    s = u64(4 * slot)
    w = u64(write)
    wrong = False
    for _ in range(count):
        raw = u64(heap[p])
        p += ONE
        if raw >= CONTINUES:
            byte = u64(heap[p])
            p += ONE
            raw = (raw & LOW7) | (byte << u64(7))
            if byte >= CONTINUES:
                byte = u64(heap[p])
                p += ONE
                raw = (raw & u64(0x3FFF)) | (byte << u64(14))
                if byte >= CONTINUES:
                    byte = u64(heap[p])
                    p += ONE
                    raw = (raw & u64(0x1FFFFF)) | (byte << u64(21))
                    if byte >= CONTINUES:
                        byte = u64(heap[p])
                        p += ONE
                        # A sixth byte would leave bit 35 set: no int, so out of its range.
                        raw = (raw & u64(0xFFFFFFF)) | (byte << u64(28))
        value = _zigzag(raw)
        wrong |= u64(value - limits[s]) > u64(limits[s + ONE])
        store[w] = value
        s += u64(4)
        w += ONE
    return i64(p), wrong


@HELPER
def careful_integers(heap, pos, end, limits, slot, count, store, write, most):
    """Decode integers of at most ``most`` bytes; return position, verdict and the slot that is wrong."""
    for k in range(count):
        value, after, verdict = varint(heap, pos, end, most)
        if verdict == OK and most == 5 and (value < -(1 << 31) or value > (1 << 31) - 1):
            verdict = i64(BAD_VARINT)
        s = u64(4 * (slot + k))
        if verdict == OK and u64(value - limits[s]) > u64(limits[s + ONE]):
            verdict = i64(BAD_VALUE) if limits[s + u64(2)] else i64(OUT_OF_RANGE)
        if verdict != OK:
            return pos, verdict, i64(slot + k)
        store[u64(write + k)] = value
        pos = after
    return pos, i64(OK), i64(-1)


@HELPER
def lookup(table, key):
    """Return what the open hash holds for ``key``, or -1."""
    mask = i64(table.shape[1] - 1)
    at = key & mask
    while table[0, u64(at)] != key and table[1, u64(at)] >= 0:
        at = (at + 1) & mask
    return table[1, u64(at)]


@HELPER
def header(heap, start, end, mqtt, known):
    """Return entry of the schema, start of the body (or offset of what is wrong) and verdict."""
    size = end - start
    if size == 0:
        return i64(-1), i64(0), i64(EMPTY)
    if mqtt:
        if heap[start] != 0xC3 or (size > 1 and heap[start + 1] != 1):
            return i64(-1), i64(0), i64(BAD_FRAMING)
        if size < 10:
            return i64(-1), i64(0), i64(TRUNCATED)
        key = u64(0)
        for k in range(8):
            key |= u64(heap[start + 2 + k]) << u64(8 * k)
        entry = lookup(known, i64(key))
        return entry, start + 10 if entry >= 0 else i64(2), i64(OK) if entry >= 0 else i64(UNKNOWN_SCHEMA)
    if heap[start] != 0:
        return i64(-1), i64(0), i64(BAD_FRAMING)
    if size < 5:
        return i64(-1), i64(0), i64(TRUNCATED)
    number = i64(0)
    for k in range(1, 5):
        number = (number << 8) | i64(heap[start + k])
    entry = lookup(known, number)
    return entry, start + 5 if entry >= 0 else i64(1), i64(OK) if entry >= 0 else i64(UNKNOWN_SCHEMA)


@HELPER
def block(heap, pos, end, total, most_items, item_bytes):
    """Read an array block's head: return items, position, end of the block (-1 if not stated), total and verdict."""
    count, after, verdict = varint(heap, pos, end, 10)
    if verdict != OK or count == 0:
        return i64(0), after, i64(-1), total, verdict
    if count > most_items or count < -most_items or total + abs(count) > most_items:
        return i64(0), pos, i64(-1), total, i64(TOO_MANY)
    stop = i64(-1)
    if count < 0:
        count = -count
        size, after, verdict = varint(heap, after, end, 10)
        if verdict != OK:
            return i64(0), pos, i64(-1), total, verdict
        if size < 0:
            return i64(0), pos, i64(-1), total, i64(BAD_VALUE)
        if size > end - after:
            return i64(0), pos, i64(-1), total, i64(TRUNCATED)
        stop = after + size
    if count * item_bytes > end - after:
        return i64(0), pos, i64(-1), total, i64(TRUNCATED)
    return count, after, stop, total + count, i64(OK)


_HEAP = nb.types.Array(nb.uint8, 1, "C", readonly=True)  # bytes, as numpy sees them
_INT, _INTS, _GRID, _I32S, _I32_GRID = nb.int64, nb.int64[::1], nb.int64[:, ::1], nb.int32[::1], nb.int32[:, ::1]
_SPANS = nb.int64[:, :]
_INPUT = (_HEAP, _SPANS, _INT, nb.boolean, _I32S, _INT, _GRID)
_PROGRAM = (_GRID, _GRID, _INTS)
_OUTPUT = (_GRID, _INTS, _I32_GRID, nb.int16[::1], _I32_GRID, _INTS)


@nb.njit(  # type: ignore[call-overload, unused-ignore]
    nb.types.UniTuple(_INT, 2)(*_INPUT, *_PROGRAM, *_OUTPUT), nogil=True, cache=True, error_model="numpy"
)
def decode(
    heap, spans, first, mqtt, expect, max_payload, known, entry, ops, limits, tables, store, links, verdicts, out,
    filled,
):  # fmt: skip
    """Decode messages from ``first`` on.

    Return the number of messages, or the one for which a table is full, and how many tables have rows: the first so
    many of ``filled`` (T,). ``spans`` (n, 2): where each message begins in ``heap``, and its bytes. ``known``: open
    hash from fingerprint or id to a row of ``entry``. ``tables`` (T + 1, 7): see the constants; row r of table t is at
    ``store[BASE + r * WIDTH]``, its message and parent in ``links[:, LINK + r]``; where a table is full, the last line
    says which (ROOM) and how many rows it needs (ROWS). ``verdicts`` (n,), ``out`` (4, n): as in ``v2x.columns.Batch``.
    """
    last = tables.shape[0] - 1
    n = spans.shape[0]
    size = i64(0)
    if first == 0:
        for t in range(last + 1):
            tables[t, ROWS] = 0
    stack = np.empty((DEPTH + 1, S_WIDTH), np.int64)
    before = np.empty(last, np.int64)
    for i in range(first, n):
        start = spans[i, 0]
        end = start + spans[i, 1]
        size += spans[i, 1]
        which, pos, verdict = header(heap, start, end, mqtt, known)
        if end - start > max_payload:
            verdict, which, pos = i64(TOO_LARGE), i64(-1), i64(0)
        out[SCHEMA, i] = -1 if which < 0 else entry[which, 0]
        out[ROW, i] = -1
        out[BAD_FIELD, i] = -1
        if verdict == OK and expect.shape[0] > 0 and expect[i] >= 0 and expect[i] != out[SCHEMA, i]:
            verdict, pos = i64(WRONG_SCHEMA), i64(2)
        if verdict != OK:
            verdicts[i] = verdict
            out[AT, i] = pos
            continue

        first_table, last_table = entry[which, 3], entry[which, 4]
        for t in range(first_table, last_table):
            before[t] = tables[t, ROWS]
        t = entry[which, 2]
        row = tables[t, ROWS]
        if row >= tables[t, ROOM]:
            tables[last, ROOM], tables[last, ROWS] = t, row + 1
            return i, i64(0)
        write = tables[t, BASE] + row * tables[t, WIDTH]
        links[0, u64(tables[t, LINK] + row)] = i
        links[1, u64(tables[t, LINK] + row)] = i
        tables[t, ROWS] = row + 1
        root = row
        pc = entry[which, 1]
        depth = 0
        slot = i64(-1)
        while True:
            op = ops[pc, 0]
            if op == LEAF:
                t = ops[pc, 2]
                count = ops[pc, 5]
                array = ops[pc, 1]
                inner = ops[pc, 4]
                begin = pos
                total = i64(0)
                most_items = limits[4 * array] + limits[4 * array + 1]
                while verdict == OK:
                    at = pos
                    items, pos, stop, total, verdict = block(heap, pos, end, total, most_items, ops[pc, 3])
                    if verdict != OK:
                        slot = array
                        break
                    if items == 0:
                        if total < limits[4 * array]:
                            verdict, slot, pos = i64(TOO_MANY), array, begin
                        break
                    r = tables[t, ROWS]
                    if r + items > tables[t, ROOM]:
                        tables[last, ROOM], tables[last, ROWS] = t, r + items
                        verdict = i64(FULL)
                        break
                    step = tables[t, STEP]
                    wide = tables[t, WIDTH] * step
                    w = tables[t, BASE] + r * wide
                    k = tables[t, LINK] + r
                    for _ in range(items):
                        after, wrong = _bold_ints(heap, pos, limits, inner, count, store, w)
                        if wrong or after > end:
                            after, verdict, slot = careful_integers(heap, pos, end, limits, inner, count, store, w, 5)
                            if verdict != OK:
                                pos = after
                                break
                        pos = after
                        links[0, u64(k)] = i
                        links[1, u64(k)] = row
                        w += wide
                        k += step
                    tables[t, ROWS] = r + items * step
                    if verdict == OK and stop >= 0 and stop != pos:
                        verdict, slot, pos = i64(BAD_VALUE), array, at
                pc += 1
            elif op == INTS:
                after, wrong = _bold_ints(heap, pos, limits, ops[pc, 1], ops[pc, 3], store, write + ops[pc, 2])
                if wrong or after > end:
                    after, verdict, slot = careful_integers(
                        heap, pos, end, limits, ops[pc, 1], ops[pc, 3], store, write + ops[pc, 2], 5
                    )
                pos = after
                pc += 1
            elif op == LONGS:
                pos, verdict, slot = careful_integers(
                    heap, pos, end, limits, ops[pc, 1], ops[pc, 3], store, write + ops[pc, 2], 10
                )
                pc += 1
            elif op == TEXT:
                slot = ops[pc, 1]
                length, after, verdict = varint(heap, pos, end, 10)
                if verdict == OK:
                    if length < 0:
                        verdict = i64(BAD_VALUE)
                    elif u64(length - limits[4 * slot]) > u64(limits[4 * slot + 1]):
                        verdict = i64(OUT_OF_RANGE)
                    elif length > end - after:
                        verdict = i64(TRUNCATED)
                    elif ops[pc, 3] and not is_utf8(heap, after, after + length):
                        verdict = i64(BAD_VALUE)
                    else:
                        store[u64(write + ops[pc, 2])] = after
                        store[u64(write + ops[pc, 2] + 1)] = length
                        pos = after + length
                pc += 1
            elif op == FIXED:
                slot = ops[pc, 1]
                if end - pos < ops[pc, 3]:
                    verdict = i64(TRUNCATED)
                else:
                    store[u64(write + ops[pc, 2])] = pos
                    store[u64(write + ops[pc, 2] + 1)] = ops[pc, 3]
                    pos += ops[pc, 3]
                pc += 1
            elif op == BOOLEAN:
                slot = ops[pc, 1]
                if pos >= end:
                    verdict = i64(TRUNCATED)
                elif heap[u64(pos)] > 1:
                    verdict = i64(BAD_VALUE)
                else:
                    store[u64(write + ops[pc, 2])] = heap[u64(pos)]
                    pos += 1
                pc += 1
            elif op == DOUBLE:
                slot = ops[pc, 1]
                if end - pos < 8:
                    verdict = i64(TRUNCATED)
                else:
                    bits = u64(0)
                    for j in range(8):
                        bits |= u64(heap[u64(pos + j)]) << u64(8 * j)
                    store[u64(write + ops[pc, 2])] = i64(bits)
                    pos += 8
                pc += 1
            elif op == CONST:
                store[u64(write + ops[pc, 1])] = ops[pc, 2]
                pc += 1
            elif op == END:
                if pos != end:
                    verdict, slot = i64(TRAILING), i64(-1)
                break
            else:
                if op == ARRAY:  # open it, with no item yet
                    stack[depth, S_BODY] = pc
                    stack[depth, S_LEFT] = 0
                    stack[depth, S_TABLE] = ops[pc, 2]
                    stack[depth, S_WRITE] = write
                    stack[depth, S_ROW] = row
                    stack[depth, S_TOTAL] = 0
                    stack[depth, S_FIRST] = pos
                    stack[depth, S_STOP] = -1
                    depth += 1
                top = depth - 1
                head = stack[top, S_BODY]
                array = ops[head, 1]
                t = ops[head, 2]
                if stack[top, S_LEFT] == 0:
                    if stack[top, S_STOP] >= 0 and stack[top, S_STOP] != pos:
                        verdict, slot, pos = i64(BAD_VALUE), array, stack[top, S_BLOCK]
                    else:
                        stack[top, S_BLOCK] = pos
                        items, pos, stop, total, verdict = block(
                            heap, pos, end, stack[top, S_TOTAL], limits[4 * array] + limits[4 * array + 1], ops[head, 3]
                        )
                        stack[top, S_LEFT] = items
                        stack[top, S_STOP] = stop
                        stack[top, S_TOTAL] = total
                        slot = array
                        if verdict == OK and items == 0:
                            if total < limits[4 * array]:
                                verdict, pos = i64(TOO_MANY), stack[top, S_FIRST]
                            depth = top
                            row = stack[top, S_ROW]
                            write = stack[top, S_WRITE]
                            pc = ops[head, 4]
                        elif verdict == OK and tables[t, ROWS] + items > tables[t, ROOM]:
                            tables[last, ROOM], tables[last, ROWS] = t, tables[t, ROWS] + items
                            verdict = i64(FULL)
                if verdict == OK and depth > top:  # the next item
                    stack[top, S_LEFT] -= 1
                    row = tables[t, ROWS]
                    write = tables[t, BASE] + row * tables[t, WIDTH]
                    links[0, u64(tables[t, LINK] + row)] = i
                    links[1, u64(tables[t, LINK] + row)] = stack[top, S_ROW]
                    tables[t, ROWS] = row + tables[t, STEP]
                    pc = head + 1
            if verdict != OK:
                break

        if verdict != OK:
            for t in range(first_table, last_table):
                tables[t, ROWS] = before[t]
            if verdict == FULL:
                return i, i64(0)
            out[AT, i] = pos - start
            if slot >= 0:
                out[BAD_FIELD, i] = limits[4 * slot + 3]
        else:
            out[AT, i] = -1
            out[ROW, i] = root
        verdicts[i] = verdict
    many = i64(0)
    for t in range(last):
        tables[t, PEAK] = max(tables[t, PEAK], (tables[t, ROWS] << 20) // max(size, 1))
        if tables[t, ROWS] > 0:
            filled[many] = t
            many += 1
    return i64(n), many
