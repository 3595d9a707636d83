"""Fusion's kernel alone in a setting: its errors, and whether its covariances tell them (NEES).

``python -m v2x_loadtest.score.consistency motorway --rho 0.9 --seeds 1001-1100`` prints means over seeds with 95 %
intervals. Scans go straight into a zone as they arrive, frames are looked at as an engine would make them: every 50 ms,
predicted to the event time, 5 a second scored. Only ``v2x score`` judges what really leaves; this one also sees the
covariances, which no frame carries whole. NEES: squared error by covariance, over the dimension; 1 if it is honest.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numba
import numpy as np
from v2x.fusion import layout as c
from v2x.fusion.kalman import ahead, noise, told_cov
from v2x.fusion.zone import ZoneState
from v2x.zones import ZoneMap

from v2x_loadtest.options import parse_seeds
from v2x_loadtest.score.figures import normalised
from v2x_loadtest.score.gospa import CUT_M, counted, gospa
from v2x_loadtest.score.matching import near_pairs
from v2x_loadtest.score.mot import Step, clear
from v2x_loadtest.score.setting import COLUMNS, FRAME, T0_MS, ZONE, Setting, World, make
from v2x_loadtest.score.traffic import F64, I64

FRAME_MS: Final = 50
SCORED_MS: Final = 200
DELAY_MS: Final = 78  # the event clock is behind arrivals by the median delay


@numba.njit(nogil=True)
def _tell(s: Any, i: Any, rows: Any, event_ms: int, prm: Any) -> Any:
    out = np.empty((rows.shape[0], 5))
    for k in range(rows.shape[0]):
        a, b = s[rows[k]], i[rows[k]]
        dt = (event_ms - b[c.I_T]) * 1e-3
        out[k, 0], out[k, 1], _, _ = ahead(a, dt)
        out[k, 2], out[k, 3], out[k, 4] = told_cov(a, dt, noise(a, b, prm))
    return out


@dataclass(slots=True)
class Figures:
    """Of one seed."""

    gospa_m: float = 0.0
    rmse_m: float = 0.0
    nees: float = 0.0
    mota: float = 0.0
    switches: float = 0.0
    turning_rmse_m: float = 0.0  # of those that turn by more than 0.2 rad/s
    turning_nees: float = 0.0
    kernel_ns: float = 0.0  # an observation, with its call from Python


@dataclass(slots=True)
class _Sums:
    gospa: float = 0.0
    squares: list[F64] = field(default_factory=list)
    nees: list[F64] = field(default_factory=list)
    turning: list[Any] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def measure(
    setting: Setting, parameters: dict[str, float] | None = None, *, from_s: float = 5.0, silent: bool = False
) -> Figures:
    """Return the figures of a setting after ``from_s`` seconds; ``silent``: units tell no speeds and headings."""
    world = make(setting)
    zone = ZoneState(ZoneMap.parse(world.zones()), ZONE, parameters)
    columns = np.arange(len(COLUMNS))
    sums, spent, rows, frame_ms = _Sums(), 0, 0, FRAME_MS
    for scan in world.scans:
        while frame_ms <= scan.at_ms:
            event_ms = T0_MS + frame_ms - DELAY_MS
            zone.tidy(event_ms, frame_ms)
            if frame_ms % SCORED_MS == 0 and frame_ms >= from_s * 1000:
                _score(world, zone, event_ms, sums)
            frame_ms += FRAME_MS
        if scan.again:
            continue
        people = scan.rows.copy()
        if silent:
            people[:, COLUMNS.index("speed")], people[:, COLUMNS.index("heading")] = 8191, 28_800
        event_ms = T0_MS + int(scan.at_ms) - DELAY_MS
        began = time.thread_time_ns()
        zone.scan(
            people, columns, world.reference(scan.rsu), scan.ts_ms, 0, world.device(scan.rsu), event_ms,
            int(scan.at_ms),
        )  # fmt: skip
        spent += time.thread_time_ns() - began
        rows += len(people)
    squares, nees = np.concatenate(sums.squares), np.concatenate(sums.nees)
    turns, mot = np.concatenate(sums.turning), clear(sums.steps)
    assert mot.mota is not None
    return Figures(
        sums.gospa / len(sums.steps), float(np.sqrt(squares.mean())), float(nees.mean()), mot.mota, float(mot.switches),
        float(np.sqrt(squares[turns].mean())) if turns.any() else np.nan,
        float(nees[turns].mean()) if turns.any() else np.nan, spent / rows,
    )  # fmt: skip


def _score(world: World, zone: ZoneState, event_ms: int, sums: _Sums) -> None:
    rows = np.flatnonzero(zone.i[: zone.ctl[c.CTL_TOP], c.I_STATUS] == c.CONFIRMED)
    told = _tell(zone.s, zone.i, rows, event_ms, zone.prm)
    lat, lon = zone.frame.to_geo(told[:, 0], told[:, 1])
    east, north = FRAME.to_local(lat, lon)
    t_s = (event_ms - T0_MS) / 1000
    who, true_e, true_n = world.traffic.at(t_s)
    objects, tracks = np.stack((true_e, true_n), 1), np.stack((east, north), 1)
    keep, seen = counted(objects, tracks, world.covered(true_e, true_n), world.covered(east, north))
    objects, tracks, who, rows = objects[keep], tracks[seen], who[keep], rows[seen]
    result = gospa(objects, tracks)
    error = tracks[result.cols] - objects[result.rows]
    sums.gospa += result.distance
    sums.squares.append((error**2).sum(axis=1))
    sums.nees.append(normalised(error, told[seen, 2:][result.cols].T))
    sums.turning.append(_turns(world, t_s, who[result.rows]))
    sums.steps.append(Step(who, zone.i[rows, c.I_UID], *near_pairs(objects, tracks, CUT_M)))


def _turns(world: World, t_s: float, who: I64) -> Any:
    """Return who turns."""
    (ae, an), (be, bn) = (world.traffic.motion(t, who) for t in (t_s - 0.1, t_s + 0.1))
    turn = np.arctan2(ae * bn - an * be, ae * be + an * bn) / 0.2
    return (np.hypot(ae, an) > 2.0) & (abs(turn) > 0.2)


def main() -> None:
    """Print the figures of many seeds."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("kind", choices=("motorway", "both_ways", "crossing"))
    ask.add_argument("--seeds", default="1001-1020")
    ask.add_argument("--rho", type=float, default=0.0)
    ask.add_argument(
        "--white", type=float, default=0.0, help="share of the noise with --rho that is white all the same"
    )
    ask.add_argument("--rho-motion", type=float, default=0.0)
    ask.add_argument("--swap", type=float, default=0.01)
    ask.add_argument("--silent", action="store_true", help="units tell no speeds and headings")
    ask.add_argument("--set", default="{}", help="kernel parameters (JSON)")
    args = ask.parse_args()
    near: dict[str, Any] = {"rsus": 3, "range_m": 130.0} if args.kind == "crossing" else {}
    found = [
        measure(
            Setting(
                seed, args.kind, rho=args.rho, white=args.white, rho_motion=args.rho_motion, swap=args.swap, **near
            ),
            json.loads(args.set),
            silent=args.silent,
        )
        for seed in parse_seeds(args.seeds)
    ]
    for name in (f.name for f in fields(Figures)):
        values = np.array([getattr(f, name) for f in found])
        half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        print(f"{name:16} {values.mean():8.4f} ± {half:.4f}")


if __name__ == "__main__":
    main()
