"""The real cores: v2x.fusion's Engine for the observations, v2x.gantry's GantryStage for the gantries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from v2x.columns import Record
from v2x.topics import OBSERVATIONS
from v2x.zones import ZoneMap

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.fusion.cores import code_version
from v2x_services.fusion.stage import Core
from v2x_services.settings import Settings

_WARM_STEPS: Final = 8
_STEP_MS: Final = 50
_T0: Final = 1_700_000_000_000


class DomainCores:
    """Makes engines and gantry stages for one zone map."""

    def __init__(self, settings: Settings) -> None:
        """ConfigError if the zone map cannot be used."""
        self._zones = ZoneMap.load(settings.zones_path)
        self._codec = ReferenceCodec(Registry.load(), strict=False)  # the batch decoder has checked the ranges
        self._decoder: Any = None
        self.code = code_version()
        self.config = hashlib.sha256(self._zones.checksum.encode()).hexdigest()[:16]

    def warm_up(self) -> dict[str, int]:
        """Import and so compile the kernels, and run a vehicle through a scratch engine: no first time on the road.

        Returns the scratch engine's counters.
        """
        from v2x_codecs.decoder import ColumnDecoder  # noqa: PLC0415  (numba; compiled kernels come from its cache)

        self._decoder = ColumnDecoder(Registry.load())
        partitions = 1
        engine = self.fresh(OBSERVATIONS, 0, partitions)
        origin = self._zones.zone(self._zones.zones[0]).origin
        offset = 0

        def record(name: str, **fields: Any) -> Record:
            nonlocal offset
            offset += 1
            value = self._codec.encode(name, blank(Registry.load().get(name).raw) | fields)
            return Record(offset - 1, _T0 + step * _STEP_MS, b"warm", value, ())

        step = 0
        engine.feed([record("genesis", generation="0" * 36, partitions=partitions)])
        for step in range(_WARM_STEPS):
            now = {"device": "warm", "seq": step, "ts_ms": _T0 + step * _STEP_MS}
            place = {"ref_lat": round(origin[0] * 1e7), "ref_lon": round(origin[1] * 1e7)}
            vehicle = blank(_items(Registry.load().get("rsm").raw, "participants"))
            vehicle |= {
                "ptc_type": 1,
                "ptc_id": 1,
                "object_class": 3,
                "d_lat": 0,
                "d_lon": 0,
                "speed": 500,
                "heading": 0,
            }
            engine.feed([record("rsm", **now, **place, participants=[vehicle]), record("tick", ts_ms=now["ts_ms"])])
        engine.freeze().pack()
        return engine.counters

    def fresh(self, topic: str, partition: int, partitions: int) -> Core:
        """Return a core at the beginning of a log."""
        if topic == OBSERVATIONS:
            from v2x.fusion.engine import Engine  # noqa: PLC0415

            return Engine(
                None, self._zones, self._decoder, self._codec, partition, partitions, self._codec.decode_kafka
            )
        from v2x.gantry import GantryStage  # noqa: PLC0415

        return GantryStage(self._zones, self._decoder, self._codec, partition, partitions)

    def restore(self, topic: str, partition: int, partitions: int, blob: bytes) -> Core:
        """Return a core as it was; SnapshotError if the snapshot does not fit the zone map."""
        if topic == OBSERVATIONS:
            from v2x.fusion.engine import Engine  # noqa: PLC0415

            codec = self._codec
            return Engine.restore(
                None, self._zones, self._decoder, codec, partition, partitions, codec.decode_kafka, blob=blob
            )
        from v2x.gantry import GantryStage  # noqa: PLC0415

        return GantryStage.restore(self._zones, self._decoder, self._codec, partition, partitions, blob)


def blank(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a legal record that says as little as can be said: unavailable, or the least legal value."""
    return {f["name"]: _blank(f) for f in schema["fields"]}


def _blank(field: Mapping[str, Any]) -> Any:
    kind = field["type"]
    if isinstance(kind, Mapping):
        if kind["type"] == "record":
            return blank(kind)
        if kind["type"] == "enum":
            return kind["symbols"][0]
        if kind["type"] == "fixed":
            return bytes(kind["size"])
        return [_blank({"type": kind["items"]}) for _ in range(field.get("minItems", 0))]
    if kind == "string":
        return "0" * field.get("minLength", 0)
    if kind in {"int", "long"}:
        return field.get("unavailable", field.get("min", 0))
    return {"boolean": False, "bytes": b"", "double": 0.0, "float": 0.0}[kind]


def _items(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the record type of an array field."""
    found: Mapping[str, Any] = next(f for f in schema["fields"] if f["name"] == name)["type"]["items"]
    return found
