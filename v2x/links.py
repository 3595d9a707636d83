"""Sections: single passages in, travel time, space-mean speed and level of service out, window by window.

A window is 60 s long and a new one ends every 10 s of event time; a passage belongs to the windows that its arrival
at the second gantry falls in, [from, to). A window is told 5 s after its end (a gantry's record takes about 3 s to
arrive) and told again if a late passage changes it within ten minutes.

The mean over vehicles that travelled the same length L is harmonic in speed: n L / sum(T). The arithmetic mean of
speeds is always higher. Stamps of field systems are truncated to whole seconds: one passage is off by up to a second
either way, the mean over n by much less, without bias.

How to call (engine)::

    stats = SectionStats(zone, [s for s in zones.sections if s.zone == zone])
    stats.passage(record)                       # dict of passage.avsc
    for row in stats.advance(event_ms): ...     # dicts of link_state.avsc but generation, partition, offset, index
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Protocol

WINDOW_MS: Final = 60_000
STEP_MS: Final = 10_000
GRACE_MS: Final = 5_000
HISTORY_MS: Final = 600_000  # late passages change windows for this long
MIN_VEHICLES: Final = 3  # fewer say nothing about the traffic
IMPLAUSIBLE_FACTOR: Final = 1.5  # of the free speed (domain: beyond 1.5 times the limit)
SLOWEST_MPS: Final = 0.5  # slower, it stood somewhere for most of the time
MAD_SIGMAS: Final = 3.5
MAD_TO_SIGMA: Final = 1.4826
MIN_SPREAD: Final = 0.5  # of the median: lorries among cars are no outliers, a halt at a service area is
# GB/T 33171-2016: v / v_free above this is level 1 (free) .. 4; else 5
LEVEL_RATIOS: Final = (0.70, 0.50, 0.40, 0.30)
# delay-time proportion 1 - v / v_free at TPI 0, 2, 4, 6, 8, 10
TPI_KNOTS: Final = (0.0, 0.3, 0.5, 0.6, 0.7, 1.0)


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


def summarise(travel_s: Sequence[float], length_m: float, free_mps: float) -> Summary:
    """Return the statistics of single travel times over a section, without outliers."""
    fastest = length_m / (free_mps * IMPLAUSIBLE_FACTOR)
    # Whole seconds: on a short section a true passage may look a second shorter than it was.
    plausible = [t for t in travel_s if t >= fastest - 1.0 and t > 0 and length_m / t >= SLOWEST_MPS]
    kept = plausible
    if len(plausible) >= MIN_VEHICLES:
        middle = median(plausible)
        spread = median(abs(t - middle) for t in plausible)
        reach = max(MAD_SIGMAS * MAD_TO_SIGMA * spread, MIN_SPREAD * middle)
        kept = [t for t in plausible if abs(t - middle) <= reach]
    rejected = len(travel_s) - len(kept)
    if len(kept) < MIN_VEHICLES:
        return Summary(len(kept), rejected, 0.0, 0.0)
    total = sum(kept)
    return Summary(len(kept), rejected, total / len(kept), len(kept) * length_m / total)


def level(speed_mps: float, free_mps: float) -> int:
    """Return the level by GB/T 33171: 1 free, 2 mostly free, 3 light, 4 moderate, 5 severe congestion; 0 unknown."""
    if speed_mps <= 0 or free_mps <= 0:
        return 0
    ratio = speed_mps / free_mps
    return 1 + sum(ratio <= bound for bound in LEVEL_RATIOS)


def tpi(speed_mps: float, free_mps: float) -> float:
    """Return the traffic performance index, 0 (free) to 10, linear between the bounds of the levels."""
    delay = min(1.0, max(0.0, 1.0 - speed_mps / free_mps))
    for i in range(1, len(TPI_KNOTS)):
        low, high = TPI_KNOTS[i - 1], TPI_KNOTS[i]
        if delay <= high:
            return 2.0 * (i - 1) + 2.0 * (delay - low) / (high - low)
    return 10.0


@dataclass(slots=True)
class _Log:
    """Passages of one section, and what was told of it."""

    length_m: float
    free_mps: float
    rows: list[tuple[int, int]] = field(default_factory=list)  # (arrival ms, travel ms), by arrival
    told: dict[int, list[int]] = field(default_factory=dict)  # window end -> [vehicles, rejected, travel ms]
    dirty: list[int] = field(default_factory=list)  # window ends that a late passage changed
    busy: bool = False  # the last window had vehicles


class SectionStats:
    """Sections of one zone."""

    def __init__(self, zone: str, sections: Sequence[Section]) -> None:
        """Begin without passages."""
        self.zone = zone
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
        at = len(log.rows)
        while at and log.rows[at - 1] > (arrival, travel):
            at -= 1
        log.rows.insert(at, (arrival, travel))
        first = (arrival // STEP_MS + 1) * STEP_MS
        for end in range(first, first + WINDOW_MS, STEP_MS):
            if self.next_ms and end < self.next_ms and end not in log.dirty:
                log.dirty.append(end)

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
                out += self._window(name, log, end)
        return out

    def _revised(self, name: str, log: _Log) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for end in sorted(log.dirty):
            out += self._window(name, log, end)
        log.dirty.clear()
        return out

    def _window(self, name: str, log: _Log, end: int) -> list[dict[str, Any]]:
        start = end - WINDOW_MS
        times = [travel / 1000.0 for arrival, travel in log.rows if start <= arrival < end]
        summary = summarise(times, log.length_m, log.free_mps)
        figures = [summary.vehicles, summary.rejected, round(summary.travel_s * 1000)]
        latest = end + STEP_MS == self.next_ms
        wanted = bool(times) or (latest and log.busy)
        if latest:
            log.busy = bool(times)
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
                "speed": min(65534, round(summary.speed_mps * 100)) if known else 65535,
                "free_speed": min(65534, round(log.free_mps * 100)),
                "level": level(summary.speed_mps, log.free_mps),
                "tpi": round(index * 10),
            }
        ]

    def _forget(self, log: _Log) -> None:
        oldest = self.next_ms - HISTORY_MS - WINDOW_MS
        if log.rows and log.rows[0][0] < oldest:
            log.rows = [row for row in log.rows if row[0] >= oldest]
            log.told = {end: figures for end, figures in log.told.items() if end >= oldest}

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "next_ms": self.next_ms,
            "unknown": self.unknown,
            "late": self.late,
            "logs": {
                name: {
                    "rows": [list(row) for row in log.rows],
                    "told": [[end, *figures] for end, figures in log.told.items()],
                    "dirty": list(log.dirty),
                    "busy": log.busy,
                }
                for name, log in self._logs.items()
            },
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``; sections that the map no longer has are dropped."""
        self.next_ms, self.unknown, self.late = state["next_ms"], state["unknown"], state["late"]
        for name, row in state["logs"].items():
            if name in self._logs:
                log = self._logs[name]
                log.rows = [(arrival, travel) for arrival, travel in row["rows"]]
                log.told = {end: list(figures) for end, *figures in row["told"]}
                log.dirty, log.busy = list(row["dirty"]), row["busy"]
