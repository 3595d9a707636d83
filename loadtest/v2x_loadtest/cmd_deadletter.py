"""`v2x deadletter list|show|replay`: what could not be taken in, and why. A dead letter is named partition:offset."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer
from v2x.errors import ConfigError
from v2x.topics import DEADLETTER

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.options import AsJson, Config, KafkaAt
from v2x_services.follow import follow
from v2x_services.publish import publish
from v2x_services.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show and replay what could not be taken in.")
Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Reason = Annotated[str | None, typer.Option(help="Only for this reason.")]
Name = Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `list` shows it.")]


class Letter(NamedTuple):
    """A dead letter and where it is."""

    name: str
    stamp_ms: int
    record: dict[str, Any]


@app.command("list")
def list_letters(
    config: Config = None,
    kafka: KafkaAt = None,
    device: Device = None,
    reason: Reason = None,
    last: Annotated[int | None, typer.Option(help="Only the last so many of each partition.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first, and how many there are by reason."""
    settings = Settings.load(config, kafka_bootstrap=kafka)
    letters = _read(settings.kafka_bootstrap, _chosen(device, reason), last)
    if as_json:
        for letter in letters:
            typer.echo(json.dumps(_plain(letter), ensure_ascii=False))
        return
    for letter in letters:
        r = letter.record
        when = datetime.fromtimestamp(r["rx_us"] / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        typer.echo(f"{letter.name:>10}  {when}  {r['reason']:<18} {r['topic']}  {r['size']} B  {r['detail']}")
    for why, n in Counter(letter.record["reason"] for letter in letters).most_common():
        typer.secho(f"{n:>8}  {why}", bold=True)
    if not letters:
        typer.echo("no dead letters")


@app.command()
def show(name: Name, config: Config = None, kafka: KafkaAt = None, as_json: AsJson = False) -> None:
    """Show one dead letter with its bytes."""
    settings = Settings.load(config, kafka_bootstrap=kafka)
    letter = _one(settings.kafka_bootstrap, name)
    if as_json:
        typer.echo(json.dumps(_plain(letter), ensure_ascii=False))
        return
    for key, value in letter.record.items():
        if key != "payload":
            typer.echo(f"{key:>12}  {value}")
    payload = letter.record["payload"]
    if letter.record["sealed"]:
        typer.echo("     payload  sealed: it holds plates or cards, and only `replay` with the key file opens it")
        return
    for at in range(0, len(payload), 16):
        row = payload[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "·" for b in row)
        typer.echo(f"{at:>12}  {row.hex(' '):<47}  {text}")


@app.command()
def replay(
    name: Annotated[str | None, typer.Argument(metavar="[PARTITION:OFFSET]", help="One; or choose by flags.")] = None,
    config: Config = None,
    kafka: KafkaAt = None,
    device: Device = None,
    reason: Reason = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be published.")] = False,
) -> None:
    """Publish dead letters again on their MQTT topics, after what was wrong with their taking-in is mended.

    Letters of which only the beginning was kept cannot be replayed. Exit code 1 if any was not delivered.
    """
    settings = Settings.load(config, kafka_bootstrap=kafka)
    if name is None and device is None and reason is None:
        raise typer.BadParameter("name one as PARTITION:OFFSET, or choose by --device or --reason")
    bootstrap = settings.kafka_bootstrap
    letters = [_one(bootstrap, name)] if name else _read(bootstrap, _chosen(device, reason))
    ready: list[tuple[str, bytes]] = []
    for letter in letters:
        payload = _payload(settings, letter)
        if payload is None:
            typer.secho(f"{letter.name}: only the beginning of it was kept, skipped", fg="yellow", err=True)
        elif not letter.record["topic"] or set(letter.record["topic"]) & set("+#\0"):
            typer.secho(f"{letter.name}: its topic cannot be published to, skipped", fg="yellow", err=True)
        else:
            ready.append((letter.record["topic"], payload))
    if dry_run:
        for topic, payload in ready:
            typer.echo(f"{topic}  {len(payload)} B")
        return
    codes = Counter(publish(settings.mqtt_host, settings.mqtt_port, ready)) if ready else Counter()
    typer.echo(f"published {len(ready)}, delivered {codes[0]}, not delivered {len(ready) - codes[0]}")
    if codes[0] != len(letters):
        raise typer.Exit(1)


def _payload(settings: Settings, letter: Letter) -> bytes | None:
    """Return the message's bytes, unsealed; None if they were cut."""
    payload: bytes = letter.record["payload"]
    if letter.record["sealed"]:
        from v2x_services.ingest.privacy import KEY_NAME, load_keys, unseal  # noqa: PLC0415  (only these need it)

        path = settings.key_file or settings.state_dir / KEY_NAME
        if not path.exists():
            msg = f"dead letter {letter.name} is sealed, and {path} is not there: give ingest's key file (V2X_KEY_FILE)"
            raise ConfigError(msg)
        payload = unseal(load_keys(path), payload)
    return payload if len(payload) == letter.record["size"] else None


def _chosen(device: str | None, reason: str | None) -> Callable[[dict[str, Any]], bool]:
    return lambda r: (device is None or r["device"] == device) and (reason is None or r["reason"] == reason)


def _one(bootstrap: str, name: str) -> Letter:
    found = [letter for letter in _read(bootstrap, lambda _: True) if letter.name == name]
    if not found:
        msg = f"there is no dead letter {name}; `v2x deadletter list` shows them"
        raise ConfigError(msg)
    return found[0]


def _read(bootstrap: str, wanted: Callable[[dict[str, Any]], bool], last: int | None = None) -> list[Letter]:
    async def collect() -> list[Letter]:
        codec = ReferenceCodec(Registry.load())
        found = []
        async for m in follow(bootstrap, [DEADLETTER], last=last, to_end=True):
            _, record = codec.decode_kafka(m.value)
            if wanted(record):
                found.append(Letter(f"{m.partition}:{m.offset}", m.timestamp, record))
        return sorted(found, key=lambda letter: letter.record["rx_us"])

    return asyncio.run(collect())


def _plain(letter: Letter) -> dict[str, Any]:
    return {
        "name": letter.name,
        "stamp_ms": letter.stamp_ms,
        **letter.record,
        "payload": letter.record["payload"].hex(),
    }
