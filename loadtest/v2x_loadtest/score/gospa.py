"""GOSPA: how far a set of estimates is from the true set, with what it is made of.

A. S. Rahmathullah, Á. F. García-Fernández, L. Svensson, "Generalized optimal sub-pattern assignment metric", FUSION
2017 (arXiv:1601.05585), for alpha = 2: the best assignment of some estimates to some objects, where each one left over
costs c^p / 2:

    GOSPA^p = sum over the assigned pairs of d^p  +  c^p / 2 * (missed + false)
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

F64 = npt.NDArray[np.float64]
P: Final = 2
CUT_M: Final = 5.0


class Gospa(NamedTuple):
    """The distance (m) and its parts: ``localisation`` is the sum of d^p over the assigned pairs (m^p)."""

    distance: float
    localisation: float
    missed: int
    false: int
    rows: npt.NDArray[np.intp]  # assigned objects …
    cols: npt.NDArray[np.intp]  # … and their estimates


def gospa(truth: F64, estimates: F64, *, cut: float = CUT_M, p: int = P) -> Gospa:
    """Return the distance between ``truth`` (n, 2) and ``estimates`` (m, 2), both in metres."""
    n, m = len(truth), len(estimates)
    none = np.zeros(0, np.intp)
    if n and m:
        gap = np.hypot(truth[:, None, 0] - estimates[None, :, 0], truth[:, None, 1] - estimates[None, :, 1])
        rows, cols = linear_sum_assignment(np.minimum(gap, cut) ** p)
        near = gap[rows, cols] < cut
        rows, cols = rows[near], cols[near]
        localisation = float((gap[rows, cols] ** p).sum())
    else:
        rows, cols, localisation = none, none, 0.0
    missed, false = n - rows.size, m - rows.size
    total = localisation + cut**p / 2 * (missed + false)
    return Gospa(total ** (1 / p), localisation, missed, false, rows, cols)
