"""Flags that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path | None, typer.Option(help="Settings file (default: v2x.toml, if it is there).")]
KafkaAt = Annotated[str | None, typer.Option("--kafka", help="Kafka bootstrap servers, host:port.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
