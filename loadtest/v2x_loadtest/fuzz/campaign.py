"""Mutations of a corpus through a target, from a seed; a case that is found replays from its bytes alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Final

from v2x_loadtest.fuzz.mutants import Cases
from v2x_loadtest.fuzz.target import Maker, Target, wrong_with
from v2x_loadtest.fuzz.totals import Tally

CORPUS: Final = Path(__file__).parent / "corpus"
TARGETS: Final = {
    "framing": ("v2x_loadtest.fuzz.framing", "Framing", "MQTT packets, cut anywhere, against the standard"),
    "topics": ("v2x_loadtest.fuzz.texts", "Topics", "MQTT topics through ingest's table"),
    "zones": ("v2x_loadtest.fuzz.texts", "Zones", "zone maps"),
    "config": ("v2x_loadtest.fuzz.config", "Config", "settings files"),
    "decoder": ("v2x_loadtest.fuzz.avro", "Avro", "Avro messages through the compiled decoder, against the reference"),
}


def make(name: str) -> Target:
    """Return a target."""
    target: Target = kind(name)()
    return target


def kind(name: str) -> type[Target]:
    """Return the class of a target, which knows how large its batches are."""
    module, name, _ = TARGETS[name]
    found: type[Target] = getattr(import_module(module), name)
    return found


def load(name: str, folder: Path = CORPUS) -> list[bytes]:
    """Return the kept inputs of a target: one a line, as hex."""
    file = folder / f"{name}.txt"
    lines = file.read_text(encoding="ascii").split() if file.is_file() else []
    return [bytes.fromhex(line) if line != "-" else b"" for line in lines]


def one(target: Target, data: bytes) -> str:
    """Run one input; return what is wrong, or nothing."""
    return wrong_with(target.run, data)


@lru_cache(1)
def _ready(name: str, corpus: tuple[bytes, ...]) -> tuple[Target, Maker]:
    target = make(name)
    return target, target.pool([*target.seeds(), *corpus])


def cases(name: str, seed: int, nth: int, corpus: Sequence[bytes]) -> Cases:
    """Return a batch of a seed."""
    target, maker = _ready(name, tuple(corpus))
    return maker.cases(seed, nth, target.batch)


def batches(name: str, seed: int, first: int, last: int, corpus: Sequence[bytes]) -> Iterator[Tally]:
    """Run batches ``first`` to ``last - 1`` of a seed; yield what each has seen."""
    target, maker = _ready(name, tuple(corpus))
    for nth in range(first, last):
        began = time.process_time()
        tally = target.judge(maker.cases(seed, nth, target.batch))
        tally.cpu_s = time.process_time() - began
        yield tally
