"""Track frames: a zone's report and its bytes.

A frame of 200 tracks has 2,600 integers, 20 times a second and zone: an encoder that takes them one by one costs more
than all of fusion. Avro writes a record field by field, an integer as a zigzag varint and an array as count, items, 0;
so a kernel writes the whole frame: what does not change (the value's header, generation, partition; the zone; the names
of links) is copied, all else are integers. Once per generation the kernel and the encoder port are compared on a
sample; where they differ (a schema whose columns have moved) the port does it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.columns import Encoder
from v2x.fusion.jit import helper, kernel
from v2x.fusion.layout import I64
from v2x.fusion.report import Y_LANE
from v2x.road import Road

COLUMNS: Final = (
    "track", "object_class", "lat", "lon", "speed", "heading", "accel", "pos_sigma", "length", "width", "lane", "hits",
    "age_ms",
)  # fmt: skip
HEAD: Final = ("offset", "index", "zone", "event_ms", "stream_ms", "inputs")  # between partition and the columns
LANES: Final = 256
_VARINT: Final = 10
_SAMPLE: Final = (0, -1, 1, 63, -64, 64, 8191, -2000, 1 << 32 | 7, (1 << 52) + 3)
_NAMES: Final = ("a", "路", "x" * 70)

Bytes = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]


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


@kernel("int64(int32[::1], int64, int32[::1], int32[::1], int64[:,::1], int32[::1])")
def lane_column(lane: Any, n: int, link: Any, lane_id: Any, columns: Any, used: Any) -> Any:
    """Write the column of lanes: place of the link among those used, times LANES, plus lane id; -1 unknown.

    ``lane``: indices into Road.lanes, or -1; ``used`` gets the links, ascending; return how many.
    """
    place = np.zeros(used.shape[0], np.int32)
    for k in range(n):
        if lane[k] >= 0:
            place[link[lane[k]]] = 1
    count = 0
    for x in range(used.shape[0]):
        if place[x] > 0:
            place[x] = count
            used[count] = x
            count += 1
    for k in range(n):
        columns[Y_LANE, k] = place[link[lane[k]]] * LANES + lane_id[lane[k]] if lane[k] >= 0 else -1
    return count


@kernel(
    "int64(uint8[::1], int64, int64, uint8[::1], int64, int64, int64, int64[:,::1], int64, int32[::1], int64, "
    "uint8[::1], int64[::1], int64, uint8[::1])"
)
def write(
    start: Any, offset: int, index: int, zone: Any, event_ms: int, stream_ms: int, inputs: int, columns: Any, n: int,
    used: Any, links: int, names: Any, name_at: Any, catching_up: int, out: Any,
) -> Any:  # fmt: skip
    """Write a frame; return the bytes used. ``zone`` and ``names`` are Avro strings, ``name_at`` where each begins."""
    at = _copy(out, 0, start, 0, start.shape[0])
    at = _put(out, _put(out, at, offset), index)
    at = _copy(out, at, zone, 0, zone.shape[0])
    at = _put(out, _put(out, _put(out, at, event_ms), stream_ms), inputs)
    for row in range(len(COLUMNS)):
        at = _put(out, at, n)
        for k in range(n):
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


@dataclass(slots=True)
class Frame:
    """What a zone reports for one event time."""

    zone: str
    event_ms: int
    stream_ms: int
    inputs: int
    count: int
    columns: I64  # (at least 13, at least ``count``); the first 13 rows are COLUMNS, that of lanes is yet to be written
    lane: I32  # indices into Road.lanes, or -1
    road: Road
    catching_up: int = 0  # 1: said while fusion catches up after an outage


@dataclass(slots=True)
class _Zone:
    """What a frame has of its zone, as Avro strings."""

    name: Bytes
    links: int = 0
    names: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8))
    name_at: I64 = field(default_factory=lambda: np.zeros(1, np.int64))
    used: I32 = field(default_factory=lambda: np.zeros(0, np.int32))

    def learn(self, names: list[str]) -> None:
        """Take the names of all links."""
        texts = [_string(name) for name in names]
        self.links = len(names)
        self.names = np.frombuffer(b"".join(texts), np.uint8).copy()
        self.name_at = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        self.used = np.zeros(len(names), np.int32)


class FrameEncoder:
    """Frames to values of schema ``track_frame``, by way of an encoder port."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._zones: dict[str, _Zone] = {}
        self._room: Bytes = np.zeros(0, np.uint8)
        self._world: tuple[str, int] | None = None
        self._start: Bytes | None = None  # of every value of this world; None: the port does it all

    def encode(self, generation: str, partition: int, offset: int, index: int, frame: Frame) -> bytes:
        """Return the value of a frame; its column of lanes is written."""
        zone = self._zones.get(frame.zone)
        if zone is None:
            zone = self._zones[frame.zone] = _Zone(np.frombuffer(_string(frame.zone), np.uint8).copy())
        if zone.links != len(frame.road.links):
            zone.learn(frame.road.links)
        if self._world != (generation, partition):
            self._world = (generation, partition)
            self._start = self._learn(generation, partition)
        lanes = frame.road.lanes
        links = lane_column(frame.lane, frame.count, lanes.link, lanes.lane_id, frame.columns, zone.used)
        if self._start is not None:
            return self._write(self._start, offset, index, zone, frame, links)
        names = [frame.road.links[x] for x in zone.used[:links].tolist()]
        return self._plain(generation, partition, offset, index, frame, names)

    def _write(self, start: Bytes, offset: int, index: int, zone: _Zone, frame: Frame, links: int) -> bytes:
        need = len(COLUMNS) * (frame.count + 2) * _VARINT + len(start) + len(zone.name) + len(zone.names) + 8 * _VARINT
        if len(self._room) < need:
            self._room = np.zeros(2 * need, np.uint8)
        used = write(
            start, offset, index, zone.name, frame.event_ms, frame.stream_ms, frame.inputs, frame.columns, frame.count,
            zone.used, links, zone.names, zone.name_at, frame.catching_up, self._room,
        )  # fmt: skip
        return self._room[:used].tobytes()

    def _plain(self, generation: str, partition: int, offset: int, index: int, frame: Frame, links: list[str]) -> bytes:
        columns = frame.columns[: len(COLUMNS), : frame.count].tolist()
        head = (offset, index, frame.zone, frame.event_ms, frame.stream_ms, frame.inputs)
        return self._encoder.encode(
            "track_frame",
            {
                "generation": generation, "partition": partition, **dict(zip(HEAD, head, strict=True)),
                **dict(zip(COLUMNS, columns, strict=True)), "links": links, "catching_up": frame.catching_up,
            },
        )  # fmt: skip

    def _learn(self, generation: str, partition: int) -> Bytes | None:
        """Return what stands before the offset in every value, None if the kernel does not write what the port does."""
        columns = np.array([_SAMPLE] * len(COLUMNS), np.int64)
        frame = Frame("路", 1 << 40, 1 << 41, 77, len(_SAMPLE), columns, np.zeros(0, np.int32), Road(0.0, 0.0))
        zone = _Zone(np.frombuffer(_string(frame.zone), np.uint8).copy())
        zone.learn(list(_NAMES))
        zone.used[:] = np.arange(len(_NAMES))
        value = self._plain(generation, partition, 1 << 33, 5, frame, list(_NAMES))
        rest = self._write(np.zeros(0, np.uint8), 1 << 33, 5, zone, frame, len(_NAMES))
        return np.frombuffer(value[: -len(rest)], np.uint8).copy() if value.endswith(rest) else None


def _string(text: str) -> bytes:
    """Return an Avro string."""
    raw = text.encode()
    size, head = len(raw) << 1, bytearray()
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes((*head, size)) + raw
