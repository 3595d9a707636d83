"""Faults that are more than one call: each takes the world, marks when it begins and is lifted, and undoes itself."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mqtt5
import v2x
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from v2x.errors import BrokerError
from v2x.topics import EVENTS, OBSERVATIONS, TRACKS

from v2x_loadtest.bench.publisher import connect
from v2x_loadtest.chaos import side
from v2x_loadtest.chaos.clock import Clock
from v2x_loadtest.chaos.crowd import SCENE
from v2x_loadtest.chaos.parts import Cluster, SmallDisk
from v2x_loadtest.chaos.tunnel import Tunnel
from v2x_loadtest.chaos.world import World
from v2x_loadtest.scene import load_scene
from v2x_services.fusion.cores import INPUT_TOPICS
from v2x_services.fusion.snapshots import SnapshotStore

HOUR_S: Final = 3600
_JUMP_S: Final = 8.0  # that a clock stays wrong, each way
_BESIDE_S: Final = 10.0  # that floods and rubbish last
_NET_S: Final = 10.0
_FULL_S: Final = 8.0
STALE_S: Final = 15.0
_FOLLOW_S: Final = 30.0
_BUILD_PROGRAM: Final = """
import sys, v2x
from v2x_services.fusion.domain import DomainCores
from v2x_services.settings import Settings
cores = DomainCores(Settings.load(zones_path=sys.argv[1]))
cores.warm_up()
print(v2x.__file__, cores.code)
"""
POISON_SHARE: Final = 0.3
THRESHOLD: Final = ("STOPPED_VEHICLE", "dwell_ms", 1.5)  # what the other build has changed, and how many times


def in_network(what: str, **state: float | bool) -> Callable[[World], None]:
    """Return a fault of the network between the services and both brokers: ``state`` is the tunnel's for 10 s."""

    def do(w: World) -> None:
        tunnel: Tunnel = w.parts["network"]
        passed, dropped = tunnel.passed, tunnel.dropped
        w.begin(what)
        try:
            for name, value in state.items():
                setattr(tunnel, name, value)
            w.rest(_NET_S)
        finally:
            tunnel.heal()
            w.facts |= {"packets_passed": tunnel.passed - passed, "packets_dropped": tunnel.dropped - dropped}
        w.lift("the network is good again")

    return do


def half_open(w: World) -> None:
    """All connections between services and brokers die without a word; new ones work."""
    w.begin("connections of services and brokers are half open: nothing comes, nobody says so")
    tunnel: Tunnel = w.parts["network"]
    tunnel.half_open()
    w.wait_until_keeping_up(60.0)


def fill_disk(name: str) -> Callable[[World], None]:
    """Return a fault: the small disk of a broker's data is full for some time."""

    def do(w: World) -> None:
        disk: SmallDisk = w.parts[name]
        w.begin(f"the disk of {name} is full for {_FULL_S:g} s")
        disk.fill()
        try:
            if name == "mosquitto" and (pid := w.stack.pid(name)) is not None:
                os.kill(pid, signal.SIGUSR1)  # save now, not in 30 s
            w.rest(_FULL_S)
        finally:
            disk.clear()
        w.lift("there is room again")
        w.stack.wait_ready(name)

    return do


def jump(name: str) -> Callable[[World], None]:
    """Return a fault: the clock of a part is an hour ahead for some time, right, an hour behind, and right again."""

    def do(w: World) -> None:
        clock: Clock = w.parts["clock"]
        w.begin(f"the clock of {name} jumps by an hour ahead, back, an hour behind, back")
        try:
            for seconds in (HOUR_S, 0, -HOUR_S):
                clock.set(seconds)
                w.rest(_JUMP_S)
        finally:
            clock.set(0)
        w.lift("the clock is right again")

    return do


