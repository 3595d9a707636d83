"""Routes: which partitions a message goes to, as lines of a table that kernels read."""

from __future__ import annotations

from typing import Final

import numpy as np
from v2x.columns import I64
from v2x.routing import Partitions, Router, known_position

from v2x_services.ingest import kernels as k

_CELLS: Final = 1 << 17  # slots, half of them used at most


class Routes:
    """Sets of partitions, as many as the zone map has combinations, and the set of each cell with vehicles.

    Cells are bounded: when half of the table is used it starts anew.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._lines: dict[Partitions, int] = {}
        self.sets: I64 = np.zeros((16, 2), np.int64)
        self.cells: I64 = np.full((2, _CELLS), -1, np.int64)
        self._known = 0

    def fixed(self, device: str) -> Partitions:
        """Return where the zone map puts a device; nothing if it does not know it."""
        return self._router.fixed(device) or ()

    def line(self, partitions: Partitions) -> int:
        """Return the line of a set, a new one if need be."""
        found = self._lines.get(partitions)
        if found is None:
            found = self._lines[partitions] = len(self._lines)
            rows, width = self.sets.shape
            grown = np.zeros((rows if found < rows else 2 * rows, max(width, 1 + len(partitions))), np.int64)
            grown[:rows, :width] = self.sets
            grown[found, : 1 + len(partitions)] = (len(partitions), *partitions)
            self.sets = grown
        return found

    def place(self, device: str, lat_e7: int, lon_e7: int, *, moves: bool) -> int:
        """Return the line of the set for a message, and note it for the next one in that cell."""
        line = self.line(self._router.place(device, lat_e7, lon_e7, moves=moves))
        if moves and known_position(lat_e7, lon_e7):
            if self._known >= _CELLS // 2:
                self.cells[1] = -1
                self._known = 0
            k.learn(self.cells, lat_e7, lon_e7, line)
            self._known += 1
        return line
