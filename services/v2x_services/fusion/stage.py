"""One input partition on its way through its pure core: feed, suppress what is already out, hand the rest to the sink.

A step is one ``feed``. Its outputs carry the step's number as their token, so that the stage knows up to which step
everything is in Kafka: a snapshot may be written only for a state whose outputs are all out, or a crash after it would
lose them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from v2x.columns import I64, Output, Record

from v2x_services.fusion.tails import Position
from v2x_services.metrics import Metrics
from v2x_services.ports import Headers, LogSink

log = structlog.get_logger("fusion")
_NO_HEADERS: Final[Headers] = []  # shared; the sink does not change it


class Frozen(Protocol):
    """A state as it was."""

    def pack(self) -> bytes | memoryview:
        """Return the bytes of a snapshot; from any thread."""
        ...


class Core(Protocol):
    """A pure function of one partition's log: road fusion's Engine, or GantryStage."""

    @property
    def generation(self) -> str | None:
        """UUID of the world that its input belongs to."""
        ...

    @property
    def position(self) -> int:
        """Last input offset taken in; -1 before the first."""
        ...

    @property
    def counters(self) -> dict[str, int]:
        """What became of the input (see cores.account)."""
        ...

    def feed(self, records: Sequence[Record]) -> list[Output]:
        """Take records in order, return what they make."""
        ...

    def freeze(self) -> Frozen:
        """Return the state after ``position``, as it is now."""
        ...


@dataclass(slots=True)
class Step:
    """One feed whose outputs are not all in Kafka yet."""

    left: int
    made: float  # monotonic


@dataclass(slots=True)
class Steps:
    """Numbers the steps of all stages, and settles them as the sink reports."""

    metrics: Metrics
    open: dict[int, tuple[Stage, Step]] = field(default_factory=dict)
    last: int = 0

    def done(self, tokens: list[int] | I64, error: Exception | None) -> None:
        """Be the sink's completion: a refused record is lost for good, so it is told loudly."""
        now = time.monotonic()
        self.metrics.inc("v2x_fusion_written_total" if error is None else "v2x_fusion_refused_total", len(tokens))
        if error is not None:
            log.error("outputs refused", outputs=len(tokens), error=str(error))
        for number, n in Counter(tokens).items():
            stage, step = self.open[number]
            step.left -= n
            if not step.left:
                del self.open[number]
                del stage.open[number]
                if error is None:
                    stage.to_kafka.observe(now - step.made)


class Stage:
    """An input partition with its core."""

    def __init__(
        self,
        topic: str,
        partition: int,
        core: Core,
        *,
        sink: LogSink,
        steps: Steps,
        metrics: Metrics,
        out: Mapping[str, Position],
    ) -> None:
        """``out`` is how far each output topic's partition is (see tails)."""
        self.topic, self.partition, self.core = topic, partition, core
        self.open: dict[int, None] = {}  # numbers of steps not yet all in Kafka
        self.dirty = False  # fed since the last snapshot
        self._sink, self._steps, self._metrics = sink, steps, metrics
        self._out = dict(out)
        self._records = metrics.value("v2x_fusion_records_total", topic=topic)
        self._step_s = metrics.hist("v2x_fusion_step_seconds", topic=topic)
        self._fused = metrics.hist("v2x_fusion_kafka_to_fused_seconds", topic=topic)
        self.to_kafka = metrics.hist("v2x_fusion_fused_to_kafka_seconds", topic=topic)

    def step(self, records: Sequence[Record]) -> int:
        """Feed records; return how many outputs went to the sink."""
        t0 = time.monotonic()
        outputs = self.core.feed(records)
        made = time.monotonic()
        self.dirty = True
        self._records.add(len(records))
        self._step_s.observe(made - t0)
        self._fused.observe(max(0.0, time.time() - records[-1].stamp_ms / 1000))
        return self.tell(outputs, made) if outputs else 0

    def tell(self, outputs: list[Output], made: float) -> int:
        """Hand on what was made (at ``made``, monotonic) and is not out yet; return how many that are."""
        for topic, n in Counter([o.topic for o in outputs]).items():
            self._metrics.inc("v2x_fusion_outputs_total", n, topic=topic)
        if self._out:
            outputs = self._unsuppressed(outputs)
        if outputs:
            number = self._steps.last = self._steps.last + 1
            self.open[number] = None
            self._steps.open[number] = (self, Step(len(outputs), made))
            append = self._sink.append
            for o in outputs:
                append(o.topic, o.partition, o.key, o.value, _NO_HEADERS, number)
        return len(outputs)

    @property
    def emitted(self) -> int:
        """Return the number of the last step that may have outputs under way."""
        return self._steps.last

    def all_out(self, number: int) -> bool:
        """Say whether every output of this stage's steps up to ``number`` is in Kafka."""
        first = next(iter(self.open), None)  # numbers grow, but are settled in any order
        return first is None or first > number

    def _unsuppressed(self, outputs: list[Output]) -> list[Output]:
        kept = []
        for o in outputs:
            limit = self._out.get(o.topic)
            if limit is None or (o.offset, o.nth) > limit:
                kept.append(o)
            else:
                self._metrics.inc("v2x_fusion_suppressed_total", topic=o.topic)
        if outputs[-1].offset > max(self._out.values())[0]:
            self._out.clear()  # the replay is over: everything from here on is new
        return kept
