"""Global assignment on a small cluster: each observation takes one track or none, at least total cost.

Shortest augmenting paths with potentials (the Hungarian method), rows are observations. "None" is a private extra
column per row at the gate's cost. A cluster is what a few vehicles side by side make, seldom more than four rows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x.fusion.jit import helper

INFINITY: Final = 1e18


@helper
def assign(cost: Any, rows: int, columns: int, taken: Any) -> None:
    """Assign ``cost[:rows, :columns]`` (rows <= columns); ``taken[r]`` becomes the column of row r."""
    u = np.zeros(rows + 1)
    v = np.zeros(columns + 1)
    match = np.zeros(columns + 1, np.int64)  # row (from 1) that holds each column (from 1)
    way = np.zeros(columns + 1, np.int64)
    for r in range(1, rows + 1):
        match[0] = r
        j0 = 0
        least = np.full(columns + 1, INFINITY)
        used = np.zeros(columns + 1, np.bool_)
        while True:
            used[j0] = True
            i0 = match[j0]
            delta = INFINITY
            j1 = 0
            for j in range(1, columns + 1):
                if not used[j]:
                    reduced = cost[i0 - 1, j - 1] - u[i0] - v[j]
                    if reduced < least[j]:
                        least[j] = reduced
                        way[j] = j0
                    if least[j] < delta:
                        delta = least[j]
                        j1 = j
            for j in range(columns + 1):
                if used[j]:
                    u[match[j]] += delta
                    v[j] -= delta
                else:
                    least[j] -= delta
            j0 = j1
            if match[j0] == 0:
                break
        while j0 != 0:
            j1 = way[j0]
            match[j0] = match[j1]
            j0 = j1
    for j in range(1, columns + 1):
        if match[j] > 0:
            taken[match[j] - 1] = j - 1
