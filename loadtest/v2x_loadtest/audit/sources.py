"""Who writes summaries, and whether one of them may have left something untold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SILENT_S: Final = 10.0  # sources write each second; one that is silent for so long is dead, or cannot reach Kafka
_MARGIN_MS: Final = 5_000  # between the clocks of ingest and Kafka
_MOST: Final = 4096


@dataclass(slots=True)
class _Source:
    start_ms: int
    seq: int
    since_ms: int  # all before it is told
    final: bool
    looked: bool  # into the log, since it was heard
    heard: float


class Sources:
    """Sessions of ingest, by name. Times are the caller's monotonic seconds where they are not said to be ms UTC."""

    def __init__(self) -> None:
        self._of: dict[str, _Source] = {}
        self._doubt: int | None = None

    def take(self, name: str, start_ms: int, seq: int, ts_ms: int, now: float, *, final: bool) -> None:
        """Take a summary: of which process, its number, when it was cut."""
        known = self._of.get(name)
        if known is not None:
            same = start_ms == known.start_ms
            if same and seq <= known.seq:
                return  # a copy
            if seq != (known.seq + 1 if same else 0) or not (same or known.final):
                self._suspect(known.since_ms)
        elif len(self._of) >= _MOST:
            self._of.clear()
        self._of[name] = _Source(start_ms, seq, ts_ms, final, looked=False, heard=now)

    def doubt(self, now: float) -> int | None:
        """Return from when on (ms UTC) something may be untold; None if nothing is."""
        for source in self._of.values():
            if not source.final and not source.looked and now - source.heard > SILENT_S:
                self._suspect(source.since_ms)
                source.looked = True
        return self._doubt

    def settled(self) -> None:
        """Note that the log was read from where ``doubt`` said."""
        self._doubt = None

    def silent(self, now: float, seconds: float = 5.0) -> bool:
        """Say whether one has said nothing for some time, although it did not stop."""
        return any(not source.final and now - source.heard > seconds for source in self._of.values())

    def dump(self) -> list[Any]:
        """Return what ``load`` needs."""
        return [self._doubt, {name: [x.start_ms, x.seq, x.since_ms, x.final, x.looked] for name, x in self._of.items()}]

    def load(self, kept: Sequence[Any], now: float) -> None:
        """Go on from what was dumped; nobody has been silent meanwhile."""
        self._doubt, of = kept
        for name, (start_ms, seq, since_ms, final, looked) in of.items():
            self._of[name] = _Source(start_ms, seq, since_ms, final, looked, now)

    def _suspect(self, since_ms: int) -> None:
        since_ms = max(0, since_ms - _MARGIN_MS)
        self._doubt = since_ms if self._doubt is None else min(self._doubt, since_ms)
