"""Candidates of the ingest benchmark: our ingest and its peers, each as a process that forwards MQTT to Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import mqtt5
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from v2x.errors import BrokerError
from v2x.topics import DEADLETTER, KAFKA_TOPICS, OBSERVATIONS, ROOT

from v2x_loadtest.bench.load import BenchDevice, publish_packet
from v2x_loadtest.bench.payloads import PROBE
from v2x_loadtest.bench.peers import Peer, Place
from v2x_loadtest.bench.publisher import connect
from v2x_loadtest.bench.records import Topics
from v2x_loadtest.keep import Service
from v2x_services import topics
from v2x_services.process import Process

OURS: Final = "v2x ingest"
_READY_S: Final = 60.0
_PROBE_S: Final = 0.2
_TS_BYTES: Final = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """A forwarder; ``peer`` is None for ours."""

    name: str
    what: str
    topic: str
    payload: str
    peer: Peer | None = None

    @property
    def reads(self) -> list[str]:
        """Return the Kafka topics where its records can be; ours would write a bad message to another one."""
        return [self.topic, DEADLETTER] if self.peer is None else [self.topic]

    def process(self, place: Place, zones: Path) -> Process:
        """Return it, not yet started."""
        if self.peer is not None:
            return _PeerProcess(self.name, list(self.peer.command(place)), place.folder)
        env = {
            "V2X_KAFKA_BOOTSTRAP": place.kafka,
            "V2X_MQTT_HOST": place.mqtt_host,
            "V2X_MQTT_PORT": str(place.mqtt_port),
            "V2X_ZONES_PATH": str(zones),
            "V2X_INGEST_METRICS_PORT": "0",
            "V2X_LOG_FORMAT": "json",
        }
        return Service("ingest", ["ingest"], place.folder, env, lambda _who, _line: None)


class _PeerProcess(Process):
    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        super().__init__(folder)
        self.name = name
        self._command = command

    def command(self) -> Sequence[str]:
        return self._command

    def serves(self) -> bool:
        """Nothing to ask a peer: the probe tells."""
        return True


def ours() -> Candidate:
    """Return our ingest."""
    what = "decodes and validates, PUBACK in order after Kafka, idempotent producer, routes by zone"
    return Candidate(OURS, what, OBSERVATIONS, "kafka")


def of_peer(peer: Peer) -> Candidate:
    """Return a peer's candidate."""
    topic = "bench." + "".join(c if c.isalnum() else "-" for c in peer.name)
    return Candidate(peer.name, peer.what, topic, peer.payload, peer)


def make_topics(bootstrap: str, candidates: Sequence[Candidate], partitions: int) -> None:
    """Make our topics, and one for each peer with the settings of the observations."""
    settings = topics.wanted(next(t for t in KAFKA_TOPICS if t.name == OBSERVATIONS), 1)

    async def make() -> None:
        await topics.apply(bootstrap, partitions)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            new = [NewTopic(c.topic, partitions, 1, topic_configs=settings) for c in candidates if c.peer is not None]
            if new:
                await admin.create_topics(new)
        finally:
            await admin.close()

    asyncio.run(make())


class Probe:
    """A device of the driver's own: what it publishes tells whether a forwarder forwards."""

    def __init__(self, place: Place, payload: bytes, type_: str) -> None:
        """``payload``: its message; ``type_``: bsm or rsm."""
        device = BenchDevice(PROBE, "obu" if type_ == "bsm" else "rsu", 0)
        topic = f"{ROOT}/{device.kind}/{PROBE}/{type_}/up"
        self._packet, (self._pid_at, _, self._ts_at) = publish_packet(topic, payload, device)
        self._place, self._n = place, 0

    def __enter__(self) -> Self:
        self._socket = connect(self._place.mqtt_host, self._place.mqtt_port, PROBE)
        self._socket.setblocking(True)
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._socket as s, contextlib.suppress(OSError):
            s.sendall(mqtt5.DisconnectPacket().write())

    def send(self) -> None:
        """Publish once."""
        self._n += 1
        self._socket.sendall(_stamped(self._packet, self._pid_at, self._ts_at, self._n))


def wait_until_forwarding(process: Process, probe: Probe, kafka: Topics) -> float:
    """Publish a probe now and then until one is in Kafka; return the seconds. BrokerError if none comes.

    For peers: ours says itself when it is ready, and writes ticks to a silent partition.
    """
    began = time.monotonic()
    before = kafka.total()
    with probe:
        while kafka.total() <= before:
            if process.pid is None or time.monotonic() - began > _READY_S:
                raise BrokerError(f"{process.name} forwards nothing: {process.last_line()} (log: {process.log_path})")
            probe.send()
            time.sleep(_PROBE_S)
    time.sleep(_PROBE_S)  # probes that are still on their way
    return time.monotonic() - began


def _stamped(packet: bytes, pid_at: int, ts_at: int, n: int) -> bytes:
    """Return the packet with its id and the time of now."""
    out = bytearray(packet)
    out[pid_at : pid_at + 2] = n.to_bytes(2, "big")
    z = time.time_ns() // 1_000_000 << 1
    for k in range(_TS_BYTES):
        out[ts_at + k] = z >> 7 * k & 0x7F | (0x80 if k < _TS_BYTES - 1 else 0)
    return bytes(out)
