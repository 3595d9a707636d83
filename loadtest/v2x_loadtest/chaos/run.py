"""One row of the matrix from start to end: build the world, warm up, inject, recover, drain, read the log, judge."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from v2x.errors import BrokerError, V2XError
from v2x.topics import UPLINKS, MessageClass

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Log
from v2x_loadtest.audit.quiet import compare, read_all
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.chaos.clock import Clock
from v2x_loadtest.chaos.crowd import COPY_RATE, SCENE, Crowd, copies_for
from v2x_loadtest.chaos.faults import make_build
from v2x_loadtest.chaos.figures import Figures, count, excuse, time_it
from v2x_loadtest.chaos.parts import ClockedKafka, Cluster, SmallDisk
from v2x_loadtest.chaos.table import Row, verdict
from v2x_loadtest.chaos.tunnel import FAR, NEAR, Tunnel
from v2x_loadtest.chaos.world import World
from v2x_loadtest.demo.interrupt import closing, interruptible
from v2x_loadtest.latency import join
from v2x_loadtest.scene import load_scene
from v2x_loadtest.simulate.scale import scaled_zones
from v2x_loadtest.stack import Stack
from v2x_services.brokers import Kafka, Mosquitto, free_port
from v2x_services.fusion.domain import DomainCores

Say = Callable[[str], None]
PARTITIONS: Final = 8
_DISK_MB: Final = {"kafka": 256, "mosquitto": 8}
_STEADY_S: Final = 2.0  # the first messages are all maps at once
_BACK_S: Final = 30.0  # most that is waited, beyond what the row allows
_DRAIN_S: Final = 60.0
_PERISHABLE: Final = [row.code for row in UPLINKS if row.message_class is MessageClass.PERISHABLE]


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """What was asked for."""

    rate: float = 2000.0
    seconds: float = 8.0  # of load before the fault, and after all is well again
    seed: int = 1
    keep: Path | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a row."""

    row: Row
    figures: Figures | None = None  # None where it could not run
    wrong: list[str] = field(default_factory=list)
    not_possible: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """Return ``pass``, ``FAIL`` or ``not possible here``."""
        return "not possible here" if self.not_possible else "FAIL" if self.wrong else "pass"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "row": self.row.name,
            "fault": self.row.what,
            "expected": self.row.expect.text(),
            "verdict": self.verdict,
            "wrong": self.wrong,
            "not_possible": self.not_possible,
            "seconds": round(self.seconds, 1),
            "recovery_limit_s": self.row.expect.recovery_s,
            "figures": None if self.figures is None else self.figures.as_dict(),
        }


def run_row(row: Row, options: ChaosOptions, say: Say) -> Outcome:
    """Run one row in a folder of its own; a V2XError on the way is a failure of the row."""
    began = time.monotonic()
    out = Outcome(row, not_possible=row.why_not())
    if not out.not_possible:
        with folder_for(row.name, options.keep) as folder:
            try:
                out.figures, out.wrong = _run(row, options, folder, say)
            except V2XError as error:
                out.wrong = [str(error)]
    out.seconds = time.monotonic() - began
    return out


@contextmanager
def folder_for(name: str, keep: Path | None) -> Iterator[Path]:
    """Give a folder that goes afterwards, or one below ``keep`` that stays."""
    if keep is not None:
        folder = keep.resolve() / f"{name}-{time.strftime('%H%M%S')}"
        folder.mkdir(parents=True)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix=f"v2x-chaos-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def world_for(row: Row, options: ChaosOptions, folder: Path, say: Say) -> Iterator[World]:
    """Give a running world without a crowd; all that was started is stopped."""
    copies = copies_for(options.rate)
    zones = folder / "zones.json"
    zones.write_text(json.dumps(scaled_zones(load_scene(SCENE), copies), ensure_ascii=False), "utf-8")
    with ExitStack() as undo:
        how, parts = _parts(row, options, folder, undo)
        stack = Stack(
            folder / "run",
            zones,
            partitions=PARTITIONS,
            workers=row.setup.workers,
            standby=row.setup.standby,
            say=lambda who, line: say(f"{who}: {line}") if who == "up" and " made with " not in line else None,
            **how,
        )
        if row.setup.clock == "ingest":
            ingest = stack.services["ingest"]
            ingest.env = {**ingest.env, **parts["clock"].environment}
        # ``closing`` ignores signals while it stops the stack; the next row must hear them again.
        with interruptible(), closing(stack):
            if "cluster" in parts:
                parts["cluster"].start()
            stack.start()
            world = World(stack, folder, copies * COPY_RATE, say, options.seed)
            world.parts = parts
            yield world


