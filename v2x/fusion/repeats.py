"""The reader's rule for uplinks: a message is unique by (device, boot, type, seq); a repeat is dropped and counted.

The window is bounded: the last 4,096 numbers of each stream, and the streams heard last. What is older than the window
counts as a repeat; at 10 Hz that is seven minutes, and no device sends a perishable message again.

The devices of the zone map send most of a log as scans, so each has a *ring* that kernels can reach: the window of its
scans since the boot it spoke of last (number n is bit n mod 4,096). All other streams are in a table by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.fusion.jit import kernel
from v2x.fusion.layout import I64

WINDOW: Final = 4_096
STREAMS: Final = 65_536
RING_KIND: Final = "rsm"
BOOT, TOP = range(2)  # of a ring: boot (-1 none yet), highest number
_MASK: Final = (1 << WINDOW) - 1
_WORDS: Final = WINDOW // 64
U64 = npt.NDArray[np.uint64]


@kernel("boolean(int64[:,::1], uint64[:,::1], int64, int64)")
def repeated(rings: Any, bits: Any, ring: int, seq: int) -> Any:
    """Note number ``seq`` in a ring; return whether it was seen before."""
    top = rings[ring, TOP]
    if seq > top:
        if seq - top >= WINDOW:
            bits[ring, :] = 0
        else:
            for n in range(top + 1, seq):
                bits[ring, (n >> 6) & (_WORDS - 1)] &= ~(np.uint64(1) << np.uint64(n & 63))
        rings[ring, TOP] = seq
    elif top - seq >= WINDOW:
        return True
    word, bit = (seq >> 6) & (_WORDS - 1), np.uint64(1) << np.uint64(seq & 63)
    if seq <= top and bits[ring, word] & bit:
        return True
    bits[ring, word] |= bit
    return False


class Repeats:
    """Which messages have been seen; ``fixed`` devices have rings, by their place in the sequence."""

    __slots__ = ("_fixed", "_streams", "bits", "rings")

    def __init__(self, fixed: Sequence[str] = ()) -> None:
        # (device, boot, type) -> [highest number, bits of those at and below it]; the least recently heard is first
        self._streams: dict[tuple[str, int, str], list[int]] = {}
        self._fixed = {device: n for n, device in enumerate(fixed)}
        self.rings: I64 = np.full((len(fixed), 2), -1, np.int64)
        self.bits: U64 = np.zeros((len(fixed), _WORDS), np.uint64)

    def seen(self, device: str, boot: int, kind: str, seq: int) -> bool:
        """Note a message; return whether it was seen before."""
        ring = self._fixed.get(device, -1) if kind == RING_KIND else -1
        if ring >= 0:
            if self.rings[ring, BOOT] != boot:
                self._turn(ring, device, boot, seq)
            return bool(repeated(self.rings, self.bits, ring, seq))
        key = (device, boot, kind)
        row = self._streams.pop(key, None)
        if row is None:
            self._keep(key, [seq, 1])
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

    def _keep(self, key: tuple[str, int, str], row: list[int]) -> None:
        if len(self._streams) >= STREAMS:
            del self._streams[next(iter(self._streams))]
        self._streams[key] = row

    def _turn(self, ring: int, device: str, boot: int, seq: int) -> None:
        """Let a ring stand for another boot of its device; what it held goes into the table."""
        row = self._streams.pop((device, boot, RING_KIND), None)
        if self.rings[ring, BOOT] >= 0:
            self._keep(
                (device, int(self.rings[ring, BOOT]), RING_KIND),
                _rows(self.rings[ring : ring + 1], self.bits[ring : ring + 1])[0],
            )
        self._fill(ring, boot, *(row or (seq - 1, 0)))

    def _fill(self, ring: int, boot: int, top: int, bits: int) -> None:
        """Set a ring from a row of the table."""
        below = np.unpackbits(np.frombuffer(bits.to_bytes(WINDOW // 8, "little"), np.uint8), bitorder="little")
        numbers = np.roll(below[::-1], 1 + top % WINDOW)
        self.rings[ring] = boot, top
        self.bits[ring] = np.packbits(numbers, bitorder="little").view(np.uint64)

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able but for arrays (the bits of a stream as hexadecimal text)."""
        known = np.flatnonzero(self.rings[:, BOOT] >= 0)
        devices = list(self._fixed)
        return {
            "streams": [[*key, row[0], f"{row[1]:x}"] for key, row in self._streams.items()],
            "devices": [devices[n] for n in known.tolist()],
            "rings": self.rings[known],
            "bits": self.bits[known],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a ``state``, perhaps of other fixed devices; of a device's boots the last one gets the ring."""
        streams = {(d, boot, kind): [top, int(bits, 16)] for d, boot, kind, top, bits in state["streams"]}
        last = {device: (device, boot, kind) for device, boot, kind in streams if kind == RING_KIND}
        for n, device in enumerate(state["devices"]):
            ring = self._fixed.get(device, -1)
            if ring >= 0:
                self.rings[ring], self.bits[ring] = state["rings"][n], state["bits"][n]
                last.pop(device, None)
            else:
                (row,) = _rows(state["rings"][n : n + 1], state["bits"][n : n + 1])
                streams[device, int(state["rings"][n, BOOT]), RING_KIND] = row
        for device, key in last.items():
            ring = self._fixed.get(device, -1)
            if ring >= 0:
                self._fill(ring, key[1], *streams.pop(key))
        self._streams = streams


def _rows(rings: I64, bits: U64) -> list[list[int]]:
    """Return rings as rows of the table."""
    tops = rings[:, TOP]
    numbers = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    top_first = (tops[:, None] - np.arange(WINDOW)) % WINDOW
    below = np.packbits(np.take_along_axis(numbers, top_first, axis=1), axis=1, bitorder="little")
    return [[top, int.from_bytes(row.tobytes(), "little")] for top, row in zip(tops.tolist(), below, strict=True)]
