"""The travel time of the next five minutes, with an interval that nine of ten true values lie in.

The logarithm of the travel time wanders; a Kalman filter follows it, and learns how fast it wanders from what surprised
it. The forecast is where it is now: a slope made it worse in SUMO's jams, at any gain. What did help is the flow. Where
vehicles are late *and* far fewer leave than usual, something holds them: who leaves queued longer by 1 - out / in for
every second that passes. Where as many leave again as before, the queue dissolves, and times fall to what is usual.

How far off it may be is not taken from that model but from its own past: each forecast is compared with what came of
it, in units of what the model expected on that side (a jam may end at any time, so its lower side reaches towards the
usual), and the interval's ends are quantiles of these errors. Traffic changes its ways, so the quantiles are moved
until the share outside is what was promised, on each side for itself (adaptive conformal inference).

Once a minute of event time::

    f.step(end_ms, mean_s, n, sd_s)       # the minute that ended; n 0: nobody arrived
    f.judge(from_ms, mean_s)              # five minutes that are over, by when they began
    f.say()                               # Forecast of the five minutes from the last step on; None: too little known
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, log1p, sqrt
from typing import Any, Final

MINUTES: Final = 5
PROMISED: Final = 0.9
SIDE: Final = (1.0 - PROMISED) / 2
SURE_MS: Final = 180_000  # of passages before the first forecast
PRIOR_DRIFT: Final = 4e-4  # variance of the logarithm in a minute: 2 %
DRIFTS: Final = (1e-5, 0.01)  # from a third of a per cent to 10 % in a minute
FLOOR: Final = 0.02  # of the logarithm: the model is never surer than this
WORST: Final = 4.0  # errors beyond so many sd are taken for so many: one incident is not what is usual
DRIFT_SHARE: Final = 0.1  # weight of the newest surprise
NORMAL: Final = 1.645  # of an interval before there are errors to learn from
ERRORS: Final = 240  # four hours of forecasts
ENOUGH: Final = 20  # errors before quantiles are taken from them
STEP: Final = 0.01  # by how much one miss moves a quantile
SIDES: Final = (0.002, 0.2)
BEYOND: Final = 0.5  # sd beyond the worst error yet, where less than one of so many is to lie outside
RISEN: Final = 0.15  # of the logarithm over the usual, from which on something may hold the vehicles
FEWER: Final = 3.0  # sd of a Poisson count, by which fewer leave than usual
USUAL: Final = (0.02, 0.3)  # share by which the usual time follows a minute that is slower, one that is quicker
FLOW: Final = (0.05, 0.005)  # ... and the usual flow one of free traffic, one of a jam: who comes is not who leaves
LEAVES: Final = 0.3  # weight of the newest minute of a flow that is held
FREED: Final = 1.5  # times that flow: the queue dissolves
FALL: Final = 0.45  # of what a dissolving queue is beyond the usual, half of the five minutes through it
UNSURE: Final = 0.6  # sd of rise, fall and what is beyond the usual, as a share of each
FORGET_MS: Final = 1_800_000  # after so long without passages everything but the errors begins anew


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is said: mean travel time of those who arrive in the five minutes from ``from_ms`` on, seconds."""

    from_ms: int
    mean_s: float
    low_s: float
    high_s: float


