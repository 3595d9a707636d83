"""Assignment over few near pairs: everything that is compared here is compared with what is near it, and no more.

A matrix of a thousand objects against a thousand tracks has a million entries of which a few thousand matter. Pairs are
kept as three columns (row, column, cost); what hangs together is solved together, by scipy's assignment.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
_DENSE: Final = 16  # below so many, a matrix is quicker than a tree


def near_pairs(a: F64, b: F64, cut: float) -> tuple[I64, I64, F64]:
    """Return row in ``a`` (n, 2), row in ``b`` (m, 2) and distance of all pairs nearer than ``cut``, by row."""
    if not len(a) or not len(b):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    if min(len(a), len(b)) < _DENSE:
        gap = np.hypot(a[:, None, 0] - b[None, :, 0], a[:, None, 1] - b[None, :, 1])
        rows, cols = np.nonzero(gap < cut)
        return rows.astype(np.int64), cols.astype(np.int64), gap[rows, cols]
    near = cKDTree(a).query_ball_point(b, cut)
    cols = np.repeat(np.arange(len(b)), [len(x) for x in near])
    rows = np.array([r for x in near for r in x], np.int64)
    gap = np.hypot(*(a[rows] - b[cols]).T)
    order = np.lexsort((cols, rows))[gap[np.lexsort((cols, rows))] < cut]
    return rows[order], cols[order], gap[order]


def match(rows: I64, cols: I64, cost: F64) -> I64:
    """Return which pairs a one-to-one matching of least total cost takes (ascending); no pair costs 0, so none above.

    A pair (row, column) is given at most once.
    """
    good = np.flatnonzero(cost < 0)
    if not good.size:
        return good
    names, at = np.unique(np.concatenate([rows[good], -1 - cols[good]]), return_inverse=True)
    r, c = at[: good.size], at[good.size :]
    graph = coo_array((np.ones(good.size), (r, c)), shape=(names.size, names.size))
    _, part = connected_components(graph, directed=False)
    group = part[r]
    size = np.bincount(group, minlength=int(part.max()) + 1)
    taken = [good[size[group] == 1]]
    many = np.flatnonzero(size[group] > 1)
    order = many[np.argsort(group[many], kind="stable")]
    for cluster in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if order.size else ():
        mine = good[cluster]
        u, i = np.unique(rows[mine], return_inverse=True)
        v, j = np.unique(cols[mine], return_inverse=True)
        table = np.zeros((u.size, v.size))
        number = np.full((u.size, v.size), -1, np.int64)
        table[i, j], number[i, j] = cost[mine], mine
        found = number[linear_sum_assignment(table)]
        taken.append(found[found >= 0])
    return np.sort(np.concatenate(taken))
