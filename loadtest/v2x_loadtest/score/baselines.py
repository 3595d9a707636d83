"""Other trackers on the same inputs, reported at the same instants with what had arrived by then.

* ``single``: no fusion. Of each place the nearest roadside unit alone, its last scan carried on by the told velocity.
* ``hungarian``: the plain way of OpenV2X: tracks by a distance gate and one assignment a scan, a Kalman filter of
  constant velocity, fixed noise.
* ``gnn``: Stone Soup's global nearest neighbour with its own Kalman filter, where it is installed.

Scans are kept back ``LAG_MS`` and taken in order of their own times, which is kinder than in order of arrival; tracks
are then carried on to the instant of the report. What comes later than that is lost to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy.optimize import linear_sum_assignment
from v2x.errors import ConfigError

from v2x_loadtest.score.matching import F64, I64
from v2x_loadtest.score.play import Estimates
from v2x_loadtest.score.scans import Scan

LAG_MS: Final = 200
SIGMA_M: Final = 0.8  # of a measured place: what a user would set without looking into each sensor
Q: Final = 2.0  # m2/s3, white acceleration
GATE_M: Final = 4.0
BIRTH_HITS: Final = 3
SILENT_MS: Final = 1_000
FRESH_MS: Final = 400
_FIRST_MPS: Final = 25.0  # sigma of a velocity that was not told
Instants = Sequence[tuple[int, int]]  # event time, and when the report leaves (ms UTC)
Progress = Callable[[float], None]


def single(scans: Sequence[Scan], instants: Instants, _progress: Progress | None = None) -> dict[int, Estimates]:
    """Return what the nearest unit alone says of each place; tracks are (unit, local id)."""
    units = {s.sensor: s.place for s in scans if s.place is not None}
    names = np.array(list(units), np.int64)
    places = np.array(list(units.values())).reshape(-1, 2)
    last: dict[int, Scan] = {}
    out: dict[int, Estimates] = {}
    at = 0
    for event_ms, told_ms in instants:
        while at < len(scans) and scans[at].at_ms <= told_ms:
            if scans[at].place is not None:
                last[scans[at].sensor] = scans[at]
            at += 1
        ids, east, north = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0)]
        for sensor, scan in last.items():
            dt = (event_ms - scan.ts_ms) * 1e-3
            if abs(dt) * 1000 > FRESH_MS + LAG_MS:
                continue
            e, n = scan.east + dt * scan.vel_e, scan.north + dt * scan.vel_n
            gap = np.hypot(e[:, None] - places[:, 0], n[:, None] - places[:, 1])
            mine = names[gap.argmin(axis=1)] == sensor if len(e) else np.zeros(0, bool)
            ids.append(sensor << 20 | scan.id[mine])
            east.append(e[mine])
            north.append(n[mine])
        out[event_ms] = Estimates(np.concatenate(ids), np.concatenate(east), np.concatenate(north))
    return out


def in_order(scans: Sequence[Scan], instants: Instants) -> Iterator[tuple[int, list[Scan]]]:
    """Yield (event time, the scans to be taken before it is reported), those in order of their own times."""
    waiting: list[Scan] = []
    at, done = 0, 0
    for event_ms, told_ms in instants:
        while at < len(scans) and scans[at].at_ms <= told_ms:
            if scans[at].ts_ms > done:
                waiting.append(scans[at])
            at += 1
        until = event_ms - LAG_MS
        now = sorted((s for s in waiting if s.ts_ms <= until), key=lambda s: (s.ts_ms, s.sensor))
        waiting = [s for s in waiting if s.ts_ms > until]
        done = until
        yield event_ms, now


@dataclass(slots=True)
class _Tracks:
    """Columns over the tracks: state (e, n, ve, vn) and covariance; both axes are alike, so one 2 x 2 matrix does."""

    x: F64 = field(default_factory=lambda: np.zeros((0, 4)))
    p: F64 = field(default_factory=lambda: np.zeros((0, 3)))  # place, place-velocity, velocity
    t: I64 = field(default_factory=lambda: np.zeros(0, np.int64))  # ms of the state
    seen: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    hits: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    id: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def ahead(self, t_ms: int) -> tuple[F64, F64]:
        """Return states and covariances at a time."""
        dt = (t_ms - self.t) * 1e-3
        x = self.x.copy()
        x[:, :2] += dt[:, None] * self.x[:, 2:]
        a, b, c = self.p.T
        size = np.abs(dt)
        p = np.stack([a + 2 * dt * b + dt * dt * c + Q * size**3 / 3, b + dt * c + Q * dt * size / 2, c + Q * size], 1)
        return x, p

    def keep(self, which: Any) -> None:
        """Keep some rows."""
        for name in ("x", "p", "t", "seen", "hits", "id"):
            setattr(self, name, getattr(self, name)[which])


def hungarian(scans: Sequence[Scan], instants: Instants, progress: Progress | None = None) -> dict[int, Estimates]:
    """Return the tracks of the plain filter."""
    tracks, count = _Tracks(), 0
    out: dict[int, Estimates] = {}
    for event_ms, now in in_order(scans, instants):
        for scan in now:
            count = _take(tracks, scan, count)
        tracks.keep(tracks.seen > event_ms - LAG_MS - SILENT_MS)
        x, p = tracks.ahead(event_ms)
        good = tracks.hits >= BIRTH_HITS
        zero = np.zeros(int(good.sum()))
        cov = np.stack([p[good, 0], zero, p[good, 0]])
        out[event_ms] = Estimates(tracks.id[good].copy(), x[good, 0], x[good, 1], cov)
        if progress is not None:
            progress(event_ms)
    return out


def _take(tracks: _Tracks, scan: Scan, count: int) -> int:
    """Fuse a scan; return the newest id."""
    z = np.stack([scan.east, scan.north], 1)
    x, p = tracks.ahead(scan.ts_ms)
    left = np.ones(len(z), bool)
    if len(x) and len(z):
        low, high = z.min(axis=0) - GATE_M, z.max(axis=0) + GATE_M
        near = np.flatnonzero(((x[:, :2] > low) & (x[:, :2] < high)).all(axis=1))
        gap = np.hypot(*(x[near, None, :2] - z[None]).transpose(2, 0, 1))
        rows, cols = linear_sum_assignment(np.minimum(gap, GATE_M))
        hit = gap[rows, cols] < GATE_M
        rows, cols = near[rows[hit]], cols[hit]
        left[cols] = False
        gain = p[rows, :2] / (p[rows, :1] + SIGMA_M**2)
        miss = z[cols] - x[rows, :2]
        tracks.x[rows] = x[rows] + np.concatenate([gain[:, :1] * miss, gain[:, 1:] * miss], 1)
        a, b, c = p[rows].T
        k, m = gain.T
        tracks.p[rows] = np.stack([(1 - k) * a, (1 - k) * b, c - m * b], 1)
        tracks.t[rows] = tracks.seen[rows] = scan.ts_ms
        tracks.hits[rows] += 1
    new = np.flatnonzero(left)
    if new.size:
        told = np.stack([scan.east, scan.north, scan.vel_e, scan.vel_n], 1)[new]
        known = np.hypot(told[:, 2], told[:, 3]) > 0
        fresh = np.stack([np.full(new.size, SIGMA_M**2), np.zeros(new.size), np.where(known, 4.0, _FIRST_MPS**2)], 1)
        stamp = np.full(new.size, scan.ts_ms)
        for name, rows_new in (
            ("x", told), ("p", fresh), ("t", stamp), ("seen", stamp), ("hits", np.ones(new.size, np.int64)),
            ("id", count + 1 + np.arange(new.size)),
        ):  # fmt: skip
            setattr(tracks, name, np.concatenate([getattr(tracks, name), rows_new]))
    return count + new.size


def gnn(scans: Sequence[Scan], instants: Instants, progress: Progress | None = None) -> dict[int, Estimates]:
    """Return the tracks of Stone Soup; ConfigError where it is not installed."""
    try:
        from v2x_loadtest.score import stone  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError(
            f"the baseline gnn needs Stone Soup ({error}): pip install 'v2x-core[compare]', or leave it out with "
            "--baselines single,hungarian"
        ) from error
    return stone.track(scans, instants, progress)


Tracker = Callable[[Sequence[Scan], Instants, Progress | None], dict[int, Estimates]]
BASELINES: Final[Mapping[str, tuple[str, Tracker]]] = {
    "single": ("nearest sensor", single),
    "hungarian": ("Hungarian + CV", hungarian),
    "gnn": ("Stone Soup GNN", gnn),
}
