"""Sections: single passages in, travel time, space-mean speed and level of service out, window by window.

A window is 60 s long and a new one ends every 10 s of event time; a passage belongs to the windows that its arrival
at the second gantry falls in, [from, to). A window is told 5 s after its end (a gantry's record takes about 3 s to
arrive) and told again if a late passage changes it within ten minutes.

The mean over vehicles that travelled the same length L is harmonic in speed: n L / sum(T). The arithmetic mean of
speeds is always higher. Stamps of field systems are truncated to whole seconds: one passage is off by up to a second
either way, the mean over n by much less, without bias.

A forecast is made with each window that ends on a whole minute; the windows until the next one repeat it. What came of
it is looked up a minute after its five minutes are over, when late passages are in.

How to call (engine)::

    stats = SectionStats(zone, [s for s in zones.sections if s.zone == zone])
    stats.passage(record)                       # dict of passage.avsc
    for row in stats.advance(event_ms): ...     # dicts of link_state.avsc but generation, partition, offset, index
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from statistics import stdev
from typing import Any, Final, Protocol

from v2x.sections.blend import Estimate, blend, of_passages, of_tracks
from v2x.sections.forecast import MINUTES, Forecast, Forecaster
from v2x.sections.outliers import FAST, KEPT, MIN_VEHICLES, MISSED, STOP, class_of, sift
from v2x.sections.service import CAR_UNITS, level, service, tpi
from v2x.sections.sight import Sight, Strip, share

WINDOW_MS: Final = 60_000
STEP_MS: Final = 10_000
GRACE_MS: Final = 5_000
HISTORY_MS: Final = 600_000  # late passages change windows for this long
FLOW_MS: Final = 300_000
SINGLE: Final = 2  # passage.method
_NO_SPEED: Final = 65535
_HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Signs:
    """What a section's newest window is a sign of."""

    from_ms: int
    to_ms: int
    quick_s: float  # lower quartile of the travel times; 0: too few vehicles
    vehicles: int  # behind it
    free_s: float  # travel time at free speed
    unseen_m: float  # length on which no tracks are seen
    speed_mps: float  # space-mean; -1 unknown


