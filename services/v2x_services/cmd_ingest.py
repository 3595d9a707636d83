"""`v2x ingest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def ingest(
    config: Annotated[Path | None, typer.Option(help="Settings file (default: v2x.toml, if it is there).")] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="Kafka bootstrap servers, host:port.")] = None,
    mqtt_host: Annotated[str | None, typer.Option(help="MQTT broker.")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="MQTT port.")] = None,
    zones: Annotated[Path | None, typer.Option(help="zones.json.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the key file, if none is named.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key of pseudonyms and sealed dead letters.")] = None,
    ingest_id: Annotated[str | None, typer.Option(help="Names the MQTT sessions and the ticks.")] = None,
    shard: Annotated[int, typer.Option(help="Which of the ingest shards this is, from 0.")] = 0,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0: any free one.")] = None,
) -> None:
    """Take messages from MQTT, check them and write them to Kafka until SIGTERM or Ctrl-C, which stop it cleanly."""
    import asyncio  # noqa: PLC0415 - `v2x --help` must be quick
    import signal  # noqa: PLC0415

    import uvloop  # noqa: PLC0415

    from v2x_services import log  # noqa: PLC0415
    from v2x_services.ingest import app  # noqa: PLC0415
    from v2x_services.settings import Settings  # noqa: PLC0415

    settings = Settings.load(
        config,
        kafka_bootstrap=kafka,
        mqtt_host=mqtt_host,
        mqtt_port=mqtt_port,
        zones_path=zones,
        state_dir=state_dir,
        key_file=key_file,
        ingest_id=ingest_id,
        ingest_metrics_port=metrics_port,
    )
    log.setup("ingest", settings.log_format, settings.log_level)

    async def run() -> None:
        stop = asyncio.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, stop.set)
        await app.run(settings, shard, stop)

    uvloop.run(run())
