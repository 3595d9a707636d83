"""Telegraf, built with only the plugins needed; a persistent session, without which it acknowledges before Kafka."""

from __future__ import annotations

from typing import Final

from v2x_loadtest.bench.peers.adapter import HOME, Peer, Place

_HOME: Final = HOME / "telegraf"
_CONF: Final = """
[agent]
  omit_hostname = true
  metric_batch_size = 1000
  metric_buffer_limit = 100000
  flush_interval = "10ms"
  quiet = true

[[inputs.mqtt_consumer]]
  servers = ["tcp://$mqtt_host:$mqtt_port"]
  topics = ["$filter"]
  qos = 1
  client_id = "$client_id"
  persistent_session = true
  max_undelivered_messages = 2048
  data_format = "value"
  data_type = "base64"

[[outputs.kafka]]
  brokers = ["$kafka"]
  topic = "$topic"
  required_acks = -1
  routing_tag = "topic"
  data_format = "influx"
"""


def _command(place: Place) -> list[str]:
    return [str(_HOME / "bin" / "telegraf"), "--config", str(place.write("telegraf.conf", _CONF))]


PEER: Final = Peer(
    name="telegraf",
    what="base64 of the bytes in an Influx line; key is the MQTT topic; acks=all, not idempotent",
    program=_HOME / "bin" / "telegraf",
    command=_command,
    install=[
        [
            "go",
            "install",
            "-tags",
            "custom,inputs.mqtt_consumer,outputs.kafka,parsers.value,serializers.influx",
            "github.com/influxdata/telegraf/cmd/telegraf@latest",
        ]
    ],
    payload="influx",
    environment={"GOBIN": "{home}/bin"},
)
