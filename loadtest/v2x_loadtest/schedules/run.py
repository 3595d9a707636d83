"""Run schedules and check what must hold in each.

* A PUBACK only after every record of its message is durable, in arrival order per connection.
* Every message is in the log, as itself or as a dead letter; nothing is there that nobody sent.
* A device's messages of one type are in the log in the order in which they were sent (first copies).
* A message is there once, unless a connection, a producer's numbers or ingest itself were lost.
* In flight and pending stay within their bounds; the books balance; nothing raises, nothing waits for ever.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from v2x_loadtest.schedules.loop import StuckError, VirtualLoop
from v2x_loadtest.schedules.mosquitto import Message
from v2x_loadtest.schedules.plan import Plan
from v2x_loadtest.schedules.world import World
from v2x_services.catalogue import LAWS
from v2x_services.ingest.topics import SESSION_NAMES

_HEALED_S: Final = 120.0  # after the last fault everything must be done by then
_LOOK_S: Final = 0.05
_TICKS_BYTES: Final = 2 << 20  # beside messages, ticks may wait


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one schedule."""

    seed: int
    wrongs: tuple[str, ...]
    published: int
    repeated: int  # copies in the log beyond the first
    kills: int
    reconnects: int  # of MQTT sessions
    renewals: int  # of producer ids
    seconds: float  # of virtual time
    trace: tuple[tuple[float, str], ...]


class Conducted(Protocol):
    """What both kinds of worlds have."""

    loop: VirtualLoop
    kills: int
    trace: list[tuple[float, str]]

    def wrong(self, what: str) -> None:
        """Note a broken promise."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


def run_schedule(seed: int) -> Outcome:
    """Run one schedule to its end."""
    with quiet():
        world = World(Plan.of(seed))
        conduct(world, _play(world))
        return Outcome(
            seed,
            tuple(world.wrongs),
            published=len(world.published),
            repeated=sum(len(at) - len(set(at)) for at in world.copies.values()),
            kills=world.kills,
            reconnects=world.broker.connects - (1 + world.kills) * len(SESSION_NAMES),
            renewals=world.renewals,
            seconds=world.loop.now,
            trace=tuple(world.trace),
        )


def conduct(world: Conducted, play: Coroutine[Any, Any, None]) -> None:
    """Run a world's schedule on its loop; whatever goes wrong is the schedule's verdict."""
    loop = world.loop
    over = False

    def uncaught(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        # What belonged to a killed process is collected at some time, and complains then.
        collected = world.kills and (message.startswith("Unclosed") or message.endswith("never retrieved"))
        if not over and not collected:
            world.wrong(f"uncaught: {context.get('exception') or context}")

    loop.set_exception_handler(uncaught)
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(play)
    except StuckError:
        world.wrong("everybody waits and nothing will wake them")
    except Exception as e:  # noqa: BLE001 - the schedule's verdict, not ours
        world.wrong(f"raised {e!r}")
    finally:
        over = True
        world.close()
        asyncio.set_event_loop(None)
        loop.close()


async def _play(world: World) -> None:
    plan = world.plan
    world.start()
    # The first start is before the first fault: there must be a session to be kept.
    while not world.subscribed():  # noqa: ASYNC110 - the time is virtual
        await asyncio.sleep(_LOOK_S)
    begin = world.loop.now

    async def publish() -> None:
        for at, count in plan.publishes:
            await asyncio.sleep(max(0.0, begin + at - world.loop.now))
            world.publish(count)

    async def suffer() -> None:
        """One after the other, so that each fault ends before the next of its kind."""
        for fault in plan.faults:
            await asyncio.sleep(max(0.0, begin + fault.at - world.loop.now))
            await world.suffer(fault)

    work = [asyncio.ensure_future(publish()), asyncio.ensure_future(suffer())]
    watch = asyncio.ensure_future(_watch(world))
    await asyncio.gather(*work)
    world.heal()
    until = world.loop.now + _HEALED_S
    while not world.idle() and world.loop.now < until:  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_S)
    watch.cancel()
    _check(world)


async def _watch(world: World) -> None:
    """Hold what ingest keeps against its bounds."""
    plan = world.plan
    # A read may bring a whole Receive Maximum beyond the bound that pauses reading.
    most = plan.max_in_flight + 2 * min(plan.receive_maximum, 2048)
    while True:
        if world.ingest is not None:
            for pipeline in world.ingest.pipelines:
                if pipeline.ledger.in_flight > most:
                    world.wrong(f"{pipeline.ledger.in_flight} messages in flight, bound {most}")
            for sink in world.ingest.sinks:
                if sink.pending_bytes > plan.max_pending + _TICKS_BYTES:
                    world.wrong(f"{sink.pending_bytes} bytes pending, bound {plan.max_pending}")
        await asyncio.sleep(_LOOK_S)


def _check(world: World) -> None:
    for message in world.published:
        places = set(world.copies.get(message.number, ()))
        if len(places) != world.places_of(message):
            world.wrong(f"message {message.number} ({message.topic}) is in {len(places)} partitions at the end")
        if message.number not in world.acknowledged:
            world.wrong(f"message {message.number} ({message.topic}) was never acknowledged")
    ingest = world.ingest
    assert ingest is not None
    if error := world.failed():
        world.wrong(f"ingest ended: {error!r}")
    world.renewals += sum(sink.counters.renewals for sink in ingest.sinks)
    if not (world.kills or world.renewals or world.broker.connects > len(ingest.sinks)):
        for number, at in world.copies.items():
            if len(at) != len(set(at)):
                world.wrong(f"message {number} is in the log {len(at)} times, and nothing was lost on the way")
    world.wrongs += _out_of_order(world)
    if balance := ingest.metrics.imbalance(LAWS[0]):
        world.wrong(f"the books do not balance: {balance:+.0f} messages")


def _out_of_order(world: World) -> list[str]:
    """Return messages whose first copy in a partition is before that of an earlier one of the same device and type."""
    found = []
    last: dict[tuple[str, tuple[str, int]], Message] = {}
    when: dict[tuple[int, tuple[str, int]], int] = {}
    place: dict[tuple[str, int], int] = {}
    for _, what in world.trace:
        number, _, where = what.partition(" in ")
        if where:
            topic, _, partition = where.rpartition("-")
            at = topic, int(partition)
            when.setdefault((int(number), at), place.setdefault(at, 0))
            place[at] += 1
    for message in world.published:
        for at in set(world.copies.get(message.number, ())):
            earlier = last.get((message.topic, at))
            if earlier is not None and when[earlier.number, at] > when[message.number, at]:
                found.append(f"message {message.number} is in {at} before {earlier.number} of the same topic")
            last[message.topic, at] = message
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Faults are what this is about: nobody need read of each. Draws leave the common dice as they were."""
    dice = random.getstate()
    names: tuple[Any, ...] = ("aiokafka", "v2x_services", "asyncio")
    before = [logging.getLogger(name).level for name in names]
    structured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of connections that a killed process had
            yield
            gc.collect()  # killed processes leave connections behind, whose destructors must not speak up in other work
    finally:
        random.setstate(dice)
        structlog.configure(**structured)
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)
