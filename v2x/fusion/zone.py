"""ZoneState: the tracks, sensors and road of one zone, and the calls into its kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from v2x.errors import SnapshotError
from v2x.fusion import layout as c
from v2x.fusion import upkeep as up
from v2x.fusion.bias import new_sensors
from v2x.fusion.entry import ACCEL_NONE, POSITION_CONFIDENCE_M, fuse_one, fuse_rsm, new_row, place_at
from v2x.fusion.frames import strings
from v2x.fusion.jit import lined
from v2x.fusion.layout import F64, I64
from v2x.fusion.view import I32
from v2x.geo import LocalFrame
from v2x.road import Road
from v2x.zones import ZoneMap

FIRST_ROWS: Final = 512
FIRST_SENSORS: Final = 16
# Columns of the table by which kernels reach a zone: what measurements need, what frames need; lengths after addresses.
(
    A_S, A_I, A_VOTES, A_MEM, A_HEADS, A_BIAS, A_CTL, A_STAT, A_PRM, A_M, A_K, A_GEO, A_ROWS, A_PLACES, A_SENSORS,
    A_ORDER, A_HINTS, A_XY, A_START, A_BOXES, A_NAME, A_CORNERS, A_POLYGONS, A_NAME_SIZE,
    A_SEG, A_SEG_LANE, A_CELL, A_CELL_AT, A_ITEMS, A_LINK, A_LANE_ID, A_NAMES, A_NAME_AT,
    A_SEGS, A_CELLS, A_LISTED, A_LANES, A_NAMES_SIZE, A_LINKS,
    A_BEFORE,  # tracks of the last frame: not an address, but what the kernel keeps
) = range(40)  # fmt: skip
A_COLS: Final = 40
ACCURACY_NONE: Final = 255
ACCURACY_UNIT_M: Final = 0.05
VEHICLE_SIGMA_M: Final = 1.5  # satellite position that tells no accuracy
WORST_SIGMA_M: Final = 25.0
# BasicVehicleClass to object class: up to 19 cars, then light trucks, trucks, motorcycles, buses.
_CLASS_STEPS: Final = ((20, 3), (25, 4), (40, 5), (50, 8), (60, 6), (256, 3))


class ZoneState:
    """One zone. All arrays belong to the snapshot; views of them do not."""

    def __init__(self, zones: ZoneMap, zone: str, config: dict[str, float] | None = None) -> None:
        self.id = zone
        info = zones.zone(zone)
        self.frame = LocalFrame(*info.origin)
        self.road = Road(*info.origin)
        self.neighbours = info.neighbours
        self.prm = c.parameters(config)
        phi = np.radians(self.frame.lat)
        self.geo = np.array([phi, self.frame.lon * 1e7, self.frame.meridian_m, np.sin(phi), np.cos(phi)])
        self.sensors: dict[str, int] = {"": c.VEHICLES}
        self.bias = new_sensors(FIRST_SENSORS, self.prm)
        self.s: F64 = lined((0, c.S_COLS), np.float64)
        self.i: I64 = lined((0, c.I_COLS), np.int64)
        self.votes: F64 = lined((0, c.CLASSES), np.float64)
        self.mem: I64 = lined((_places(FIRST_SENSORS), c.MEM_COLS), np.int64)
        self.heads: I64 = np.full(c.BUCKETS, -1, np.int64)
        self.ctl: I64 = np.zeros(c.CTL_COLS, np.int64)
        self.ctl[c.CTL_FREE] = -1
        self.ctl[c.CTL_PREFIX] = zones.zones.index(zone) + 1
        self.stat: I64 = np.zeros(c.STAT_COLS, np.int64)
        self._m: F64 = lined((c.MAX_SCAN, c.M_COLS), np.float64)
        self._k: I64 = lined((c.MAX_SCAN, c.K_COLS), np.int64)
        polygons = [zones.zone(z).polygon for z in (zone, *self.neighbours)]
        corners = [np.column_stack(self.frame.to_local([p[0] for p in q], [p[1] for p in q])) for q in polygons]
        self._xy: F64 = np.ascontiguousarray(np.vstack(corners))
        self._where: I64 = np.zeros(A_COLS, np.int64)
        self._start: I64 = np.cumsum([0, *map(len, corners)]).astype(np.int64)
        self._boxes: F64 = np.array([[*q.min(axis=0), *q.max(axis=0)] for q in corners])
        self._name, _ = strings([zone])
        self._ground: tuple[Any, ...] = ()  # the road's arrays that kernels read
        self.grow()

    # -- room -------------------------------------------------------------------------------------------------------
    def grow(self) -> None:
        """Make room for a full scan more; rows keep their numbers."""
        have = len(self.s)
        more = max(FIRST_ROWS, have)
        self.s, self.i, self.votes = (_longer(a, have + more) for a in (self.s, self.i, self.votes))
        self.bind()

    def bind(self) -> None:
        """Make arguments and addresses of kernels fit the arrays: whoever replaces one calls this."""
        n = len(self.s)
        self._order: I64 = np.zeros(n, np.int64)  # rows of the last frame's tracks
        self._hints: I32 = np.full((n, 2), -1, np.int32)  # by row: see Road.place
        self._args = (
            self.s, self.i, self.votes, self.mem, self.heads, self.bias, self.ctl, self.stat, self.prm,
            self._m, self._k,
        )  # fmt: skip
        self._where[: A_SENSORS + 1] = *_at(*self._args, self.geo), n, len(self.mem), len(self.bias)
        self._where[A_ORDER : A_NAME_SIZE + 1] = (
            *_at(self._order, self._hints, self._xy, self._start, self._boxes, self._name),
            len(self._xy), len(self._start), len(self._name),
        )  # fmt: skip
        self._where[A_BEFORE] = 0

    def show(self, where: I64) -> None:
        """Keep in ``where`` (A_COLS,) how kernels reach this zone's arrays, now and whenever they move."""
        self._where = where
        self.bind()
        self._ground = ()

    def survey(self) -> int:
        """Let kernels reach the road as it is now; return the bytes of the names of its links and of the zone."""
        seg, lanes = self.road.segments, self.road.lanes
        if not self._ground or self._ground[0] is not seg.xy:  # a map that changes makes all of it anew
            names, name_at = strings(self.road.links)
            self._ground = (
                seg.xy, seg.lane, seg.keys, seg.start, seg.items, lanes.link, lanes.lane_id, names, name_at
            )  # fmt: skip
            sizes = (len(seg.xy), len(seg.keys), len(seg.items), len(lanes), len(names), len(self.road.links))
            self._where[A_SEG : A_LINKS + 1] = *_at(*self._ground), *sizes
        return len(self._ground[7]) + len(self._name)

    def sensor(self, device: str) -> int:
        """Return the number of a roadside unit."""
        number = self.sensors.get(device)
        if number is None:
            number = self.sensors[device] = len(self.sensors)
            if number >= len(self.bias):
                self.bias = np.vstack((self.bias, new_sensors(len(self.bias) + 1, self.prm)[1:]))
                self.mem = _longer(self.mem, _places(len(self.bias)))
                self.bind()
        return number

    def _room(self) -> None:
        if len(self.s) - self.ctl[c.CTL_LIVE] < c.MAX_SCAN:
            self.grow()

    # -- measurements -----------------------------------------------------------------------------------------------
    def scan(
        self, rows: I64, cols: I64, ref: tuple[int, int], ts_ms: int, shift_ms: int, device: str, event_ms: int,
        idle_ms: int, skew_ms: int = 0,
    ) -> int:  # fmt: skip
        """Fuse a roadside scan; return how many rows fed a track. ``skew_ms``: see v2x.fusion.skew."""
        self._room()
        number = self.sensor(device)
        return int(
            fuse_rsm(
                *self._args, rows, cols, ref[0], ref[1], self.geo, POSITION_CONFIDENCE_M, ts_ms, shift_ms, number,
                event_ms, idle_ms, skew_ms,
            )
        )  # fmt: skip

    def vehicle(self, row: dict[str, int], key: int, ts_ms: int, event_ms: int, idle_ms: int) -> int:
        """Fuse a vehicle's own message (fields of bsm in the schema's units); return 1 if it fed a track."""
        self._room()
        real = np.zeros(c.M_COLS)
        if row["semi_major"] < ACCURACY_NONE:
            sigma = row["semi_major"] * ACCURACY_UNIT_M
        else:
            sigma = float(POSITION_CONFIDENCE_M[row["pos_conf"]]) * 0.5 or VEHICLE_SIGMA_M
        real[c.M_SIGMA] = min(max(sigma, float(self.prm[c.Q_SIGMA])), WORST_SIGMA_M)
        real[c.M_LEN], real[c.M_WID] = row["length"] * 0.01, row["width"] * 0.01
        real[c.M_ACC] = np.nan if row["accel_long"] == ACCEL_NONE else row["accel_long"] * 0.01
        known = row["vehicle_class"]
        cls = next(cls for below, cls in _CLASS_STEPS if known < below)
        whole = np.array([ts_ms, key | c.VEHICLE_KEY, cls, -1, 1 if known else 0, 0], dtype=np.int64)
        return int(
            fuse_one(
                *self._args,
                real,
                whole,
                row["speed"],
                row["heading"],
                self.geo,
                row["lat"],
                row["lon"],
                c.VEHICLES,
                event_ms,
                idle_ms,
            )
        )

    # -- tracks -----------------------------------------------------------------------------------------------------
    def tidy(self, event_ms: int, idle_ms: int) -> None:
        """Time out and merge, as each second frame does."""
        up.upkeep(self.s, self.i, self.heads, self.ctl, self.stat, self.prm, event_ms, idle_ms, True)

    def at(self, row: int, event_ms: int) -> tuple[float, float, float, float]:
        """Return where a track is at a time, and its velocity (east, north)."""
        found: tuple[float, float, float, float] = place_at(self.s, self.i, row, event_ms)
        return found

    def take_row(self, east: float, north: float) -> int:
        """Return an empty row in the grid at a place."""
        self._room()
        return int(new_row(self.s, self.i, self.votes, self.heads, self.ctl, self.prm, east, north))

    # -- snapshots --------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able but for arrays; free rows and places are left out."""
        top = int(self.ctl[c.CTL_TOP])
        used = np.flatnonzero(self.mem[: _places(len(self.sensors)), c.MEM_KEY])
        return {
            "origin": [self.frame.lat, self.frame.lon], "rows": len(self.s), "sensors": list(self.sensors),
            "s": self.s[:top], "i": self.i[:top], "votes": self.votes[:top], "mem_at": used, "mem": self.mem[used],
            "heads": self.heads, "ctl": self.ctl, "stat": self.stat, "bias": self.bias[: len(self.sensors)],
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a ``state``; SnapshotError if the zone's origin has moved."""
        if state["origin"] != [self.frame.lat, self.frame.lon]:
            raise SnapshotError(f"zone {self.id} had its origin at {state['origin']}; its tracks mean nothing here")
        rows = state["rows"]
        self.s, self.i, self.votes = (_longer(state[name], rows) for name in ("s", "i", "votes"))
        self.heads, self.ctl, self.stat = state["heads"], state["ctl"], state["stat"]
        self.sensors = {device: number for number, device in enumerate(state["sensors"])}
        size = FIRST_SENSORS
        while size <= len(self.sensors):
            size *= 2
        self.bias = new_sensors(size, self.prm)
        self.bias[: len(self.sensors)] = state["bias"]
        self.mem = lined((_places(size), c.MEM_COLS), np.int64)
        self.mem[state["mem_at"]] = state["mem"]
        self.bind()


def _at(*arrays: Any) -> list[int]:
    """Return where arrays lie."""
    return [array.ctypes.data for array in arrays]


def _places(sensors: int) -> int:
    """Return the places of the association memory for so many sensors, vehicles among them."""
    return c.MEM_VEHICLES + (sensors - 1) * c.MEM_BLOCK


def _longer(array: Any, rows: int) -> Any:
    """Return a copy of a table with room for more rows."""
    longer = lined((rows, array.shape[1]), array.dtype.type)
    longer[: len(array)] = array
    return longer
