"""Stack: brokers, topics, ingest and fusion as child processes of this one, restarted with back-off if they die.

`v2x up` runs it in the foreground; the demo and tests use the same class and inject faults with ``kill``. Everything it
writes is in ``run_dir``: data, logs, state, ports. A broker that is given is used and neither started nor stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from v2x.errors import BrokerError, ConfigError

from v2x_services import topics
from v2x_services.brokers import Kafka, Mosquitto
from v2x_services.process import Process
from v2x_services.settings import PREFIX, Settings

Say = Callable[[str, str], None]  # who, line
_BACK_OFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SETTLED_S: Final = 30.0


class Service(Process):
    """One `v2x ingest` or `v2x fuse`."""

    start_s = 240.0  # the first start on a machine compiles kernels: a minute of CPU, and others may want it too

    def __init__(self, name: str, args: list[str], folder: Path, env: Mapping[str, str], say: Say) -> None:
        super().__init__(folder, lambda line: say(name, line))
        self.name = name
        self._args, self._env = args, env

    @property
    def state_dir(self) -> Path:
        """Return the folder of its snapshots and port file."""
        return self.folder / "state"

    @property
    def url(self) -> str:
        """Return where it serves /metrics, /healthz and /readyz; empty before it told."""
        try:
            return f"http://127.0.0.1:{int((self.state_dir / f'{self.name}.port').read_text())}"
        except (OSError, ValueError):
            return ""

    def command(self) -> list[str]:
        """Return the command line; the old port file goes, so that ``serves`` asks the new process."""
        (self.state_dir / f"{self.name}.port").unlink(missing_ok=True)
        return [sys.executable, "-m", "v2x_loadtest.cli", *self._args, "--state-dir", str(self.state_dir)]

    def environment(self) -> Mapping[str, str]:
        """Return our environment with the stack's settings."""
        return {**os.environ, **self._env}

    def serves(self) -> bool:
        """Ask /readyz."""
        return self.not_ready() == ""

    def not_ready(self) -> str:
        """Return why it is not ready, or nothing."""
        if not self.url:
            return "no answer yet"
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2.0):  # noqa: S310  (our own loopback port)
                return ""
        except urllib.error.HTTPError as e:
            return str(json.loads(e.read() or b"{}").get("why", e))
        except (OSError, ValueError) as e:
            return str(e)


class Stack:
    """All of one machine's parts. ``say`` hears lines of the services and of the supervisor itself (as ``up``)."""

    def __init__(
        self,
        run_dir: Path | str,
        zones: Path | str,
        *,
        partitions: int = 8,
        shards: int = 1,
        kafka_bootstrap: str | None = None,
        mqtt: tuple[str, int] | None = None,
        kafka_port: int = 0,
        mqtt_port: int = 0,
        metrics_ports: tuple[int, int] = (0, 0),
        key_file: Path | None = None,
        say: Say | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """``extra``: more settings (name: value) for the services."""
        self.run_dir = Path(run_dir).resolve()
        self.partitions = partitions
        self._say: Say = say or (lambda _who, _line: None)
        self._stopping = threading.Event()
        self._watchers: list[threading.Thread] = []
        self.restarts: dict[str, int] = {}
        self.kafka = None if kafka_bootstrap else Kafka(self.run_dir / "kafka", port=kafka_port)
        self.mosquitto = None if mqtt else Mosquitto(self.run_dir / "mosquitto", port=mqtt_port)
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
            "log_format": "human" if sys.stderr.isatty() else "json",
            **(extra or {}),
        }
        self.env = {PREFIX + name.upper(): str(value) for name, value in settings.items() if value is not None}
        ingests = ["ingest"] if shards == 1 else [f"ingest-{i}" for i in range(shards)]
        commands = {"fusion": ["fuse"]}
        commands |= {name: ["ingest", *(["--shard", str(i)] if shards > 1 else [])] for i, name in enumerate(ingests)}
        self.services = {n: Service(n, args, self.run_dir, self.env, self._say) for n, args in commands.items()}

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
            for line in asyncio.run(topics.apply(self.kafka_bootstrap, self.partitions)):
                self._say("up", line)
            for service in self.services.values():
                service.spawn()
            for service in self.services.values():
                service.wait_until_serving()
        except BaseException:
            self.stop()
            raise
        for process in (*brokers, *self.services.values()):
            watcher = threading.Thread(target=self._watch, args=(process,), name=f"watch {process.name}", daemon=True)
            watcher.start()
            self._watchers.append(watcher)
        return self

    def stop(self) -> None:
        """Stop cleanly, in the direction of the flow: ingest, fusion, brokers."""
        self._stopping.set()
        for watcher in self._watchers:
            watcher.join(5.0)
        self._watchers.clear()
        order = sorted(self.services, key=lambda name: name == "fusion")
        for process in (*(self.services[name] for name in order), self.mosquitto, self.kafka):
            if process is not None:
                process.stop()

    def pid(self, name: str) -> int | None:
        """Return the pid of ``ingest``, ``fusion``, ``kafka`` or ``mosquitto`` while it lives."""
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
            if time.monotonic() > deadline or self._stopping.is_set():
                msg = f"{name} is not ready after {seconds:.0f} s: {process.last_line()}"
                raise BrokerError(msg)
            time.sleep(0.05)

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

    def _watch(self, process: Process) -> None:
        """Start a part again whenever it ends."""
        attempt = 0
        while True:
            began = time.monotonic()
            code = self._wait(process)
            if code is None:
                return
            attempt = 0 if time.monotonic() - began > _SETTLED_S else attempt
            wait = _BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)]
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            self._say("up", f"{process.name} {how}, starting it again in {wait} s")
            if self._stopping.wait(wait):
                return
            attempt += 1
            self.restarts[process.name] = self.restarts.get(process.name, 0) + 1
            try:
                process.spawn()
            except (BrokerError, OSError) as e:
                self._say("up", f"{process.name} cannot be started: {e}")

    def _wait(self, process: Process) -> int | None:
        """Return the exit code once the process has ended; None when we are stopping."""
        while not self._stopping.is_set():
            child = process.process
            code = child.poll() if child is not None else 1
            if code is not None:
                return code
            self._stopping.wait(0.05)
        return None
