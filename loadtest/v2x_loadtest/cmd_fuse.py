"""`v2x fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from v2x.errors import ConfigError

from v2x_loadtest.options import Config, KafkaAt

if TYPE_CHECKING:
    from v2x_services.settings import Settings


def fuse(
    config: Config = None,
    kafka: KafkaAt = None,
    zones: Annotated[Path | None, typer.Option(help="zones.json.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the snapshots.")] = None,
    partitions: Annotated[str | None, typer.Option(help="Partitions to fuse: all, or 0-3,6.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics; 0: any free one.")] = None,
    worker: Annotated[
        int | None,
        typer.Option(min=0, max=63, help="Join the group that shares the partitions, as this number."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Run so many workers, and start again those that die.")
    ] = None,
    standby: Annotated[
        int | None,
        typer.Option(min=0, max=63, help="Fuse or stand by, as this number of several that do."),
    ] = None,
    accept_other_version: Annotated[
        bool, typer.Option("--accept-other-version", help="Go on from an unclean snapshot of another version.")
    ] = False,
) -> None:
    """Fuse observations into tracks, events and link states until SIGTERM or Ctrl-C, which stop it cleanly.

    One process fuses all partitions, or those named. With --worker, any number of them share the partitions by a
    consumer group and may come, go and die at any time; their --state-dir must be one folder.

    With --standby, the first of several processes with one --state-dir fuses; the others follow it and keep the state
    without a word. When it stops or dies, one of them goes on within a second: start it again, and it stands by.
    """
    from v2x_services import fusion, log  # noqa: PLC0415
    from v2x_services.running import serve  # noqa: PLC0415
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
    if standby is not None and (worker is not None or workers is not None):
        raise ConfigError("give --standby (one fuses all) or --worker(s) (they share the partitions), not both")
    if workers is not None:
        if worker is not None:
            raise ConfigError("give --worker (be this one) or --workers (run so many), not both")
        keep_workers(settings, workers)
        return
    log.setup("fusion", settings.log_format, settings.log_level)
    serve(lambda stop: fusion.run(settings, stop, worker=worker, standby=standby))


def keep_workers(settings: Settings, count: int) -> None:
    """Run workers 0 to ``count`` - 1 as processes until SIGTERM or Ctrl-C; their logs are in the state folder."""
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from v2x_loadtest.cmd_up import prefixed  # noqa: PLC0415
    from v2x_loadtest.keep import Keeper, Service, stop_all  # noqa: PLC0415

    folder = settings.state_dir.resolve()
    env = settings.environment()
    services = [
        Service(f"fusion-{i}", ["fuse", "--worker", str(i)], folder, env, prefixed, folder) for i in range(count)
    ]
    keeper, asked = Keeper(prefixed), threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda *_: asked.set())
    try:
        for service in services:
            service.spawn()
            keeper.watch(service)
        asked.wait()
    finally:
        keeper.stop()
        stop_all(services)
