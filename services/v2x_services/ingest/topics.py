"""What ingest subscribes to, and what it remembers of each MQTT topic.

Two sessions share the uplinks. *Reliable* takes the types that the table in ``v2x.topics`` calls so, each by name.
*Perishable* takes everything below our root with one filter, so that a topic without a schema is seen and told; what
belongs to the other session, and our own downlinks, it sets aside by topic. (MQTT filters cannot subtract, and two
overlapping filters in one session may double each message.) So does a single process; several ones share the uplinks by
``v2x.shards``, and then a topic without a schema has no subscriber.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from v2x.columns import I32, I64
from v2x.devices import DeviceTable
from v2x.errors import TopicError
from v2x.routing import Partitions
from v2x.shards import Shard, filters
from v2x.topics import DEVICES, OBSERVATIONS, ROOT, UPLINKS, MessageClass, UplinkType, parse_uplink
from v2x.zones import partition_of

from v2x_services.ingest import kernels as k
from v2x_services.ingest.routes import Routes
from v2x_services.ports import Arrivals

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
_ROOM: Final = 1024  # topics at first
_NAME: Final = 48  # bytes of one, likewise
BY_ROWS: Final = (OBSERVATIONS, DEVICES)
"""Kafka topics that take messages as they are, so that kernels can write them; lanes are in this order."""


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
    moves: bool = False  # the position of each message decides where it goes


class Met(NamedTuple):
    """What is known of the topics of messages."""

    which: I64  # (n,) line in the topic table
    known: I32  # (2, n) schema (-1 none), device number
    size: int  # bytes of the payloads
    others: int  # messages that another session takes


class TopicTable:
    """Topics seen, bounded; starts anew with the device table, whose numbers it holds.

    What the kernels must know of a topic is a line of ``facts`` (see ``kernels``).
    """

    def __init__(
        self, devices: DeviceTable, routes: Routes, schemas: tuple[str, ...], partitions: dict[str, int]
    ) -> None:
        self.lanes = tuple((topic, p) for topic in BY_ROWS for p in range(partitions[topic]))
        self._first_lane = {topic: self.lanes.index((topic, 0)) for topic in BY_ROWS}
        self._devices = devices
        self._routes = routes
        self._schemas = {name: i for i, name in enumerate(schemas)}
        self._partitions = partitions
        # So that nobody can choose topics that collide.
        self._keys = np.frombuffer(os.urandom(4 * k.HASH_KEYS), np.uint32).astype(np.int64)
        self.on_first: Callable[[Topic], None] | None = None  # hears of each topic that is new here
        self.before_clear: list[Callable[[], None]] = []  # told while the lines still mean what they did
        self._clear()

    def _clear(self) -> None:
        self._topics: list[Topic] = []
        self._size = 0
        self.facts: I64 = np.zeros((_ROOM, k.FACTS), np.int64)
        self.names = np.zeros(_ROOM * _NAME, np.uint8)
        self._slots = np.full(2 * _ROOM, -1, np.int64)
        self._renewals = self._devices.renewals

    def __getitem__(self, line: int) -> Topic:
        """Return the topic of a line."""
        return self._topics[line]

    def __len__(self) -> int:
        return len(self._topics)

    def find(self, device: str, schema: str) -> Topic | None:
        """Return the topic on which a device sends messages of a schema, if it is remembered; not for the hot path."""
        for topic in self._topics:
            if topic.device == device and topic.row is not None and topic.row.schema == schema:
                return topic
        return None

    def meet(self, batch: Arrivals, session: int) -> Met:
        """Find the topics of messages, and take in new ones."""
        if self._devices.renewals != self._renewals or len(self._topics) >= _MAX_TOPICS:
            for tell in self.before_clear:
                tell()
            self._clear()
        n = len(batch.rows)
        which, known = np.empty(n, np.int64), np.empty((2, n), np.int32)
        while True:
            missing, size, others = k.meet(
                batch.data, batch.rows, self._keys, self._slots, self.facts, self.names, session, which, known
            )
            if not missing:
                return Met(which, known, size, others)
            new = {batch.heap[at : at + size] for at, size in batch.rows[which < 0, :2].tolist()}
            for name in sorted(new):
                self._add(name)

    def _add(self, raw: bytes) -> None:
        topic = self._make(raw.decode("utf-8", "replace"))
        line, size = len(self._topics), self._size
        if line == len(self.facts):
            self.facts = np.vstack((self.facts, np.zeros_like(self.facts)))
            self._slots = np.full(2 * len(self.facts), -1, np.int64)
            k.enter(self._slots, self.facts, 0, line)
        while size + len(raw) > len(self.names):
            self.names = np.concatenate((self.names, np.zeros_like(self.names)))
        self.names[size : size + len(raw)] = np.frombuffer(raw, np.uint8)
        facts = self.facts[line]
        facts[k.F_NAME], facts[k.F_NAME_LEN] = size, len(raw)
        facts[k.F_HASH] = k.hash_of(np.frombuffer(raw, np.uint8), 0, len(raw), self._keys)
        facts[k.F_SESSION], facts[k.F_SCHEMA], facts[k.F_NUMBER] = topic.session, topic.schema, topic.number
        facts[k.F_ID] = len(b"/".join(raw.split(b"/")[:_DEVICE_AT])) + 1
        facts[k.F_ID_LEN] = len(topic.id)
        facts[k.F_SET] = self._routes.line(topic.partitions) if topic.partitions else k.UNRESOLVED
        facts[k.F_MOVES] = topic.moves
        facts[k.F_LANE] = -1
        if topic.row is not None:
            facts[k.F_LANE] = self._first_lane.get(topic.row.kafka, -1)
            facts[k.F_CODE] = topic.row.code
        facts[k.F_BOOT] = facts[k.F_SEQ] = -1
        facts[k.F_LAT] = facts[k.F_LON] = facts[k.F_LAST] = k.UNRESOLVED
        self._topics.append(topic)
        self._size = size + len(raw)
        k.enter(self._slots, self.facts, line, line + 1)
        if self.on_first is not None:
            self.on_first(topic)

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
            partitions = self._routes.fixed(device)
        else:
            partitions = (partition_of(device.encode(), self._partitions[row.kafka]),)
        schema = self._schemas[row.schema]
        session = row.message_class
        moves = row.kind == "obu"
        return Topic(
            name, Place.UPLINK, device, device.encode(), number, session, row, schema, "", partitions, personal, moves
        )
