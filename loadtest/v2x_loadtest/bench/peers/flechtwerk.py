"""flechtwerk: an MQTT extractor that acknowledges a batch after its Kafka transaction; for bytes one overrides poll."""

from __future__ import annotations

from typing import Final

from v2x_loadtest.bench.peers.adapter import HOME, Peer, Place

_HOME: Final = HOME / "flechtwerk"
_APP: Final = """
import json
from datetime import timedelta

import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from flechtwerk import Flechtwerk, Message
from flechtwerk.mqtt import TOPIC, MqttBrokerConfig, MqttExtractor

CONFIGS = "bench.flechtwerk.configs"


class Bridge(MqttExtractor):
    def relay(self, config, topic, payload):
        raise NotImplementedError

    async def poll(self, config, state):
        subscription = self.subscribe(config[TOPIC])
        subscription.ack_all_pending()
        batch = subscription.drain(1000)
        if subscription.items and self.wakeup is not None:
            self.wakeup.set()
        for message in batch:
            yield Message(key=message.topic, topic="$topic", value=bytes(message.payload))
            subscription.mark_pending(message)


async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers="$kafka")
    await admin.start()
    if CONFIGS not in await admin.list_topics():
        await admin.create_topics([NewTopic(CONFIGS, 1, 1, topic_configs={"cleanup.policy": "compact"})])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers="$kafka") as producer:
        await producer.send_and_wait(CONFIGS, json.dumps({"topic": "$filter"}).encode(), b"all")
    await Flechtwerk.of(
        application_id="bench",
        bootstrap_servers="$kafka",
        client_id="$client_id",
        stage=make(),
        compression_type=None,
        mqtt=MqttBrokerConfig(broker="$mqtt_host", port=$mqtt_port),
        poll_interval=timedelta(milliseconds=20),
    ).run()


def make():
    bridge = Bridge()
    bridge.config_topics = [CONFIGS]
    return bridge


uvloop.run(main())
"""


def _command(place: Place) -> list[str]:
    return [str(_HOME / "bin" / "python"), str(place.write("app.py", _APP))]


PEER: Final = Peer(
    name="flechtwerk",
    what="forwards bytes in Kafka transactions (exactly once into Kafka)",
    program=_HOME / "bin" / "python",
    command=_command,
    install=[["{home}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "flechtwerk[mqtt]", "uvloop"]],
    python="3.12",
)
