"""Time rules at ingest: whether a message's ``ts_ms`` is plausible, seen from our clock.

* Ahead of our clock by more than 5 s: not plausible.
* Too old: perishable messages beyond the outage budget + 60 s (they waited in a queue longer than any outage that we
  promise to bridge), reliable ones beyond 30 days. Messages that a broker had retained are exempt: a map is old.
* Our own clock: when over half of at least 20 devices look implausible within 10 s, or our clock just stepped against
  the monotonic clock, it is not they who are wrong. Then nothing is judged, and ``suspect`` is an alert.

The clock is passed in; devices are numbers of ``v2x.devices``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numba as nb
import numpy as np

from v2x.columns import I32, I64
from v2x.deadletters import Reason
from v2x.topics import MessageClass

_NEVER: Final = -(1 << 62)
_DAY_MS: Final = 86_400_000


# Literals: numba's cache notices changes of this file only.
_AHEAD: Final = 34
_TOO_OLD: Final = 35
assert (int(Reason.AHEAD), int(Reason.TOO_OLD)) == (_AHEAD, _TOO_OLD), "not what v2x.deadletters says"


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Limits, milliseconds."""

    ahead_ms: int = 5_000
    perishable_ms: int = 300_000 + 60_000
    reliable_ms: int = 30 * _DAY_MS
    window_ms: int = 10_000  # of the own-clock rule
    devices: int = 20  # fewer prove nothing about our clock
    step_ms: int = 1_000  # our clock against the monotonic one: a step, not drift


class TimeRules:
    """Judges batches. ``suspect`` says whether it is our own clock that is doubted."""

    def __init__(self, capacity: int, limits: TimeLimits | None = None) -> None:
        """Make rules for device numbers below ``capacity``."""
        self.limits = limits or TimeLimits()
        self.suspect = False
        self._oldest = {
            int(MessageClass.PERISHABLE): self.limits.perishable_ms,
            int(MessageClass.RELIABLE): self.limits.reliable_ms,
        }
        self._seen = np.full(capacity, _NEVER, np.int64)  # monotonic ms of a device's last message
        self._odd = np.full(capacity, _NEVER, np.int64)  # … and of its last implausible one
        self._offset: int | None = None  # wall clock less monotonic clock
        self._stepped = _NEVER  # monotonic ms of the last step

    def clear(self) -> None:
        """Forget all devices."""
        self._seen.fill(_NEVER)
        self._odd.fill(_NEVER)

    def judge(self, now_ms: int, mono_ms: int, device: I32, ts_ms: I64, kind: int, retained: I64, reason: I32) -> int:
        """Judge messages whose ``reason`` is 0: write AHEAD or TOO_OLD (``v2x.deadletters``); return to how many.

        To none while our clock is in doubt. ``now_ms`` is our wall clock, ``mono_ms`` the monotonic one, ``kind`` the
        MessageClass of all; columns of one length.
        """
        self._watch_clock(now_ms, mono_ms)
        # All devices of the batch count before any message is judged.
        odd: int = _look(
            now_ms, mono_ms, self.limits.ahead_ms, self._oldest[kind], device, ts_ms, retained, self._seen, self._odd,
            reason,
        )  # fmt: skip
        if odd or self.suspect:
            self.suspect = self._doubt(mono_ms)
            if self.suspect:
                reason[(reason == _AHEAD) | (reason == _TOO_OLD)] = 0
                return 0
        return odd

    def _watch_clock(self, now_ms: int, mono_ms: int) -> None:
        offset = now_ms - mono_ms
        if self._offset is not None and abs(offset - self._offset) > self.limits.step_ms:
            self._stepped = mono_ms
            self.suspect = True
        self._offset = offset

    def _doubt(self, mono_ms: int) -> bool:
        since = mono_ms - self.limits.window_ms
        if self._stepped > since:
            return True
        seen = int(np.count_nonzero(self._seen > since))
        return seen >= self.limits.devices and 2 * int(np.count_nonzero(self._odd > since)) > seen


@nb.njit(  # type: ignore[misc, unused-ignore]
    "int64(int64, int64, int64, int64, int32[::1], int64[::1], int64[:], int64[::1], int64[::1], int32[::1])",
    nogil=True,
    cache=True,
)
def _look(
    now_ms: int, mono_ms: int, ahead_ms: int, oldest: int, device: I32, ts_ms: I64, retained: I64, seen: I64,
    odd: I64, reason: I32,
) -> int:  # fmt: skip
    """Judge each message by itself; return how many look odd."""
    n = 0
    for i in range(ts_ms.shape[0]):
        if reason[i] != 0:
            continue
        late = now_ms - ts_ms[i]
        if late < -ahead_ms:
            reason[i] = _AHEAD
        elif late > oldest and retained[i] == 0:
            reason[i] = _TOO_OLD
        seen[device[i]] = mono_ms
        if reason[i] != 0:
            odd[device[i]] = mono_ms
            n += 1
    return n
