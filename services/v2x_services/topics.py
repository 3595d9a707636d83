"""Kafka topics as v2x.topics.KAFKA_TOPICS wants them: made, brought in line, and checked.

The logs that fusion is a function of start each partition with a genesis record: a UUID that names this world. A topic
that is deleted and made again is another world, and a snapshot of the old one is not taken for it. The partition count
is fixed within a generation, because zones are placed by it: ``apply`` refuses to change it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from v2x.errors import BrokerError, DecodeError
from v2x.topics import GANTRY, KAFKA_TOPICS, OBSERVATIONS, KafkaTopic

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry

GENESIS_TOPICS: Final = (OBSERVATIONS, GANTRY)
GENESIS_KEY: Final = b"genesis"
MAX_MESSAGE: Final = 4 << 20
NO_KAFKA: Final = "no Kafka answers at {} ({}): is it running? Start one with `v2x up`, or say where with --kafka"
_UNKNOWN_TOPIC: Final = 3
_ALREADY_EXISTS: Final = 36
_APPEAR_S: Final = 20.0


def wanted(topic: KafkaTopic, replication: int) -> dict[str, str]:
    """Return the settings of a topic, as Kafka names them."""
    return {
        "message.timestamp.type": "LogAppendTime",
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": str(topic.retention_bytes),
        "max.message.bytes": str(MAX_MESSAGE),
        "min.insync.replicas": "2" if replication >= 3 else "1",
        "unclean.leader.election.enable": "false",
    }


async def check(bootstrap: str, partitions: int, replication: int = 1) -> list[str]:
    """Return what differs, one line each; empty when all is as it should be. Changes nothing."""
    async with _admin(bootstrap) as admin:
        differences, _ = await _compare(admin, partitions, replication)
    present = [t for t in GENESIS_TOPICS if not any(d.startswith(f"{t}: missing") for d in differences)]
    for topic, found in (await generations(bootstrap, present)).items():
        without = sorted(p for p, generation in found.items() if generation == "")
        if without:
            differences.append(f"{topic}: no genesis record in partitions {without}")
        names = {generation for generation in found.values() if generation}
        if len(names) > 1:
            differences.append(f"{topic}: {len(names)} generations in one topic: {sorted(names)}")
    return differences


async def apply(bootstrap: str, partitions: int, replication: int = 1) -> list[str]:
    """Make what is missing and set what differs; return what was done. BrokerError where that cannot be done."""
    done: list[str] = []
    async with _admin(bootstrap) as admin:
        _, state = await _compare(admin, partitions, replication)
        fixed = [f"{t.name} has {n} partitions" for t, (n, _) in state.items() if n not in {0, partitions}]
        if fixed:
            raise BrokerError(
                f"{', '.join(fixed)}, wanted {partitions}: the count is fixed within a generation; "
                f"give --partitions as it is, or delete the topics to begin a new world"
            )
        missing = [t for t, (n, _) in state.items() if n == 0]
        if missing:
            await _create(admin, missing, partitions, replication)
            done += [f"{t.name}: made with {partitions} partitions" for t in missing]
        for topic, (n, differing) in state.items():
            if n and differing:
                await _alter(admin, topic, replication)
                done += [f"{topic.name}: {name} {was!r} -> {should!r}" for name, was, should in differing]
    return done + await _write_genesis(bootstrap, partitions)


async def delete_all(bootstrap: str) -> None:
    """Delete our topics: the end of a world (tests)."""
    async with _admin(bootstrap) as admin:
        names = [t.name for t in KAFKA_TOPICS]
        answer = await admin.delete_topics(names)
        for name, code in answer.topic_error_codes:
            if code not in {0, _UNKNOWN_TOPIC}:
                raise BrokerError(f"cannot delete {name}: {for_code(code).__name__}")
        await _wait(admin, lambda found: not set(names) & set(found))


async def generations(bootstrap: str, topics: Sequence[str]) -> dict[str, dict[int, str]]:
    """Return the generation of each partition: empty if there is none, ``?`` if retention took the genesis."""
    if not topics:
        return {}
    codec = ReferenceCodec(Registry.load())
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none")
    async with _started(consumer, bootstrap):
        found: dict[str, dict[int, str]] = {}
        for topic in topics:
            parts = [TopicPartition(topic, p) for p in sorted(await partitions_of(consumer, topic))]
            begin, end = await bounds(consumer, parts)
            of = found[topic] = {tp.partition: "" for tp in parts}
            for tp in parts:
                if begin[tp] > 0:
                    of[tp.partition] = "?"
                elif end[tp] > 0:
                    consumer.assign([tp])
                    consumer.seek(tp, 0)
                    of[tp.partition] = generation_of(codec, (await consumer.getone(tp)).value)
        return found


async def bounds(consumer: Any, tps: Sequence[TopicPartition]) -> tuple[dict[Any, int], dict[Any, int]]:
    """Return first offset, and last offset plus one, of partitions; assigns them, paused.

    Without the seek aiokafka would look for a committed position meanwhile, and raise that there is none.
    """
    consumer.assign(tps)
    consumer.pause(*tps)
    for tp in tps:
        consumer.seek(tp, 0)
    return await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)


def generation_of(codec: ReferenceCodec, value: bytes | None) -> str:
    """Return the generation that a record's value names, if it is a genesis record; else an empty string."""
    try:
        name, record = codec.decode_kafka(value or b"")
    except DecodeError:
        return ""
    return str(record["generation"]) if name == "genesis" else ""


