"""Brokers as rows of the fault matrix need them: a cluster, a node with a clock of its own, a small disk."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from v2x.topics import KAFKA_TOPICS

from v2x_services.brokers import Kafka, new_cluster_id

NODES: Final = 3
_HEAP: Final = "256m"


class ClockedKafka(Kafka):
    """A Kafka node with variables of its own in the environment."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder)
        self._variables = variables

    def environment(self) -> Mapping[str, str]:
        """Return our environment with its own variables."""
        return {**os.environ, **self._variables}


class Cluster:
    """Three Kafka nodes, each broker and controller, replication 3."""

    def __init__(self, folder: Path) -> None:
        name = new_cluster_id()
        self.nodes = [Kafka(folder / f"kafka-{n}", heap=_HEAP, cluster_id=name) for n in range(1, NODES + 1)]
        voters = ",".join(f"{n}@{node.host}:{node.controller_port}" for n, node in enumerate(self.nodes, 1))
        for n, node in enumerate(self.nodes, 1):
            node.settings |= {
                "node.id": n,
                "controller.quorum.bootstrap.servers": None,
                "controller.quorum.voters": voters,
                "default.replication.factor": NODES,
                "offsets.topic.replication.factor": NODES,
                "transaction.state.log.replication.factor": NODES,
                "share.coordinator.state.topic.replication.factor": NODES,
                "min.insync.replicas": 2,
                "offsets.topic.num.partitions": 1,
            }

    @property
    def bootstrap(self) -> str:
        """Return host:port of all nodes."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> None:
        """Start all nodes: none serves alone."""
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_until_serving()

    def stop(self) -> None:
        """Stop them; the last ones have no quorum to say goodbye to."""
        for node in self.nodes:
            node.kill()

    def kill_leader(self) -> int:
        """Kill -9 the node that leads most partitions of our topics; return its number."""
        leaders = asyncio.run(_leaders(self.bootstrap))
        number = leaders.most_common(1)[0][0]
        self.nodes[number - 1].kill()
        return number


async def _leaders(bootstrap: str) -> Counter[int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        ours = {topic.name for topic in KAFKA_TOPICS}
        found = await admin.describe_topics()
        return Counter(p["leader"] for t in found if t["topic"] in ours for p in t["partitions"])
    finally:
        await admin.close()


class SmallDisk:
    """A file system in memory of a few megabytes, mounted at a folder, which can be filled and cleared again."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._ballast = folder, folder / "ballast"
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))

    def fill(self) -> None:
        """Take all the room that is left."""
        block = bytes(1 << 16)
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while file.write(block) == len(block):
                    pass
            except OSError:
                return

    def clear(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away."""
        _run("umount", "-l", str(self._folder))

    @staticmethod
    def why_not() -> str:
        """Return why there can be none here, or nothing."""
        if os.geteuid() != 0:
            return "a small file system is mounted for it, which needs root"
        probe = Path("/run/v2x-chaos-probe")
        try:
            SmallDisk(probe, 1).unmount()
            probe.rmdir()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a small file system cannot be mounted here: {error}"
        return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
