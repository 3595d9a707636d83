"""Rounds: the frames of all zones of a partition for one event time, made by one kernel call.

A round does for each zone in turn what belongs to a frame: time-outs, ownership, the report, its lanes and the frame's
bytes. Each second round it also merges duplicates and finds where on the road the tracks are, and looks for events: in
one round for the even zones, in the next for the odd ones, so that all rounds take equally long. Zones do not know each
other here (what one has to tell another comes after the round), so what is left to Python comes after all frames: the
records for neighbours, then events and links, zone by zone.

The columns of all zones lie side by side in tables that are kept from round to round; they are good until the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numba as nb
import numpy as np

from v2x.columns import Encoder
from v2x.fusion import frames as fr
from v2x.fusion import layout as c
from v2x.fusion import report as rp
from v2x.fusion import zone as zn
from v2x.fusion.jit import kernel, real_line, reals, short, short_line, text_line, whole, whole_line
from v2x.fusion.layout import F64, I64
from v2x.fusion.outlet import Outlet, Trigger
from v2x.fusion.place import decide
from v2x.fusion.report import export, keep_lanes
from v2x.fusion.runs import Runs
from v2x.fusion.station import EVENT_MS, Station
from v2x.fusion.upkeep import upkeep
from v2x.fusion.view import TrackView
from v2x.road import MOTOR
from v2x.road_match import match

# What a round says of each zone: its tracks, their first column, the bytes of its frame from and to, how many rows a
# neighbour must be told of (those of all zones stand one behind the other), tracks taken over from a silent owner, and
# its tracks with those beyond its border, which stand behind its own.
N, FIRST, BEGIN, END, TOLD, TAKEN, SEEN = range(7)
_FIRST_TRACKS: Final = 256
_NOTHING: Final = np.zeros(0, np.uint8)

_I64, _GRID, _REALS, _BYTES = nb.int64, nb.int64[:, ::1], nb.float64[:, ::1], nb.uint8[::1]
_SIGNATURE: Final = _I64(
    _GRID, _I64, _I64, _I64, _I64, _BYTES, _I64, _I64, _I64, _I64, _REALS, _GRID, nb.int16[::1], nb.int32[::1],
    _GRID, _BYTES, _GRID,
)  # fmt: skip


@kernel(_SIGNATURE)
def _round(
    where: Any, event_ms: int, stream_ms: int, idle_ms: int, turn: int, start: Any, offset: int, index: int,
    inputs: int, catching_up: int, x: Any, y: Any, cls: Any, lane: Any, told: Any, out: Any, said: Any,
) -> Any:  # fmt: skip
    """Make the frames of all zones; ``index`` is that of the first. Return 0, or how many columns are needed.

    In every second zone from ``turn`` on lanes are found anew and duplicates merged; elsewhere each track has the lane
    it had. Nothing is changed if there is no room.
    """
    live = 0
    for z in range(where.shape[0]):
        live += whole_line(where[z, zn.A_CTL], c.CTL_COLS)[c.CTL_LIVE]
    if live > cls.shape[0]:
        return live
    first = count = at = 0
    for z in range(where.shape[0]):
        w, place = where[z], z & 1 == turn
        rows = w[zn.A_ROWS]
        s, i = reals(w[zn.A_S], rows, c.S_COLS), whole(w[zn.A_I], rows, c.I_COLS)
        ctl, prm = whole_line(w[zn.A_CTL], c.CTL_COLS), real_line(w[zn.A_PRM], len(c.PRM_NAMES))
        upkeep(
            s, i, whole_line(w[zn.A_HEADS], c.BUCKETS), ctl, whole_line(w[zn.A_STAT], c.STAT_COLS), prm, event_ms,
            idle_ms, place,
        )  # fmt: skip
        more, taken = decide(
            s, i, ctl, reals(w[zn.A_XY], w[zn.A_CORNERS], 2), whole_line(w[zn.A_START], w[zn.A_POLYGONS]),
            reals(w[zn.A_BOXES], w[zn.A_POLYGONS] - 1, 4), event_ms, stream_ms, told[count:],
        )  # fmt: skip
        order = whole_line(w[zn.A_ORDER], rows)
        n, m = export(
            s, i, ctl[c.CTL_TOP], prm, real_line(w[zn.A_GEO], c.GEO_COLS), event_ms, place, w[zn.A_BEFORE], order, x, y,
            cls, lane, first,
        )  # fmt: skip
        w[zn.A_BEFORE] = n
        if place:
            match(
                x[rp.X_E][first:], x[rp.X_N][first:], x[rp.X_ALONG][first:], x[rp.X_LATERAL][first:], m, MOTOR,
                reals(w[zn.A_SEG], w[zn.A_SEGS], 8), short_line(w[zn.A_SEG_LANE], w[zn.A_SEGS]),
                whole_line(w[zn.A_CELL], w[zn.A_CELLS]), short_line(w[zn.A_CELL_AT], w[zn.A_CELLS] + 1),
                short_line(w[zn.A_ITEMS], w[zn.A_LISTED]), order, short(w[zn.A_HINTS], rows, 2),
                lane[first:], x[rp.X_ALONG][first:], x[rp.X_LATERAL][first:],
            )  # fmt: skip
            keep_lanes(i, order, m, lane[first:])
        used = np.empty(w[zn.A_LINKS], np.int32)
        links = fr.lane_column(
            lane, short_line(w[zn.A_LINK], w[zn.A_LANES]), short_line(w[zn.A_LANE_ID], w[zn.A_LANES]), y, first, n, used
        )  # fmt: skip
        end = fr.write(
            start, offset, index + z, text_line(w[zn.A_NAME], w[zn.A_NAME_SIZE]), event_ms, stream_ms, inputs, y, first,
            n, used, links, text_line(w[zn.A_NAMES], w[zn.A_NAMES_SIZE]),
            whole_line(w[zn.A_NAME_AT], w[zn.A_LINKS] + 1), catching_up, out, at,
        )  # fmt: skip
        said[z, 0], said[z, 1], said[z, 2], said[z, 3], said[z, 4], said[z, 5] = n, first, at, end, more, taken
        said[z, 6] = m
        first, count, at = first + m, count + more, end
    return 0


class Rounds:
    """Makes the rounds of one partition; ``where`` is how kernels reach the stations' zones (see ZoneState.show)."""

    def __init__(self, stations: Sequence[Station], where: I64, encoder: Encoder, outlet: Outlet, runs: Runs) -> None:
        self._stations, self._where, self._outlet, self._runs = stations, where, outlet, runs
        self._encoder = fr.FrameEncoder(encoder)
        self._said: I64 = np.zeros((len(stations), SEEN + 1), np.int64)
        self._out = _NOTHING
        self._fit(_FIRST_TRACKS)

    def _fit(self, tracks: int) -> None:
        """Make columns for so many tracks; they are written before they are read."""
        self._x = np.empty((rp.X_ROWS, tracks))
        self._y: I64 = np.empty((rp.Y_ROWS, tracks), np.int64)
        self._cls = np.empty(tracks, np.int16)
        self._lane = np.empty(tracks, np.int32)
        self._told: I64 = np.empty((tracks, 3), np.int64)

    def make(self, event_ms: int, stream_ms: int, idle_ms: int, inputs: int, cause: Trigger) -> None:
        """Make the frames for an event time and what follows from them."""
        outlet, stations = self._outlet, self._stations
        turn = event_ms * 2 // EVENT_MS & 1
        world = outlet.generation
        start = None if world is None else self._encoder.start(world, outlet.partition)
        offset, index = outlet.position
        head = _NOTHING if start is None else start
        names = sum([station.zone.survey() for station in stations])
        while True:
            enough = len(stations) * fr.room(len(head), 0, 0, 0) + fr.room(0, 0, names, len(self._cls))
            if len(self._out) < enough:
                self._out = np.empty(2 * enough, np.uint8)
            need = _round(
                self._where, event_ms, stream_ms, idle_ms, turn, head, offset, index, inputs,
                int(outlet.catching), self._x, self._y, self._cls, self._lane, self._told, self._out, self._said,
            )  # fmt: skip
            if not need:
                break
            self._fit(2 * need)
        said = self._said.tolist()
        if world is not None:
            for station, row in zip(stations, said, strict=True):
                if start is None:
                    value = self._plain(world, station, row, (event_ms, stream_ms, inputs))
                else:
                    value = self._out[row[BEGIN] : row[END]].tobytes()
                outlet.frame(station.zone.id, value)
        count, times = 0, (event_ms, stream_ms, idle_ms)
        for station, row in zip(stations, said, strict=True):
            station.frames += 1
            if row[TOLD] or row[TAKEN]:
                station.tell(outlet, self._told[count : count + row[TOLD]].tolist(), row[TAKEN], times)
                count += row[TOLD]
        for z in range(turn, len(stations), 2):
            view = self._view(stations[z], said[z], event_ms, stream_ms)
            stations[z].watch(outlet, view, partial(self._cause, z, cause))
            self._runs.looked(z)

    def _cause(self, z: int, cause: Trigger) -> Trigger:
        """Return what made something happen in a zone: what fed it last, else what made the frame due."""
        return self._runs.cause(z) or cause

    def _view(self, station: Station, row: list[int], event_ms: int, stream_ms: int) -> TrackView:
        """Return a zone's tracks, with the lanes that they are on; behind them those that neighbours tell.

        These have ids from layout.BEYOND on.
        """
        here = slice(row[FIRST], row[FIRST] + row[SEEN])
        x, y = self._x[:, here], self._y[:, here]
        return TrackView(
            zone=station.zone.id, event_ms=event_ms, stream_ms=stream_ms, id=y[rp.Y_TRACK], cls=self._cls[here],
            east=x[rp.X_E], north=x[rp.X_N], vel_e=x[rp.X_VE], vel_n=x[rp.X_VN], speed=x[rp.X_SPEED],
            heading=x[rp.X_HEAD], accel=x[rp.X_ACC], length=x[rp.X_LEN], width=x[rp.X_WID], lane=self._lane[here],
            along=x[rp.X_ALONG], lateral=x[rp.X_LATERAL], age_ms=y[rp.Y_AGE], hits=y[rp.Y_HITS],
            born_ms=y[rp.Y_BORN], last_ms=y[rp.Y_LAST], sigma=x[rp.X_SIGMA],
        )  # fmt: skip

    def last(self, z: int, event_ms: int, stream_ms: int) -> tuple[TrackView, F64]:
        """Return a zone's own tracks of the last frame, and the covariance (ee, en, nn; m2) of their positions.

        Both are good until the next round.
        """
        row: list[int] = self._said[z].tolist()
        row[SEEN] = row[N]
        here = slice(row[FIRST], row[FIRST] + row[N])
        return self._view(self._stations[z], row, event_ms, stream_ms), self._x[rp.X_EE : rp.X_NN + 1, here]

    def _plain(self, world: str, station: Station, row: list[int], times: tuple[int, int, int]) -> bytes:
        """Return the value of a frame by way of the port."""
        here = slice(row[FIRST], row[FIRST] + row[N])
        road, lane = station.zone.road, self._lane[here]
        links = np.unique(road.lanes.link[lane[lane >= 0]]).tolist()
        columns = self._y[: len(fr.COLUMNS), here]
        head = (*self._outlet.position, station.zone.id, *times)
        names = [road.links[x] for x in links]
        return self._encoder.encode(world, self._outlet.partition, head, columns, names, int(self._outlet.catching))
