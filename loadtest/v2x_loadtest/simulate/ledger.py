"""The simulator's own account: one row for each message that a device tried to send, and when the broker took it.

A row is written to ``sent.bin`` before its message goes out, so a simulator that is killed has sent nothing that is
not in its ledger; acknowledgements follow each second (a kill loses the last second's, never invents one). Memory holds
only blocks with rows that still wait for something.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.errors import ConfigError

ROW: Final = np.dtype(
    [
        ("device", "<u4"),  # index into devices.json
        ("type", "u1"),  # UPLINKS code
        ("flags", "u1"),  # 1 repeat of an earlier message, 2 deliberately bad, 4 unavailable position
        ("seq", "<u8"),
        ("ts_ms", "<i8"),
        ("intended_us", "<i8"),  # UTC: when the simulated link handed it over
        ("sent_us", "<i8"),  # 0: it never left (no connection, and no room to keep it)
        ("acked_us", "<i8"),  # 0: not acknowledged
    ]
)
_BLOCK: Final = 1 << 14
_LATE_STEP_US: Final = 100
_LATE_STEPS: Final = 100_000  # histogram to 10 s


def rows_of(messages: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows, not yet sent, of messages (dtype MESSAGE of step.py)."""
    rows = np.zeros(len(messages), ROW)
    for mine in ("device", "flags", "seq", "ts_ms", "intended_us"):
        rows[mine] = messages[mine]
    rows["type"] = messages["code"]
    return rows


class Ledger:
    """Rows by number; ``folder`` None keeps the counts only."""

    def __init__(self, folder: Path | None) -> None:
        """Start an empty ledger; ConfigError if the folder cannot be written."""
        self.rows = self.published = self.acknowledged = self.repeats = 0
        self.by_type = np.zeros(256, np.int64)
        self.late = np.zeros(_LATE_STEPS, np.int64)
        self.late_max_us = 0
        self._blocks: dict[int, npt.NDArray[Any]] = {}
        self._open: dict[int, int] = {}  # rows of a block that wait
        self._dirty: set[int] = set()
        self._counted = 0  # rows that are in the counts
        self._folder, self._fd = folder, -1
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "sent.npy").unlink(missing_ok=True)  # of an earlier run
                self._fd = os.open(folder / "sent.bin", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            except OSError as error:
                raise ConfigError(f"--ledger {folder} cannot be written: {error.strerror}") from error

    def describe(self, head: dict[str, Any]) -> None:
        """Write devices.json."""
        if self._folder is not None:
            (self._folder / "devices.json").write_text(json.dumps(head), "utf-8")

    def append(self, rows: npt.NDArray[Any], sent_us: int) -> int:
        """Enter rows (dtype ROW, from ``rows_of``) that go out now; return the first one's number."""
        first, n = self.rows, len(rows)
        rows["sent_us"] = sent_us
        if self._fd >= 0:
            os.pwrite(self._fd, rows.tobytes(), first * ROW.itemsize)
        at = 0
        while at < n:
            block, inside = divmod(first + at, _BLOCK)
            k = min(n - at, _BLOCK - inside)
            if block not in self._blocks:
                self._blocks[block], self._open[block] = np.zeros(_BLOCK, ROW), _BLOCK
            self._blocks[block][inside : inside + k] = rows[at : at + k]
            at += k
        self.rows += n
        self.published += n
        return first

    def count(self) -> None:
        """Bring the counts by type, the repeats and the lateness up to date."""
        while self._counted < self.rows:
            block, inside = divmod(self._counted, _BLOCK)
            rows = self._blocks[block][inside : inside + self.rows - self._counted]
            self._counted += len(rows)
            self.repeats += int(np.count_nonzero(rows["flags"] & 1))
            self.by_type += np.bincount(rows["type"], minlength=256)
            left = rows["sent_us"] > 0
            self._count_late((rows["sent_us"] - rows["intended_us"])[left])

    def _count_late(self, late_us: npt.NDArray[Any]) -> None:
        if len(late_us):
            steps = np.clip(late_us // _LATE_STEP_US, 0, _LATE_STEPS - 1)
            self.late += np.bincount(steps, minlength=_LATE_STEPS)
            self.late_max_us = max(self.late_max_us, int(late_us.max()))

    def held_back(self, row: int) -> None:
        """Say that the newest rows' message has not left yet: no connection, or no room in the broker's window."""
        block, inside = divmod(row, _BLOCK)
        self._blocks[block]["sent_us"][inside] = 0
        self.published -= 1
        self._dirty.add(block)

    def sent(self, row: int, sent_us: int) -> None:
        """Say that a row that was held back left after all."""
        block, inside = divmod(row, _BLOCK)
        data = self._blocks[block]
        data["sent_us"][inside] = sent_us
        if row < self._counted:
            self._count_late(np.array([sent_us - data["intended_us"][inside]]))
        self.published += 1
        self._dirty.add(block)

    def acked(self, rows: Sequence[int], at_us: Sequence[int]) -> None:
        """Enter acknowledgements."""
        if not rows:
            return
        numbers, stamps = np.array(rows, np.int64), np.array(at_us, np.int64)
        blocks = numbers // _BLOCK
        for block in np.unique(blocks).tolist():
            mine = blocks == block
            inside = numbers[mine] - block * _BLOCK
            self._blocks[block]["acked_us"][inside] = stamps[mine]
            self._dirty.add(block)
            self._done(block, len(inside))
        self.acknowledged += len(numbers)

    def dropped(self, row: int) -> None:
        """Say that a row waits no longer: it was given up."""
        self._done(row // _BLOCK, 1)

    def _done(self, block: int, n: int) -> None:
        self._open[block] -= n

    def flush(self) -> None:
        """Write acknowledgements to the file; let go of blocks that wait for nothing."""
        self.count()
        for block in self._dirty:
            if self._fd >= 0:
                n = min(_BLOCK, self.rows - block * _BLOCK)
                os.pwrite(self._fd, self._blocks[block][:n].tobytes(), block * _BLOCK * ROW.itemsize)
        self._dirty.clear()
        for block in [b for b, n in self._open.items() if n == 0]:
            del self._blocks[block], self._open[block]

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def late_ms(self, share: float) -> float:
        """Return a quantile of the lateness, ms (to 0.1 ms)."""
        total = int(self.late.sum())
        if total == 0:
            return 0.0
        at = int(np.searchsorted(np.cumsum(self.late), share * total))
        return min(at + 1, _LATE_STEPS) * _LATE_STEP_US / 1e3
