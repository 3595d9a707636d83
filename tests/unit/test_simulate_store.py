"""The device's store: nothing leaves it but by a confirm, a refusal, five tries in vain, or for want of room."""

from __future__ import annotations

import random

import numpy as np
import pytest

from v2x_codecs import vectors
from v2x_codecs.framing import mqtt_header
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.simulate.ledger import Ledger, rows_of
from v2x_loadtest.simulate.link import RELIABLE, TYPES, Broker, DeviceLink
from v2x_loadtest.simulate.step import MESSAGE
from v2x_loadtest.simulate.store import FRAME, GAP_S, SILENCE_S, TRIES, Confirm, Key, Store, read_confirm

REGISTRY = Registry.load()


def key(seq: int, boot: int = 7, type_: str = "rsi") -> Key:
    return Key(type_, boot, seq)


def told(upto: int, gaps: tuple[int, ...] = (), refused: tuple[int, ...] = (), floor: int = 0) -> Confirm:
    return Confirm("R-1", 0, "rsi", 7, upto, frozenset(gaps), frozenset(refused), floor)


def filled(n: int) -> Store:
    store = Store()
    for seq in range(n):
        store.keep(key(seq), b"%d" % seq)
        store.delivered(key(seq), 0.0)
    return store


def kept(store: Store) -> list[int]:
    return [k.seq for k in store._kept]


def test_the_frame_is_the_newest_schema() -> None:
    assert mqtt_header(REGISTRY.get("confirm")) == FRAME


def test_it_reads_what_the_codec_writes() -> None:
    for vector in vectors.load(REGISTRY):
        read = read_confirm(vector.mqtt)
        if vector.schema != "confirm":
            assert read is None
            continue
        assert read is not None
        want = vector.record
        assert read == Confirm(
            **{**want, "gaps": frozenset(want["gaps"]), "refused": frozenset(want["refused"])}  # type: ignore[arg-type]
        )
    record = {**told(9, (3, 4))._asdict(), "gaps": [3, 4], "refused": []}
    whole = ReferenceCodec(REGISTRY).encode_mqtt("confirm", record)
    assert read_confirm(whole) == told(9, (3, 4))
    assert all(read_confirm(whole[:cut]) is None for cut in range(len(whole)))


def test_a_confirm_frees_what_it_names_and_nothing_else() -> None:
    store = filled(6)
    store.keep(key(1, boot=8), b"")
    store.keep(key(1, type_="ack"), b"")
    store.confirmed(told(4, gaps=(2,), refused=(3,), floor=1))
    assert sorted(store._kept) == sorted([key(0), key(2), key(5), key(1, boot=8), key(1, type_="ack")])
    assert (store.tally.confirmed, store.tally.refused) == (2, 1)


def test_a_gap_goes_again_soon_and_silence_later() -> None:
    store = filled(3)
    store.confirmed(told(1, gaps=(0,)))
    assert list(store.due(GAP_S - 0.1)) == []
    assert list(store.due(GAP_S)) == [(key(0), b"0")]
    assert list(store.due(GAP_S + 1)) == []  # it is on its way
    assert list(store.due(SILENCE_S)) == [(key(2), b"2")]


def test_a_message_that_the_broker_has_not_is_the_links_task() -> None:
    store = Store()
    store.keep(key(0), b"")
    assert list(store.due(1e6)) == []


def test_it_gives_up_after_five_tries_and_counts_it() -> None:
    store, now, tries = filled(1), 0.0, 0
    while len(store):
        now += 1.0
        for k, _ in store.due(now):
            tries += 1
            store.delivered(k, now)
    assert (tries, store.tally.given_up) == (TRIES, 1)
    assert now == pytest.approx(SILENCE_S * (2 ** (TRIES + 1) - 1))


def test_the_oldest_goes_when_it_is_full() -> None:
    store = Store(capacity=3)
    for seq in range(5):
        store.keep(key(seq), b"")
        store.keep(key(seq), b"")  # a repeat is no other message
    assert (kept(store), store.tally.dropped, store.tally.kept) == ([2, 3, 4], 2, 5)


def test_nothing_is_lost_from_the_books() -> None:
    store = filled(10)
    store.discard(key(9))
    store.discard(key(9))
    store.confirmed(told(5, gaps=(1,), refused=(2,)))
    t = store.tally
    assert t.kept == t.confirmed + t.refused + t.given_up + t.dropped + len(store) == 10


def test_a_repeat_that_the_link_makes_is_not_kept_again() -> None:
    ledger = Ledger(None)
    ledger.append(rows_of(np.zeros(2, MESSAGE)), 0)
    broker = Broker("127.0.0.1", 1, ledger, random.Random(1))
    link = DeviceLink(broker, "G-1", str, confirms="v2x/v1/gantry/G-1/confirm/down")
    code = RELIABLE.index(True)
    link.send(0, code, b"once", 7)
    assert link.store is not None
    assert (len(link.store), broker.tally.kept) == (1, 1)
    link.store.confirmed(Confirm("G-1", 0, TYPES[code], link.boot, 7, frozenset(), frozenset(), 0))
    link.send(1, code, b"once", -1)  # it comes late, when the message is in the log already
    assert (len(link.store), broker.tally.kept) == (0, 1)
