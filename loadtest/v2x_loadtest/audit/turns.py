"""One partition in full, in turn: it must hold what summaries tell of, and they must tell of all that it holds."""

from __future__ import annotations

from typing import Final

import numpy as np
from aiokafka import TopicPartition
from v2x.standing import Difference, Standing

from v2x_codecs.envelopes import EnvelopeReader, Envelopes

TURN_S: Final = 30.0
GRACE_S: Final = 4.0  # for the summaries of the last records
_LOOKS: Final = 3  # what differs then is looked at again: a number may come late to either side
_STREAMS: Final = 16_384  # of one partition
_LETTERS: Final = 4096  # that a turn remembers
_ELSEWHERE: Final = frozenset({"bsm"})  # vehicles move from partition to partition
_AT: Final = np.zeros(1, np.int64)


class Turns:
    """The units (partitions that are read together), which of them is read, and what came of it."""

    def __init__(self, reader: EnvelopeReader, told: Standing) -> None:
        self.units: list[list[TopicPartition]] = []
        self.checked = self.checks = 0  # records read, turns ended
        self._told, self._log = told, Standing(len(reader.schemas), _STREAMS)
        self._fixed = np.array([name not in _ELSEWHERE for name in reader.schemas])
        self._letters: list[tuple[bytes, int, int, int]] = []
        self._turn = self._looks = -1
        self._due = 0.0

    def take(self, found: Envelopes, values: bytes) -> None:
        """Take records of the partition that is checked."""
        self.checked += len(found.index)
        if len(found.index):
            self._log.take(values, found.schema, found.device_at, found.device_size, found.boot, found.seq)

    def letter(self, device: bytes, kind: int, boot: int, seq: int) -> None:
        """Take the number of a dead letter: it was told, and is in no partition of records."""
        if len(self._letters) <= _LETTERS:
            self._letters.append((device, kind, boot, seq))

    def due(self, now: float) -> bool:
        """Say whether ``judge`` and ``begin`` are to be called."""
        return now >= self._due

    def judge(self, now: float, *, doubtful: bool) -> Difference | None:
        """Return how summaries and log differ, once that is certain; ``doubtful``: something is still on its way."""
        if self._turn < 0:
            return None
        if self._looks == 0:  # the stretch ends; what tells of its last second is awaited
            self._log.mark()
            self._later(now)
            return None
        for device, *numbers in self._letters:
            kind, boot, seq = (np.array([n], np.int64) for n in numbers)
            self._log.take_known(device, kind, _AT, np.array([len(device)], np.int64), boot, seq)
        found = self._told.differences(self._log, self._fixed & (len(self._letters) <= _LETTERS))
        if (found.untold or found.untrue) and (doubtful or self._looks < _LOOKS):
            if not doubtful or self._looks < 2 * _LOOKS:
                self._later(now)
                return None
            found = Difference(0, 0, [])  # a source is away for long: this turn says nothing
        self._looks = -1
        self.checks += 1
        return found

    def begin(self, now: float) -> list[TopicPartition] | None:
        """Begin the next unit if the last one has ended; return its partitions, which are to be read from their end."""
        if self._looks >= 0 or not self.units:
            return None
        self._turn += 1
        self._looks = 0
        self._log.clear()
        self._letters.clear()
        self._due = now + TURN_S
        return self.units[self._turn % len(self.units)]

    def _later(self, now: float) -> None:
        self._looks += 1
        self._due = now + GRACE_S
