"""Ctrl-C and SIGTERM, once: what runs is broken off, what was started is stopped to the end whatever comes then."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from v2x_loadtest.stack import Stack

_T = TypeVar("_T")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Make both signals a KeyboardInterrupt, also where a script's ``&`` had SIGINT ignored."""
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def closing(stack: Stack) -> Iterator[None]:
    """Stop the stack at the end; a second Ctrl-C does not leave brokers behind."""
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stack.stop()


def run_interruptible(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine; a signal cancels it, and is a KeyboardInterrupt once it has cleaned up.

    While the loop itself is made and closed a signal is only noted: an exception there leaves half a loop behind.
    """
    noted = False

    def note(_number: int, _frame: Any) -> None:
        nonlocal noted
        noted = True

    async def run() -> _T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(main)
        asked = False

        def ask() -> None:
            nonlocal asked
            if not asked:
                asked = True
                task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, ask)
        if noted:
            ask()
        try:
            with suppress(asyncio.CancelledError):
                return await task
            raise KeyboardInterrupt
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, note)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        result = asyncio.run(run())
    finally:
        for number in _SIGNALS:
            signal.signal(number, _interrupt)
    if noted:
        raise KeyboardInterrupt
    return result
