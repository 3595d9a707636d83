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

import numpy as np
import numpy.typing as npt

from v2x.columns import I32, I64

Bools = npt.NDArray[np.bool_]
_WINDOW_MS: Final = 60_000
_SECOND_MS: Final = 1_000


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

    def judge(self, mono_ms: int, device: I32, size: I64, bad: Bools) -> Ruling:
        """Count a batch and return what becomes of it: a batch is judged with its own messages counted."""
        self._pass_time(mono_ms)
        np.add.at(self._all, device, 1.0)
        np.add.at(self._bytes, device, size)
        if bad.any():
            np.add.at(self._bad, device[bad], 1.0)
            np.add.at(self._bad_now, device[bad], 1)
        if not bad.any() and not self._in.any():
            # Nothing to judge but bytes: a share can only fall.
            held = self._bytes[device] > self.limits.bytes_per_second
            return self._rule(device, held) if held.any() else Ruling(held, np.zeros(len(device), np.bool_))
        seen = np.unique(device)
        known = self._all[seen] >= self.limits.messages
        share = self._bad[seen] / self._all[seen]
        goes_in = (known & (share > self.limits.share_in)) | (self._bad_now[seen] > self.limits.bad_per_minute)
        stays = self._in[seen] & ~(known & (share < self.limits.share_out))
        self._in[seen] = goes_in | stays
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
