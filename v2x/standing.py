"""The standing audit's core: gaps of every device's sequence numbers, found as the log goes by, in bounded memory.

A line is one device, boot and message type. It remembers which of the last ``WINDOW`` numbers were seen::

     floor        mark              top
    ──┴─────────────┴────────────────┴──►  seq        floor … top: one bit each

A *sweep* calls lost what is still missing up to ``mark``, lifts the floor over it and puts the mark at the top: so a
number has one to two sweeps to come late (other partitions, devices that send again). What leaves the window unseen is
lost as well. Numbers before the first one seen and behind the last one are no loss here: `v2x audit` with a ledger sees
those.

Numbers are taken one by one (records) or as runs (what ingest says that it wrote); ``differences`` holds one against
the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from v2x import standing_kernels as k
from v2x.columns import I64

WINDOW: Final = k.WINDOW
FRESH, AGAIN, LOST, UNPLACED = k.FRESH, k.AGAIN, k.LOST, k.UNPLACED
LONGEST: Final = 1_000_000  # numbers of one run; nobody writes so many in a second
_ID: Final = 64  # bytes of a device's id
_IDLE: Final = 20  # sweeps without a word after which a line may make room for others
_NAMED: Final = 64  # gaps that are named at once


class Gap(NamedTuple):
    """Numbers first to last, both inclusive, that did not come."""

    device: str
    boot: int  # ms UTC
    type: int  # as it was given to ``take``
    first: int
    last: int


class Difference(NamedTuple):
    """How what is told differs from what is in the log."""

    untold: int  # numbers in the log of which nothing was told
    untrue: int  # numbers that were told and are not in the log
    named: list[Gap]  # the first of both


class Standing:
    """Lines of all devices; at most ``capacity`` of them, some 280 bytes each."""

    def __init__(self, types: int, capacity: int = 65_536) -> None:
        """``types``: how many message types there are, numbered from 0."""
        self.counts: I64 = np.zeros((types, 4), np.int64)
        self.forgotten = 0
        self._facts: I64 = np.zeros((capacity, k.FACTS), np.int64)
        self._names = np.zeros((capacity, _ID), np.uint8)
        self._bits = np.zeros((capacity, WINDOW // 64), np.uint64)
        self._slots = np.full(1 << (2 * capacity - 1).bit_length(), -1, np.int64)
        self._lines = self._sweeps = 0

    def __len__(self) -> int:
        return self._lines

    def take(self, heap: bytes, kind: I64, at: I64, size: I64, boot: I64, seq: I64) -> None:
        """Take records: columns (n,) of type, place and length of the device's id in ``heap``, boot, seq."""
        self.take_runs(heap, kind, at, size, boot, seq, seq)

    def take_known(self, heap: bytes, kind: I64, at: I64, size: I64, boot: I64, seq: I64) -> None:
        """As ``take``, but only for devices, boots and types that there are lines of."""
        facts, self._facts = self._facts, self._facts[: self._lines]
        self.take_runs(heap, kind, at, size, boot, seq, seq)
        self._facts = facts

    def take_runs(self, heap: bytes, kind: I64, at: I64, size: I64, boot: I64, first: I64, last: I64) -> int:
        """Take runs of numbers, ``first`` to ``last`` (n,), else as ``take``; return how many numbers they tell.

        A run that is longer than ``LONGEST`` or ends before it begins is none.
        """
        data: Any = np.frombuffer(heap, np.uint8)
        self._lines, told = k.take(
            data, kind, at, size, boot, first, last, LONGEST, self._sweeps, self._facts, self._names, self._bits,
            self._slots, self._lines, self.counts,
        )  # fmt: skip
        return int(told)

    def clear(self) -> None:
        """Forget all lines, not the counts."""
        self._lines = 0
        self._slots[:] = -1

    def dump(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all that ``load`` needs."""
        n = self._lines
        return {
            "facts": self._facts[:n].copy(),
            "names": self._names[:n].copy(),
            "bits": self._bits[:n].copy(),
            "counts": self.counts.copy(),
            "sums": np.array([self._sweeps, self.forgotten], np.int64),
        }

    def load(self, kept: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what another one with the same types and capacity dumped."""
        self._lines = n = len(kept["facts"])
        self._facts[:n], self._names[:n], self._bits[:n] = kept["facts"], kept["names"], kept["bits"]
        self.counts[:] = kept["counts"]
        self._sweeps, self.forgotten = (int(x) for x in kept["sums"])
        k.enter(n, self._facts, self._slots)

    def mark(self) -> None:
        """Put all marks at the top: a sweep or ``differences`` goes up to here."""
        self._facts[: self._lines, k.MARK] = self._facts[: self._lines, k.TOP]

    def sweep(self, types: npt.NDArray[np.bool_]) -> list[Gap]:
        """Call lost what has not come in time, of some types; return the first of it by name."""
        self._sweeps += 1
        named = np.empty((_NAMED, 3), np.int64)
        n = int(k.sweep(self._lines, types, self._facts, self._bits, self.counts, named))
        lost = self._gaps(named[:n])
        if self._lines > 0.9 * len(self._facts):
            self._make_room()
        return lost

    def missing(self) -> int:
        """Return how many numbers are missing at present, and may still come."""
        return int(self._facts[: self._lines, k.HOLES].sum())

    def gaps(self) -> list[Gap]:
        """Return the first of what is missing at present."""
        named = np.empty((_NAMED, 3), np.int64)
        return self._gaps(named[: int(k.gaps(self._lines, self._facts, self._bits, named))])

    def differences(self, log: Standing, fixed: npt.NDArray[np.bool_]) -> Difference:
        """Hold what was told (self) against what stands in a stretch of the log, up to its marks.

        ``fixed``: types whose devices write all their records where that stretch is from; of others some may lie
        elsewhere, so only what is untold says something.
        """
        named, sums = np.empty((_NAMED, 3), np.int64), np.zeros(2, np.int64)
        n = int(
            k.compare(
                log._lines, log._facts, log._names, log._bits, self._facts, self._names, self._bits, self._slots,
                fixed, sums, named,
            )
        )  # fmt: skip
        return Difference(int(sums[0]), int(sums[1]), log._gaps(named[:n]))

    def _gaps(self, named: I64) -> list[Gap]:
        found = []
        for line, first, last in named.tolist():
            boot, kind, size = (int(self._facts[line, fact]) for fact in (k.BOOT, k.TYPE, k.SIZE))
            found.append(Gap(self._names[line, :size].tobytes().decode("utf-8", "replace"), boot, kind, first, last))
        return found

    def _make_room(self) -> None:
        """Forget lines without a word for long, all but the newest half if they are not enough."""
        heard = self._facts[: self._lines, k.HEARD]
        keep = np.flatnonzero(heard >= self._sweeps - _IDLE)
        if keep.size > 0.9 * len(self._facts):
            keep = np.sort(np.argsort(-heard, kind="stable")[: len(self._facts) // 2])
        n = keep.size
        self.forgotten += self._lines - n
        for column in (self._facts, self._names, self._bits):
            column[:n] = column[keep]
        self._lines = n
        k.enter(n, self._facts, self._slots)
