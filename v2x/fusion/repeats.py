"""The reader's rule for uplinks: a message is unique by (device, boot, type, seq); a repeat is dropped and counted.

The window is bounded: the last 4,096 numbers of each stream, and the streams heard last. What is older than the window
counts as a repeat; at 10 Hz that is seven minutes, and no device sends a perishable message again.
"""

from __future__ import annotations

from typing import Final

WINDOW: Final = 4_096
STREAMS: Final = 65_536
_MASK: Final = (1 << WINDOW) - 1


class Repeats:
    """Which messages have been seen."""

    __slots__ = ("_streams",)

    def __init__(self) -> None:
        # (device, boot, type) -> [highest number, bits of those at and below it]; the least recently heard is first
        self._streams: dict[tuple[str, int, str], list[int]] = {}

    def seen(self, device: str, boot: int, kind: str, seq: int) -> bool:
        """Note a message; return whether it was seen before."""
        key = (device, boot, kind)
        row = self._streams.pop(key, None)
        if row is None:
            if len(self._streams) >= STREAMS:
                del self._streams[next(iter(self._streams))]
            self._streams[key] = [seq, 1]
            return False
        self._streams[key] = row
        ahead = seq - row[0]
        if ahead > 0:
            row[0] = seq
            row[1] = ((row[1] << ahead) & _MASK) | 1 if ahead < WINDOW else 1
            return False
        if -ahead >= WINDOW:
            return True
        bit = 1 << -ahead
        if row[1] & bit:
            return True
        row[1] |= bit
        return False

    def state(self) -> list[list[object]]:
        """Return everything, JSON-able (the bits as hexadecimal text)."""
        return [[*key, row[0], f"{row[1]:x}"] for key, row in self._streams.items()]

    def load(self, state: list[list[object]]) -> None:
        """Take a ``state``."""
        self._streams = {
            (str(d), int(str(b)), str(k)): [int(str(top)), int(str(bits), 16)] for d, b, k, top, bits in state
        }
