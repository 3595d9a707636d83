"""Ingest as it runs, on simulated brokers: devices publish, faults happen, ingest dies and comes back."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from v2x.devices import DeviceTable
from v2x.quarantine import Quarantine, QuarantineLimits
from v2x.routing import Router
from v2x.shards import Shard
from v2x.timerules import TimeRules
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, MessageClass, uplink_topic
from v2x.zones import ZoneMap, partition_of

from v2x_codecs import vectors
from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.schedules.kafka import Cluster, Entry, Mood
from v2x_loadtest.schedules.loop import LIFE, VirtualLoop
from v2x_loadtest.schedules.mosquitto import PLACE, Broker, Message, matches
from v2x_loadtest.schedules.network import Network
from v2x_loadtest.schedules.plan import Fault, Plan
from v2x_services.ingest.counts import SessionCounts
from v2x_services.ingest.mqtt import MqttConfig, MqttSource
from v2x_services.ingest.pipeline import Pipeline, Shared
from v2x_services.ingest.privacy import Keys
from v2x_services.ingest.routes import Routes
from v2x_services.ingest.ticks import Silence, Ticker
from v2x_services.ingest.topics import FILTERS, SESSION_NAMES, TopicTable, session_filters
from v2x_services.kafka import KafkaSink
from v2x_services.metrics import Metrics

START_US: Final = 1_750_000_000_000_000
BOOT: Final = 1_700_000_000_000
_MAX_PAYLOAD: Final = 20_000
_TICK_MS: Final = 250
_NEVER: Final = QuarantineLimits(share_in=2.0, bad_per_minute=1 << 30)  # junk sent again would put its sender in
_WEST: Final = [[31.0, 120.0], [31.0, 120.1], [31.1, 120.1], [31.1, 120.0]]
_EAST: Final = [[31.0, 120.1], [31.0, 120.2], [31.1, 120.2], [31.1, 120.1]]
_ZONES: Final = {
    "version": 1,
    "name": "schedule",
    "partition_hint": None,
    "zones": [
        {"id": "west", "polygon": _WEST, "neighbours": ["east"]},
        {"id": "east", "polygon": _EAST, "neighbours": ["west"]},
    ],
    "devices": {
        "RSU-1": {"zone": "west", "halo": [], "lat": 31.05, "lon": 120.05},
        "RSU-EDGE": {"zone": "west", "halo": ["east"], "lat": 31.05, "lon": 120.0999},
        "G-1": {"zone": "west", "halo": [], "lat": 31.05, "lon": 120.05},
    },
    "gantries": {},
    "sections": [],
}
# What is published: device kind, device, message kind, schema, relative frequency.
_KINDS: Final = (
    ("rsu", "RSU-1", "rsm", "rsm", 4),
    ("rsu", "RSU-EDGE", "rsm", "rsm", 3),
    ("obu", "OBU-1", "bsm", "bsm", 2),
    ("rsu", "RSU-1", "rsi", "rsi", 2),
    ("gantry", "G-1", "transaction", "gantry_transaction", 2),
    ("rsu", "RSU-1", "rsm", "", 1),  # junk
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What all schedules share."""

    registry: Registry
    decoder: ColumnDecoder
    codec: ReferenceCodec
    zones: ZoneMap
    templates: dict[str, dict[str, Any]]


@cache
def parts() -> Parts:
    """Load schemas, compile the decoder and read the golden records, once."""
    registry = Registry.load()
    templates = {v.schema: v.record for v in reversed(vectors.load(registry))}
    zones = ZoneMap.parse(_ZONES)
    gc.collect()
    gc.freeze()  # each schedule collects its dead, and need not look at the imports
    return Parts(registry, ColumnDecoder(registry, _MAX_PAYLOAD), ReferenceCodec(registry), zones, templates)


class VirtualClock:
    """The clock port on virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC."""
        return START_US + int(self._loop.now * 1e6)

    def monotonic_us(self) -> int:
        """Microseconds since the start."""
        return int(self._loop.now * 1e6)


