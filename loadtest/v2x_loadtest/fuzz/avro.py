"""The compiled decoder on one message at a time, for atheris; ``v2x schemas fuzz`` is its campaign of millions."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from v2x_codecs import vectors
from v2x_codecs.campaign import Campaign
from v2x_codecs.mutate import mistaken
from v2x_codecs.registry import Registry
from v2x_loadtest.fuzz.target import Finding

_HEADER: Final = 10


class Avro:
    """The target: an MQTT payload, taken by both decoders with the same values, or refused for a reason we know."""

    name = "decoder"

    def __init__(self) -> None:
        registry = Registry.load()
        self._golden = [v.mqtt for v in vectors.load(registry)]
        self._campaign = Campaign(registry, self._golden)

    def seeds(self) -> list[bytes]:
        """Return the golden vectors."""
        return self._golden

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return a message with mistakes."""
        return mistaken(data, _HEADER, others, rng)

    def run(self, data: bytes) -> None:
        """Decode it both ways."""
        tally, _ = self._campaign.judge([data])
        if tally.findings:
            raise Finding(tally.findings[0])
