"""What a target of the fuzzers is."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol


class Finding(Exception):  # noqa: N818 - it is what the search is for, not an error of it
    """A promise is broken by an input."""


class Target(Protocol):
    """Something that takes bytes from outside."""

    name: str

    def seeds(self) -> list[bytes]:
        """Return good inputs to begin with."""
        ...

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return an input like ``data``, with mistakes."""
        ...

    def run(self, data: bytes) -> None:
        """Take an input; Finding where a promise is broken. Any other exception is one, too."""
        ...
