"""One scan into the tracks: associate, update, give birth, learn the sensor's bias.

Association goes two ways. *Fast*: (sensor, local id) remembers its track and is believed only if the measurement lies
well inside (d² < 6): a loose fast gate would lock sensor id swaps in. (Where no other track is near there is nothing to
swap with, and d² < 12 will do.) *Slow*: everything else searches the grid and is
assigned globally, cluster by cluster, within d² < 16; memory counts as a small bonus there. R is inflated in the
update, because trackers in roadside units give correlated noise, but never in a gate.
"""

from __future__ import annotations

from math import floor, isnan
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.assign import assign
from v2x.fusion.bias import compare, settle
from v2x.fusion.colour import settle_noise
from v2x.fusion.feed import feed
from v2x.fusion.grid import cell_bucket
from v2x.fusion.jit import helper, kernel
from v2x.fusion.kalman import ahead, distance2, noise
from v2x.fusion.track import birth, count_hit, noise_of, note_source, recall, remember, replace, touch

FAST_VELOCITY: Final = 16.0
FOOT_PENALTY: Final = 13.0  # somebody on foot is hardly a car ...
BIKE_PENALTY: Final = 3.0  # ... but may be taken for a cyclist
TENTATIVE_PENALTY: Final = 2.0
MEMORY_GATES: Final = 3.0  # what memory says is believed this far out if nothing else explains it
MISS_MARGIN: Final = 2.0  # "none" costs the gate and this
REACH_M: Final = 25.0
MAX_ROWS: Final = 48
MAX_COLUMNS: Final = 96
BIAS_HITS: Final = 10


@helper
def _velocity2(s: Any, m: Any, prm: Any) -> Any:
    """Return the squared normalised difference of the velocities, 0 if the sensor tells none."""
    if isnan(m[c.M_VE]):
        return 0.0
    x, y = m[c.M_VE] - s[c.S_VE], m[c.M_VN] - s[c.S_VN]
    spread = 4.0 + 3.0 * prm[c.Q_SPEED] * prm[c.Q_SPEED] + s[c.S_P + 7] + s[c.S_P + 9]
    return (x * x + y * y) / spread


@helper
def _unlike(a: int, b: int) -> Any:
    """Return the cost of two classes being one object; 0 is unknown."""
    if a == 0 or b == 0 or (a == c.PEDESTRIAN) == (b == c.PEDESTRIAN):
        return 0.0
    return BIKE_PENALTY if a + b == c.PEDESTRIAN + c.CYCLIST else FOOT_PENALTY


@helper
def _fast(s: Any, i: Any, mem: Any, b: Any, prm: Any, m: Any, k: Any, n: int, serial: int, d2: Any) -> Any:
    """Assign by memory; of two that claim one track the nearer wins. Return how many."""
    count = 0
    for j in range(n):
        row = recall(i, mem, k[j, c.K_KEY])
        if row < 0:
            continue
        dt = (k[j, c.K_T] - i[row, c.I_T]) * 1e-3
        if abs(dt) * 1e3 > prm[c.Q_STALE] or _velocity2(s[row], m[j], prm) > FAST_VELOCITY:
            continue
        q = noise(s[row], i[row], prm)
        d = distance2(s[row], dt, q, (m[j, c.M_E], m[j, c.M_N]), noise_of(m[j], s[row, c.S_VE], s[row, c.S_VN], b, prm))
        if not d < (prm[c.Q_ALONE] if i[row, c.I_ALONE] else prm[c.Q_FAST]):
            continue
        if i[row, c.I_CLAIM] == serial:
            other = i[row, c.I_BY]
            if d2[other] <= d:
                continue
            k[other, c.K_ROW] = -1
            count -= 1
        i[row, c.I_CLAIM] = serial
        i[row, c.I_BY] = j
        k[j, c.K_ROW] = row
        d2[j] = d
        count += 1
    return count


