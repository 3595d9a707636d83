"""The heads of track frames in columns, and one in a few frames whole: enough to account and score, little to hold."""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Final, NamedTuple

import numba as nb
import numpy as np
from v2x.columns import I64, Records

from v2x_codecs.recordbatch import CRC_TABLES, crc32c
from v2x_loadtest.audit.names import Names

KEEP_MS: Final = 200  # full frames are kept at 5 Hz of event time a zone
COLUMNS: Final = ("partition", "stamp_ms", "generation", "input", "offset", "nth", "zone", "event_ms", "digest")
_FACTS: Final = 10
_ROW, _AT, _GENERATION_AT, _GENERATION, _INPUT, _OFFSET, _NTH, _ZONE_AT, _ZONE, _EVENT = range(_FACTS)
_BODY: Final = 5  # behind Kafka's framing
_HEAP: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_SHAPE: Final = np.array([1, 0, 0, 0, 1, 0], np.int64)  # of what a frame begins with; 1: a string


@nb.njit(
    nb.int64(_HEAP, nb.int64[::1], nb.int64[::1], nb.uint32[:, ::1], nb.int64[:, ::1], nb.int64[::1]),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def _read(heap, sizes, shape, crc, out, digest):
    """Read the heads of frames; return how many values begin like one."""
    begin, n = np.int64(0), np.int64(0)
    for i in range(sizes.shape[0]):
        end = begin + sizes[i]
        at, column = begin + _BODY, _GENERATION_AT
        for k in range(shape.shape[0]):
            raw, shift, open_ = np.uint64(0), np.uint64(0), True
            while open_ and at < end and shift < np.uint64(70):
                byte = np.uint64(heap[at])
                raw |= (byte & np.uint64(0x7F)) << shift
                shift += np.uint64(7)
                open_ = byte >= np.uint64(0x80)
                at += 1
            value = np.int64(raw >> np.uint64(1)) ^ -np.int64(raw & np.uint64(1))
            if open_ or (shape[k] and not 0 <= value <= end - at):
                column = np.int64(-1)
                break
            if shape[k]:
                out[column, n], out[column + 1, n] = at, value
                column += 2
                at += value
            else:
                out[column, n] = value
                column += 1
        if column >= 0:
            out[_ROW, n], out[_AT, n] = i, begin
            digest[n] = (np.int64(crc32c(heap, begin, end, crc)) << 32) ^ sizes[i]  # copies are equal in every byte
            n += 1
        begin = end
    return n


@nb.njit(nb.void(nb.int64[:], nb.int64[::1], nb.int64[::1], nb.boolean[::1]), nogil=True, cache=True)
def _keep(slot, zone, newest, out):
    for i in range(slot.shape[0]):
        out[i] = slot[i] > newest[zone[i]]
        newest[zone[i]] = max(newest[zone[i]], slot[i])


class Frame(NamedTuple):
    """A frame of which one in a few has its ``value``."""

    zone: str
    event_ms: int
    value: bytes | None


class Frames:
    """All frames of the log, a row each. ``generation`` and ``zone`` are numbers of names."""

    def __init__(self, *, keep: bool = True) -> None:
        """``keep``: hold one in a few whole."""
        self.columns: dict[str, array[int]] = {name: array("q") for name in COLUMNS}
        self.generations, self.zones = Names(), Names()
        self._keeps = keep
        self._newest: I64 = np.full(0, -1, np.int64)  # slot of event time that was kept last, by zone
        self._values: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def column(self, name: str) -> I64:
        """Return a column."""
        return np.frombuffer(self.columns[name], np.int64) if self.columns[name] else np.zeros(0, np.int64)

    def take(self, partition: int, records: Records) -> int:
        """Take in records of one partition, in order; return how many were frames."""
        found, digest = np.empty((_FACTS, len(records)), np.int64), np.empty(len(records), np.int64)
        n = int(_read(np.frombuffer(records.values, np.uint8), records.size, _SHAPE, CRC_TABLES, found, digest))
        found, first = found[:, :n], len(self)
        row = found[_ROW]
        generation = self.generations.take(records.values, found[_GENERATION_AT], found[_GENERATION])
        zone = self.zones.take(records.values, found[_ZONE_AT], found[_ZONE])
        columns = (
            np.full(n, partition), records.stamp_ms[row], generation, found[_INPUT], found[_OFFSET], found[_NTH],
            zone, found[_EVENT], digest[:n],
        )  # fmt: skip
        for name, column in zip(COLUMNS, columns, strict=True):
            self.columns[name].frombytes(column.astype(np.int64, copy=False).tobytes())
        if self._keeps:
            kept = np.zeros(n, np.bool_)
            self._newest = np.concatenate((self._newest, np.full(len(self.zones) - len(self._newest), -1, np.int64)))
            _keep(found[_EVENT] // KEEP_MS, zone, self._newest, kept)
            for i in np.flatnonzero(kept).tolist():
                at = int(found[_AT, i])
                self._values[first + i] = records.values[at : at + int(records.size[row[i]])]
        return n

    def of(self, zones: Collection[str]) -> list[Frame]:
        """Return the frames of some zones, in the order in which they were taken in."""
        names, zone, event_ms = self.zones.list(), self.column("zone"), self.column("event_ms")
        rows = np.flatnonzero(np.isin(zone, [k for k, name in enumerate(names) if name in zones]))
        values = self._values
        return [
            Frame(names[z], ms, values.get(i))
            for i, z, ms in zip(rows.tolist(), zone[rows].tolist(), event_ms[rows].tolist(), strict=True)
        ]