class Ingest:
    """One life of the ingest process, from start to kill."""

    def __init__(self, plan: Plan, cluster: Cluster, clock: VirtualClock) -> None:
        p = parts()
        self.metrics = Metrics("ingest")
        self.sinks: list[KafkaSink] = []
        self.pipelines: list[Pipeline] = []
        self._plan, self._cluster, self._clock = plan, cluster, clock
        self._devices = DeviceTable(64)
        routes = Routes(Router(p.zones, cluster.topics[OBSERVATIONS]))
        self._shared = Shared(
            registry=p.registry,
            decoder=p.decoder,
            codec=p.codec,
            routes=routes,
            topics=TopicTable(self._devices, routes, p.decoder.schemas, cluster.topics),
            devices=self._devices,
            times=TimeRules(self._devices.capacity),
            quarantine=Quarantine(self._devices.capacity, _NEVER),
            keys=Keys(bytes(32)),
            silence=Silence(cluster.topics[OBSERVATIONS], clock),
            clock=clock,
            max_pending=plan.max_pending,
            max_in_flight=plan.max_in_flight,
        )

    async def run(self) -> None:
        """Start as ``v2x ingest`` does, then tick until it is killed."""
        plan, shared = self._plan, self._shared
        for kind, name in SESSION_NAMES.items():
            sink = KafkaSink(
                self._cluster.bootstrap, self._cluster.topics, client_id=name, max_pending=plan.max_pending
            )
            self.sinks.append(sink)
            config = MqttConfig(
                *PLACE,
                _client(kind),
                session_filters(Shard(), kind, ()),
                receive_maximum=plan.receive_maximum,
                pace_s=plan.pace_s,
            )
            source = MqttSource(config, self._clock)
            pipeline = Pipeline(kind, shared, source, sink, SessionCounts(self.metrics, name))
            self.pipelines.append(pipeline)
            await pipeline.start()
        perishable = self.sinks[list(SESSION_NAMES).index(MessageClass.PERISHABLE)]
        await Ticker("ingest", perishable, shared.silence, shared.codec, self._clock, _TICK_MS).run()