@helper
def _edges(
    s: Any, i: Any, mem: Any, heads: Any, b: Any, prm: Any, m: Any, k: Any, n: int, serial: int, edge: Any, cost: Any
) -> Any:
    """List (observation, track, cost) of all that may belong together; return how many."""
    count = 0
    cell, buckets = prm[c.Q_CELL], heads.shape[0]
    for j in range(n):
        if k[j, c.K_ROW] >= 0:
            continue
        z = (m[j, c.M_E], m[j, c.M_N])
        memory = recall(i, mem, k[j, c.K_KEY])
        cx, cy = floor(z[0] / cell), floor(z[1] / cell)
        for gx in range(cx - 1, cx + 2):
            for gy in range(cy - 1, cy + 2):
                row = heads[cell_bucket(gx, gy, buckets)]
                while row >= 0:
                    here = row
                    row = i[row, c.I_NEXT]
                    if i[here, c.I_CLAIM] == serial:
                        continue
                    dt = (k[j, c.K_T] - i[here, c.I_T]) * 1e-3
                    if abs(dt) * 1e3 > prm[c.Q_STALE]:
                        continue
                    east, north, _, _ = ahead(s[here], dt)
                    if abs(z[0] - east) > REACH_M or abs(z[1] - north) > REACH_M:
                        continue
                    q = noise(s[here], i[here], prm)
                    d = distance2(s[here], dt, q, z, noise_of(m[j], s[here, c.S_VE], s[here, c.S_VN], b, prm))
                    if here == memory and d < MEMORY_GATES * prm[c.Q_GATE]:
                        d = min(d, prm[c.Q_GATE] - 0.5)
                    if not d < prm[c.Q_GATE]:
                        continue
                    known = here == memory
                    d += min(_velocity2(s[here], m[j], prm), 2.0 if known else 12.0)
                    d += _unlike(k[j, c.K_CLS], i[here, c.I_CLS])
                    if known:
                        d -= prm[c.Q_BONUS]
                    if not d < prm[c.Q_GATE]:
                        continue
                    if i[here, c.I_STATUS] == c.TENTATIVE:
                        d += TENTATIVE_PENALTY
                    if count < c.MAX_EDGES:
                        edge[count, 0] = j
                        edge[count, 1] = here
                        cost[count] = d
                        count += 1
    return count


@helper
def _root(parent: Any, j: int) -> Any:
    while parent[j] != j:
        parent[j] = parent[parent[j]]
        j = parent[j]
    return j


@helper
def _slow(i: Any, prm: Any, k: Any, n: int, serial: int, edge: Any, cost: Any, count: int) -> Any:
    """Assign the edges cluster by cluster; return how many observations found a track."""
    parent = np.arange(n)
    mark = -serial  # I_CLAIM as "seen among the edges of this scan"
    for e in range(count):
        row = edge[e, 1]
        if i[row, c.I_CLAIM] == mark:
            a, b = _root(parent, edge[e, 0]), _root(parent, i[row, c.I_BY])
            parent[max(a, b)] = min(a, b)
        else:
            i[row, c.I_CLAIM] = mark
            i[row, c.I_BY] = edge[e, 0]
    found = 0
    miss = prm[c.Q_GATE] + MISS_MARGIN
    members = np.empty(MAX_ROWS, np.int64)
    columns = np.empty(MAX_COLUMNS, np.int64)
    taken = np.empty(MAX_ROWS, np.int64)
    for first in range(count):
        if k[edge[first, 0], c.K_ROW] != -1:
            continue
        root = _root(parent, edge[first, 0])
        rows = wide = 0
        for e in range(first, count):  # edges are in order of observation
            if _root(parent, edge[e, 0]) != root or i[edge[e, 1], c.I_CLAIM] == serial:
                continue
            if (rows == 0 or members[rows - 1] != edge[e, 0]) and rows < MAX_ROWS:
                members[rows] = edge[e, 0]
                rows += 1
            known = False
            for x in range(wide):
                if columns[x] == edge[e, 1]:
                    known = True
                    break
            if not known and wide < MAX_COLUMNS:
                columns[wide] = edge[e, 1]
                wide += 1
        if rows == 0:
            continue
        table = np.full((rows, wide + rows), 1e6)
        for r in range(rows):
            table[r, wide + r] = miss
        r = -1
        for e in range(first, count):
            if _root(parent, edge[e, 0]) != root or i[edge[e, 1], c.I_CLAIM] == serial:
                continue
            if r + 1 < rows and members[r + 1] == edge[e, 0]:
                r += 1
            if r < 0 or members[r] != edge[e, 0]:
                continue
            for x in range(wide):
                if columns[x] == edge[e, 1]:
                    table[r, x] = min(table[r, x], cost[e])
        assign(table, rows, wide + rows, taken)
        for r in range(rows):
            x = taken[r]
            if x < wide and table[r, x] < miss:
                k[members[r], c.K_ROW] = columns[x]
                i[columns[x], c.I_CLAIM] = serial
                found += 1
            else:
                k[members[r], c.K_ROW] = -2  # done: none
    return found


