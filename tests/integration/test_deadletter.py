"""`v2x deadletter` on real brokers: what is listed, shown, and published again, sealed letters too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiomqtt
import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner, Result
from v2x.topics import DEADLETTER

from v2x_codecs import vectors
from v2x_codecs.explain import explain
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.cli import root
from v2x_services.brokers import Mosquitto
from v2x_services.ingest.privacy import Keys

pytestmark = pytest.mark.real
TOPIC = "v2x/v1/rsu/R1/rsm/up"


def letter(reason: str, payload: bytes, **fields: object) -> dict[str, object]:
    device = fields.get("device", "R1")
    return {
        "reason": reason, "detail": "at byte 3", "at": 3, "fingerprint": "", "topic": f"v2x/v1/rsu/{device}/rsm/up",
        "device": device, "type": "rsm", "boot": -1, "seq": -1, "rx_us": 1_700_000_000_000_000, "size": len(payload),
        "sha256": "", "sealed": False, "payload": payload, **fields,
    }  # fmt: skip


async def v2x(*args: str, **env: str) -> Result:
    return await asyncio.to_thread(CliRunner(env=env).invoke, root, ["deadletter", *args])


@pytest.fixture
async def letters(world: str, tmp_path: Path) -> tuple[str, Path]:
    """Four dead letters in partition 0: plain, cut, sealed, of another device. Returns Kafka and the key file."""
    key_file = tmp_path / "ingest.key"
    keys = Keys.load(key_file, tmp_path)
    codec = ReferenceCodec(Registry.load())
    producer = AIOKafkaProducer(bootstrap_servers=world)
    await producer.start()
    try:
        for row in (
            letter("TRUNCATED", b"\xc3\x01 plain"),
            letter("TOO_LARGE", b"beginning", size=100_000),
            letter("OUT_OF_RANGE", keys.seal(b"plate"), size=5, sealed=True),
            letter("TRUNCATED", b"other", device="R2"),
        ):
            await producer.send_and_wait(DEADLETTER, codec.encode("dead_letter", row), b"k", 0)
    finally:
        await producer.stop()
    return world, key_file


async def test_list_and_show(letters: tuple[str, Path]) -> None:
    at = ["--kafka", letters[0]]
    listed = await v2x("list", *at, "--json")
    assert listed.exit_code == 0, listed.exception
    rows = [json.loads(line) for line in listed.output.splitlines()]
    assert [(r["name"], r["reason"]) for r in rows] == [
        ("0:0", "TRUNCATED"),
        ("0:1", "TOO_LARGE"),
        ("0:2", "OUT_OF_RANGE"),
        ("0:3", "TRUNCATED"),
    ]
    human = await v2x("list", *at, "--device", "R2")
    assert "R2" in human.output
    assert "R1" not in human.output
    shown = await v2x("show", "0:0", *at)
    assert b"\xc3\x01 plain".hex(" ") in shown.output
    sealed = await v2x("show", "0:2", *at)
    assert "sealed" in sealed.output
    assert b"plate".hex(" ") not in sealed.output
    missing = await v2x("show", "7:7", *at)
    assert "no dead letter 7:7" in str(missing.exception)


async def test_replay_publishes_the_same_bytes_again(letters: tuple[str, Path], mosquitto: Mosquitto) -> None:
    kafka, key_file = letters
    env = {"V2X_MQTT_PORT": str(mosquitto.port), "V2X_KEY_FILE": str(key_file)}
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("v2x/v1/#", qos=1)
        done = await v2x("replay", "--device", "R1", "--kafka", kafka, **env)
        assert "published 2, delivered 2" in done.output
        assert "0:1: only the beginning" in done.output
        assert done.exit_code == 1  # one of the three could not be replayed
        got = []
        async with asyncio.timeout(10):
            async for message in client.messages:
                got.append((str(message.topic), message.payload))
                if len(got) == 2:
                    break
    assert got == [(TOPIC, b"\xc3\x01 plain"), (TOPIC, b"plate")]


async def test_replay_without_the_key_or_without_a_choice(letters: tuple[str, Path], tmp_path: Path) -> None:
    kafka, _ = letters
    env = {"V2X_STATE_DIR": str(tmp_path / "elsewhere")}
    assert "is sealed" in str((await v2x("replay", "0:2", "--kafka", kafka, **env)).exception)
    assert (await v2x("replay", "--kafka", kafka)).exit_code == 2
    dry = await v2x("replay", "0:0", "--dry-run", "--kafka", kafka)
    assert dry.output.split() == [TOPIC, "8", "B"]


async def test_drop_cuts_the_log_at_its_beginning(letters: tuple[str, Path]) -> None:
    at = ["--kafka", letters[0]]
    assert (await v2x("drop", *at)).exit_code == 2  # which ones?
    assert "no dead letter 5:1" in str((await v2x("drop", "5:1", "--yes", *at)).exception)
    done = await v2x("drop", "0:1", "--yes", *at)
    assert "deleted 2, left 2" in done.output, done.exception
    assert [json.loads(line)["name"] for line in (await v2x("list", *at, "--json")).output.splitlines()] == [
        "0:2",
        "0:3",
    ]
    assert "deleted 2, left 0" in (await v2x("drop", "--all", "--yes", *at)).output
    assert "no dead letters" in (await v2x("list", *at)).output


async def test_show_says_which_field_is_wrong(world: str) -> None:
    registry = Registry.load()
    golden = next(v for v in vectors.load(registry) if v.schema == "rsm")
    lines = explain(registry, golden.mqtt)[1]
    speed = next(line for line in lines if line.path == "participants[1].speed")
    bad = golden.mqtt[: speed.at] + b"\x80\x80\x02" + golden.mqtt[speed.at + speed.size :]
    producer = AIOKafkaProducer(bootstrap_servers=world)
    await producer.start()
    try:
        row = letter("OUT_OF_RANGE", bad, at=speed.at)
        sent = await producer.send_and_wait(DEADLETTER, ReferenceCodec(registry).encode("dead_letter", row), b"k", 1)
    finally:
        await producer.stop()
    shown = (await v2x("show", f"1:{sent.offset}", "--kafka", world)).output
    assert f"{speed.at}  participants[1].speed = 16384  <- must be 0 to 8191" in shown
    assert "participants[0].speed = " in shown
