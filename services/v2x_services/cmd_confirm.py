"""`v2x confirm`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def confirm(
    config: Annotated[Path | None, typer.Option(help="Settings file (default: v2x.toml, if it is there).")] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="Kafka bootstrap servers, host:port.")] = None,
    mqtt_host: Annotated[str | None, typer.Option(help="MQTT broker.")] = None,
    mqtt_port: Annotated[int | None, typer.Option(help="MQTT port.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the saved state.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0: any free one.")] = None,
) -> None:
    """Tell devices which of their reliable messages are durable in Kafka, until SIGTERM or Ctrl-C.

    About once a second each active device hears on v2x/v1/{kind}/{id}/confirm/down up to which number its messages are
    in the log, which are missing, and which were refused (docs/devices.md).
    """
    from v2x_services import confirm as service  # noqa: PLC0415 - `v2x --help` must be quick
    from v2x_services import log  # noqa: PLC0415
    from v2x_services.running import serve  # noqa: PLC0415
    from v2x_services.settings import Settings  # noqa: PLC0415

    settings = Settings.load(
        config,
        kafka_bootstrap=kafka,
        mqtt_host=mqtt_host,
        mqtt_port=mqtt_port,
        state_dir=state_dir,
        confirm_metrics_port=metrics_port,
    )
    log.setup("confirm", settings.log_format, settings.log_level)
    serve(lambda stop: service.run(settings, stop))
