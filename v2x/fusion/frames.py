"""Track frames: a view in the schema's units, and its bytes.

A frame of 200 tracks has 2,600 integers, 20 times a second and zone: an encoder that takes them one by one costs more
than all of fusion. Its columns are the last fields of the schema and Avro writes an array of integers as count, zigzag
varints, 0; so the fields before them go through the encoder port, with empty columns, and a kernel writes the columns
in place of the 13 zeros that stand for them. Once per encoder both ways are compared; where they differ (a schema whose
columns have moved) the port does it all.
"""

from __future__ import annotations

from math import cos, sin, sqrt
from typing import Any, Final

import numpy as np

from v2x.columns import Encoder
from v2x.fusion.jit import kernel
from v2x.fusion.layout import F64, I64
from v2x.fusion.view import TrackView
from v2x.geo import ECC2, SEMI_MAJOR_M
from v2x.road import Road

COLUMNS: Final = (
    "track", "object_class", "lat", "lon", "speed", "heading", "accel", "pos_sigma", "length", "width", "lane", "hits",
    "age_ms",
)  # fmt: skip
C_TRACK, C_CLS, C_LAT, C_LON, C_SPEED, C_HEAD, C_ACC, C_SIGMA, C_LEN, C_WID, C_LANE, C_HITS, C_AGE = range(13)
LANES: Final = 256
_RAD_E7: Final = 1e7 * 180.0 / np.pi
_VARINT: Final = 10
_SAMPLE: Final = [0, -1, 1, 63, -64, 64, 8191, -2000, 1 << 32 | 7, (1 << 52) + 3]


@kernel("void(float64[:,::1], float64[::1], int64[:,::1])")
def _units(x: Any, geo: Any, out: Any) -> None:
    """Write place, speed, heading, acceleration, sigma and size of ``x`` (rows as listed) in the schema's units."""
    for k in range(x.shape[1]):
        phi = geo[0] + x[1, k] / geo[2]
        d = sin(phi)
        normal = SEMI_MAJOR_M / sqrt(1.0 - ECC2 * d * d)
        out[C_LAT, k] = round(phi * _RAD_E7)
        out[C_LON, k] = round(geo[1] + x[0, k] / (normal * cos(phi)) * _RAD_E7)
        out[C_SPEED, k] = min(round(x[2, k] * 50.0), 8190)
        out[C_HEAD, k] = round(x[3, k] * 80.0) % 28_800
        out[C_ACC, k] = max(min(round(x[4, k] * 100.0), 2_000), -2_000)
        out[C_SIGMA, k] = min(round(x[5, k] * 100.0), 65_535)
        out[C_LEN, k] = min(round(x[6, k] * 100.0), 4_095)
        out[C_WID, k] = min(round(x[7, k] * 100.0), 1_023)


@kernel("int64(int64[:,::1], uint8[::1])")
def _arrays(columns: Any, out: Any) -> Any:
    """Write each row as an Avro array of longs; return the bytes used."""
    at = 0
    for row in range(columns.shape[0]):
        n = columns.shape[1]
        for k in range(-1, n):
            value = n if k < 0 else columns[row, k]
            rest = np.uint64((value << 1) ^ (value >> 63))
            while rest > np.uint64(127):
                out[at] = np.uint8((rest & np.uint64(127)) | np.uint64(128))
                rest >>= np.uint64(7)
                at += 1
            out[at] = np.uint8(rest)
            at += 1
        if n > 0:
            out[at] = 0
            at += 1
    return at


def columns(view: TrackView, geo: F64, road: Road) -> tuple[I64, list[str]]:
    """Return the integer columns (in the order of COLUMNS) and the names that the lanes point at."""
    out = np.empty((len(COLUMNS), len(view)), np.int64)
    rows = (view.east, view.north, view.speed, view.heading, view.accel, view.sigma, view.length, view.width)
    _units(np.stack(rows), geo, out)
    out[C_TRACK], out[C_CLS], out[C_HITS], out[C_AGE] = view.id, view.cls, view.hits, view.age_ms
    out[C_LANE] = -1
    links: list[str] = []
    if len(road.links):
        known = np.flatnonzero(view.lane >= 0)
        lane = view.lane[known]
        used, place = np.unique(road.lanes.link[lane], return_inverse=True)
        links = [road.links[x] for x in used.tolist()]
        out[C_LANE, known] = place * LANES + road.lanes.lane_id[lane]
    return out, links


class FrameEncoder:
    """``track_frame`` records to values, by way of an encoder port."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._fast: bool | None = None  # not tried yet

    def encode(self, head: dict[str, Any], whole: I64, links: list[str]) -> bytes:
        """Return the value of a frame: the fields before the columns, the columns, the links."""
        if self._fast is None:
            sample = np.array([_SAMPLE] * len(COLUMNS), np.int64)
            self._fast = self._splice(head, sample, ["a", "路"]) == self._plain(head, sample, ["a", "路"])
        return self._splice(head, whole, links) if self._fast else self._plain(head, whole, links)

    def _plain(self, head: dict[str, Any], whole: I64, links: list[str]) -> bytes:
        rows = dict(zip(COLUMNS, whole.tolist(), strict=True))
        return self._encoder.encode("track_frame", {**head, **rows, "links": links})

    def _splice(self, head: dict[str, Any], whole: I64, links: list[str]) -> bytes:
        bare = self._encoder.encode("track_frame", {**head, **{name: [] for name in COLUMNS}, "links": links})
        names = bare[len(bare) - _size(links) :]
        room = np.empty(len(COLUMNS) * (whole.shape[1] + 2) * _VARINT, np.uint8)
        used = _arrays(np.ascontiguousarray(whole), room)
        return bare[: len(bare) - len(names) - len(COLUMNS)] + room[:used].tobytes() + names


def _size(links: list[str]) -> int:
    """Return the bytes of an Avro array of strings."""
    if not links:
        return 1
    texts = [len(name.encode()) for name in links]
    return _long(len(links)) + sum(_long(n) + n for n in texts) + 1


def _long(value: int) -> int:
    return max(1, -(-(value << 1).bit_length() // 7))
