"""Intake: what each kind of record does. Handlers return the name of the counter that the record belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from v2x.columns import I64, Batch, Decoder, Record, Table, Verdict
from v2x.errors import V2XError
from v2x.fusion.entry import LAT_NONE, LON_NONE, OFFSET_NONE, PARTICIPANT
from v2x.fusion.outlet import Trigger
from v2x.fusion.place import HANDOVER_MS
from v2x.fusion.runs import LATE_MS, Runs
from v2x.zones import HALO_M

if TYPE_CHECKING:
    from v2x.fusion.engine import DecodeRecord, Engine
    from v2x.fusion.station import Station

FUSED, NOTED, CONTROL, REPEATS = "fused", "noted", "control", "repeats"
UNDECODABLE: Final = "skipped_undecodable"
UNAVAILABLE: Final = "skipped_unavailable_position"
ELSEWHERE: Final = "skipped_no_zone_here"
LATE: Final = "skipped_late"
OLD: Final = "skipped_not_newer"
FOREIGN: Final = "skipped_other_generation"
CELL_SHIFT: Final = 11  # 2048e-7 degrees
CELL_M: Final = 25.0
CELLS: Final = 1 << 16
TEMP_KEY: Final = (1 << 62) - 1
_FULL: Final = 1_000  # ms, as PARAMETERS["late_ms"]


class Intake:
    """Reads a decoded batch, record by record, into the engine's parts."""

    def __init__(self, engine: Engine, runs: Runs, decoder: Decoder, decode_record: DecodeRecord) -> None:
        self._e, self._runs = engine, runs
        self._schemas = decoder.schemas
        self._plain = {decoder.schemas.index(name) for name in ("rsm", "tick")}
        self._decode_record = decode_record
        self._handlers: dict[str, Callable[[int, Record, Trigger], str]] = {
            "rsm": self._rsm,
            "bsm": self._bsm,
            "rsi": self._rsi,
            "map": self._map,
            "spat": self._spat,
            "rsu_hb": self._alive,
            "pole_env": self._env,
            "tick": self._tick,
            "genesis": self._genesis,
            "adopt": self._hand,
            "release": self._hand,
            "passage": self._passage,
        }
        self._maps: dict[str, str] = {}  # device -> digest of its last MAP's nodes
        self._cells: dict[tuple[int, int], list[Station]] = {}  # a cache, no state
        self._batch: Batch
        self._at: dict[str, dict[str, int]] = {}
        self._fields: dict[str, tuple[str, ...]] = {}
        self._cols: dict[str, I64] = {}

    # -- batches ----------------------------------------------------------------------------------------------------
    def open(self, batch: Batch) -> None:
        """Take a batch."""
        self._batch = batch
        self._verdicts = batch.verdict.tolist()
        self._names = batch.schema.tolist()
        self._roots = batch.row.tolist()

    def may_run(self, n: int) -> bool:
        """Return whether record n is of a kind that v2x.fusion.runs takes, if it is plain."""
        return self._names[n] in self._plain and self._verdicts[n] == Verdict.OK

    def take(self, n: int, record: Record, trigger: Trigger) -> str:
        """Do what record n of the batch asks for."""
        schema = self._names[n]
        handler = self._handlers.get(self._schemas[schema]) if schema >= 0 else None
        if handler is None or self._verdicts[n] != Verdict.OK:
            return UNDECODABLE
        return handler(n, record, trigger)

    def timed(self, n: int) -> tuple[str, int, bool] | None:
        """Return whose time record n has ('': event time), the time, and whether it is a scan; None: it has none."""
        name = self._schemas[self._names[n]] if self._verdicts[n] == Verdict.OK and self._names[n] >= 0 else ""
        if name in {"rsm", "bsm", "rsi", "spat"}:
            row, at = self._row(name, n), self._at[name]
            device = self._text(row, at, "device")
            return device + "/bsm" if name == "bsm" else device, row[at["ts_ms"]], name == "rsm"
        if name in {"adopt", "release"}:
            row = self._row(name, n)
            event_ms = row[self._at[name]["event_ms"]]
            return "", event_ms - HANDOVER_MS if name == "release" else event_ms, False
        return None

    def _row(self, table: str, n: int) -> list[int]:
        found = self._batch.tables[table]
        if self._fields.get(table) != found.fields:
            self._fields[table] = found.fields
            self._at[table] = {name: x for x, name in enumerate(found.fields)}
        row: list[int] = found.data[self._roots[n]].tolist()
        return row

    def _under(self, table: str, n: int) -> I64:
        """Return the rows of a child table that belong to message n."""
        child: Table = self._batch.tables[table]
        begin, end = np.searchsorted(child.msg, (n, n + 1))
        return np.ascontiguousarray(child.data[begin:end])

    def _columns(self, table: str, names: tuple[str, ...]) -> I64:
        found = self._cols.get(table)
        if found is None:
            fields = self._batch.tables[table].fields
            found = self._cols[table] = np.array([fields.index(name) for name in names], dtype=np.int64)
        return found

    def _text(self, row: list[int], at: Mapping[str, int], name: str) -> str:
        off = row[at[name + ".off"]]
        return self._batch.heap[off : off + row[at[name + ".len"]]].decode()

    def _uplink(self, table: str, n: int, record: Record, trigger: Trigger) -> tuple[list[int], dict[str, int], str]:
        """Return row, column places and device of an uplink message, '' as device if it is a repeat."""
        row = self._row(table, n)
        at = self._at[table]
        device = self._text(row, at, "device")
        if self._e.repeats.seen(device, row[at["boot"]], table, row[at["seq"]]):
            return row, at, ""
        trigger.device, trigger.ts_ms, trigger.headers = device, row[at["ts_ms"]], tuple(record.headers)
        return row, at, device

    def _stations(self, device: str, lat: int | None = None, lon: int | None = None) -> list[Station]:
        """Return the stations here that a device's message concerns, its own zone's first."""
        zones, stations = self._e.zones, self._e.stations
        if device in zones.devices or lat is None or lon is None or lat >= LAT_NONE or lon >= LON_NONE:
            return [stations[z] for z in zones.route(device, lat, lon) if z in stations]
        # By place, to the cell of 20 m: a vehicle says where it is ten times a second. The cell's middle may lie in
        # another zone, or just beyond a halo, where the message itself did not: then whoever is near takes it.
        cell = (lat >> CELL_SHIFT, lon >> CELL_SHIFT)
        found = self._cells.get(cell)
        if found is None:
            if len(self._cells) >= CELLS:
                self._cells.clear()
            middle = [((x << CELL_SHIFT) + (1 << CELL_SHIFT >> 1)) / 1e7 for x in cell]
            far = {z: zones.border_distance_m(z, middle[0], middle[1]) for z in stations}
            found = self._cells[cell] = [
                stations[z] for z in sorted(far, key=lambda z: -far[z]) if far[z] > -HALO_M - CELL_M
            ]
        return found or [stations[z] for z in zones.route(device, lat, lon) if z in stations]

    def _fresh(self, ts_ms: int) -> None:
        if not self._e.events.catching:
            self._e.clock.device(ts_ms)

    def _fed(self, station: Station, trigger: Trigger) -> None:
        station.last = trigger
        self._runs.fed(station)

    # -- perishable observations --------------------------------------------------------------------------------------
    def _rsm(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("rsm", n, record, trigger)
        if not device:
            return REPEATS
        e = self._e
        ts_ms = row[at["ts_ms"]]
        self._fresh(ts_ms)
        shift = ts_ms - e.events.hear(device, ts_ms, e.clock.now_ms)
        ref = (row[at["ref_lat"]], row[at["ref_lon"]])
        if ref[0] >= LAT_NONE or ref[1] >= LON_NONE:
            return UNAVAILABLE
        stations = self._stations(device, *ref)
        if not stations:
            return ELSEWHERE
        event_ms, skew = e.events.now(e.clock.now_ms), e.events.skew(device)
        rows = self._under("rsm.participants", n)
        cols = self._columns("rsm.participants", PARTICIPANT)
        for station in stations:
            station.zone.scan(rows, cols, ref, ts_ms, shift, device, event_ms, e.clock.idle_ms, skew)
            self._fed(station, trigger)
        self._runs.learn(device)
        things = self._under("rsm.obstacles", n)
        if len(things):
            self._obstacles(device, ts_ms - shift, ref, things, stations)
        return LATE if len(rows) and event_ms - ts_ms + shift > LATE_MS else FUSED

    def _obstacles(self, device: str, ts_ms: int, ref: tuple[int, int], rows: I64, stations: list[Station]) -> None:
        fields = self._batch.tables["rsm.obstacles"].fields
        for station in stations:
            found = []
            for row in rows.tolist():
                one = dict(zip(fields, row, strict=True))
                if one["d_lat"] == OFFSET_NONE or one["d_lon"] == OFFSET_NONE:
                    continue
                lat, lon = ref[0] + one["d_lat"], ref[1] + one["d_lon"]
                if self._home(lat, lon, stations) is station:
                    found.append({**one, "lat": lat, "lon": lon})
            if found:
                station.detector.obstacles(device, ts_ms, found)

    def _bsm(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("bsm", n, record, trigger)
        if not device:
            return REPEATS
        e = self._e
        ts_ms = row[at["ts_ms"]]
        self._fresh(ts_ms)
        known_ms = e.events.hear(device + "/bsm", ts_ms, e.clock.now_ms)
        one = {name: row[x] for name, x in at.items()}
        if one["lat"] >= LAT_NONE or one["lon"] >= LON_NONE:
            return UNAVAILABLE
        stations = self._stations(device, one["lat"], one["lon"])
        if not stations:
            return ELSEWHERE
        off = one["temp_id.off"]
        temp = self._batch.heap[off : off + one["temp_id.len"]]
        key = int.from_bytes(temp, "big") & TEMP_KEY
        event_ms = e.events.now(e.clock.now_ms)
        fed = 0
        for station in stations:
            fed += station.zone.vehicle(one, key, known_ms, event_ms, e.clock.idle_ms)
            self._fed(station, trigger)
            if one["event_flags"] or one["lights"] or one["abs"] == 3 or one["traction"] == 3 or one["scs"] == 3:
                station.detector.bsm_flags({**one, "device": device, "temp_id": temp.hex(), "ts_ms": known_ms})
        return FUSED if fed or event_ms - known_ms <= _FULL else LATE

    # -- what is told, not measured -----------------------------------------------------------------------------------
    def _home(self, lat: int, lon: int, stations: list[Station]) -> Station | None:
        """Return the station of the zone that a place is in, among those here; the device's own if it is in none."""
        if lat >= LAT_NONE or lon >= LON_NONE:
            return stations[0]
        zone = self._e.zones.nearest(lat / 1e7, lon / 1e7)
        return next((s for s in stations if s.zone.id == zone), None)

    def _rsi(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("rsi", n, record, trigger)
        if not device:
            return REPEATS
        e = self._e
        full = self._full(record)
        stations = self._stations(device, row[at["ref_lat"]], row[at["ref_lon"]])
        if not stations:
            return ELSEWHERE
        zones = e.zones.route(device, row[at["ref_lat"]], row[at["ref_lon"]])
        for rte in full["rtes"]:
            # A report belongs to the zone of its place; one without a place, or beyond what we see, to its device's.
            station = self._home(rte["lat"], rte["lon"], stations)
            if (
                rte["lat"] >= LAT_NONE
                or rte["lon"] >= LON_NONE
                or (e.zones.nearest(rte["lat"] / 1e7, rte["lon"] / 1e7) not in zones)
            ):
                station = e.stations.get(zones[0])
            if station is None:
                continue
            for change in station.detector.rsi({**rte, "device": device, "ts_ms": full["ts_ms"]}):
                e.outlet.event(change.event_id, change.record(), trigger)
        return NOTED

    def _map(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("map", n, record, trigger)
        if not device:
            return REPEATS
        # A MAP is said every second and seldom changes: compare the bytes after the envelope before reading them.
        head = 5 + _length(len(device.encode())) + len(device.encode())
        head += sum(_length(row[at[name]]) for name in ("boot", "seq", "ts_ms", "msg_cnt"))
        digest = hashlib.blake2b(record.value[head:], digest_size=8).hexdigest()
        e = self._e
        for station in self._stations(device):
            station.detector.alive(device, row[at["ts_ms"]])
        if self._maps.get(device) == digest:
            return NOTED
        self._maps[device] = digest
        nodes = self._full(record)["nodes"]
        for station in self._stations(device, nodes[0]["ref_lat"], nodes[0]["ref_lon"]):
            if station.zone.road.update(nodes, device):
                for node in nodes:
                    e.outlet.node({"source": device, "ts_ms": row[at["ts_ms"]], "nodes": [node]})
        return NOTED

    def _spat(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("spat", n, record, trigger)
        if not device:
            return REPEATS
        nodes, phases = self._batch.tables["spat.intersections"], self._batch.tables["spat.intersections.phases"]
        own = self._e.zones.route(device, None, None)[:1]
        for station in self._stations(device):
            station.detector.spat(device, row[at["ts_ms"]], n, nodes, phases, own=own == (station.zone.id,))
        return NOTED

    def _alive(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("rsu_hb", n, record, trigger)
        if not device:
            return REPEATS
        for station in self._stations(device):
            station.detector.alive(device, row[at["ts_ms"]])
        return NOTED

    def _env(self, n: int, record: Record, trigger: Trigger) -> str:
        row, at, device = self._uplink("pole_env", n, record, trigger)
        if not device:
            return REPEATS
        one = {name: row[x] for name, x in at.items()}
        stations = self._stations(device, one["lat"], one["lon"])
        owner = self._e.zones.route(device, one["lat"], one["lon"])[0]  # not by its place: it may stand on a border
        for station in stations:
            if station.zone.id == owner:
                station.detector.env(device, one["ts_ms"], one)
        return NOTED

    # -- records of our own -------------------------------------------------------------------------------------------
    def _tick(self, n: int, record: Record, trigger: Trigger) -> str:  # noqa: ARG002
        e = self._e
        if not e.events.started:
            e.events.start(self._row("tick", n)[self._at["tick"]["ts_ms"]], e.clock.now_ms)
        return CONTROL

    def _genesis(self, n: int, record: Record, trigger: Trigger) -> str:  # noqa: ARG002
        row = self._row("genesis", n)
        if self._e.outlet.generation is not None:
            return FOREIGN
        self._e.outlet.generation = self._text(row, self._at["genesis"], "generation")
        return CONTROL

    def _hand(self, n: int, record: Record, trigger: Trigger) -> str:  # noqa: ARG002
        e = self._e
        schema = self._schemas[self._names[n]]
        full = self._full(record)
        station = e.stations.get(full["to_zone"])
        if station is None:
            return ELSEWHERE
        if e.outlet.generation is not None and full["generation"] != e.outlet.generation:
            return FOREIGN
        if not self._newer(full, f"zone/{full['from_partition']}"):
            return OLD
        station.hand(schema, full, e.clock.now_ms, e.clock.idle_ms, e.events.told_ms)
        return CONTROL

    def _passage(self, n: int, record: Record, trigger: Trigger) -> str:  # noqa: ARG002
        full = self._full(record)
        station = self._e.stations.get(full["to_zone"])
        if station is None:
            return ELSEWHERE
        # Passages come from the gantries' log, another world than ours.
        if not self._newer(full, f"passage/{full['generation']}/{full['from_partition']}"):
            return OLD
        station.sections.passage(full)
        return CONTROL

    def _newer(self, full: Mapping[str, Any], source: str) -> bool:
        """Return whether a record of another core is newer than the last one taken from it (replays repeat them)."""
        position = (full["from_offset"], full["from_index"])
        if position <= self._e.newest.get(source, (-1, -1)):
            return False
        self._e.newest[source] = position
        return True

    def _full(self, record: Record) -> dict[str, Any]:
        """Return a record as a dict; the batch decoder has found it good."""
        try:
            return self._decode_record(record.value)[1]
        except V2XError as error:
            raise V2XError(f"record at offset {record.offset} passed the batch decoder only: {error}") from error

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {"maps": dict(self._maps)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a ``state``."""
        self._maps = dict(state["maps"])


def _length(value: int) -> int:
    """Return the bytes of a zigzag varint."""
    return max(1, -(-((value << 1) ^ (value >> 63)).bit_length() // 7))
