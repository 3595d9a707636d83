"""The whole flow with the real cores, fusion killed in the middle: what is out is what one run over the log makes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest
from v2x.columns import Record
from v2x.topics import EVENTS, LINKS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.scene.store import save_scene
from v2x_loadtest.scene.synthetic import synthetic_scene
from v2x_loadtest.stack import Stack
from v2x_services.follow import follow
from v2x_services.fusion.domain import DomainCores
from v2x_services.reader import Once

pytestmark = pytest.mark.real
PARTITIONS = 2
OUT = (TRACKS, EVENTS, LINKS)


async def read(bootstrap: str) -> dict[tuple[str, int], list[Record]]:
    log: dict[tuple[str, int], list[Record]] = defaultdict(list)
    async for m in follow(bootstrap, (*OUT, OBSERVATIONS), last=None, to_end=True):
        log[m.topic, m.partition].append(Record(m.offset, m.timestamp, m.key, m.value, m.headers))
    return log


def compare_with_one_run(log: dict[tuple[str, int], list[Record]], cores: DomainCores, partitions: int) -> int:
    """Check that what is out, by the reader's rule, is what one run over the log makes; return how many records."""
    codec = ReferenceCodec(Registry.load())
    compared = 0
    for p in range(partitions):
        core = cores.fresh(OBSERVATIONS, p, partitions)
        expected = core.feed(log[OBSERVATIONS, p])  # in one go: batches must not matter
        for topic in OUT:
            once = Once()
            seen = [r.value for r in log[topic, p] if once(*codec.decode_kafka(r.value))]
            wanted = [o.value for o in expected if o.topic == topic]
            # The log went on a moment while it was read: the outputs are the beginning of what it makes, or all of it.
            assert seen[: len(wanted)] == wanted[: len(seen)]
            assert len(wanted) - len(seen) < 40
            compared += len(seen)
    return compared


def test_killed_twice_and_still_one_run(tmp_path: Path) -> None:
    scene = synthetic_scene()
    save_scene(scene, tmp_path / "scene.npz")
    (tmp_path / "zones.json").write_text(json.dumps(scene.zones))
    with Stack(tmp_path / "run", tmp_path / "zones.json", partitions=PARTITIONS, extra={"snapshot_s": 1}) as stack:
        command = [sys.executable, "-m", "v2x_loadtest.cli", "simulate", "--scene", str(tmp_path / "scene.npz")]
        command += ["--mqtt", f"{stack.mqtt_host}:{stack.mqtt_port}", "--duration", "14"]
        simulator = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(2):
                time.sleep(3)
                pid = stack.kill("fusion")
                stack.wait_ready("fusion", not_pid=pid)
            assert simulator.wait(60) == 0
        finally:
            simulator.kill()
            simulator.wait()
        time.sleep(1.5)  # ticks let the last frames leave
        log = asyncio.run(read(stack.kafka_bootstrap))
        tail = [sys.executable, "-m", "v2x_loadtest.cli", "tail", "tracks", "--kafka", stack.kafka_bootstrap, "--all"]
        told = subprocess.run(
            [*tail, "--once", "--json"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert len(told) >= len({(r.key, r.value) for p in range(PARTITIONS) for r in log[TRACKS, p]}) > 100
        assert json.loads(told[-1])["latency_ms"]["age"] >= 0
        following = subprocess.Popen(tail, stdout=subprocess.PIPE, text=True)
        assert following.stdout is not None
        assert "tracks" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=10)
        assert following.returncode == 130
        cores = DomainCores(stack.settings)
        cores.warm_up()
    assert compare_with_one_run(log, cores, PARTITIONS) > 200
