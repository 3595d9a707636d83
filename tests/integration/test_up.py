"""`v2x up`: all parts as real processes; what dies comes back, what is asked to stop leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from v2x.errors import BrokerError, ConfigError

from v2x_loadtest.scene.synthetic import synthetic_scene
from v2x_loadtest.stack import Stack
from v2x_services.brokers import Mosquitto

pytestmark = pytest.mark.real


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(synthetic_scene().zones))
    return path


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


def test_whatever_dies_comes_back(zones: Path, tmp_path: Path) -> None:
    said: list[str] = []
    with Stack(tmp_path / "run", zones, partitions=2, say=lambda who, line: said.append(f"{who} {line}")) as stack:
        for name in ("fusion", "ingest", "mosquitto", "kafka"):
            pid = stack.kill(name)
            stack.wait_ready(name, not_pid=pid)
        for name in stack.services:  # they outlived their brokers
            stack.wait_ready(name)
        assert stack.restarts == {"fusion": 1, "ingest": 1, "mosquitto": 1, "kafka": 1}
        pids: dict[str, int] = stack.places()["pids"]
        assert all(alive(pid) for pid in pids.values())
        with pytest.raises(ConfigError, match="does not run 'tractor'"):
            stack.kill("tractor")
    assert not any(alive(pid) for pid in pids.values())
    assert any("fusion was killed by signal 9" in line for line in said)
    assert any("stopped cleanly" in line for line in said)  # fusion's own word, after SIGTERM


def test_the_command_stops_cleanly_and_cleans_up_after_a_killed_one(zones: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "v2x_loadtest.cli", "up", "--free-ports", "--partitions", "1"]
    command += ["--zones", str(zones), "--run-dir", str(run)]
    env = {k: v for k, v in os.environ.items() if k not in {"V2X_KAFKA_BOOTSTRAP", "V2X_MQTT_HOST"}}
    log = (tmp_path / "up.log").open("wb")
    places: list[dict[str, Any]] = []
    try:
        for sig, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 0)):
            up = subprocess.Popen(command, env=env, stderr=log)
            text = until(
                lambda up=up: up.poll() is None and (run / "run.json").exists() and (run / "run.json").read_text()
            )
            places.append(json.loads(text))
            assert set(places[-1]["metrics"]) == {"fusion", "ingest", "confirm", "audit"}
            assert all(places[-1]["metrics"].values())
            if sig == signal.SIGKILL:
                (run / "run.json").unlink()
            up.send_signal(sig)
            assert up.wait(60) == code
            if sig == signal.SIGKILL:
                assert all(alive(pid) for pid in places[0]["pids"].values())  # nobody told them
        for place in places:
            assert not any(alive(pid) for pid in place["pids"].values())
        assert not (run / "run.json").exists()
    finally:
        log.close()
        for place in places:
            for pid in place["pids"].values():
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


def test_a_port_that_is_taken_is_named(zones: Path, tmp_path: Path, mosquitto: Mosquitto) -> None:
    with pytest.raises(BrokerError, match=f"mosquitto cannot listen on 127.0.0.1:{mosquitto.port}"):
        Stack(tmp_path / "run", zones, mqtt_port=mosquitto.port, kafka_bootstrap="127.0.0.1:1").start()
