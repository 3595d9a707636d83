"""How a service runs: until a signal asks it to stop, or its work ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop


def serve(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run ``work(stop)`` on uvloop; SIGTERM and Ctrl-C set ``stop``. Raises what ended it otherwise."""

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await work(stop)

    uvloop.run(run())


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Let ``work`` go on until ``stop`` is set, then cancel it; raises what it could not go on from."""
    tasks = [asyncio.create_task(work), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
