"""The soak: a long run with a random fault every minute; memory and lag are sampled, an audit is the verdict.

The faults are those that must lose nothing at all. The seed gives their order; every fault comes once before one comes
again.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import LeanLog, read_log
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.bench.flow import room_for
from v2x_loadtest.bench.harness import machine
from v2x_loadtest.bench.plot import Chart, Line, page
from v2x_loadtest.chaos.crowd import COPY_RATE, Crowd, copies_for
from v2x_loadtest.chaos.figures import Figures, count
from v2x_loadtest.chaos.run import ChaosOptions, folder_for, world_for
from v2x_loadtest.chaos.table import Row
from v2x_loadtest.chaos.world import World

Fault = tuple[str, Callable[[World], None]]
FAULTS: Final[tuple[Fault, ...]] = (
    ("kill -9 of ingest", lambda w: w.kill("ingest")),
    ("kill -9 of fusion", lambda w: w.kill("fusion")),
    ("kill -9 of both", lambda w: w.kill("ingest", "fusion")),
    ("SIGSTOP of ingest, 5 s", lambda w: w.freeze("ingest", seconds=5.0)),
    ("SIGSTOP of fusion, 5 s", lambda w: w.freeze("fusion", seconds=5.0)),
    ("kill -9 of Kafka", lambda w: w.kill("kafka")),
    ("clean restart of Kafka", lambda w: w.restart("kafka")),
    ("Kafka away, 10 s", lambda w: w.outage("kafka", 10.0)),
    ("clean restart of Mosquitto", lambda w: w.restart("mosquitto")),
)
JUDGED: Final = ("ingest", "fusion", "mosquitto")  # Kafka's heap and page cache are its own affair
_GROWTH: Final = (0.1, 30.0)  # share, or MB: what a process may have grown from the first third to the last
_MESSAGE_BYTES: Final = 700.0
_SAMPLE_S: Final = 1.0
_WARM_S: Final = 10.0
_DRAIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What was asked for."""

    minutes: float = 10.0
    rate: float = 2000.0
    seed: int = 1
    every_s: float = 60.0
    keep: Path | None = None


@dataclass(slots=True)
class SoakReport:
    """What came of it."""

    figures: Figures
    faults: list[dict[str, Any]] = field(default_factory=list)  # what, at_s, serving_after_s
    samples: list[dict[str, float]] = field(default_factory=list)  # s, lag, in_flight, MB by process
    grown_mb: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"machine": machine(), "verdict": "FAIL" if self.wrong else "pass", **asdict(self)}


def soak(options: SoakOptions, say: Callable[[str], None]) -> SoakReport:
    """Run it."""
    chaos = ChaosOptions(options.rate, _WARM_S, options.seed, options.keep)
    row = Row("soak", "a random fault every minute", lambda _w: None)
    report = SoakReport(Figures(), options={k: v for k, v in asdict(options).items() if k != "keep"})
    with folder_for("soak", options.keep) as folder, world_for(row, chaos, folder, say) as world:
        room_for(copies_for(options.rate) * COPY_RATE * _MESSAGE_BYTES * options.minutes * 60, folder)
        mqtt = f"{world.stack.mqtt_host}:{world.stack.mqtt_port}"
        world.crowd = crowd = Crowd(mqtt, folder, copies_for(options.rate), options.seed)
        try:
            crowd.wait_until_sending()
            with _sampling(world, report.samples):
                _inflict(world, options, report)
            summary = crowd.end()
        finally:
            crowd.close()
            world.crowd = None
        figures = report.figures
        figures.rate, figures.restarts = summary["rate"], dict(world.stack.restarts)
        figures.drained = world.drain(_DRAIN_S)
        world.settle()
        say("reading the log")
        log = asyncio.run(read_log(world.stack.kafka_bootstrap, log=LeanLog()))
        count(figures, judge(log, Ledger.load(crowd.ledger)), None)
    report.grown_mb = grown(report.samples)
    report.wrong = wrong(report)
    return report


