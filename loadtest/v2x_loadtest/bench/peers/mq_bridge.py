"""mq-bridge: a Rust engine with a thin Python package; MQTT 5 in, librdkafka out."""

from __future__ import annotations

from typing import Final

from v2x_loadtest.bench.peers.adapter import HOME, Peer, Place

_HOME: Final = HOME / "mq-bridge"
_APP: Final = """
from mq_bridge import Route

Route.from_config({
    "input": {"mqtt": {
        "url": "mqtt://$mqtt_host:$mqtt_port", "topic": "$filter", "client_id": "$client_id", "qos": 1,
        "clean_session": False, "session_expiry_interval": 86400, "max_inflight": 2048, "queue_capacity": 4096,
    }},
    "output": {"kafka": {
        "url": "$kafka", "topic": "$topic", "create_topic": False,
        "producer_options": [["acks", "all"], ["linger.ms", "5"], ["compression.type", "none"]],
    }},
    "batch_size": 512,
}).run()
"""


def _command(place: Place) -> list[str]:
    return [str(_HOME / "bin" / "python"), str(place.write("app.py", _APP))]


PEER: Final = Peer(
    name="mq-bridge",
    what="forwards bytes; key is a message id; acks=all, not idempotent",
    program=_HOME / "bin" / "python",
    command=_command,
    install=[["{home}/bin/pip", "install", "--quiet", "--disable-pip-version-check", "mq-bridge"]],
    python="3.9",
)
