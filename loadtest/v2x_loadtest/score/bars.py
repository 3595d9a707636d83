"""Figures and bars, as tables: what each figure is, and what it must reach in which scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import t as student

# Values of one tracker: seed -> figure -> value (None: nothing to judge).
Values = Mapping[int, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    what: str
    unit: str = ""
    digits: int = 3
    better: int = 1  # 1 higher, -1 lower, 0 neither
    range: tuple[float, float] = (-np.inf, np.inf)  # an interval does not leave it


_SHARE: Final = (0.0, 1.0)
_COUNT: Final = (0.0, np.inf)
TRACKS: Final = (
    Figure("gospa_m", "GOSPA", "m", 2, -1, _COUNT),
    Figure("mota", "MOTA", "", 4, 1, (-np.inf, 1.0)),
    Figure("motp_m", "MOTP", "m", 3, -1, _COUNT),
    Figure("hota", "HOTA", "", 3, 1, _SHARE),
    Figure("idf1", "IDF1", "", 4, 1, _SHARE),
    Figure("switches_40s", "id switches / 40 s", "", 2, -1, _COUNT),
    Figure("switches_100vm", "id switches / 100 veh-min", "", 2, -1, _COUNT),
    Figure("rmse_m", "position RMSE", "m", 3, -1, _COUNT),
    Figure("nees", "NEES a dimension", "", 2, 0, _COUNT),
    Figure("gospa_missed", "missed at once", "", 2, -1, _COUNT),
    Figure("gospa_false", "false at once", "", 2, -1, _COUNT),
    Figure("objects", "objects at once", "", 0, 0, _COUNT),
)
EVENTS: Final = (
    Figure("precision", "event precision", "", 3, 1, _SHARE),
    Figure("recall", "event recall", "", 3, 1, _SHARE),
    Figure("delay_p50_s", "delay, median", "s", 2, -1),
    Figure("delay_p90_s", "delay, p90", "s", 2, -1),
    Figure("duplicates", "events told twice", "", 1, -1, _COUNT),
    Figure("false_zone_hour", "false alarms / zone-hour", "", 1, -1, _COUNT),
    Figure("tail_right", "jam: tail within 30 m", "of time", 3, 1, _SHARE),
    Figure("level_right", "jam: level right", "of time", 3, 1, _SHARE),
    Figure("travel_mape", "travel time MAPE", "%", 2, -1, _COUNT),
    Figure("gantry_speed_mape", "section speed: gantries off by", "%", 2, -1, _COUNT),
    Figure("rsu_speed_mape", "section speed: tracks off by", "%", 2, -1, _COUNT),
    Figure("fused_speed_mape", "section speed: fused off by", "%", 2, -1, _COUNT),
    Figure("fused_speed_nees", "section speed: NEES", "", 2, 0, _COUNT),
)
FIGURES: Final = {figure.name: figure for figure in (*TRACKS, *EVENTS)}


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure's mean over the seeds must reach; ``times``: so much of the baseline's figure instead.

    ``of_one``: of what it lacks to 1.
    """

    figure: str
    low: float = -np.inf
    high: float = np.inf
    times: float = 0.0
    baseline: str = ""
    of_one: bool = False

    @property
    def text(self) -> str:
        """Return it in words."""
        if self.baseline:
            return f"{'1 - it ' if self.of_one else ''}<= {self.times:g} x {self.baseline}"
        parts = [f">= {self.low:g}"] if np.isfinite(self.low) else []
        return ", ".join([*parts, *([f"<= {self.high:g}"] if np.isfinite(self.high) else [])])


_TOLD: Final = (
    Bar("precision", low=0.98), Bar("recall", low=0.98), Bar("delay_p50_s", high=0.3), Bar("duplicates", high=0),
    Bar("false_zone_hour", high=1),
)  # fmt: skip
_JAM: Final = (Bar("tail_right", low=0.95), Bar("level_right", low=0.95))
_GNN: Final = (
    Bar("gospa_m", times=0.8, baseline="gnn"),
    Bar("hota", times=0.8, baseline="gnn", of_one=True),
    Bar("switches_100vm", high=1),
)
BARS: Final[dict[tuple[str, str], tuple[Bar, ...]]] = {
    ("prototype", "plain"): (
        Bar("gospa_m", high=5.0), Bar("rmse_m", high=0.33), Bar("mota", low=0.996), Bar("switches_40s", high=0.1),
    ),
    ("prototype", "ar1"): (Bar("rmse_m", high=0.5), Bar("nees", 0.8, 1.2)),
    ("urban", "plain"): (*_GNN, *_TOLD, *_JAM),
    ("crossing", "plain"): _GNN,
    ("motorway", "plain"): (*_TOLD, *_JAM, Bar("travel_mape", high=5)),
    ("motorway", "tolls"): (Bar("travel_mape", high=10),),
    ("jam", "plain"): _JAM,
    ("planted", "plain"): (*_TOLD, *_JAM),
    ("free", "plain"): (Bar("false_zone_hour", high=1),),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mean:
    """A figure over the seeds: the mean of the seeds' figures with its 95 % interval by Student's t (None of one)."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def show(self, digits: int) -> str:
        """Return it for people."""
        if self.low is None or self.high is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and whether it was reached; None: it could not be judged, and ``why`` says why."""

    bar: Bar
    value: float | None
    reached: bool | None
    why: str = ""


def mean_of(values: Values, name: str) -> Mean | None:
    """Return a figure over the seeds that have it."""
    found = np.array([v for row in values.values() if (v := row.get(name)) is not None], float)
    if not found.size:
        return None
    if found.size == 1:
        return Mean(float(found[0]), None, None, 1)
    half = float(student.ppf(0.975, found.size - 1) * found.std(ddof=1) / np.sqrt(found.size))
    low, high = FIGURES[name].range
    mean = float(found.mean())
    return Mean(mean, max(mean - half, low), min(mean + half, high), found.size)


def judge(scene: str, variant: str, trackers: Mapping[str, Values]) -> list[Verdict]:
    """Return the verdicts on ours (``trackers["ours"]``) in a scene and variant."""
    return [_judge(bar, trackers) for bar in BARS.get((scene, variant), ())]


def _judge(bar: Bar, trackers: Mapping[str, Values]) -> Verdict:
    ours = mean_of(trackers["ours"], bar.figure)
    if ours is None:
        return Verdict(bar, None, None, "nothing of it in this window")
    if not bar.baseline:
        return Verdict(bar, ours.mean, bool(bar.low <= ours.mean <= bar.high))
    if bar.baseline not in trackers:
        return Verdict(bar, ours.mean, None, f"needs --baselines {bar.baseline}")
    seeds = set(trackers[bar.baseline]) & set(trackers["ours"])  # the same seeds, since a baseline may be run on fewer
    both = [mean_of({s: rows[s] for s in seeds}, bar.figure) for rows in (trackers["ours"], trackers[bar.baseline])]
    if both[0] is None or both[1] is None:
        return Verdict(bar, ours.mean, None, f"{bar.baseline} has none")
    mine, theirs = (1 - m.mean if bar.of_one else m.mean for m in both if m is not None)
    return Verdict(bar, ours.mean, mine <= bar.times * theirs, f"{mine / theirs:.2f} x" if theirs else "")


def missed(verdicts: Sequence[Verdict]) -> bool:
    """Say whether a bar was judged and not reached."""
    return any(v.reached is False for v in verdicts)
