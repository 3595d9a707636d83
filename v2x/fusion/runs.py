"""Runs: consecutive plain records of a log, taken by one kernel call.

Nearly all of a log is scans of roadside units that the zone map knows, and ticks. The kernel takes them one after the
other just as Intake would (clocks, repeats, zones, the filter) and stops before a record that needs Python, and behind
one with which a frame becomes due. What is plain is decided before anything is changed, so where it stops does not
matter. Nothing is plain at a gap or while fusion catches up; else a tick once event time has begun, and a scan with a
reference position and without obstacles, of a device of the map that is heard here, since the boot it last spoke of,
whose zones know it as a sensor and have room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numba as nb
import numpy as np

from v2x.columns import I64, Batch, Records
from v2x.fusion import clock as ck
from v2x.fusion import layout as c
from v2x.fusion import zone as zn
from v2x.fusion.clock import EventClock, StreamClock, advance, fresh, hear
from v2x.fusion.entry import LAT_NONE, LON_NONE, PARTICIPANT, POSITION_CONFIDENCE_M, fuse_rsm
from v2x.fusion.jit import helper, kernel, real_line, reals, whole, whole_line
from v2x.fusion.outlet import Trigger
from v2x.fusion.repeats import BOOT, Repeats, repeated
from v2x.fusion.station import Station
from v2x.zones import ZoneMap

LATE_MS: Final = 2_000  # a scan older than this was of no use
# What the kernel counts, and says: whether a frame is due (and the last record was heard, no tick or repeat).
FUSED, LATE, CONTROL, REPEATS, DUE = range(5)
NOTHING_DUE, DUE_QUIET, DUE_HEARD = range(3)
_ROOT: Final = ("device.off", "device.len", "boot", "seq", "ts_ms", "ref_lat", "ref_lon")
_RSM, _TICK, _D_OFF, _D_LEN, _BOOT, _SEQ, _TS, _LAT, _LON = range(9)  # of ``fields``: numbers of schemas, columns
_NOBODY: Final = np.zeros((0, len(PARTICIPANT)), np.int64)
_SEED, _PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a

_HEAP = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_I64, _I64S, _GRID, _I32S = nb.int64, nb.int64[::1], nb.int64[:, ::1], nb.int32[::1]
_BATCH = (_I32S, nb.int16[::1], _I32S, _I64S, _HEAP, _GRID, _GRID, _I32S, _I32S, _I64S, _I64S)
_MAP = (nb.uint8[::1], _I64S, _I64S, _I64S, _I64S, _I64S)
_PARTS = (_I64S, _I64S, _GRID, _GRID, nb.uint64[:, ::1], _GRID, _I64S, _I64S, nb.float64[::1])


@helper
def _find(heap: Any, at: int, size: int, names: Any, name_at: Any, places: Any) -> Any:
    """Return the number of the device whose id lies at heap[at : at + size], -1 if it is none of ours."""
    code = np.uint64(_SEED)
    for x in range(size):
        code = (code ^ np.uint64(heap[at + x])) * np.uint64(_PRIME)
    mask = np.uint64(places.shape[0] - 1)
    place = code & mask
    while True:
        number = places[place]
        if number < 0:
            return number
        begin = name_at[number]
        if name_at[number + 1] - begin == size:
            same = True
            for x in range(size):
                if names[begin + x] != heap[at + x]:
                    same = False
                    break
            if same:
                return number
        place = (place + np.uint64(1)) & mask


@helper
def _first(messages: Any, n: int) -> Any:
    """Return the first row that belongs to message n or a later one."""
    low, high = 0, messages.shape[0]
    while low < high:
        middle = (low + high) // 2
        if messages[middle] < n:
            low = middle + 1
        else:
            high = middle
    return low


@helper
def _ready(where: Any, zones: Any, sensors: Any, begin: int, end: int) -> Any:
    """Return whether all zones of a device know it as a sensor and have room for a scan."""
    for x in range(begin, end):
        w = where[zones[x]]
        if sensors[x] < 0 or w[zn.A_ROWS] - whole_line(w[zn.A_CTL], c.CTL_COLS)[c.CTL_LIVE] < c.MAX_SCAN:
            return False
    return begin < end


@helper
def _fuse(
    w: Any, people: Any, cols: Any, row: Any, fields: Any, confidence: Any, shift: int, sensor: int, event_ms: int,
    idle_ms: int, skew: int,
) -> None:  # fmt: skip
    """Fuse a scan in the zone that ``w`` leads to."""
    rows = w[zn.A_ROWS]
    fuse_rsm(
        reals(w[zn.A_S], rows, c.S_COLS), whole(w[zn.A_I], rows, c.I_COLS), reals(w[zn.A_VOTES], rows, c.CLASSES),
        whole(w[zn.A_MEM], w[zn.A_PLACES], c.MEM_COLS), whole_line(w[zn.A_HEADS], c.BUCKETS),
        reals(w[zn.A_BIAS], w[zn.A_SENSORS], c.B_COLS), whole_line(w[zn.A_CTL], c.CTL_COLS),
        whole_line(w[zn.A_STAT], c.STAT_COLS), real_line(w[zn.A_PRM], len(c.PRM_NAMES)),
        reals(w[zn.A_M], c.MAX_SCAN, c.M_COLS), whole(w[zn.A_K], c.MAX_SCAN, c.K_COLS),
        people, cols, row[fields[_LAT]], row[fields[_LON]], real_line(w[zn.A_GEO], c.GEO_COLS), confidence,
        row[fields[_TS]], shift, sensor, event_ms, idle_ms, skew,
    )  # fmt: skip


@kernel(_I64(_I64, *_BATCH, *_MAP, *_PARTS))
def _take(
    first: int, schema: Any, verdict: Any, root: Any, stamps: Any, heap: Any, scans: Any, people: Any, people_msg: Any,
    things_msg: Any, fields: Any, cols: Any,
    names: Any, name_at: Any, places: Any, zone_at: Any, zones: Any, sensors: Any,
    clock: Any, events: Any, devices: Any, rings: Any, bits: Any, where: Any, last: Any, said: Any, confidence: Any,
) -> Any:  # fmt: skip
    """Take plain records from ``first`` on; return the number of the first one that was not taken.

    ``said`` gets the counts and DUE; ``last[z]`` the last record that fed zone z.
    """
    said[:] = 0
    p, q = _first(people_msg, first), _first(things_msg, first)
    n = first
    while n < schema.shape[0] and verdict[n] == 0 and said[DUE] == NOTHING_DUE:
        heard = False
        if events[ck.CATCHING] or (clock[ck.STAMP] >= 0 and stamps[n] - clock[ck.STAMP] > ck.MAX_STEP_MS):
            break
        if schema[n] == fields[_TICK]:
            if not events[ck.STARTED]:
                break
            advance(clock, stamps[n])
            said[CONTROL] += 1
        elif schema[n] == fields[_RSM]:
            row = scans[root[n]]
            device = _find(heap, row[fields[_D_OFF]], row[fields[_D_LEN]], names, name_at, places)
            if device < 0 or rings[device, BOOT] != row[fields[_BOOT]]:
                break
            if row[fields[_LAT]] >= LAT_NONE or row[fields[_LON]] >= LON_NONE:
                break
            while q < things_msg.shape[0] and things_msg[q] < n:
                q += 1
            if q < things_msg.shape[0] and things_msg[q] == n:
                break
            if not _ready(where, zones, sensors, zone_at[device], zone_at[device + 1]):
                break
            advance(clock, stamps[n])
            if repeated(rings, bits, device, row[fields[_SEQ]]):
                said[REPEATS] += 1
            else:
                heard = True
                while p < people_msg.shape[0] and people_msg[p] < n:
                    p += 1
                end = p
                while end < people_msg.shape[0] and people_msg[end] == n:
                    end += 1
                ts_ms = row[fields[_TS]]
                fresh(clock, ts_ms)
                shift = hear(events, devices, device, ts_ms, clock[ck.NOW])
                event_ms = clock[ck.NOW] + events[ck.OFFSET]
                for x in range(zone_at[device], zone_at[device + 1]):
                    _fuse(
                        where[zones[x]], people[p:end], cols, row, fields, confidence, shift, sensors[x], event_ms,
                        clock[ck.IDLE], devices[device, ck.SKEW],
                    )  # fmt: skip
                    last[zones[x]] = n
                said[LATE if end > p and event_ms - ts_ms + shift > LATE_MS else FUSED] += 1
                p = end
        else:
            break
        n += 1
        if events[ck.STARTED] and clock[ck.NOW] + events[ck.OFFSET] >= events[ck.TOLD] + ck.FRAME_MS:
            said[DUE] = DUE_HEARD if heard else DUE_QUIET
    return n


class Runs:
    """Takes the plain records of batches; ``fixed`` are the devices by the numbers that clocks and rings have."""

    def __init__(
        self,
        stations: Mapping[str, Station],
        zones: ZoneMap,
        schemas: Sequence[str],
        fixed: Sequence[str],
        times: tuple[StreamClock, EventClock, Repeats],
        where: I64,
    ) -> None:
        """``where``: how kernels reach the stations' zones (see ZoneState.show)."""
        self._stations = list(stations.values())
        self._fixed = {device: number for number, device in enumerate(fixed)}
        self._times = times
        self._where = where
        place = {zone: n for n, zone in enumerate(stations)}
        routes = [[place[z] for z in zones.route(device, None, None) if z in place] for device in fixed]
        self._zone_at: I64 = np.cumsum([0, *map(len, routes)]).astype(np.int64)
        self._zones: I64 = np.array([z for route in routes for z in route], np.int64)
        self._sensors: I64 = np.full(len(self._zones), -1, np.int64)
        self._index(fixed)
        self._kinds = [schemas.index("rsm"), schemas.index("tick")]
        self._plain = frozenset(self._kinds)
        self._fields: dict[tuple[str, ...], I64] = {}
        self._last: I64 = np.full(len(stations), -1, np.int64)
        self._said: I64 = np.zeros(5, np.int64)
        # What fed each station last, until somebody asks: a trigger is more work than a scan's part in a run.
        self._fed: list[tuple[Records, Batch, int] | None] = [None] * len(stations)
        self._log: Records
        self._batch: Batch
        self._args: tuple[Any, ...] = ()

    def _index(self, fixed: Sequence[str]) -> None:
        """Make the table by which a device's id finds its number."""
        names = [device.encode() for device in fixed]
        self._names = np.frombuffer(b"".join(names), np.uint8).copy()
        self._name_at: I64 = np.cumsum([0, *map(len, names)]).astype(np.int64)
        size = 1 << (2 * len(fixed) + 1).bit_length()
        self._places: I64 = np.full(size, -1, np.int64)
        for number, name in enumerate(names):
            place = _code(name) & (size - 1)
            while self._places[place] >= 0:
                place = (place + 1) & (size - 1)
            self._places[place] = number

    # -- sensors ----------------------------------------------------------------------------------------------------
    def learn(self, device: str) -> None:
        """Note the numbers that a device's zones have given it."""
        number = self._fixed.get(device)
        if number is not None:
            for x in range(self._zone_at[number], self._zone_at[number + 1]):
                self._sensors[x] = self._stations[self._zones[x]].zone.sensors.get(device, -1)

    def learn_all(self) -> None:
        """Note the numbers of all devices, and forget what was fed: after a snapshot is loaded."""
        for device in self._fixed:
            self.learn(device)

    # -- batches ----------------------------------------------------------------------------------------------------
    def open(self, log: Records, batch: Batch) -> None:
        """Take a batch."""
        tables = batch.tables
        scans, people, things = tables["rsm"], tables["rsm.participants"], tables["rsm.obstacles"]
        key = (*scans.fields, *people.fields)
        fields = self._fields.get(key)
        if fields is None:
            fields = self._fields[key] = np.array(
                [*self._kinds, *map(scans.fields.index, _ROOT), *map(people.fields.index, PARTICIPANT)], np.int64
            )
        clock, events, repeats = self._times
        self._log, self._batch = log, batch
        self._args = (
            batch.schema, batch.verdict, batch.row, log.stamp_ms, np.frombuffer(batch.heap, np.uint8),
            np.ascontiguousarray(scans.data), np.ascontiguousarray(people.data), people.msg, things.msg, fields,
            fields[_LON + 1 :],
            self._names, self._name_at, self._places, self._zone_at, self._zones, self._sensors,
            clock.numbers, events.numbers,
        )  # fmt: skip
        self._rest = (repeats.rings, repeats.bits, self._where, self._last, self._said, POSITION_CONFIDENCE_M)

    def take(self, first: int) -> int:
        """Take plain records from ``first`` on; return the first that was not taken."""
        args = (first, *self._args, self._times[1].rows, *self._rest)
        return int(_take(*args))

    @property
    def said(self) -> list[int]:
        """Return the counts of the last ``take``, and DUE."""
        found: list[int] = self._said.tolist()
        return found

    def close(self) -> None:
        """Be done with the batch."""
        for z, last in enumerate(self._last.tolist()):
            if last >= 0:
                self._fed[z] = self._log, self._batch, last
        self._last[:] = -1

    # -- triggers ---------------------------------------------------------------------------------------------------
    def fed(self, station: Station) -> None:
        """Forget what fed a station before: another record did."""
        z = self._stations.index(station)
        self._last[z] = -1
        self._fed[z] = None

    def cause(self, z: int) -> Trigger | None:
        """Return what fed the station with this number last, since events were looked for."""
        if self._last[z] >= 0:
            return trigger(self._log, self._batch, int(self._last[z]))
        source = self._fed[z]
        return self._stations[z].last if source is None else trigger(*source)

    def settle(self) -> None:
        """Let every station know its cause itself: for a snapshot."""
        self.close()
        for z, source in enumerate(self._fed):
            if source is not None:
                self._stations[z].last = trigger(*source)
                self._fed[z] = None

    def looked(self, z: int) -> None:
        """Forget what fed a station: events have been looked for there."""
        self._last[z] = -1
        self._fed[z] = self._stations[z].last = None


def trigger(log: Records, batch: Batch, n: int) -> Trigger:
    """Return what a scan is as a trigger."""
    table, row = batch.tables["rsm"], int(batch.row[n])
    ts_ms = int(table.data[row, table.fields.index("ts_ms")])
    return Trigger(int(log.stamp_ms[n]), batch.text("rsm", row, "device"), ts_ms, tuple(log[n].headers))


def _code(name: bytes) -> int:
    code = _SEED
    for byte in name:
        code = (code ^ byte) * _PRIME & 0xFFFFFFFFFFFFFFFF
    return code
