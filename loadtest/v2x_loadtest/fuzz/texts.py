"""Texts from outside: MQTT topics, zone maps. Each is taken, or refused in words that say what is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from v2x.devices import DeviceTable
from v2x.errors import V2XError
from v2x.routing import Router
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, UPLINKS, MessageClass, uplink_topic
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.mutate import mistaken
from v2x_codecs.registry import Registry
from v2x_loadtest.fuzz.mutants import Cases
from v2x_loadtest.fuzz.target import Finding, Maker, OneByOne
from v2x_services.ingest.routes import Routes
from v2x_services.ingest.topics import TopicTable
from v2x_services.ports import Arrivals

_ZONES: Final[dict[str, Any]] = {
    "version": 1,
    "name": "fuzz",
    "partition_hint": None,
    "zones": [
        {"id": "west", "polygon": [[31.0, 120.0], [31.0, 120.1], [31.1, 120.1], [31.1, 120.0]], "neighbours": ["east"]},
        {"id": "east", "polygon": [[31.0, 120.1], [31.0, 120.2], [31.1, 120.2], [31.1, 120.1]], "neighbours": ["west"]},
    ],
    "devices": {"RSU-1": {"zone": "west", "halo": ["east"], "lat": 31.05, "lon": 120.0999}},
    "gantries": {
        "A1": {"device": "G-1", "lat": 31.05, "lon": 120.05, "dir": 1},
        "A2": {"device": "G-2", "lat": 31.05, "lon": 120.09, "dir": 1},
    },
    "sections": [
        {"section": "S-1", "from": "A1", "to": "A2", "length_m": 4650.0, "zone": "west", "free_speed_mps": 27.8}
    ],
}
_PARTITIONS: Final = 8
_MAX_PAYLOAD: Final = 20_000


class Topics(OneByOne):
    """Topics through ingest's table: each gets a line of facts, however odd; the table stays bounded."""

    name = "topics"

    def __init__(self) -> None:
        self._registry = Registry.load()
        self._decoder = ColumnDecoder(self._registry, _MAX_PAYLOAD)
        self._zones = ZoneMap.parse({**_ZONES, "gantries": {}, "sections": []})
        self._new()

    def _new(self) -> None:
        partitions = dict.fromkeys((OBSERVATIONS, GANTRY, DEVICES, DEADLETTER), _PARTITIONS)
        self._runs = 0
        self._table = TopicTable(
            DeviceTable(64), Routes(Router(self._zones, _PARTITIONS)), self._decoder.schemas, partitions
        )

    def seeds(self) -> list[bytes]:
        """Return the topics there are."""
        named = [uplink_topic(row.kind, f"{row.kind.upper()}-1", row.type).encode() for row in UPLINKS]
        return [*named, b"v2x/v1/rsu/RSU-1/rsi/down", b"v2x/v1/x", "v2x/v1/rsu/路/rsm/up".encode()]

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return a topic with mistakes."""
        return mistaken(data, 0, others, rng)

    def run(self, data: bytes) -> str:
        """Find a topic twice: both times the same line, and a topic of that text."""
        self._runs += 1
        if self._runs > 10_000:
            self._new()
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return "not UTF-8"  # the framing lets none of these through
        if not text or "\0" in text or len(data) > 65_535:
            return "no topic"
        batch = Arrivals.of(1, 1, [(text, b""), (text, b"")], [1, 2], retained=False)
        first, second = self._table.meet(batch, MessageClass.PERISHABLE).which.tolist()
        topic = self._table[first]
        if first != second or topic.name != text:
            raise Finding(f"topic {text!r} is taken for {topic.name!r}")
        if topic.device and f"/{topic.device}" not in text:
            raise Finding(f"topic {text!r} has device {topic.device!r}")
        return "of a device" if topic.device else "unknown"


class Zones(OneByOne):
    """Zone maps, as JSON: parsed, or refused in words."""

    name = "zones"

    def seeds(self) -> list[bytes]:
        """Return a small map."""
        return [json.dumps(_ZONES).encode()]

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return a map with a value changed, or with mistakes in its text."""
        if rng.random() < 0.3:
            return mistaken(data, 0, others, rng)
        try:
            doc = json.loads(data)
        except ValueError:
            return mistaken(data, 0, others, rng)
        return json.dumps(_changed(doc, rng)).encode()

    def pool(self, inputs: Sequence[bytes]) -> Maker:
        """Return what makes cases of these inputs: by the values of maps, which bytes would rarely leave in order."""
        return _Changing(self, inputs)

    def run(self, data: bytes) -> str:
        """Parse a map; one that is taken must answer."""
        try:
            doc = json.loads(data)
        except (ValueError, RecursionError):
            return "no JSON"  # load() says so in its own words, see Settings
        try:
            zones = ZoneMap.parse(doc)
        except V2XError as e:
            if not str(e):
                raise Finding("refused without a word") from None
            return "refused"
        for device in zones.devices:
            for zone in zones.route(device, None, None):
                if not 0 <= zones.partition(zone, _PARTITIONS) < _PARTITIONS:
                    raise Finding(f"{device} goes to no partition")
        zones.route("", 310_500_000, 1_200_500_000)
        return "taken"


class _Changing:
    """Makes cases one at a time."""

    def __init__(self, target: Zones, inputs: Sequence[bytes]) -> None:
        self._target, self._inputs = target, inputs

    def cases(self, seed: int, nth: int, size: int) -> Cases:
        """Return batch ``nth`` of a seed."""
        rng = Random(f"{self._target.name} {seed} {nth}")
        return Cases.of(nth, [self._target.mutate(rng.choice(self._inputs), self._inputs, rng) for _ in range(size)])


_ODD: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1.5, 1e308, 1 << 70, float("nan"), "", "x", "路", "e" * 1000, [], {}, [[]], [None], {"": 0},
)  # fmt: skip


def _changed(doc: Any, rng: Random) -> Any:
    """Return a JSON value with one or two places changed: odd values, missing and doubled members."""
    out = json.loads(json.dumps(doc))
    for _ in range(rng.choice((1, 1, 2))):
        at = out
        while isinstance(at, dict | list) and at:
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
            inner = at[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
                at = inner
                continue
            match rng.randrange(4):
                case 0:
                    del at[key]
                case 1 if isinstance(at, list):
                    at.append(inner)
                case 2 if isinstance(inner, int | float) and not isinstance(inner, bool):
                    at[key] = inner * rng.choice((-1, 0, 2, 1e9))
                case _:
                    at[key] = rng.choice(_ODD)
            break
    return out
