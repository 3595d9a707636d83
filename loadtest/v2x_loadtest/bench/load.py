"""The load of a benchmark: PUBLISH packets made beforehand, and when each is due; the publisher only sends them.

A load is a *cycle* of rows that is played again and again. What changes from pass to pass is patched into the packet as
it is sent: the packet id (2 bytes), ``seq`` (a 3-byte varint) and ``ts_ms`` (a 6-byte varint). Content with a second of
the minute in it (``sec_mark``) stays true if both the cycle and the start are whole minutes apart (``align_ms``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.errors import ConfigError
from v2x.topics import UPLINKS, uplink_topic
from v2x.zones import checksum

from v2x_loadtest.scene import Scene

ROW: Final = np.dtype(
    [
        ("at_us", "<i8"),  # due so long after the pass begins
        ("ts_ms", "<i8"),  # of the content, after the pass begins
        ("seq", "<i8"),  # in pass 0
        ("per_pass", "<i8"),  # what seq grows by from pass to pass
        ("start", "<i8"),  # the packet is packets[start:end]
        ("end", "<i8"),
        ("conn", "<i4"),
        ("rank", "<i4"),  # the how-manieth row of its connection in a pass
        ("pid_at", "<i4"),  # offsets in the packet
        ("seq_at", "<i4"),
        ("ts_at", "<i4"),
        ("code", "u1"),  # UPLINKS
    ]
)
SEQ_FIRST: Final = 8192  # from here to SEQ_END a zigzag varint has 3 bytes
SEQ_END: Final = 1 << 20
MINUTE_MS: Final = 60_000
_TS_BYTES: Final = 6
_PROPERTIES: Final = 1
_FRAME: Final = 10
_QOS1: Final = 0x32
_MAX_ID: Final = 63  # longer ones would have a longer varint before them; none of ours is


@dataclass(frozen=True, slots=True)
class BenchDevice:
    """A device: one MQTT connection."""

    id: str
    kind: str
    boot: int


@dataclass(slots=True)
class Load:
    """Rows in order of ``at_us``, and what they point into."""

    name: str
    devices: list[BenchDevice]
    rows: npt.NDArray[Any]  # dtype ROW
    packets: npt.NDArray[np.uint8]
    cycle_us: int
    align_ms: int = 1  # the start must be ``phase_ms`` modulo this
    phase_ms: int = 0
    payload_bytes: float = 0.0

    @property
    def rate(self) -> float:
        """Return messages a second."""
        return len(self.rows) / self.cycle_us * 1e6

    def save(self, folder: Path) -> None:
        """Write it for the publisher's process."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "rows.npy", self.rows)
        np.save(folder / "packets.npy", self.packets)
        head = {
            "name": self.name,
            "devices": [asdict(d) for d in self.devices],
            "cycle_us": self.cycle_us,
            "align_ms": self.align_ms,
            "phase_ms": self.phase_ms,
            "payload_bytes": self.payload_bytes,
        }
        (folder / "load.json").write_text(json.dumps(head), "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Load:
        """Read what ``save`` wrote."""
        head = json.loads((folder / "load.json").read_bytes())
        return cls(
            head["name"],
            [BenchDevice(**d) for d in head["devices"]],
            np.load(folder / "rows.npy"),
            np.load(folder / "packets.npy", mmap_mode="r"),
            head["cycle_us"],
            head["align_ms"],
            head["phase_ms"],
            head["payload_bytes"],
        )

    def start_ms(self, earliest_ms: int) -> int:
        """Return the first moment, not before ``earliest_ms``, that the content may begin at."""
        return earliest_ms + (self.phase_ms - earliest_ms) % self.align_ms


def constant(
    name: str,
    payloads: Sequence[bytes],
    devices: Sequence[BenchDevice],
    type_: str,
    rate: float,
    root: str | None = None,
) -> Load:
    """Return a load in which each device sends its payload (``payloads[i % n]`` with its own id in it) again and again.

    Devices take turns, evenly spaced. ``root`` replaces the first two levels of the topics.
    """
    rows = np.zeros(len(devices), ROW)
    packets: list[bytes] = []
    at = 0
    for i, device in enumerate(devices):
        packet, places = publish_packet(_topic(device, type_, root), payloads[i % len(payloads)], device)
        packets.append(packet)
        rows[i]["start"], rows[i]["end"] = at, at + len(packet)
        rows[i]["pid_at"], rows[i]["seq_at"], rows[i]["ts_at"] = places
        rows[i]["code"] = code_of(device.kind, type_)
        at += len(packet)
    cycle_us = max(round(len(devices) / rate * 1e6), 1)
    rows["conn"] = np.arange(len(devices))
    rows["at_us"] = np.arange(len(devices)) * cycle_us // len(devices)
    rows["ts_ms"] = rows["at_us"] // 1000
    rows["seq"], rows["per_pass"] = SEQ_FIRST, 1
    sizes = [len(payloads[i % len(payloads)]) for i in range(len(devices))]
    return Load(
        name, list(devices), rows, np.frombuffer(b"".join(packets), np.uint8), cycle_us,
        payload_bytes=float(np.mean(sizes)),
    )  # fmt: skip


def from_messages(
    name: str,
    devices: Sequence[BenchDevice],
    messages: Iterable[tuple[npt.NDArray[Any], bytes]],
    begin_us: int,
    cycle_us: int,
) -> Load:
    """Return a load of simulated messages: (rows of dtype MESSAGE, blob) a step, content beginning at ``begin_us``.

    Their ``seq`` must begin at SEQ_FIRST.
    """
    heads: dict[tuple[int, int], bytes] = {}
    lengths: dict[int, bytes] = {}
    parts: list[bytes] = []
    found: list[npt.NDArray[Any]] = []
    at = payload_bytes = 0
    for step, blob in messages:
        rows = np.zeros(len(step), ROW)
        rows["at_us"] = step["intended_us"] - begin_us
        rows["ts_ms"] = step["ts_ms"] - begin_us // 1000
        rows["seq"], rows["conn"], rows["code"] = step["seq"], step["device"], step["code"]
        places = []
        for device, code, start, end in zip(
            step["device"].tolist(), step["code"].tolist(), step["start"].tolist(), step["end"].tolist(), strict=True
        ):
            head = heads.get((device, code))
            if head is None:
                topic = uplink_topic(devices[device].kind, devices[device].id, UPLINKS[code].type).encode()
                head = heads[device, code] = len(topic).to_bytes(2, "big") + topic
            rest = len(head) + 2 + _PROPERTIES + end - start
            length = lengths.get(rest)
            if length is None:
                length = lengths[rest] = bytes([_QOS1]) + _varint(rest)
            packet = b"".join((length, head, b"\0\0\0", blob[start:end]))
            pid_at = len(length) + len(head)
            seq_at = pid_at + 3 + _FRAME + 1 + len(devices[device].id) + _TS_BYTES
            places.append((at, at + len(packet), pid_at, seq_at, seq_at + 3))
            parts.append(packet)
            at += len(packet)
            payload_bytes += end - start
        if places:
            columns = np.array(places, np.int64).T
            for field, column in zip(("start", "end", "pid_at", "seq_at", "ts_at"), columns, strict=True):
                rows[field] = column
        found.append(rows)
    rows = np.concatenate(found)
    rows = rows[np.argsort(rows["at_us"], kind="stable")]
    _rank(rows)
    return Load(
        name, list(devices), rows, np.frombuffer(b"".join(parts), np.uint8), cycle_us,
        MINUTE_MS, begin_us // 1000 % MINUTE_MS, payload_bytes / max(len(rows), 1),
    )  # fmt: skip


def _rank(rows: npt.NDArray[Any]) -> None:
    """Set ``rank``, and ``per_pass`` to the number of rows of the same connection and type."""
    order = np.argsort(rows["conn"], kind="stable")
    conn = rows["conn"][order]
    new = np.ones(len(conn), bool)
    new[1:] = conn[1:] != conn[:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(conn)), 0))
    rows["rank"][order] = np.arange(len(conn)) - first
    stream = rows["conn"].astype(np.int64) * len(UPLINKS) + rows["code"]
    rows["per_pass"] = np.bincount(stream)[stream]


