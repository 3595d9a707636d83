"""`v2x bench ingest`: our ingest and its peers at the same work, in turns, on the same brokers.

Each measurement has a Mosquitto of its own (so that no session of another candidate queues anything) and the one Kafka
of the benchmark. Work is equal: QoS 1, persistent session, acks=all, the same payloads, partitions and broker settings;
ours decodes, validates and orders besides. Three kinds of runs:

* closed loop: at most ``window`` messages between the publisher and Kafka; what is kept up is the capacity
* open loop: messages come when they are due; latency counts from then to the record's stamp in Kafka
* durability: Kafka is killed, messages are published, the candidate is killed -9; both come back; what is missing was
  acknowledged before Kafka had it
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from v2x.errors import BrokerError, V2XError

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.bench.candidates import Candidate, Probe, make_topics, of_peer, ours, wait_until_forwarding
from v2x_loadtest.bench.drive import Publishing
from v2x_loadtest.bench.durability import (
    HELD_S,
    MESSAGES,
    PUBLISHING_S,
    Durability,
    kill,
    wait_until_back,
    wait_until_quiet,
)
from v2x_loadtest.bench.load import Load
from v2x_loadtest.bench.payloads import ingest_load
from v2x_loadtest.bench.peers import Peer, Place
from v2x_loadtest.bench.proc import Usage, on_cores, rss_mb
from v2x_loadtest.bench.records import Arrived, Ends, Topics
from v2x_loadtest.latency import quantiles
from v2x_services.brokers import Kafka, Mosquitto
from v2x_services.process import Process

_POLL_S: Final = 0.01
_DRAIN_S: Final = 30.0
_PATIENCE: Final = 4  # looks, four a second, without a record, after which no more is expected
_TICKS: Final = 60  # records a second and partition that our ingest writes into silence, at most
_CLOSED_MAX: Final = 100_000  # messages a second that the closed loop can count
_SEQ_BITS: Final = 24


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What was asked for."""

    payload: str = "rsm"
    rate: float = 17_000.0  # open loop, messages a second
    connections: int = 1700
    seconds: float = 10.0
    warm_s: float = 2.0
    rounds: int = 5
    window: int = 8192
    partitions: int = 8
    pinned: bool = True  # the forwarder alone on the last core, all else on the others
    cores: int = 0  # everything on the first so many cores; 0: on all there are
    closed: bool = True
    open: bool = True
    durability: bool = True


@dataclass(slots=True)
class Sample:
    """One run of one candidate after its warm-up; CPU in µs a message that arrived in Kafka meanwhile.

    CPU and memory are those of the process and its children.
    """

    rate: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)  # the candidate is "self"
    cores: dict[str, float] = field(default_factory=dict)
    rss_mb: float = 0.0
    latency_ms: dict[str, float | int | None] = field(default_factory=dict)  # None: it never arrived
    published: int = 0
    acknowledged: int = 0  # by Mosquitto
    delivered: int = 0
    lost: int = 0
    undelivered: int = 0  # not in Kafka when we stopped waiting, though some still came: too slow, not lost
    repeated: int = 0
    late_p99_ms: float = 0.0  # of the publisher
    start_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(slots=True)
