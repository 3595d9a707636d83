"""A bounded table of device ids: each id gets a small number, so that per-device state can be plain columns.

The table never grows beyond its capacity. When it is full it starts anew (``renewals`` counts that, and whoever keeps
columns by these numbers clears them): per-device counters are helpers that may be lost, truth is in the log.
"""

from __future__ import annotations


class DeviceTable:
    """Numbers for device ids, 0 to capacity − 1."""

    __slots__ = ("_numbers", "capacity", "renewals")

    def __init__(self, capacity: int = 65_536) -> None:
        self.capacity = capacity
        self.renewals = 0
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, device: str) -> int:
        """Return the device's number, a new one if it is not known."""
        found = self._numbers.get(device)
        if found is None:
            if len(self._numbers) == self.capacity:
                self._numbers = {}
                self.renewals += 1
            found = self._numbers[device] = len(self._numbers)
        return found

    def names(self) -> tuple[str, ...]:
        """Return all ids, by number."""
        return tuple(self._numbers)
