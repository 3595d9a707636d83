"""The whole flow under an open-loop load of RSUs: publisher, Mosquitto, ingest, Kafka and fusion on this machine.

The content is the recorded scene's, side by side as often as needed, thinned to the wanted number of participants an
RSM; it is made before the run and only patched and sent during it. Vehicles jump where a pass of the content ends.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from v2x.errors import ConfigError
from v2x.topics import DEADLETTER, OBSERVATIONS, TRACKS

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.registry import Registry
from v2x_loadtest import latency
from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import LeanLog, Log, read_log
from v2x_loadtest.bench.drive import Publishing
from v2x_loadtest.bench.load import SEQ_FIRST, BenchDevice, Load, from_messages, merged, thinned
from v2x_loadtest.bench.proc import Usage, rss_mb
from v2x_loadtest.demo.scrape import scrape
from v2x_loadtest.scene import Scene, load_scene
from v2x_loadtest.simulate.build import Generator
from v2x_loadtest.simulate.options import LinkModel, Options
from v2x_loadtest.simulate.scale import scaled_zones
from v2x_loadtest.stack import Stack

Say = Callable[[str], None]
_TOPICS: Final = (OBSERVATIONS, DEADLETTER, TRACKS)
_CYCLE_S: Final = 60
_MAKING_S: Final = (6.0, 0.02)  # from making the content to the first message: always, and for each RSU
_SLOW: Final = 4.0  # and so many times what preparing took: the machine may be busy
_PROBE_S: Final = 2.0
_DRAIN_S: Final = 60.0
_QUIET_LAG: Final = 200
_DISK_SHARE: Final = 2.5  # of what is published: headers, copies for halo zones, frames
_DISK_BYTES: Final = 1 << 30  # and that much at least


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """What was asked for."""

    rsus: int = 100
    seconds: float = 30.0
    warm_s: float = 5.0  # not in the figures
    participants: float = 20.0
    scene: str = "motorway"
    types: frozenset[str] = frozenset({"rsm"})
    partitions: int = 8
    offset_s: float = 20.0
    zone_copies: int = 0  # copies of the scene that are one zone; 0: zones as recorded


@dataclass(slots=True)
class FlowReport:
    """What came of it; CPU and latencies are those after the warm-up."""

    rsus: int
    rate: float  # published messages a second
    participants: float
    payload_bytes: float
    published: int = 0
    acknowledged: int = 0
    in_kafka: int = 0
    lost: int = 0
    repeated: int = 0
    untracked: int = 0
    dead: int = 0
    halo_copies: int = 0
    behind: bool = False  # a service could not keep up: see lag
    flat: bool = True  # the lag of the last third of the run is that of the first
    drained: bool = True
    late_p99_ms: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)
    cpu_us: dict[str, float] = field(default_factory=dict)
    rss_mb: dict[str, tuple[float, float]] = field(default_factory=dict)  # at the end of the warm-up, at the end
    latency: dict[str, dict[str, Any]] = field(default_factory=dict)
    series: list[dict[str, float]] = field(default_factory=list)
    restarts: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def make_load(options: FlowOptions, say: Say) -> tuple[Load, dict[str, Any], float]:
    """Return the load, its zone map and how many participants an RSM has on average."""
    scene, doc, mean = prepare(options, say)
    return content(scene, options, 0.0), doc, mean


def prepare(options: FlowOptions, say: Say) -> tuple[Scene, dict[str, Any], float]:
    """Return the thinned scene, the zone map of all its copies, and how many participants an RSM has on average."""
    scene = load_scene(options.scene)
    if options.offset_s + _CYCLE_S > scene.duration_s:
        raise ConfigError(f"scene {scene.name} is too short: {_CYCLE_S} s from second {options.offset_s:g} are needed")
    mean = _participants(scene, options)
    if options.participants > mean:
        say(f"the scene has {mean:.1f} participants an RSM at most; {options.participants:g} were asked for")
    scene = thinned(scene, min(options.participants / mean, 1.0))
    doc = scaled_zones(scene, _generator(scene, options, options.rsus, _PROBE_S).fleet.copies)
    if options.zone_copies:
        doc = merged(doc, len(scene.zones["zones"]), options.zone_copies)
    return scene, doc, _participants(scene, options)


def content(scene: Scene, options: FlowOptions, in_s: float) -> Load:
    """Return a minute of messages of a scene that was prepared, to begin in ``in_s`` seconds or minutes later."""
    # Content can begin at one second of the minute; the one at which all will be ready saves waiting.
    begin_us = int(time.time() + in_s) * 1_000_000
    generator = _generator(scene, options, options.rsus, _CYCLE_S, begin_us)
    fleet = generator.fleet
    devices = [BenchDevice(i, k, int(b)) for i, k, b in zip(fleet.ids, fleet.kinds, fleet.boot_ms, strict=True)]
    speaking = [number for number, device in enumerate(devices) if device.kind == "rsu"]
    renumber = np.full(len(devices), -1, np.int64)
    renumber[speaking] = np.arange(len(speaking))
    steps = []
    while not generator.done:
        made = generator.step()
        rows = made.messages[made.messages["intended_us"] < begin_us + _CYCLE_S * 1_000_000].copy()
        rows = rows[renumber[rows["device"]] >= 0]
        rows["device"] = renumber[rows["device"]]
        steps.append((rows, made.blob))
    return from_messages(
        f"{scene.name} x{fleet.copies}", [devices[n] for n in speaking], steps, begin_us, _CYCLE_S * 1_000_000
    )


def _generator(scene: Scene, options: FlowOptions, rsus: int, seconds: float, begin_us: int = 0) -> Generator:
    made = Generator(
        scene,
        Options(
            duration=seconds, offset=options.offset_s, rsus=rsus, obus=0, types=options.types,
            link=LinkModel(duplicate=0.0),
        ),
        begin_us or time.time_ns() // 1000,
    )  # fmt: skip
    made.fleet.seq[:] = SEQ_FIRST
    return made


def _participants(scene: Scene, options: FlowOptions) -> float:
    generator = _generator(scene, options, sum(d.kind == "rsu" for d in scene.devices), _PROBE_S)
    decoder = ColumnDecoder(Registry.load())
    n = rows = 0
    while not generator.done:
        step = generator.step()
        batch = decoder.decode_mqtt([step.payload(i) for i in range(len(step.messages))])
        n += len(batch.tables["rsm"].msg)
        rows += len(batch.tables["rsm.participants"].msg)
    return rows / max(n, 1)


def run(options: FlowOptions, folder: Path, say: Say) -> FlowReport:
    """Start the stack, make the content, send, drain, read the log, count."""
    began = time.monotonic()
    scene, zones, participants = prepare(options, say)
    in_s = _MAKING_S[0] + _MAKING_S[1] * options.rsus + _SLOW * (time.monotonic() - began)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zones.json").write_text(json.dumps(zones, ensure_ascii=False), "utf-8")
    seconds = options.warm_s + options.seconds
    say("starting the stack")
    with Stack(
        folder,
        folder / "zones.json",
        partitions=options.partitions,
        confirm=False,  # RSMs are perishable: there is nothing to confirm
        say=lambda who, line: _heard(who, line, say),
    ) as stack:
        load = content(scene, options, in_s)
        room_for(load.rate * load.payload_bytes * seconds, folder)
        load.save(folder / "load")
        report = FlowReport(options.rsus, 0.0, participants, load.payload_bytes)
        size = len(load.packets) / 1e6
        say(f"{len(load.rows):,} messages made ({size:,.0f} MB, {participants:.1f} participants each)")
        rows = round(load.rate * seconds * 1.02) + 1000
        with Publishing(folder / "load", stack.mqtt_host, stack.mqtt_port, rows, folder / "ledger") as publishing:
            publishing.wait_ready()
            t0_us = publishing.go(seconds, load.start_ms)
            if (wait := t0_us / 1e6 - time.time()) > 1:
                say(f"{load.rate:,.0f} messages a second from in {wait:.0f} s (the content's whole minute)")
            del load
            _watch(stack, publishing, t0_us, options, report)
            summary = publishing.summary()
        report.drained = drain(stack)
        report.restarts = dict(stack.restarts)
        say("reading the log")
        log = asyncio.run(read_log(stack.kafka_bootstrap, _TOPICS, LeanLog()))
    _count(report, log, Ledger.load(folder / "ledger"), summary, t0_us, options)
    return report


def room_for(published: float, folder: Path) -> None:
    """Refuse a run whose log would not fit where ``folder`` is; ``published``: bytes."""
    needed, free = published * _DISK_SHARE + _DISK_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"the run needs about {needed / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} GB are free: give less time, "
            f"fewer RSUs, or a folder on another disk (--keep, or TMPDIR)"
        )


def is_flat(lags: Sequence[float], rate: float) -> bool:
    """Say whether a lag (records, once a second) does not grow: its last third is as its first, to a tenth of a second.

    ``rate``: records a second.
    """
    third = max(len(lags) // 3, 1)
    if not lags:
        return True
    return float(np.median(lags[-third:]) - np.median(lags[:third])) <= max(rate * 0.1, _QUIET_LAG)


def _heard(who: str, line: str, say: Say) -> None:
    if who == "up" or '"level": "error"' in line:
        say(f"{who}: {line}")


def _pids(stack: Stack, publishing: Publishing) -> dict[str, int | None]:
    found: Any = stack.places()["pids"]
    return {"publisher": publishing.pid, **found}


def _watch(stack: Stack, publishing: Publishing, t0_us: int, options: FlowOptions, report: FlowReport) -> None:
    """Note CPU, memory and lag each second until the end."""
    warm_us, end_us = (t0_us + round(s * 1e6) for s in (options.warm_s, options.warm_s + options.seconds))
    time.sleep(max(warm_us / 1e6 - time.time(), 0.0))
    pids = _pids(stack, publishing)
    first, began, sent = Usage.of(pids), time.time(), publishing.sent
    memory = {name: rss_mb(pid or 0) for name, pid in pids.items()}
    while (now := time.time()) < end_us / 1e6 and publishing.running():
        report.series.append({"s": round(now - began, 1), **_lag(stack)})
        time.sleep(min(1.0, max(end_us / 1e6 - time.time(), 0.0)))
    last, seconds = Usage.of(pids), time.time() - began
    report.series.append({"s": round(seconds, 1), **_lag(stack)})
    n = max(publishing.sent - sent, 1)
    report.rate = n / seconds
    report.cores = {name: s / seconds for name, s in last.since(first).items()}
    report.cpu_us = {name: s / n * 1e6 for name, s in last.since(first).items()}
    report.rss_mb = {name: (memory[name], rss_mb(pid or 0)) for name, pid in pids.items()}


def _lag(stack: Stack) -> dict[str, float]:
    found = metrics(stack)
    return {
        "lag": found.get("v2x_fusion_lag_records", -1.0),
        "in_flight": found.get("v2x_ingest_in_flight", -1.0),
        "tracks": found.get("v2x_fusion_tracks", -1.0),
    }


def metrics(stack: Stack) -> dict[str, float]:
    """Return what all services tell of themselves, each metric's series added up."""
    return asyncio.run(_scrape(stack))