class Section(Protocol):
    """What is needed of v2x.zones.Section."""

    section: str
    length_m: float
    free_speed_mps: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of one window."""

    vehicles: int
    rejected: int
    travel_s: float  # mean; 0 if too few
    speed_mps: float  # space-mean; 0 if too few
    reasons: tuple[int, ...] = ()  # of each passage: KEPT, or why it was left out


def summarise(
    travel_s: Sequence[float], length_m: float, free_mps: float, classes: Sequence[int] | None = None
) -> Summary:
    """Return the statistics of single travel times over a section, in order of arrival, without outliers.

    ``classes``: of the vehicles, as of ``class_of``; None: they are alike.
    """
    reasons = tuple(sift(travel_s, classes or [0] * len(travel_s), length_m, free_mps))
    kept = [t for t, reason in zip(travel_s, reasons, strict=True) if reason == KEPT]
    rejected = len(travel_s) - len(kept)
    if len(kept) < MIN_VEHICLES:
        return Summary(len(kept), rejected, 0.0, 0.0, reasons)
    total = sum(kept)
    return Summary(len(kept), rejected, total / len(kept), len(kept) * length_m / total, reasons)


_Row = tuple[int, int, int, int]  # arrival ms, travel ms, vehicle type, method


@dataclass(slots=True)
class _Log:
    """Passages of one section, and what was told of it."""

    length_m: float
    free_mps: float
    rows: list[_Row] = field(default_factory=list)  # by arrival
    told: dict[int, list[int]] = field(default_factory=dict)  # window end -> [vehicles, rejected, travel ms]
    dirty: list[int] = field(default_factory=list)  # window ends that a late passage changed
    busy: bool = False  # the last window had vehicles
    lanes: int = 0  # at the second gantry; 0 unknown
    forecaster: Forecaster = field(default_factory=Forecaster)
    forecast: Forecast | None = None  # that of the last whole minute


class SectionStats:
    """Sections of one zone."""

    def __init__(self, zone: str, sections: Sequence[Section], strips: Mapping[str, Strip] | None = None) -> None:
        """Begin without passages; ``strips``: where sections lie, to see the tracks on them."""
        self.zone = zone
        self.sight = Sight(strips or {})
        self.next_ms = 0  # end of the next window to tell; 0: no time known yet
        self.unknown = 0  # passages of sections that are not ours
        self.late = 0  # passages older than the history
        self._logs = {s.section: _Log(s.length_m, s.free_speed_mps) for s in sections}

    def passage(self, row: Mapping[str, Any]) -> None:
        """Take a passage (passage.avsc)."""
        log = self._logs.get(row["section"])
        if log is None:
            self.unknown += 1
            return
        arrival, travel = int(row["to_ms"]), int(row["to_ms"]) - int(row["from_ms"])
        if self.next_ms and arrival < self.next_ms - HISTORY_MS:
            self.late += 1
            return
        new = (arrival, travel, int(row["vehicle_type"]), int(row["method"]))
        at = len(log.rows)
        while at and log.rows[at - 1] > new:
            at -= 1
        log.rows.insert(at, new)
        first = (arrival // STEP_MS + 1) * STEP_MS
        for end in range(first, first + WINDOW_MS, STEP_MS):
            if self.next_ms and end < self.next_ms and end not in log.dirty:
                log.dirty.append(end)

    def carriageway(self, section: str, lanes: int) -> None:
        """Note how many lanes there are at a section's second gantry (0: not known)."""
        self._logs[section].lanes = lanes

    def advance(self, event_ms: int) -> list[dict[str, Any]]:
        """Return the link states that are due at ``event_ms`` (event time; it may stand still or jump)."""
        if not self.next_ms:
            self.next_ms = (event_ms // STEP_MS + 1) * STEP_MS
            return []
        if event_ms - GRACE_MS - self.next_ms > HISTORY_MS:  # an outage: nobody wants an hour of empty windows
            self.next_ms = (event_ms - HISTORY_MS) // STEP_MS * STEP_MS
        out: list[dict[str, Any]] = []
        while self.next_ms + GRACE_MS <= event_ms:
            end = self.next_ms
            self.next_ms += STEP_MS
            for name, log in self._logs.items():
                out += self._revised(name, log)
                if end % WINDOW_MS == 0:
                    self._foresee(log, end)
                out += self._window(name, log, end)
        return out

    def _revised(self, name: str, log: _Log) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for end in sorted(log.dirty):
            out += self._window(name, log, end)
        log.dirty.clear()
        return out

    def _foresee(self, log: _Log, end: int) -> None:
        """Go on with the forecast by a whole minute."""
        over = end - (MINUTES + 1) * WINDOW_MS
        came, _ = self._summary(log, over, over + MINUTES * WINDOW_MS)
        log.forecaster.judge(over, came.travel_s)
        now, made = self._summary(log, end - WINDOW_MS, end)
        kept = _kept(made, now)
        spread = stdev(kept) if len(kept) > 1 else 0.0
        log.forecaster.step(end, now.travel_s, now.vehicles if now.travel_s else 0, spread)
        log.forecast = log.forecaster.say()

    def signs(self) -> dict[str, Signs]:
        """Return by section what the newest window that was told of is a sign of."""
        end = self.next_ms - STEP_MS
        return {name: self._signs(name, log, end - WINDOW_MS, end) for name, log in self._logs.items()}

    def _signs(self, name: str, log: _Log, start: int, end: int) -> Signs:
        summary, rows = self._summary(log, start, end)
        # Who halted counts as late here: a halt is what an incident begins with, and quartiles stand some.
        times = sorted(row[1] / 1000.0 for row, why in zip(rows, summary.reasons, strict=True) if why in {KEPT, STOP})
        part = share(self.sight.window(name, start, end), len(rows), log.length_m, log.free_mps)
        return Signs(
            start, end, times[len(times) // 4] if len(times) >= MIN_VEHICLES else 0.0, len(times),
            log.length_m / log.free_mps, (1.0 - part) * log.length_m, summary.speed_mps or -1.0,
        )  # fmt: skip

    @staticmethod
    def _summary(log: _Log, start: int, end: int) -> tuple[Summary, list[_Row]]:
        rows = [row for row in log.rows if start <= row[0] < end]
        times = [row[1] / 1000.0 for row in rows]
        return summarise(times, log.length_m, log.free_mps, [class_of(row[2]) for row in rows]), rows

    def _window(self, name: str, log: _Log, end: int) -> list[dict[str, Any]]:
        start = end - WINDOW_MS
        summary, rows = self._summary(log, start, end)
        figures = [summary.vehicles, summary.rejected, round(summary.travel_s * 1000)]
        latest = end + STEP_MS == self.next_ms
        wanted = bool(rows) or (latest and log.busy)
        if latest:
            log.busy = bool(rows)
            self._forget(log)
        if not wanted or log.told.get(end) == figures:
            return []
        log.told[end] = figures
        known = summary.speed_mps > 0
        index = tpi(summary.speed_mps, log.free_mps) if known else 10.1
        return [
            {
                "zone": self.zone,
                "link": name,
                "origin": "GANTRY",
                "from_ms": start,
                "to_ms": end,
                "length": round(log.length_m * 10),
                "vehicles": summary.vehicles,
                "rejected": summary.rejected,
                "travel_time": figures[2],
                "speed": _speed(summary.speed_mps) if known else _NO_SPEED,
                "free_speed": _speed(log.free_mps),
                "level": level(summary.speed_mps, log.free_mps),
                "tpi": round(index * 10),
                "singles": sum(
                    row[3] == SINGLE and reason == KEPT for row, reason in zip(rows, summary.reasons, strict=True)
                ),
                "dropped_fast": summary.reasons.count(FAST),
                "dropped_stop": summary.reasons.count(STOP),
                "dropped_missed": summary.reasons.count(MISSED),
                "classes": _by_class(rows, summary, log.length_m),
                **self._load(log, end, summary.speed_mps),
                **self._speeds(name, log, (start, end), _kept(rows, summary) if known else [], len(rows)),
                **_forecast(log.forecast if latest else None),
            }
        ]

    @staticmethod
    def _load(log: _Log, end: int, speed_mps: float) -> dict[str, int]:
        """Return the flow and what it says of the level of service."""
        types = [row[2] for row in log.rows if end - FLOW_MS <= row[0] < end]
        units = sum(CAR_UNITS.get(kind, 1.0) for kind in types) * _HOUR_MS / FLOW_MS
        return {
            "flow": min(65534, len(types) * _HOUR_MS // FLOW_MS),
            "lanes": log.lanes,
            "service": service(units, log.lanes, speed_mps, log.free_mps),
        }

    def _speeds(
        self, name: str, log: _Log, window: tuple[int, int], kept: Sequence[float], passed: int
    ) -> dict[str, int]:
        """Return what gantries and tracks say of the speed, each and together."""
        seen = self.sight.window(name, *window)
        part = share(seen, passed, log.length_m, log.free_mps)
        gantries = of_passages(kept, log.length_m, log.forecaster.drift)
        tracks = of_tracks(seen.seconds, seen.metres, seen.squares, part, log.length_m)
        fused, made = blend(gantries, tracks)
        return {
            "speed_sd": _sd(gantries),
            "rsu_speed": _mean(tracks),
            "rsu_speed_sd": _sd(tracks),
            "rsu_share": round(part * 100),
            "fused_speed": _mean(fused),
            "fused_speed_sd": _sd(fused),
            "fused_from": made,
        }

    def _forget(self, log: _Log) -> None:
        oldest = self.next_ms - HISTORY_MS - WINDOW_MS
        self.sight.forget(oldest)
        if log.rows and log.rows[0][0] < oldest:
            log.rows = [row for row in log.rows if row[0] >= oldest]
            log.told = {end: figures for end, figures in log.told.items() if end >= oldest}

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "next_ms": self.next_ms,
            "unknown": self.unknown,
            "late": self.late,
            "sight": self.sight.state(),
            "logs": {
                name: {
                    "rows": [list(row) for row in log.rows],
                    "told": [[end, *figures] for end, figures in log.told.items()],
                    "dirty": list(log.dirty),
                    "busy": log.busy,
                    "lanes": log.lanes,
                    "forecaster": log.forecaster.state(),
                    "forecast": None if log.forecast is None else astuple(log.forecast),
                }
                for name, log in self._logs.items()
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``; sections that the map no longer has are dropped."""
        self.next_ms, self.unknown, self.late = state["next_ms"], state["unknown"], state["late"]
        self.sight.load(state["sight"])
        for name, row in state["logs"].items():
            if name in self._logs:
                log = self._logs[name]
                log.rows = [(arrival, travel, kind, how) for arrival, travel, kind, how in row["rows"]]
                log.told = {end: list(figures) for end, *figures in row["told"]}
                log.dirty, log.busy, log.lanes = list(row["dirty"]), row["busy"], row["lanes"]
                log.forecaster.load(row["forecaster"])
                log.forecast = None if row["forecast"] is None else Forecast(*row["forecast"])


def _kept(rows: Sequence[_Row], summary: Summary) -> list[float]:
    """Return the travel times that were kept, s."""
    return [row[1] / 1000.0 for row, reason in zip(rows, summary.reasons, strict=True) if reason == KEPT]


def _by_class(rows: Sequence[_Row], summary: Summary, length_m: float) -> list[dict[str, int]]:
    times: dict[int, list[float]] = {}
    for row, reason in zip(rows, summary.reasons, strict=True):
        if reason == KEPT:
            times.setdefault(class_of(row[2]), []).append(row[1] / 1000.0)
    return [
        {
            "vehicle_class": kind,
            "vehicles": len(own),
            "travel_time": round(sum(own) / len(own) * 1000),
            "speed": _speed(len(own) * length_m / sum(own)),
        }
        for kind, own in sorted(times.items())
    ]


def _mean(one: Estimate | None) -> int:
    return _NO_SPEED if one is None else _speed(one.speed)


def _sd(one: Estimate | None) -> int:
    return _NO_SPEED if one is None else _speed(one.sd)


def _forecast(said: Forecast | None) -> dict[str, int]:
    if said is None:
        return {"forecast_ms": 0, "forecast": 0, "forecast_low": 0, "forecast_high": 0}
    ends = {"forecast": said.mean_s, "forecast_low": said.low_s, "forecast_high": said.high_s}
    return {"forecast_ms": said.from_ms, **{name: round(s * 1000) for name, s in ends.items()}}


def _speed(mps: float) -> int:
    return min(65534, round(mps * 100))
