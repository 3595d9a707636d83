"""`v2x topics` on real Kafka."""

from __future__ import annotations

import uuid

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from tests.conftest import WORLD_PARTITIONS
from typer.testing import CliRunner
from v2x.errors import BrokerError
from v2x.topics import GANTRY, KAFKA_TOPICS, MAPS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.cli import root
from v2x_services import topics
from v2x_services.brokers import Kafka

pytestmark = pytest.mark.real


async def test_apply_makes_all_with_a_genesis_in_each_partition(world: str) -> None:
    assert await topics.check(world, WORLD_PARTITIONS) == []
    assert await topics.apply(world, WORLD_PARTITIONS) == []  # nothing left to do
    codec = ReferenceCodec(Registry.load())
    consumer = AIOKafkaConsumer(bootstrap_servers=world, enable_auto_commit=False)
    await consumer.start()
    try:
        for topic in (OBSERVATIONS, GANTRY):
            seen = []
            for p in range(WORLD_PARTITIONS):
                tp = TopicPartition(topic, p)
                consumer.assign([tp])
                consumer.seek(tp, 0)
                message = await consumer.getone(tp)
                name, record = codec.decode_kafka(message.value)
                assert (name, record["partition"], record["partitions"]) == ("genesis", p, WORLD_PARTITIONS)
                assert message.timestamp_type == 1  # LogAppendTime
                seen.append(str(uuid.UUID(record["generation"])))
            assert len(set(seen)) == 1
    finally:
        await consumer.stop()


async def test_a_difference_is_reported_and_then_set(world: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=world)
    await admin.start()
    try:
        for topic, change in ((TRACKS, {"message.timestamp.type": "CreateTime"}), (MAPS, {"cleanup.policy": "delete"})):
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, change)])
    finally:
        await admin.close()
    differences = await topics.check(world, WORLD_PARTITIONS)
    assert f"{TRACKS}: message.timestamp.type is 'CreateTime', wanted 'LogAppendTime'" in differences
    assert f"{MAPS}: cleanup.policy is 'delete', wanted 'compact'" in differences
    assert await topics.apply(world, WORLD_PARTITIONS)
    assert await topics.check(world, WORLD_PARTITIONS) == []


async def test_the_partition_count_is_never_changed(world: str) -> None:
    assert any("2 partitions, wanted 4" in line for line in await topics.check(world, 4))
    with pytest.raises(BrokerError, match="fixed within a generation"):
        await topics.apply(world, 4)
    assert await topics.check(world, WORLD_PARTITIONS) == []


async def test_an_apply_that_was_cut_short_is_finished_in_the_same_world(world: str) -> None:
    before = (await topics.generations(world, [OBSERVATIONS]))[OBSERVATIONS]
    admin = AIOKafkaAdminClient(bootstrap_servers=world)
    await admin.start()
    try:
        await admin.delete_topics([TRACKS])
        await topics._wait(admin, lambda found: TRACKS not in found)
    finally:
        await admin.close()
    assert f"{TRACKS}: missing" in await topics.check(world, WORLD_PARTITIONS)
    assert len(await topics.apply(world, WORLD_PARTITIONS)) == 1
    assert (await topics.generations(world, [OBSERVATIONS]))[OBSERVATIONS] == before


def test_exit_codes(kafka: Kafka) -> None:
    run = CliRunner().invoke
    at = ["--kafka", kafka.bootstrap, "--partitions"]
    assert run(root, ["topics", "apply", *at, str(WORLD_PARTITIONS)]).exit_code == 0
    good = run(root, ["topics", "check", *at, str(WORLD_PARTITIONS)])
    assert (good.exit_code, good.output.strip()) == (0, "all as it should be")
    bad = run(root, ["topics", "check", *at, "5"])
    assert bad.exit_code == 1
    assert len(bad.output.splitlines()) == len(KAFKA_TOPICS)
