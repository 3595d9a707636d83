"""A step's messages: columns while they are gathered, and rows with their payloads when they are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.simulate.encode import INTS, RAW

REPEAT, SPOILT, UNAVAILABLE = 1, 2, 4  # flags

MESSAGE: Final = np.dtype(
    [
        ("intended_us", "<i8"),  # wall time: when the simulated link hands it over
        ("ts_ms", "<i8"),
        ("seq", "<i8"),
        ("device", "<i4"),
        ("start", "<i4"),  # payload = blob[start:end]
        ("end", "<i4"),
        ("step", "<i4"),  # whose blob
        ("code", "u1"),  # UPLINKS
        ("flags", "u1"),
    ]
)


@dataclass(frozen=True, slots=True)
class Step:
    """Messages of one step in order of intended time, and their payloads."""

    messages: npt.NDArray[Any]  # dtype MESSAGE
    blob: bytes

    def payload(self, row: int) -> bytes:
        """Return the payload of one message."""
        m = self.messages[row]
        return self.blob[int(m["start"]) : int(m["end"])]


class Collected:
    """Messages of a step before they are encoded: as columns, or one at a time."""

    def __init__(self) -> None:
        self._columns: list[tuple[Any, ...]] = []
        self._rows: list[tuple[int, ...]] = []
        self._ints: list[int] = []
        self._raw = bytearray()

    def add(self, kind: int, code: int, device: Any, ts: Any, handed_us: Any, a: Any, b: Any, flags: Any = 0) -> None:
        """Take messages: arrays or numbers of one length; ``handed_us``: wall time at the device's link."""
        n = np.size(device)
        self._columns.append(tuple(np.broadcast_to(x, n) for x in (kind, code, device, ts, handed_us, a, b, flags)))

    def add_raw(self, code: int, device: int, stamp: tuple[int, int], tail: bytes) -> None:
        """Take one message whose bytes are made; ``stamp``: ts_ms and wall time at the device's link."""
        a = len(self._raw)
        self._raw += tail
        self._rows.append((RAW, code, device, *stamp, a, len(self._raw), 0))

    def add_ints(self, code: int, device: int, stamp: tuple[int, int], numbers: list[int]) -> None:
        """Take one message that is a row of numbers."""
        a = len(self._ints)
        self._ints += numbers
        self._rows.append((INTS, code, device, *stamp, a, len(self._ints), 0))

    def columns(self) -> list[npt.NDArray[Any]]:
        """Return kind, code, device, ts, handed_us, a, b, flags."""
        single = np.array(self._rows, np.int64).reshape(-1, 8).T
        types = ("u1", "u1", "i4", "i8", "i8", "i8", "i8", "u1")
        return [np.concatenate([*(c[i] for c in self._columns), single[i]]).astype(t) for i, t in enumerate(types)]

    @property
    def ints(self) -> npt.NDArray[np.int64]:
        """Return the numbers that INTS messages point into."""
        return np.array(self._ints, np.int64)

    @property
    def raw(self) -> npt.NDArray[np.uint8]:
        """Return the bytes that RAW messages point into."""
        return np.frombuffer(bytes(self._raw), np.uint8).copy() if self._raw else np.zeros(1, np.uint8)
