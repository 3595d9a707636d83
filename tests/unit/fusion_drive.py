"""Small hand-made logs for fusion's tests: an engine, records at chosen times, what came out as dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.unit import fusion_scene as fs
from v2x.columns import Output, Record
from v2x.fusion.engine import Engine

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry

CODEC = ReferenceCodec(Registry.load())
DECODER = ColumnDecoder(Registry.load())
ROAD = fs.Settings(rsus=2, length_m=500.0, azimuth_deg=90.0)
ZONES = fs.zone_map(ROAD)


def engine(zones: Any = ZONES, partition: int = 0, partitions: int = 1, blob: bytes | None = None) -> Engine:
    args = (None, zones, DECODER, CODEC, partition, partitions, CODEC.decode_kafka)
    return Engine(*args) if blob is None else Engine.restore(*args, blob=blob)


def decoded(outputs: list[Output], topic: str) -> list[dict[str, Any]]:
    return [CODEC.decode_kafka(o.value)[1] for o in outputs if o.topic == topic]


class Drive:
    """A log that is written as it is fed; times are ms since fs.T0."""

    def __init__(self, zones: Any = ZONES, genesis: bool = True) -> None:
        self.engine = engine(zones)
        self.zones = zones
        self.out: list[Output] = []
        self.log: list[Record] = []
        self.seq: dict[tuple[str, str], int] = {}
        if genesis:
            self.say("genesis", 0, generation=fs.GENERATION, partition=0, partitions=1, ts_ms=fs.T0)

    def put(self, value: bytes, at: float, key: bytes = b"k") -> None:
        record = Record(len(self.log), int(fs.T0 + at), key, value, (("rx", (1000).to_bytes(8, "big")),))
        self.log.append(record)
        self.out += self.engine.feed([record])

    def say(self, schema: str, at: float, **fields: Any) -> None:
        self.put(CODEC.encode(schema, fields), at)

    def tick(self, at: float) -> None:
        self.say("tick", at, source="test", ts_ms=int(fs.T0 + at))

    def next_seq(self, device: str, kind: str) -> int:
        self.seq[device, kind] = self.seq.get((device, kind), -1) + 1
        return self.seq[device, kind]

    def scan(
        self, rsu: int, at: float, objects: list[tuple[int, float, float]], ts: float | None = None,
        seq: int | None = None,
        speed: float = 20.0, cls: int = 3, heading: float = 90.0, ref: tuple[int, int] | None = None, **other: int,
    ) -> None:  # fmt: skip
        """One RSM of RSU ``rsu`` (1, 2): objects are (local id, east, north)."""
        device = f"RSU-{rsu:02d}"
        here = self.zones.devices[device]
        lat, lon = ref or (round(here.lat * 1e7), round(here.lon * 1e7))
        ts_ms = int(fs.T0 + (at if ts is None else ts))
        people = []
        for local, east, north in objects:
            p = fs.FRAME.e7(east, north)
            row = fs.participant(local, p[0] - lat, p[1] - lon, ts_ms, speed, heading, cls)
            people.append({**row, **other})
        number = self.next_seq(device, "rsm") if seq is None else seq
        self.put(CODEC.encode("rsm", fs.rsm(device, number, ts_ms, lat, lon, people)), at)

    def bsm(self, device: str, at: float, east: float, north: float, temp: bytes, **other: int) -> None:
        lat, lon = fs.FRAME.e7(east, north)
        row = {
            "device": device, "boot": 1, "seq": self.next_seq(device, "bsm"), "ts_ms": int(fs.T0 + at), "msg_cnt": 0,
            "temp_id": temp, "sec_mark": 65535, "lat": lat, "lon": lon, "ele": -4096, "pos_conf": 9, "semi_major": 255,
            "semi_minor": 255, "orientation": 65535, "transmission": 2, "speed": 1000, "heading": 7200, "angle": 127,
            "speed_conf": 0, "heading_conf": 0, "accel_long": 0, "accel_lat": 0, "accel_vert": 0, "yaw_rate": 0,
            "brake_pedal": 1, "wheel_brakes": 0, "traction": 0, "abs": 0, "scs": 0, "brake_boost": 0, "aux_brakes": 0,
            "width": 180, "length": 450, "height": 30, "vehicle_class": 10, "fuel_type": 1, "event_flags": 0,
            "lights": 0,
            **other,
        }  # fmt: skip
        self.put(CODEC.encode("bsm", row), at, device.encode())

    def frames(self) -> list[dict[str, Any]]:
        return decoded(self.out, "v2x.tracks")

    def tracks(self) -> set[int]:
        return {i for f in self.frames() for i in f["track"]}

    def last(self) -> dict[int, tuple[float, float]]:
        """Positions (east, north) of the last frame by id."""
        f = self.frames()[-1]
        east, north = fs.FRAME.to_local(np.array(f["lat"]) / 1e7, np.array(f["lon"]) / 1e7)
        return {i: (float(e), float(n)) for i, e, n in zip(f["track"], east, north, strict=True)}

    def balanced(self) -> bool:
        c = self.engine.counters
        kinds = ("fused", "noted", "control", "repeats")
        return c["inputs"] == sum(n for k, n in c.items() if k in kinds or k.startswith("skipped_"))
