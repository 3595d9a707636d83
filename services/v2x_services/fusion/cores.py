"""Which pure core runs on which input topic, and what names the version of code and configuration that it runs with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import v2x
from v2x.topics import GANTRY, OBSERVATIONS

from v2x_codecs.registry import schemas_dir
from v2x_services.fusion.stage import Core

INPUT_TOPICS: Final = (OBSERVATIONS, GANTRY)


class Cores(Protocol):
    """Makes cores; the port that lets tests run the service on a core of their own."""

    code: str  # version of the code and schemas that make results
    config: str  # checksum of all that changes results and is no code

    def warm_up(self) -> object:
        """Compile whatever is compiled at first use; called once, before the service is ready."""
        ...

    def fresh(self, topic: str, partition: int, partitions: int) -> Core:
        """Return a core that has seen nothing."""
        ...

    def restore(self, topic: str, partition: int, partitions: int, blob: bytes) -> Core:
        """Return a core as it was at a snapshot; SnapshotError if it does not take it."""
        ...


# How the cores' own counters fall into the books: every input record is in exactly one of them.
_EFFECT: Final = frozenset({"fused", "noted", "control", "genesis", "transactions", "plates", "second_pictures"})


def account(counters: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return how many records took effect, and how many did not, by reason."""
    dropped = {k: n for k, n in counters.items() if k == "repeats" or k.startswith(("skipped_", "dropped_"))}
    return sum(n for k, n in counters.items() if k in _EFFECT), dropped


@cache
def code_version() -> str:
    """Return a digest of the pure core's source and of the schemas: what a replay must have in common."""
    digest = hashlib.sha256()
    for root, pattern in ((Path(v2x.__file__).parent, "**/*.py"), (schemas_dir(), "*.avsc")):
        for path in sorted(root.glob(pattern)):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