async def _write_genesis(bootstrap: str, partitions: int) -> list[str]:
    found = await generations(bootstrap, GENESIS_TOPICS)
    codec = ReferenceCodec(Registry.load())
    done = []
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    async with _started(producer, bootstrap):
        for topic, by_partition in found.items():
            # A crash in the middle of an earlier apply left some: they name the world.
            named = next((g for g in by_partition.values() if len(g) > 1), None) or str(uuid.uuid4())
            empty = [p for p, g in by_partition.items() if g == ""]
            for p in empty:
                record = {
                    "generation": named,
                    "partition": p,
                    "partitions": partitions,
                    "ts_ms": time.time_ns() // 10**6,
                }
                await producer.send_and_wait(topic, codec.encode("genesis", record), GENESIS_KEY, p)
            if empty:
                done.append(f"{topic}: genesis {named} in {len(empty)} partitions")
    return done


_State = dict[KafkaTopic, tuple[int, list[tuple[str, str, str]]]]


async def _compare(admin: Any, partitions: int, replication: int) -> tuple[list[str], _State]:
    """Return differences as lines, and per topic its partition count (0: missing) and differing settings."""
    described = {t["topic"]: t for t in await admin.describe_topics() if not t["error_code"]}
    lines: list[str] = []
    state: _State = {}
    for topic in KAFKA_TOPICS:
        found = described.get(topic.name)
        if found is None:
            lines.append(f"{topic.name}: missing")
            state[topic] = (0, [])
            continue
        n = len(found["partitions"])
        if n != partitions:
            lines.append(f"{topic.name}: {n} partitions, wanted {partitions} (fixed within a generation)")
        replicas = min(len(p["replicas"]) for p in found["partitions"])
        if replicas != replication:
            lines.append(f"{topic.name}: {replicas} replicas, wanted {replication} (move them with Kafka's own tools)")
        now = await _settings(admin, topic.name)
        differing = [(k, now.get(k, ""), v) for k, v in wanted(topic, replication).items() if now.get(k) != v]
        lines += [f"{topic.name}: {k} is {was!r}, wanted {should!r}" for k, was, should in differing]
        state[topic] = (n, differing)
    return lines, state


async def _settings(admin: Any, topic: str) -> Mapping[str, str]:
    answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    code, message, _, _, entries = answers[0].resources[0][:5]
    if code:
        raise BrokerError(f"Kafka does not tell the settings of {topic}: {message}")
    return {entry[0]: entry[1] for entry in entries}


async def _create(admin: Any, topics: Sequence[KafkaTopic], partitions: int, replication: int) -> None:
    new = [NewTopic(t.name, partitions, replication, topic_configs=wanted(t, replication)) for t in topics]
    answer = await admin.create_topics(new)
    for name, code, *message in answer.topic_errors:
        if code not in {0, _ALREADY_EXISTS}:
            raise BrokerError(f"Kafka refuses to make {name}: {message or for_code(code).__name__}")
    names = {t.name for t in topics}
    await _wait(admin, lambda found: all(found.get(name) == partitions for name in names))


async def _alter(admin: Any, topic: KafkaTopic, replication: int) -> None:
    answers = await admin.alter_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic.name, wanted(topic, replication))]
    )
    for code, message, *_ in answers[0].resources:
        if code:
            raise BrokerError(f"Kafka refuses the settings of {topic.name}: {message}")


async def _wait(admin: Any, done: Any) -> None:
    """Wait until the metadata of all topics satisfy ``done`` (name -> partitions with a leader)."""
    deadline = time.monotonic() + _APPEAR_S
    while True:
        found = {
            t["topic"]: sum(p["leader"] >= 0 for p in t["partitions"])
            for t in await admin.describe_topics()
            if not t["error_code"]
        }
        if done(found):
            return
        if time.monotonic() > deadline:
            raise BrokerError(f"Kafka's metadata do not come to rest within {_APPEAR_S:.0f} s")
        await asyncio.sleep(0.05)


async def partitions_of(consumer: Any, topic: str) -> set[int]:
    """Return the partitions of a topic; BrokerError if there is none of that name."""
    await consumer._client.force_metadata_update()  # noqa: SLF001  (no public way to ask before assigning)
    await consumer._client.add_topic(topic)  # noqa: SLF001
    parts = consumer.partitions_for_topic(topic)
    if not parts:
        raise BrokerError(f"Kafka has no topic {topic}: run `v2x topics apply`")
    return set(parts)


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[Any]:
    async with _started(
        AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=10_000), bootstrap
    ) as admin:
        yield admin


@asynccontextmanager
async def _started(client: Any, bootstrap: str) -> AsyncIterator[Any]:
    stop = getattr(client, "stop", None) or client.close
    try:
        try:
            await client.start()
        except (KafkaError, OSError) as e:
            raise BrokerError(NO_KAFKA.format(bootstrap, type(e).__name__)) from e
        yield client
    finally:
        await stop()
