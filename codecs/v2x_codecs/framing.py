"""The two headers of one Avro body.

MQTT: single-object encoding (Avro 1.12), ``C3 01`` and the 8 byte CRC-64-AVRO fingerprint, little-endian.
Kafka: Confluent wire format, ``00`` and the 4 byte schema id, big-endian. Ingest swaps the header, the body stays.
"""

from __future__ import annotations

from typing import Final

from v2x.errors import DecodeError

from v2x_codecs.registry import Registry, Schema

MQTT_MAGIC: Final = b"\xc3\x01"
MQTT_HEADER: Final = 10  # bytes
KAFKA_MAGIC: Final = b"\x00"
KAFKA_HEADER: Final = 5  # bytes


def mqtt_header(schema: Schema) -> bytes:
    """Return the 10 bytes that stand before a body in MQTT."""
    return MQTT_MAGIC + schema.fingerprint


def kafka_header(schema: Schema) -> bytes:
    """Return the 5 bytes that stand before a body in Kafka."""
    return KAFKA_MAGIC + schema.id.to_bytes(4, "big")


def mqtt_frame(schema: Schema, body: bytes) -> bytes:
    """Return an MQTT payload."""
    return mqtt_header(schema) + body


def kafka_frame(schema: Schema, body: bytes) -> bytes:
    """Return a Kafka value."""
    return kafka_header(schema) + body


def unframe_mqtt(registry: Registry, payload: bytes) -> tuple[Schema, bytes]:
    """Return schema and body of an MQTT payload; DecodeError on a bad header, SchemaError on an unknown schema."""
    if payload[:2] != MQTT_MAGIC or len(payload) < MQTT_HEADER:
        msg = f"payload starts with {payload[:10].hex() or 'nothing'}, not with {MQTT_MAGIC.hex()} and a fingerprint"
        raise DecodeError(msg)
    return registry.by_fingerprint(payload[2:MQTT_HEADER]), payload[MQTT_HEADER:]


def unframe_kafka(registry: Registry, value: bytes) -> tuple[Schema, bytes]:
    """Return schema and body of a Kafka value; DecodeError on a bad header, SchemaError on an unknown schema."""
    if value[:1] != KAFKA_MAGIC or len(value) < KAFKA_HEADER:
        msg = f"value starts with {value[:5].hex() or 'nothing'}, not with 00 and a 4 byte schema id"
        raise DecodeError(msg)
    return registry.by_id(int.from_bytes(value[1:KAFKA_HEADER], "big")), value[KAFKA_HEADER:]


def to_kafka(registry: Registry, payload: bytes) -> bytes:
    """Return the Kafka value of an MQTT payload: same body, other header."""
    schema, body = unframe_mqtt(registry, payload)
    return kafka_frame(schema, body)
