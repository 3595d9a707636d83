"""Stack: brokers, topics and services as children of this process, restarted with back-off if they die.

`v2x up` runs it in the foreground; the demo and tests use the same class and inject faults with ``kill``. Everything it
writes is in ``run_dir``: data, logs, state, ports. A broker that is given is used and neither started nor stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from v2x.errors import BrokerError, ConfigError
from v2x.shards import Shard

from v2x_loadtest.keep import Keeper, Say, Service, stop_all
from v2x_services import topics
from v2x_services.brokers import Kafka, Mosquitto
from v2x_services.process import Process
from v2x_services.settings import PREFIX, Settings


class Stack:
    """All of one machine's parts. ``say`` hears lines of the services and of the supervisor itself (as ``up``)."""

    def __init__(
        self,
        run_dir: Path | str,
        zones: Path | str,
        *,
        partitions: int = 8,
        shards: int = 1,
        workers: int = 0,
        standby: bool = False,
        confirm: bool = True,
        audit: bool = False,
        replication: int = 1,
        kafka_bootstrap: str | None = None,
        mqtt: tuple[str, int] | None = None,
        kafka_port: int = 0,
        mqtt_port: int = 0,
        kafka: Kafka | None = None,
        mosquitto: Mosquitto | None = None,
        metrics_ports: tuple[int, int] = (0, 0),
        key_file: Path | None = None,
        say: Say | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """``workers``: fusion workers of a group (0: one process alone); ``extra``: more settings (name: value).

        ``standby``: of fusion and of each ingest shard there are two processes, one of which stands by; ``confirm``:
        whether reliable messages are confirmed; ``audit``: whether the standing audit runs.

        ``kafka``, ``mosquitto``: brokers made in another way than usual, to be started and stopped here.
        """
        self.run_dir = Path(run_dir).resolve()
        self.partitions, self._replication = partitions, replication
        self._say: Say = say or (lambda _who, _line: None)
        self._keeper = Keeper(self._say)
        self.kafka = None if kafka_bootstrap else kafka or Kafka(self.run_dir / "kafka", port=kafka_port)
        self.mosquitto = None if mqtt else mosquitto or Mosquitto(self.run_dir / "mosquitto", port=mqtt_port)
        self.kafka_bootstrap = kafka_bootstrap or (self.kafka.bootstrap if self.kafka else "")
        self.mqtt_host, self.mqtt_port = mqtt or ("127.0.0.1", self.mosquitto.port if self.mosquitto else 0)
        self.state_dir = self.run_dir / "state"
        self.zones = Path(zones).resolve()
        if not self.zones.is_file():
            msg = f"zones file {self.zones} does not exist: give --zones, or --scene to use a recorded scene's"
            raise ConfigError(msg)
        settings: dict[str, object] = {
            "kafka_bootstrap": self.kafka_bootstrap,
            "mqtt_host": self.mqtt_host,
            "mqtt_port": self.mqtt_port,
            "zones_path": self.zones,
            "key_file": key_file and key_file.resolve(),
            "partitions": partitions,
            "ingest_shards": shards,
            "ingest_metrics_port": metrics_ports[0],
            "fusion_metrics_port": metrics_ports[1],
            "confirm_metrics_port": 0,
            "audit_metrics_port": 0,
            "log_format": "human" if sys.stderr.isatty() else "json",
            **(extra or {}),
        }
        self.env = {PREFIX + name.upper(): str(value) for name, value in settings.items() if value is not None}
        if standby and workers:
            raise ConfigError("fusion workers take over from each other: with standby, fusion_workers must be 0")
        fusions = [self._fusion("--standby", i) for i in (0, 1)] if standby else self.fusions(workers)
        ingests = self.ingests(shards)
        if standby:
            ingests = [
                self._service(f"{name}-standby-{i}", "ingest", "--shard", f"{n}/{shards}", "--standby", str(i))
                for n, name in enumerate(service.name for service in ingests)
                for i in (0, 1)
            ]
        others = [self._service("confirm", "confirm")] if confirm else []
        if audit:
            others.append(self._service("audit", "audit", "--standing"))
        services = (*fusions, *ingests, *others)
        self.services = {service.name: service for service in services}

    def ingests(self, count: int) -> list[Service]:
        """Return the services of a set of ingest shards, not started."""
        return [self._service(Shard(i, count).name, "ingest", "--shard", f"{i}/{count}") for i in range(count)]

    def fusions(self, count: int, first: int = 0) -> list[Service]:
        """Return fusion workers from number ``first`` on, not started; the one that works alone if 0 are asked for."""
        if not count:
            return [self._service("fusion", "fuse")]
        return [self._fusion("--worker", i) for i in range(first, first + count)]

    def _fusion(self, how: str, number: int) -> Service:
        return self._service(f"fusion-{number}", "fuse", how, str(number))

    def _service(self, name: str, *args: str) -> Service:
        return Service(name, list(args), self.run_dir, self.env, self._say)

    @property
    def restarts(self) -> dict[str, int]:
        """Return how often each part was started again."""
        return self._keeper.restarts

    @property
    def settings(self) -> Settings:
        """Return settings with which a client of this stack finds it."""
        return Settings.load(
            kafka_bootstrap=self.kafka_bootstrap,
            mqtt_host=self.mqtt_host,
            mqtt_port=self.mqtt_port,
            zones_path=self.zones,
            state_dir=self.state_dir,
            partitions=self.partitions,
        )

    def places(self) -> dict[str, object]:
        """Return where everything is, JSON-able."""
        parts = {"kafka": self.kafka, "mosquitto": self.mosquitto, **self.services}
        return {
            "kafka": self.kafka_bootstrap,
            "mqtt": f"{self.mqtt_host}:{self.mqtt_port}",
            "zones": str(self.zones),
            "metrics": {name: service.url for name, service in self.services.items()},
            "pids": {name: part.pid for name, part in parts.items() if part is not None},
        }

    def start(self) -> Self:
        """Start all and wait until every service is ready; stops what it started if that fails."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        try:
            brokers: list[Process] = [b for b in (self.kafka, self.mosquitto) if b is not None]
            with ThreadPoolExecutor(max_workers=2) as pool:
                list(pool.map(lambda broker: broker.start(), brokers))
            for line in asyncio.run(topics.apply(self.kafka_bootstrap, self.partitions, self._replication)):
                self._say("up", line)
            self._launch(list(self.services.values()))
        except BaseException:
            self.stop()
            raise
        for broker in brokers:
            self._keeper.watch(broker)
        return self

    def add(self, services: Sequence[Service]) -> None:
        """Start more services, wait until they are ready, and keep them."""
        self.services |= {service.name: service for service in services}
        self._launch(services)

    def retire(self, name: str) -> None:
        """Stop a service cleanly, for good."""
        self._keeper.release(name)
        self.services.pop(name).stop()

    def lose(self, name: str) -> None:
        """Kill -9 a service that does not come back, as a fault."""
        self._keeper.release(name)
        self.services.pop(name).kill()

    def _launch(self, services: Sequence[Service]) -> None:
        for service in services:
            service.spawn()
        for service in services:
            service.wait_until_serving()
        for service in services:
            self._keeper.watch(service)

    def stop(self) -> None:
        """Stop cleanly, in the direction of the flow: ingest, what reads its log, brokers."""
        self._keeper.stop()
        stop_all([service for name, service in self.services.items() if name.startswith("ingest")])
        stop_all([service for name, service in self.services.items() if not name.startswith("ingest")])
        for process in (self.mosquitto, self.kafka):
            if process is not None:
                process.stop()

    def pid(self, name: str) -> int | None:
        """Return the pid of ``ingest``, ``fusion``, ``confirm``, ``kafka``, ``mosquitto`` … while it lives."""
        return self._process(name).pid

    def kill(self, name: str) -> int:
        """Kill -9 a part, as a fault; it comes back by itself. Returns the pid that was killed."""
        pid = self.pid(name)
        if pid is None:
            msg = f"{name} is not running"
            raise BrokerError(msg)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_ready(self, name: str, seconds: float = 60.0, *, not_pid: int | None = None) -> None:
        """Wait until a part serves, as another process than ``not_pid`` if given; BrokerError if it does not."""
        process = self._process(name)
        deadline = time.monotonic() + seconds
        while (pid := process.pid) is None or pid == not_pid or not process.serves():
            if time.monotonic() > deadline or self._keeper.stopping.is_set():
                msg = f"{name} is not ready after {seconds:.0f} s: {process.last_line()}"
                raise BrokerError(msg)
            time.sleep(0.05)

    def down(self, name: str) -> None:
        """Kill -9 a part and keep it down, as a fault, until ``revive``."""
        self._keeper.release(name)
        self._process(name).kill()

    def revive(self, name: str) -> None:
        """Start a part that is down; it is kept from now on."""
        process = self._process(name)
        process.spawn()
        self._keeper.watch(process)

    def restart(self, name: str) -> None:
        """Stop a part cleanly (SIGTERM); it is started again."""
        pid = self.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            self.wait_ready(name, not_pid=pid)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def _process(self, name: str) -> Process:
        found = {"kafka": self.kafka, "mosquitto": self.mosquitto, **self.services}.get(name)
        if found is None:
            msg = f"this stack does not run {name!r}; it runs {', '.join(self.services)}"
            raise ConfigError(msg)
        return found
