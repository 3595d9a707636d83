"""Real brokers for the tests: started once a session, on free ports, in folders of the session, stopped by pid."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from v2x_services.brokers import Kafka, Mosquitto


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
