"""Outlet: what the engine says, encoded, each with its position (generation, input offset, count at that offset)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from v2x.columns import Encoder, Output
from v2x.topics import EVENTS, HEADER_RX, LINKS, MAPS, OBSERVATIONS, TRACKS
from v2x.zones import ZoneMap


@dataclass(slots=True)
class Trigger:
    """The record that made something happen; device and times are set by an uplink message, not by a tick."""

    stamp_ms: int
    device: str = ""
    ts_ms: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()

    def fields(self) -> dict[str, Any]:
        """Return the trigger fields of a traffic_event."""
        rx = next((value for name, value in self.headers if name == HEADER_RX), b"")
        return {
            "trigger_device": self.device,
            "trigger_ts_ms": self.ts_ms,
            "trigger_rx_us": int.from_bytes(rx, "big") if len(rx) == 8 else 0,
            "trigger_stamp_ms": self.stamp_ms,
        }


class Outlet:
    """Collects outputs. Before the genesis record is known nothing can be said, since every value names its world."""

    def __init__(self, encoder: Encoder, partition: int, partitions: int, zones: ZoneMap) -> None:
        self.generation: str | None = None
        self.made = 0
        self.catching = False  # what is said now is said while fusion catches up
        self._encoder, self._zones = encoder, zones
        self.partition, self._partitions = partition, partitions
        self._offset, self._nth = -1, 0
        self._out: list[Output] = []

    def at(self, offset: int) -> None:
        """Go on to the next input record."""
        self._offset, self._nth = offset, 0

    def drain(self) -> list[Output]:
        """Return and forget what was made."""
        out, self._out = self._out, []
        return out

    @property
    def position(self) -> tuple[int, int]:
        """Return the position that the next output will have: input offset, count at that offset."""
        return self._offset, self._nth

    def frame(self, zone: str, value: bytes) -> None:
        """Say a zone's track frame, which carries its position already."""
        self._put(TRACKS, self.partition, zone, value)

    def event(self, event_id: str, record: dict[str, Any], trigger: Trigger) -> None:
        """Say a revision of an event."""
        self._say(EVENTS, self.partition, event_id, "traffic_event", {**record, **trigger.fields()})

    def link(self, record: dict[str, Any]) -> None:
        """Say the state of a section or link."""
        self._say(LINKS, self.partition, record["link"], "link_state", record)

    def node(self, record: dict[str, Any]) -> None:
        """Say a map node."""
        node = record["nodes"][0]
        self._say(MAPS, self.partition, f"{node['region']}-{node['node']}", "map_state", record)

    def neighbour(self, schema: str, zone: str, record: dict[str, Any]) -> None:
        """Say an adopt or release to a zone of another partition: it goes into that zone's log."""
        if self.generation is None:
            return
        to = self._zones.partition(zone, self._partitions)
        full = {
            "generation": self.generation, "from_partition": self.partition, "from_offset": self._offset,
            "from_index": self._nth, "to_zone": zone, **record,
        }  # fmt: skip
        self._put(OBSERVATIONS, to, zone, self._encoder.encode(schema, full))

    def _say(self, topic: str, partition: int, key: str, schema: str, record: Mapping[str, Any]) -> None:
        if self.generation is None:
            return
        self._put(topic, partition, key, self._encoder.encode(schema, {**self._position(), **record}))

    def _position(self) -> dict[str, Any]:
        return {
            "generation": self.generation, "partition": self.partition, "offset": self._offset, "index": self._nth,
        }  # fmt: skip

    def _put(self, topic: str, partition: int, key: str, value: bytes) -> None:
        self._out.append(Output(topic, partition, key.encode(), value, self._offset, self._nth))
        self._nth += 1
        self.made += 1

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {"generation": self.generation, "made": self.made}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a ``state``."""
        self.generation, self.made = state["generation"], state["made"]
