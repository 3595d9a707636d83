"""`v2x fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from v2x_loadtest.options import Config, KafkaAt


def fuse(
    config: Config = None,
    kafka: KafkaAt = None,
    zones: Annotated[Path | None, typer.Option(help="zones.json.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the snapshots.")] = None,
    partitions: Annotated[str | None, typer.Option(help="Partitions to fuse: all, or 0-3,6.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0: any free one.")] = None,
    accept_other_version: Annotated[
        bool, typer.Option("--accept-other-version", help="Go on from an unclean snapshot of another version.")
    ] = False,
) -> None:
    """Fuse observations into tracks, events and link states until SIGTERM or Ctrl-C, which stop it cleanly."""
    import asyncio  # noqa: PLC0415
    import signal  # noqa: PLC0415

    import uvloop  # noqa: PLC0415

    from v2x_services import fusion, log  # noqa: PLC0415
    from v2x_services.settings import Settings  # noqa: PLC0415

    settings = Settings.load(
        config,
        kafka_bootstrap=kafka,
        zones_path=zones,
        state_dir=state_dir,
        fusion_partitions=partitions,
        fusion_metrics_port=metrics_port,
        accept_other_version=accept_other_version or None,
    )
    log.setup("fusion", settings.log_format, settings.log_level)

    async def run() -> None:
        stop = asyncio.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, stop.set)
        await fusion.run(settings, stop)

    uvloop.run(run())