def order(seed: int, n: int) -> list[int]:
    """Return which fault comes when: n numbers of FAULTS, each once before one comes again."""
    rng, out = random.Random(seed), list[int]()
    while len(out) < n:
        out += rng.sample(range(len(FAULTS)), len(FAULTS))
    return out[:n]


def _inflict(world: World, options: SoakOptions, report: SoakReport) -> None:
    began = time.monotonic()
    end = options.minutes * 60
    for nth, number in enumerate(order(options.seed, int(end / options.every_s) + 1)):
        at = _WARM_S + nth * options.every_s
        if at + options.every_s / 2 > end:  # the last one is recovered from, too
            break
        world.rest(max(0.0, began + at - time.monotonic()))
        what, do = FAULTS[number]
        started = time.monotonic()
        do(world)
        report.faults.append(
            {"what": what, "at_s": round(started - began, 1), "serving_after_s": round(time.monotonic() - started, 1)}
        )
    world.rest(max(0.0, began + end - time.monotonic()))


@contextmanager
def _sampling(world: World, samples: list[dict[str, float]]) -> Iterator[None]:
    """Note lag and memory each second, from a thread, until the block ends."""
    stop, began = threading.Event(), time.monotonic()

    def sample() -> None:
        while not stop.wait(_SAMPLE_S):
            now = world.sums()
            samples.append(
                {
                    "s": round(time.monotonic() - began, 1),
                    "lag": now.get("v2x_fusion_lag_records", -1.0),  # -1: nobody answers
                    "in_flight": now.get("v2x_ingest_in_flight", -1.0),
                    **{name: round(mb, 1) for name, mb in world.memory().items()},
                }
            )

    thread = threading.Thread(target=sample, name="samples", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5.0)


def grown(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how many MB each process has grown from the first third of the run to the last, by medians."""
    third = max(len(samples) // 3, 1)
    names = sorted({name for row in samples for name in row} - {"s", "lag", "in_flight"})
    out = {}
    for name in names:
        first = [row[name] for row in samples[:third] if name in row]
        last = [row[name] for row in samples[-third:] if name in row]
        if first and last:
            out[name] = round(statistics.median(last) - statistics.median(first), 1)
    return out


def wrong(report: SoakReport) -> list[str]:
    """Return what is not as it must be."""
    f = report.figures
    out = [
        text
        for is_wrong, text in (
            (f.lost > 0, f"lost {f.lost:,}"),
            (f.duplicates > 0, f"{f.duplicates:,} told twice"),
            (f.missing_ends > 0, f"{f.missing_ends:,} revisions missing"),
            (f.dead > 0, f"{f.dead:,} dead letters"),
            (not f.drained, "not drained in time"),
        )
        if is_wrong
    ]
    for name in JUDGED:
        mb = [row[name] for row in report.samples[: max(len(report.samples) // 3, 1)] if name in row]
        if mb and report.grown_mb.get(name, 0.0) > max(statistics.median(mb) * _GROWTH[0], _GROWTH[1]):
            out.append(f"{name} has grown by {report.grown_mb[name]:g} MB")
    return out


def plot(report: SoakReport) -> str:
    """Return a page: lag, messages in flight and memory over time."""
    names = sorted(report.grown_mb)

    def line(title: str, unit: str, name: str) -> Chart | Line:
        points = [(row["s"], row[name]) for row in report.samples if row.get(name, -1.0) >= 0]
        return Line(title, f"{unit}, over seconds", {title: points})

    charts = [line("Lag of fusion", "records", "lag"), line("In flight in ingest", "messages", "in_flight")]
    charts += [line(f"Memory of {name}", "MB", name) for name in names]
    f = report.figures
    notes = [
        f"{f.sent:,} messages, {f.rate:,.0f}/s; lost {f.lost:,}, told twice {f.duplicates:,}",
        "; ".join(f"{row['at_s']:.0f} s: {row['what']}" for row in report.faults),
    ]
    return page("Soak: a fault every minute", notes, charts)
