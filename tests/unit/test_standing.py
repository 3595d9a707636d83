"""The standing audit's core against a set that remembers everything."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from v2x.standing import AGAIN, FRESH, LOST, UNPLACED, WINDOW, Gap, Standing

ALL = np.ones(2, np.bool_)


def feed(standing: Standing, rows: list[tuple[str, int, int, int]]) -> None:
    """Take (device, type, boot, seq)."""
    ids = [device.encode() for device, *_ in rows]
    size = np.array([len(i) for i in ids], np.int64)
    kind, boot, seq = (np.array([row[k] for row in rows], np.int64) for k in (1, 2, 3))
    standing.take(b"".join(ids), kind, np.cumsum(size) - size, size, boot, seq)


def seqs(standing: Standing, numbers: list[int], device: str = "R-1") -> None:
    feed(standing, [(device, 0, 7, seq) for seq in numbers])


def test_a_gap_is_lost_after_its_second_sweep_and_named() -> None:
    standing = Standing(2, 64)
    seqs(standing, [5, 6, 9])
    assert standing.missing() == 2
    assert standing.sweep(ALL) == []
    seqs(standing, [7, 10])
    assert standing.sweep(ALL) == [Gap("R-1", 7, 0, 8, 8)]
    assert standing.counts[0].tolist() == [5, 0, 1, 0]
    assert standing.missing() == 0
    seqs(standing, [8, 10])  # too late, and a repeat
    assert standing.counts[0].tolist() == [5, 2, 1, 0]
    assert standing.sweep(ALL) == []


def test_devices_types_and_boots_are_apart() -> None:
    standing = Standing(2, 64)
    feed(standing, [(d, t, b, s) for s in (0, 2) for b in (1, 2) for t in (0, 1) for d in ("A", "AB")])
    assert len(standing) == 8
    standing.sweep(ALL)
    only_second = np.array([False, True])
    assert {(x.device, x.boot, x.type, x.first) for x in standing.sweep(only_second)} == {
        (d, b, 1, 1) for d in ("A", "AB") for b in (1, 2)
    }
    assert standing.counts[:, LOST].tolist() == [0, 4]


def test_what_leaves_the_window_is_lost_and_a_leap_counts_all_it_leaps_over() -> None:
    standing = Standing(2, 64)
    seqs(standing, [0, 2, WINDOW])
    assert standing.counts[0, LOST] == 0
    seqs(standing, [WINDOW + 1])  # pushes out 1
    assert standing.counts[0, LOST] == 1
    seqs(standing, [10 * WINDOW])
    for _ in range(2):
        standing.sweep(ALL)
    assert standing.counts[0, LOST] == 10 * WINDOW + 1 - 5
    assert standing.counts[0, FRESH] == 5


def test_a_full_table_says_so_and_makes_room() -> None:
    standing = Standing(2, 64)
    feed(standing, [(f"D-{n}", 0, 1, 0) for n in range(70)])
    assert standing.counts[0, UNPLACED] == 6
    standing.sweep(ALL)
    assert (len(standing), standing.forgotten) == (32, 32)
    feed(standing, [(f"D-{n}", 0, 1, 0) for n in range(32)])
    assert standing.counts[0, AGAIN] == 32


@given(st.lists(st.integers(0, 3 * WINDOW), min_size=1, max_size=200), st.integers(1, 50))
def test_fresh_and_lost_are_all_numbers_between_first_and_last(numbers: list[int], cut: int) -> None:
    standing = Standing(2, 64)
    for i in range(0, len(numbers), cut):
        seqs(standing, numbers[i : i + cut])
    for _ in range(2):
        standing.sweep(ALL)
    fresh, again, lost, _ = standing.counts[0].tolist()
    assert fresh + again == len(numbers)
    assert fresh + lost == max(numbers) - numbers[0] + 1
    assert fresh <= len(set(numbers))


def run(standing: Standing, first: int, last: int, device: str = "R-1") -> int:
    one = [np.array([x], np.int64) for x in (0, 0, len(device), 7, first, last)]
    return standing.take_runs(device.encode(), *one)


def test_gaps_are_named_at_once_as_ranges_and_go_when_they_are_filled() -> None:
    standing = Standing(2, 64)
    assert run(standing, 10, 19) == 10
    assert standing.gaps() == []
    run(standing, 25, 25)
    run(standing, 28, 30)
    assert standing.gaps() == [Gap("R-1", 7, 0, 20, 24), Gap("R-1", 7, 0, 26, 27)]
    run(standing, 21, 24)
    assert standing.gaps() == [Gap("R-1", 7, 0, 20, 20), Gap("R-1", 7, 0, 26, 27)]
    assert standing.missing() == 3
    standing.sweep(ALL)
    assert standing.sweep(ALL) == [Gap("R-1", 7, 0, 20, 20), Gap("R-1", 7, 0, 26, 27)]
    assert (standing.missing(), standing.gaps()) == (0, [])


def test_runs_that_nobody_writes_are_none() -> None:
    standing = Standing(2, 64)
    assert run(standing, 5, 4) == run(standing, 0, 1 << 52) == 0
    assert len(standing) == 0


@given(st.lists(st.tuples(st.integers(0, 2 * WINDOW), st.integers(0, 40)), min_size=1, max_size=60))
def test_runs_count_as_their_numbers_do(runs: list[tuple[int, int]]) -> None:
    one, other = Standing(2, 64), Standing(2, 64)
    for first, more in runs:
        run(one, first, first + more)
        seqs(other, list(range(first, first + more + 1)))
        assert (one.counts == other.counts).all()
        named = one.gaps()
        assert one.missing() == other.missing()
        assert one.missing() == sum(gap.last - gap.first + 1 for gap in named) or len(named) == 64


def test_what_is_told_is_held_against_the_log() -> None:
    told, log, fixed = Standing(2, 64), Standing(2, 64), np.array([True, False])
    run(told, 0, 50)
    run(log, 10, 40)  # the stretch begins later, and ends earlier
    log.mark()
    assert told.differences(log, fixed) == (0, 0, [])
    run(log, 60, 70)  # behind the mark: its summary may be on its way
    assert told.differences(log, fixed) == (0, 0, [])
    log.mark()
    untold, untrue, named = told.differences(log, fixed)
    assert (untold, untrue) == (11, 10)
    assert named == [Gap("R-1", 7, 0, 41, 50), Gap("R-1", 7, 0, 60, 70)]
    assert told.differences(log, np.array([False, False]))[:2] == (11, 0)
    log.clear()
    assert len(log) == 0
    run(log, 3, 5, "R-2")
    log.mark()
    assert told.differences(log, fixed)[:2] == (3, 0)


def test_what_was_dumped_goes_on_as_if_nothing_had_been() -> None:
    one, other = Standing(2, 64), Standing(2, 64)
    for n in range(40):
        feed(one, [(f"R-{n}", n % 2, 7, seq) for seq in (1, 2, 4, WINDOW)])
    one.sweep(ALL)
    other.load(one.dump())
    for standing in (one, other):
        feed(standing, [(f"R-{n}", n % 2, 7, 3) for n in range(0, 50, 3)])
    assert (len(one), one.missing()) == (len(other), other.missing())
    assert one.sweep(ALL) == other.sweep(ALL)
    assert one.counts.tolist() == other.counts.tolist()
