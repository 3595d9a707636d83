"""`v2x deadletter list|show|replay|drop`: what could not be taken in, and why; a letter is named partition:offset."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from v2x.errors import BrokerError, ConfigError, DecodeError, SchemaError
from v2x.topics import DEADLETTER

from v2x_codecs.explain import explain
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.options import AsJson, Config, KafkaAt
from v2x_services.follow import follow
from v2x_services.publish import publish
from v2x_services.settings import Settings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, show, replay and drop what could not be taken in."
)
Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Reason = Annotated[str | None, typer.Option(help="Only for this reason.")]
Name = Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `list` shows it.")]


_END = -1  # of a partition, as DeleteRecords has it


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
    payload: bytes = letter.record["payload"]
    if letter.record["sealed"]:
        typer.echo("     payload  sealed: it holds plates or cards, and only `replay` with the key file opens it")
        return
    _show_fields(payload, letter.record["at"])
    for at in range(0, len(payload), 16):
        row = payload[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "·" for b in row)
        typer.echo(f"{at:>12}  {row.hex(' '):<47}  {text}")


def _show_fields(payload: bytes, wrong_at: int) -> None:
    """Print the values of a message as far as they can be read, the offending one in red."""
    try:
        name, lines = explain(Registry.load(), payload)
    except (DecodeError, SchemaError) as e:
        typer.secho(f"      fields  cannot be read: {e}", fg="yellow")
        return
    typer.echo(f"      fields  of {name}")
    for line in lines:
        value = "?" if line.value is None else repr(line.value)
        wrong = line.wrong or ("here is what is wrong" if line.at == wrong_at else "")
        text = f"{line.at:>12}  {line.path or '(end)'} = {value}"
        typer.secho(f"{text}  <- {wrong}" if wrong else text, fg="red" if wrong else None)


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


@app.command()
def drop(
    name: Annotated[
        str | None, typer.Argument(metavar="[PARTITION:OFFSET]", help="This one and all before it.")
    ] = None,
    config: Config = None,
    kafka: KafkaAt = None,
    every: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good, from the oldest of a partition up to one, or all.

    A log is cut at its beginning, so what is older goes too. Audits made afterwards cannot count what is gone.
    """
    settings = Settings.load(config, kafka_bootstrap=kafka)
    if (name is None) is not every:
        raise typer.BadParameter("name the last one to go as PARTITION:OFFSET, or say --all")
    if name is not None and not re.fullmatch(r"\d+:\d+", name):
        raise typer.BadParameter(f"{name!r} is not PARTITION:OFFSET")
    up_to = {int(name.split(":")[0]): int(name.split(":")[1]) + 1} if name else None
    letters = _read(settings.kafka_bootstrap, lambda _: True)
    going = [letter for letter in letters if up_to is None or _before(letter, up_to)]
    if not going:
        raise ConfigError(
            f"there is no dead letter {name}; `v2x deadletter list` shows them" if name else "no dead letters"
        )
    if not yes:
        typer.confirm(f"delete {len(going)} of {len(letters)} dead letters for good?", abort=True)
    asyncio.run(_delete(settings.kafka_bootstrap, up_to))
    typer.echo(f"deleted {len(going)}, left {len(letters) - len(going)}")


def _before(letter: Letter, up_to: dict[int, int]) -> bool:
    partition, _, offset = letter.name.partition(":")
    return int(offset) < up_to.get(int(partition), 0)


async def _delete(bootstrap: str, up_to: dict[int, int] | None) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if up_to is None:
            (topic,) = await admin.describe_topics([DEADLETTER])
            up_to = {p["partition"]: _END for p in topic["partitions"]}
        cuts = {TopicPartition(DEADLETTER, p): RecordsToDelete(offset) for p, offset in up_to.items()}
        await admin.delete_records(cuts)
    except KafkaError as e:
        raise BrokerError(f"Kafka at {bootstrap} does not delete: {e!r}") from e
    finally:
        await admin.close()


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