class World:
    """Everything of one schedule, and what went wrong in it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.rng = random.Random(plan.seed ^ 0x5EED)
        random.seed(plan.seed)  # back-off and aiokafka draw from the module's own
        self.clock = VirtualClock(self.loop)
        self.network = Network(self.loop, self.rng)
        topics = dict.fromkeys((OBSERVATIONS, GANTRY, DEVICES, DEADLETTER), plan.partitions)
        self.cluster = Cluster(self.network, topics, plan.nodes, self._appended, self.wrong)
        self.broker = Broker(self._acknowledged, self.wrong)
        self.network.servers[PLACE] = self.broker.accept
        self.published: list[Message] = []
        self.trace: list[tuple[float, str]] = []
        self.wrongs: list[str] = []
        self.copies: dict[int, list[tuple[str, int]]] = {}  # where each message is in the log, oldest first
        self.acknowledged: set[int] = set()
        self.kills = 0
        self.deaf = 0
        self.renewals = 0
        self.ingest: Ingest | None = None
        self._numbers: dict[bytes, int] = {}  # by what identifies a message in the log
        self._seq: dict[tuple[str, str], int] = {}
        self.life = 0
        self._task: asyncio.Task[None] | None = None

    def wrong(self, what: str) -> None:
        """Note a broken promise."""
        self.wrongs.append(f"{self.loop.now:.6f} s: {what}")

    def tell(self, what: str) -> None:
        """Write down what happened."""
        self.trace.append((self.loop.now, what))

    # -- ingest's life

    def start(self) -> None:
        """Start ingest."""
        self.life += 1
        context = contextvars.copy_context()
        context.run(LIFE.set, self.life)
        self.ingest = context.run(Ingest, self.plan, self.cluster, self.clock)
        self._task = self.loop.create_task(self.ingest.run(), context=context)

    def kill(self) -> None:
        """End ingest as kill -9 does: its connections break, it has no say in anything that follows."""
        assert self.ingest is not None
        self.tell("killed")
        self.renewals += sum(sink.counters.renewals for sink in self.ingest.sinks)
        self.loop.end_life(self.life)
        self.network.kill(self.life)
        self.ingest = self._task = None

    def close(self) -> None:
        """End ingest, if it runs."""
        if self.ingest is not None:
            self.kill()

    # -- what devices do

    def publish(self, count: int) -> None:
        """Publish messages of devices chosen at random."""
        p = parts()
        for _ in range(count):
            (choice,) = self.rng.choices(_KINDS, [kind[-1] for kind in _KINDS])
            owner, device, kind, schema, _ = choice
            number = len(self.published)
            if schema:
                seq = self._seq[device, kind] = self._seq.get((device, kind), 0) + 1
                record = {**p.templates[schema], "device": device, "boot": BOOT, "seq": seq}
                record["ts_ms"] = self.clock.now_us() // 1000
                payload = p.codec.encode_mqtt(schema, record)
                mark = f"{device} {kind} {seq}".encode() if owner == "gantry" else payload[10:]
            else:
                payload = mark = b"junk %d." % number
            message = Message(number, uplink_topic(owner, device, kind), payload)
            self._numbers[mark] = number
            self.published.append(message)
            if not self.broker.publish(message):
                self.wrong(f"nobody takes {message.topic}")

    # -- what the log and the broker tell

    def _appended(self, topic: str, partition: int, entry: Entry) -> None:
        if entry.key is None:
            return  # a tick
        number = self._numbers.get(self._mark(topic, entry))
        if number is None:
            self.wrong(f"{topic}-{partition} has a record that nobody published")
            return
        self.tell(f"{number} in {topic}-{partition}")
        self.copies.setdefault(number, []).append((topic, partition))

    def _mark(self, topic: str, entry: Entry) -> bytes:
        """Return what identifies a record's message."""
        if topic == DEADLETTER:
            letter: dict[str, Any] = parts().codec.decode_kafka(entry.value)[1]
            return bytes(letter["payload"])
        if topic == GANTRY:
            record: dict[str, Any] = parts().codec.decode_kafka(entry.value)[1]
            return f"{record['device']} transaction {record['seq']}".encode()
        return entry.value[5:]

    def places_of(self, message: Message) -> int:
        """Return how many partitions a message belongs into."""
        halo = "/RSU-EDGE/" in message.topic
        return len({partition_of(zone, self.plan.partitions) for zone in (b"west", b"east")}) if halo else 1

    def _acknowledged(self, client: str, message: Message) -> None:
        reliable = any(matches(pattern, message.topic) for pattern in FILTERS[MessageClass.RELIABLE])
        if client != _client(MessageClass.RELIABLE if reliable else MessageClass.PERISHABLE):
            return  # the perishable session's filter takes all: it leaves what is the other's
        self.tell(f"{message.number} acknowledged")
        self.acknowledged.add(message.number)
        places = len(set(self.copies.get(message.number, ())))
        if places < self.places_of(message):
            self.wrong(f"message {message.number} ({message.topic}) is acknowledged and in {places} partitions only")

    # -- faults

    async def suffer(self, fault: Fault) -> None:
        """Have a fault happen, until it is over."""
        self.tell(fault.what)
        network, cluster = self.network, self.cluster
        node = self.rng.randrange(cluster.nodes)
        match fault.what:
            case "mqtt connections break":
                network.cut(PLACE)
            case "mqtt connections carry nothing":
                self.deaf += network.deafen(PLACE)
            case "mqtt broker refuses":
                network.away.add(PLACE)
                network.cut(PLACE)
                await asyncio.sleep(fault.lasts)
                network.away.discard(PLACE)
            case "kafka connections break":
                network.cut(cluster.places[node])
            case "kafka connections carry nothing":
                network.deafen(cluster.places[node])
            case "kafka broker crashes":
                cluster.crash(node)
                await asyncio.sleep(fault.lasts)
                cluster.rise(node)
            case "kafka leaders move":
                cluster.move(node)
            case "ingest is killed":
                self.kills += 1
                self.kill()
                await asyncio.sleep(fault.lasts)
                self.start()
            case _:
                await self._mood(fault)

    async def _mood(self, fault: Fault) -> None:
        mood, share = self.cluster.mood, self.rng.uniform(0.1, 0.9)
        names = {
            "kafka refuses batches": "refuse",
            "kafka answers are wrong": "lie",
            "kafka answers are lost": self.rng.choice(("vanish", "silent")),
            "kafka is slow": "slow_s",
        }
        name = names[fault.what]
        setattr(mood, name, share * (15 if name == "slow_s" else 1))
        await asyncio.sleep(fault.lasts)
        setattr(mood, name, 0.0)

    def failed(self) -> BaseException | None:
        """Return what ended ingest, if something has."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    def heal(self) -> None:
        """End all faults."""
        self.cluster.mood = Mood()
        self.network.away.clear()

    def subscribed(self) -> bool:
        """Say whether ingest's sessions are there, with their subscriptions."""
        return sum(bool(session.filters) for session in self.broker.sessions.values()) == len(SESSION_NAMES)

    def idle(self) -> bool:
        """Say whether every message was acknowledged and nothing is on its way."""
        return (
            self.ingest is not None
            and all(session.empty for session in self.broker.sessions.values())
            and not any(pipeline.ledger.in_flight for pipeline in self.ingest.pipelines)
        )


def _client(kind: MessageClass) -> str:
    return f"ingest-{SESSION_NAMES[kind]}"
