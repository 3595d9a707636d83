"""FastStream: the obvious app, an MQTT subscriber that publishes to Kafka and acknowledges when its handler is done."""

from __future__ import annotations

from typing import Final

from v2x_loadtest.bench.peers.adapter import HOME, Peer, Place

_HOME: Final = HOME / "faststream"
_APP: Final = """
import asyncio
import logging

import uvloop
from faststream import AckPolicy, FastStream
from faststream.kafka import KafkaBroker
from faststream.mqtt import MQTTBroker, MQTTMessage, QoS

kafka = KafkaBroker("$kafka", acks="all", linger_ms=5, max_batch_size=1 << 20, logger=None)
mqtt = MQTTBroker(
    host="$mqtt_host", port=$mqtt_port, client_id="$client_id", clean_session=False, session_expiry_interval=86400,
    receive_maximum=2048, logger=None,
)


@mqtt.subscriber("$filter", qos=QoS.AT_LEAST_ONCE, ack_policy=AckPolicy.NACK_ON_ERROR, max_workers=1000)
async def forward(message: MQTTMessage) -> None:
    await kafka.publish(message.body, topic="$topic", key=message.raw_message.topic.encode())


async def main() -> None:
    await kafka.start()
    await FastStream(mqtt, logger=None).run()


logging.disable(logging.WARNING)
uvloop.run(main())
"""


def _command(place: Place) -> list[str]:
    return [str(_HOME / "bin" / "python"), str(place.write("app.py", _APP))]


PEER: Final = Peer(
    name="faststream",
    what="forwards bytes, 1000 handlers at once; acks=all, not idempotent",
    program=_HOME / "bin" / "python",
    command=_command,
    install=[
        ["{home}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "faststream[kafka,mqtt]", "uvloop"]
    ],
    python="3.10",
)
