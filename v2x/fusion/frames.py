"""Track frames as bytes: what ``track_frame`` looks like on the wire, written by a kernel.

A frame of 200 tracks has 2,600 integers, 20 times a second and zone: an encoder that takes them one by one costs more
than all of fusion. Avro writes a record field by field, an integer as a zigzag varint and an array as count, items, 0;
so a kernel writes the whole frame: what does not change (the value's header, generation, partition; the zone; the names
of links) is copied, all else are integers. Once per generation the kernel and the encoder port are compared on a
sample; where they differ (a schema whose columns have moved) the port does it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.columns import Encoder
from v2x.fusion.jit import helper, kernel
from v2x.fusion.layout import I64
from v2x.fusion.report import Y_LANE

COLUMNS: Final = (
    "track", "object_class", "lat", "lon", "speed", "heading", "accel", "pos_sigma", "length", "width", "lane", "hits",
    "age_ms",
)  # fmt: skip
HEAD: Final = ("offset", "index", "zone", "event_ms", "stream_ms", "inputs")  # between partition and the columns
LANES: Final = 256
VARINT: Final = 10  # bytes, at most
_SAMPLE: Final = (0, -1, 1, 63, -64, 64, 8191, -2000, 1 << 32 | 7, (1 << 52) + 3)
_NAMES: Final = ("a", "路", "x" * 70)

Bytes = npt.NDArray[np.uint8]


@helper
def _put(out: Any, at: int, value: int) -> Any:
    """Write a zigzag varint; return where it ends."""
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest > np.uint64(127):
        out[at] = np.uint8((rest & np.uint64(127)) | np.uint64(128))
        rest >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@helper
def _copy(out: Any, at: int, text: Any, first: int, last: int) -> Any:
    """Copy bytes; return where they end."""
    for k in range(first, last):
        out[at] = text[k]
        at += 1
    return at


@kernel("int64(int32[::1], int32[::1], int32[::1], int64[:,::1], int64, int64, int32[::1])")
def lane_column(lane: Any, link: Any, lane_id: Any, columns: Any, first: int, n: int, used: Any) -> Any:
    """Write the column of lanes: place of the link among those used, times LANES, plus lane id; -1 unknown.

    ``lane``: indices into Road.lanes, or -1; ``used`` gets the links, ascending; return how many.
    """
    place = np.zeros(used.shape[0], np.int32)
    for k in range(first, first + n):
        if lane[k] >= 0:
            place[link[lane[k]]] = 1
    count = 0
    for x in range(used.shape[0]):
        if place[x] > 0:
            place[x] = count
            used[count] = x
            count += 1
    for k in range(first, first + n):
        columns[Y_LANE, k] = place[link[lane[k]]] * LANES + lane_id[lane[k]] if lane[k] >= 0 else -1
    return count


@kernel(
    "int64(uint8[::1], int64, int64, uint8[::1], int64, int64, int64, int64[:,::1], int64, int64, int32[::1], int64, "
    "uint8[::1], int64[::1], int64, uint8[::1], int64)"
)
def write(
    start: Any, offset: int, index: int, zone: Any, event_ms: int, stream_ms: int, inputs: int, columns: Any,
    first: int, n: int, used: Any, links: int, names: Any, name_at: Any, catching_up: int, out: Any, at: int,
) -> Any:  # fmt: skip
    """Write the frame of n tracks, in the columns from ``first`` on, to ``out[at:]``; return where it ends.

    ``zone`` and ``names`` are Avro strings, ``name_at`` where each begins.
    """
    at = _copy(out, at, start, 0, start.shape[0])
    at = _put(out, _put(out, at, offset), index)
    at = _copy(out, at, zone, 0, zone.shape[0])
    at = _put(out, _put(out, _put(out, at, event_ms), stream_ms), inputs)
    for row in range(len(COLUMNS)):
        at = _put(out, at, n)
        for k in range(first, first + n):
            at = _put(out, at, columns[row, k])
        if n > 0:
            out[at] = 0
            at += 1
    at = _put(out, at, links)
    for k in range(links):
        at = _copy(out, at, names, name_at[used[k]], name_at[used[k] + 1])
    if links > 0:
        out[at] = 0
        at += 1
    return _put(out, at, catching_up)


def room(start: int, zone: int, names: int, tracks: int) -> int:
    """Return bytes that are enough for a frame; all but ``tracks`` in bytes."""
    return len(COLUMNS) * (tracks + 2) * VARINT + start + zone + names + 8 * VARINT


def strings(texts: Sequence[str]) -> tuple[Bytes, I64]:
    """Return Avro strings one behind the other, and where each begins (and the last one ends)."""
    raw = [_string(text) for text in texts]
    return np.frombuffer(b"".join((*raw, b"\0")), np.uint8)[:-1].copy(), np.cumsum([0, *map(len, raw)], dtype=np.int64)


class FrameEncoder:
    """What the kernel needs of the encoder port, and the port itself where the kernel does not know its ways."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._world: tuple[str, int] | None = None
        self._start: Bytes | None = None

    def start(self, generation: str, partition: int) -> Bytes | None:
        """Return what stands before the offset in every value of a world; None: ``encode`` has to make them."""
        if self._world != (generation, partition):
            self._world = (generation, partition)
            self._start = self._learn(generation, partition)
        return self._start

    def encode(
        self, generation: str, partition: int, head: Sequence[int | str], columns: I64, links: Sequence[str],
        catching_up: int = 0,
    ) -> bytes:  # fmt: skip
        """Return the value of a frame: ``head`` is HEAD, ``columns`` (13, n) COLUMNS, ``links`` those used."""
        record = {
            "generation": generation, "partition": partition, **dict(zip(HEAD, head, strict=True)),
            **dict(zip(COLUMNS, columns.tolist(), strict=True)), "links": list(links), "catching_up": catching_up,
        }  # fmt: skip
        return self._encoder.encode("track_frame", record)

    def _learn(self, generation: str, partition: int) -> Bytes | None:
        columns = np.array([_SAMPLE] * len(COLUMNS), np.int64)
        n = len(_SAMPLE)
        numbers = (1 << 33, 5, 1 << 40, 1 << 41, 77)
        value = self.encode(generation, partition, (*numbers[:2], "路", *numbers[2:]), columns, _NAMES)
        (zone, _), (names, name_at) = strings(["路"]), strings(_NAMES)
        out = np.zeros(room(0, len(zone), len(names), n), np.uint8)
        used = np.arange(len(_NAMES), dtype=np.int32)
        nothing = np.zeros(0, np.uint8)
        end = write(
            nothing, *numbers[:2], zone, *numbers[2:], columns, 0, n, used, len(used), names, name_at, 0, out, 0
        )  # fmt: skip
        rest = out[:end].tobytes()
        return np.frombuffer(value[: -len(rest)], np.uint8).copy() if value.endswith(rest) else None


def _string(text: str) -> bytes:
    """Return an Avro string."""
    raw = text.encode()
    size, head = len(raw) << 1, bytearray()
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes((*head, size)) + raw
