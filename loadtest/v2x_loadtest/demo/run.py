"""The demo from start to end: stack, simulator, events as they come, drain, audit, latency, score, result.

This process only watches while the devices run: Kafka, Mosquitto, ingest, fusion and the simulator share the cores, so
it reads the (few) events and a handful of counters each second, and nothing else. All else is read when it is over.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console
from v2x.errors import ConfigError

from v2x_loadtest.audit.ledger import Ledger, started_ms
from v2x_loadtest.audit.log import Log, read_log
from v2x_loadtest.audit.report import print_audit
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.demo.faults import inflict
from v2x_loadtest.demo.interrupt import closing, interruptible, run_interruptible
from v2x_loadtest.demo.result import result
from v2x_loadtest.demo.scrape import scrape
from v2x_loadtest.demo.screen import Screen, Status
from v2x_loadtest.demo.simulator import Simulator
from v2x_loadtest.demo.tail import EventTail
from v2x_loadtest.latency import measure
from v2x_loadtest.scene import Scene, load_scene
from v2x_loadtest.score import score
from v2x_loadtest.score.report import print_score
from v2x_loadtest.simulate.scale import scaled_zones
from v2x_loadtest.stack import Stack
from v2x_services.brokers import find_java, find_libs, find_mosquitto
from v2x_services.settings import Settings

_POLL_S: Final = 1.0
_DRAIN_S: Final = 60.0
_QUIET_S: Final = 2.0  # nothing new for so long, nothing in flight: drained
_LAG: Final = 100  # records; ticks keep coming


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What was asked for."""

    scene: str = "motorway"
    duration: float = 60.0
    offset: float = 0.0
    chaos: bool = False
    scale: int = 1
    seed: int = 1
    out: Path | None = None  # the result as JSON
    keep: Path | None = None  # folder for everything; else a temporary one that is removed


def run_demo(options: DemoOptions, console: Console) -> int:
    """Run it; return the exit code. V2XError for what the user must mend; Ctrl-C stops everything, then goes on up."""
    given = _given_brokers(options)
    scene = load_scene(options.scene)
    _check(options, scene)
    began = time.monotonic()
    with _folder(options.keep) as folder, Screen(console) as screen:
        zones = folder / "zones.json"
        zones.write_text(json.dumps(scaled_zones(scene, options.scale), ensure_ascii=False), "utf-8")
        ledger_dir = folder / "ledger"
        screen.phase("starting Kafka, Mosquitto, ingest and fusion")
        stack = Stack(folder, zones, say=lambda who, line: screen.say(line, "yellow") if who == "up" else None, **given)
        with interruptible(), closing(stack):
            stack.start()
            screen.say(
                f"running: Kafka {stack.kafka_bootstrap}, MQTT {stack.mqtt_host}:{stack.mqtt_port} "
                f"(ready after {time.monotonic() - began:.1f} s; logs in {folder})",
                "dim",
            )
            log, summary = run_interruptible(_drive(options, stack, screen, ledger_dir))
            screen.status = Status()
            screen.phase("stopping")
        screen.phase("counting")
        ledger = Ledger.load(ledger_dir)
        verdict, latency = judge(log, ledger), measure(log, ledger)
        screen.phase("scoring")
        points = score(log, scene, ledger)
    print_audit(console, verdict, latency)
    print_score(console, points)
    out: dict[str, Any] = result(log, verdict, latency, points)
    out |= {"simulator": summary, "options": _plain(options), "seconds": round(time.monotonic() - began, 1)}
    if options.out is not None:
        options.out.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", "utf-8")
        console.print(f"written: {options.out}")
    good = verdict.fine
    console.print("[bold green]lost 0, every event told once[/]" if good else "[bold red]not clean: see the audit[/]")
    return 0 if good else 1


def _given_brokers(options: DemoOptions) -> dict[str, Any]:
    """Return brokers that the settings name; of those that we must start ourselves, make sure that we can."""
    settings = Settings.load()
    origin = {name: where for name, (_, where, _) in settings.provenance().items()}
    given: dict[str, Any] = {}
    if origin["kafka_bootstrap"] != "default":
        if options.chaos:
            raise ConfigError(f"--chaos restarts Kafka, but {settings.kafka_bootstrap} is not ours: leave out one")
        given["kafka_bootstrap"] = settings.kafka_bootstrap
    else:
        find_java()
        find_libs()
    if origin["mqtt_host"] != "default":
        given["mqtt"] = (settings.mqtt_host, settings.mqtt_port)
    else:
        find_mosquitto()
    return given


