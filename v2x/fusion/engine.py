"""Engine: one partition of the observations' log in, frames, events, links and neighbours' records out.

A pure function of the log: what comes out depends on the records and their order alone, never on how they were fetched
or where a restart lay. It walks a batch in order; each record advances the clocks, is told from its repeats, and goes
to the zones that it concerns; scans are fused as they come. Frames leave whenever the event clock passes a multiple of
50 ms (v2x.fusion.clock says how event time follows from the log). Conservation: every record lands in exactly one of
the counters ``fused``, ``noted``, ``control``, ``repeats`` and ``skipped_*``; their sum is ``inputs``, which frames
carry.
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
from v2x.fusion.clock import EventClock, StreamClock
from v2x.fusion.intake import CONTROL, FUSED, LATE, REPEATS, Intake
from v2x.fusion.outlet import Outlet, Trigger
from v2x.fusion.repeats import Repeats
from v2x.fusion.runs import DUE_HEARD, Runs, trigger
from v2x.fusion.station import EVENT_MS, Station
from v2x.topics import OBSERVATIONS
from v2x.zones import ZoneMap

VERSION: Final = 3  # of what a snapshot means; raise it when state changes its shape or meaning
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
        self.repeats = Repeats(fixed)
        self.outlet = Outlet(encoder, partition, partitions, zones)
        self.stations = {z: Station(zones, z, self.config) for z in mine}
        self.in_runs = True  # False: every record by itself, as a test of runs
        self.newest: dict[str, tuple[int, int]] = {}  # source zone and partition -> its last position taken
        self._decoder = decoder
        times = (self.clock, self.events, self.repeats)
        self._runs = Runs(self.stations, zones, decoder.schemas, fixed, times)
        self._intake = Intake(self, self._runs, decoder, decode_record or _no_records)

    # -- the log ----------------------------------------------------------------------------------------------------
    def feed(self, records: Sequence[Record]) -> list[Output]:
        """Take records in log order (those at or before ``position`` are left out); return what follows from them."""
        log = Records.of(records)
        n, end = int(np.searchsorted(log.offset, self.position, "right")), len(log)
        if n == end:
            return []
        batch: Batch = self._decoder.decode_heap(log.values, log.size)
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
        self.clock.advance(record.stamp_ms)
        self.outlet.at(record.offset)
        cause = Trigger(record.stamp_ms)
        self.counts[self._intake.take(n, record, cause)] += 1
        self._due(cause)

    def _due(self, cause: Trigger) -> None:
        for event_ms in self.events.due(self.clock.now_ms):
            if event_ms % EVENT_MS == 0:
                self._runs.settle()
            self._frame(event_ms, cause)

    def _frame(self, event_ms: int, trigger: Trigger) -> None:
        for station in self.stations.values():
            station.frame(self.outlet, event_ms, self.clock.now_ms, self.clock.idle_ms, self.inputs, trigger)

    @property
    def generation(self) -> str | None:
        """UUID of this world, from its genesis record; None until that came."""
        return self.outlet.generation

    @property
    def counters(self) -> dict[str, int]:
        """All counters by name; ``inputs`` = fused + noted + control + repeats + skipped_*."""
        total: Counter[str] = Counter(self.counts)
        total["inputs"] = self.inputs
        total["gaps"] = self.clock.gaps
        total["outputs"] = self.outlet.made
        for station in self.stations.values():
            total.update(station.counters())
        return dict(sorted(total.items()))

    # -- snapshots --------------------------------------------------------------------------------------------------
    def snapshot(self) -> bytes:
        """Return everything as bytes: fed with the records after ``position``, a restored engine says the same."""
        return self.freeze().pack()

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
            "repeats": self.repeats.state(),
            "outlet": self.outlet.state(),
            "newest": {k: list(v) for k, v in self.newest.items()},
            "intake": self._intake.state(),
            "stations": {},
        }
        arrays: snap.Arrays = {}
        for name, station in self.stations.items():
            head["stations"][name] = station.state()
            arrays.update({f"{name}/{k}": a for k, a in station.zone.arrays().items()})
        return snap.Frozen(head, arrays)

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
        head, arrays = snap.unpack(blob)
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
        engine.repeats.load(head["repeats"])
        engine.outlet.load(head["outlet"])
        engine.newest = {k: (v[0], v[1]) for k, v in head["newest"].items()}
        engine._intake.load(head["intake"])
        for name, station in engine.stations.items():
            own = {k[len(name) + 1 :]: a for k, a in arrays.items() if k.startswith(f"{name}/")}
            station.load(head["stations"][name], own)
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
