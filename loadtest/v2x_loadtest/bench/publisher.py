"""The publisher: a process that sends a ``Load`` over one MQTT connection a device, and counts PUBACKs.

It must be cheap, for it shares the machine with what is measured: a compiled loop patches and sends packets that were
made beforehand (libc's send), and acknowledgements are read all at once a few times a second. Open loop: a row goes out
when it is due, however late that is; closed loop: as far as the driver's credit goes, at once.

The driver talks to it through its standard input and a small file in memory (``Control``)::

    {"t0_us": …, "seconds": …}  ─►  publisher  ─►  "ready", then a summary in JSON; sent.npy and devices.json if asked
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final

import mqtt5
import numpy as np
import numpy.typing as npt
from numba import njit, types
from v2x.errors import BrokerError, ConfigError

from v2x_loadtest.audit.ledger import SENT
from v2x_loadtest.bench.load import SEQ_END, Load

CREDIT, SENT_ROWS, ACKED_ROWS, STOP = range(4)  # cells of the control file
OPEN_LOOP: Final = -1
_CHUNK: Final = 256  # rows that get one send stamp
_IDS: Final = 65_534
_READ_S: Final = (0.05, 0.5)  # between two looks for acknowledgements: few connections, many
_MANY: Final = 200
_TICK_S: Final = 0.001
_LAST_ACKS_S: Final = 5.0
_FLAGS: Final = 0x4000 | 0x40  # MSG_NOSIGNAL | MSG_DONTWAIT (Linux)
_BUFFER: Final = 1 << 16
_REST: Final = 16

# libc's, by symbol: so that the compiled code can be cached (a ctypes pointer could not).
_CALL: Final = types.intp(types.int32, types.intp, types.uintp, types.int32)
_send: Any = types.ExternalFunction("send", _CALL)
_recv: Any = types.ExternalFunction("recv", _CALL)


@njit(
    "int64(int32[::1], int32[::1], int64[::1], int64[::1], int32[::1], int32[::1], int32[::1], int64[::1], int64[::1],"
    " int64[::1], Array(uint8, 1, 'C', readonly=True), int64, int64, int64, int64, int64[::1], uint8[::1], int64[::1])",
    cache=True,
)  # type: ignore[misc, unused-ignore]
def send_rows(
    fds: Any, conn: Any, start: Any, end: Any, pid_at: Any, seq_at: Any, ts_at: Any, seq: Any, per_pass: Any, ts: Any,
    packets: Any, i0: int, i1: int, nth: int, ts0: int, next_pid: Any, scratch: Any, begun: Any,
) -> int:  # fmt: skip
    """Send rows i0 to i1 of pass ``nth``; return how many went out whole. Stops where a socket is full.

    ``begun[0]``: bytes of row i0 that went out before; its packet is in ``scratch`` still.
    """
    for i in range(i0, i1):
        c, n = conn[i], end[i] - start[i]
        if begun[0] == 0:
            scratch[:n] = packets[start[i] : end[i]]
            pid = next_pid[c]
            scratch[pid_at[i]], scratch[pid_at[i] + 1] = pid >> 8, pid & 0xFF
            z, p = (seq[i] + nth * per_pass[i]) << 1, seq_at[i]
            for k in range(3):
                scratch[p + k] = (z >> (7 * k)) & 0x7F | (0x80 if k < 2 else 0)
            z, p = (ts0 + ts[i]) << 1, ts_at[i]
            for k in range(6):
                scratch[p + k] = (z >> (7 * k)) & 0x7F | (0x80 if k < 5 else 0)
        out = _send(fds[c], scratch.ctypes.data + begun[0], n - begun[0], _FLAGS)
        if out < n - begun[0]:
            begun[0] += max(out, 0)
            return i - i0
        begun[0] = 0
        next_pid[c] += 1
    return i1 - i0


@njit(
    "int64(int32[::1], uint8[:,::1], int64[::1], uint8[::1], int64[::1], int64[::1], int64[::1], int64, int64[::1],"
    " int64, int64[::1])",
    cache=True,
)  # type: ignore[misc, unused-ignore]
def read_acks(
    fds: Any, rest: Any, rest_len: Any, buffer: Any, first: Any, per_conn: Any, rows: Any, n_rows: int,
    acked_us: Any, now: int, out: Any,
) -> int:  # fmt: skip
    """Read what has come on all connections; out: acknowledged, refused. Return a lost connection, or -1."""
    for c in range(len(fds)):
        have = rest_len[c]
        buffer[:have] = rest[c, :have]
        got = _recv(fds[c], buffer.ctypes.data + have, len(buffer) - have, _FLAGS)
        if got == 0:
            return c
        if got < 0:
            continue
        have += got
        at = 0
        while have - at >= 2 and have - at >= 2 + buffer[at + 1]:
            if buffer[at] == 0x40:
                k = (buffer[at + 2] << 8 | buffer[at + 3]) - 1
                row = (k // per_conn[c]) * n_rows + rows[first[c] + k % per_conn[c]]
                if buffer[at + 1] > 2 and buffer[at + 4] != 0:
                    out[1] += 1
                elif row < len(acked_us):
                    acked_us[row] = now
                    out[0] += 1
            elif buffer[at] >> 4 == 14:
                return c
            at += 2 + buffer[at + 1]
        rest_len[c] = have - at
        rest[c, : have - at] = buffer[at:have]
    return -1


class Publisher:
    """Connections and the loop."""

    def __init__(self, load: Load, host: str, port: int, control: npt.NDArray[np.int64], max_rows: int) -> None:
        """Connect all devices; BrokerError if the broker does not take one, ConfigError if the load cannot be sent."""
        r = self._rows = {name: np.ascontiguousarray(load.rows[name]) for name in load.rows.dtype.names or ()}
        self._load, self._control, self._n = load, control, len(load.rows)
        per_conn = np.bincount(r["conn"], minlength=len(load.devices))
        passes = -(-max_rows // self._n)
        if int(per_conn.max()) * passes > _IDS:
            raise ConfigError(f"more than {_IDS} messages of one connection: give more connections or less time")
        if int((r["seq"] + r["per_pass"] * passes).max()) >= SEQ_END:
            raise ConfigError("the run is too long for prepared packets: seq would need another byte")
        order = np.lexsort((r["rank"], r["conn"]))
        self._by_conn = order.astype(np.int64)
        self._first = np.concatenate(([0], np.cumsum(per_conn)))[:-1].astype(np.int64)
        self._per_conn = np.maximum(per_conn, 1).astype(np.int64)
        self.sent_us = np.zeros(max_rows, np.int64)
        self.acked_us = np.zeros(max_rows, np.int64)
        self.head = 0
        self.blocked = 0
        self._counts = np.zeros(2, np.int64)
        self._no_ts = np.zeros(self._n, np.int64)
        self._next_pid = np.ones(len(load.devices), np.int64)
        self._scratch = np.zeros(int((r["end"] - r["start"]).max()), np.uint8)
        self._begun = np.zeros(1, np.int64)
        self._rest = np.zeros((len(load.devices), _REST), np.uint8)
        self._rest_len = np.zeros(len(load.devices), np.int64)
        self._buffer = np.zeros(_BUFFER, np.uint8)
        self._packets = np.ascontiguousarray(load.packets)
        self._packets.flags.writeable = False
        _raise_open_files()
        self._sockets = [connect(host, port, d.id) for d in load.devices]
        self._fds = np.array([s.fileno() for s in self._sockets], np.int32)

    def run(self, t0_us: int, seconds: float) -> dict[str, Any]:
        """Send; return the summary."""
        load, control = self._load, self._control
        closed = control[CREDIT] != OPEN_LOOP
        end_us = t0_us + round(seconds * 1e6)
        total = len(self.sent_us)
        if not closed:
            passes, part = divmod(round(seconds * 1e6), load.cycle_us)
            total = min(total, passes * self._n + int(np.searchsorted(self._rows["at_us"], part)))
        cpu0 = time.process_time()
        every = round(_READ_S[len(self._fds) > _MANY] * 1e6)
        next_read = t0_us
        while not control[STOP]:
            now = time.time_ns() // 1000
            if closed:
                due = min(int(control[CREDIT]), total) if now < end_us else self.head
            else:
                passes, part = divmod(max(now - t0_us, 0), load.cycle_us)
                due = min(int(passes) * self._n + int(np.searchsorted(self._rows["at_us"], part, "right")), total)
            went = self._send_until(due, t0_us, closed=closed)
            if now >= next_read:
                self._read(now)
                next_read = now + every
            control[SENT_ROWS], control[ACKED_ROWS] = self.head, self._counts[0]
            if self.head >= total or (closed and now >= end_us):
                break
            if not went or not closed:
                time.sleep(_TICK_S)
        cpu, last = time.process_time() - cpu0, time.time_ns() // 1000
        deadline = time.monotonic() + _LAST_ACKS_S
        while self._counts.sum() < self.head and time.monotonic() < deadline:
            time.sleep(0.01)
            self._read(time.time_ns() // 1000)
        control[ACKED_ROWS] = self._counts[0]
        late = (self.sent_us[: self.head] - self._intended(t0_us, closed=closed)) / 1000
        return {
            "sent": self.head,
            "acknowledged": int(self._counts[0]),
            "refused": int(self._counts[1]),
            "seconds": (last - t0_us) / 1e6,
            "cpu_s": cpu,
            "blocked": self.blocked,
            "late_p50_ms": float(np.quantile(late, 0.5)) if len(late) else 0.0,
            "late_p99_ms": float(np.quantile(late, 0.99)) if len(late) else 0.0,
            "late_max_ms": float(late.max()) if len(late) else 0.0,
        }

    def write_ledger(self, folder: Path, t0_us: int, *, closed: bool) -> None:
        """Write sent.npy and devices.json as the simulator does."""
        load, n = self._load, self.head
        nth, row = np.divmod(np.arange(n), self._n)
        intended = self._intended(t0_us, closed=closed)
        sent = np.zeros(n, SENT)
        sent["device"], sent["type"] = self._rows["conn"][row], self._rows["code"][row]
        sent["seq"] = self._rows["seq"][row] + nth * self._rows["per_pass"][row]
        begin = t0_us // 1000 + nth * load.cycle_us // 1000
        sent["ts_ms"] = intended // 1000 if closed else begin + self._rows["ts_ms"][row]
        sent["intended_us"], sent["sent_us"], sent["acked_us"] = intended, self.sent_us[:n], self.acked_us[:n]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "sent.npy", sent)
        head = {
            "devices": [{"id": d.id, "kind": d.kind, "boot": d.boot} for d in load.devices],
            "scene": load.name, "t0_ms": t0_us // 1000, "offset_s": 0.0, "speed": 1.0, "copies": 1, "seed": 1,
        }  # fmt: skip
        (folder / "devices.json").write_text(json.dumps(head), "utf-8")

    def close(self) -> None:
        """Disconnect."""
        for s in self._sockets:
            with contextlib.suppress(OSError):
                s.sendall(mqtt5.DisconnectPacket().write())
            s.close()

    def _intended(self, t0_us: int, *, closed: bool) -> npt.NDArray[np.int64]:
        if closed:
            return self.sent_us[: self.head]
        nth, row = np.divmod(np.arange(self.head), self._n)
        return np.asarray(t0_us + nth * self._load.cycle_us + self._rows["at_us"][row])

    def _send_until(self, due: int, t0_us: int, *, closed: bool) -> int:
        first = self.head
        while self.head < due:
            nth, i0 = divmod(self.head, self._n)
            i1 = min(i0 + min(due - self.head, _CHUNK), self._n)
            now = time.time_ns() // 1000
            ts0 = now // 1000 if closed else t0_us // 1000 + nth * self._load.cycle_us // 1000
            went = self._send(i0, i1, nth, ts0, closed=closed)
            self.sent_us[self.head : self.head + went] = now
            self.head += went
            if went < i1 - i0:
                self.blocked += 1
                break
        return self.head - first

    def _send(self, i0: int, i1: int, nth: int, ts0: int = 0, *, closed: bool = False) -> int:
        r = self._rows
        went: int = send_rows(
            self._fds, r["conn"], r["start"], r["end"], r["pid_at"], r["seq_at"], r["ts_at"], r["seq"], r["per_pass"],
            self._no_ts if closed else r["ts_ms"],
            self._packets, i0, i1, nth, ts0, self._next_pid, self._scratch, self._begun,
        )  # fmt: skip
        return went

    def _read(self, now: int) -> None:
        lost = read_acks(
            self._fds, self._rest, self._rest_len, self._buffer, self._first, self._per_conn, self._by_conn, self._n,
            self.acked_us, now, self._counts,
        )  # fmt: skip
        if lost >= 0:
            raise BrokerError(f"the MQTT broker closed the connection of {self._load.devices[lost].id}")


def connect(host: str, port: int, client_id: str) -> socket.socket:
    """Return a connected, non-blocking socket of an MQTT 5 session; BrokerError if the broker refuses it."""
    s = socket.create_connection((host, port), timeout=10.0)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.sendall(mqtt5.ConnectPacket(client_id, clean_start=True, keep_alive=0).write())
    data = b""
    while True:
        data += s.recv(1024) or b""
        try:
            packet, _ = mqtt5.read(memoryview(data))
            break
        except IndexError:
            if not data:
                raise BrokerError(f"the MQTT broker at {host}:{port} closed the connection of {client_id}") from None
    if not isinstance(packet, mqtt5.ConnAckPacket) or packet.reason_code != 0:
        raise BrokerError(f"the MQTT broker at {host}:{port} refuses {client_id}: {packet}")
    s.setblocking(False)
    return s


def _raise_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Run as a process: FOLDER HOST PORT MAX_ROWS [LEDGER]; the folder holds the load and the control file."""
    folder, host, port, max_rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ledger = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    control = np.memmap(folder / "control", np.int64, "r+", shape=(8,))
    publisher = Publisher(Load.read(folder), host, port, control, max_rows)
    print("ready", flush=True)
    order = json.loads(sys.stdin.readline())
    closed = bool(control[CREDIT] != OPEN_LOOP)
    summary = publisher.run(order["t0_us"], order["seconds"])
    if ledger is not None:
        publisher.write_ledger(ledger, order["t0_us"], closed=closed)
    publisher.close()
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