def thinned(scene: Scene, share: float, seed: int = 1) -> Scene:
    """Return the scene with a share of its vehicles, so that RSUs see fewer and the overlap of their ranges stays."""
    keep = np.random.default_rng(seed).random(len(scene.vehicles)) < share
    out = copy(scene)
    tr, mine = scene.trajectories, keep[scene.trajectories.vehicle]
    out.trajectories = type(tr)(*(getattr(tr, name)[mine] for name in tr.__dataclass_fields__))
    out._index()  # noqa: SLF001 - a scene is made whole; this one is a cut of it
    return out


def merged(doc: dict[str, Any], recorded: int, copies: int) -> dict[str, Any]:
    """Return a zone map in which ``copies`` neighbouring copies of a scene are one zone; ``recorded``: its own zones.

    A zone of the field is 5 to 10 km of road. A copy has no border with the next one, so nothing is in two zones then.
    """
    zones, names = [], {}
    for at in range(0, len(doc["zones"]), recorded * copies):
        group = doc["zones"][at : at + recorded * copies]
        lats, lons = zip(*(corner for zone in group for corner in zone["polygon"]), strict=True)
        box = [[y, x] for y, x in ((min(lats), min(lons)), (min(lats), max(lons)), (max(lats), max(lons)))]
        zones.append({"id": group[0]["id"], "polygon": [*box, [max(lats), min(lons)]], "neighbours": []})
        names.update({zone["id"]: group[0]["id"] for zone in group})
    devices = {i: {**d, "zone": names[d["zone"]], "halo": []} for i, d in doc["devices"].items()}
    sections = [{**s, "zone": names[s["zone"]]} for s in doc["sections"]]
    out = {**doc, "zones": zones, "devices": devices, "sections": sections}
    return {**out, "checksum": checksum(out)}


def publish_packet(topic: str, payload: bytes, device: BenchDevice) -> tuple[bytes, tuple[int, int, int]]:
    """Return a QoS 1 PUBLISH (MQTT 5) and where its packet id, seq and ts_ms are; ConfigError if they do not fit."""
    if len(device.id.encode()) > _MAX_ID:
        raise ConfigError(f"device id {device.id!r} is too long for a prepared packet")
    name = topic.encode()
    rest = 2 + len(name) + 2 + _PROPERTIES + len(payload)
    head = bytes([_QOS1]) + _varint(rest) + len(name).to_bytes(2, "big") + name
    seq_at = len(head) + 3 + _FRAME + 1 + len(device.id.encode()) + _TS_BYTES
    return head + b"\0\0\0" + payload, (len(head), seq_at, seq_at + 3)


def code_of(kind: str, type_: str) -> int:
    """Return the UPLINKS code."""
    return next(row.code for row in UPLINKS if (row.kind, row.type) == (kind, type_))


def _topic(device: BenchDevice, type_: str, root: str | None) -> str:
    topic = uplink_topic(device.kind, device.id, type_)
    return topic if root is None else "/".join((root, *topic.split("/")[2:]))


def _varint(n: int) -> bytes:
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)
