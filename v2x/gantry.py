"""Gantry records into passages: who passed a toll section, and how long it took.

The stage reads v2x.gantry, keyed by the vehicle's pseudonym, so that all records of one vehicle are in one partition,
in the order in which the log took them (not that of the road: gantries store and send again).

    transaction or plate at gantry B, pseudonym V, time t
      same V at B within 120 s -> one passage; the plate is a second witness, a second transaction a duplicate
      A > B is a section and V was at A before -> passage by pair (method 1)
      else the transaction itself names the gantry before, and when -> passage from one record (method 2)

A pair is made once per arrival at B, whichever record completes it. Transactions make pairs at once; a plate without a
transaction waits 10 s of its partition's log for one. A gantry that saw nothing breaks the chain: no passage over two
sections is guessed. Times of the two ends are compared like with like where both kinds are known: a camera's clock and
an antenna's differ.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from v2x.columns import Batch, Decoder, Encoder, Output, Record
from v2x.errors import SnapshotError
from v2x.topics import OBSERVATIONS
from v2x.zones import Section, ZoneMap

SAME_MS: Final = 120_000  # domain: a transaction and a picture of one gantry and plate belong together
PLATE_WAIT_MS: Final = 10_000
MAX_TRAVEL_MS: Final = 3_600_000
MAX_VEHICLES: Final = 500_000
DUPLICATE: Final = 2  # valid_status
PAIR, SINGLE = 1, 2
MILEAGE_TOLERANCE: Final = 0.2  # a fee's length that differs more is for another stretch
_SNAPSHOT: Final = "gantry-1"
NO_GENERATION: Final = "00000000-0000-0000-0000-000000000000"


@dataclass(slots=True)
class _At:
    """A vehicle at a gantry."""

    gantry: str
    trade_ms: int  # 0: no transaction
    plate_ms: int  # 0: no picture
    vehicle_type: int
    paired: bool  # a passage that ends here is out

    @property
    def ms(self) -> int:
        return self.trade_ms or self.plate_ms


@dataclass(slots=True, frozen=True)
class Frozen:
    """A state as it was."""

    text: bytes

    def pack(self) -> bytes:
        """Return the bytes of a snapshot."""
        return self.text


class GantryStage:
    """The pure core of one partition of v2x.gantry: records in, passage records out."""

    def __init__(self, zones: ZoneMap, decoder: Decoder, encoder: Encoder, partition: int, partitions: int) -> None:
        """``partitions``: of v2x.observations, where the passages go."""
        self.zones, self.partition, self.partitions = zones, partition, partitions
        self.generation: str | None = None
        self.position = -1  # last input offset
        self.counters: dict[str, int] = {}
        self._decoder, self._encoder = decoder, encoder
        self._sections = {(s.from_hex, s.to_hex): s for s in zones.sections}
        self._seen: dict[str, list[_At]] = {}  # by vehicle, least recently seen first
        self._waiting: deque[tuple[int, str, str, int]] = deque()  # plates: (stamp, vehicle, gantry, plate ms)

    def feed(self, records: Sequence[Record]) -> list[Output]:
        """Take records in order of offset; return the passages they complete."""
        fresh = [r for r in records if r.offset > self.position]
        if not fresh:
            return []
        batch = self._decoder.decode_kafka([r.value for r in fresh])
        out: list[Output] = []
        for i, record in enumerate(fresh):
            self.position = record.offset
            self._count("in")
            found = self._settle(record.stamp_ms)
            found += self._take(batch, i, record)
            out += [self._output(record, nth, *passage) for nth, passage in enumerate(found)]
        return out

    # -- one record -------------------------------------------------------------------------------------------------
    def _take(self, batch: Batch, i: int, record: Record) -> list[_Passage]:
        if batch.verdict[i]:
            self._count("dropped_undecodable")
            return []
        schema, row = self._decoder.schemas[int(batch.schema[i])], int(batch.row[i])
        if schema == "genesis":
            self.generation = batch.text("genesis", row, "generation")
            self._count("genesis")
            return []
        if schema not in {"gantry_transaction", "gantry_plate"}:
            self._count("dropped_other")
            return []
        table = batch.tables[schema]
        value = dict(zip(table.fields, table.data[row].tolist(), strict=True))
        gantry = batch.text(schema, row, "gantry_hex")
        vehicle = _pseudonym(record.key)
        if vehicle == batch.text(schema, row, "device"):
            vehicle = ""  # nothing was read: ingest keys such a record by its gantry
        known = self.zones.gantries.get(gantry)
        if not vehicle:
            self._count("dropped_no_vehicle")
        elif known is None:
            self._count("dropped_unknown_gantry")
        elif value["drive_dir"] != known.direction:
            self._count("dropped_reverse")  # read from the other carriageway
        elif schema == "gantry_plate":
            return self._plate(vehicle, gantry, value, record.stamp_ms)
        elif value["valid_status"] == DUPLICATE:
            self._count("dropped_duplicate")
        else:
            return self._transaction(vehicle, gantry, value, batch.text(schema, row, "last_gantry_hex"))
        return []

    def _transaction(self, vehicle: str, gantry: str, value: dict[str, int], last: str) -> list[_Passage]:
        ms = value["trans_ms"]
        here = self._here(vehicle, gantry, ms)
        if here.trade_ms:
            self._count("dropped_duplicate")
            return []
        self._count("transactions")
        here.trade_ms, here.vehicle_type = ms, value["vehicle_type"]
        out = self._pair(vehicle, here)
        if not here.paired and last and value["last_gantry_ms"]:
            out += self._single(vehicle, here, value, last)
        return out + self._onward(vehicle, here)

    def _plate(self, vehicle: str, gantry: str, value: dict[str, int], stamp_ms: int) -> list[_Passage]:
        ms = value["pic_ms"]
        here = self._here(vehicle, gantry, ms)
        if here.plate_ms:
            self._count("second_pictures")  # head and tail, or the next camera
            return []
        self._count("plates")
        here.plate_ms = ms
        if here.paired:
            return []
        if here.trade_ms:  # its transaction was here first and found nobody: the picture adds nothing but its time
            return self._pair(vehicle, here)
        self._waiting.append((stamp_ms, vehicle, gantry, ms))
        return self._onward(vehicle, here)

    def _settle(self, stamp_ms: int) -> list[_Passage]:
        """Pair the plates whose transaction did not come."""
        out: list[_Passage] = []
        while self._waiting and stamp_ms - self._waiting[0][0] >= PLATE_WAIT_MS:
            _, vehicle, gantry, ms = self._waiting.popleft()
            for here in self._seen.get(vehicle, ()):
                if here.gantry == gantry and here.plate_ms == ms and not here.paired:
                    out += self._pair(vehicle, here)
        return out

    # -- pairs ------------------------------------------------------------------------------------------------------
    def _here(self, vehicle: str, gantry: str, ms: int) -> _At:
        """Return the vehicle's passage of this gantry at about this time, a new one if there is none."""
        rows = self._seen.pop(vehicle, [])
        self._seen[vehicle] = rows
        for row in rows:
            if row.gantry == gantry and abs(row.ms - ms) <= SAME_MS:
                return row
        new = _At(gantry, 0, 0, 0, paired=False)
        newest = max((row.ms for row in rows), default=ms)
        rows[:] = [row for row in rows if newest - row.ms <= MAX_TRAVEL_MS]
        rows.append(new)
        if len(self._seen) > MAX_VEHICLES:
            del self._seen[next(iter(self._seen))]
            self._count("forgotten")
        return new

    def _pair(self, vehicle: str, here: _At) -> list[_Passage]:
        """Pair an arrival with the latest passage of a gantry that a section leads from."""
        if here.paired:
            return []
        best: tuple[int, int, _At, Section] | None = None
        for other in self._seen[vehicle]:
            section = self._sections.get((other.gantry, here.gantry))
            if section is None:
                continue
            a, b = _ends(other, here)
            if 0 < b - a <= MAX_TRAVEL_MS and (best is None or a > best[0]):
                best = (a, b, other, section)
        if best is None:
            return []
        here.paired = True
        self._count("pairs")
        a, b, other, section = best
        kind = here.vehicle_type or other.vehicle_type
        return [(section, vehicle, a, b, round(section.length_m), kind, PAIR)]

    def _onward(self, vehicle: str, here: _At) -> list[_Passage]:
        """Pair what was passed after this gantry but told before it (a gantry that sends late)."""
        out: list[_Passage] = []
        for other in list(self._seen[vehicle]):
            after = (here.gantry, other.gantry) in self._sections and other.ms > here.ms and not other.paired
            if after and (other.trade_ms or not self._is_waiting(vehicle, other)):
                out += self._pair(vehicle, other)
        return out

    def _is_waiting(self, vehicle: str, at: _At) -> bool:
        return any(v == vehicle and g == at.gantry and ms == at.plate_ms for _, v, g, ms in self._waiting)

    def _single(self, vehicle: str, here: _At, value: dict[str, int], last: str) -> list[_Passage]:
        """Make a passage of one transaction that names the gantry before it."""
        section = self._sections.get((last, here.gantry))
        travel = here.trade_ms - value["last_gantry_ms"]
        if section is None or not 0 < travel <= MAX_TRAVEL_MS:
            self._count("singles_without_section")
            return []
        here.paired = True
        self._count("singles")
        length, fee = section.length_m, float(value["fee_mileage"])
        if abs(fee - length) <= MILEAGE_TOLERANCE * length:
            length = fee
        return [(section, vehicle, value["last_gantry_ms"], here.trade_ms, round(length), here.vehicle_type, SINGLE)]

    # -- out --------------------------------------------------------------------------------------------------------
    def _output(
        self, record: Record, nth: int, section: Section, vehicle: str, a: int, b: int, length: int, kind: int, how: int
    ) -> Output:
        device = self.zones.devices.get(self.zones.gantries[section.from_hex].device)
        value = self._encoder.encode(
            "passage",
            {
                "generation": self.generation or NO_GENERATION,
                "from_partition": self.partition,
                "from_offset": record.offset,
                "from_index": nth,
                "from_zone": device.zone if device is not None else section.zone,
                "to_zone": section.zone,
                "section": section.section,
                "vehicle": vehicle[:64],
                "from_ms": a,
                "to_ms": b,
                "length": length,
                "vehicle_type": kind,
                "method": how,
            },
        )
        self._count("passages")
        target = self.zones.partition(section.zone, self.partitions)
        return Output(OBSERVATIONS, target, section.section.encode(), value, record.offset, nth)

    def _count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    # -- state ------------------------------------------------------------------------------------------------------
    def snapshot(self) -> bytes:
        """Return the state after ``position``."""
        return self.freeze().pack()

    def freeze(self) -> Frozen:
        """Return the state as it is now, for ``pack`` to make a snapshot of."""
        text = json.dumps(
            {
                "what": _SNAPSHOT,
                "generation": self.generation,
                "position": self.position,
                "counters": self.counters,
                "zones": self.zones.checksum,
                "seen": [
                    [vehicle, *([r.gantry, r.trade_ms, r.plate_ms, r.vehicle_type, r.paired] for r in rows)]
                    for vehicle, rows in self._seen.items()
                ],
                "waiting": [list(row) for row in self._waiting],
            },
            separators=(",", ":"),
        )
        return Frozen(text.encode())

    @classmethod
    def restore(
        cls, zones: ZoneMap, decoder: Decoder, encoder: Encoder, partition: int, partitions: int, blob: bytes
    ) -> GantryStage:
        """Return the stage of a snapshot; SnapshotError if it is another's."""
        try:
            state: dict[str, Any] = json.loads(blob)
            if state["what"] != _SNAPSHOT or state["zones"] != zones.checksum:
                msg = f"snapshot {state['what']!r} with zones {state['zones'][:12]}: not of this stage and zone map"
                raise SnapshotError(msg)
            stage = cls(zones, decoder, encoder, partition, partitions)
            stage.generation, stage.position = state["generation"], state["position"]
            stage.counters = dict(state["counters"])
            stage._seen = {v: [_At(g, t, p, k, paired=d) for g, t, p, k, d in rows] for v, *rows in state["seen"]}
            stage._waiting = deque((s, v, g, ms) for s, v, g, ms in state["waiting"])
        except (KeyError, TypeError, ValueError) as error:
            msg = f"gantry snapshot is damaged: {error!r}"
            raise SnapshotError(msg) from error
        return stage


_Passage = tuple[Section, str, int, int, int, int, int]  # section, vehicle, from ms, to ms, length m, type, method


def _ends(a: _At, b: _At) -> tuple[int, int]:
    """Return the times at both ends by the same kind of witness, if both have one."""
    if a.trade_ms and b.trade_ms:
        return a.trade_ms, b.trade_ms
    if a.plate_ms and b.plate_ms:
        return a.plate_ms, b.plate_ms
    return a.ms, b.ms


def _pseudonym(key: bytes | None) -> str:
    """Return the record's key as text: the vehicle's pseudonym."""
    if not key:
        return ""
    return key.decode() if key.isascii() else key.hex()
