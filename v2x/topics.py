"""Names on the wire, in one table each: MQTT uplinks and Kafka topics (design: MQTT topics, Kafka topics).

An uplink is ``v2x/v1/{kind}/{device}/{type}/up``; the table says which schema its body has, whether the class is
*reliable* (the device keeps it until confirmed) or *perishable*, and which Kafka topic takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from v2x.errors import TopicError

ROOT: Final = "v2x/v1"
OBSERVATIONS: Final = "v2x.observations"
GANTRY: Final = "v2x.gantry"
DEVICES: Final = "v2x.devices"
TRACKS: Final = "v2x.tracks"
EVENTS: Final = "v2x.events"
LINKS: Final = "v2x.links"
MAPS: Final = "v2x.maps"
DEADLETTER: Final = "v2x.deadletter"
SUMMARIES: Final = "v2x.summaries"

# Headers that ingest sets on what it writes to Kafka.
HEADER_RX: Final = "rx"  # 8 bytes big-endian: when ingest received the message, microseconds UTC
HEADER_COPY: Final = "copy"  # present on the copies that go to halo zones; the audit leaves them out


class MessageClass(IntEnum):
    """What a loss means: perishable messages are overtaken by the next one, reliable ones are kept until confirmed."""

    PERISHABLE = 0
    RELIABLE = 1


@dataclass(frozen=True, slots=True)
class UplinkType:
    """One row of the uplink table."""

    code: int  # stable number, for compact files
    kind: str
    type: str
    schema: str
    message_class: MessageClass
    kafka: str


_P, _R = MessageClass.PERISHABLE, MessageClass.RELIABLE
UPLINKS: Final[tuple[UplinkType, ...]] = (
    UplinkType(0, "rsu", "bsm", "bsm", _P, OBSERVATIONS),
    UplinkType(1, "rsu", "rsm", "rsm", _P, OBSERVATIONS),
    UplinkType(2, "rsu", "rsi", "rsi", _R, OBSERVATIONS),
    UplinkType(3, "rsu", "spat", "spat", _P, OBSERVATIONS),
    UplinkType(4, "rsu", "map", "map", _P, OBSERVATIONS),
    UplinkType(5, "rsu", "hb", "rsu_hb", _P, OBSERVATIONS),
    UplinkType(6, "rsu", "ack", "ack", _R, DEVICES),
    UplinkType(7, "obu", "bsm", "bsm", _P, OBSERVATIONS),
    UplinkType(8, "gantry", "transaction", "gantry_transaction", _R, GANTRY),
    UplinkType(9, "gantry", "plate", "gantry_plate", _R, GANTRY),
    UplinkType(10, "gantry", "hb", "gantry_hb", _P, DEVICES),
    UplinkType(11, "pole", "env", "pole_env", _P, OBSERVATIONS),
    UplinkType(12, "pile", "status", "pile_status", _R, DEVICES),
)
KINDS: Final = frozenset(row.kind for row in UPLINKS)
_BY_NAME: Final = {(row.kind, row.type): row for row in UPLINKS}
_UPLINK_PARTS: Final = 6


class Uplink(NamedTuple):
    """A parsed uplink topic."""

    device: str
    row: UplinkType


def parse_uplink(topic: str) -> Uplink:
    """Return device and table row of an uplink topic; TopicError says which part is wrong."""
    parts = topic.split("/")
    if len(parts) != _UPLINK_PARTS or parts[0] != "v2x" or parts[1] != "v1" or parts[5] != "up":
        msg = f"topic {topic[:200]!r} is not of the form {ROOT}/{{kind}}/{{device}}/{{type}}/up"
        raise TopicError(msg)
    row = _BY_NAME.get((parts[2], parts[4]))
    if row is None:
        msg = f"no message type {parts[4][:40]!r} for kind {parts[2][:40]!r}; see v2x.topics.UPLINKS"
        raise TopicError(msg)
    if not parts[3]:
        msg = f"topic {topic[:200]!r} has an empty device id"
        raise TopicError(msg)
    return Uplink(parts[3], row)


def uplink_topic(kind: str, device: str, type_: str) -> str:
    """Return the topic that ``device`` publishes messages of ``type_`` on."""
    return f"{ROOT}/{kind}/{device}/{type_}/up"


def downlink_topic(kind: str, device: str, type_: str) -> str:
    """Return the topic that ``device`` hears messages of ``type_`` on."""
    return f"{ROOT}/{kind}/{device}/{type_}/down"


@dataclass(frozen=True, slots=True)
class KafkaTopic:
    """How a Kafka topic must be set up."""

    name: str
    compacted: bool
    retention_ms: int
    retention_bytes: int  # per partition; -1 no limit
    what: str


_HOUR: Final = 3_600_000
_GIB: Final = 1 << 30
KAFKA_TOPICS: Final[tuple[KafkaTopic, ...]] = (
    KafkaTopic(OBSERVATIONS, False, 24 * _HOUR, 8 * _GIB, "All that road fusion needs, by zone, in one order"),
    KafkaTopic(GANTRY, False, 7 * 24 * _HOUR, 4 * _GIB, "Gantry transactions and plates, pseudonymised, by vehicle"),
    KafkaTopic(DEVICES, False, 7 * 24 * _HOUR, _GIB, "Gantry heartbeats, charging piles, acks"),
    KafkaTopic(TRACKS, False, 6 * _HOUR, 4 * _GIB, "Fused track frames"),
    KafkaTopic(EVENTS, False, 30 * 24 * _HOUR, _GIB, "Traffic events"),
    KafkaTopic(LINKS, False, 30 * 24 * _HOUR, _GIB, "Travel times, speeds and levels of sections and links"),
    KafkaTopic(MAPS, True, -1, -1, "Map nodes (compacted)"),
    KafkaTopic(DEADLETTER, False, 30 * 24 * _HOUR, 2 * _GIB, "What could not be taken in, and why"),
    KafkaTopic(SUMMARIES, False, 24 * _HOUR, _GIB, "What ingest wrote in each second: devices, boots, types, numbers"),
)
