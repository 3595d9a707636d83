"""The main job end to end on real brokers: nothing lost, nothing told twice, also when its parts are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real
LATENCIES = ("publish_to_kafka", "publish_to_track", "publish_to_event")
SCORES = (
    "event_precision",
    "event_recall",
    "event_delay_p50_s",
    "position_rmse_m",
    "id_switches",
    "travel_time_mape",
)


def command(folder: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "v2x_loadtest.cli",
        "demo",
        "--json",
        str(folder / "out.json"),
        "--keep",
        str(folder / "run"),
        *flags,
    ]


def left_over(folder: Path) -> list[str]:
    """Return command lines of living processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def run(folder: Path, flags: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(
        command(folder, *flags), capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert left_over(folder) == []
    result = json.loads((folder / "out.json").read_text("utf-8"))
    assert isinstance(result, dict)
    return result


def check(result: dict[str, Any]) -> None:
    """Check what must hold whatever was done to the system."""
    assert result["lost"] == 0
    assert result["published"] > 1000
    assert result["acknowledged"] == result["published"]
    assert result["published"] == result["observations"] + result["deadletter"]
    assert result["deadletter"] == 0
    audit = result["audit"]
    assert audit["unknown"] == 0
    assert audit["strange"] == {}
    assert audit["not_yet_fused"] == 0
    assert audit["event_records"]["duplicates"] == 0
    assert audit["event_records"]["faults"] == []
    assert audit["frame_records"]["conflicts"] == []
    assert result["tracks"] > 10
    ids = [event["id"] for event in result["events"]]
    assert ids
    assert len(ids) == len(set(ids))
    for name in LATENCIES:
        assert {"p50", "p99", "p999"} <= result["latency_ms"][name].keys()
    assert set(SCORES) <= result["score"].keys()


def test_a_short_demo(tmp_path: Path) -> None:
    result = run(tmp_path, ["--duration", "20"])
    check(result)
    assert result["score"]["invented"] == []
    assert result["score"]["missed"] == []
    assert result["score"]["repeated"] == []


def test_the_urban_scene(tmp_path: Path) -> None:
    check(run(tmp_path, ["--duration", "20", "--scene", "urban"]))


def test_a_demo_whose_parts_are_killed(tmp_path: Path) -> None:
    # What is true here is the reader's rule; how well tracks come through an outage is in docs/guarantees.md.
    result = run(tmp_path, ["--duration", "32", "--chaos"])
    check(result)


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "--duration", "60"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "running: Kafka" in line:
            break
    process.send_signal(signal.SIGINT)
    said.append(process.communicate(timeout=60)[0])
    assert process.returncode == 130, "".join(said)
    assert "Traceback" not in "".join(said)
    assert left_over(tmp_path) == []
