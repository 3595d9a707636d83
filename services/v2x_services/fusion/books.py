"""What a fusion process has done, in its metrics: what it took, what became of it, what is held, how far it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from aiokafka import TopicPartition

from v2x_services.fusion.cores import INPUT_TOPICS, account
from v2x_services.fusion.saving import Place
from v2x_services.metrics import Metrics
from v2x_services.ports import LogSink


class Books:
    """The books of one process; ``places`` are its partitions of the moment."""

    def __init__(
        self,
        metrics: Metrics,
        sink: LogSink,
        places: Mapping[TopicPartition, Place],
        highwater: Callable[[TopicPartition], int | None],
    ) -> None:
        """``highwater`` returns where a partition ends, if that is known."""
        self._metrics, self._sink, self._places, self._highwater = metrics, sink, places, highwater
        self._took: Counter[str] = Counter()  # of partitions that others have now
        self._left: Counter[tuple[str, str]] = Counter()
        metrics.before_scrape(self._refresh)

    def gone(self, tp: TopicPartition, place: Place) -> None:
        """Keep what was done with a partition that another process has now."""
        took, left = account(place.stage.core.counters)
        self._took[tp.topic] += took - place.before[0]
        self._left.update({(tp.topic, why): n - place.before[1].get(why, 0) for why, n in left.items()})
        self._metrics.set("v2x_fusion_lag_records", 0, topic=tp.topic, partition=str(tp.partition))
        if tp.topic == INPUT_TOPICS[0]:
            self._metrics.set("v2x_fusion_tracks", 0, partition=str(tp.partition))

    def _refresh(self) -> None:
        """Bring what others keep into the metrics, at a scrape."""
        m = self._metrics
        m.set("v2x_fusion_outputs_in_flight", self._sink.pending_records)
        export_sink(m, self._sink)
        for tp, place in self._places.items():
            high = self._highwater(tp)
            if high is not None:
                lag = max(0, high - 1 - place.stage.core.position)
                m.set("v2x_fusion_lag_records", lag, topic=tp.topic, partition=str(tp.partition))
        self._account()

    def _account(self) -> None:
        """Bring the cores' books into the metrics: what this process added to them."""
        effect, dropped, held = self._took.copy(), self._left.copy(), Counter[str]()
        for tp, place in self._places.items():
            counters = place.stage.core.counters
            took, left = account(counters)
            took_before, left_before = place.before
            effect[tp.topic] += took - took_before
            held[tp.topic] += counters.get("held", 0)
            dropped.update({(tp.topic, reason): n - left_before.get(reason, 0) for reason, n in left.items()})
            if "tracks" in counters:
                self._metrics.set("v2x_fusion_tracks", counters["tracks"], partition=str(tp.partition))
        for topic, n in effect.items():
            self._metrics.set("v2x_fusion_fused_total", n, topic=topic)
            self._metrics.set("v2x_fusion_in_flight", held[topic], topic=topic)
        for (topic, reason), n in dropped.items():
            self._metrics.set("v2x_fusion_dropped_total", n, topic=topic, reason=reason)


def export_sink(metrics: Metrics, sink: LogSink) -> None:
    """Bring a sink's own counters into the metrics."""
    metrics.set("v2x_sink_pending_bytes", sink.pending_bytes)
    counters = getattr(sink, "counters", None)  # a fake has none
    if counters is not None:
        for field in ("records", "batches", "retries", "refused"):
            for topic, n in getattr(counters, field).items():
                metrics.set(f"v2x_sink_{field}_total", n, topic=topic)
