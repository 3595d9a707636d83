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
from v2x_loadtest.bench.candidates import Candidate, make_topics, of_peer, ours, wait_until_forwarding
from v2x_loadtest.bench.drive import Publishing
from v2x_loadtest.bench.load import Load
from v2x_loadtest.bench.payloads import ingest_load
from v2x_loadtest.bench.peers import Peer, Place
from v2x_loadtest.bench.proc import Usage, pin, rss_mb
from v2x_loadtest.bench.records import Arrived, Ends, Topics
from v2x_loadtest.latency import quantiles
from v2x_services.brokers import Kafka, Mosquitto
from v2x_services.process import Process

_POLL_S: Final = 0.01
_DRAIN_S: Final = 30.0
_TICKS: Final = 60  # records a second and partition that our ingest writes into silence, at most
_CLOSED_MAX: Final = 100_000  # messages a second that the closed loop can count
_DURABLE_N: Final = 1000
_HELD_S: Final = 2.0
_KILLED_S: Final = 60.0
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
    pinned: bool = True
    closed: bool = True
    open: bool = True
    durability: bool = True


@dataclass(slots=True)
class Sample:
    """One run of one candidate; CPU in µs a message that arrived in Kafka meanwhile."""

    rate: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)  # the candidate is "self"
    cores: dict[str, float] = field(default_factory=dict)
    rss_mb: float = 0.0
    latency_ms: dict[str, float | int | None] = field(default_factory=dict)
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

    def __init__(self, folder: Path, options: IngestOptions, candidates: Sequence[Candidate]) -> None:
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
                self._pin(process, mosquitto, publishing)
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
        """Publish while Kafka is dead, kill the candidate, let both come back; return what is missing."""
        folder = self._new_folder()
        mosquitto = Mosquitto(folder / "mosquitto").start()
        place = self._place(candidate, folder, mosquitto)
        process = candidate.process(place, self._zones)
        try:
            with Publishing(
                self._load_folder, place.mqtt_host, place.mqtt_port, _DURABLE_N, folder / "ledger", credit=_DURABLE_N
            ) as publishing:
                with Topics(self.kafka.bootstrap, candidate.reads) as kafka:
                    self._ready(candidate, process, place, kafka)
                    begin = kafka.ends()
                publishing.wait_ready()
                self.kafka.kill()
                publishing.go(_KILLED_S)
                publishing.summary()
            time.sleep(_HELD_S)
            alive = process.pid is not None
            process.kill()
            self.kafka.start()
            process.spawn()
            with Topics(self.kafka.bootstrap, candidate.reads) as kafka:
                if candidate.peer is None:
                    process.wait_until_serving()
                else:
                    time.sleep(_HELD_S)
                self._drain(kafka, begin, _DURABLE_N, self._ticks(candidate), patience=12)
                arrived = kafka.read(begin, self._devices, candidate.payload)
        finally:
            process.stop()
            mosquitto.stop()
        lost, repeated = missing(Ledger.load(folder / "ledger"), arrived)
        return {"published": _DURABLE_N, "lost": lost, "repeated": repeated, "waits": lost == 0, "stayed_up": alive}

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
        process.start()
        if candidate.peer is not None:
            wait_until_forwarding(process, place, self._probe, self._options.payload, kafka)
        return time.monotonic() - began

    def _pin(self, process: Process, mosquitto: Mosquitto, publishing: Publishing) -> None:
        cores = os.cpu_count() or 1
        if self._options.pinned and cores > 1:
            pin(process.pid or 0, {cores - 1})
            for pid in (mosquitto.pid, publishing.pid):
                pin(pid or 0, set(range(cores - 1)))

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

    def _drain(self, kafka: Topics, begin: Ends, sent: int, ticks: float, patience: int = 4) -> bool:
        """Wait until nothing but ticks (at most so many a second) comes; False if something still did at the end."""
        base, last, quiet = sum(begin.values()), -1, 0
        deadline = time.monotonic() + _DRAIN_S
        while quiet < patience and time.monotonic() < deadline:
            now = kafka.total() - base
            few = now - last <= ticks * 0.25
            quiet = quiet + 1 if few and last >= 0 else 0
            if now == sent and quiet:
                return True
            last = now
            time.sleep(0.25)
        return quiet >= patience

    def _count(
        self, sample: Sample, ledger: Ledger, arrived: Arrived, summary: dict[str, Any], window: tuple[Any, Any]
    ) -> None:
        (first_ms, before), (last_ms, after) = window
        inside = (arrived.stamp_ms >= first_ms) & (arrived.stamp_ms < last_ms)
        n, seconds = max(int(np.count_nonzero(inside)), 1), (last_ms - first_ms) / 1000
        used = after.since(before)
        sample.rate = n / seconds
        sample.cpu_us = {name: s / n * 1e6 for name, s in used.items()}
        sample.cores = {name: s / seconds for name, s in used.items()}
        sample.published, sample.acknowledged = summary["sent"], summary["acknowledged"]
        sample.late_p99_ms = summary["late_p99_ms"]
        sample.lost, sample.repeated = missing(ledger, arrived)
        sample.delivered = len(arrived.seq) - sample.repeated
        sample.latency_ms = quantiles(latencies(ledger, arrived, first_ms * 1000, last_ms * 1000))


def missing(ledger: Ledger, arrived: Arrived) -> tuple[int, int]:
    """Return how many messages that the broker acknowledged are not in Kafka, and how many records are repeats."""
    sent = ledger.sent[ledger.sent["acked_us"] > 0]
    keys = sent["device"].astype(np.int64) << _SEQ_BITS | sent["seq"].astype(np.int64)
    distinct = np.unique(arrived.key)
    return int(np.count_nonzero(~np.isin(keys, distinct))), int(arrived.key.size - distinct.size)


def latencies(ledger: Ledger, arrived: Arrived, from_us: int, to_us: int) -> Any:
    """Return stamp less intended time, ms, of the first record of each message that was due in [from_us, to_us)."""
    sent = ledger.sent[(ledger.sent["intended_us"] >= from_us) & (ledger.sent["intended_us"] < to_us)]
    keys = sent["device"].astype(np.int64) << _SEQ_BITS | sent["seq"].astype(np.int64)
    order = np.lexsort((arrived.stamp_ms, arrived.key))
    theirs, stamps = arrived.key[order], arrived.stamp_ms[order]
    at = np.searchsorted(theirs, keys)
    found = at < theirs.size
    found[found] = theirs[at[found]] == keys[found]
    return stamps[at[found]] - sent["intended_us"][found] / 1000


def run(options: IngestOptions, peers: Sequence[Peer], console: Console, folder: Path | None = None) -> Report:
    """Measure ours and every peer that is there; say of the others why they are not."""
    absent = {peer.name: why for peer in peers if (why := peer.absent())}
    candidates = [ours(), *(of_peer(peer) for peer in peers if peer.name not in absent)]
    with tempfile.TemporaryDirectory(prefix="v2x-bench-", ignore_cleanup_errors=True) as temporary:
        bench = Bench(folder or Path(temporary), options, candidates)
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
