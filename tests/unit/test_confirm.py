"""The core of confirmation, by example and against a set that remembers everything."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from v2x.confirm import BOOTS, HOLES, IDLE_MS, PATIENCE, REFUSED, REPEATS, TOLD, Confirmations, Report

RSI = 2
GATE = "G-1"


def fed(*seqs: int, boot: int = 1) -> Confirmations:
    made = Confirmations()
    for seq in seqs:
        made.take(RSI, GATE, boot, seq, 1000 + seq)
    return made


def told(made: Confirmations) -> Report:
    (report,) = made.due()
    return report


def test_gaps_are_told_and_may_be_filled_later_in_any_order() -> None:
    made = fed(0, 1, 5, 3, 8)
    assert told(made) == Report(RSI, GATE, 1, 0, 8, [2, 4, 6, 7], [])
    for seq in (7, 2, 6, 4):
        made.take(RSI, GATE, 1, seq, 2000)
    assert told(made) == Report(RSI, GATE, 1, 0, 8, [], [])
    made.take(RSI, GATE, 1, 4, 2000)
    assert (made.durable, made.repeated) == (9, 1)


def test_what_is_missing_at_the_very_beginning_is_told() -> None:
    assert told(fed(3)).gaps == [0, 1, 2]


def test_a_stream_whose_beginning_is_out_of_sight_confirms_nothing_below_the_floor() -> None:
    report = told(fed(5000, 5001))
    assert (report.floor, report.upto, len(report.gaps)) == (5000 - TOLD, 5001, TOLD)


def test_upto_ends_before_a_gap_that_is_not_told() -> None:
    report = told(fed(0, 2 * TOLD + 1))
    assert report.gaps == list(range(1, TOLD + 1))
    assert report.upto == TOLD
    report = told(fed(0, TOLD + 1, TOLD + 3))
    assert report.gaps == list(range(1, TOLD + 1))
    assert report.upto == TOLD + 1


def test_a_dead_letter_is_settled_until_a_mended_one_comes() -> None:
    made = fed(0)
    made.refuse(RSI, GATE, 1, 1, 1000)
    made.take(RSI, GATE, 1, 2, 1000)
    assert told(made) == Report(RSI, GATE, 1, 0, 2, [], [1])
    made.refuse(RSI, GATE, 1, 2, 1000)  # it is durable already
    made.take(RSI, GATE, 1, 1, 1000)
    assert told(made) == Report(RSI, GATE, 1, 0, 2, [], [])
    for seq in range(3, 3 + 2 * REFUSED):
        made.refuse(RSI, GATE, 1, seq, 1000)
    assert told(made).refused == list(range(3 + REFUSED, 3 + 2 * REFUSED))


def test_a_hole_that_was_told_in_vain_is_passed_over_and_not_confirmed() -> None:
    made = fed(0, 2)
    for _ in range(PATIENCE):
        made.take(RSI, GATE, 1, 2, 1000)  # it lives
        assert told(made).gaps == [1]
    made.take(RSI, GATE, 1, 2, 1000)
    assert told(made) == Report(RSI, GATE, 1, 2, 2, [], [])
    assert made.given_up == 1


def test_a_hole_that_is_being_filled_is_never_given_up() -> None:
    made = fed(0, 2 * PATIENCE)
    for seq in range(1, 2 * PATIENCE):
        made.take(RSI, GATE, 1, seq, 1000)
        told(made)
    assert made.given_up == 0


def test_a_reboot_is_a_stream_of_its_own_and_only_the_last_boots_are_kept() -> None:
    made = Confirmations()
    for boot in range(BOOTS + 2):
        made.take(RSI, GATE, boot, boot + 4, boot)
    assert [(r.boot, r.upto) for r in made.due()] == [(boot, boot + 4) for boot in range(2, BOOTS + 2)]


def test_it_falls_silent_after_the_last_record_and_speaks_again_at_the_next() -> None:
    made = fed(0)
    assert [len(list(made.due())) for _ in range(REPEATS + 1)] == [1] * REPEATS + [0]
    made.take(RSI, GATE, 1, 0, 1000)  # a repeat: its device has not heard us
    assert told(made).upto == 0


def test_memory_is_bounded_by_devices_by_holes_and_by_time() -> None:
    made = Confirmations(devices=100)
    for n in range(1000):
        made.take(RSI, f"R-{n}", 1, 0, n)
    assert len(made) <= 100
    assert made.forgotten >= 900
    assert made._streams[RSI, "R-999"]
    holes = fed(*range(0, 4 * HOLES, 2))
    (stream,) = holes._streams[RSI, GATE].values()
    assert len(stream.holes) == HOLES
    assert told(holes).floor == stream.floor > 0
    idle = fed(0)
    idle.take(RSI, "other", 1, 0, 2000 + IDLE_MS)
    idle.leave_idle()
    assert [r.device for r in idle.due()] == ["other"]


steps = st.lists(st.tuples(st.booleans(), st.integers(1, 2), st.integers(0, 30)), max_size=80)


@given(steps, st.integers(0, 80))
def test_it_says_what_a_set_says_whatever_the_order_and_after_a_restart(
    taken: list[tuple[bool, int, int]], cut: int
) -> None:
    made = Confirmations()
    durable: dict[int, set[int]] = {}
    dead: dict[int, set[int]] = {}
    for n, (bad, boot, seq) in enumerate(taken):
        if n == cut:
            made_again = Confirmations()
            made_again.load(json.loads(json.dumps(made.dump())))
            made = made_again
        if bad:
            made.refuse(RSI, GATE, boot, seq, n)
            dead.setdefault(boot, set()).add(seq)
        else:
            made.take(RSI, GATE, boot, seq, n)
            durable.setdefault(boot, set()).add(seq)
    reports = {r.boot: r for r in made.due()}
    assert reports.keys() == durable.keys() | dead.keys()
    for boot, report in reports.items():
        settled = durable.get(boot, set()) | dead.get(boot, set())
        assert (report.floor, report.upto) == (0, max(settled))
        assert report.gaps == sorted(set(range(report.upto)) - settled)
        assert report.refused == sorted(dead.get(boot, set()) - durable.get(boot, set()))
