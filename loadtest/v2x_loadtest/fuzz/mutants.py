"""Mistaken inputs by the million: one compiled call makes a batch of them out of a pool of kept inputs.

Each case is a function of the pool, the key of its seed and its number, so that any can be made again alone. It begins
as an input of the pool and gets none to six mistakes: bits, bytes, numbers at the edge of their width, lengths and
counts off by a little, pieces dropped, repeated, moved or taken from another input, the header of another.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, assignment"

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numba as nb
import numpy as np
import numpy.typing as npt
from v2x.columns import I64

U8 = npt.NDArray[np.uint8]
LONGEST: Final = 4096  # bytes of a case
_PICKS: Final = 1 << 15
_BASE: Final = 64  # bytes: an input twice as long as another is taken half as often, beyond this

u64 = np.uint64
i64 = np.int64
_GOLDEN, _M1, _M2 = u64(0x9E3779B97F4A7C15), u64(0xBF58476D1CE4E5B9), u64(0x94D049BB133111EB)
_BYTES = np.array((0x00, 0x01, 0x02, 0x03, 0x7F, 0x80, 0x81, 0xC3, 0xED, 0xF4, 0xFE, 0xFF), np.uint8)
# Zigzag (Avro) and plain (MQTT) numbers at the edges of widths: 0, ±1, 63, 64, 2^14, 2^16, 2^31, 2^32, 2^63, …
_NUMBERS = np.array((
    0, 1, 2, 3, 126, 127, 128, 129, 254, 255, 256, 510, 512, 16_383, 16_384, 32_766, 65_535, 65_536, 131_072,
    (1 << 21) - 1, 1 << 21, (1 << 28) - 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 32, (1 << 32) + 1,
    (1 << 35) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1,
), np.uint64)  # fmt: skip
# Texts of up to four bytes behind their size: good ones of all widths, overlong, surrogates, beyond Unicode, cut short.
_TEXTS = np.array([
    [len(piece), *piece.ljust(4, b"\0")]
    for piece in (
        "é".encode(), "路".encode(), "\U0001f697".encode(), b"\0", b"\xc0\x80", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
        b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80",
        b"\xf4\x8f\xbf\xbf", b"\xe8\xb7", b"\xf0\x9f\x9a", b"\x80", b"[[[[", b"]]", b"\r\n", b"= \"\"", b"0-9,",
    )
], np.uint8)  # fmt: skip
_NEAR = 24  # inputs to either side in the pool's order, which begin alike
HELPER = nb.njit(nogil=True, error_model="numpy")


@HELPER
def _next(state):
    state[0] += _GOLDEN
    z = state[0]
    z = (z ^ (z >> u64(30))) * _M1
    z = (z ^ (z >> u64(27))) * _M2
    return z ^ (z >> u64(31))


@HELPER
def _below(state, n):
    return i64(((_next(state) >> u64(32)) * u64(n)) >> u64(32))


@HELPER
def _cut(out, base, size, at, count):
    """Drop bytes; return the size."""
    count = min(count, size - at)
    for k in range(base + at, base + size - count):
        out[k] = out[k + count]
    return size - count


@HELPER
def _open(out, base, size, at, count):
    """Make room for bytes at a place; return the size, unchanged if there is none."""
    if size + count > LONGEST:
        return size
    for k in range(base + size - 1, base + at - 1, -1):
        out[k + count] = out[k]
    return size + count


@HELPER
def _number_end(out, base, size, at):
    """Return where the number ends that may begin at a place."""
    end = at
    while end < size - 1 and out[base + end] >= 0x80:
        end += 1
    return min(end + 1, size)


@HELPER
def _put_number(out, base, size, at, value, least):
    """Insert a number as a varint of at least so many bytes; return the size."""
    count, raw = 1, value >> u64(7)
    while raw > u64(0):
        count += 1
        raw >>= u64(7)
    count = max(count, least)
    longer = _open(out, base, size, at, count)
    if longer > size:
        for k in range(count):
            out[base + at + k] = (value & u64(0x7F)) | u64(0x80 if k < count - 1 else 0)
            value >>= u64(7)
    return longer


@HELPER
def _mistake(out, base, size, start, pool, other, other_size, state):
    """Make one mistake, nearly always behind the header; return the size."""
    first = min(start if _below(state, 64) else 0, size)
    at = first + _below(state, size - first + 1)
    kind = _below(state, 16)
    if kind == 0 and at < size:
        out[base + at] = _BYTES[_below(state, _BYTES.shape[0])]
    elif kind == 1 and at < size:
        out[base + at] ^= 1 << _below(state, 8)
    elif kind == 2 and at < size:
        out[base + at] = _below(state, 256)
    elif kind == 3:  # a few odd bytes more
        count = 1 + _below(state, 3)
        longer = _open(out, base, size, at, count)
        for k in range(longer - size):
            out[base + at + k] = _BYTES[_below(state, _BYTES.shape[0])]
        size = longer
    elif kind == 4:
        size = _cut(out, base, size, at, 1 + _below(state, 3))
    elif kind == 5:
        size = at if _below(state, 2) else _cut(out, base, size, at, 1 + _below(state, 40))
    elif kind == 6 or kind == 7:  # another number in place of the one that may begin here  # noqa: PLR1714
        size = _cut(out, base, size, at, _number_end(out, base, size, at) - at)
        value = _NUMBERS[_below(state, _NUMBERS.shape[0])] if kind == 6 else _next(state) >> u64(_below(state, 64))
        size = _put_number(out, base, size, at, value, 0 if _below(state, 4) else 1 + _below(state, 12))
    elif kind == 8 and at < size:  # the same number, longer
        if out[base + at] < 0x80:
            value = u64(out[base + at])
            size = _cut(out, base, size, at, 1)
            size = _put_number(out, base, size, at, value, 2 + _below(state, 11))
    elif kind == 9:  # a piece again, once or often
        count, times = min(1 + _below(state, 32), size - at), 1
        if _below(state, 8) == 0:
            times = 2 + _below(state, 40)
        for _ in range(times):
            longer = _open(out, base, size, at, count)
            for k in range(longer - size):
                out[base + at + k] = out[base + at + count + k]
            size = longer
    elif kind == 10:  # go on as another input does
        size = min(at, size)
        if at < other_size:
            count = min(other_size - at, LONGEST - size)
            for k in range(count):
                out[base + size + k] = pool[other + at + k]
            size += count
    elif kind == 11 and other_size > 0:  # a piece of another input, anywhere
        begin = _below(state, other_size)
        count = min(1 + _below(state, 40), other_size - begin)
        longer = _open(out, base, size, at, count)
        for k in range(longer - size):
            out[base + at + k] = pool[other + begin + k]
        size = longer
    elif kind == 12 and at < size:  # a count as a block with its size, right or wrong
        byte = out[base + at]
        if 0 < byte < 0x40 and not byte & 1:
            out[base + at] = byte - 1
            size = _put_number(out, base, size, at + 1, u64(_below(state, 2 * (size - at) + 1)), 0)
    elif kind == 13 and at < size:  # a length or count that is off by a little
        out[base + at] += 1 + _below(state, 4) if _below(state, 2) else -1 - _below(state, 4)
    elif kind == 14 and at < size:  # a piece overwritten by another one
        begin = first + _below(state, size - first)
        for k in range(min(1 + _below(state, 16), size - max(at, begin))):
            out[base + at + k] = out[base + begin + k]
    elif kind == 15:
        if _below(state, 8) == 0:  # the header of another input
            for k in range(min(start, size, other_size)):
                out[base + k] = pool[other + k]
        else:  # text, odd or not, in place of what is there
            piece = _below(state, _TEXTS.shape[0])
            for k in range(min(i64(_TEXTS[piece, 0]), size - at)):
                out[base + at + k] = _TEXTS[piece, 1 + k]
    return size


_POOL, _INT, _LIST, _GRID = nb.types.Array(nb.uint8, 1, "C", readonly=True), nb.int64, nb.int64[::1], nb.int64[:, ::1]


@nb.njit(  # type: ignore[call-overload, unused-ignore]
    _INT(_POOL, _GRID, _LIST, _INT, _INT, nb.uint64, _INT, nb.uint8[::1], _GRID),
    nogil=True, cache=True, error_model="numpy",
)  # fmt: skip
def mutate(pool, spans, picks, start, free, key, first, out, made):
    """Make cases from number ``first`` on, one behind the other; return the bytes of all.

    ``pool``: inputs, at ``spans`` (m, 2). ``picks``: inputs by their weights. ``start``: bytes of a header. ``free``:
    first bytes that are anything. ``made`` (n, 2): where the cases are in ``out``, offset and bytes.
    """
    state = np.empty(1, np.uint64)
    base = 0
    for i in range(made.shape[0]):
        state[0] = key
        state[0] = _next(state) ^ (u64(first + i) * _M1)
        which = picks[_below(state, picks.shape[0])]
        begin, size = spans[which, 0], min(spans[which, 1], LONGEST)
        for k in range(size):
            out[base + k] = pool[begin + k]
        for k in range(min(free, size)):
            out[base + k] = _below(state, 256)
        dice = _below(state, 16)
        for _ in range(0 if dice == 0 else 1 + max(dice - 8, 0) // 2 + (_below(state, 3) if dice == 15 else 0)):
            near = which - _NEAR + _below(state, 2 * _NEAR + 1)
            other = near if _below(state, 4) and 0 <= near < spans.shape[0] else _below(state, spans.shape[0])
            size = _mistake(out, base, size, start, pool, spans[other, 0], spans[other, 1], state)
        made[i, 0] = base
        made[i, 1] = size
        base += size
    return base


@dataclass(frozen=True, slots=True)
class Cases:
    """Cases of a batch: a sequence of bytes, and the columns they are."""

    nth: int  # the batch
    heap: U8
    spans: I64  # (n, 2): offset in ``heap``, bytes

    @classmethod
    def of(cls, nth: int, cases: Sequence[bytes]) -> Cases:
        """Return cases that were made otherwise."""
        sizes = np.array([len(data) for data in cases], np.int64)
        spans = np.ascontiguousarray(np.stack((np.cumsum(sizes) - sizes, sizes), axis=1))
        return cls(nth, np.frombuffer(bytearray(b"".join(cases)), np.uint8), spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, i: int) -> bytes:
        at, size = self.spans[i].tolist()
        return self.heap[at : at + size].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        heap = self.heap.tobytes()
        return (heap[at : at + size] for at, size in self.spans.tolist())

    def part(self, first: int, last: int) -> Cases:
        """Return some of them."""
        return Cases(self.nth, self.heap, self.spans[first:last])


class Pool:
    """Inputs to make cases of. ``start``: bytes of their header; ``free``: bytes at their beginning that may be any.

    ``chosen``: the inputs of which a ``share`` of the cases begins, however many others there are.
    """

    def __init__(
        self, name: str, inputs: Sequence[bytes], start: int = 0, free: int = 0, chosen: Sequence[bytes] = (),
        share: float = 0.5,
    ) -> None:  # fmt: skip
        inputs = sorted(set(inputs)) or [b""]
        together = Cases.of(0, [*inputs, b"\0"])
        self._name, self._start, self._free = name, start, free
        self._heap, self._spans = together.heap, np.ascontiguousarray(together.spans[:-1])
        self._heap.flags.writeable = False
        weight = 1.0 / np.maximum(self._spans[:, 1], _BASE)
        chosen_ones = set(chosen)
        mine = np.array([data in chosen_ones for data in inputs])
        if 0 < mine.sum() < len(inputs):
            weight[mine] *= share / weight[mine].sum()
            weight[~mine] *= (1 - share) / weight[~mine].sum()
        weights = np.cumsum(weight)
        places = (np.arange(_PICKS) + 0.5) / _PICKS * weights[-1]
        self._picks = np.searchsorted(weights, places).astype(np.int64)
        self._room = np.empty(0, np.uint8)

    def cases(self, seed: int, nth: int, size: int) -> Cases:
        """Return batch ``nth`` of a seed, of ``size`` cases; they are good until the next call."""
        key = int.from_bytes(hashlib.blake2b(f"{self._name} {seed}".encode(), digest_size=8).digest(), "little")
        if len(self._room) < size * LONGEST:
            self._room = np.empty(size * LONGEST, np.uint8)  # of which the system gives what is written to
        spans = np.empty((size, 2), np.int64)
        used = mutate(
            self._heap, self._spans, self._picks, self._start, self._free, u64(key), nth * size, self._room, spans
        )
        return Cases(nth, self._room[:used], spans)
