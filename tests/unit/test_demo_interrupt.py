"""A signal at any moment of a run ends it as one KeyboardInterrupt, and leaves no half made loop behind."""

import asyncio
import os
import signal

import pytest

from v2x_loadtest.demo import interrupt


async def work(done):
    try:
        await asyncio.sleep(30)
    finally:
        done.append("cleaned up")


def test_while_it_runs():
    done = []

    async def main():
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
        await work(done)

    with interrupt.interruptible(), pytest.raises(KeyboardInterrupt):
        interrupt.run_interruptible(main())
    assert done == ["cleaned up"]


def test_while_the_loop_is_made(monkeypatch):
    make = asyncio.new_event_loop

    def slow():
        os.kill(os.getpid(), signal.SIGINT)  # comes before any handler of the loop's
        return make()

    monkeypatch.setattr(asyncio.events, "new_event_loop", slow)
    done = []
    with interrupt.interruptible(), pytest.raises(KeyboardInterrupt):
        interrupt.run_interruptible(work(done))
    assert done == []


def test_without_a_signal():
    async def main():
        return 7

    with interrupt.interruptible():
        assert interrupt.run_interruptible(main()) == 7
