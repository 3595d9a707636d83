"""What is known about the messages of a batch once they are judged, and the dead letter of one that is bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from v2x.columns import I32, I64, Batch, Decoder
from v2x.deadletters import Letter, Reason
from v2x.errors import V2XError
from v2x.topics import GANTRY

from v2x_codecs.envelopes import envelope_of
from v2x_codecs.framing import KAFKA_HEADER, mqtt_frame, unframe_kafka
from v2x_codecs.registry import Registry
from v2x_services.ingest.topics import Place, Topic, TopicTable
from v2x_services.ports import A_PAYLOAD, A_SIZE, Arrivals, Refused


@dataclass(slots=True)
class Taken:
    """Messages of a batch of arrivals that one session takes."""

    batch: Arrivals
    rows: I64  # as ``Arrivals.rows``
    which: I64  # line in the topic table
    known: I32  # (2, n): schema, device number
    tokens: I64  # in the ledger

    def payload(self, i: int) -> bytes:
        """Return the bytes of message ``i``."""
        at, size = self.rows[i, A_PAYLOAD : A_SIZE + 1].tolist()
        return self.batch.heap[at : at + size]


@dataclass(slots=True)
class Judged:
    """Columns of the messages of one batch."""

    reason: I32  # Reason, 0 if there is nothing wrong
    decoded: Batch
    names: Decoder  # of schemas and fields
    envelopes: I64  # (5, n): ts_ms, boot, seq; -1 where not known; lat, lon, 'unavailable' if there is none

    @property
    def ts_ms(self) -> I64:
        """Device times."""
        ts_ms: I64 = self.envelopes[0]
        return ts_ms


def letter_of(judged: Judged, i: int, reason: Reason, topic: Topic, payload: bytes, rx_us: int) -> Letter:
    """Return what is known about a bad message."""
    decoded, at = judged.decoded, int(judged.decoded.at[i])
    ts_ms, boot, seq = judged.envelopes[:3, i].tolist()
    if seq < 0 and Reason.TRUNCATED <= reason <= Reason.TOO_MANY and topic.row is not None:
        # Bad further behind: the confirm service can tell its sender that this number is refused.
        found = envelope_of(payload)
        if found is not None and found[0] == topic.device:
            _, boot, seq = found
    late_s = (rx_us / 1000 - ts_ms) / 1000
    match reason:
        case Reason.UNKNOWN_TOPIC:
            detail = topic.error
        case Reason.WRONG_DEVICE:
            detail = f"the topic says {topic.device!r}, the message another device"
        case Reason.AHEAD:
            detail = f"ts_ms {ts_ms} is {-late_s:.3f} s ahead"
        case Reason.TOO_OLD:
            detail = f"ts_ms {ts_ms} is {late_s:.0f} s old"
        case Reason.QUARANTINED:
            detail = f"device {topic.device!r} is in quarantine for bad messages or too many bytes"
        case _:
            bad, known = int(decoded.bad_field[i]), int(decoded.schema[i])
            where = f" in field {judged.names.field_names[bad]}" if bad >= 0 else ""
            schema = f" (schema {judged.names.schemas[known]})" if known >= 0 else ""
            detail = f"{reason.label} at byte {at} of {len(payload)}{where}{schema}"
    return Letter(
        reason,
        detail,
        topic.name,
        payload,
        rx_us,
        topic.device,
        topic.row.type if topic.row is not None else "",
        at if reason < Reason.UNKNOWN_TOPIC else -1,
        boot,
        seq,
    )


class Numbered(NamedTuple):
    """A message by its schema and number."""

    schema: str
    device: str
    boot: int
    seq: int


def refused_letter(
    registry: Registry, topics: TopicTable, refused: Refused, detail: str, rx_us: int
) -> tuple[Letter, Topic, Numbered | None]:
    """Return the dead letter of a record that Kafka will not take, the topic that its message came on, and its number.

    It names device, type, boot and number, so that the confirm service can tell the sender, and has the message as it
    came, so that it can be published again. What is pseudonymised already stays as it was for Kafka.
    """
    reason, value = Reason.RECORD_TOO_LARGE, refused.value
    envelope = envelope_of(value, KAFKA_HEADER)
    try:
        schema, body = unframe_kafka(registry, value)
    except V2XError:
        envelope = None
    message = Numbered(schema.name, *envelope) if envelope is not None else None
    topic = topics.find(message.device, message.schema) if message is not None else None
    if message is None or topic is None or topic.row is None:  # forgotten meanwhile: what its record says
        device = (refused.key or b"").decode("utf-8", "replace") if refused.topic != GANTRY else ""
        nowhere = Topic(refused.topic, Place.STRAY, device, device.encode(), 0, -1, None, -1)
        return Letter(reason, detail, refused.topic, value, rx_us, device), nowhere, message
    payload = value if topic.personal else mqtt_frame(schema, body)
    _, device, boot, seq = message
    return Letter(reason, detail, topic.name, payload, rx_us, device, topic.row.type, -1, boot, seq), topic, message
