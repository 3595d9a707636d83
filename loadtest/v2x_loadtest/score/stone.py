"""Stone Soup's global nearest neighbour tracker on the scans: its filter, hypothesiser, tree and assignment.

Measured are place and told velocity. A scan meets only the tracks near it, and the motion model is written out: with
every track and the library's block matrices one scan of a motorway takes seconds. So it takes about 40 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from stonesoup.dataassociator.neighbour import GNNWith2DAssignment
from stonesoup.dataassociator.tree import DetectionKDTreeMixIn
from stonesoup.hypothesiser.distance import DistanceHypothesiser
from stonesoup.measures import Mahalanobis
from stonesoup.models.measurement.linear import LinearGaussian
from stonesoup.models.transition.linear import LinearGaussianTransitionModel
from stonesoup.predictor.kalman import KalmanPredictor
from stonesoup.types.array import CovarianceMatrix
from stonesoup.types.detection import Detection
from stonesoup.types.state import GaussianState
from stonesoup.types.track import Track
from stonesoup.updater.kalman import KalmanUpdater

from v2x_loadtest.score.baselines import BIRTH_HITS, LAG_MS, SIGMA_M, SILENT_MS, Instants, Q, in_order
from v2x_loadtest.score.play import Estimates
from v2x_loadtest.score.scans import Scan

SPEED_MPS: Final = 0.7
GATE: Final = 4.0  # Mahalanobis distance
NEAR_M: Final = 12.0
_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC).replace(tzinfo=None)


class _Steady(LinearGaussianTransitionModel):
    """Constant velocity in the plane with white acceleration: the library's two models in one matrix."""

    @property
    def ndim_state(self) -> int:
        """Return four: east, its rate, north, its rate."""
        return 4

    def matrix(self, time_interval: timedelta, **_: Any) -> Any:
        """Return the transition over an interval."""
        out = np.eye(4)
        out[0, 1] = out[2, 3] = time_interval.total_seconds()
        return out

    def covar(self, time_interval: timedelta, **_: Any) -> Any:
        """Return the noise over an interval (of either sign)."""
        dt = abs(time_interval.total_seconds())
        out = np.zeros((4, 4))
        out[:2, :2] = out[2:, 2:] = np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]) * Q
        return out.view(CovarianceMatrix)


class _Associator(DetectionKDTreeMixIn, GNNWith2DAssignment):
    """Global nearest neighbour behind a tree of the detections."""


def track(
    scans: Sequence[Scan], instants: Instants, progress: Callable[[float], None] | None = None
) -> dict[int, Estimates]:
    """Return what Stone Soup reports for each instant."""
    noise = np.diag([SIGMA_M**2, SIGMA_M**2, SPEED_MPS**2, SPEED_MPS**2])
    sensor = LinearGaussian(ndim_state=4, mapping=(0, 2, 1, 3), noise_covar=noise)
    predictor = KalmanPredictor(_Steady())
    updater = KalmanUpdater(sensor)
    hypothesiser = DistanceHypothesiser(predictor, updater, Mahalanobis(), missed_distance=GATE)
    associator = _Associator(
        hypothesiser=hypothesiser, predictor=predictor, updater=updater, max_distance=NEAR_M + 3 * GATE * SPEED_MPS
    )
    tracks: list[Any] = []
    number: dict[str, int] = {}
    out: dict[int, Estimates] = {}
    for event_ms, now in in_order(scans, instants):
        for scan in now:
            when = _when(scan.ts_ms)
            detections = [
                Detection(np.array(row).reshape(4, 1), timestamp=when, measurement_model=sensor)
                for row in zip(scan.east, scan.north, scan.vel_e, scan.vel_n, strict=True)
            ]
            near = {tracks[k] for k in _near(tracks, scan)}
            used = set()
            for found, hypothesis in associator.associate(near, set(detections), when).items():
                if hypothesis:
                    found.append(updater.update(hypothesis))
                    used.add(hypothesis.measurement)
            tracks += [_born(d, noise) for d in detections if d not in used]
        oldest = _when(event_ms - LAG_MS - SILENT_MS)
        tracks = [t for t in tracks if t.timestamp > oldest]
        out[event_ms] = _report([t for t in tracks if len(t) >= BIRTH_HITS], predictor, event_ms, number)
        if progress is not None:
            progress(event_ms)
    return out


def _when(t_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=t_ms - 1_577_836_800_000)


def _born(detection: Any, noise: Any) -> Any:
    order = [0, 2, 1, 3]
    state = detection.state_vector[order]
    return Track([GaussianState(state, noise[np.ix_(order, order)], timestamp=detection.timestamp)])


def _near(tracks: Sequence[Any], scan: Scan) -> list[int]:
    """Return the tracks that may be one of the scan's objects."""
    if not tracks or not len(scan.east):
        return []
    x = np.array([np.asarray(t.state_vector, float).ravel() for t in tracks])
    dt = np.array([(_when(scan.ts_ms) - t.timestamp).total_seconds() for t in tracks])
    east, north = x[:, 0] + dt * x[:, 1], x[:, 2] + dt * x[:, 3]
    gap = np.hypot(east[:, None] - scan.east, north[:, None] - scan.north).min(axis=1)
    return np.flatnonzero(gap < NEAR_M).tolist()


def _report(tracks: Sequence[Any], predictor: Any, event_ms: int, number: dict[str, int]) -> Estimates:
    states = [predictor.predict(t, timestamp=_when(event_ms)) for t in tracks]
    x = np.array([np.asarray(s.mean, float).ravel() for s in states]).reshape(-1, 4)
    p = np.array([np.asarray(s.covar, float) for s in states]).reshape(-1, 4, 4)
    ids = np.array([number.setdefault(t.id, len(number) + 1) for t in tracks], np.int64)
    return Estimates(ids, x[:, 0], x[:, 2], np.stack([p[:, 0, 0], p[:, 0, 2], p[:, 2, 2]]))
