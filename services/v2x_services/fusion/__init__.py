"""Fusion as a service: `v2x fuse`."""

from __future__ import annotations

import asyncio
from typing import Any

from v2x.errors import ConfigError
from v2x.topics import OBSERVATIONS

from v2x_services.fusion.cores import INPUT_TOPICS, Cores
from v2x_services.fusion.group import Membership
from v2x_services.fusion.service import Fusion
from v2x_services.fusion.snapshots import SnapshotStore, StoreHeldError
from v2x_services.fusion.tails import OUTPUT_TOPICS
from v2x_services.http import HealthServer
from v2x_services.kafka import KafkaSink
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings


async def run(
    settings: Settings,
    stop: asyncio.Event | None = None,
    cores: Cores | None = None,
    *,
    worker: int | None = None,
    standby: int | None = None,
) -> None:
    """Fuse until ``stop`` is set (or cancelled), with /metrics and health; raises what ended it otherwise.

    ``worker``: this process's number in the group that shares the partitions; None: all that the settings name.
    ``standby``: its number among those of which one fuses them all, and the others stand by.
    """
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
    members = None if worker is None else membership(settings, worker)
    number = standby if worker is None else worker
    lock = None if number is None else number_lock(settings, number, "worker" if standby is None else "standby")
    fusion = Fusion(settings, cores, sink, metrics, members, standing_by=standby is not None)
    port = settings.metrics_port("fusion", number or 0)
    try:
        async with HealthServer(metrics, fusion.not_ready, settings.host, port) as server:
            server.tell(settings.state_dir, "fusion" if number is None else f"fusion-{number}")
            await fusion.run(stop)
    finally:
        if lock is not None:
            lock.close()
    fatal.raise_if_set()


def membership(settings: Settings, worker: int) -> Membership:
    """Return a worker's membership; ConfigError if the settings name partitions as well."""
    if settings.fusion_partitions != "all":
        msg = f"fusion_partitions is {settings.fusion_partitions}, but workers get theirs from the group: take one away"
        raise ConfigError(msg)
    return Membership(settings.kafka_bootstrap, INPUT_TOPICS, settings.fusion_group, worker)


def number_lock(settings: Settings, number: int, kind: str) -> SnapshotStore:
    """Return the lock of a process's number: two workers with the same would throw each other out of the group."""
    try:
        return SnapshotStore(settings.state_dir / "fusion" / f"{kind}-{number}")
    except StoreHeldError as e:
        raise ConfigError(f"fusion {kind} {number} runs already; give this one another number (--{kind})") from e


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
