"""The account by example and by property: whatever happens to messages, the law of the account holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from v2x.audit import (
    EventRow,
    Sightings,
    Span,
    Stream,
    Unreadable,
    check_events,
    check_positions,
    missing,
    settle,
    size,
    spans,
)

A = Stream("RSU-1", 1000, "rsm")
B = Stream("RSU-1", 2000, "rsm")
G = Stream("G-1", 1000, "gantry_transaction")


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_spans_join_neighbours_and_forget_repeats() -> None:
    assert spans(i64(5, 1, 2, 2, 3, 9)) == (Span(1, 3), Span(5, 5), Span(9, 9))
    assert spans(i64()) == ()
    assert str(Span(1, 3)) == "1-3"
    assert str(Span(4, 4)) == "4"


def test_missing_lies_between_the_ends() -> None:
    assert missing(i64(3, 4, 7, 9)) == (Span(5, 6), Span(8, 8))


@given(st.lists(st.integers(0, 60)))
def test_spans_hold_exactly_the_numbers(values: list[int]) -> None:
    held = {n for a, b in spans(np.array(values, np.int64)) for n in range(a, b + 1)}
    assert held == set(values)
    assert size(spans(np.array(values, np.int64))) == len(set(values))


def test_acknowledged_and_nowhere_is_lost_and_unacknowledged_is_apart() -> None:
    seen = Sightings(
        published=i64(0, 1, 2, 3, 4, 5, 5), acknowledged=i64(0, 1, 2, 3, 5), logged=i64(0, 1, 1, 5), fused=i64(0, 1)
    )
    seen.dead["TRUNCATED"] = i64(2)
    total = settle({A: seen})
    row = total.streams[0]
    assert row.lost == (Span(3, 3),)
    assert row.unacknowledged == (Span(4, 4),)
    assert (total.published, total.acknowledged, total.logged, total.repeated, total.fused) == (6, 5, 3, 1, 2)
    assert total.dead == {"TRUNCATED": 1}
    assert total.lost == 1
    assert total.faults() == [row]


def test_boots_and_devices_are_worlds_of_their_own() -> None:
    total = settle(
        {
            A: Sightings(published=i64(0, 1), acknowledged=i64(0, 1), logged=i64(0, 1)),
            B: Sightings(published=i64(0), acknowledged=i64(0), logged=i64()),
            G: Sightings(published=i64(0), acknowledged=i64(0), logged=i64(0)),
        }
    )
    assert total.lost == 1
    assert [row.stream for row in total.faults()] == [B]
    assert {name: part.lost for name, part in total.by_type().items()} == {"gantry_transaction": 0, "rsm": 1}


def test_an_unreadable_dead_letter_stands_only_for_a_spoilt_message() -> None:
    def seen() -> Sightings:
        return Sightings(published=i64(0, 1, 2), acknowledged=i64(0, 1, 2), spoilt=i64(1), logged=i64(0))

    letters = [Unreadable("RSU-1", "rsm", "EMPTY", 2)]
    total = settle({A: seen()}, letters)
    assert total.lost == 1  # number 2 was fine: no unreadable letter may hide it
    assert total.dead == {"EMPTY": 2}
    assert settle({A: seen()}).lost == 2
    assert settle({A: seen()}, [Unreadable("RSU-2", "rsm", "EMPTY", 2)]).lost == 2


def test_without_a_ledger_gaps_are_lost() -> None:
    total = settle({A: Sightings(logged=i64(3, 4, 6, 6, 9))}, ledger=False)
    assert total.lost == 3
    assert total.streams[0].lost == (Span(5, 5), Span(7, 8))
    assert total.unknown == 0


def test_what_nobody_published_is_told() -> None:
    total = settle({A: Sightings(published=i64(0), acknowledged=i64(0), logged=i64(0, 7))})
    assert total.unknown == 1
    assert total.lost == 0


Fate = st.tuples(st.booleans(), st.integers(0, 3), st.booleans())  # acknowledged, copies in the log, dead


@given(st.lists(Fate))
def test_the_law_of_the_account(fates: list[tuple[bool, int, bool]]) -> None:
    seen = Sightings(
        published=np.arange(len(fates)),
        acknowledged=i64(*(n for n, fate in enumerate(fates) if fate[0])),
        logged=i64(*(n for n, fate in enumerate(fates) for _ in range(fate[1]))),
    )
    seen.dead["OUT_OF_RANGE"] = i64(*(n for n, fate in enumerate(fates) if fate[2]))
    total = settle({A: seen})
    assert total.lost == sum(acked and not copies and not dead for acked, copies, dead in fates)
    assert total.unacknowledged == sum(not acked and not copies and not dead for acked, copies, dead in fates)
    assert total.logged + total.repeated == sum(copies for _, copies, _ in fates)
    both = sum(bool(copies) and dead for _, copies, dead in fates)
    arrived = total.logged + sum(total.dead.values()) - both
    assert total.published == arrived + total.lost + total.unacknowledged


def story(*steps: tuple[str, int, str, int], partition: int = 0) -> list[EventRow]:
    return [EventRow(*step, partition) for step in steps]


def test_a_whole_story_and_its_copies_are_fine() -> None:
    rows = story(("e", 0, "ADDED", 1), ("e", 1, "MODIFIED", 2), ("f", 0, "ADDED", 5), ("e", 2, "ENDED", 3))
    check = check_events([*rows, rows[1], rows[0]])
    assert (check.events, check.records, check.copies, check.open, check.duplicates) == (2, 6, 2, 1, 0)
    assert check.faults == []


def test_an_event_may_go_on_in_another_partition() -> None:
    first = story(("e", 0, "ADDED", 1), ("e", 1, "MODIFIED", 2))
    rest = story(("e", 2, "MODIFIED", 3), ("e", 3, "ENDED", 4), partition=2)
    for rows in ([*first, *rest], [*rest, *first]):  # whichever partition is read first
        check = check_events(rows)
        assert (check.faults, check.events, check.open) == ([], 1, 0)
    assert "follows revision 1" in check_events([*first, *rest[1:]]).gaps[0]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (story(("e", 0, "ADDED", 1), ("e", 0, "ADDED", 2)), "two|twice"),
        (story(("e", 0, "ADDED", 1), ("e", 2, "MODIFIED", 2)), "follows revision 0"),
        (story(("e", 1, "MODIFIED", 1)), "follows nothing"),
        (story(("e", 0, "ADDED", 1), ("e", 1, "ADDED", 2)), "is ADDED"),
        (story(("e", 0, "MODIFIED", 1)), "is MODIFIED"),
        (story(("e", 0, "ADDED", 1), ("e", 1, "ENDED", 2), ("e", 2, "ENDED", 3)), "after ENDED"),
        (story(("e", 0, "ADDED", 1), ("e", 2, "MODIFIED", 2), ("e", 1, "MODIFIED", 3)), "follows revision 2"),
    ],
)
def test_a_broken_story_is_told(rows: list[EventRow], fault: str) -> None:
    check = check_events(rows)
    assert any(part in line for line in check.faults for part in fault.split("|"))


def test_a_position_has_one_content() -> None:
    # Generation, partition, offset, index, digest.
    rows = [(0, 3, 10, 0, 77), (0, 3, 10, 0, 77), (0, 3, 10, 1, 77), (0, 3, 10, 0, 78), (1, 3, 10, 0, 78)]
    check = check_positions(*np.array(rows, np.int64).T)
    assert (check.records, check.copies, len(check.conflicts)) == (5, 1, 1)
    assert "offset 10" in check.conflicts[0]
    assert check_positions(*np.zeros((5, 0), np.int64)).records == 0
