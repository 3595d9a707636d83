"""MQTT framing: bytes of a broker, cut anywhere, through ingest's connection, beside a slow reading of the standard.

What must hold, whatever comes: the messages are those of the standard's reading, in order; what is no MQTT ends the
connection, with a reason, and only that; no row points beyond what was read; what waits for more bytes is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Final, cast

import mqtt5

from v2x_codecs.mutate import mistaken
from v2x_loadtest.fuzz.target import Finding, OneByOne
from v2x_loadtest.schedules.loop import VirtualLoop
from v2x_services.ingest.mqtt import MAX_PACKET, MqttConfig, MqttSource, _Link
from v2x_services.ports import A_PACKET_ID, A_RETAINED, Arrivals, SystemClock

Message = tuple[bytes, bytes, int, bool]
_PUBLISH: Final = 3
_CONNACK: Final = 2  # once on a connection (3.2)
_LOOPS: Final = 200  # streams of one loop
_LONGEST_HEAD: Final = 5
_PANIC: Final = "PanicException"


class Framing(OneByOne):
    """The target: the first byte says how the rest is cut, the rest is what the broker sends."""

    name = "framing"
    free = 1

    def seeds(self) -> list[bytes]:
        """Return plain streams to begin with."""
        once = mqtt5.QoS.AT_LEAST_ONCE
        packets: list[bytes] = [
            mqtt5.PublishPacket("v2x/v1/rsu/RSU-1/rsm/up", b"payload", qos=once, packet_id=7).write(),
            mqtt5.PublishPacket("a", b"").write(),
            mqtt5.PublishPacket("路/up", b"x" * 200, qos=once, packet_id=65_535, retain=True).write(),
            mqtt5.PublishPacket(
                "t", b"y", qos=once, packet_id=1, content_type="avro", user_properties=[("k", "v")], duplicate=True
            ).write(),
            mqtt5.PingRespPacket().write(),
            mqtt5.ConnAckPacket(session_present=True, reason_str="hello", server_keep_alive=30).write(),
            mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]).write(),
            mqtt5.UnsubAckPacket(1, [mqtt5.UnsubAckReasonCode.SUCCESS]).write(),
            mqtt5.DisconnectPacket(reason_str="bye").write(),
        ]
        return [bytes((i,)) + packets[i] + packets[0] + b"".join(packets[:i]) for i in range(len(packets))]

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return a stream with mistakes."""
        return bytes((rng.randrange(256),)) + mistaken(data[1:], 0, others, rng)

    def run(self, data: bytes) -> str:
        """Hold one stream against the standard."""
        if not data:
            return "nothing"
        stream = data[1:]
        expected, fails = read_stream(stream)
        found, reason, ended = feed(_cut(stream, data[0]))
        if found != expected[: len(found)]:
            raise Finding(f"took {found}, the standard says {expected}")
        if fails != ended or (fails and not reason):
            raise Finding(f"the connection ends: {ended} ({reason!r}); by the standard: {fails}")
        if not fails and len(found) != len(expected):
            raise Finding(f"took {len(found)} of {len(expected)} messages")
        return f"{'ended' if fails else 'kept'} {'with' if expected else 'without'} messages"


def feed(chunks: Iterable[bytes]) -> tuple[list[Message], str, bool]:
    """Give chunks to a connection of ingest's; return its messages, why it ended, and whether it did."""
    listener = _Listener()
    with _LOOP:
        source = MqttSource(MqttConfig("nowhere", 1, "me", ()), SystemClock())
        source._listener = listener  # noqa: SLF001 - as start() does, without a connection
        link, transport = _Link(source), _Transport()
        link._transport = cast("asyncio.Transport", transport)  # noqa: SLF001
        for chunk in chunks:
            if transport.aborted:
                break
            link.data_received(chunk)
            if link._need > MAX_PACKET + _LONGEST_HEAD:  # noqa: SLF001
                raise Finding(f"waits for a packet of {link._need} bytes")  # noqa: SLF001
        reason, ended = link._reason, transport.aborted  # noqa: SLF001
        link.abort()
    return listener.messages, reason, ended