async def _scrape(stack: Stack) -> dict[str, float]:
    out: dict[str, float] = {}
    for service in stack.services.values():
        place = urlsplit(service.url)
        if place.hostname and place.port:
            out.update(await scrape(place.hostname, place.port))
    return out


def drain(stack: Stack) -> bool:
    """Wait until nothing is in flight and fusion is at the end of its log."""
    deadline, quiet = time.monotonic() + _DRAIN_S, 0
    while time.monotonic() < deadline:
        found = _lag(stack)
        quiet = quiet + 1 if found["in_flight"] == 0 and 0 <= found["lag"] <= _QUIET_LAG else 0
        if quiet > 3:
            return True
        time.sleep(0.25)
    return False


def _count(
    report: FlowReport, log: Log, ledger: Ledger, summary: dict[str, Any], t0_us: int, options: FlowOptions
) -> None:
    both = latency.join(log, ledger)
    acked = ledger.sent["acked_us"] > 0
    there = np.zeros(len(ledger.sent), bool)
    there[both.ledger_row] = True
    report.published, report.acknowledged = summary["sent"], summary["acknowledged"]
    report.late_p99_ms = summary["late_p99_ms"]
    report.in_kafka, report.lost = int(there.sum()), int(np.count_nonzero(acked & ~there))
    report.repeated = len(log) - report.in_kafka
    report.dead, report.halo_copies = len(log.dead), log.halo_copies
    lags = [row["lag"] for row in report.series if row["lag"] >= 0]
    report.behind = bool(lags and lags[-1] > max(report.rate, 1000.0))  # a second of input
    report.flat = is_flat(lags, report.rate)
    inside = both.intended_us >= t0_us + round(options.warm_s * 1e6)
    steady = latency.Joined(*(column[inside] for column in (both.row, both.intended_us, both.ledger_row)))
    stamp_us = log.column("stamp_ms")[steady.row] * 1000
    rx_us = log.column("rx_us")[steady.row]
    report.latency["publish_to_kafka"] = latency.quantiles((stamp_us - steady.intended_us) / 1000)
    report.latency["publish_to_ingest"] = latency.quantiles((rx_us - steady.intended_us)[rx_us > 0] / 1000)
    tracks = latency.Latency()
    latency._tracks(tracks, log, steady)  # noqa: SLF001
    report.latency["publish_to_track"] = tracks.hops["publish_to_track"]
    report.latency["kafka_to_track"] = tracks.hops["kafka_to_track"]
    report.untracked = tracks.untracked
