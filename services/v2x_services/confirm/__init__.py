"""Confirmed delivery as a service: `v2x confirm`."""

from __future__ import annotations

import asyncio

from v2x_services.confirm.app import Confirm
from v2x_services.http import HealthServer
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings


async def run(settings: Settings, stop: asyncio.Event | None = None) -> None:
    """Confirm until ``stop`` is set (or cancelled), with /metrics and health; raises what ended it otherwise."""
    metrics = Metrics("confirm")
    confirm = Confirm(settings, metrics)
    async with HealthServer(metrics, confirm.not_ready, settings.host, settings.metrics_port("confirm")) as server:
        server.tell(settings.state_dir)
        await confirm.run(stop or asyncio.Event())
