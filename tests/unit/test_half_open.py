"""Connections to brokers that are dead without a word, on simulated brokers and a virtual clock."""

from __future__ import annotations

import asyncio
import random

import pytest

from v2x_loadtest.schedules.kafka import Cluster
from v2x_loadtest.schedules.loop import VirtualLoop
from v2x_loadtest.schedules.network import Network
from v2x_loadtest.schedules.run import quiet
from v2x_services.kafka import KafkaSink
from v2x_services.patience import FIRST_S, Patience

TOPIC = "t"


def play(idle_s: float, slow_s: float = 0.0, under_way: int = 0) -> tuple[float, list[bytes], int]:
    """Let all connections die after ``idle_s`` of silence, send on, and return how long that takes, and the log.

    ``slow_s``: the broker answers within that time, and nothing dies; ``under_way``: sent just before.
    """
    loop, log, wrongs = VirtualLoop(), list[bytes](), list[str]()
    network = Network(loop, random.Random(7))
    cluster = Cluster(network, {TOPIC: 2}, 1, lambda _t, _p, entry: log.append(entry.value), wrongs.append)
    done = list[int]()

    async def run() -> tuple[float, int]:
        sink = KafkaSink(cluster.bootstrap, [TOPIC])
        await sink.start(lambda tokens, _error: done.extend(tokens))
        sink.append(TOPIC, 0, b"k", b"first", (), 0)
        await sink.drain()
        await asyncio.sleep(idle_s)
        cluster.mood.slow_s = slow_s
        for i in range(under_way):
            sink.append(TOPIC, i % 2, b"k", b"way %d" % i, (), i)
            await asyncio.sleep(0)
        if not slow_s:
            network.deafen(cluster.places[0])
        began = loop.time()
        for i in range(10):
            sink.append(TOPIC, i % 2, b"k", b"%d" % i, (), i)
            await asyncio.sleep(0.01)
        await sink.drain()
        took, renewals = loop.time() - began, sink.counters.renewals
        await sink.stop()
        return took, renewals

    with quiet():
        took, renewals = loop.run_until_complete(run())
        loop.close()
    assert not wrongs
    return took, log, renewals


@pytest.mark.parametrize("under_way", [0, 3])
def test_a_dead_connection_costs_one_short_wait_and_no_record(under_way: int) -> None:
    took, log, renewals = play(idle_s=0.5, under_way=under_way)
    assert FIRST_S - 0.1 < took < FIRST_S + 1.0
    assert renewals == 0  # the numbers are not in doubt: the same batches are sent again
    assert len(log) == len(set(log)) == 11 + under_way
    for partition in (0, 1):
        sent = [b"%d" % i for i in range(10) if i % 2 == partition]
        assert [value for value in log if value in sent] == sent


def test_a_connection_that_was_silent_is_opened_anew() -> None:
    took, log, _ = play(idle_s=FIRST_S)
    assert took < 1.0
    assert len(log) == len(set(log)) == 11


def test_a_slow_broker_is_waited_for() -> None:
    took, log, renewals = play(idle_s=0.5, slow_s=20.0)
    assert took < 60.0
    assert renewals == 0
    assert len(log) == len(set(log)) == 11


def test_patience_follows_what_answers_take() -> None:
    patience = Patience(15.0)
    assert patience.seconds == FIRST_S
    for wanted in (6.0, 12.0, 15.0, 15.0):
        patience.in_vain()
        assert patience.seconds == wanted
    patience.answered(0.01)
    assert 14.0 < patience.seconds < 15.0  # not at once: the next answer may be as slow as the last
    for _ in range(1000):
        patience.answered(0.01)
    assert patience.seconds == FIRST_S
    patience.answered(2.0)
    assert patience.seconds == 8.0
