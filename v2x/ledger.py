"""The ledger of acknowledgements: which messages of an MQTT session were taken, and which may be acknowledged now.

A session's messages are rows of a ring, in arrival order; a row's absolute number is its *token*. A message may become
several records (halo copies); it is *settled* when the last of them is durable. PUBACKs must leave in arrival order
(MQTT-4.6.0-2), so settled rows leave the ring only from its head::

       head                                   tail
        │ settled │ settled │ waiting │ settled │
        └──── released, acknowledged            └── take() appends here

A packet id belongs to one connection, the *epoch*: after a reconnect the broker sends what was not acknowledged again,
with ids that mean something else. Rows of an old epoch settle like others and are released without acknowledgement.
Everything is a column; there is no object for a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

_SMALLEST: Final = 64
WAITING: Final = 0
"""Fate of a message that is not decided."""


class Released(NamedTuple):
    """Rows that left the ring, in arrival order; columns of equal length."""

    epoch: npt.NDArray[np.int64]
    packet_id: npt.NDArray[np.int32]  # 0: nothing to acknowledge
    fate: npt.NDArray[np.int16]
    rx_us: npt.NDArray[np.int64]


class AckLedger:
    """A ring of (epoch, packet id, open records, fate, receive time)."""

    __slots__ = ("_epoch", "_fate", "_head", "_mask", "_open", "_packet_id", "_rx", "_tail")

    def __init__(self, capacity: int = 4096) -> None:
        """Make a ring for ``capacity`` messages (it grows when more arrive)."""
        self._head = 0
        self._tail = 0
        self._allocate(1 << max(_SMALLEST, capacity).bit_length())

    def _allocate(self, size: int) -> None:
        self._mask = size - 1
        self._epoch = np.zeros(size, np.int64)
        self._packet_id = np.zeros(size, np.int32)
        self._open = np.zeros(size, np.int32)
        self._fate = np.zeros(size, np.int16)
        self._rx = np.zeros(size, np.int64)

    @property
    def in_flight(self) -> int:
        """Messages taken and not released."""
        return self._tail - self._head

    def take(self, epoch: int, packet_ids: Sequence[int], rx_us: int) -> int:
        """Append messages, each with one open record; return the token of the first, the others follow it."""
        n = len(packet_ids)
        if self.in_flight + n > self._mask + 1:
            self._grow(self.in_flight + n)
        first = self._tail
        rows = np.arange(first, first + n) & self._mask
        self._epoch[rows] = epoch
        self._packet_id[rows] = packet_ids
        self._open[rows] = 1
        self._fate[rows] = WAITING
        self._rx[rows] = rx_us
        self._tail = first + n
        return first

    def decide(self, tokens: npt.ArrayLike, fate: int | npt.NDArray[np.int16]) -> None:
        """Note what becomes of messages: a number of the caller's, not WAITING; the last one before release counts."""
        self._fate[self._rows(tokens)] = fate

    def expect(self, token: int, records: int) -> None:
        """Have a message wait for ``records`` (>= 1) records instead of one."""
        if records < 1 or not self._head <= token < self._tail:
            msg = f"token {token} cannot wait for {records} records (ring holds {self._head} to {self._tail})"
            raise ValueError(msg)
        self._open[token & self._mask] = records

    def settle(self, tokens: npt.ArrayLike) -> None:
        """Note one durable (or dropped) record for each token; a token may occur more than once."""
        np.subtract.at(self._open, self._rows(tokens), 1)

    def release(self) -> Released:
        """Take the settled rows off the head."""
        held = np.arange(self._head, self._tail) & self._mask
        waiting = self._open[held] > 0
        n = int(waiting.argmax()) if waiting.any() else len(held)
        rows = held[:n]
        self._head += n
        return Released(self._epoch[rows], self._packet_id[rows], self._fate[rows], self._rx[rows])

    def fates(self) -> npt.NDArray[np.int16]:
        """Return the fate of each message in flight, oldest first."""
        held: npt.NDArray[np.int16] = self._fate[np.arange(self._head, self._tail) & self._mask]
        return held

    def _rows(self, tokens: npt.ArrayLike) -> npt.NDArray[np.int64]:
        found = np.asarray(tokens, np.int64)
        if found.size and not (self._head <= int(found.min()) and int(found.max()) < self._tail):
            span = f"{int(found.min())} to {int(found.max())}"
            msg = f"tokens {span} are not all in the ring ({self._head} to {self._tail})"
            raise ValueError(msg)
        return found & self._mask

    def _grow(self, wanted: int) -> None:
        old: list[npt.NDArray[Any]] = [self._epoch, self._packet_id, self._open, self._fate, self._rx]
        places = np.arange(self._head, self._tail)
        rows = places & self._mask
        self._allocate(1 << wanted.bit_length())
        new: list[npt.NDArray[Any]] = [self._epoch, self._packet_id, self._open, self._fate, self._rx]
        for source, target in zip(old, new, strict=True):
            target[places & self._mask] = source[rows]
