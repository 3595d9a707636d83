"""The reader's rule: records may repeat in Kafka, and a reader that applies these lines sees each thing once.

Events are one by (event id, revision), frames and links by (generation, partition, offset, index), hand-overs by the
position they came from, uplinks by (device, boot, type, seq). `v2x tail` and the audit use exactly this.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any


def identity(name: str, record: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """Return what makes a record of schema ``name`` one and the same."""
    if name == "traffic_event":
        return record["event_id"], record["revision"]
    if "from_offset" in record:
        return record["generation"], record["from_partition"], record["from_offset"], record["from_index"], name
    if "offset" in record:
        return record["generation"], record["partition"], record["offset"], record["index"]
    return record["device"], record["boot"], name, record["seq"]


class Once:
    """Say True once for each identity; the last ``keep`` are remembered."""

    def __init__(self, keep: int = 1_000_000) -> None:
        self._seen: dict[tuple[Hashable, ...], None] = {}
        self._keep = keep
        self.repeats = 0

    def __call__(self, name: str, record: Mapping[str, Any]) -> bool:
        """Return whether this is its first time."""
        key = identity(name, record)
        if key in self._seen:
            self.repeats += 1
            return False
        self._seen[key] = None
        if len(self._seen) > self._keep:
            del self._seen[next(iter(self._seen))]
        return True
