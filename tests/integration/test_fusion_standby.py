"""A fusion process that stands by: it takes over what another one fuses when that stops or dies, under load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration import toy_core
from tests.integration.test_fusion_service import all_out, feed, read, settings, until, verdict, write
from tests.integration.test_fusion_workers import Workers, caught_up, stalls, started
from v2x.errors import ConfigError
from v2x.topics import LINKS, TRACKS

from v2x_services import fusion
from v2x_services.fusion.snapshots import SnapshotStore
from v2x_services.reader import Once

pytestmark = pytest.mark.real


class Pair(Workers):
    """Processes that stand by for each other; numbers are only names."""

    def how(self, number: int) -> str:  # noqa: ARG002
        return "standby"

    def count(self, what: str) -> int:
        return sum(what in line for line in self.said)


@pytest_asyncio.fixture
async def pair(world: str, tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(world, tmp_path)
    yield made
    for number in list(made.running):
        await made.end(number, signal.SIGKILL)


async def repeated(bootstrap: str) -> int:
    """Return how many outputs are in the log a second time."""
    once = Once()
    for records in (await read(bootstrap, TRACKS, LINKS)).values():
        for r in records:
            once(*toy_core.CODEC.decode_kafka(r.value))
    return once.repeats


async def test_one_stands_by_while_the_other_is_stopped_or_killed(world: str, pair: Pair) -> None:
    await write(world, 0, 40)
    await pair.start(0)
    await until(lambda: started(world))
    feeding = asyncio.create_task(feed(world, 4))
    steps: list[tuple[float, str]] = []
    try:
        for number, what, how in ((0, "stopped", signal.SIGTERM), (1, "killed", signal.SIGKILL)):
            before = pair.count("following")
            await pair.start(1 - number)

            async def follows(before: int = before) -> bool:
                return pair.count("following") >= before + 4  # two partitions of two topics

            await until(follows)
            steps.append((time.time(), what))
            code = await pair.end(number, how)
            assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)
            await caught_up(world)
            if what == "stopped":
                repeats = await repeated(world)
        assert not feeding.done()
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})
    await write(world, 0, 20)
    await until(lambda: all_out(world))
    assert await pair.end(0, signal.SIGTERM) == 0
    await verdict(world)
    stood = await stalls(world, steps)
    print(f"\nlongest wait of an input for its output: {stood}; raw repeats of the clean stop {repeats}")
    assert repeats == 0
    assert stood["stopped"] < 1.0
    assert stood["killed"] < 2.0


async def test_two_of_one_number_are_refused(world: str, tmp_path: Path) -> None:
    lock = SnapshotStore(tmp_path / "fusion" / "standby-0")
    with pytest.raises(ConfigError, match="standby 0 runs already"):
        await fusion.run(settings(world, tmp_path), cores=toy_core.ToyCores(), standby=0)
    lock.close()
