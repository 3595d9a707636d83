"""Mutations of a corpus through a target, from a seed; a case that is found replays from its bytes alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Final

from v2x_loadtest.fuzz.target import Target
from v2x_loadtest.fuzz.totals import Tally

CORPUS: Final = Path(__file__).parent / "corpus"
TARGETS: Final = {
    "framing": ("v2x_loadtest.fuzz.framing", "Framing", "MQTT packets, cut anywhere, against the standard"),
    "topics": ("v2x_loadtest.fuzz.texts", "Topics", "MQTT topics through ingest's table"),
    "zones": ("v2x_loadtest.fuzz.texts", "Zones", "zone maps"),
    "config": ("v2x_loadtest.fuzz.texts", "Config", "settings files"),
    "decoder": ("v2x_loadtest.fuzz.avro", "Avro", "Avro messages through the compiled decoder, against the reference"),
}
BATCH: Final = 2_000
_KEPT: Final = 512  # bytes of a finding's text


def make(name: str) -> Target:
    """Return a target."""
    module, kind, _ = TARGETS[name]
    target: Target = getattr(import_module(module), kind)()
    return target


def load(name: str, folder: Path = CORPUS) -> list[bytes]:
    """Return the kept inputs of a target: one a line, as hex."""
    file = folder / f"{name}.txt"
    lines = file.read_text(encoding="ascii").split() if file.is_file() else []
    return [bytes.fromhex(line) if line != "-" else b"" for line in lines]


def one(target: Target, data: bytes) -> str:
    """Run one input; return what is wrong, or nothing."""
    try:
        target.run(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # noqa: BLE001 - whatever comes out of a target is a finding, a panic too
        return f"{type(e).__name__}: {e}"[:_KEPT]
    return ""


def batches(name: str, seed: int, first: int, last: int, corpus: list[bytes]) -> Iterator[Tally]:
    """Run batches ``first`` to ``last - 1`` of a seed, each of ``BATCH`` cases; yield what each has seen."""
    target = make(name)
    inputs = [*target.seeds(), *corpus]
    for nth in range(first, last):
        rng = Random(f"{name} {seed} {nth}")
        tally = Tally()
        for _ in range(BATCH):
            data = target.mutate(rng.choice(inputs), inputs, rng)
            tally.cases += 1
            if wrong := one(target, data):
                tally.findings.append((data.hex(), wrong))
                if tally.enough:
                    break
        yield tally
