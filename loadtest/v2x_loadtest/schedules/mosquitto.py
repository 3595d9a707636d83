"""A simulated MQTT 5 broker for subscribers with persistent sessions; it checks how they acknowledge."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import mqtt5

PLACE: Final = ("mqtt", 1883)
_IDS: Final = 65_535


@dataclass(slots=True)
class Message:
    """A publish of a device."""

    number: int
    topic: str
    payload: bytes


@dataclass(slots=True)
class Session:
    """What the broker keeps for a client."""

    client_id: str
    filters: dict[str, None] = field(default_factory=dict)
    queue: deque[Message] = field(default_factory=deque)
    unacked: dict[int, Message] = field(default_factory=dict)  # by packet id, oldest first
    window: int = _IDS
    link: _Link | None = None
    last_id: int = 0

    @property
    def empty(self) -> bool:
        """Say whether all that came was acknowledged."""
        return not self.queue and not self.unacked


class Broker:
    """Sessions by client id. ``acknowledged`` is told which client has acknowledged what."""

    def __init__(self, acknowledged: Callable[[str, Message], None], wrong: Callable[[str], None]) -> None:
        self.sessions: dict[str, Session] = {}
        self.connects = 0
        self.most_unacked = 0
        self.acknowledged = acknowledged
        self.wrong = wrong

    def accept(self) -> asyncio.Protocol:
        """Serve one more connection."""
        return _Link(self)

    def publish(self, message: Message) -> bool:
        """Queue a message for every session that wants it; False if none does."""
        wanted = False
        for session in self.sessions.values():
            if any(matches(pattern, message.topic) for pattern in session.filters):
                wanted = True
                session.queue.append(message)
                self.pump(session)
        return wanted

    def pump(self, session: Session) -> None:
        """Send what the client's Receive Maximum lets out."""
        link = session.link
        out = []
        while link is not None and session.queue and len(session.unacked) < session.window:
            session.last_id = session.last_id % _IDS + 1
            session.unacked[session.last_id] = session.queue.popleft()
            out.append(_publish(session.last_id, session.unacked[session.last_id], again=False))
        self.most_unacked = max(self.most_unacked, len(session.unacked))
        if out and link is not None:
            link.send(b"".join(out))


class _Link(asyncio.Protocol):
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._session: Session | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._session is not None and self._session.link is self:
            self._session.link = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._data:
            try:
                packet, size = mqtt5.read(memoryview(self._data))
            except IndexError:
                return
            except ValueError as e:
                self._broker.wrong(f"ingest sends what is not MQTT 5: {e}")
                return
            self._data = self._data[size:]
            self._take(packet)

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def _take(self, packet: Any) -> None:
        broker, session = self._broker, self._session
        if isinstance(packet, mqtt5.ConnectPacket):
            self._connect(packet)
            return
        if session is None or session.link is not self:
            return  # taken over
        if isinstance(packet, mqtt5.SubscribePacket):
            session.filters |= dict.fromkeys(f.pattern for f in packet.topic_filters)
            granted = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(packet.topic_filters)
            self.send(mqtt5.SubAckPacket(packet.packet_id, granted).write())
        elif isinstance(packet, mqtt5.UnsubscribePacket):
            for pattern in packet.patterns:
                session.filters.pop(pattern, None)
            done = [mqtt5.UnsubAckReasonCode.SUCCESS] * len(packet.patterns)
            self.send(mqtt5.UnsubAckPacket(packet.packet_id, done).write())
        elif isinstance(packet, mqtt5.PubAckPacket):
            oldest = next(iter(session.unacked), None)
            if packet.packet_id != oldest:
                broker.wrong(f"PUBACK {packet.packet_id} where {oldest} is the oldest: not in arrival order")
            message = session.unacked.pop(packet.packet_id, None)
            if message is not None:
                broker.acknowledged(session.client_id, message)
            broker.pump(session)
        elif isinstance(packet, mqtt5.PingReqPacket):
            self.send(mqtt5.PingRespPacket().write())

    def _connect(self, packet: mqtt5.ConnectPacket) -> None:
        broker = self._broker
        broker.connects += 1
        present = packet.client_id in broker.sessions
        session = self._session = broker.sessions.setdefault(packet.client_id, Session(packet.client_id))
        old, session.link = session.link, self
        if old is not None:
            old.transport.abort()
        session.window = packet.receive_max
        again = [_publish(i, message, again=True) for i, message in session.unacked.items()]
        self.send(mqtt5.ConnAckPacket(session_present=present).write() + b"".join(again))
        broker.pump(session)


def _publish(packet_id: int, message: Message, *, again: bool) -> bytes:
    qos = mqtt5.QoS.AT_LEAST_ONCE
    packet = mqtt5.PublishPacket(message.topic, message.payload, qos=qos, packet_id=packet_id, duplicate=again)
    return packet.write()


def matches(pattern: str, topic: str) -> bool:
    """Say whether a topic filter takes a topic (MQTT 5, 4.7)."""
    wanted, levels = pattern.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or level not in {"+", levels[i]}:
            return False
    return len(wanted) == len(levels)
