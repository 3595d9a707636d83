"""What the README shows works: the ten-line reader, and every command it names exists."""

import asyncio
import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from v2x.topics import EVENTS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_codecs.vectors import load
from v2x_loadtest.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.real
async def test_the_ten_line_reader_takes_a_repeated_event_once(world):
    registry = Registry.load()
    event = next(v.record for v in load(registry) if v.schema == "traffic_event")
    codec = ReferenceCodec(registry)
    made = [{**event, "event_id": "a", "revision": r} for r in (0, 1, 1, 0, 2)]
    async with AIOKafkaProducer(bootstrap_servers=world) as producer:
        for one in made:
            await producer.send_and_wait(EVENTS, codec.encode("traffic_event", one), partition=0)

    names = {}
    exec(compile("\n".join(code("python")), "README.md", "exec"), names)
    found = []
    async with asyncio.timeout(30), contextlib.aclosing(names["traffic_events"](world)) as events:
        async for got in events:
            found.append(got["revision"])
            if got["revision"] == 2:
                break
    assert found == [0, 1, 2]


def test_every_command_it_names_is_one():
    named = set(re.findall(r"`v2x ([a-z]+)`", README))
    assert named == set(COMMANDS)


def test_every_script_it_shows_takes_help():
    shown = {line.split()[0] for block in code("sh") for line in block.splitlines() if line.startswith("./")}
    assert shown == {"./scripts/demo", "./scripts/test"}
    for script in shown:
        assert (ROOT / script).stat().st_mode & 0o111


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_every_command(command):
    done = subprocess.run(
        [sys.executable, "-m", "v2x_loadtest.cli", command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
