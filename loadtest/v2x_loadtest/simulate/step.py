"""A step's messages: columns while they are gathered, and rows with their payloads when they are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.simulate.encode import RAW

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
    """Columns of a step before they are encoded."""

    def __init__(self) -> None:
        self.columns: list[tuple[Any, ...]] = []
        self.ints: list[int] = []
        self.raw = bytearray()

    def add(self, kind: int, code: int, device: Any, ts: Any, handed_us: Any, a: Any, b: Any, flags: Any = 0) -> None:
        """Take messages: arrays or numbers of one length; ``handed_us``: wall time at the device's link."""
        n = np.size(device)
        self.columns.append(tuple(np.broadcast_to(x, n) for x in (kind, code, device, ts, handed_us, a, b, flags)))

    def add_raw(self, code: int, device: int, ts: int, handed_us: int, tail: bytes) -> None:
        """Take one message whose bytes are made."""
        a = len(self.raw)
        self.raw += tail
        self.add(RAW, code, device, ts, handed_us, a, len(self.raw))
