"""`v2x up`: everything on one machine, in the foreground."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Final

import typer

from v2x_loadtest.options import Config, KafkaAt
from v2x_loadtest.stack import Stack
from v2x_services.settings import Settings

__all__ = ["Stack", "prefixed", "up"]
_COLOURS: Final = {"up": "white", "ingest": "cyan", "fusion": "green", "confirm": "blue", "audit": "yellow"}
_lock = threading.Lock()


def prefixed(who: str, line: str) -> None:
    """Print a line of a part on stderr with its name before it."""
    with _lock:
        colour = _COLOURS.get(who.partition("-")[0], "magenta")
        typer.secho(f"{who:>9} │ ", fg=colour, nl=False, err=True)
        typer.echo(line, err=True)
        sys.stderr.flush()


def up(
    config: Config = None,
    zones: Annotated[Path | None, typer.Option(help="zones.json (default: the setting zones_path).")] = None,
    scene: Annotated[str | None, typer.Option(help="Use the zones of a recorded scene: motorway, urban.")] = None,
    run_dir: Annotated[Path, typer.Option(help="Folder for data, logs, state and ports.")] = Path(".v2x/run"),
    kafka: KafkaAt = None,
    mqtt: Annotated[str | None, typer.Option(help="A running MQTT broker, host:port, instead of our own.")] = None,
    partitions: Annotated[int | None, typer.Option(help="Partitions of each topic (default 8).")] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Take free ports; run.json tells them.")] = False,
) -> None:
    """Start brokers, topics, ingest, fusion, confirm and the standing audit; restart what dies; Ctrl-C stops all.

    The settings ingest_shards and fusion_workers give each several processes, standby a second one that takes
    over when the first stops or dies.
    Kafka listens on 9092 and MQTT on 1883 of the loopback, unless the settings say that they run elsewhere.
    """
    s = Settings.load(config, kafka_bootstrap=kafka, partitions=partitions, zones_path=zones)
    origin = {name: where for name, (_, where, _) in s.provenance().items()}
    given_mqtt = (s.mqtt_host, s.mqtt_port) if origin["mqtt_host"] != "default" else None
    if mqtt:
        host, _, port = mqtt.rpartition(":")
        if not port.isdecimal():
            raise typer.BadParameter(f"{mqtt!r} is not host:port", param_hint="--mqtt")
        given_mqtt = (host, int(port))
    stack = Stack(
        run_dir,
        _scene_zones(scene, run_dir) if scene else s.zones_path,
        partitions=s.partitions,
        shards=s.ingest_shards,
        workers=s.fusion_workers,
        standby=s.standby,
        kafka_bootstrap=s.kafka_bootstrap if origin["kafka_bootstrap"] != "default" else None,
        mqtt=given_mqtt,
        kafka_port=0 if free_ports else 9092,
        mqtt_port=0 if free_ports else s.mqtt_port,
        metrics_ports=(0, 0) if free_ports else (s.ingest_metrics_port, s.fusion_metrics_port),
        audit=True,
        extra={} if free_ports else {f"{n}_metrics_port": s.metrics_port(n) for n in ("confirm", "audit")},
        key_file=s.key_file,
        say=prefixed,
    )
    asked = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda *_: _interrupt(asked))
    try:
        prefixed("up", f"starting in {stack.run_dir}")
        stack.start()
        for name, service in stack.services.items():
            prefixed("up", f"{name} is ready: {service.url}/metrics")
        prefixed("up", f"ready: MQTT {stack.mqtt_host}:{stack.mqtt_port}, Kafka {stack.kafka_bootstrap}; Ctrl-C stops")
        (stack.run_dir / "run.json").write_text(json.dumps(stack.places(), indent=1) + "\n")
        asked.wait()
    except KeyboardInterrupt:
        pass
    finally:
        asked.set()  # a second Ctrl-C does not break off the clean stop
        prefixed("up", "stopping")
        (stack.run_dir / "run.json").unlink(missing_ok=True)
        stack.stop()


def _interrupt(asked: threading.Event) -> None:
    """Ask to stop; while still starting, break off."""
    if asked.is_set():
        return
    asked.set()
    raise KeyboardInterrupt


def _scene_zones(scene: str, run_dir: Path) -> Path:
    """Write the zones of a scene into the run's folder."""
    from v2x_loadtest.scene import load_scene  # noqa: PLC0415

    path = run_dir / "zones.json"
    run_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(load_scene(scene).zones, ensure_ascii=False), "utf-8")
    return path
