"""The ledger of acknowledgements: which messages of an MQTT session were taken, and which may be acknowledged now.

A session's messages are rows of a ring, in arrival order; a row's absolute number is its *token*. A message may become
several records (halo copies); it is *settled* when the last of them is durable. PUBACKs must leave in arrival order
(MQTT-4.6.0-2), so settled rows leave the ring only from its head::

       head                                   tail
        │ settled │ settled │ waiting │ settled │
        └──── released, acknowledged            └── take() appends here

A packet id belongs to one connection, the *epoch*: after a reconnect the broker sends what was not acknowledged again,
with ids that mean something else. Rows of an old epoch settle like others and are released without acknowledgement.
Everything is a column; there is no object for a message, and no Python for one.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"
# ruff: noqa: ANN001, ANN202 - the types of kernels are their signatures

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numba as nb
import numpy as np
import numpy.typing as npt

from v2x.columns import I64

_SMALLEST: Final = 64
WAITING: Final = 0
"""Fate of a message that is not decided."""

EPOCH, PACKET_ID, OPEN, FATE, RX = range(5)
_COLUMNS: Final = 5
_RING: Final = nb.int64[:, ::1]
_LIST: Final = nb.int64[::1]


class Released(NamedTuple):
    """Rows that left the ring, in arrival order; columns of equal length."""

    epoch: I64
    packet_id: I64  # 0: nothing to acknowledge
    fate: I64
    rx_us: I64
    acks: int  # how many of the packet ids are not 0


class AckLedger:
    """A ring of (epoch, packet id, open records, fate, receive time)."""

    __slots__ = ("_head", "_out", "_ring", "_tail")

    def __init__(self, capacity: int = 4096) -> None:
        """Make a ring for ``capacity`` messages (it grows when more arrive)."""
        self._head = 0
        self._tail = 0
        self._ring: I64 = np.zeros((1 << max(_SMALLEST, capacity).bit_length(), _COLUMNS), np.int64)
        self._out: I64 = np.empty((_COLUMNS, len(self._ring)), np.int64)

    @property
    def in_flight(self) -> int:
        """Messages taken and not released."""
        return self._tail - self._head

    @property
    def taken(self) -> int:
        """Messages taken so far; the next one gets this as its token."""
        return self._tail

    @property
    def released(self) -> int:
        """Messages released so far: all with a smaller token."""
        return self._head

    def take(self, epoch: int, packet_ids: Sequence[int] | I64, rx_us: int, fate: int = WAITING) -> int:
        """Append messages, each with one open record; return the token of the first, the others follow it.

        ``fate`` is that of all of them, unless another one is decided.
        """
        ids = np.asarray(packet_ids, np.int64)
        n = len(ids)
        if self.in_flight + n > len(self._ring):
            self._grow(self.in_flight + n)
        first = self._tail
        _take(self._ring, first, ids, epoch, rx_us, fate)
        self._tail = first + n
        return first

    def decide(self, tokens: npt.ArrayLike, fate: int | npt.NDArray[np.integer[npt.NBitBase]]) -> None:
        """Note what becomes of messages: a number of the caller's, not WAITING; the last one before release counts."""
        self._ring[self._known(tokens) & (len(self._ring) - 1), FATE] = fate

    def expect(self, token: int, records: int) -> None:
        """Have a message wait for ``records`` (>= 1) records instead of one."""
        if records < 1 or not self._head <= token < self._tail:
            msg = f"token {token} cannot wait for {records} records (ring holds {self._head} to {self._tail})"
            raise ValueError(msg)
        self._ring[token & (len(self._ring) - 1), OPEN] = records

    def settle(self, tokens: npt.ArrayLike) -> None:
        """Note one durable (or dropped) record for each token; a token may occur more than once."""
        found = np.ascontiguousarray(tokens, np.int64)
        wrong = _settle(self._ring, self._head, self._tail, found)
        if wrong >= 0:
            self._check(int(found[wrong]), int(found[wrong]))

    def release(self) -> Released:
        """Take the settled rows off the head; the columns are good until the next time."""
        out = self._out
        n, acks = _release(self._ring, self._head, self._tail, out)
        self._head += n
        return Released(out[EPOCH, :n], out[PACKET_ID, :n], out[FATE, :n], out[RX, :n], acks)

    def fates(self) -> I64:
        """Return the fate of each message in flight, oldest first."""
        held: I64 = self._ring[np.arange(self._head, self._tail) & (len(self._ring) - 1), FATE]
        return held

    def _known(self, tokens: npt.ArrayLike) -> I64:
        found = np.asarray(tokens, np.int64)
        if found.size:
            self._check(int(found.min()), int(found.max()))
        return found

    def _check(self, least: int, most: int) -> None:
        if least <= most and not (self._head <= least and most < self._tail):
            msg = f"tokens {least} to {most} are not all in the ring ({self._head} to {self._tail})"
            raise ValueError(msg)

    def _grow(self, wanted: int) -> None:
        old = self._ring
        places = np.arange(self._head, self._tail)
        self._ring = np.zeros((1 << wanted.bit_length(), _COLUMNS), np.int64)
        self._ring[places & (len(self._ring) - 1)] = old[places & (len(old) - 1)]
        self._out = np.empty((_COLUMNS, len(self._ring)), np.int64)


@nb.njit(
    nb.void(_RING, nb.int64, nb.int64[:], nb.int64, nb.int64, nb.int64), nogil=True, cache=True, error_model="numpy"
)
def _take(ring, first, packet_ids, epoch, rx_us, fate):
    mask = ring.shape[0] - 1
    for k in range(packet_ids.shape[0]):
        row = (first + k) & mask
        ring[row, EPOCH] = epoch
        ring[row, PACKET_ID] = packet_ids[k]
        ring[row, OPEN] = 1
        ring[row, FATE] = fate
        ring[row, RX] = rx_us


@nb.njit(nb.int64(_RING, nb.int64, nb.int64, _LIST), nogil=True, cache=True, error_model="numpy")
def _settle(ring, head, tail, tokens):
    """Return the place of a token that is not in the ring, or -1; then nothing was settled."""
    mask = ring.shape[0] - 1
    for k in range(tokens.shape[0]):
        if tokens[k] < head or tokens[k] >= tail:
            return k
    for k in range(tokens.shape[0]):
        ring[tokens[k] & mask, OPEN] -= 1
    return -1


@nb.njit("UniTuple(int64, 2)(int64[:, ::1], int64, int64, int64[:, ::1])", nogil=True, cache=True, error_model="numpy")
def _release(ring, head, tail, out):
    """Copy the settled rows at the head; return how many there are, and how many of them have a packet id."""
    mask = ring.shape[0] - 1
    n = acks = 0
    while head + n < tail and ring[(head + n) & mask, OPEN] <= 0:
        row = (head + n) & mask
        for column in range(_COLUMNS):
            out[column, n] = ring[row, column]
        acks += ring[row, PACKET_ID] > 0
        n += 1
    return n, acks
