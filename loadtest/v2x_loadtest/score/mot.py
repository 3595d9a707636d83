"""Multi-object tracking metrics on points: CLEAR MOT, identity and HOTA.

* CLEAR MOT (K. Bernardin, R. Stiefelhagen, "Evaluating Multiple Object Tracking Performance", EURASIP JIVP 2008): a
  pair that was matched stays matched while it is near enough, the others are matched anew; MOTA = 1 - (misses + false +
  switches) / objects, MOTP = mean distance of the matches (m).
* Identity (E. Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016): one
  assignment of tracks to objects for the whole run; IDF1 = 2 IDTP / (objects + estimates).
* HOTA (J. Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021) with the
  similarity 1 - distance / cut: the mean over 19 thresholds of sqrt(detection accuracy * association accuracy).

The tests hold them against motmetrics, and against TrackEval where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from v2x_loadtest.score.matching import F64, I64, match

ALPHAS: Final = np.arange(1, 20) * 0.05
_TINY: Final = 1e-9
_MORE: Final = 1e6  # a match more is worth any distance


@dataclass(slots=True)
class Step:
    """One instant: ids of objects and estimates, and their pairs nearer than the cut (rows, columns, metres)."""

    objects: I64  # (n,) unique
    tracks: I64  # (m,) unique
    rows: I64
    cols: I64
    gap: F64


@dataclass(frozen=True, slots=True)
class Clear:
    """CLEAR MOT; counts over all steps."""

    mota: float | None
    motp_m: float | None
    switches: int
    misses: int
    false: int
    matches: int
    objects: int


@dataclass(frozen=True, slots=True)
class Hota:
    """HOTA and its two halves."""

    hota: float | None
    detection: float | None
    association: float | None


def clear(steps: Sequence[Step]) -> Clear:
    """Return CLEAR MOT of a run."""
    last: dict[int, int] = {}
    objects = misses = false = switches = matches = 0
    distance = 0.0
    for step in steps:
        n, m = len(step.objects), len(step.tracks)
        ids, tracks = step.objects[step.rows].tolist(), step.tracks[step.cols].tolist()
        kept = [k for k, (o, t) in enumerate(zip(ids, tracks, strict=True)) if last.get(o) == t]
        busy = np.zeros(m, bool)
        held: list[int] = []
        for k in kept:  # two objects may both have had the same track last; the first keeps it
            if not busy[step.cols[k]]:
                busy[step.cols[k]] = True
                held.append(k)
        done = np.zeros(n, bool)
        done[step.rows[held]] = True
        free = np.flatnonzero(~done[step.rows] & ~busy[step.cols])
        new = free[match(step.rows[free], step.cols[free], step.gap[free] - _MORE)].tolist()
        for k in new:
            switches += last.get(ids[k], tracks[k]) != tracks[k]
            last[ids[k]] = tracks[k]
        taken = held + new
        distance += float(step.gap[taken].sum())
        objects, matches = objects + n, matches + len(taken)
        misses, false = misses + n - len(taken), false + m - len(taken)
    return Clear(
        1 - (misses + false + switches) / objects if objects else None,
        distance / matches if matches else None,
        switches,
        misses,
        false,
        matches,
        objects,
    )


def idf1(steps: Sequence[Step]) -> float | None:
    """Return the share of correctly identified estimates and objects; None without either."""
    objects, tracks = _numbers(steps)
    total = sum(len(s.objects) + len(s.tracks) for s in steps)
    if not total:
        return None
    together = np.zeros((len(objects), len(tracks)))
    for s in steps:
        np.add.at(together, (_at(objects, s.objects)[s.rows], _at(tracks, s.tracks)[s.cols]), 1)
    return 2 * float(together[linear_sum_assignment(-together)].sum()) / total


def hota(steps: Sequence[Step], cut: float) -> Hota:
    """Return HOTA with the similarity 1 - distance / ``cut``; None without objects or estimates."""
    objects, tracks = _numbers(steps)
    lives = sum(len(s.objects) for s in steps)
    told = sum(len(s.tracks) for s in steps)
    if not lives and not told:
        return Hota(None, None, None)
    if not lives or not told:
        return Hota(0.0, 0.0, 0.0)
    life, span = np.zeros(len(objects)), np.zeros(len(tracks))
    fit = np.zeros((len(objects), len(tracks)))
    near: list[tuple[I64, I64, F64]] = []
    for s in steps:
        o, t = _at(objects, s.objects), _at(tracks, s.tracks)
        likeness = 1 - s.gap / cut
        by_object = np.bincount(s.rows, likeness, len(o))
        by_track = np.bincount(s.cols, likeness, len(t))
        rest = by_object[s.rows] + by_track[s.cols] - likeness
        a, b = o[s.rows], t[s.cols]
        np.add.at(fit, (a, b), likeness / np.maximum(rest, _TINY))
        life[o] += 1
        span[t] += 1
        near.append((a, b, likeness))
    share = fit / (life[:, None] + span[None, :] - fit)
    pairs: list[list[tuple[I64, I64]]] = [[] for _ in ALPHAS]
    for a, b, likeness in near:
        taken = match(a, b, -share[a, b] * likeness)
        for k, alpha in enumerate(ALPHAS):
            good = taken[likeness[taken] >= alpha - _TINY]
            pairs[k].append((a[good], b[good]))
    detection, association = np.zeros(len(ALPHAS)), np.zeros(len(ALPHAS))
    for k, found in enumerate(pairs):
        a, b = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
        if not a.size:
            continue
        detection[k] = a.size / (lives + told - a.size)
        at, count = np.unique(a * len(tracks) + b, return_counts=True)
        o, t = np.divmod(at, len(tracks))
        association[k] = float((count * count / (life[o] + span[t] - count)).sum()) / a.size
    both = np.sqrt(detection * association)
    return Hota(float(both.mean()), float(detection.mean()), float(association.mean()))


def _numbers(steps: Sequence[Step]) -> tuple[I64, I64]:
    """Return all ids of objects and of tracks, ascending."""
    none = [np.zeros(0, np.int64)]
    return (
        np.unique(np.concatenate([*none, *(s.objects for s in steps)])),
        np.unique(np.concatenate([*none, *(s.tracks for s in steps)])),
    )


def _at(every: I64, ids: I64) -> I64:
    return np.searchsorted(every, ids).astype(np.int64)
