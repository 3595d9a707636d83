"""What the benchmark must know of a peer, and adapters from a file for any other command.

An adapter file is TOML::

    name = "my bridge"
    what = "version 2, one worker"
    command = ["my-bridge", "--mqtt", "{mqtt_host}:{mqtt_port}", "--filter", "{filter}", "--kafka", "{kafka}",
               "--topic", "{topic}", "--client-id", "{client_id}"]
    payload = "raw"        # what it writes to Kafka: the bytes as they came, or "influx" (a base64 field)
"""

from __future__ import annotations

import os
import shutil
import string
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from v2x.errors import ConfigError

from v2x_services.brokers import PROJECT

HOME: Final = PROJECT / ".v2x" / "peers"  # each peer has a folder of its own in it
RECEIVE_MAXIMUM: Final = 2048  # what ours has, where a peer can be told
_INSTALL_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer works."""

    mqtt_host: str
    mqtt_port: int
    filter: str  # MQTT topic filter
    kafka: str  # bootstrap
    topic: str  # Kafka topic to write to
    client_id: str
    folder: Path  # for its configuration

    def fill(self, text: str) -> str:
        """Return a text with ``$name`` of our fields filled in."""
        return string.Template(text).substitute({n: str(getattr(self, n)) for n in self.__dataclass_fields__})

    def write(self, name: str, text: str) -> Path:
        """Write a filled-in file into the folder."""
        path = self.folder / name
        path.write_text(self.fill(text), "utf-8")
        return path


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that forwards MQTT to Kafka."""

    name: str
    what: str  # what it does of what we do
    program: Path  # present where the peer is installed
    command: Callable[[Place], Sequence[str]]
    install: Sequence[Sequence[str]] = ()  # commands; {home} is the folder for it
    python: str = ""  # make a virtual environment with an interpreter at least this new
    payload: str = "raw"
    environment: dict[str, str] = field(default_factory=dict)  # for installing

    @property
    def home(self) -> Path:
        """Return the folder it is installed in."""
        return HOME / self.name

    def absent(self) -> str:
        """Return why it cannot be run, or nothing."""
        if self.program.exists():
            return ""
        if self.python and not find_python(self.python):
            return f"not installed: needs Python {self.python} or newer, and none is on the path"
        return "not installed (--install-peers does it)" if self.install else f"{self.program} is not there"

    def set_up(self) -> str:
        """Install it; return what went wrong, or nothing."""
        if self.program.exists():
            return ""
        if not self.install:
            return self.absent()
        commands = [list(map(self._filled, command)) for command in self.install]
        if self.python:
            interpreter = find_python(self.python)
            if not interpreter:
                return self.absent()
            commands.insert(0, [interpreter, "-m", "venv", str(self.home)])
        self.home.mkdir(parents=True, exist_ok=True)
        for command in commands:
            if shutil.which(command[0]) is None:
                return f"not installed: {command[0]} is needed and not on the path"
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=_INSTALL_S,
                    env={**os.environ, **{k: self._filled(v) for k, v in self.environment.items()}},
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return f"not installed: {command[0]} took over {_INSTALL_S:.0f} s"
            if done.returncode:
                return f"not installed: {' '.join(command)}: {(done.stderr.strip() or '?').splitlines()[-1][:300]}"
        return self.absent()

    def _filled(self, text: str) -> str:
        return text.replace("{home}", str(self.home))


def find_python(least: str) -> str:
    """Return an interpreter at least as new as ``least`` (3.12): ours, else the newest there is; or nothing."""
    wanted = tuple(map(int, least.split(".")))
    named = [shutil.which(f"python3.{minor}") for minor in range(wanted[1] + 5, wanted[1] - 1, -1)]
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"), key=_age, reverse=True)
    for candidate in [sys.executable, *named, *map(str, pyenv)]:
        if not candidate:
            continue
        ask = [candidate, "-c", f"import sys, venv, ensurepip; sys.exit(sys.version_info < {wanted!r})"]
        if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
            return candidate
    return ""


def _age(path: Path) -> list[int]:
    return [int(part) for part in path.parents[1].name.split(".") if part.isdigit()]


def load_adapter(path: Path) -> Peer:
    """Return the peer that an adapter file describes; ConfigError says what is wrong with it."""
    try:
        doc = tomllib.loads(path.read_text("utf-8"))
        name, what, command = str(doc["name"]), str(doc["what"]), [str(part) for part in doc["command"]]
        payload = str(doc.get("payload", "raw"))
        program = shutil.which(command[0])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"adapter file {path} is not of the documented form: {error!r}") from error
    if payload not in {"raw", "influx"}:
        raise ConfigError(f"adapter file {path}: payload is raw or influx, not {payload!r}")

    def filled(place: Place) -> list[str]:
        fields = {n: str(getattr(place, n)) for n in place.__dataclass_fields__}
        return [part.format(**fields) for part in command]

    return Peer(name=name, what=what, program=Path(program or command[0]), command=filled, payload=payload)
