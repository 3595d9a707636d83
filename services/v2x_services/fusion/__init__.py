"""Fusion as a service: `v2x fuse`."""

from __future__ import annotations

import asyncio
from typing import Any

from v2x.topics import OBSERVATIONS

from v2x_services.fusion.cores import Cores
from v2x_services.fusion.service import Fusion
from v2x_services.fusion.tails import OUTPUT_TOPICS
from v2x_services.http import HealthServer
from v2x_services.kafka import KafkaSink
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings


async def run(settings: Settings, stop: asyncio.Event | None = None, cores: Cores | None = None) -> None:
    """Fuse until ``stop`` is set (or cancelled), with /metrics and health; raises what ended it otherwise."""
    stop = stop or asyncio.Event()
    fatal = _FatalSlot(stop)
    asyncio.get_running_loop().set_exception_handler(fatal)
    metrics = Metrics("fusion")
    sink = KafkaSink(
        settings.kafka_bootstrap,
        (*OUTPUT_TOPICS, OBSERVATIONS),
        client_id="v2x-fusion",
        linger_s=settings.flush_ms / 1000,
        max_pending=settings.pending_bytes,
    )
    if cores is None:
        from v2x_services.fusion.domain import DomainCores  # noqa: PLC0415  (fusion's kernels: 1 s that tests on a toy core save)

        cores = DomainCores(settings)
    fusion = Fusion(settings, cores, sink, metrics)
    server = HealthServer(metrics, fusion.not_ready, settings.host, settings.fusion_metrics_port)
    await server.start()
    try:
        server.tell(settings.state_dir)
        await fusion.run(stop)
    finally:
        await server.stop()
    fatal.raise_if_set()


class _FatalSlot:
    """Keeps the first error that no one caught, and stops the service: libraries' tasks must not die in silence."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._error: BaseException | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Be the loop's exception handler."""
        loop.default_exception_handler(context)
        error = context.get("exception")
        if isinstance(error, Exception) and self._error is None:
            self._error = error
            self._stop.set()

    def raise_if_set(self) -> None:
        """Raise what was kept."""
        if self._error is not None:
            raise self._error
