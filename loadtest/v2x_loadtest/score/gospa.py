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

from v2x_loadtest.score.matching import match, near_pairs

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
P: Final = 2
CUT_M: Final = 5.0


class Gospa(NamedTuple):
    """The distance (m) and its parts: ``localisation`` is the sum of d^p over the assigned pairs (m^p)."""

    distance: float
    localisation: float
    missed: int
    false: int
    rows: I64  # assigned objects …
    cols: I64  # … and their estimates


def gospa(truth: F64, estimates: F64, *, cut: float = CUT_M, p: int = P) -> Gospa:
    """Return the distance between ``truth`` (n, 2) and ``estimates`` (m, 2), both in metres."""
    rows, cols, gap = near_pairs(truth, estimates, cut)
    taken = match(rows, cols, gap**p - cut**p)  # what a pair saves of the c^p that its two would cost alone
    localisation = float((gap[taken] ** p).sum())
    missed, false = len(truth) - taken.size, len(estimates) - taken.size
    total = localisation + cut**p / 2 * (missed + false)
    return Gospa(total ** (1 / p), localisation, missed, false, rows[taken], cols[taken])


def counted(truth: F64, estimates: F64, core: Bools, core_estimates: Bools) -> tuple[I64, I64]:
    """Return rows of objects and of estimates that count: those in the core, and outside it partners of those in it."""
    pairs = gospa(truth, estimates)
    keep, keep_estimates = core.copy(), core_estimates.copy()
    keep[pairs.rows] |= core_estimates[pairs.cols]
    keep_estimates[pairs.cols] |= core[pairs.rows]
    return np.flatnonzero(keep), np.flatnonzero(keep_estimates)