def device_jump(w: World) -> None:
    """One device's clock is an hour ahead, then an hour behind, then right."""
    shift = [0]
    place, mqtt = _place(), (w.stack.mqtt_host, w.stack.mqtt_port)
    made = side.vehicle("OBU-WRONG-CLOCK", place, 20, mqtt, clock=lambda: time.time_ns() // 10**6 + shift[0] * 1000)
    w.sides.append(made)
    with made:
        w.begin("a device's clock jumps by an hour ahead, back, an hour behind, back")
        for seconds in (HOUR_S, 0, -HOUR_S):
            shift[0] = seconds
            w.rest(_JUMP_S / 2)
        shift[0] = 0
        w.lift("its clock is right again")
        w.rest(2.0)


def flood(w: World) -> None:
    """One device sends as much as all others together."""
    made = side.vehicle("OBU-FLOOD", _place(), w.rate, (w.stack.mqtt_host, w.stack.mqtt_port))
    w.sides.append(made)
    w.begin(f"one device sends {w.rate:,.0f} good messages a second more")
    with made:
        w.rest(_BESIDE_S)
    w.lift("it is silent")


def poison(w: World) -> None:
    """Rubbish comes besides, so that it is 30 % of everything."""
    rate = w.rate * POISON_SHARE / (1 - POISON_SHARE)
    made = side.rubbish("RSU-POISON", rate, (w.stack.mqtt_host, w.stack.mqtt_port), w.seed)
    before = _bad(w)
    w.begin(f"{POISON_SHARE:.0%} of all messages cannot be decoded ({rate:,.0f}/s)")
    with made:
        w.rest(_BESIDE_S)
    w.lift("no more of them")
    w.wait_until_keeping_up(10.0)
    w.facts["poison_acknowledged"], w.facts["poison_counted"] = made.acknowledged, _bad(w) - before


def _bad(w: World) -> float:
    return w.sums().get("v2x_ingest_dead_letters_total", 0.0) + w.dropped()


def slow_consumers(w: World) -> None:
    """Let a Kafka reader take ten records a second, and an MQTT subscriber of everything read nothing."""
    stop = threading.Event()
    read = [0]

    async def crawl() -> None:
        consumer = AIOKafkaConsumer(
            TRACKS, EVENTS, bootstrap_servers=w.stack.kafka_bootstrap, group_id="slow", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            while not stop.is_set():
                found = await consumer.getmany(timeout_ms=200, max_records=1)
                read[0] += sum(map(len, found.values()))
                await asyncio.sleep(0.1)
        finally:
            with suppress(KafkaError):
                await consumer.stop()

    reading = threading.Thread(target=lambda: asyncio.run(crawl()), daemon=True)
    with connect(w.stack.mqtt_host, w.stack.mqtt_port, "slow-subscriber") as deaf:
        w.begin("a Kafka reader takes 10 records a second, an MQTT subscriber of all topics takes nothing")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("v2x/#", max_qos=mqtt5.QoS.AT_LEAST_ONCE)]).write())
        reading.start()
        try:
            w.rest(_BESIDE_S)
        finally:
            stop.set()
            reading.join(10.0)
        w.lift("both have gone")
    w.facts["slow_reader_records"] = read[0]
    if not read[0]:
        raise BrokerError("the slow reader got nothing at all")


def rebalance(w: World) -> None:
    """Fusion workers join, die for good, come again and leave, under load."""
    stack = w.stack
    w.begin("a third fusion worker joins; the busiest is killed for good, comes again after 6 s; the busiest leaves")
    stack.add(stack.fusions(1, first=2))
    w.rest(2.0)
    lost = w.busiest()
    stack.lose(lost)
    w.rest(6.0)
    stack.add(stack.fusions(1, first=int(lost.partition("-")[2])))
    w.rest(2.0)
    stack.retire(w.busiest())
    w.lift("a worker has left")


def stale_worker(w: World) -> None:
    """Stop a worker until its partitions have moved; it wakes up as if nothing had been."""
    name = w.busiest()
    w.begin(f"{name} is SIGSTOPped for {STALE_S:g} s, beyond its session time-out of 3 s")
    with w.stopped(name):
        w.rest(STALE_S)
    w.lift("it wakes up")


def lose_leader(w: World) -> None:
    """Kill the Kafka node that leads most partitions; it stays away."""
    cluster: Cluster = w.parts["cluster"]
    w.begin("kill -9 of the Kafka node that leads most partitions, for good")
    w.facts["killed_node"] = cluster.kill_leader()


def rolling(w: World) -> None:
    """Every service is stopped cleanly and started again, one after the other."""
    w.begin("clean restart of ingest, then of fusion")
    w.stack.restart("ingest")
    w.rest(3.0)
    w.stack.restart("fusion")
    w.lift("all are new")


def restart_with_standby(w: World) -> None:
    """Stop the process of ingest that works, then that of fusion, cleanly; each comes back to stand by."""
    names = _followed(w)
    w.begin(f"clean restart of {names[0]}, then of {names[1]}, which work while others stand by")
    w.stack.restart(names[0])
    w.rest(3.0)
    w.stack.restart(names[1])
    w.lift("both are new")
    w.facts["taken_over"] = sum(name != busy for name, busy in zip(names, _busy(w), strict=True))


def kill_with_standby(w: World) -> None:
    """Kill -9 the processes of ingest and fusion that work; they come back to stand by."""
    names = _followed(w)
    w.kill(*names)
    w.facts["taken_over"] = sum(name != busy for name, busy in zip(names, _busy(w), strict=True))


def freeze_with_standby(w: World) -> None:
    """SIGSTOP the processes of ingest and fusion that work until others have taken over; then they wake up."""
    names = _followed(w)
    w.begin(f"{names[0]} and {names[1]}, which work, are SIGSTOPped for {STALE_S:g} s")
    with w.stopped(*names):
        w.rest(STALE_S)
    w.lift("they wake up")
    w.rest(3.0)  # they see it, and end
    w.facts["taken_over"] = sum(name != busy for name, busy in zip(names, _busy(w), strict=True))


