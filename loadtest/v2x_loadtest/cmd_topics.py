"""`v2x topics apply|check`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from v2x_loadtest.options import Config, KafkaAt
from v2x_services import topics
from v2x_services.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Make and check the Kafka topics.", add_completion=False)
Partitions = Annotated[int | None, typer.Option(help="Partitions of each topic (default 8).")]
Replication = Annotated[int | None, typer.Option(help="Replicas of each topic (default 1).")]


@app.command()
def apply(
    config: Config = None, kafka: KafkaAt = None, partitions: Partitions = None, replication: Replication = None
) -> None:
    """Make what is missing, set what differs, write genesis records; never changes a partition count."""
    s = Settings.load(config, kafka_bootstrap=kafka, partitions=partitions, replication=replication)
    for line in asyncio.run(topics.apply(s.kafka_bootstrap, s.partitions, s.replication)) or ["all as it should be"]:
        typer.echo(line)


@app.command()
def check(
    config: Config = None, kafka: KafkaAt = None, partitions: Partitions = None, replication: Replication = None
) -> None:
    """Say what differs; exit code 1 if anything does."""
    s = Settings.load(config, kafka_bootstrap=kafka, partitions=partitions, replication=replication)
    differences = asyncio.run(topics.check(s.kafka_bootstrap, s.partitions, s.replication))
    for line in differences or ["all as it should be"]:
        typer.echo(line)
    if differences:
        raise typer.Exit(1)