def read_stream(stream: bytes) -> tuple[list[Message], bool]:
    """Read a stream slowly (MQTT 5.0, 2.1 and 3.3); return its messages, and whether it ends the connection."""
    messages: list[Message] = []
    at, accepted = 0, False
    while at + 2 <= len(stream):
        length, k = 0, 0
        while True:
            if k == 4:
                return messages, True  # a length of five bytes
            if at + 1 + k >= len(stream):
                return messages, False
            byte = stream[at + 1 + k]
            length |= (byte & 0x7F) << 7 * k
            k += 1
            if byte < 0x80:
                break
        if 1 + k + length > MAX_PACKET + _LONGEST_HEAD:
            return messages, True
        end = at + 1 + k + length
        if end > len(stream):
            return messages, False
        packet = stream[at:end]
        if packet[0] >> 4 == _PUBLISH:
            message = _publish(packet, 1 + k)
            if message is None:
                return messages, True
            messages.append(message)
        elif not _goes_on(packet) or (accepted and packet[0] >> 4 == _CONNACK):
            return messages, True
        accepted |= packet[0] >> 4 == _CONNACK
        at = end
    return messages, False


def _publish(packet: bytes, head: int) -> Message | None:
    """Return the message of a PUBLISH, None if it is none that we take."""
    flags, rest = packet[0] & 0x0F, packet[head:]
    qos = flags >> 1 & 3
    if qos > 1 or len(rest) < 2:
        return None
    size = int.from_bytes(rest[:2], "big")
    topic, rest = rest[2 : 2 + size], rest[2 + size :]
    if not size or len(topic) < size or b"\0" in topic:
        return None
    try:
        topic.decode()
    except UnicodeDecodeError:
        return None
    number = 0
    if qos:
        number, rest = int.from_bytes(rest[:2], "big"), rest[2:]
        if not number:
            return None
    length = 0
    for k in range(4):
        if k >= len(rest):
            return None
        length |= (rest[k] & 0x7F) << 7 * k
        if rest[k] < 0x80:
            break
    else:
        return None
    payload = rest[k + 1 + length :]
    if k + 1 + length > len(rest):
        return None
    return topic, payload, number, bool(flags & 1)


def _goes_on(packet: bytes) -> bool:
    """Say whether a connection goes on after a packet that is no PUBLISH; the codec is the standard here."""
    try:
        read, _ = mqtt5.read(memoryview(packet))
    except (ValueError, IndexError):
        return False
    except BaseException as e:
        if type(e).__name__ != _PANIC:
            raise
        return False
    match read:
        case mqtt5.ConnAckPacket():
            return read.reason_code == mqtt5.ConnAckReasonCode.SUCCESS
        case mqtt5.SubAckPacket() | mqtt5.UnsubAckPacket():
            return all(int(code.value) < 0x80 for code in read.reason_codes)
        case mqtt5.PingRespPacket():
            return True
    return False


def _cut(stream: bytes, how: int) -> Iterator[bytes]:
    """Cut a stream: whole, into single bytes, or into pieces of some size."""
    size = len(stream) if how % 4 == 0 else 1 + (how >> 2)
    for at in range(0, len(stream), max(size, 1)):
        yield stream[at : at + size]


class _Loop:
    """A loop that never runs, for a while: nothing here waits, but timers need a place."""

    def __init__(self) -> None:
        self._loop, self._left = VirtualLoop(), 0

    def __enter__(self) -> None:
        self._left -= 1
        if self._left < 0:  # timers that were cancelled stay with it
            self._loop.close()
            self._loop, self._left = VirtualLoop(), _LOOPS
        self._before = asyncio._get_running_loop()  # noqa: SLF001
        asyncio._set_running_loop(self._loop)  # noqa: SLF001 - asyncio.run() would cost more than the test

    def __exit__(self, *_: object) -> None:
        asyncio._set_running_loop(self._before)  # noqa: SLF001


_LOOP: Final = _Loop()


class _Listener:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    def connected(self, epoch: int, *, session_present: bool) -> None:
        """Take no notice."""

    def disconnected(self, epoch: int, reason: str) -> None:
        """Take no notice."""

    def arrived(self, batch: Arrivals) -> None:
        """Keep messages, read by their rows."""
        for topic, size, payload, length, packet, retained in batch.rows.tolist():
            if min(topic, size, payload, length) < 0 or payload + length > len(batch.heap):
                raise Finding(f"a row beyond what was read: {batch.rows.tolist()}")
            body = batch.heap[payload : payload + length]
            self.messages.append((batch.heap[topic : topic + size], body, packet, bool(retained)))


class _Transport:
    aborted = False

    def write(self, data: bytes) -> None:
        """Send nowhere."""

    def abort(self) -> None:
        """Note the end."""
        self.aborted = True

    def pause_reading(self) -> None:
        """Take no notice."""

    def resume_reading(self) -> None:
        """Take no notice."""

    def is_closing(self) -> bool:
        """Say whether it is over."""
        return self.aborted


assert (A_PACKET_ID, A_RETAINED) == (4, 5), "rows have another form"