class Forecaster:
    """One section's."""

    def __init__(self) -> None:
        self.drift = PRIOR_DRIFT
        self._level = self._var = 0.0
        self._first = self._last = self._now = 0  # ms: first and last minute with passages, last minute
        self._noise = 0.0  # variance of a minute's mean, smoothed
        self._usual = self._flow = 0.0  # logarithm of the time, vehicles in a minute
        self._held = 0.0  # vehicles that leave in a minute where something holds them; 0: nothing does
        self._trend = 0.0  # of the logarithm until the middle of the five minutes: it queues up, or dissolves
        self._said: dict[int, tuple[float, float, float, float, float]] = {}  # from ms: log, both sd, low, high
        self._errors: list[float] = []  # in units of sd, oldest first
        self._sides = [SIDE, SIDE]  # shares aimed at below and above
        self.judged = self.inside = 0

    def step(self, end_ms: int, mean_s: float, n: int, sd_s: float) -> None:
        """Take the minute that ended; ``mean_s`` and ``sd_s`` of its ``n`` travel times."""
        self._now = end_ms
        if self._last and end_ms - self._last > FORGET_MS:
            self._first = self._last = 0
            self._said.clear()
        self._var += self.drift
        if n <= 0 or mean_s <= 0:
            return
        told = log(mean_s)
        noise = max((sd_s / mean_s) ** 2, 1e-4) / n
        if not self._first:
            self._first, self._level, self._var, self._noise = end_ms, told, noise, noise
            self._usual, self._flow, self._held, self._trend = told, float(n), 0.0, 0.0
        self._last = end_ms
        surprise = told - self._level
        total = self._var + noise
        wander = surprise * surprise - total + self.drift  # what the drift should have been, on average
        self.drift += DRIFT_SHARE * (min(max(wander, 0.0), 100.0 * self.drift) - self.drift)
        self.drift = min(max(self.drift, DRIFTS[0]), DRIFTS[1])
        gain = self._var / total
        self._level += gain * surprise
        self._var *= 1.0 - gain
        self._noise += 0.2 * (noise - self._noise)
        self._queue(n, told, noise)

    def _queue(self, n: int, told: float, noise: float) -> None:
        """Tell by the ``n`` that left in the last minute whether a queue grows or dissolves."""
        fewer = self._flow - n > FEWER * sqrt(self._flow)
        if fewer and told > max(self._level, self._usual + RISEN + FEWER * sqrt(noise)):
            self._level, self._var = told, noise  # this is no wandering: what comes begins where the last minute was
        self._usual += USUAL[self._level < self._usual] * (self._level - self._usual)
        beyond = self._level - self._usual
        self._trend = 0.0
        if fewer and beyond > RISEN:
            self._held += (LEAVES if self._held else 1.0) * (n - self._held)
            self._trend = log1p((1.0 - n / self._flow) * 30.0 * MINUTES / exp(self._level))
        elif beyond <= RISEN:
            self._held = 0.0
        elif self._held and n > FREED * self._held:
            self._trend = -FALL * beyond
        self._flow += FLOW[beyond > RISEN] * (n - self._flow)

    def say(self) -> Forecast | None:
        """Return the forecast of the five minutes that begin now; it is remembered, to be judged."""
        if not self._first or self._now - self._first < SURE_MS:
            return None
        middle = self._level + self._trend
        own = self._var + self.drift * (MINUTES + 1) / 2 + self._noise / MINUTES + FLOOR**2
        own += (UNSURE * self._trend) ** 2
        below = sqrt(own + (UNSURE * max(0.0, self._level - self._usual)) ** 2)
        above = sqrt(own)
        low, high = self._ends()
        out = (middle, below, above, middle + low * below, middle + high * above)
        self._said[self._now] = out
        return Forecast(self._now, exp(middle), exp(out[3]), exp(out[4]))

    def judge(self, from_ms: int, mean_s: float) -> None:
        """Learn from a forecast what came of it; ``mean_s`` 0: nobody arrived, nothing to learn."""
        said = self._said.pop(from_ms, None)
        if said is None or mean_s <= 0:
            return
        middle, below, above, low, high = said
        came = log(mean_s)
        self._errors.append(min(max((came - middle) / (below if came < middle else above), -WORST), WORST))
        del self._errors[:-ERRORS]
        self.judged += 1
        self.inside += low <= came <= high
        for side, missed in enumerate((came < low, came > high)):
            aimed = self._sides[side] + STEP * (SIDE - missed)
            self._sides[side] = min(max(aimed, SIDES[0]), SIDES[1])

    def _ends(self) -> tuple[float, float]:
        """Return the interval's ends in units of sd."""
        if len(self._errors) < ENOUGH:
            return -NORMAL, NORMAL
        rows = sorted(self._errors)
        below, above = (int(side * (len(rows) + 1)) for side in self._sides)  # of these and the next, at most so many
        low = rows[below - 1] if below else rows[0] - BEYOND
        high = rows[-above] if above else rows[-1] + BEYOND
        return min(low, -0.1), max(high, 0.1)

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "model": [self.drift, self._level, self._var, self._noise],
            "queue": [self._usual, self._flow, self._held, self._trend],
            "times": [self._first, self._last, self._now],
            "said": [[at, *row] for at, row in self._said.items()],
            "errors": list(self._errors),
            "sides": list(self._sides),
            "judged": [self.judged, self.inside],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.drift, self._level, self._var, self._noise = state["model"]
        self._usual, self._flow, self._held, self._trend = state["queue"]
        self._first, self._last, self._now = state["times"]
        self._said = {at: (a, b, c, d, e) for at, a, b, c, d, e in state["said"]}
        self._errors, self._sides = list(state["errors"]), list(state["sides"])
        self.judged, self.inside = state["judged"]
