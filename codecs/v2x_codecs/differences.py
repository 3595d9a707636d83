"""What fastavro takes and we refuse, as a table; nothing is the other way round.

Avro libraries forgive what costs them nothing. A message from the road that is not exactly one good record is refused,
with the reason and the place. The campaign (``campaign``) holds both decoders side by side: a body that fastavro takes
and we do not must be explained by a row here, and every row has a smallest example that a test decodes with both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from v2x.columns import Verdict

from v2x_codecs.layout import Kind

_INTEGERS: Final = frozenset({Kind.INT, Kind.LONG})
_TEXTS: Final = frozenset({Kind.STRING, Kind.BYTES})
_COUNTED: Final = _TEXTS | {Kind.ARRAY}
_ARRAY: Final = frozenset({Kind.ARRAY})
_INT_BYTES: Final = 5
_LONG_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that fastavro takes; the example is the body of a record with one field, ``v``."""

    name: str
    verdict: Verdict  # ours
    kinds: frozenset[Kind]  # of the field at fault; empty: the message as a whole
    field: Mapping[str, Any]  # the example's field: type and limits
    body: bytes
    at: int  # offset in the example's body that we give
    theirs: Any  # what fastavro makes of the field
    varint: tuple[int, int] = (1, 1 << 30)  # bytes, from and to, that the varint at fault has
    nth: int = 0  # which varint from ``at`` on that is: a block of items has its size behind its count


def _array(**limits: int) -> dict[str, Any]:
    return {"type": {"type": "array", "items": "int"}, **limits}


_ENUM: Final = {"type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}}
_PAD: Final = b"\x80"

DIFFERENCES: Final[tuple[Difference, ...]] = (
    Difference(
        "bytes behind the record", Verdict.TRAILING, frozenset(), {"type": "int"}, b"\x02\x00", 1, 1
    ),
    Difference(
        "an int beyond 32 bits", Verdict.BAD_VARINT, frozenset({Kind.INT}), {"type": "int"},
        b"\x80\x80\x80\x80\x10", 0, 1 << 31, (1, _INT_BYTES),
    ),
    Difference(
        "an int in 6 bytes or more", Verdict.BAD_VARINT, frozenset({Kind.INT}), {"type": "int"},
        b"\x82" + _PAD * 4 + b"\x00", 0, 1, (_INT_BYTES + 1, 1 << 30),
    ),
    Difference(
        "a long of 10 bytes with bits beyond 64", Verdict.BAD_VARINT, frozenset({Kind.LONG}), {"type": "long"},
        b"\x82" + _PAD * 8 + b"\x02", 0, 1, (_LONG_BYTES, _LONG_BYTES),
    ),
    Difference(
        "a long in 11 bytes or more", Verdict.BAD_VARINT, frozenset({Kind.LONG}), {"type": "long"},
        b"\x82" + _PAD * 9 + b"\x00", 0, 1, (_LONG_BYTES + 1, 1 << 30),
    ),
    Difference(
        "a length or an item count in 10 bytes with bits beyond 64, or in more", Verdict.BAD_VARINT, _COUNTED,
        {"type": "string"}, b"\x82" + _PAD * 9 + b"\x00a", 0, "a", (_LONG_BYTES, 1 << 30),
    ),
    Difference(
        "the size of a block of items in 10 bytes with bits beyond 64, or in more",
        Verdict.BAD_VARINT,
        _ARRAY,
        _array(),
        b"\x01\x82" + _PAD * 9 + b"\x00\x02\x00",
        0,
        [1],
        (_LONG_BYTES, 1 << 30),
        1,
    ),
    Difference(
        "the index of an enum's symbol in 6 bytes or more", Verdict.BAD_VARINT, frozenset({Kind.ENUM}), _ENUM,
        b"\x82" + _PAD * 4 + b"\x00", 0, "B", (_INT_BYTES + 1, 1 << 30),
    ),
    Difference(
        "a negative index of an enum's symbol, counted from the last", Verdict.BAD_VALUE, frozenset({Kind.ENUM}), _ENUM,
        b"\x01", 0, "B",
    ),
    Difference(
        "a boolean other than 0 and 1", Verdict.BAD_VALUE, frozenset({Kind.BOOLEAN}), {"type": "boolean"},
        b"\x07", 0, True,
    ),
    Difference(
        "a number outside min and max", Verdict.OUT_OF_RANGE, _INTEGERS, {"type": "int", "min": 0, "max": 10},
        b"\x16", 0, 11,
    ),
    Difference(
        "text shorter than minLength or longer than maxLength", Verdict.OUT_OF_RANGE, _TEXTS,
        {"type": "string", "minLength": 1, "maxLength": 1}, b"\x04ab", 0, "ab",
    ),
    Difference(
        "fewer items than minItems, or more than maxItems", Verdict.TOO_MANY, _ARRAY, _array(maxItems=1),
        b"\x04\x02\x04\x00", 0, [1, 2],
    ),
    Difference(
        "a block of items that is not as long as it says", Verdict.BAD_VALUE, _ARRAY, _array(),
        b"\x03\x06\x02\x04\x00", 0, [1, 2],
    ),
    Difference(
        "a block of items that says to be longer than the rest of the message", Verdict.TRUNCATED, _ARRAY, _array(),
        b"\x03\x40\x02\x04\x00", 0, [1, 2],
    ),
)  # fmt: skip


def explain(verdict: Verdict, kind: Kind | None, data: bytes, at: int) -> Difference | None:
    """Return why fastavro takes what we refuse with ``verdict`` at ``at`` in a field of ``kind``; None: a bug."""
    first = varint_size(data, at)
    sizes = (first, varint_size(data, at + first))
    for row in DIFFERENCES:
        fits = kind in row.kinds if kind is not None else not row.kinds
        if row.verdict is verdict and fits and row.varint[0] <= sizes[row.nth] <= row.varint[1]:
            return row
    return None


def varint_size(data: bytes, at: int) -> int:
    """Return the bytes of the varint at an offset; at least 1."""
    end = at
    while end < len(data) and data[end] >= 0x80:
        end += 1
    return end - at + 1