class Report:
    """All runs."""

    options: IngestOptions
    bytes: float
    what: dict[str, str]
    absent: dict[str, str] = field(default_factory=dict)
    closed: dict[str, list[Sample]] = field(default_factory=dict)
    open: dict[str, list[Sample]] = field(default_factory=dict)
    durability: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class Bench:
    """The Kafka of a benchmark, its load, and how one run goes."""

    def __init__(
        self, folder: Path, options: IngestOptions, candidates: Sequence[Candidate], own: Sequence[int]
    ) -> None:
        """``own``: the forwarder's core, or none."""
        self._folder, self._options, self._candidates = folder, options, list(candidates)
        self.load, doc, self._probe = ingest_load(
            options.payload, options.connections, options.rate, options.partitions
        )
        self._load_folder = folder / "load"
        self.load.save(self._load_folder)
        self._zones = folder / "zones.json"
        self._zones.write_text(json.dumps(doc), "utf-8")
        self._devices = {d.id: i for i, d in enumerate(self.load.devices)}
        self.kafka = Kafka(folder / "kafka")
        self._own_core = own
        self._run = 0

    def start(self) -> None:
        """Start Kafka with its topics."""
        self.kafka.start()
        make_topics(self.kafka.bootstrap, self._candidates, self._options.partitions)

    def measure(self, candidate: Candidate, *, closed: bool) -> Sample:
        """Run a candidate once."""
        o, sample = self._options, Sample()
        seconds = o.warm_s + o.seconds
        rows = round((_CLOSED_MAX if closed else o.rate * 1.01) * seconds) + o.window
        folder = self._new_folder()
        mosquitto = Mosquitto(folder / "mosquitto").start()
        place = self._place(candidate, folder, mosquitto)
        process = candidate.process(place, self._zones)
        try:
            with (
                Topics(self.kafka.bootstrap, candidate.reads) as kafka,
                Publishing(
                    self._load_folder, place.mqtt_host, place.mqtt_port, rows, folder / "ledger",
                    credit=0 if closed else -1,
                ) as publishing,
            ):  # fmt: skip
                sample.start_s = self._ready(candidate, process, place, kafka)
                publishing.wait_ready()
                begin = kafka.ends()
                pids = {
                    "self": process.pid, "publisher": publishing.pid, "mosquitto": mosquitto.pid,
                    "kafka": self.kafka.pid,
                }  # fmt: skip
                if closed:
                    publishing.control[0] = o.window
                t0_us = publishing.go(seconds)
                first, last = self._watch(publishing, kafka, begin, t0_us, pids, closed=closed)
                summary = publishing.summary()
                sample.rss_mb = rss_mb(process.pid or 0)
                drained = self._drain(kafka, begin, summary["sent"], self._ticks(candidate))
                arrived = kafka.read(begin, self._devices, candidate.payload)
        finally:
            process.stop()
            mosquitto.stop()
        self._count(sample, Ledger.load(folder / "ledger"), arrived, summary, (first, last))
        if not drained:
            sample.lost, sample.undelivered = 0, sample.lost
        return sample

    def durable(self, candidate: Candidate) -> dict[str, Any]:
        """Publish while Kafka is dead, kill the candidate, let both come back; see ``durability``."""
        folder = self._new_folder()
        mosquitto = Mosquitto(folder / "mosquitto").start()
        place = self._place(candidate, folder, mosquitto)
        process = candidate.process(place, self._zones)
        try:
            with Publishing(
                self._load_folder, place.mqtt_host, place.mqtt_port, MESSAGES, folder / "ledger", credit=MESSAGES
            ) as publishing:
                with Topics(self.kafka.bootstrap, candidate.reads) as kafka:
                    self._ready(candidate, process, place, kafka)
                    begin = kafka.ends()
                publishing.wait_ready()
                self.kafka.kill()
                publishing.go(PUBLISHING_S)
                summary = publishing.summary()
            time.sleep(HELD_S)
            stayed_up = kill(process)
            self.kafka.start()
            probe = Probe(place, self._probe, self._options.payload)
            with Topics(self.kafka.bootstrap, candidate.reads) as kafka:
                starts, back_s = wait_until_back(
                    process, lambda: self._spawn(process), kafka, begin, probe, candidate.payload
                )  # fmt: skip
                wait_until_quiet(kafka, begin, self._devices, candidate.payload)
                arrived = kafka.read(begin, self._devices, candidate.payload)
        finally:
            process.stop()
            mosquitto.stop()
            if self.kafka.pid is None:
                self.kafka.start()
        lost, repeated = missing(Ledger.load(folder / "ledger"), arrived)
        return Durability(summary["sent"], summary["acknowledged"], lost, repeated, stayed_up, starts, back_s).as_dict()

    def _place(self, candidate: Candidate, folder: Path, mosquitto: Mosquitto) -> Place:
        return Place(
            mosquitto.host, mosquitto.port, "v2x/v1/#", self.kafka.bootstrap, candidate.topic, "bench-forwarder", folder
        )

    def _new_folder(self) -> Path:
        self._run += 1
        folder = self._folder / f"run-{self._run}"
        folder.mkdir()
        return folder

    def _ready(self, candidate: Candidate, process: Process, place: Place, kafka: Topics) -> float:
        began = time.monotonic()
        self._spawn(process)
        process.wait_until_serving()
        if candidate.peer is not None:
            wait_until_forwarding(process, Probe(place, self._probe, self._options.payload), kafka)
        return time.monotonic() - began

    def _spawn(self, process: Process) -> None:
        with on_cores(self._own_core):
            process.spawn()

    def _watch(
        self,
        publishing: Publishing,
        kafka: Topics,
        begin: Ends,
        t0_us: int,
        pids: dict[str, int | None],
        *,
        closed: bool,
    ) -> tuple[tuple[int, Usage], tuple[int, Usage]]:
        """Give credit until the end; return wall ms and CPU at the end of the warm-up, and at the end."""
        o, base = self._options, sum(begin.values())
        warm_us, end_us = t0_us + round(o.warm_s * 1e6), t0_us + round((o.warm_s + o.seconds) * 1e6)
        first: tuple[int, Usage] | None = None
        while (now := time.time_ns() // 1000) < end_us and publishing.running():
            if first is None and now >= warm_us:
                first = (now // 1000, Usage.of(pids))
            if closed:
                publishing.control[0] = kafka.total() - base + o.window
            time.sleep(_POLL_S if closed else min(0.05, max((end_us - now) / 1e6, 0.0)))
        if first is None:
            raise BrokerError("the publisher ended before the warm-up was over")
        return first, (time.time_ns() // 1_000_000, Usage.of(pids))

    def _ticks(self, candidate: Candidate) -> float:
        return _TICKS * self._options.partitions if candidate.peer is None else 0.0

    def _drain(self, kafka: Topics, begin: Ends, sent: int, ticks: float) -> bool:
        """Wait until nothing but ticks (at most so many a second) comes; False if something still did at the end."""
        base, last, quiet = sum(begin.values()), -1, 0
        deadline = time.monotonic() + _DRAIN_S
        while quiet < _PATIENCE and time.monotonic() < deadline:
            now = kafka.total() - base
            few = now - last <= ticks * 0.25
            quiet = quiet + 1 if few and last >= 0 else 0
            if now == sent and quiet:
                return True
            last = now
            time.sleep(0.25)
        return quiet >= _PATIENCE

    def _count(
        self, sample: Sample, ledger: Ledger, arrived: Arrived, summary: dict[str, Any], window: tuple[Any, Any]
    ) -> None:
        (first_ms, before), (last_ms, after) = window
        stamps = first_stamps(arrived)[1]
        inside = (stamps >= first_ms) & (stamps < last_ms)
        n, seconds = max(int(np.count_nonzero(inside)), 1), (last_ms - first_ms) / 1000
        used = after.since(before)
        sample.rate = n / seconds
        sample.cpu_us = {name: s / n * 1e6 for name, s in used.items()}
        sample.cores = {name: s / seconds for name, s in used.items()}
        sample.published, sample.acknowledged = summary["sent"], summary["acknowledged"]
        sample.late_p99_ms = summary["late_p99_ms"]
        sample.lost, sample.repeated = missing(ledger, arrived)
        sample.delivered = len(arrived.seq) - sample.repeated
        found = quantiles(latencies(ledger, arrived, first_ms * 1000, last_ms * 1000))
        sample.latency_ms = {name: None if value == np.inf else value for name, value in found.items()}


def missing(ledger: Ledger, arrived: Arrived) -> tuple[int, int]:
    """Return how many messages that the broker acknowledged are not in Kafka, and how many records are repeats."""
    sent = ledger.sent[ledger.sent["acked_us"] > 0]
    keys = sent["device"].astype(np.int64) << _SEQ_BITS | sent["seq"].astype(np.int64)
    distinct = np.unique(arrived.key)
    return int(np.count_nonzero(~np.isin(keys, distinct))), int(arrived.key.size - distinct.size)


def first_stamps(arrived: Arrived) -> tuple[Any, Any]:
    """Return each message's key, in order, and the stamp of its first record, ms."""
    order = np.lexsort((arrived.stamp_ms, arrived.key))
    keys, at = np.unique(arrived.key[order], return_index=True)
    return keys, arrived.stamp_ms[order][at]


def latencies(ledger: Ledger, arrived: Arrived, from_us: int, to_us: int) -> Any:
    """Return stamp less intended time, ms, of the first record of each message that was due in [from_us, to_us).

    A message that is not there took for ever: left out, a forwarder that drops or falls behind would look fast.
    """
    sent = ledger.sent[(ledger.sent["intended_us"] >= from_us) & (ledger.sent["intended_us"] < to_us)]
    keys = sent["device"].astype(np.int64) << _SEQ_BITS | sent["seq"].astype(np.int64)
    theirs, stamps = first_stamps(arrived)
    at = np.searchsorted(theirs, keys)
    found = at < theirs.size
    found[found] = theirs[at[found]] == keys[found]
    out = np.full(len(keys), np.inf)
    out[found] = stamps[at[found]] - sent["intended_us"][found] / 1000
    return out


def _allowed(options: IngestOptions) -> list[int]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return cores[: options.cores or len(cores)]


def forwarder_core(options: IngestOptions) -> list[int]:
    """Return the core that the forwarder has for itself; none if it shares all."""
    cores = _allowed(options)
    return cores[-1:] if options.pinned and len(cores) > 1 else []


def other_cores(options: IngestOptions) -> list[int]:
    """Return the cores of all else: brokers, publisher, driver."""
    own = forwarder_core(options)
    return [core for core in _allowed(options) if core not in own]


def run(options: IngestOptions, peers: Sequence[Peer], console: Console, folder: Path | None = None) -> Report:
    """Measure ours and every peer that is there; say of the others why they are not."""
    absent = {peer.name: why for peer in peers if (why := peer.absent())}
    candidates = [ours(), *(of_peer(peer) for peer in peers if peer.name not in absent)]
    own = forwarder_core(options)
    with (
        tempfile.TemporaryDirectory(prefix="v2x-bench-", ignore_cleanup_errors=True) as temporary,
        on_cores(other_cores(options)),
    ):
        bench = Bench(folder or Path(temporary), options, candidates, own)
        report = Report(options, _size(bench.load), {c.name: c.what for c in candidates}, absent)
        try:
            bench.start()
            for nth in range(options.rounds):
                for kind, wanted, into in (
                    ("closed", options.closed, report.closed),
                    ("open", options.open, report.open),
                ):
                    for candidate in candidates if wanted else ():
                        if candidate.name in report.failed:
                            continue
                        console.print(f"[dim]round {nth + 1} of {options.rounds}: {kind} loop, {candidate.name}[/dim]")
                        _try(report, candidate, lambda c=candidate, k=kind, i=into: i.setdefault(c.name, []).append(
                            bench.measure(c, closed=k == "closed")
                        ))  # fmt: skip
            for candidate in candidates if options.durability else ():
                console.print(f"[dim]durability: {candidate.name}[/dim]")
                _try(report, candidate, lambda c=candidate: report.durability.__setitem__(c.name, bench.durable(c)))
        finally:
            bench.kafka.stop()
    return report


def _try(report: Report, candidate: Candidate, work: Any) -> None:
    """Do it; a peer that fails is told as failed and must not end the others' runs."""
    try:
        work()
    except (V2XError, OSError) as error:
        if candidate.peer is None:
            raise
        report.failed[candidate.name] = str(error)


def _size(load: Load) -> float:
    return load.payload_bytes
