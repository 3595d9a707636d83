"""Locks that say who does the work, and the pulse of who has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from v2x_services.hold import FROZEN_S, HeldError, Hold, Pulse


def test_a_holder_that_does_not_beat_loses_its_lock_and_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder, pulse = Hold(path), Pulse(path)
    now = 100.0
    for _ in range(20):  # it beats
        assert not pulse.frozen(now)
        assert holder.beat()
        now += 1.0
    with pytest.raises(HeldError):
        Hold(path)
    begin = now
    while not pulse.frozen(now):
        now += 0.5
    assert FROZEN_S - 1.5 < now - begin < FROZEN_S + 1.0
    taker = Hold(path, by_force=True)
    assert not holder.beat()
    assert taker.beat()
    holder.close()
    assert taker.beat()
    taker.close()
    Hold(path).close()


def test_who_stood_still_himself_does_not_judge(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder, pulse = Hold(path), Pulse(path)
    assert not pulse.frozen(0.0)
    assert not pulse.frozen(1000.0)
    assert not pulse.frozen(1001.0)
    holder.close()
