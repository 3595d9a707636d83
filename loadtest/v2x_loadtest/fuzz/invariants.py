"""What must hold of every decoded batch, checked in columns, compiled: millions of messages a minute.

``rows`` goes over the rows of one table and adds them into a digest a message, by which one decoding of a message is
held against another; ``heads`` over what is said of each message; ``same`` compares two decodings.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, assignment, call-overload"

from __future__ import annotations

from typing import Final

import numba as nb
import numpy as np
from v2x.columns import Verdict

u64 = np.uint64
i64 = np.int64
VALUE, OFFSET, LENGTH, TEXT = 0, 1, 2, 3  # kinds of columns; TEXT: the offset of one that is UTF-8
C_KIND, C_LOW, C_HIGH = 0, 1, 2
OK, LAST, TOO_LARGE = 0, 11, 11
assert (Verdict.OK, max(Verdict), Verdict.TOO_LARGE) == (OK, LAST, TOO_LARGE), "verdicts differ from v2x.columns"
_M1, _M2, _M3 = u64(0xBF58476D1CE4E5B9), u64(0x94D049BB133111EB), u64(0x9E3779B97F4A7C15)

WRONG: Final = (
    "",
    "a row of a message that is none, or out of order",
    "a row of a message that was refused, or is of another schema",
    "a value beyond its field's range",
    "a text beyond its message",
    "a row whose parent is another message's",
    "more rows than the message has bytes, or than the schema allows in an array",
    "a root row that its message does not point to",
    "a verdict that is none",
    "a good message without its row, or with an offset",
    "a bad message with a row, or with an offset beyond its bytes",
    "a field or schema that is none",
    "another verdict, offset or field beside other neighbours",
    "other values beside other neighbours",
    "a text that is not UTF-8",
)

_INT, _I32S, _I16S, _GRID, _LIST = nb.int64, nb.int32[:], nb.int16[::1], nb.int64[:, ::1], nb.int64[::1]
_DIGEST = nb.uint64[::1]
_PAIR = nb.types.UniTuple(_INT, 2)


def _kernel(signature):
    return nb.njit(signature, nogil=True, cache=True, error_model="numpy")


@nb.njit(inline="always")
def _mixed(h):
    h = (h ^ (h >> u64(30))) * _M1
    h = (h ^ (h >> u64(27))) * _M2
    return h ^ (h >> u64(31))


@_kernel(
    _PAIR(
        nb.int64[:, :], _I32S, _I32S, _GRID, _DIGEST, _INT, _INT, _INT, _INT, _I16S, _I32S, _I32S, _GRID,
        _I32S, _I32S, nb.int32[::1], _DIGEST,
    )
)  # fmt: skip
def rows(
    data, msg, parent, columns, keys, salt, schema, most, header, verdict, schemas, root_row, spans,
    parents, parent_first, own_first, digests,
):  # fmt: skip
    """Check the rows of one table; return what is wrong (an index of ``WRONG``, 0: nothing) and with which message.

    ``columns`` (c, 3): kind, lowest, highest. ``keys`` (c,): odd numbers for the digest. ``most``: rows a parent may
    have. ``header``: bytes before a body, which offsets count from. ``parents``: messages of the parent table's rows
    (of a root table: empty); ``parent_first``, ``own_first`` (n,): first row of each message there and here.
    """
    n = verdict.shape[0]
    last, nth, siblings, above = -1, 0, 0, -1
    for r in range(msg.shape[0]):
        m = i64(msg[r])
        if m < last or m >= n or m < 0:
            return 1, m
        if m != last:
            if verdict[m] != OK or schemas[m] != schema:
                return 2, m
            last, nth, siblings, above = m, 0, 0, -1
            own_first[m] = r
        h = u64(salt)
        p = i64(parent[r])
        if parents.shape[0] == 0:
            if p != m or nth > 0 or root_row[m] != r:
                return 7, m
        else:
            if p < 0 or p >= parents.shape[0] or parents[p] != m or p < above:
                return 5, m
            siblings = siblings + 1 if p == above else 1
            if siblings > most:
                return 6, m
            above = p
            h += u64(p - parent_first[m]) * _M3
        if nth >= spans[m, 1]:
            return 6, m
        h += u64(nth) * _M1
        nth += 1
        wrong = False
        begin = spans[m, 0]
        for c in range(columns.shape[0]):
            value = data[r, c]
            kind = columns[c, C_KIND]
            if kind in (OFFSET, TEXT):
                size = data[r, c + 1]
                value -= begin + header
                if size == 0:
                    value = 0
                elif size < 0 or value < 0 or value + size > spans[m, 1] - header:
                    return 4, m
            else:
                wrong |= u64(value - columns[c, C_LOW]) > u64(columns[c, C_HIGH] - columns[c, C_LOW])
            h += u64(value) * keys[c]
        if wrong:
            return 3, m
        digests[m] += _mixed(h)
    return 0, -1


@_kernel(_INT(nb.int64[:, :], _INT, nb.types.Array(nb.uint8, 1, "C", readonly=True), nb.uint8[::1], _INT))
def texts(data, column, heap, out, at):
    """Copy the texts of a column to ``out`` from ``at`` on, a line each; return where they end."""
    for r in range(data.shape[0]):
        begin = data[r, column]
        for k in range(data[r, column + 1]):
            out[at + k] = heap[begin + k]
        at += data[r, column + 1]
        out[at] = 10
        at += 1
    return at


@_kernel(_PAIR(_GRID, _I16S, _I32S, _I32S, _I32S, _I32S, _DIGEST, _INT, _INT, _LIST))
def heads(spans, verdict, at, bad_field, schema, row, digests, fields, schemas, counts):
    """Check what is said of each message, and count verdicts; return what is wrong and with which message."""
    for i in range(verdict.shape[0]):
        v = verdict[i]
        if v < OK or v > LAST:
            return 8, i
        counts[v] += 1
        if v == OK:
            if at[i] != -1 or row[i] < 0 or bad_field[i] != -1 or digests[i] == u64(0):
                return 9, i
        elif at[i] < 0 or at[i] > spans[i, 1] or row[i] != -1 or digests[i] != u64(0):
            return 10, i
        if bad_field[i] < -1 or bad_field[i] >= fields or schema[i] < (0 if v == OK else -1) or schema[i] >= schemas:
            return 11, i
    return 0, -1


@_kernel(_PAIR(_LIST, _INT, nb.boolean, *(_I16S, _I32S, _I32S, _DIGEST, _I32S), *(_I16S, _I32S, _I32S, _DIGEST, _I32S)))
def same(order, shift, values, verdict, at, bad_field, digests, schema, verdict2, at2, bad_field2, digests2, schema2):
    """Compare two decodings, message ``order[k]`` of the first with ``k`` of the second; as ``rows``.

    ``shift``: bytes by which headers differ (then only messages whose schema is known are compared). ``values``: the
    digests too.
    """
    for k in range(order.shape[0]):
        i = order[k]
        if shift and (schema[i] < 0 or verdict[i] == TOO_LARGE):
            continue
        moved = shift if verdict[i] != OK else 0
        if (
            verdict[i] != verdict2[k] or at[i] != at2[k] + moved or bad_field[i] != bad_field2[k]
            or schema[i] != schema2[k]
        ):  # fmt: skip
            return 12, i
        if values and digests[i] != digests2[k]:
            return 13, i
    return 0, -1


@_kernel(_INT(nb.uint8[::1], _GRID, nb.uint8[::1], _GRID, _LIST, _LIST, nb.boolean, nb.uint8[::1], _INT, _GRID))
def lay(cases, spans, extra, extra_spans, order, numbers, gaps, out, at, made):
    """Lay messages into ``out`` from ``at`` on; return where they end.

    ``order``: numbers of cases; those from the number of cases on are of ``extra``. ``numbers`` (n,): -1 for a message
    as it is, else the schema id with which it gets Kafka's header. ``gaps``: one odd byte before each message.
    """
    n = spans.shape[0]
    for k in range(order.shape[0]):
        i = order[k]
        if gaps:
            out[at] = 0xFF - 0x7F * (k & 1)
            at += 1
        made[k, 0] = at
        begin, size = (spans[i, 0], spans[i, 1]) if i < n else (extra_spans[i - n, 0], extra_spans[i - n, 1])
        if numbers[i] >= 0:
            begin += 10
            size -= 10
            out[at] = 0
            for j in range(4):
                out[at + 1 + j] = (numbers[i] >> (8 * (3 - j))) & 0xFF
            at += 5
        if i < n:
            for j in range(size):
                out[at + j] = cases[begin + j]
        else:
            for j in range(size):
                out[at + j] = extra[begin + j]
        at += size
        made[k, 1] = at - made[k, 0]
    return at
