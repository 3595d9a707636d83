"""A network between the services and the brokers that can be made bad packet by packet: late, lossy, cut, half-open.

All of a row runs in a network namespace of its own, which has a loopback and one TUN device::

    a service at NEAR ─► connects to FAR:port ─► TUN ─► forwarder ─► TUN ─► from FAR to NEAR:port: a broker listens

The forwarder swaps the two addresses of each packet, so one machine has both ends, and no checksum changes. TCP's own
retransmission, back-off and time-outs are the kernel's. ``loss``: that share of packets is dropped. ``cut``: all are.
``half_open``: all packets of the connections of this moment are dropped for ever, without a FIN or RST, as if the
peer's machine had gone; new ones work. What does not go to FAR (devices, audits) has a good network.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import threading
from collections import deque
from pathlib import Path
from time import monotonic
from typing import Final, Self

NEAR: Final = "10.87.0.1"
FAR: Final = "10.87.0.2"
_MTU: Final = 1500
_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUN_NO_PI: Final = 0x1001  # IFF_TUN | IFF_NO_PI
_SET_FLAGS, _SET_ADDRESS, _SET_MASK, _SET_MTU = 0x8914, 0x8916, 0x891C, 0x8922
_UP: Final = 0x1
_IPV4_TCP: Final = (0x45, 6)  # no options, as the kernel makes them
_SYN, _SYN_ACK = 0x02, 0x12
_MOST: Final = 20_000  # packets under way; more are dropped, as by a router's queue
_BATCH: Final = 256  # packets read before those that are due go on


class Tunnel:
    """A namespace for the calling thread and what it starts, and the forwarder in it."""

    def __init__(self, seed: int = 1) -> None:
        self.delay_s = 0.0  # each way
        self.loss = 0.0
        self.cut = False
        self.passed = self.dropped = 0  # packets
        self._rng = random.Random(seed)
        self._seen = set[bytes]()  # both ports, as each direction has them
        self._dead = set[bytes]()
        self._dying = self._closing = False
        self._thread = threading.Thread(target=self._forward, name="tunnel", daemon=True)

    def __enter__(self) -> Self:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(None)
            self._tun = _device("v2x0")
        except BaseException:
            self._leave()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing = True
        self._thread.join(5.0)
        os.close(self._tun)
        self._leave()

    def half_open(self) -> None:
        """Let the connections of this moment die without a word."""
        self._dying = True

    def heal(self) -> None:
        """Be a good network again; what is half open stays so."""
        self.delay_s, self.loss, self.cut = 0.0, 0.0, False

    @staticmethod
    def why_not() -> str:
        """Return why there can be none here, or nothing."""
        try:
            with Tunnel():
                return ""
        except OSError as error:
            return f"packets go through a TUN device in a network namespace, which needs root: {error}"

    def _leave(self) -> None:
        _enter(self._home)
        os.close(self._home)

    def _forward(self) -> None:
        line: deque[tuple[float, bytes]] = deque()  # when to hand it on, and what
        while not self._closing:
            wait = 0.05 if not line else min(0.05, max(0.0, line[0][0] - monotonic()))
            if select.select([self._tun], (), (), wait)[0]:
                self._take(line)
            now = monotonic()
            while line and line[0][0] <= now:
                self._write(line.popleft()[1])

    def _take(self, line: deque[tuple[float, bytes]]) -> None:
        for _ in range(_BATCH):
            try:
                packet = os.read(self._tun, 1 << 16)
            except BlockingIOError:
                return
            if (packet[0], packet[9] if len(packet) >= 40 else 0) != _IPV4_TCP:
                continue
            if self._lost(packet) or len(line) >= _MOST:
                self.dropped += 1
                continue
            self.passed += 1
            packet = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
            if self.delay_s or line:
                due = monotonic() + self.delay_s
                line.append((max(due, line[-1][0]) if line else due, packet))
            else:
                self._write(packet)

    def _lost(self, packet: bytes) -> bool:
        flow = packet[20:24]
        if self._dying:
            self._dead |= self._seen
            self._dying = False
        if packet[33] & _SYN_ACK == _SYN:  # a connection begins, with ports of an old one perhaps
            self._dead -= {flow, flow[2:] + flow[:2]}
        self._seen.add(flow)
        return self.cut or flow in self._dead or (self.loss > 0.0 and self._rng.random() < self.loss)

    def _write(self, packet: bytes) -> None:
        try:
            os.write(self._tun, packet)
        except OSError:  # the device's queue is full
            self.dropped += 1


def _enter(namespace: int | None) -> None:
    """Move this thread to another network namespace; None: to a new one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if (libc.unshare(_NEWNET) if namespace is None else libc.setns(namespace, _NEWNET)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _device(name: str) -> int:
    """Bring the loopback up, and a TUN device with NEAR as its address; return the file of its packets."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_PI))
        # Packets of IPv6's own housekeeping would only be dropped.
        for silent in Path("/proc/sys/net/ipv6/conf").glob("*/disable_ipv6"):
            silent.write_text("1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _set(control, _SET_FLAGS, b"lo", struct.pack("H", _UP))
            for request, address in ((_SET_ADDRESS, NEAR), (_SET_MASK, "255.255.255.0")):
                _set(control, request, name.encode(), struct.pack("HH4s", socket.AF_INET, 0, socket.inet_aton(address)))
            _set(control, _SET_MTU, name.encode(), struct.pack("i", _MTU))
            _set(control, _SET_FLAGS, name.encode(), struct.pack("H", _UP))
    except BaseException:
        os.close(tun)
        raise
    return tun


def _set(control: socket.socket, request: int, name: bytes, value: bytes) -> None:
    fcntl.ioctl(control, request, struct.pack("16s24s", name, value))
