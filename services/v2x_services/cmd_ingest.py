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
    shard: Annotated[
        str | None, typer.Option(metavar="i/n", help="Be number i (from 0) of n processes that share the devices.")
    ] = None,
    leave: Annotated[
        bool, typer.Option("--leave", help="Empty and end the MQTT sessions that this shard left behind, then exit.")
    ] = False,
    standby: Annotated[
        int | None,
        typer.Option(min=0, max=63, help="Work or stand by, as this number of several that do."),
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0: any free one.")] = None,
) -> None:
    """Take messages from MQTT, check them and write them to Kafka until SIGTERM or Ctrl-C, which stop it cleanly.

    Several processes share the devices with --shard 0/2 and --shard 1/2. To go from one number of shards to another:
    start the new set, stop the old one when all of the new are ready, then end each old one with --leave
    (docs/operations.md).

    With --standby, the first of several processes of a shard with one --state-dir works; the others have all loaded and
    wait. When it stops or dies, one of them takes over its MQTT sessions: start it again, and it stands by.
    """
    from v2x.errors import ConfigError  # noqa: PLC0415 - `v2x --help` must be quick
    from v2x.shards import Shard  # noqa: PLC0415

    from v2x_services import log  # noqa: PLC0415
    from v2x_services.ingest import app  # noqa: PLC0415
    from v2x_services.running import serve  # noqa: PLC0415
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
    if shard is None and settings.ingest_shards > 1:
        n = settings.ingest_shards
        raise ConfigError(f"ingest_shards is {n}: say which one this is, --shard 0/{n} to {n - 1}/{n}")
    if leave and standby is not None:
        raise ConfigError("give --leave or --standby, not both")
    place = Shard.parse(shard or "0/1")
    log.setup("ingest", settings.log_format, settings.log_level)
    serve(lambda stop: app.run(settings, place, stop, leaving=leave, standby=standby))