def _parts(row: Row, options: ChaosOptions, folder: Path, undo: ExitStack) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make what a row's setup asks for; return arguments of the stack, and the parts."""
    setup, parts, how = row.setup, dict[str, Any](), dict[str, Any]()
    run = folder / "run"
    if setup.clock:
        parts["clock"] = Clock(folder / "clock")
    if setup.clock == "kafka":
        how["kafka"] = ClockedKafka(run / "kafka", parts["clock"].environment)
    if setup.build:
        parts["build"] = make_build(folder / "build", folder / "zones.json")
    if setup.cluster:
        parts["cluster"] = cluster = Cluster(run)
        undo.callback(cluster.stop)
        how |= {"kafka_bootstrap": cluster.bootstrap, "replication": len(cluster.nodes)}
    if setup.small_disk:
        disk = parts[setup.small_disk] = SmallDisk(run / setup.small_disk / "data", _DISK_MB[setup.small_disk])
        undo.callback(disk.unmount)
        if setup.small_disk == "kafka":  # room for the load, not for whole segments made beforehand
            how["kafka"] = Kafka(run / "kafka", settings={"log.index.size.max.bytes": 65536})
    if setup.queue_s:
        queue = round(setup.queue_s * copies_for(options.rate) * COPY_RATE)
        how["mosquitto"] = Mosquitto(run / "mosquitto", settings={"max_queued_messages": queue})
        how["extra"] = {"queue_messages": queue}
    if setup.network:
        parts["network"] = undo.enter_context(Tunnel(options.seed))
        how |= _through_the_tunnel(run)
    return how, parts


def _through_the_tunnel(run: Path) -> dict[str, Any]:
    """Return arguments of a stack whose services reach both brokers at FAR; all others have the loopback."""
    port = free_port(NEAR)
    kafka = Kafka(run / "kafka")
    rest = f"PLAINTEXT://{kafka.bootstrap},CONTROLLER://{kafka.host}:{kafka.controller_port}"
    kafka.settings = {
        "listeners": f"{rest},TUNNEL://{NEAR}:{port}",
        "advertised.listeners": f"{rest},TUNNEL://{FAR}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TUNNEL:PLAINTEXT",
    }
    # One listener for both ends: the namespace has nobody else in it.
    mosquitto = Mosquitto(run / "mosquitto")
    mosquitto.settings = {"listener": f"{mosquitto.port} 0.0.0.0"}
    services = {"mqtt_host": FAR, "kafka_bootstrap": f"{FAR}:{port}"}
    return {"kafka": kafka, "mosquitto": mosquitto, "extra": services}


def _run(row: Row, options: ChaosOptions, folder: Path, say: Say) -> tuple[Figures, list[str]]:
    figures = Figures()
    with world_for(row, options, folder, say) as world:
        figures.facts = world.facts
        mqtt = f"{world.stack.mqtt_host}:{world.stack.mqtt_port}"
        world.crowd = crowd = Crowd(mqtt, folder, copies_for(options.rate), options.seed)
        try:
            crowd.wait_until_sending()
            world.rest(_STEADY_S)
            if not world.wait_until_keeping_up(_BACK_S):
                raise BrokerError("the services do not keep up before the fault: the load is too much for this machine")
            steady_us = time.time_ns() // 1000
            world.rest(options.seconds)
            row.do(world)
            left = row.expect.recovery_s + _BACK_S - (time.time_ns() // 1000 - world.lifted_us) / 1e6
            world.wait_until_keeping_up(max(left, 1.0))
            world.rest(options.seconds)
            say("the load ends")
            crowd.end()
        finally:
            crowd.close()
            world.crowd = None
        figures.drained = world.drain(_DRAIN_S)
        figures.restarts = dict(world.stack.restarts)
        dropped = world.dropped()
        world.settle()
        say("reading the log")
        log, records = asyncio.run(read_all(world.stack.kafka_bootstrap))
        cores = DomainCores(world.stack.settings)
    ledger = Ledger.load(crowd.ledger)
    for side in world.sides:
        side.enter(ledger)
    quiet = None
    if row.expect.quiet:
        cores.warm_up()
        quiet = compare(records, cores, PARTITIONS)
    audit = judge(log, ledger)
    count(figures, audit, quiet)
    if world.sides:
        excuse(figures, audit, [side.device.id for side in world.sides], dropped)
    time_it(figures, log, ledger, steady_us, world.began_us, world.lifted_us, row.setup.clock)
    if "away_us" in world.facts:
        world.facts |= _first_lost(log, ledger, world.facts["away_us"])
    return figures, verdict(row, figures, world)


def _first_lost(log: Log, ledger: Ledger, away_us: float) -> dict[str, float]:
    """Return when the first perishable message was lost, in seconds after ``away_us``."""
    there = np.zeros(len(ledger.sent), bool)
    there[join(log, ledger).ledger_row] = True
    sent = ledger.sent
    lost = sent[(sent["acked_us"] > 0) & ~there & (sent["flags"] == 0) & np.isin(sent["type"], _PERISHABLE)]
    return {"first_lost_s": round((int(lost["acked_us"].min()) - away_us) / 1e6, 2)} if lost.size else {}
