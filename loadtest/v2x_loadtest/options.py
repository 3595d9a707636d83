"""Flags that several subcommands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from v2x.errors import ConfigError

Config = Annotated[Path | None, typer.Option(help="Settings file (default: v2x.toml, if it is there).")]
KafkaAt = Annotated[str | None, typer.Option("--kafka", help="Kafka bootstrap servers, host:port.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def parse_seeds(text: str, most: int | None = None) -> list[int]:
    """Return the seeds of ``A-B`` or ``A,B,C-D``, at most ``most`` in a range; ConfigError if it is neither."""
    out: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found:
            raise ConfigError(f"--seeds {text}: give a range like 1001-1010, or numbers like 1001,1007")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ConfigError(f"--seeds {text}: {part.strip()} is empty")
        if most is not None and last >= first + most:
            raise ConfigError(f"--seeds {text}: {part.strip()} is no range of 1 to {most} seeds")
        out += range(first, last + 1)
    return list(dict.fromkeys(out))
