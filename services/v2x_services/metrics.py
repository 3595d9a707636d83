"""Metrics: counters cheap enough for the hot path, shown to Prometheus when it asks.

A service makes one ``Metrics``, binds the series it needs once (``bind``), and adds to plain attributes afterwards;
Prometheus' own objects appear only when scraped. What there is to bind is in ``catalogue``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from v2x_services.catalogue import BY_NAME, CATALOGUE, Kind, Law, Metric


class Value:
    """One series of a counter or gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, n: float = 1) -> None:
        """Add ``n``."""
        self.value += n

    def set(self, v: float) -> None:
        """Set a gauge, or a counter that is kept elsewhere and only shown here."""
        self.value = v


@nb.njit(  # type: ignore[misc, unused-ignore]
    "float64(float64, int64[:], float64, float64[::1], int64[::1])", nogil=True, cache=True
)
def _count_since(
    now: float, times: npt.NDArray[np.int64], unit: float, edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> float:
    total = 0.0
    for time in times:
        value = (now - time) * unit
        low, high = 0, edges.shape[0]
        while low < high:
            middle = (low + high) >> 1
            if edges[middle] < value:
                low = middle + 1
            else:
                high = middle
        counts[low] += 1
        total += value
    return total


class Hist:
    """One series of a histogram: a list of counts, found by bisection of the edges (upper edge included)."""

    __slots__ = ("_edges", "_many", "_ones", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.total = 0.0
        self._ones = [0] * (len(edges) + 1)  # counted one by one: for that a list is the quickest
        self._many = np.zeros(len(edges) + 1, np.int64)
        self._edges = np.array(edges, np.float64)

    @property
    def counts(self) -> list[int]:
        """Values counted in each bucket, the last one above all edges."""
        return [a + b for a, b in zip(self._ones, self._many.tolist(), strict=True)]

    def observe(self, v: float) -> None:
        """Count one value, in the metric's unit."""
        self._ones[bisect_left(self.edges, v)] += 1
        self.total += v

    def observe_since(self, now: float, times: npt.NDArray[np.int64], unit: float) -> None:
        """Count how long ago ``now`` each of a column of times is, some nanoseconds each; ``unit``: theirs, seconds."""
        self.total += _count_since(now, times, unit, self._edges, self._many)

    @property
    def count(self) -> int:
        """Return how many values were counted."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts as Prometheus wants them."""
        running, rows = 0, []
        for edge, n in zip((*self.edges, float("inf")), self.counts, strict=True):
            running += n
            rows.append(("+Inf" if edge == float("inf") else f"{edge:g}", float(running)))
        return rows


_TYPE_ERROR: Final = "metric {name} is a {type}: it has no {verb}"


class Metrics(Collector):
    """All series of one service."""

    def __init__(self, service: str, version: str = "") -> None:
        self.service = service
        self._series: dict[str, dict[tuple[str, ...], Value | Hist]] = {}
        self._refresh: list[Callable[[], None]] = []
        self.set("v2x_build_info", 1, service=service, version=version or _version())

    def value(self, name: str, **labels: str) -> Value:
        """Return the series of a counter or gauge, made at first use; KeyError if the catalogue has no such name."""
        series = self._get(name, labels)
        if not isinstance(series, Value):
            raise TypeError(_TYPE_ERROR.format(name=name, type="histogram", verb="single value"))
        return series

    def hist(self, name: str, **labels: str) -> Hist:
        """Return the series of a histogram."""
        series = self._get(name, labels)
        if not isinstance(series, Hist):
            raise TypeError(_TYPE_ERROR.format(name=name, type=BY_NAME[name].type, verb="buckets"))
        return series

    def bind(self, name: str, **labels: str) -> Any:
        """Return the series, a ``Value`` or a ``Hist``; typed callers take ``value`` or ``hist``."""
        return self._get(name, labels)

    def inc(self, name: str, n: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self.value(name, **labels).add(n)

    def set(self, name: str, v: float, **labels: str) -> None:
        """Set a gauge."""
        self.value(name, **labels).set(v)

    def clear(self, name: str) -> None:
        """Forget all series of a gauge whose labels come and go."""
        self._series.pop(name, None)

    def observe(self, name: str, v: float, **labels: str) -> None:
        """Count one value of a histogram."""
        self.hist(name, **labels).observe(v)

    def total(self, name: str) -> float:
        """Return the sum over all series of a counter or gauge (0 if none yet)."""
        return sum(s.value for s in self._series.get(name, {}).values() if isinstance(s, Value))

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Have ``refresh`` called before each scrape: for values that others keep (lag, engine counters)."""
        self._refresh.append(refresh)

    def refresh(self) -> None:
        """Bring values that others keep up to date."""
        for f in self._refresh:
            f()

    def imbalance(self, law: Law) -> float:
        """Return inflow less outflow: 0 when the books balance."""
        return self.total(law.inflow) - sum(self.total(name) for name in law.outflow)

    def collect(self) -> Iterator[Family]:
        """Yield families for Prometheus."""
        self.refresh()
        for metric in CATALOGUE:
            series = self._series.get(metric.name)
            if series:
                yield _family(metric, series.items())

    def describe(self) -> Iterable[Family]:
        """Say nothing in advance: the registry must not scrape us when we are added to it."""
        return ()

    def _get(self, name: str, labels: Mapping[str, str]) -> Value | Hist:
        metric = BY_NAME.get(name)
        if metric is None:
            msg = f"no metric {name!r} in the catalogue (v2x_services.catalogue.CATALOGUE): add a row for it there"
            raise KeyError(msg)
        if labels.keys() != set(metric.labels):
            msg = f"metric {name} has labels {metric.labels}, not {tuple(labels)}"
            raise KeyError(msg)
        family = self._series.setdefault(name, {})
        key = tuple(labels[label] for label in metric.labels)
        series = family.get(key)
        if series is None:
            series = family[key] = Hist(metric.buckets) if metric.type is Kind.HISTOGRAM else Value()
        return series


def _family(metric: Metric, series: Iterable[tuple[tuple[str, ...], Value | Hist]]) -> Family:
    text = f"{metric.help} ({metric.unit})"
    if metric.type is Kind.HISTOGRAM:
        hist = HistogramMetricFamily(metric.name, text, labels=metric.labels)
        for key, h in list(series):
            assert isinstance(h, Hist)
            hist.add_metric(key, h.buckets(), h.total)
        return hist
    make = CounterMetricFamily if metric.type is Kind.COUNTER else GaugeMetricFamily
    flat = make(metric.name, text, labels=metric.labels)
    for key, v in list(series):
        assert isinstance(v, Value)
        flat.add_metric(key, v.value)
    return flat


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  (slow import, once per service)

    try:
        return version("v2x-core")
    except PackageNotFoundError:
        return "unknown"
