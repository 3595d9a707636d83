"""How long ingest pauses between two reads from a broker.

Mosquitto writes each message on its own, so a reader that wakes up for each pays for the wake-up, not for the message.
Under load reading is therefore *paced*: after a read it pauses for a few milliseconds, then takes all that has come.
The fewer messages come, the shorter is the pause; when there are few it reads at once, and when there are very many,
as small ones can be, it pauses longer: a read costs about the same whatever it brings, and time is short then::

    messages a second     0 ── 2,000 ── 20,000 ── 34,000 ──
    pause / pace_s        0 ──── 1 ────── 1 ────── 1.7 ────
"""

from __future__ import annotations

from typing import Final

_RATE_S: Final = 0.1  # what "of late" means
_FULL_RATE: Final = 2_000.0  # messages a second from which on the whole pace is kept
_HIGH_RATE: Final = 20_000.0  # … and from which on it grows
_MOST: Final = 1.7
_LEAST_S: Final = 0.0005  # a shorter pause is none


class Pace:
    """Watches the reads of one connection."""

    __slots__ = ("_last", "_pace_s", "rate")

    def __init__(self, pace_s: float, now: float) -> None:
        """``pace_s``: the pause under load; ``now``: seconds of the clock that ``after`` is told of."""
        self.rate = 0.0  # messages a second, of late
        self._pace_s = pace_s
        self._last = now

    def after(self, now: float, messages: int) -> float:
        """Return how many seconds to pause after a read that brought so many messages."""
        gap, self._last = now - self._last, now
        rate = self.rate = self.rate + (messages - self.rate * gap) / (gap + _RATE_S)
        pause = self._pace_s * min(1.0, rate / _FULL_RATE) * min(max(1.0, rate / _HIGH_RATE), _MOST)
        return pause if pause > _LEAST_S else 0.0
