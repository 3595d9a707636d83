"""ZoneState: the tracks, sensors and road of one zone, and the calls into its kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from v2x.errors import SnapshotError
from v2x.fusion import layout as c
from v2x.fusion import upkeep as up
from v2x.fusion.bias import new_sensors
from v2x.fusion.entry import ACCEL_NONE, POSITION_CONFIDENCE_M, fuse_one, fuse_rsm, new_row
from v2x.fusion.frames import Frame
from v2x.fusion.jit import lined
from v2x.fusion.layout import F64, I64
from v2x.fusion.place import decide
from v2x.fusion.report import (
    X_ACC,
    X_ALONG,
    X_E,
    X_EE,
    X_HEAD,
    X_LATERAL,
    X_LEN,
    X_N,
    X_ROWS,
    X_SIGMA,
    X_SPEED,
    X_VE,
    X_VN,
    X_WID,
    Y_AGE,
    Y_BORN,
    Y_HITS,
    Y_LAST,
    Y_ROWS,
    Y_TRACK,
    export,
    keep_lanes,
)
from v2x.fusion.snapshot import Arrays
from v2x.fusion.view import I16, I32, TrackView
from v2x.geo import LocalFrame
from v2x.road import Road
from v2x.zones import ZoneMap

FIRST_ROWS: Final = 512
FIRST_SENSORS: Final = 16
# Columns of the table by which kernels reach a zone: addresses, then lengths.
(
    A_S, A_I, A_VOTES, A_MEM, A_HEADS, A_BIAS, A_CTL, A_STAT, A_PRM, A_M, A_K, A_GEO, A_ROWS, A_PLACES, A_SENSORS,
) = range(15)  # fmt: skip
A_COLS: Final = 16
_APART: Final = 8  # keeps columns that are written side by side out of each other's cache lines
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
        self.geo = np.array([np.radians(self.frame.lat), self.frame.lon * 1e7, self.frame.meridian_m])
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
        self.grow()

    # -- room -------------------------------------------------------------------------------------------------------
    def grow(self) -> None:
        """Make room for a full scan more; rows keep their numbers."""
        have = len(self.s)
        more = max(FIRST_ROWS, have)
        self.s, self.i, self.votes = (_longer(a, have + more) for a in (self.s, self.i, self.votes))
        self.i[have:, c.I_NEXT] = np.arange(have + 1, have + more + 1)
        self.i[-1, c.I_NEXT] = self.ctl[c.CTL_FREE]
        self.ctl[c.CTL_FREE] = have
        self.bind()

    def bind(self) -> None:
        """Make scratch columns, arguments and addresses of kernels fit the arrays: whoever replaces one calls this."""
        n = len(self.s)
        width = n + _APART
        self._told: I64 = np.zeros((n, 3), np.int64)
        self._count = 0  # tracks of the last frame, their rows and columns
        self._rows: I64 = np.zeros(n, np.int64)
        self._x: F64 = np.zeros((X_ROWS, width))
        self._y: I64 = np.zeros((Y_ROWS, width), np.int64)
        self._cls: I16 = np.zeros(n, np.int16)
        self._lane: I32 = np.zeros(n, np.int32)
        self._hints: I32 = np.full((n, 2), -1, np.int32)  # by row: see Road.place
        self._args = (
            self.s, self.i, self.votes, self.mem, self.heads, self.bias, self.ctl, self.stat, self.prm,
            self._m, self._k,
        )  # fmt: skip
        self._where[:A_ROWS] = [a.ctypes.data for a in (*self._args, self.geo)]
        self._where[A_ROWS : A_SENSORS + 1] = n, len(self.mem), len(self.bias)

    def show(self, where: I64) -> None:
        """Keep in ``where`` (A_COLS,) how kernels reach this zone's arrays, now and whenever they move."""
        self._where = where
        self.bind()

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
        idle_ms: int,
    ) -> int:  # fmt: skip
        """Fuse a roadside scan; return how many rows fed a track."""
        self._room()
        number = self.sensor(device)
        return int(
            fuse_rsm(
                *self._args, rows, cols, ref[0], ref[1], self.geo, POSITION_CONFIDENCE_M, ts_ms, shift_ms, number,
                event_ms, idle_ms,
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

    # -- frames -----------------------------------------------------------------------------------------------------
    def tidy(self, event_ms: int, idle_ms: int) -> None:
        """Time out and merge."""
        up.upkeep(self.s, self.i, self.heads, self.ctl, self.stat, self.prm, event_ms, idle_ms)

    def decide(self, event_ms: int, stream_ms: int) -> tuple[list[list[int]], int]:
        """Decide on ownership; return (row, ADOPT or RELEASE, neighbour from 1) to tell of, and how many were taken."""
        n, taken = decide(
            self.s, self.i, self.ctl, self._xy, self._start, self._boxes, event_ms, stream_ms, self._told
        )  # fmt: skip
        told: list[list[int]] = self._told[:n].tolist() if n else []
        return told, taken

    def take_row(self, east: float, north: float) -> int:
        """Return an empty row in the grid at a place."""
        self._room()
        return int(new_row(self.s, self.i, self.votes, self.heads, self.ctl, self.prm, east, north))

    def report(self, event_ms: int, stream_ms: int, inputs: int, *, match: bool) -> Frame:
        """Return what this zone reports for an event time; its columns are good until the next call.

        ``match``: find the lanes anew; else each track has the lane it had.
        """
        x, n = self._x, export(
            self.s, self.i, self.ctl, self.prm, self.geo, event_ms, self._count, self._rows, self._x, self._y,
            self._cls, self._lane,
        )  # fmt: skip
        self._count = n
        if match:
            columns = (self._lane, x[X_ALONG], x[X_LATERAL])
            self.road.place(x[X_E], x[X_N], x[X_HEAD], self._rows, n, self._hints, *columns)
            keep_lanes(self.i, self._rows, n, self._lane)
        return Frame(self.id, event_ms, stream_ms, inputs, n, self._y, self._lane, self.road)

    def view(self, event_ms: int, stream_ms: int) -> TrackView:
        """Return the last frame, for which lanes were matched, in metres; good until the next."""
        x, y, n = self._x[:, : self._count], self._y[:, : self._count], self._count
        return TrackView(
            zone=self.id, event_ms=event_ms, stream_ms=stream_ms, id=y[Y_TRACK], cls=self._cls[:n],
            east=x[X_E], north=x[X_N], vel_e=x[X_VE], vel_n=x[X_VN], speed=x[X_SPEED], heading=x[X_HEAD],
            accel=x[X_ACC], length=x[X_LEN], width=x[X_WID], lane=self._lane[:n], along=x[X_ALONG],
            lateral=x[X_LATERAL], age_ms=y[Y_AGE], hits=y[Y_HITS], born_ms=y[Y_BORN], last_ms=y[Y_LAST],
            sigma=x[X_SIGMA],
        )  # fmt: skip

    def covariance(self) -> F64:
        """Return the covariance (ee, en, nn; m2) of the last frame's positions, (3, tracks); good until the next."""
        return self._x[X_EE : X_EE + 3, : self._count]

    # -- snapshots --------------------------------------------------------------------------------------------------
    def arrays(self) -> Arrays:
        """Return the arrays of a snapshot; free rows and places are left out."""
        top = int(self.ctl[c.CTL_TOP])
        used = np.flatnonzero(self.mem[: _places(len(self.sensors)), c.MEM_KEY])
        return {
            "s": self.s[:top], "i": self.i[:top], "votes": self.votes[:top], "next": self.i[top:, c.I_NEXT],
            "mem_at": used, "mem": self.mem[used], "heads": self.heads, "ctl": self.ctl, "stat": self.stat,
            "bias": self.bias[: len(self.sensors)],
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return what is no array, JSON-able."""
        return {"origin": [self.frame.lat, self.frame.lon], "rows": len(self.s), "sensors": list(self.sensors)}

    def load(self, state: Mapping[str, Any], arrays: Arrays) -> None:
        """Take a ``state`` and its arrays; SnapshotError if the zone's origin has moved."""
        if state["origin"] != [self.frame.lat, self.frame.lon]:
            raise SnapshotError(f"zone {self.id} had its origin at {state['origin']}; its tracks mean nothing here")
        rows, top = state["rows"], len(arrays["s"])
        self.s, self.i, self.votes = (_longer(arrays[name], rows) for name in ("s", "i", "votes"))
        self.i[top:, c.I_NEXT] = arrays["next"]
        self.heads, self.ctl, self.stat = arrays["heads"], arrays["ctl"], arrays["stat"]
        self.sensors = {device: number for number, device in enumerate(state["sensors"])}
        size = FIRST_SENSORS
        while size <= len(self.sensors):
            size *= 2
        self.bias = new_sensors(size, self.prm)
        self.bias[: len(self.sensors)] = arrays["bias"]
        self.mem = lined((_places(size), c.MEM_COLS), np.int64)
        self.mem[arrays["mem_at"]] = arrays["mem"]
        self.bind()


def _places(sensors: int) -> int:
    """Return the places of the association memory for so many sensors, vehicles among them."""
    return c.MEM_VEHICLES + (sensors - 1) * c.MEM_BLOCK


def _longer(array: Any, rows: int) -> Any:
    """Return a copy of a table with room for more rows."""
    longer = lined((rows, array.shape[1]), array.dtype.type)
    longer[: len(array)] = array
    return longer
