"""Payloads of the ingest benchmark, and a zone map that spreads its devices evenly over the partitions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from v2x.errors import ConfigError
from v2x.zones import partition_of

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.bench.decode import rsm
from v2x_loadtest.bench.load import SEQ_FIRST, BenchDevice, Load, constant

BOOT_MS: Final = 1_790_000_000_000
_ZONE_DEG: Final = 0.05
_LAT, _LON = 30.0, 120.0
_LONG_ID: Final = 63  # with it a BSM has about as many bytes as one of the field with its certificate digest
PROBE: Final = "PROBE"


def ingest_load(kind: str, connections: int, rate: float, partitions: int) -> tuple[Load, dict[str, Any], bytes]:
    """Return a load of ``bsm`` or ``rsm`` (20 participants), its zone map, and the payload of a probe."""
    if kind not in {"bsm", "rsm"}:
        raise ConfigError(f"--payload {kind!r}: bsm or rsm")
    registry = Registry.load()
    codec = ReferenceCodec(registry)
    rng = np.random.default_rng(1)
    names = [_zone_of(p, partitions) for p in range(partitions)]
    doc: dict[str, Any] = {"version": 1, "name": "bench", "partition_hint": None, "gantries": {}, "sections": []}
    doc["zones"] = [{"id": name, "polygon": _square(i), "neighbours": []} for i, name in enumerate(names)]
    doc["devices"] = {}
    devices, payloads = [], []
    for i in range(connections):
        base = f"{'OBU' if kind == 'bsm' else 'RSU'}-BENCH-{i:05d}"
        device = BenchDevice(base.ljust(_LONG_ID, "X") if kind == "bsm" else base, _kind(kind), BOOT_MS)
        lat, lon = _centre(i % partitions)
        if kind == "rsm":
            doc["devices"][device.id] = {"zone": names[i % partitions], "halo": [], "lat": lat, "lon": lon}
        devices.append(device)
        payloads.append(codec.encode_mqtt(kind, _record(kind, device.id, lat, lon, registry, rng)))
    load = constant(kind, payloads, devices, kind, rate)
    probe = _record(kind, PROBE, *_centre(0), registry, rng)
    return load, doc, codec.encode_mqtt(kind, probe)


def _kind(payload: str) -> str:
    return "obu" if payload == "bsm" else "rsu"


def _record(
    kind: str, device: str, lat: float, lon: float, registry: Registry, rng: np.random.Generator
) -> dict[str, Any]:
    place = (round(lat * 1e7), round(lon * 1e7))
    if kind == "rsm":
        record = {**rsm(20, rng), "ref_lat": place[0], "ref_lon": place[1]}
    else:
        record = {**_largest(registry), "lat": place[0], "lon": place[1]}
    return {**record, "device": device, "boot": BOOT_MS, "seq": SEQ_FIRST, "ts_ms": BOOT_MS}


def _largest(registry: Registry) -> dict[str, Any]:
    """Return a BSM whose every number is the largest allowed, so that it is as long as a BSM can be."""
    fields = registry.get("bsm").raw["fields"]
    return {f["name"]: bytes(8) if isinstance(f["type"], dict) else f.get("max", "") for f in fields}


def _zone_of(partition: int, partitions: int) -> str:
    """Return a zone id that Kafka's partitioner puts into ``partition``."""
    n = 0
    while partition_of(f"BENCH-{n}".encode(), partitions) != partition:
        n += 1
    return f"BENCH-{n}"


def _centre(i: int) -> tuple[float, float]:
    return _LAT, _LON + i * 2 * _ZONE_DEG


def _square(i: int) -> list[list[float]]:
    lat, lon = _centre(i)
    half = _ZONE_DEG / 2
    return [[lat + dy * half, lon + dx * half] for dy, dx in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
