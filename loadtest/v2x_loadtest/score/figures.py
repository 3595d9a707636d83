"""Tracks of any tracker against truth: GOSPA, CLEAR MOT, identity, HOTA, errors of position and whether they are told.

Only the covered road counts (see tracks.py): an object or a track past the edge takes part where its partner is inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from v2x_loadtest.score.cases import Case
from v2x_loadtest.score.gospa import CUT_M, counted, gospa
from v2x_loadtest.score.matching import F64, near_pairs
from v2x_loadtest.score.mot import Step, clear, hota, idf1
from v2x_loadtest.score.play import Estimates

SWITCH_S: Final = 40.0  # the bar for switches is of a run so long
_VEHICLE_MINUTES: Final = 100.0


@dataclass(slots=True)
class Trace:
    """What the report draws: by scored instant, and the places of one run."""

    t_s: list[float] = field(default_factory=list)
    rmse_m: list[float | None] = field(default_factory=list)
    gospa_m: list[float] = field(default_factory=list)
    true: list[tuple[int, int, float, float]] = field(default_factory=list)  # instant, object, east, north
    told: list[tuple[int, int, float, float]] = field(default_factory=list)  # instant, track, east, north


@dataclass(slots=True)
class TrackFigures:
    """Figures by name (bars.py says what they are) and what the report draws."""

    values: dict[str, float | None]
    trace: Trace


def track_figures(case: Case, frames: Mapping[int, Estimates], *, draw: bool = False) -> TrackFigures:
    """Score frames by event time (ms UTC); ``draw``: keep all places for the report."""
    begin, end = case.window_s[0] + case.warm_s, case.window_s[1]
    steps: list[Step] = []
    trace = Trace()
    squares, nees = list[F64](), list[F64]()
    distances: list[float] = []
    missed = false = 0
    for event_ms, seen in sorted(frames.items()):
        t_s = case.ledger.scene_s(event_ms)
        if not begin <= t_s < end:  # at the end itself the truth has no next step to go to
            continue
        now = case.at(t_s)
        objects, told = np.stack([now.east, now.north], 1), np.stack([seen.east, seen.north], 1)
        keep, keep_told = counted(objects, told, case.covered(t_s, *objects.T), case.covered(t_s, *told.T))
        objects, told = objects[keep], told[keep_told]
        result = gospa(objects, told)
        error = told[result.cols] - objects[result.rows]
        square = (error**2).sum(axis=1)
        squares.append(square)
        if seen.cov is not None:
            nees.append(normalised(error, seen.cov[:, keep_told][:, result.cols]))
        distances.append(result.distance)
        missed, false = missed + result.missed, false + result.false
        steps.append(Step(now.idx[keep], seen.track[keep_told], *near_pairs(objects, told, CUT_M)))
        trace.t_s.append(t_s)
        trace.gospa_m.append(result.distance)
        trace.rmse_m.append(math.sqrt(float(square.mean())) if square.size else None)
        if draw:
            nth = len(trace.t_s)
            trace.true += [(nth, int(i), float(e), float(n)) for i, (e, n) in zip(now.idx[keep], objects, strict=True)]
            ids = seen.track[keep_told]
            trace.told += [(nth, int(i), float(e), float(n)) for i, (e, n) in zip(ids, told, strict=True)]
    return TrackFigures(_values(steps, distances, squares, nees, missed, false), trace)


def _values(
    steps: list[Step], distances: list[float], squares: list[F64], nees: list[F64], missed: int, false: int
) -> dict[str, float | None]:
    count = len(steps)
    mot, whole = clear(steps), hota(steps, CUT_M)
    every = np.concatenate(squares) if squares else np.zeros(0)
    owned = np.concatenate(nees) if nees else np.zeros(0)
    seconds = count / 5.0
    minutes = mot.objects / 5.0 / 60.0
    return {
        "gospa_m": float(np.mean(distances)) if distances else None,
        "gospa_missed": missed / count if count else None,
        "gospa_false": false / count if count else None,
        "mota": mot.mota,
        "motp_m": mot.motp_m,
        "hota": whole.hota,
        "deta": whole.detection,
        "assa": whole.association,
        "idf1": idf1(steps),
        "switches": float(mot.switches),
        "switches_40s": mot.switches * SWITCH_S / seconds if count else None,
        "switches_100vm": mot.switches * _VEHICLE_MINUTES / minutes if minutes else None,
        "rmse_m": math.sqrt(float(every.mean())) if every.size else None,
        "nees": float(owned.mean()) if owned.size else None,
        "objects": mot.objects / count if count else None,
    }


def normalised(error: F64, cov: F64) -> F64:
    """Return the normalised squared errors over their two dimensions: 1 on average if the covariance is right."""
    ee, en, nn = cov
    x, y = error.T
    return np.asarray((x * x * nn - 2 * x * y * en + y * y * ee) / (ee * nn - en * en) / 2)
