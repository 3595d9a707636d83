"""Quarantine: a device that sends too many bad messages, or too many bytes, must not cost the road anything.

Counts are kept a device in columns and halved every minute, so an old fault fades. A device is put in quarantine when

* of at least 20 messages more than a quarter were bad, or
* it sent more bad messages in this minute than the limit, or
* it sent more bytes in this second than the limit (then only until the second is over).

It comes out when its share of bad messages has fallen below a tenth. In quarantine *all* its messages are taken and
acknowledged, none goes to the road: half-broken senders are not to be trusted in their other half. The first N a minute
are kept as dead letters, so that somebody can see what it sends; the rest is only counted, by reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numba as nb
import numpy as np
import numpy.typing as npt

from v2x.columns import I32, I64

Bools = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
_WINDOW_MS: Final = 60_000
_SECOND_MS: Final = 1_000
_L: Final = "int64[::1]"


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """When a device goes in and out, and how much of it is kept."""

    share_in: float = 0.25
    share_out: float = 0.10
    messages: int = 20  # fewer say nothing about a share
    bad_per_minute: int = 120
    bytes_per_second: int = 4_000_000
    keep_per_minute: int = 10


class Ruling(NamedTuple):
    """What becomes of the messages of a batch; columns of one length."""

    held: Bools  # its device is in quarantine: not to the road
    keep: Bools  # of those held: keep as a dead letter; the others are only counted


class Quarantine:
    """Judges batches; devices are numbers of ``v2x.devices``, time is monotonic milliseconds and passed in."""

    def __init__(self, capacity: int, limits: QuarantineLimits | None = None) -> None:
        self.limits = limits or QuarantineLimits()
        self._all = np.zeros(capacity, np.float64)
        self._bad = np.zeros(capacity, np.float64)
        self._bad_now = np.zeros(capacity, np.int64)  # in this minute
        self._bytes = np.zeros(capacity, np.int64)  # in this second
        self._kept = np.zeros(capacity, np.int64)  # in this minute
        self._in = np.zeros(capacity, np.bool_)
        self._any_in = False
        self._minute = -1
        self._second = -1

    @property
    def devices(self) -> npt.NDArray[np.intp]:
        """Numbers of the devices in quarantine."""
        return np.flatnonzero(self._in)

    def clear(self) -> None:
        """Forget all devices."""
        for column in (self._all, self._bad, self._bad_now, self._bytes, self._kept, self._in):
            column.fill(0)
        self._any_in = False

    def judge(self, mono_ms: int, device: I32, size: I64, reason: I32) -> Ruling | None:
        """Count a batch and return what becomes of it, None if nothing is held; ``reason`` is 0 where nothing is wrong.

        A batch is judged with its own messages counted.
        """
        self._pass_time(mono_ms)
        limit = self.limits.bytes_per_second
        wrong, over = _count(device, size, reason, limit, self._all, self._bad, self._bad_now, self._bytes)
        if not wrong and not self._any_in:
            # Nothing to judge but bytes: a share can only fall.
            return self._rule(device, self._bytes[device] > limit) if over else None
        seen = np.unique(device)
        known = self._all[seen] >= self.limits.messages
        share = self._bad[seen] / self._all[seen]
        goes_in = (known & (share > self.limits.share_in)) | (self._bad_now[seen] > self.limits.bad_per_minute)
        stays = self._in[seen] & ~(known & (share < self.limits.share_out))
        self._in[seen] = goes_in | stays
        self._any_in = bool(self._in.any())
        return self._rule(device, self._in[device] | (self._bytes[device] > self.limits.bytes_per_second))

    def _rule(self, device: I32, held: Bools) -> Ruling:
        keep = np.zeros(len(device), np.bool_)
        for i in np.flatnonzero(held):
            keep[i] = self._kept[device[i]] < self.limits.keep_per_minute
            self._kept[device[i]] += keep[i]
        return Ruling(held, keep)

    def _pass_time(self, mono_ms: int) -> None:
        if mono_ms // _SECOND_MS != self._second:
            self._second = mono_ms // _SECOND_MS
            self._bytes.fill(0)
        if mono_ms // _WINDOW_MS != self._minute:
            self._minute = mono_ms // _WINDOW_MS
            self._all *= 0.5
            self._bad *= 0.5
            self._bad_now.fill(0)
            self._kept.fill(0)


@nb.njit(  # type: ignore[misc, unused-ignore]
    f"UniTuple(int64, 2)(int32[::1], int64[:], int32[::1], int64, float64[::1], float64[::1], {_L}, {_L})",
    nogil=True,
    cache=True,
)
def _count(
    device: I32, size: I64, reason: I32, limit: int, every: F64, wrong: F64, wrong_now: I64, taken: I64
) -> tuple[int, int]:
    """Add a batch to the columns; return how many messages are bad, and how many came after too many bytes."""
    n = over = 0
    for i in range(device.shape[0]):
        d = device[i]
        every[d] += 1.0
        taken[d] += size[i]
        over += taken[d] > limit
        if reason[i] != 0:
            wrong[d] += 1.0
            wrong_now[d] += 1
            n += 1
    return n, over
