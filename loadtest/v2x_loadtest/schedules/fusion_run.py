"""Run schedules of fusion workers (``fusion_world``) and check what must hold in each."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from v2x_loadtest.schedules.fusion_world import FusionPlan, FusionWorld, simulated
from v2x_loadtest.schedules.run import Outcome, conduct, quiet

_HEALED_S: Final = 60.0
_LOOK_S: Final = 1.0


def run_fusion_schedule(seed: int) -> Outcome:
    """Run one schedule to its end."""
    with quiet():
        random.seed(seed)
        world = FusionWorld(FusionPlan.of(seed))
        with simulated(world):
            conduct(world, _play(world))
        return Outcome(
            seed,
            tuple(world.wrongs),
            published=sum(len(world.log.of(tp)) for tp in world.inputs),
            repeated=world.repeated,
            kills=world.kills,
            reconnects=0,
            renewals=0,
            seconds=world.loop.now,
            trace=tuple(world.trace),
        )


async def _play(world: FusionWorld) -> None:
    beside = [asyncio.ensure_future(world.coordinate()), asyncio.ensure_future(world.keep())]
    for worker in world.workers:
        world.start(worker)
    await asyncio.gather(world.append(), world.suffer())
    until = world.loop.now + _HEALED_S
    while not world.done() and world.loop.now < until:  # noqa: ASYNC110 - the time is virtual
        await asyncio.sleep(_LOOK_S)
    for failure in world.failed():
        world.wrong(failure)
    for task in beside:
        task.cancel()
    expected, found = world.expected(), world.found()
    for key in sorted(expected.keys() - found.keys())[:5]:
        world.wrong(f"no output at {key}")
    for key in sorted(found.keys() - expected.keys())[:5]:
        world.wrong(f"an output at {key} that a quiet run does not make")
    for key in sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])[:5]:
        world.wrong(f"the output at {key} is not that of a quiet run")
    world.repeated = sum(len(world.log.of(tp)) for tp in world.outputs) - len(found)
