"""What ingest subscribes to, and what it remembers of each MQTT topic.

Two sessions share the uplinks. *Reliable* takes the types that the table in ``v2x.topics`` calls so, each by name.
*Perishable* takes everything below our root with one filter, so that a topic without a schema is seen and told; what
belongs to the other session, and our own downlinks, it sets aside by topic. (MQTT filters cannot subtract, and two
overlapping filters in one session may double each message.) So does a single process; several ones share the uplinks by
``v2x.shards``, and then a topic without a schema has no subscriber.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from v2x.devices import DeviceTable
from v2x.errors import TopicError
from v2x.routing import Partitions, Router
from v2x.shards import Shard, filters
from v2x.topics import OBSERVATIONS, ROOT, UPLINKS, MessageClass, UplinkType, parse_uplink
from v2x.zones import partition_of

FILTERS: Final[dict[MessageClass, tuple[str, ...]]] = {
    MessageClass.RELIABLE: tuple(
        f"{ROOT}/{row.kind}/+/{row.type}/up" for row in UPLINKS if row.message_class is MessageClass.RELIABLE
    ),
    MessageClass.PERISHABLE: (f"{ROOT}/#",),
}
SESSION_NAMES: Final = {MessageClass.RELIABLE: "reliable", MessageClass.PERISHABLE: "perishable"}


def session_filters(shard: Shard, kind: MessageClass, known: Collection[str]) -> tuple[str, ...]:
    """Return the filters of one session of a shard; none if it needs no such session."""
    return FILTERS[kind] if shard.alone else filters(shard, kind, known)


_NOBODY: Final = ""  # the device of topics that name none: they share one quarantine
_DEVICE_AT: Final = 3
_PARTS: Final = 6
_MAX_TOPICS: Final = 100_000
_MAX_ID: Final = 64


class Place(IntEnum):
    """Whose a topic is."""

    UPLINK = 0
    STRAY = 1  # below our root, without a schema
    DOWNLINK = 2  # ours, on its way to a device


@dataclass(slots=True, eq=False)
class Topic:
    """All that a topic says about its messages."""

    name: str
    place: Place
    device: str
    id: bytes  # the device as bytes
    number: int  # of the device, in the device table
    session: int  # the MessageClass whose session takes it; -1 none
    row: UplinkType | None
    schema: int  # index of the schema that its payloads must have; -1 none
    error: str = ""
    partitions: Partitions = ()  # where its messages go; empty if the position decides
    personal: bool = False  # payloads may name a person: seal them
    boot: int = -1  # of its newest message
    seq: int = -1
    gaps: int = 0  # sequence numbers skipped, since last counted
    repeats: int = 0  # sequence numbers not above the newest: repeated, or late

    def follow(self, boot: int, seq: int) -> bool:
        """Note a message's place in its device's counting; return whether it is not simply the next one."""
        if boot != self.boot:
            self.boot, self.seq = boot, seq
            return False
        step = seq - self.seq
        if step == 1:
            self.seq = seq
            return False
        if step > 1:
            self.gaps += step - 1
            self.seq = seq
        else:
            self.repeats += 1
        return True


class TopicTable:
    """Topics seen, bounded; starts anew with the device table, whose numbers it holds."""

    def __init__(
        self, devices: DeviceTable, router: Router, schemas: tuple[str, ...], partitions: dict[str, int]
    ) -> None:
        self._devices = devices
        self._router = router
        self._schemas = {name: i for i, name in enumerate(schemas)}
        self._partitions = partitions
        self._topics: dict[str, Topic] = {}
        self._renewals = devices.renewals
        self.on_first: Callable[[Topic], None] | None = None  # hears of each topic that is new here

    def get(self, name: str) -> Topic:
        """Return what is known of a topic."""
        found = self._topics.get(name)
        if found is None:
            found = self._make(name)
            if self._devices.renewals != self._renewals or len(self._topics) >= _MAX_TOPICS:
                self._renewals = self._devices.renewals
                self._topics.clear()
            self._topics[name] = found
            if self.on_first is not None:
                self.on_first(found)
        return found

    def _make(self, name: str) -> Topic:
        parts = name.split("/")
        device = parts[_DEVICE_AT] if len(parts) > _DEVICE_AT and len(parts[_DEVICE_AT]) <= _MAX_ID else _NOBODY
        # Whatever comes from below gantry/ may be a transaction, even if topic or bytes are damaged.
        personal = len(parts) > 2 and parts[2] == "gantry"
        number = self._devices.number(device)
        try:
            row = parse_uplink(name).row
        except TopicError as e:
            place = Place.DOWNLINK if len(parts) == _PARTS and parts[-1] == "down" else Place.STRAY
            session = MessageClass.PERISHABLE if place is Place.STRAY else -1
            return Topic(name, place, device, device.encode(), number, session, None, -1, str(e), (), personal)
        if row.kafka == OBSERVATIONS:
            partitions = self._router.fixed(device) or ()
        else:
            partitions = (partition_of(device.encode(), self._partitions[row.kafka]),)
        schema = self._schemas[row.schema]
        session = row.message_class
        return Topic(
            name, Place.UPLINK, device, device.encode(), number, session, row, schema, "", partitions, personal
        )
