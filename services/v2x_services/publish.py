"""A plain MQTT 5 publisher for tools: connect, publish at QoS 1 one by one, wait for each PUBACK. Blocking, not hot."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Any, Final

import mqtt5
from v2x.errors import BrokerError

_TIMEOUT_S: Final = 10.0


def publish(
    host: str, port: int, messages: Iterable[tuple[str, bytes]], client_id: str = "v2x-replay"
) -> Iterator[int]:
    """Publish (topic, payload) pairs; yields each PUBACK's reason code (0 delivered, 16 no one subscribes)."""
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as sock:
            reader = _packets(sock)
            sock.sendall(mqtt5.ConnectPacket(client_id, clean_start=True, keep_alive=60).write())
            answer = next(reader)
            if not isinstance(answer, mqtt5.ConnAckPacket) or answer.reason_code != 0:
                raise BrokerError(f"the MQTT broker at {host}:{port} refuses us: {answer}")
            for number, (topic, payload) in enumerate(messages):
                packet = mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number % 65_535 + 1)
                sock.sendall(packet.write())
                while not isinstance(answer := next(reader), mqtt5.PubAckPacket):
                    pass
                yield int(answer.reason_code)
            sock.sendall(mqtt5.DisconnectPacket().write())
    except (OSError, StopIteration) as e:
        raise BrokerError(f"no MQTT broker answers at {host}:{port} ({e}): is it running? (`v2x up`)") from e


def _packets(sock: socket.socket) -> Iterator[Any]:
    """Yield packets until the broker closes the connection."""
    rest = b""
    while data := sock.recv(65_536):
        rest += data
        try:
            while rest:
                packet, size = mqtt5.read(memoryview(rest))
                rest = rest[size:]
                yield packet
        except IndexError:  # its end has not come yet
            pass