@kernel(
    "void(float64[:,::1], int64[:,::1], float64[:,::1], int64[:,::1], int64[::1], float64[:,::1], int64[::1], "
    "int64[::1], float64[::1], float64[:,::1], int64[:,::1], int64, int64, int64)"
)
def fuse(
    s: Any, i: Any, votes: Any, mem: Any, heads: Any, sensors: Any, ctl: Any, stat: Any, prm: Any,
    m: Any, k: Any, n: int, sensor: int, idle_ms: int,
) -> None:  # fmt: skip
    """Fuse n loaded observations of one sensor (positions are already without its bias)."""
    if n == 0:
        return
    ctl[c.CTL_SERIAL] += 1
    serial = ctl[c.CTL_SERIAL]
    b = sensors[sensor]
    d2 = np.empty(n)
    for j in range(n):
        touch(s, i, votes, mem, k[j, c.K_KEY])
    fast = _fast(s, i, mem, b, prm, m, k, n, serial, d2)
    slow = 0
    if fast < n:
        edge = np.empty((c.MAX_EDGES, 2), np.int64)
        cost = np.empty(c.MAX_EDGES)
        count = _edges(s, i, mem, heads, b, prm, m, k, n, serial, edge, cost)
        if count > 0:
            slow = _slow(i, prm, k, n, serial, edge, cost, count)
    stat[c.STAT_FAST] += fast
    stat[c.STAT_SLOW] += slow
    for j in range(n):
        row, t_ms = k[j, c.K_ROW], k[j, c.K_T]
        if row >= 0:
            if sensor != c.VEHICLES and i[row, c.I_STATUS] == c.CONFIRMED and i[row, c.I_HITS] >= BIAS_HITS:
                compare(sensors, ctl, s[row], i[row], sensor, t_ms, (m[j, c.M_E], m[j, c.M_N]), prm)
            feed(s[row], i[row], votes[row], ctl, m[j], k[j], sensors, sensor, noise(s[row], i[row], prm), prm)
            replace(s, i, heads, row, prm)
        else:
            row = birth(s, i, votes, heads, ctl, m[j], k[j], b, prm)
            if row < 0:
                stat[c.STAT_FULL] += 1
                continue
            stat[c.STAT_BORN] += 1
        stat[c.STAT_FUSED] += 1
        i[row, c.I_HITS] += 1
        i[row, c.I_SEEN] = idle_ms
        i[row, c.I_LAST] = max(i[row, c.I_LAST], t_ms)
        count_hit(i[row], t_ms)
        note_source(s[row], i[row], sensor, t_ms, m[j, c.M_E], m[j, c.M_N])
        remember(mem, k[j, c.K_KEY], i[row, c.I_UID], row, t_ms)
        if i[row, c.I_STATUS] == c.TENTATIVE and i[row, c.I_HITS] >= prm[c.Q_BIRTH]:
            i[row, c.I_STATUS] = c.CONFIRMED
            stat[c.STAT_CONFIRMED] += 1
    settle_noise(b)
    if sensor != c.VEHICLES:
        settle(sensors, ctl, sensor, prm)
