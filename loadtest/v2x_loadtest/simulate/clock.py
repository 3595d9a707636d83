"""Stamps: when content is true by a device's own clock, and when the device hands it to its link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from v2x_loadtest.simulate.fleet import Fleet
from v2x_loadtest.simulate.options import TimeMap

I8 = npt.NDArray[np.int64]


class Clock:
    """The time map of a run with the clocks of its fleet; scene seconds go on over loops."""

    def __init__(self, time: TimeMap, fleet: Fleet) -> None:
        self.time = time
        self._late_us, self._skew_ms, self._work_us = fleet.shift_us, fleet.skew_ms, fleet.sensing_ms * 1e3
        # The same as lists: a number at a time is faster from these.
        self._late, self._skew = fleet.shift_us.tolist(), fleet.skew_ms.tolist()
        self._work = self._work_us.tolist()

    def stamps(self, device: I8, t_s: Any) -> tuple[I8, I8]:
        """Return ts_ms and the wall time (us) of the handing over, for content of scene second ``t_s``."""
        t, late = self.time, self._late_us[device]
        ts = np.round((t.event0_us + late) / 1e3 + (t_s - t.offset) * 1e3 + self._skew_ms[device])
        wall = t.wall0_us + late + (t_s - t.offset) / t.speed * 1e6 + self._work_us[device]
        return ts.astype(np.int64), np.round(wall).astype(np.int64)

    def stamp(self, device: int, t_s: float) -> tuple[int, int]:
        """Return the same for one device."""
        t, late = self.time, self._late[device]
        ts = (t.event0_us + late) / 1e3 + (t_s - t.offset) * 1e3 + self._skew[device]
        wall = t.wall0_us + late + (t_s - t.offset) / t.speed * 1e6 + self._work[device]
        return round(ts), round(wall)

    def reader(self, device: int, start_s: float = 0.0) -> Callable[[float], float]:
        """Return what the device's clock (ms UTC) says at a second after ``start_s``."""
        t = self.time
        zero = (t.event0_us + self._late[device]) / 1e3 + (start_s - t.offset) * 1e3 + self._skew[device]
        return lambda t_s: zero + t_s * 1e3
