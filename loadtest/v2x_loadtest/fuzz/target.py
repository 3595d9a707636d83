"""What a target of the fuzzers is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar, Final, Protocol

from v2x_loadtest.fuzz.mutants import Cases, Pool
from v2x_loadtest.fuzz.totals import Tally

_KEPT: Final = 512  # bytes of a finding's text


class Finding(Exception):  # noqa: N818 - it is what the search is for, not an error of it
    """A promise is broken by an input."""


class Maker(Protocol):
    """Makes the cases of a campaign."""

    def cases(self, seed: int, nth: int, size: int) -> Cases:
        """Return batch ``nth`` of a seed; they are good until the next call."""
        ...


class Target(Protocol):
    """Something that takes bytes from outside."""

    name: ClassVar[str]
    batch: ClassVar[int]  # cases of a batch

    def seeds(self) -> list[bytes]:
        """Return good inputs to begin with."""
        ...

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return an input like ``data``, with mistakes."""
        ...

    def pool(self, inputs: Sequence[bytes]) -> Maker:
        """Return what makes cases of these inputs."""
        ...

    def run(self, data: bytes) -> str:
        """Take an input, return what it came to; Finding where a promise is broken. Any other exception is one, too."""
        ...

    def judge(self, cases: Cases) -> Tally:
        """Take a batch."""
        ...


def wrong_with(run: Callable[[bytes], str], data: bytes, seen: Counter[str] | None = None) -> str:
    """Run one input, count in ``seen`` what it came to; return what is wrong, or nothing."""
    try:
        came_to = run(data)
        if seen is not None:
            seen[came_to] += 1
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as e:  # noqa: BLE001 - whatever comes out of a target is a finding, a panic too
        return f"{type(e).__name__}: {e}"[:_KEPT]
    return ""


class OneByOne:
    """A target whose batches are their cases one by one."""

    name: ClassVar[str]
    batch: ClassVar[int] = 2_000
    free: ClassVar[int] = 0  # first bytes of an input that may be anything

    def pool(self, inputs: Sequence[bytes]) -> Maker:
        """Return what makes cases of these inputs."""
        return Pool(self.name, inputs, free=self.free)

    def run(self, data: bytes) -> str:
        """Take an input, return what it came to."""
        raise NotImplementedError

    def judge(self, cases: Cases) -> Tally:
        """Take each case of a batch, until enough is found."""
        tally = Tally()
        for data in cases:
            tally.cases += 1
            if wrong := wrong_with(self.run, data, tally.seen):
                tally.findings.append((data.hex(), wrong))
                if tally.enough:
                    break
        return tally
