"""The compiled decoder: by the million in batches (``judge``), or a message at a time beside fastavro (``run``).

``v2x schemas fuzz`` is the campaign in which every message goes through both decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import ClassVar

from v2x_codecs import vectors
from v2x_codecs.campaign import Campaign
from v2x_codecs.corpus import Corpus, corpus_dir
from v2x_codecs.framing import MQTT_HEADER
from v2x_codecs.mutate import mistaken
from v2x_codecs.registry import Registry
from v2x_loadtest.fuzz.columns import Batches
from v2x_loadtest.fuzz.mutants import Cases, Pool
from v2x_loadtest.fuzz.target import Finding, Maker
from v2x_loadtest.fuzz.totals import Tally


class Avro:
    """The target: an MQTT payload, taken by both decoders with the same values, or refused for a reason we know."""

    name: ClassVar[str] = "decoder"
    batch: ClassVar[int] = 10_000

    def __init__(self) -> None:
        self._registry = Registry.load()
        self._golden = [v.mqtt for v in vectors.load(self._registry)]
        self._campaign = Campaign(self._registry, self._golden)

    @cached_property
    def _batches(self) -> Batches:
        return Batches(self._registry, self._golden, self._campaign)

    def seeds(self) -> list[bytes]:
        """Return the golden vectors, and the refused messages kept with the codecs."""
        return [*self._golden, *(case.payload for case in Corpus.load(corpus_dir()).cases)]

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return a message with mistakes."""
        return mistaken(data, MQTT_HEADER, others, rng)

    def pool(self, inputs: Sequence[bytes]) -> Maker:
        """Return what makes cases of these inputs: half of them of good messages."""
        return Pool(self.name, inputs, start=MQTT_HEADER, chosen=self._golden)

    def run(self, data: bytes) -> str:
        """Decode one message, and beside fastavro."""
        tally, _ = self._campaign.judge([data])
        if tally.findings:
            raise Finding(tally.findings[0])
        return next(iter(tally.verdicts))

    def judge(self, cases: Cases) -> Tally:
        """Take a batch."""
        return self._batches.judge(cases)
