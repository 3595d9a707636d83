"""A log through the pure cores, as fast as the processor goes: what fusion reports, tells and measures, no broker.

Messages are put into partitions as ingest would, ``LOG_MS`` after they arrive; silent partitions get ticks; gantry
records go through the pairing stage; what one partition says to another comes ``LOG_MS`` later. Engines are fed in
slices of 20 ms, which changes nothing but when neighbours hear of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from v2x.columns import Output, Record
from v2x.fusion.engine import Engine
from v2x.fusion.view import TrackView
from v2x.fusion.zone import ZoneState
from v2x.gantry import GantryStage
from v2x.geo import LocalFrame
from v2x.topics import EVENTS, GANTRY, HEADER_RX, LINKS, OBSERVATIONS
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.log import Stamped

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

LOG_MS: Final = 6  # from ingest to the log, and from fusion to the log: the median on a quiet machine
SLICE_MS: Final = 20
SAMPLE_MS: Final = 200
PARTITIONS: Final = 8
_CHUNK: Final = 500
WORLD: Final = "00000000-0000-4000-8000-000000000000"


class Message(NamedTuple):
    """A message on its way into the log."""

    at_ms: float  # ms UTC: when ingest has it
    topic: str  # OBSERVATIONS or GANTRY
    key: bytes
    value: bytes  # as it is in Kafka
    zones: tuple[str, ...] = ()  # of an observation, its owner's first


@dataclass(slots=True)
class Estimates:
    """What a tracker reports for one instant, metres about the truth's origin."""

    track: I64
    east: F64
    north: F64
    cov: F64 | None = None  # (3, n) ee, en, nn; None if it tells none


@dataclass(slots=True)
class Played:
    """What came of a log."""

    frames: dict[int, Estimates] = field(default_factory=dict)  # by event time, ms UTC; those that all zones reported
    told_at: dict[int, int] = field(default_factory=dict)  # the stream clock when the frame left
    events: list[Stamped] = field(default_factory=list)
    links: list[Stamped] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)


class _Engine(Engine):
    """An engine whose tracks can be looked at whenever a frame leaves."""

    watch: Callable[[ZoneState, TrackView, F64], None] | None = None

    def _frame(self, event_ms: int, cause: Any) -> None:
        super()._frame(event_ms, cause)
        if self.watch is not None and event_ms % SAMPLE_MS == 0:
            for z, station in enumerate(self.stations.values()):
                self.watch(station.zone, *self._rounds.last(z, event_ms, self.clock.now_ms))


