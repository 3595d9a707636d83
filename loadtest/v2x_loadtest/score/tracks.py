"""Tracks against truth: MOTA, IDF1 and id switches by motmetrics, GOSPA, and the error of position.

A subsample of 5 Hz of event time is scored, all zones together. Only the covered road counts: an object or a track past
the edge of all sensors' range takes part where its partner is inside, and is no miss and no false track otherwise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import motmetrics
import numpy as np
import numpy.typing as npt

from v2x_loadtest.audit.frames import KEEP_MS, Frame
from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.score.gospa import CUT_M, counted, gospa
from v2x_loadtest.score.truth import Truth

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
SAMPLE_MS: Final = KEEP_MS
NEAR_MS: Final = 75  # a zone's frame may be this far from the sample's time
BIRTH_S: Final = 0.5  # after the window begins: sensors were just switched on, tracks need some scans
_METRICS: Final = (
    "mota",
    "idf1",
    "num_switches",
    "num_false_positives",
    "num_misses",
    "num_unique_objects",
    "num_objects",
)


@dataclass(slots=True)
class TrackScore:
    """What motmetrics and GOSPA say; distances in metres."""

    samples: int = 0
    skipped: int = 0  # samples for which a zone had no frame
    mota: float | None = None
    idf1: float | None = None
    id_switches: int | None = None
    false_positives: int = 0
    misses: int = 0
    objects: int = 0  # object-samples
    unique_objects: int = 0
    tracks: int = 0  # distinct track ids in all sampled frames
    position_rmse_m: float | None = None
    gospa_m: float | None = None
    gospa_localisation_m: float | None = None  # its share, as a distance
    gospa_missed: float | None = None  # a frame
    gospa_false: float | None = None


@dataclass(slots=True)
class Estimates:
    """Tracks of all zones at one instant, metres about the truth's origin."""

    track: I64
    east: F64
    north: F64


def samples(
    frames: list[Frame], decode: Callable[[bytes], Mapping[str, Any]], truth: Truth
) -> tuple[dict[float, Estimates], list[float]]:
    """Return estimates by time (ms UTC), and the times that were skipped because a zone was silent."""
    slots: dict[int, dict[str, Frame]] = defaultdict(dict)
    for frame in frames:
        if frame.value is not None:
            slots[frame.event_ms // SAMPLE_MS].setdefault(frame.zone, frame)
    zones = {frame.zone for frame in frames}
    out: dict[float, Estimates] = {}
    skipped: list[float] = []
    for slot in sorted(slots):
        here = slots[slot]
        when = sum(frame.event_ms for frame in here.values()) / len(here)
        if set(here) != zones or any(abs(frame.event_ms - when) > NEAR_MS for frame in here.values()):
            skipped.append(when)
            continue
        out[when] = _together([_estimates(decode(f.value), when, truth) for f in here.values() if f.value is not None])
    return out, skipped


def _estimates(value: Mapping[str, Any], when: float, truth: Truth) -> Estimates:
    east, north = truth.frame.to_local(
        np.array(value["lat"], np.float64) * 1e-7, np.array(value["lon"], np.float64) * 1e-7
    )
    # A few milliseconds to the common instant, at constant speed.
    speed = np.array(value["speed"], np.float64) * 0.02
    heading = np.radians(np.array(value["heading"], np.float64) * 0.0125)
    step = np.where(speed < 8191 * 0.02, speed, 0.0) * (when - value["event_ms"]) * 1e-3
    return Estimates(np.array(value["track"], np.int64), east + step * np.sin(heading), north + step * np.cos(heading))


def _together(parts: list[Estimates]) -> Estimates:
    return Estimates(
        np.concatenate([part.track for part in parts]),
        np.concatenate([part.east for part in parts]),
        np.concatenate([part.north for part in parts]),
    )


def score_tracks(
    frames: list[Frame],
    decode: Callable[[bytes], Mapping[str, Any]],
    truth: Truth,
    ledger: Ledger,
    window_s: tuple[float, float],
) -> TrackScore:
    """Score the sampled frames of the window (scene seconds) in which devices spoke."""
    begin = window_s[0] + BIRTH_S
    end = min(window_s[1], truth.scene.duration_s - truth.scene.step_s)  # at its last step the truth stands still
    taken, skipped = samples(frames, decode, truth)
    out = TrackScore(skipped=sum(begin <= ledger.scene_s(when) <= end for when in skipped))
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    squares: list[F64] = []
    distances, localisation, missed, false, ids = [], 0.0, 0, 0, set[int]()
    for when, seen in taken.items():
        t_s = ledger.scene_s(when)
        if not begin <= t_s <= end:
            continue
        now = truth.at(t_s)
        objects, estimates = np.stack([now.east, now.north], 1), np.stack([seen.east, seen.north], 1)
        keep, keep_seen = _clip(truth, objects, estimates)
        objects, idx = objects[keep], now.idx[keep]
        estimates, track = estimates[keep_seen], seen.track[keep_seen]
        result = gospa(objects, estimates)
        distances.append(result.distance)
        localisation += result.localisation
        missed, false = missed + result.missed, false + result.false
        gap = np.hypot(objects[:, None, 0] - estimates[None, :, 0], objects[:, None, 1] - estimates[None, :, 1])
        squares.append(gap[result.rows, result.cols] ** 2)
        accumulator.update(idx.tolist(), track.tolist(), np.where(gap <= CUT_M, gap, np.nan))
        ids.update(track.tolist())
        out.samples += 1
    out.tracks = len(ids)
    if out.samples:
        _summarise(out, accumulator)
        every = np.concatenate(squares)
        out.position_rmse_m = math.sqrt(float(every.mean())) if every.size else None
        out.gospa_m = float(np.mean(distances))
        out.gospa_localisation_m = math.sqrt(localisation / out.samples)
        out.gospa_missed, out.gospa_false = missed / out.samples, false / out.samples
    return out


def _clip(truth: Truth, objects: F64, estimates: F64) -> tuple[I64, I64]:
    """Return rows of objects and estimates that count: those inside, and outside partners of those inside."""
    return counted(objects, estimates, truth.covered(*objects.T), truth.covered(*estimates.T))


def _summarise(out: TrackScore, accumulator: motmetrics.MOTAccumulator) -> None:
    host = motmetrics.metrics.create()
    table = host.compute(accumulator, metrics=list(_METRICS), name="all")
    row = {name: float(table[name].iloc[0]) for name in _METRICS}
    out.mota, out.idf1 = row["mota"], row["idf1"]
    out.id_switches = int(row["num_switches"])
    out.false_positives, out.misses = int(row["num_false_positives"]), int(row["num_misses"])
    out.objects, out.unique_objects = int(row["num_objects"]), int(row["num_unique_objects"])