def _check(options: DemoOptions, scene: Scene) -> None:
    if options.duration <= 0 or options.offset < 0 or options.offset + options.duration > scene.duration_s + 1e-6:
        raise ConfigError(
            f"scene {scene.name} has {scene.duration_s:g} s: {options.duration:g} s from second {options.offset:g} "
            f"do not fit in; choose --duration up to {scene.duration_s - max(options.offset, 0):g}"
        )
    if options.out is not None and not options.out.resolve().parent.is_dir():
        raise ConfigError(f"--json {options.out}: there is no folder {options.out.resolve().parent}")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        if (keep / "kafka").exists():
            raise ConfigError(f"--keep {keep} holds an earlier run; choose another folder, or remove it")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="v2x-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _drive(options: DemoOptions, stack: Stack, screen: Screen, ledger: Path) -> tuple[Log, dict[str, Any]]:
    """Let the devices run, watch, wait until all is through, and read the topics."""
    tail = EventTail(stack.kafka_bootstrap, screen.event)
    simulator = Simulator()
    status = screen.status
    status.of_s = options.duration
    tasks = [asyncio.create_task(tail.run()), asyncio.create_task(_watch(stack, simulator, screen, ledger))]
    try:
        screen.phase(f"{options.scene}{' with faults' if options.chaos else ''}")
        running = asyncio.create_task(
            simulator.run(
                options.scene,
                f"{stack.mqtt_host}:{stack.mqtt_port}",
                ledger,
                duration=options.duration,
                offset=options.offset,
                scale=options.scale,
                seed=options.seed,
            )
        )
        tasks.append(running)
        if options.chaos:
            tasks.append(asyncio.create_task(_chaos(simulator, stack, options, screen)))
        await _first_failure(tasks, until=running)
        if options.chaos:
            await tasks[-1]
        status.of_s = 0.0
        screen.phase("draining")
        if not await _drained(stack):
            screen.say(f"not drained after {_DRAIN_S:.0f} s; the audit says what is missing", "red")
        screen.phase("reading the topics")
        log = await read_log(stack.kafka_bootstrap)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return log, simulator.summary


async def _first_failure(tasks: list[asyncio.Task[Any]], until: asyncio.Task[Any]) -> None:
    """Wait for ``until``; a task that fails meanwhile ends the wait with its error."""
    while not until.done():
        done, _ = await asyncio.wait({t for t in tasks if not t.done()}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    until.result()


async def _chaos(simulator: Simulator, stack: Stack, options: DemoOptions, screen: Screen) -> None:
    """Inflict faults from the first message on."""
    while not simulator.published:  # noqa: ASYNC110 - it is told by a line of another process
        await asyncio.sleep(0.1)
    await inflict(stack, options.duration - 1.0, lambda line: screen.say(line, "bold magenta"))


async def _scrape(stack: Stack) -> dict[str, float]:
    """Return the counters of all services, added up."""
    places = [urlsplit(service.url) for service in stack.services.values() if service.url]
    total: dict[str, float] = {}
    for found in await asyncio.gather(*(scrape(p.hostname or "", p.port or 0) for p in places)):
        for name, value in found.items():
            total[name] = total.get(name, 0.0) + value
    return total


async def _watch(stack: Stack, simulator: Simulator, screen: Screen, ledger: Path) -> None:
    """Keep the status line true. A service that was killed counts from 0 again, so totals never fall here."""
    status, base, last = screen.status, dict[str, float](), dict[str, float]()

    def total(name: str, now: dict[str, float]) -> int:
        value = now.get(name, last.get(name, 0.0))
        if value < last.get(name, 0.0):
            base[name] = base.get(name, 0.0) + last[name]
        last[name] = value
        return int(base.get(name, 0.0) + value)

    while True:
        now = await _scrape(stack)
        if not screen.t0_ms:
            screen.t0_ms = started_ms(ledger)
        if screen.t0_ms:
            status.elapsed_s = min(max(time.time() - screen.t0_ms / 1000, 0.0), status.of_s)
        status.published, status.acknowledged = simulator.published, simulator.acknowledged
        status.in_kafka = total("v2x_ingest_forwarded_total", now)
        status.dead = total("v2x_ingest_dead_letters_total", now)
        if "v2x_fusion_tracks" in now:
            status.tracks, status.lag = int(now["v2x_fusion_tracks"]), int(now.get("v2x_fusion_lag_records", 0))
        screen.refresh()
        await asyncio.sleep(_POLL_S)


async def _drained(stack: Stack) -> bool:
    """Wait until nothing new comes out of MQTT, nothing is in flight and fusion is at the end of its log."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DRAIN_S
    before, since = -1.0, loop.time()
    while loop.time() < deadline:
        now = await _scrape(stack)
        received = now.get("v2x_ingest_received_total", -1.0)
        idle = received >= 0 and not now.get("v2x_ingest_in_flight") and now.get("v2x_fusion_lag_records", 1e9) <= _LAG
        if received != before or not idle or not now.get("v2x_ingest_connected"):
            before, since = received, loop.time()
        elif loop.time() - since >= _QUIET_S:
            return True
        with suppress(asyncio.TimeoutError):
            await asyncio.sleep(0.25)
    return False


def _plain(options: DemoOptions) -> dict[str, Any]:
    return {
        "scene": options.scene,
        "duration": options.duration,
        "offset": options.offset,
        "chaos": options.chaos,
        "scale": options.scale,
        "seed": options.seed,
    }
