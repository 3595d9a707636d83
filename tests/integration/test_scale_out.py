"""The whole flow on several processes of each kind, changed while it runs; the audit must come out at zero.

Two ingest shards and two fusion workers under a simulated motorway; then a worker joins, one is killed for good, one
leaves, an ingest shard is killed, and ingest goes from two shards to three and from three to one by the operator's
steps in docs/operations.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_fusion_replay import compare_with_one_run, read
from v2x.shards import Shard

from v2x_loadtest.scene import load_scene
from v2x_loadtest.stack import Stack
from v2x_services.fusion.domain import DomainCores

pytestmark = pytest.mark.real
CLI = [sys.executable, "-m", "v2x_loadtest.cli"]
PARTITIONS = 4
SECONDS = 150  # at most; it is stopped when all is done


class Load:
    """The simulator as a process, with its ledger."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.ledger = folder / "ledger"
        self.published = 0
        command = [*CLI, "simulate", "--mqtt", f"{stack.mqtt_host}:{stack.mqtt_port}", "--ledger", str(self.ledger)]
        command += ["--duration", str(SECONDS), "--offset", "20", "--loop", "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def wait(self, more: int) -> None:
        """Wait until so many more messages are published."""
        target, deadline = self.published + more, time.monotonic() + 60
        while self.published < target:
            assert self._process.poll() is None
            assert time.monotonic() < deadline, f"published {self.published}"
            time.sleep(0.05)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._listening.join(5)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as said:
            for line in said:
                found = re.search(r"published ([\d,]+)", line)
                if found:
                    self.published = int(found[1].replace(",", ""))


@contextmanager
def load(stack: Stack, folder: Path) -> Iterator[Load]:
    made = Load(stack, folder)
    try:
        made.wait(1)
        yield made
    finally:
        made.end()


def reshard(stack: Stack, before: int, after: int) -> None:
    """Go from one set of ingest shards to another: start the new, stop the old, empty what it left."""
    stack.add(stack.ingests(after))
    for i in range(before):
        stack.retire(Shard(i, before).name)
    leaving = []
    for i in range(before):
        command = [*CLI, "ingest", "--shard", f"{i}/{before}", "--leave", "--state-dir", str(stack.state_dir)]
        env = {**os.environ, **stack.env}
        leaving.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    for process in leaving:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert "nothing queued" in said


def audit(stack: Stack, ledger: Path) -> dict[str, Any]:
    command = [*CLI, "audit", "--ledger", str(ledger), "--kafka", stack.kafka_bootstrap, "--json"]
    deadline = time.monotonic() + 40
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        found: dict[str, Any] = json.loads(done.stdout)
        if (found["lost"] == 0 and found["not_yet_fused"] == 0) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def test_processes_come_and_go_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "zones.json").write_text(json.dumps(load_scene("motorway").zones))
    stack = Stack(
        tmp_path / "run", tmp_path / "zones.json", partitions=PARTITIONS, shards=2, workers=2, extra={"snapshot_s": 2}
    )
    began = time.monotonic()
    with stack, load(stack, tmp_path) as traffic:
        steps: list[Callable[[], object]] = [
            lambda: stack.add(stack.fusions(1, first=2)),  # a third worker joins
            lambda: stack.wait_ready("ingest-1of2", not_pid=stack.kill("ingest-1of2")),
            lambda: stack.lose("fusion-0"),  # killed, and never seen again
            lambda: reshard(stack, 2, 3),
            lambda: stack.retire("fusion-2"),  # leaves cleanly
            lambda: reshard(stack, 3, 1),
        ]
        for step in steps:
            traffic.wait(500)
            step()
            print(f"{time.monotonic() - began:5.1f} s  {traffic.published:6d} published  {', '.join(stack.services)}")
        traffic.wait(500)
        traffic.end()
        assert stack.restarts == {"ingest-1of2": 1}
        found = audit(stack, traffic.ledger)
        log = asyncio.run(read(stack.kafka_bootstrap))
        cores = DomainCores(stack.settings)
        cores.warm_up()
    print({k: v for k, v in found.items() if not isinstance(v, dict | list)}, found["event_records"])
    print(found.get("latency_ms"))
    assert (found["lost"], found["not_yet_fused"], found["unknown"], found["deadletter"]) == (0, 0, 0, 0)
    assert found["published"] > 3_500
    assert found["acknowledged"] == found["published"] == found["observations"]
    assert found["duplicates_in_log"] > 0  # the sets overlapped; the reader's rule covers it
    assert found["event_records"]["duplicates"] == 0
    assert found["event_records"]["faults"] == []
    assert found["frame_records"]["conflicts"] == []
    assert found["strange"] == {}
    assert compare_with_one_run(log, cores, PARTITIONS) > 1000
