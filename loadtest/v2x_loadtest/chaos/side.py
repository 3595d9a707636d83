"""A device beside the crowd that does what no good device does: floods, has a wrong clock, or sends rubbish.

It sends at a steady rate from a thread of ours over one connection, and counts what the broker acknowledges. Content is
made beforehand and patched (packet id, ``seq``, ``ts_ms``), as the benchmark's publisher does.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

import mqtt5
import numpy as np
import numpy.typing as npt
from v2x.errors import BrokerError

from v2x_codecs import vectors
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import SENT, Ledger, LedgerDevice
from v2x_loadtest.bench.load import SEQ_FIRST, BenchDevice, code_of, publish_packet
from v2x_loadtest.bench.publisher import connect

_STEP_S: Final = 0.01
_ACKS_S: Final = 10.0
_IDS: Final = 65_000


class Side:
    """One connection that sends ``packets`` in turn; rows of what was sent, with PUBACK times."""

    def __init__(
        self, mqtt: tuple[str, int], device: BenchDevice, packets: Sequence[tuple[bytes, tuple[int, int, int]]],
        rate: float, *, code: int = 0, clock: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        """``clock`` (ms UTC) is what the device believes; ``packets`` as ``publish_packet`` makes them."""
        self.device, self.rate, self._code = device, rate, code
        self._packets = packets
        self._clock = clock or (lambda: time.time_ns() // 1_000_000)
        self._mqtt = mqtt
        self._stop = threading.Event()
        self._ts: list[int] = []
        self._sent: list[int] = []
        self._acked: dict[int, int] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=device.id, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(_ACKS_S + 5.0)

    @property
    def sent(self) -> int:
        """Return how many messages went out."""
        return len(self._sent)

    @property
    def acknowledged(self) -> int:
        """Return how many the broker took."""
        return len(self._acked)

    def enter(self, ledger: Ledger) -> None:
        """Put what was sent into the crowd's ledger, so that the audit asks for it; BrokerError if sending failed."""
        if self._error is not None:
            raise BrokerError(f"{self.device.id} lost its connection: {self._error!r}") from self._error
        rows = np.zeros(self.sent, SENT)
        rows["device"], rows["type"] = len(ledger.devices), self._code
        rows["seq"] = SEQ_FIRST + np.arange(self.sent)
        rows["ts_ms"], rows["intended_us"], rows["sent_us"] = self._ts, self._sent, self._sent
        for n, at in self._acked.items():
            rows["acked_us"][n] = at
        ledger.devices.append(LedgerDevice(self.device.id, self.device.kind, self.device.boot))
        ledger.sent = np.concatenate([ledger.sent, rows])

    def _run(self) -> None:
        try:
            s = connect(*self._mqtt, self.device.id)
            with s:
                self._send(s)
        except (OSError, BrokerError) as error:
            self._error = error

    def _send(self, s: socket.socket) -> None:
        s.setblocking(True)
        s.settimeout(0.0005)
        began, rest = time.monotonic(), b""
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * self.rate)
            out = bytearray()
            while self.sent < due and self.sent - self.acknowledged < _IDS:
                out += self._packet(self.sent)
            if out:
                s.settimeout(5.0)
                s.sendall(out)
                s.settimeout(0.0005)
            rest = self._read(s, rest)
            time.sleep(_STEP_S)
        deadline = time.monotonic() + _ACKS_S
        while self.acknowledged < self.sent and time.monotonic() < deadline:
            rest = self._read(s, rest)
            time.sleep(_STEP_S)

    def _packet(self, n: int) -> bytes:
        made, (pid_at, seq_at, ts_at) = self._packets[n % len(self._packets)]
        packet, ts = bytearray(made), self._clock()
        packet[pid_at : pid_at + 2] = (n % _IDS + 1).to_bytes(2, "big")
        if seq_at:
            packet[seq_at : seq_at + 3] = _varint(SEQ_FIRST + n, 3)
            packet[ts_at : ts_at + 6] = _varint(ts, 6)
        self._ts.append(ts)
        self._sent.append(time.time_ns() // 1000)
        return bytes(packet)

    def _read(self, s: socket.socket, rest: bytes) -> bytes:
        try:
            data = s.recv(1 << 16)
        except TimeoutError:
            return rest
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        data, at, now = rest + data, 0, time.time_ns() // 1000
        while at < len(data):
            try:
                packet, size = mqtt5.read(memoryview(data)[at:])
            except IndexError:
                break
            at += size
            if isinstance(packet, mqtt5.PubAckPacket) and packet.reason_code == 0:
                n = packet.packet_id - 1
                while n in self._acked:  # ids come again
                    n += _IDS
                self._acked[n] = now
        return data[at:]


def vehicle(name: str, place: tuple[float, float], rate: float, mqtt: tuple[str, int], **more: Any) -> Side:
    """Return an OBU at ``place`` (degrees) whose BSMs are good."""
    device = BenchDevice(name, "obu", time.time_ns() // 1_000_000)
    registry = Registry.load()
    record = next(v.record for v in vectors.load(registry) if v.schema == "bsm")
    record = {**record, "device": name, "boot": device.boot, "seq": SEQ_FIRST, "ts_ms": device.boot}
    record |= {"lat": round(place[0] * 1e7), "lon": round(place[1] * 1e7)}
    payload = ReferenceCodec(registry).encode_mqtt("bsm", record)
    packet = publish_packet(f"v2x/v1/obu/{name}/bsm/up", payload, device)
    return Side(mqtt, device, [packet], rate, code=code_of("obu", "bsm"), **more)


def rubbish(name: str, rate: float, mqtt: tuple[str, int], seed: int) -> Side:
    """Return a sender of payloads that cannot be decoded, as if from 40 devices."""
    rng: np.random.Generator = np.random.default_rng(seed)
    device = BenchDevice(name, "rsu", 0)
    packets = []
    for i in range(40):
        noise: npt.NDArray[np.uint8] = rng.integers(0, 256, 200, np.uint8)
        packet, (pid_at, _, _) = publish_packet(f"v2x/v1/rsu/{name}-{i}/rsm/up", noise.tobytes(), device)
        packets.append((packet, (pid_at, 0, 0)))
    return Side(mqtt, device, packets, rate)


def _varint(value: int, size: int) -> bytes:
    z = value << 1
    return bytes((z >> (7 * k)) & 0x7F | (0x80 if k < size - 1 else 0) for k in range(size))
