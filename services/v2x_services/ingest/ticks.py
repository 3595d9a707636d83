"""Ticks: time passes in a partition of ``v2x.observations`` that has received nothing for a while.

Fusion's time-outs follow the stamps of the log, so a silent partition must get a record now and then. Any ingest's tick
counts; it claims no completeness.
"""

from __future__ import annotations

import asyncio

import numpy as np
from v2x.columns import I64, Encoder
from v2x.topics import OBSERVATIONS

from v2x_services.ports import NO_TOKEN, Clock, LogSink


class Silence:
    """Since when each partition has been silent, monotonic microseconds."""

    __slots__ = ("_clock", "last")

    def __init__(self, partitions: int, clock: Clock) -> None:
        self._clock = clock
        self.last: I64 = np.zeros(partitions, np.int64)  # when a record was last written

    def over(self, us: int) -> list[int]:
        """Return partitions that have been silent for ``us`` or longer; they count as broken now."""
        now = self._clock.monotonic_us()
        silent = np.flatnonzero(now - self.last >= us)
        self.last[silent] = now
        return silent.tolist()


class Ticker:
    """Writes ticks while it runs."""

    def __init__(
        self, source: str, sink: LogSink, silence: Silence, encoder: Encoder, clock: Clock, tick_ms: int
    ) -> None:
        self.ticks = 0
        self._source = source
        self._sink = sink
        self._silence = silence
        self._encoder = encoder
        self._clock = clock
        self._tick_us = tick_ms * 1000

    def tick(self) -> int:
        """Write what is due now; nothing while Kafka is behind, or ticks would pile up. Return how many."""
        if self._sink.pending_bytes > 1 << 20:
            return 0
        silent = self._silence.over(self._tick_us)
        if silent:
            now_ms = self._clock.now_us() // 1000
            value = self._encoder.encode("tick", {"source": self._source, "ts_ms": now_ms})
            for partition in silent:
                self._sink.append(OBSERVATIONS, partition, None, value, [], NO_TOKEN)
            self.ticks += len(silent)
        return len(silent)

    async def run(self) -> None:
        """Look twice a tick, for ever."""
        while True:
            self.tick()
            await asyncio.sleep(self._tick_us / 2e6)