def upgrade_with_standby(w: World) -> None:
    """Fusion goes over to a build with another threshold: the one that stands by is of it, then the other stops."""
    _, old = _followed(w)
    build: Build = w.parts["build"]
    new = next(name for name in w.stack.services if name.startswith("fusion") and name != old)
    for name in (new, old):
        w.stack.services[name].env = {**w.stack.services[name].env, **build.environment}
    w.stack.restart(new)
    w.begin(f"{old} is stopped, and goes over to {new}: a build whose {THRESHOLD[0]} has another {THRESHOLD[1]}")
    w.stack.restart(old)


def _followed(w: World) -> tuple[str, str]:
    """Return the processes of ingest and fusion that work, once another one follows fusion in all its partitions."""
    deadline = time.monotonic() + _FOLLOW_S
    while w.sums().get("v2x_fusion_followed_partitions", 0.0) < len(INPUT_TOPICS) * w.stack.partitions:
        if time.monotonic() > deadline:
            raise BrokerError("the process that stands by does not follow all partitions")
        w.rest(0.2)
    return _busy(w)


def _busy(w: World) -> tuple[str, str]:
    return w.busiest("ingest", "v2x_ingest_connected"), w.busiest()


def outage_budget(w: World) -> None:
    """Ingest stays away for half as long again as it says that it may."""
    w.rest(11.0)  # the metric is of the last seconds
    budget = w.outage_budget_s()
    w.begin(f"ingest, which may be away for {budget:.1f} s, is away for {budget * 1.5:.1f} s")
    w.facts["budget_s"], w.facts["away_us"] = budget, float(time.time_ns() // 1000)
    w.stack.down("ingest")
    w.rest(budget * 1.5)
    w.lift("ingest is started")
    w.stack.revive("ingest")
    w.stack.wait_ready("ingest")


def upgrade(w: World) -> None:
    """Fusion goes over to a build with another threshold, by a clean stop; it begins from that snapshot."""
    build: Build = w.parts["build"]
    service = w.stack.services["fusion"]
    kind, name, times = THRESHOLD
    w.begin(f"fusion is replaced by a build whose {kind} has {times:g} times the {name}")
    service.env = {**service.env, **build.environment}
    w.stack.restart("fusion")


def wrong_build(w: World) -> str:
    """Say what is wrong if the last snapshots are not the other build's; nothing if they are."""
    build: Build = w.parts["build"]
    found: dict[str, int] = Counter()
    for p in range(w.stack.partitions):
        with closing(SnapshotStore(w.stack.state_dir / "fusion" / f"{OBSERVATIONS}-{p}")) as store:
            label, _ = store.load() or (None, b"")
            found[label.code if label is not None else "none"] += 1
    return "" if set(found) == {build.code} else f"snapshots are of {dict(found)}, the other build is {build.code}"


@dataclass(frozen=True, slots=True)
class Build:
    """A copy of the pure core with one threshold changed."""

    folder: Path
    code: str

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables with which a process runs it."""
        # Python would put the working directory, which may be the repository, before the path.
        path = os.pathsep.join((str(self.folder), os.environ.get("PYTHONPATH", "")))
        return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def make_build(folder: Path, zones: Path) -> Build:
    """Copy the pure core to ``folder``, with one threshold changed, and compile all that fusion needs."""
    shutil.copytree(Path(v2x.__file__).parent, folder / "v2x")
    change_threshold(folder / "v2x")
    build = Build(folder, "")
    command = [sys.executable, "-c", _BUILD_PROGRAM, str(zones)]
    env = {**os.environ, **build.environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
    where, _, code = done.stdout.strip().rpartition(" ")
    if done.returncode or not where.startswith(str(folder)):
        raise BrokerError(f"the other build does not run: {(done.stdout + done.stderr).strip()[-500:]}")
    return Build(folder, code)


def change_threshold(core: Path) -> None:
    """Change the threshold in a copy of the pure core; BrokerError if no table of rules has it."""
    kind, name, times = THRESHOLD
    for table in sorted((core / "events").glob("rules_*.py")):
        text = table.read_text("utf-8")
        found = re.search(rf'kind="{kind}".*?{name}=([\d_]+)', text, re.DOTALL)
        if found is not None:
            new = str(round(int(found[1].replace("_", "")) * times))
            table.write_text(text[: found.start(1)] + new + text[found.end(1) :], "utf-8")
            return
    raise BrokerError(f"no table of rules has {name} of {kind} to change")


def _place() -> tuple[float, float]:
    """Return where a device beside the crowd stands: at the scene's first roadside unit."""
    device = next(d for d in load_scene(SCENE).devices if d.kind == "rsu")
    return device.lat, device.lon
