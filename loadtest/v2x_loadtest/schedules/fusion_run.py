"""Run schedules of fusion workers (``fusion_world``) and check what must hold in each."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from typing import Any, Final

from v2x_loadtest.schedules.fusion_world import FusionPlan, FusionWorld, simulated
from v2x_loadtest.schedules.loop import StuckError
from v2x_loadtest.schedules.run import Outcome, quiet

_HEALED_S: Final = 60.0
_LOOK_S: Final = 1.0


def run_fusion_schedule(seed: int) -> Outcome:
    """Run one schedule to its end."""
    dice = random.getstate()
    random.seed(seed)
    with quiet():
        outcome = _run(FusionWorld(FusionPlan.of(seed)))
        gc.collect()
    random.setstate(dice)
    return outcome


def _run(world: FusionWorld) -> Outcome:
    loop = world.loop
    over = False

    def uncaught(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not over and not str(context.get("message")).endswith("never retrieved"):
            world.wrong(f"uncaught: {context.get('exception') or context}")

    loop.set_exception_handler(uncaught)
    asyncio.set_event_loop(loop)
    repeated = 0
    with simulated(world):
        try:
            loop.run_until_complete(_play(world))
            expected, found = world.expected(), world.found()
            for key in sorted(expected.keys() - found.keys())[:5]:
                world.wrong(f"no output at {key}")
            for key in sorted(found.keys() - expected.keys())[:5]:
                world.wrong(f"an output at {key} that a quiet run does not make")
            for key in sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])[:5]:
                world.wrong(f"the output at {key} is not that of a quiet run")
            repeated = sum(len(world.log.of(tp)) for tp in world.outputs) - len(found)
        except StuckError:
            world.wrong("everybody waits and nothing will wake them")
        except Exception as e:  # noqa: BLE001 - the schedule's verdict, not ours
            world.wrong(f"raised {e!r}")
        finally:
            over = True
            world.close()
            asyncio.set_event_loop(None)
            loop.close()
    published = sum(len(world.log.of(tp)) for tp in world.inputs)
    digest = hashlib.sha256(repr(world.trace).encode()).hexdigest()[:16]
    return Outcome(
        world.plan.seed, tuple(world.wrongs), published, repeated, world.kills, 0, 0, loop.now, digest,
        tuple(world.trace),
    )  # fmt: skip


async def _play(world: FusionWorld) -> None:
    coordinator = asyncio.ensure_future(world.coordinate())
    for worker in world.workers:
        world.start(worker)
    await asyncio.gather(world.append(), world.suffer())
    until = world.loop.now + _HEALED_S
    while not world.done() and world.loop.now < until:  # noqa: ASYNC110 - the time is virtual
        await asyncio.sleep(_LOOK_S)
    for failure in world.failed():
        world.wrong(failure)
    coordinator.cancel()
