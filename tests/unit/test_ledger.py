"""The ledger: acknowledged in arrival order, once durable, by the epoch that the packet id belongs to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from v2x.ledger import AckLedger


def ids(ledger: AckLedger) -> list[tuple[int, int]]:
    out = ledger.release()
    return list(zip(out.epoch.tolist(), out.packet_id.tolist(), strict=True))


def test_nothing_leaves_before_it_is_durable_and_all_in_arrival_order() -> None:
    ledger = AckLedger()
    first = ledger.take(1, [7, 8, 9], 100)
    assert ids(ledger) == []
    ledger.settle([first + 2])
    ledger.settle([first + 1])
    assert ids(ledger) == []
    assert ledger.in_flight == 3
    ledger.settle([first])
    assert ids(ledger) == [(1, 7), (1, 8), (1, 9)]
    assert ledger.in_flight == 0


def test_a_message_with_copies_waits_for_all_of_them() -> None:
    ledger = AckLedger()
    token = ledger.take(1, [5], 0)
    ledger.expect(token, 3)
    ledger.settle([token, token])
    assert ids(ledger) == []
    ledger.settle([token])
    assert ids(ledger) == [(1, 5)]


def test_epochs_stay_apart() -> None:
    ledger = AckLedger()
    old = ledger.take(1, [1, 2], 0)
    new = ledger.take(2, [1], 0)
    ledger.settle([new, old, old + 1])
    assert ids(ledger) == [(1, 1), (1, 2), (2, 1)]


def test_fates_and_times_come_out_with_their_messages() -> None:
    ledger = AckLedger()
    token = ledger.take(1, [1, 2], 55)
    ledger.decide([token, token + 1], np.array([3, 4], np.int16))
    ledger.decide([token + 1], 9)
    assert ledger.fates().tolist() == [3, 9]
    ledger.settle([token, token + 1])
    out = ledger.release()
    assert out.fate.tolist() == [3, 9]
    assert out.rx_us.tolist() == [55, 55]


def test_rows_are_used_again_without_traces() -> None:
    ledger = AckLedger(1)
    for round_ in range(1000):
        token = ledger.take(round_, [round_ % 65_535 + 1], round_)
        assert ledger.fates().tolist() == [0]
        ledger.decide([token], 2)
        ledger.settle([token])
        assert ids(ledger) == [(round_, round_ % 65_535 + 1)]


def test_tokens_that_are_not_in_the_ring_are_refused() -> None:
    ledger = AckLedger()
    token = ledger.take(1, [1], 0)
    for wrong in (token - 1, token + 1):
        with pytest.raises(ValueError, match="ring"):
            ledger.settle([wrong])
        with pytest.raises(ValueError, match="ring"):
            ledger.expect(wrong, 2)
    with pytest.raises(ValueError, match="0 records"):
        ledger.expect(token, 0)
    ledger.settle([])


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 300)), max_size=40), st.randoms(use_true_random=False))
def test_any_order_of_settling_gives_arrival_order(steps: list[tuple[int, int]], random: object) -> None:
    """Against a plain list; the ring grows on the way."""
    ledger, model, waiting, out = AckLedger(1), [], [], []  # type: ignore[var-annotated]
    for epoch, (arrivals, settled) in enumerate(steps):
        token = ledger.take(epoch, list(range(1, arrivals + 1)), 0)
        model += [(epoch, i) for i in range(1, arrivals + 1)]
        waiting += range(token, token + arrivals)
        random.shuffle(waiting)  # type: ignore[attr-defined]
        done, waiting = waiting[:settled], waiting[settled:]
        ledger.settle(done)
        out += ids(ledger)
        assert ledger.in_flight == len(model) - len(out)
        assert out == model[: len(out)]
        assert not waiting or len(out) == min(waiting)
    ledger.settle(waiting)
    assert out + ids(ledger) == model