class Player:
    """The engines of all partitions that have zones, and the log between them."""

    def __init__(
        self,
        zones: ZoneMap,
        frame: LocalFrame,
        config: Mapping[str, Any] | None = None,
        partitions: int = PARTITIONS,
    ) -> None:
        """``frame``: that of the truth; ``config``: overrides of kernel parameters and event rules."""
        registry = Registry.load()
        self._codec = ReferenceCodec(registry, strict=False)
        decoder = ColumnDecoder(registry)
        self.zones, self._frame = zones, frame
        self.engines = {
            p: _Engine(config, zones, decoder, self._codec, p, partitions, self._codec.decode_kafka)
            for p in sorted({zones.partition(z, partitions) for z in zones.zones})
        }
        self._of_zone = {z: zones.partition(z, partitions) for z in zones.zones}
        self._partitions = partitions
        self._gantry = GantryStage(zones, decoder, self._codec, 0, partitions)
        self._logs: dict[int, list[Record]] = {p: [] for p in self.engines}
        self._ends = dict.fromkeys(self.engines, 0)  # next offset
        self._gantry_end = 0
        self._parts: dict[int, dict[str, Estimates]] = {}
        self._later: list[tuple[float, int, bytes, bytes]] = []  # at ms, partition, key, value
        self.out = Played()
        for engine in self.engines.values():
            engine.watch = self._look

    def run(
        self, messages: Sequence[Message], begin_ms: int, end_ms: int, progress: Callable[[float], None] | None = None
    ) -> Played:
        """Play messages in order of ``at_ms``; ``progress`` hears how far it is, in log time (ms UTC)."""
        self._begin(begin_ms)
        at = 0
        for edge in range(begin_ms + SLICE_MS, end_ms + SLICE_MS, SLICE_MS):
            gantry: list[Message] = []
            while at < len(messages) and messages[at].at_ms + LOG_MS < edge:
                m = messages[at]
                at += 1
                if m.topic == GANTRY:
                    gantry.append(m)
                    continue
                rx = (HEADER_RX, int(m.at_ms * 1000).to_bytes(8, "big"))
                for p in dict.fromkeys(self._of_zone[z] for z in m.zones):
                    self._append(p, m.at_ms + LOG_MS, m.key, m.value, (rx,))
            self._neighbours(edge)
            self._toll(gantry)
            for p, engine in self.engines.items():
                if not self._logs[p]:
                    self._append(p, edge - 1, b"tick", self._tick(edge - 1))
                records = sorted(self._logs[p], key=lambda r: r.stamp_ms)
                start = self._ends[p]
                records = [r._replace(offset=start + n) for n, r in enumerate(records)]
                self._ends[p] += len(records)
                self._logs[p] = []
                self._take(p, records, engine.feed(records), edge)
            if progress is not None and edge % 1000 < SLICE_MS:
                progress(edge)
        return self._done()

    def replay(self, logs: Mapping[int, Sequence[Record]]) -> Played:
        """Replay partitions of v2x.observations as they are: what neighbours and gantries said lies in them."""
        for p, engine in self.engines.items():
            log = logs.get(p, ())
            for first in range(0, len(log), _CHUNK):
                records = log[first : first + _CHUNK]
                self._take(p, records, engine.feed(records), 0)
        return self._done()

    def _done(self) -> Played:
        for engine in self.engines.values():
            for name, n in engine.counters.items():
                self.out.counters[name] = self.out.counters.get(name, 0) + n
        self._join()
        return self.out

    # -- in ---------------------------------------------------------------------------------------------------------
    def _begin(self, begin_ms: int) -> None:
        for p in self.engines:
            genesis = {"generation": WORLD, "partition": p, "partitions": self._partitions, "ts_ms": begin_ms}
            self._append(p, begin_ms, b"genesis", self._codec.encode("genesis", genesis))
        genesis = {"generation": WORLD, "partition": 0, "partitions": self._partitions, "ts_ms": begin_ms}
        self._gantry_feed(begin_ms, b"genesis", self._codec.encode("genesis", genesis))

    def _tick(self, at_ms: int) -> bytes:
        return self._codec.encode("tick", {"source": "score", "ts_ms": at_ms})

    def _append(
        self, partition: int, at_ms: float, key: bytes, value: bytes, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        self._logs[partition].append(Record(-1, int(at_ms), key, value, headers))

    def _neighbours(self, edge: int) -> None:
        """Put in what other partitions and the gantries' stage said."""
        later, self._later = self._later, []
        for at_ms, partition, key, value in later:
            if at_ms >= edge:
                self._later.append((at_ms, partition, key, value))
            elif partition in self.engines:
                self._append(partition, at_ms, key, value)

    def _toll(self, messages: Iterable[Message]) -> None:
        for m in messages:
            self._gantry_feed(int(m.at_ms) + LOG_MS, m.key, m.value)

    def _gantry_feed(self, at_ms: int, key: bytes, value: bytes) -> None:
        record = Record(self._gantry_end, at_ms, key, value, ())
        self._gantry_end += 1
        for o in self._gantry.feed([record]):
            self._later.append((at_ms + LOG_MS, o.partition, o.key, o.value))

    # -- out --------------------------------------------------------------------------------------------------------
    def _take(self, partition: int, records: Sequence[Record], outputs: Iterable[Output], edge: int) -> None:
        stamps = {r.offset: r.stamp_ms for r in records}
        for o in outputs:
            at = stamps[o.offset] + LOG_MS
            if o.topic == OBSERVATIONS:
                self._later.append((max(at, edge), o.partition, o.key, o.value))
            elif o.topic in {EVENTS, LINKS}:
                _, value = self._codec.decode_kafka(o.value)
                store = self.out.events if o.topic == EVENTS else self.out.links
                store.append(Stamped(partition, o.offset, at, value))

    def _look(self, zone: ZoneState, view: TrackView, cov: F64) -> None:
        lat, lon = zone.frame.to_geo(view.east, view.north)
        east, north = self._frame.to_local(lat, lon)
        self._parts.setdefault(view.event_ms, {})[zone.id] = Estimates(view.id.copy(), east, north, cov.copy())
        self.out.told_at[view.event_ms] = max(view.stream_ms, self.out.told_at.get(view.event_ms, 0))

    def _join(self) -> None:
        """Put the zones' parts together; an instant that a zone left out is none."""
        for event_ms, parts in sorted(self._parts.items()):
            if len(parts) == len(self.zones.zones):
                every = list(parts.values())
                self.out.frames[event_ms] = Estimates(
                    np.concatenate([e.track for e in every]),
                    np.concatenate([e.east for e in every]),
                    np.concatenate([e.north for e in every]),
                    np.concatenate([e.cov for e in every if e.cov is not None], axis=1),
                )
