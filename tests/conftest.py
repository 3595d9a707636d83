"""Real brokers for the tests: started once a session, on free ports, in folders of the session, stopped by pid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_asyncio

from v2x_services import topics
from v2x_services.brokers import Kafka, Mosquitto

WORLD_PARTITIONS = 2


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One Kafka node; tests share it, so they make topics and groups of their own or ask for ``world``."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """One Mosquitto with the shipped settings."""
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest_asyncio.fixture
async def world(kafka: Kafka) -> str:
    """Our topics as new, with two partitions; returns Kafka's bootstrap address."""
    await topics.delete_all(kafka.bootstrap)
    await topics.apply(kafka.bootstrap, WORLD_PARTITIONS)
    return kafka.bootstrap
