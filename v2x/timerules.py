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
from enum import IntEnum
from typing import Final

import numba as nb
import numpy as np
import numpy.typing as npt

from v2x.columns import I32, I64
from v2x.topics import MessageClass

Bools = npt.NDArray[np.bool_]
_NEVER: Final = -(1 << 62)
_DAY_MS: Final = 86_400_000


class TimeVerdict(IntEnum):
    """What a time looks like."""

    OK = 0
    AHEAD = 1
    TOO_OLD = 2


_AHEAD: Final = int(TimeVerdict.AHEAD)
_TOO_OLD: Final = int(TimeVerdict.TOO_OLD)


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
        self._oldest = np.zeros(len(MessageClass), np.int64)
        self._oldest[MessageClass.PERISHABLE] = self.limits.perishable_ms
        self._oldest[MessageClass.RELIABLE] = self.limits.reliable_ms
        self._seen = np.full(capacity, _NEVER, np.int64)  # monotonic ms of a device's last message
        self._odd = np.full(capacity, _NEVER, np.int64)  # … and of its last implausible one
        self._offset: int | None = None  # wall clock less monotonic clock
        self._stepped = _NEVER  # monotonic ms of the last step

    def clear(self) -> None:
        """Forget all devices."""
        self._seen.fill(_NEVER)
        self._odd.fill(_NEVER)

    def judge(self, now_ms: int, mono_ms: int, device: I32, ts_ms: I64, kind: int | I32, retained: Bools) -> I32:
        """Return a TimeVerdict a message; all OK while our clock is in doubt.

        ``now_ms`` is our wall clock, ``mono_ms`` the monotonic one, ``kind`` the MessageClass (one for all, or a
        column); columns of one length.
        """
        self._watch_clock(now_ms, mono_ms)
        verdict = np.empty(len(ts_ms), np.int32)
        oldest = self._oldest[kind]
        limits = np.full(len(ts_ms), oldest) if isinstance(kind, int) else oldest
        # All devices of the batch count before any message is judged.
        odd = _look(
            now_ms, mono_ms, self.limits.ahead_ms, limits, device, ts_ms, retained, self._seen, self._odd, verdict
        )
        if odd or self.suspect:
            self.suspect = self._doubt(mono_ms)
            if self.suspect:
                verdict.fill(0)
        return verdict

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
    "int64(int64, int64, int64, int64[::1], int32[::1], int64[::1], boolean[::1], int64[::1], int64[::1], int32[::1])",
    nogil=True,
    cache=True,
)
def _look(
    now_ms: int, mono_ms: int, ahead_ms: int, oldest: I64, device: I32, ts_ms: I64, retained: Bools, seen: I64,
    odd: I64, verdict: I32,
) -> int:  # fmt: skip
    """Judge each message by itself; return how many look odd."""
    n = 0
    for i in range(ts_ms.shape[0]):
        late = now_ms - ts_ms[i]
        verdict[i] = 0
        if late < -ahead_ms:
            verdict[i] = _AHEAD
        elif late > oldest[i] and not retained[i]:
            verdict[i] = _TOO_OLD
        seen[device[i]] = mono_ms
        if verdict[i] != 0:
            odd[device[i]] = mono_ms
            n += 1
    return n
