"""Clocks: what the stamps do to time-outs, and what devices do to event time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from v2x.fusion.clock import FRAME_MS, EventClock, StreamClock

T = 1_790_000_000_000


def test_stream_clock_takes_steps_of_at_most_a_quarter_second() -> None:
    clock = StreamClock()
    assert [clock.advance(T + x) for x in (0, 100, 350, 360, 340, 3_600_000)] == [0, 100, 250, 10, 0, 250]
    assert clock.now_ms == T + 610
    assert clock.gaps == 2


def test_time_outs_stand_still_in_a_gap_until_devices_are_fresh() -> None:
    clock = StreamClock()
    for x in (0, 100, 60_000):  # an outage of a minute
        clock.advance(T + x)
    assert clock.idle_ms == 100
    for x in (60_100, 60_200):  # a backlog: device times are a minute old
        clock.advance(T + x)
        clock.device(T + x - 59_000)
    assert clock.idle_ms == 100
    clock.device(T + 60_200 - 1_900)
    clock.advance(T + 60_250)
    assert clock.idle_ms == 150


def test_a_gap_ends_by_itself_after_thirty_seconds() -> None:
    clock = StreamClock()
    clock.advance(T)
    clock.advance(T - 5_000)  # a broker's clock was set back
    for x in range(0, 31_000, 200):
        clock.advance(T - 5_000 + x)
    assert 600 <= clock.idle_ms <= 1_200


def test_event_time_follows_the_median_device() -> None:
    clock = EventClock()
    told = []
    for x in range(0, 10_000, 10):
        now = T + x
        clock.hear("a", now - 20, now)
        clock.hear("b", now - 30, now)
        clock.hear("c", now + 3_000, now)  # this one's clock is wrong
        told += clock.due(now)
    assert all(b - a == FRAME_MS for a, b in pairwise(told))
    assert abs(clock.now(T + 9_990) - (T + 9_970)) <= 10
    assert clock.skews()["c"] > 2_900


def test_a_steady_wrong_clock_is_taken_out() -> None:
    clock = EventClock()
    corrected = 0
    for x in range(0, 8_000, 50):
        now = T + x
        clock.hear("a", now - 20, now)
        clock.hear("b", now - 22, now)
        corrected = clock.hear("c", now + 3_000, now) - now
    assert abs(corrected - -21) <= 10
    assert clock.retimed() == ["c"]


def test_after_an_outage_event_time_jumps_ahead_once() -> None:
    clock = EventClock()
    for x in range(0, 2_000, 20):
        clock.hear("a", T + x, T + x)
        clock.due(T + x)
    before = clock.told_ms
    told = []
    for x in range(2_000, 4_000, 20):  # ten seconds were lost; the stream clock only moved on
        clock.hear("a", T + x + 10_000, T + x)
        told += clock.due(T + x)
    steps = [b - a for a, b in pairwise([before, *told])]
    assert sum(step > FRAME_MS for step in steps) == 1
    assert abs(clock.now(T + 4_000) - (T + 14_000)) < 100


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(-3_000, 3_000)), max_size=200))
def test_frames_are_on_the_grid_and_never_go_back(steps: list[tuple[int, int]]) -> None:
    clock, now, told = EventClock(), T, [0]
    for step, skew in steps:
        now += step
        clock.hear("a", now + skew, now)
        due = clock.due(now)
        assert all(d % FRAME_MS == 0 for d in due)
        told += due
    assert all(b > a for a, b in pairwise(told))


def test_a_clock_that_is_off_is_told_by_its_quickest_messages() -> None:
    clock = EventClock()
    for x in range(0, 5_000, 50):
        now = T + x
        clock.hear("a", now - 20, now)
        clock.hear("b", now - 22 - x % 100, now)  # a jittering link
        clock.hear("c", now + 180, now)
        clock.due(now)
    assert [clock.skew(device) for device in "abc"] == [0, 0, 200]
    assert abs(clock.now(T + 4_950) - (T + 4_930)) <= 10


def test_where_no_two_clocks_agree_the_brokers_is_taken() -> None:
    clock = EventClock()
    off = {"a": -280, "b": -200, "c": -110, "d": 90}
    for x in range(0, 20_000, 50):
        for device, by in off.items():
            clock.hear(device, T + x + by - 10, T + x)
        clock.due(T + x)
    assert {device: clock.skew(device) for device in off} == {d: by - 10 for d, by in off.items()}
    assert abs(clock.now(T + 19_950) - (T + 19_950)) <= 20


def test_a_snapshot_of_more_devices_than_a_new_table_has_rows() -> None:
    clock = EventClock(["RSU-1"])
    for n in range(200):
        clock.hear(f"OBU-{n}", T + n, T)
    again = EventClock(["RSU-1"])
    again.load(clock.state())
    assert again.state() == clock.state()
