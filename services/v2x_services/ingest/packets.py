"""Packets that the kernel leaves to us: control packets, PUBLISH with properties or text that is not plain ASCII.

mqtt5 0.8 panics at text that is not UTF-8, and ``except Exception`` does not hold a panic: it would end the process.
"""

from __future__ import annotations

from typing import Any, Final

import mqtt5

PUBLISH: Final = 3  # packet type


def publish_row(heap: bytes, at: int, size: int) -> tuple[int, int, int, int, int, int]:
    """Return the row of a PUBLISH (MQTT 5.0, 3.3) that the kernel leaves to us; ValueError if it is none."""
    flags, end = heap[at] & 0x0F, at + size
    qos = flags >> 1 & 3
    head, _ = _varint(heap, at + 1, end)
    begin = head + 2
    body = begin + int.from_bytes(heap[head:begin], "big")
    name = heap[begin:body]
    packet_id = 0
    if qos == 1:
        packet_id = int.from_bytes(heap[body : body + 2], "big")
        body += 2
    if qos > 1 or not name or b"\0" in name or body >= end or (qos == 1 and not packet_id):
        raise ValueError("a PUBLISH that is none")
    name.decode()  # a UnicodeDecodeError is a ValueError
    properties, length = _varint(heap, body, end)
    payload = properties + length
    if payload > end:
        raise ValueError("a PUBLISH with properties beyond its end")
    return begin, len(name), payload, end - payload, packet_id, flags & 1


def read_control(packet: memoryview) -> Any:
    """Read a packet that is no PUBLISH by the codec; ValueError or IndexError if it is none."""
    try:
        return mqtt5.read(packet)[0]
    except (ValueError, IndexError):
        raise
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        raise ValueError("text that is not UTF-8") from None


def _varint(heap: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the place behind a variable byte integer (1.5.5), and its value."""
    value = 0
    for k in range(4):
        if at + k >= end:
            break
        value |= (heap[at + k] & 0x7F) << 7 * k
        if heap[at + k] < 0x80:
            return at + k + 1, value
    raise ValueError("a length that does not end")
