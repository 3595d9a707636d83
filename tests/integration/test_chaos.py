"""`v2x chaos` against real brokers: a quick row from start to end, and Ctrl-C in the middle of one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
CHAOS = [sys.executable, "-m", "v2x_loadtest.cli", "chaos"]


def left_behind(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in line and "v2x_loadtest.cli chaos" not in line:
            found.append(line)
    return found


def test_a_row_from_start_to_end(tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "out.md"
    command = [*CHAOS, "kill-both", "--rate", "100", "--seconds", "2", "--json", str(out), "--markdown", str(page)]
    done = subprocess.run(
        [*command, "--keep", str(tmp_path / "keep")], capture_output=True, text=True, timeout=300, check=False
    )
    [row] = json.loads(out.read_text())["rows"]
    print(done.stdout)
    assert all(line.startswith(("back after", "p99 was")) for line in row["wrong"]), (
        done.stdout
    )  # the machine may be slow
    assert done.returncode == (1 if row["wrong"] else 0)
    figures = row["figures"]
    assert figures["sent"] == figures["acknowledged"] > 1000
    assert (figures["lost_reliable"], figures["lost_perishable"], figures["duplicates"], figures["missing"]) == (0,) * 4
    assert figures["outputs"] > 100
    assert figures["restarts"] == {"ingest": 1, "fusion": 1}
    assert figures["stall_ingest_s"] > 0.3  # the kill took effect, and was measured
    assert "`kill-both`" in page.read_text()
    assert left_behind(tmp_path) == []


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    command = [*CHAOS, "freeze-both", "--rate", "100", "--seconds", "2", "--keep", str(tmp_path / "keep")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "fault: SIGSTOP" in line:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(60) == 130
    assert left_behind(tmp_path) == []
