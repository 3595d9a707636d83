"""Ingest under random faults on a virtual clock: the promises hold, and broken code is found out."""

from __future__ import annotations

import numpy as np
import pytest
from v2x.errors import ConfigError

from v2x_loadtest.cmd_schedules import schedules
from v2x_loadtest.options import parse_seeds
from v2x_loadtest.schedules.loop import VirtualLoop
from v2x_loadtest.schedules.mosquitto import matches
from v2x_loadtest.schedules.plan import FAULTS, Plan
from v2x_loadtest.schedules.run import run_schedule
from v2x_services.ingest.mqtt import MqttSource
from v2x_services.ingest.pipeline import Pipeline
from v2x_services.kafka import KafkaSink
from v2x_services.producer import Producer

SEEDS = range(1, 151)


def test_every_promise_holds_in_every_schedule() -> None:
    outcomes = [run_schedule(seed) for seed in SEEDS]
    assert {o.seed: o.wrongs for o in outcomes if o.wrongs} == {}
    # The faults really bite: without these the test would show nothing.
    assert sum(o.kills for o in outcomes) > 5
    assert sum(o.reconnects for o in outcomes) > 50
    assert sum(o.renewals for o in outcomes) > 20
    assert sum(o.repeated for o in outcomes) > 50


def test_every_kind_of_fault_is_among_them() -> None:
    assert {fault.what for seed in SEEDS for fault in Plan.of(seed).faults} == set(FAULTS)


def test_a_seed_replays() -> None:
    seed = next(s for s in SEEDS if any(f.what == "ingest is killed" for f in Plan.of(s).faults))
    assert run_schedule(seed).trace == run_schedule(seed).trace


# -- code that is broken on purpose must be found out


def acknowledge_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settle messages when they are handed to the sink."""
    judge = Pipeline._judge

    def broken(self: Pipeline, taken: object) -> None:
        judge(self, taken)  # type: ignore[arg-type]
        self.ledger.settle(taken.tokens)  # type: ignore[attr-defined]
        self._settled = True

    monkeypatch.setattr(Pipeline, "_judge", broken)


def acknowledge_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the PUBACKs of a release backwards."""
    real = MqttSource.acknowledge
    monkeypatch.setattr(MqttSource, "acknowledge", lambda self, epoch, ids: real(self, epoch, np.array(ids[::-1])))


def forget_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a batch of unknown fate for durable."""
    monkeypatch.setattr(KafkaSink, "_failed", lambda self, _producer, lane, _error: self._durable(lane))


def new_numbers_for_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a batch that is sent again new sequence numbers."""
    again = KafkaSink._again

    def broken(self: KafkaSink, lane: object, error: object) -> None:
        if lane.flight is not None:  # type: ignore[attr-defined]
            lane.queue.appendleft(lane.flight)  # type: ignore[attr-defined]
            lane.flight = lane.batch = None  # type: ignore[attr-defined]
        again(self, lane, error)  # type: ignore[arg-type]

    monkeypatch.setattr(KafkaSink, "_again", broken)


def keep_the_producer_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not take a new producer id when numbers are in doubt."""
    start = Producer.renew

    async def broken(self: Producer) -> None:
        if self._id == (-1, -1):
            await start(self)
        self._next.clear()

    monkeypatch.setattr(Producer, "renew", broken)


def pause_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never read again after back-pressure."""
    monkeypatch.setattr("v2x_services.ingest.pipeline._RESUME_AT", -1.0)


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (acknowledge_early, "is acknowledged and in"),
        (acknowledge_out_of_order, "not in arrival order"),
        (forget_what_failed, "partitions at the end"),
        (new_numbers_for_a_repeat, "nothing was lost on the way"),
        (keep_the_producer_id, "partitions at the end"),
        (pause_for_ever, "was never acknowledged"),
    ],
)
def test_broken_code_is_found_out(monkeypatch: pytest.MonkeyPatch, defect, says) -> None:
    defect(monkeypatch)
    for seed in SEEDS:
        wrongs = run_schedule(seed).wrongs
        if any(says in wrong for wrong in wrongs):
            return
    pytest.fail(f"no schedule shows it: {defect.__doc__}")


# -- the parts


def test_time_jumps_to_the_next_timer() -> None:
    loop = VirtualLoop()
    seen: list[float] = []
    loop.call_later(3600, lambda: seen.append(loop.time()))
    loop.call_later(7200, loop.stop)
    loop.run_forever()
    assert seen == [3600]
    assert loop.time() == 7200
    loop.close()


@pytest.mark.parametrize(
    ("pattern", "topic", "takes"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "a/b/c", True),
        ("a/#", "b/a", False),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
    ],
)
def test_topic_filters(pattern: str, topic: str, takes: bool) -> None:
    assert matches(pattern, topic) is takes


def test_seeds_on_the_command_line() -> None:
    assert list(parse_seeds("7")) == [7]
    assert list(parse_seeds("1-3")) == [1, 2, 3]
    for wrong in ("x", "3-1", "1-"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(wrong if wrong != "1-" else "-")


def test_the_command_says_what_ran(capsys: pytest.CaptureFixture[str]) -> None:
    schedules(seeds="1-3", jobs=1, as_json=True)
    assert '"schedules": 3' in capsys.readouterr().out
