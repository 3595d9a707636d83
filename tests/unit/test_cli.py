from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from v2x_loadtest.cli import COMMANDS, root
from v2x_loadtest.cmd_tail import event_line, frame_line, hops, link_line
from v2x_services.reader import Once

V2X = [sys.executable, "-m", "v2x_loadtest.cli"]
NOWHERE = {**os.environ, "V2X_KAFKA_BOOTSTRAP": "127.0.0.1:1"}


def v2x(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*V2X, *args], capture_output=True, text=True, env={**NOWHERE, **env}, timeout=60, check=False
    )


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    result = CliRunner().invoke(root, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert name in result.output
    code = "import sys; sys.argv=['v2x','--help']\n"
    code += "try:\n import v2x_loadtest.cli as c; c.main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('numpy','numba','aiokafka','fastavro','pydantic') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name: str) -> None:
    result = CliRunner().invoke(root, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_commands_point_at_what_exists() -> None:
    for module, attribute, _ in COMMANDS.values():
        assert hasattr(import_module(module), attribute), module


@pytest.mark.parametrize(
    ("args", "env", "says"),
    [
        (["topics", "check"], {}, "no Kafka answers at 127.0.0.1:1"),
        (["tail"], {}, "no Kafka answers"),
        (["deadletter", "list"], {}, "no Kafka answers"),
        (["config"], {"V2X_MQTT_PORT": "x"}, "setting mqtt_port (from environment V2X_MQTT_PORT)"),
        (["up", "--zones", "/nothing.json"], {}, "/nothing.json does not exist"),
        (["fuse", "--config", "/nothing.toml"], {}, "/nothing.toml does not exist"),
        (["fuse", "--zones", "/nothing.json"], {}, "/nothing.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(args, env, says) -> None:
    done = v2x(*args, **env)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("v2x: ")]
    assert len(lines) == 1, done.stderr
    assert says in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["nope"], ["up", "--nope"], ["tail", "cats"], ["deadletter", "replay"]])
def test_a_wrong_word_is_a_usage_error(args) -> None:
    assert v2x(*args).returncode == 2


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_fuse_stops_cleanly_even_while_kafka_is_away(tmp_path: Path, sig, code) -> None:
    zones = tmp_path / "zones.json"
    zones.write_text('{"version":1,"name":"t","zones":[{"id":"z","polygon":[[0,0],[0,1],[1,1]],"neighbours":[]}]}')
    command = [*V2X, "fuse", "--zones", str(zones), "--state-dir", str(tmp_path), "--metrics-port", "0"]
    process = subprocess.Popen(command, env=NOWHERE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "fusion.port").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(sig)
        assert process.wait(60) == code, process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


EVENT = {
    "event_id": "z-STOPPED-1", "revision": 0, "status": "ADDED", "kind": "STOPPED_VEHICLE", "code": 903, "zone": "z",
    "link": "M-1", "lane": 2, "lat": 301234567, "lon": 1201234567, "speed": 8191, "queue": 65535, "level": 0,
    "sources": [{"device": "RSU-1", "kind": 0, "ref": "", "confidence": 1}], "updated_ms": 1_700_000_000_000,
    "trigger_device": "RSU-1", "trigger_ts_ms": 1_700_000_000_000, "trigger_rx_us": 1_700_000_000_012_500,
    "trigger_stamp_ms": 1_700_000_000_020,
}  # fmt: skip


def test_latency_of_every_hop_adds_up() -> None:
    found = hops(EVENT, 1_700_000_000_047)
    assert found == {"device→ingest": 12.5, "ingest→Kafka": 7.5, "Kafka→fused": 27, "total": 47}
    assert sum(v for k, v in found.items() if k != "total") == found["total"]


def test_an_event_that_a_tick_made_has_no_device_hop() -> None:
    assert hops({**EVENT, "trigger_ts_ms": 0, "trigger_rx_us": 0}, 1_700_000_000_047) == {"Kafka→fused": 27}


def test_lines_for_a_human() -> None:
    line = event_line(EVENT, 1_700_000_000_047)
    for part in (
        "22:13:20.000",
        "ADDED",
        "STOPPED_VEHICLE",
        "903",
        "M-1 lane 2",
        "30.123457,120.123457",
        "total 47 ms",
    ):
        assert part in line
    frame = {"zone": "z", "event_ms": 1_700_000_000_000, "track": [1, 2], "speed": [500, 1500], "pos_sigma": [40, 60]}
    assert "2 tracks mean 72 km/h σ 0.50 m [age 30 ms]" in frame_line(frame, 1_700_000_000_030)
    assert "empty" in frame_line({**frame, "track": [], "speed": []}, 1_700_000_000_030)
    link = {
        "to_ms": 1_700_000_000_000, "link": "A>B", "origin": "GANTRY", "travel_time": 31_000, "speed": 2_500,
        "level": 1, "vehicles": 12, "rejected": 1, "service": 0, "fused_from": 1, "forecast_ms": 0,
    }  # fmt: skip
    assert "90.0 km/h level 1 · from 12 vehicles (1 left out)" in link_line(link, 1_700_000_000_500)
    link |= {
        "service": 2, "flow": 1980, "fused_from": 3, "fused_speed": 2_400, "fused_speed_sd": 50,
        "forecast_ms": 1_700_000_000_000, "forecast": 32_000, "forecast_low": 30_500, "forecast_high": 34_000,
    }  # fmt: skip
    line = link_line(link, 1_700_000_000_500)
    for part in ("service 2 at 1980 veh/h", "with tracks 86.4 ± 1.8 km/h", "next 5 min 32.0 s (30.5 to 34.0)"):
        assert part in line


def test_the_readers_rule() -> None:
    once = Once(keep=3)
    frame = {"generation": "g", "partition": 0, "offset": 5, "index": 0}
    uplink = {"device": "R", "boot": 1, "seq": 7}
    assert [once("traffic_event", EVENT), once("track_frame", frame), once("rsm", uplink)] == [True] * 3
    assert not once("traffic_event", {**EVENT, "level": 3})
    assert not once("track_frame", frame)
    assert not once("rsm", uplink)
    assert once.repeats == 3
    assert once("bsm", uplink)
    assert once("traffic_event", {**EVENT, "revision": 1})
    assert once("track_frame", {**frame, "index": 1})
