"""Engine: one partition of the observations' log in, frames, events, links and neighbours' records out.

A pure function of the log: what comes out depends on the records and their order alone, never on how they were fetched
or where a restart lay. It walks a batch in order; each record advances the clocks, is told from its repeats, and goes
to the zones that it concerns; scans are fused as they come. Frames leave whenever the event clock passes a multiple of
50 ms (v2x.fusion.clock says how event time follows from the log). Conservation: every record lands in exactly one of
the counters ``fused``, ``noted``, ``control``, ``repeats`` and ``skipped_*``, or is ``held`` while the engine catches
up with a burst (v2x.fusion.catchup); their sum is ``inputs``, which frames carry.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from v2x.columns import Batch, Decoder, Encoder, Output, Record, Records
from v2x.errors import SnapshotError, V2XError
from v2x.fusion import snapshot as snap
from v2x.fusion.catchup import CatchUp
from v2x.fusion.clock import MAX_STEP_MS, EventClock, StreamClock
from v2x.fusion.intake import CONTROL, FUSED, LATE, REPEATS, Intake
from v2x.fusion.outlet import Outlet, Trigger
from v2x.fusion.repeats import Repeats
from v2x.fusion.rounds import Rounds
from v2x.fusion.runs import DUE_HEARD, Runs, trigger
from v2x.fusion.station import Station
from v2x.fusion.zone import A_COLS
from v2x.topics import OBSERVATIONS
from v2x.zones import ZoneMap

VERSION: Final = 7  # of what a snapshot means; raise it when state changes its shape or meaning
RUN_COUNTS: Final = (FUSED, LATE, CONTROL, REPEATS)  # in the order of v2x.fusion.runs
DecodeRecord = Callable[[bytes], tuple[str, dict[str, Any]]]


class Engine:
    """Fusion of one partition; ``config`` may override kernel parameters and event rules by name."""

    def __init__(
        self,
        config: Mapping[str, Any] | None,
        zones: ZoneMap,
        decoder: Decoder,
        encoder: Encoder,
        partition: int,
        partitions: int,
        decode_record: DecodeRecord | None = None,
    ) -> None:
        self.config = dict(config or {})
        self.zones = zones
        self.partition, self.partitions = partition, partitions
        self.position = -1
        self.inputs = 0
        self.counts: Counter[str] = Counter()
        mine = [z for z in zones.zones if zones.partition(z, partitions) == partition]
        fixed = [d for d in zones.devices if not set(mine).isdisjoint(zones.route(d, None, None))]
        self.clock = StreamClock()
        self.events = EventClock(fixed)
        self.catching = CatchUp(self.clock, self.events)
        self.repeats = Repeats(fixed)
        self.outlet = Outlet(encoder, partition, partitions, zones)
        self.stations = {z: Station(zones, z, self.config) for z in mine}
        for station in self.stations.values():
            station.beside = self.stations
        self.in_runs = True  # False: every record by itself, as a test of runs
        self.newest: dict[str, tuple[int, int]] = {}  # source zone and partition -> its last position taken
        self._decoder = decoder
        times = (self.clock, self.events, self.repeats)
        where = np.zeros((len(mine), A_COLS), np.int64)
        for station, row in zip(self.stations.values(), where, strict=True):
            station.zone.show(row)
        self._runs = Runs(self.stations, zones, decoder.schemas, fixed, times, where)
        self._rounds = Rounds(list(self.stations.values()), where, encoder, self.outlet, self._runs)
        self._intake = Intake(self, self._runs, decoder, decode_record or _no_records)

    # -- the log ----------------------------------------------------------------------------------------------------
    def feed(self, records: Sequence[Record]) -> list[Output]:
        """Take records in log order (those at or before ``position`` are left out); return what follows from them."""
        log = Records.of(records)
        n, end = int(np.searchsorted(log.offset, self.position, "right")), len(log)
        if n == end:
            return []
        batch: Batch = self._decoder.decode_heap(log.values, log.size)
        self._batch = batch
        self._intake.open(batch)
        self._runs.open(log, batch)
        while n < end:
            if self.in_runs and self._intake.may_run(n):
                begun = n
                n = self._runs.take(n)
                if n > begun:
                    self._took(log, batch, n - begun, n - 1)
                    continue
            self._take(log, n)
            n += 1
        self._runs.close()
        return self.outlet.drain()

    def _took(self, log: Records, batch: Batch, count: int, last: int) -> None:
        """Book a run, and make the frame that it made due."""
        self.position = int(log.offset[last])
        self.inputs += count
        *counts, due = self._runs.said
        for name, n in zip(RUN_COUNTS, counts, strict=True):
            if n:
                self.counts[name] += n
        if due:
            self.outlet.at(self.position)
            heard = due == DUE_HEARD
            self._due(trigger(log, batch, last) if heard else Trigger(int(log.stamp_ms[last])))

    def _take(self, log: Records, n: int) -> None:
        """Take one record."""
        record = log[n]
        self.position = record.offset
        self.inputs += 1
        before, event_ms = self.clock.stamp_ms, self.events.now(self.clock.now_ms)
        step = self.clock.advance(record.stamp_ms)
        if before >= 0 and record.stamp_ms - before > MAX_STEP_MS:
            self.catching.begin(event_ms, before - event_ms)
        self.outlet.at(record.offset)
        cause = Trigger(record.stamp_ms)
        if self.catching.active:
            self.events.stay(step)
            timed = self._intake.timed(n)
            if timed is not None:
                self.catching.hold(record, *timed[:2], scan=timed[2])
            else:
                self.counts[self._intake.take(n, record, cause)] += 1
            self._catch_up(record.stamp_ms)
        else:
            self.counts[self._intake.take(n, record, cause)] += 1
        self._due(cause)

    def _catch_up(self, stamp_ms: int) -> None:
        """Take what is due of what was held, each at its own time."""
        due = self.catching.take(stamp_ms)
        if due:
            log = Records.of([record for _, _, record in due])
            self._intake.open(self._decoder.decode_heap(log.values, log.size))
            for n, (due_ms, _, record) in enumerate(due):
                cause = Trigger(record.stamp_ms)
                self.clock.idle(self.events.follow(due_ms, self.clock.now_ms))
                self._due(cause)
                self.counts[self._intake.take(n, record, cause)] += 1
            self._intake.open(self._batch)
        if not self.catching.active:
            self.catching.end()

    def _due(self, cause: Trigger) -> None:
        for event_ms in self.events.due(self.clock.now_ms):
            self._frame(event_ms, cause)

    def _frame(self, event_ms: int, trigger: Trigger) -> None:
        self.outlet.catching = self.events.catching
        self._rounds.make(event_ms, self.clock.now_ms, self.clock.idle_ms, self.inputs, trigger)

    @property
    def generation(self) -> str | None:
        """UUID of this world, from its genesis record; None until that came."""
        return self.outlet.generation

    @property
    def counters(self) -> dict[str, int]:
        """All counters by name; ``inputs`` = fused + noted + control + repeats + skipped_* + held."""
        total: Counter[str] = Counter(self.counts)
        total["inputs"] = self.inputs
        total["gaps"] = self.clock.gaps
        total["catch_ups"] = self.catching.times
        total["held"] = self.catching.held
        total["outputs"] = self.outlet.made
        for station in self.stations.values():
            total.update(station.counters())
        return dict(sorted(total.items()))

    # -- snapshots --------------------------------------------------------------------------------------------------
    def snapshot(self) -> bytes:
        """Return everything as bytes: fed with the records after ``position``, a restored engine says the same."""
        return bytes(self.freeze().pack())

    def freeze(self) -> snap.Frozen:
        """Return everything as it is now, for ``pack`` to make a snapshot of."""
        self._runs.settle()
        head: dict[str, Any] = {
            **self._identity(),
            "position": self.position,
            "inputs": self.inputs,
            "counts": dict(self.counts),
            "clock": self.clock.state(),
            "events": self.events.state(),
            "catching": self.catching.state(),
            "repeats": self.repeats.state(),
            "outlet": self.outlet.state(),
            "newest": {k: list(v) for k, v in self.newest.items()},
            "intake": self._intake.state(),
            "stations": {name: station.state() for name, station in self.stations.items()},
        }
        return snap.Frozen(head)

    @classmethod
    def restore(
        cls,
        config: Mapping[str, Any] | None,
        zones: ZoneMap,
        decoder: Decoder,
        encoder: Encoder,
        partition: int,
        partitions: int,
        decode_record: DecodeRecord | None = None,
        *,
        blob: bytes,
    ) -> Engine:
        """Return the engine of a snapshot; SnapshotError if it is damaged or of another place or shape.

        Another configuration is taken (the caller decides whether this is the place for it: a clean stop).
        """
        engine = cls(config, zones, decoder, encoder, partition, partitions, decode_record)
        head = snap.unpack(blob)
        here = engine._identity()
        for name in ("version", "partition", "partitions"):
            if head[name] != here[name]:
                raise SnapshotError(f"snapshot has {name} {head[name]}, this engine {here[name]}")
        if sorted(head["stations"]) != sorted(engine.stations):
            there, here_too = sorted(head["stations"]), sorted(engine.stations)
            raise SnapshotError(f"snapshot has the zones {there}, partition {partition} has {here_too}")
        engine.position, engine.inputs = head["position"], head["inputs"]
        engine.counts = Counter(head["counts"])
        engine.clock.load(head["clock"])
        engine.events.load(head["events"])
        engine.catching.load(head["catching"])
        engine.repeats.load(head["repeats"])
        engine.outlet.load(head["outlet"])
        engine.newest = {k: (v[0], v[1]) for k, v in head["newest"].items()}
        engine._intake.load(head["intake"])
        for name, station in engine.stations.items():
            station.load(head["stations"][name])
        engine._runs.learn_all()
        return engine

    def _identity(self) -> dict[str, Any]:
        """Return what a snapshot must agree with, and names that tell where it is from."""
        text = json.dumps(self.config, sort_keys=True, default=str) + self.zones.checksum
        schemas = "\n".join((*self._decoder.schemas, *self._decoder.field_names))
        return {
            "topic": OBSERVATIONS,
            "version": VERSION,
            "partition": self.partition,
            "partitions": self.partitions,
            "config": hashlib.sha256(text.encode()).hexdigest()[:16],
            "schemas": hashlib.sha256(schemas.encode()).hexdigest()[:16],
        }


def _no_records(value: bytes) -> tuple[str, dict[str, Any]]:
    raise V2XError(f"this engine was given no decode_record, so {len(value)} bytes cannot be read")
