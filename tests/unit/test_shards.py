"""Shards of ingest: every topic has exactly one, whatever their number, and no two filters overlap."""

from __future__ import annotations

from itertools import combinations

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_zones import parsed
from v2x.errors import ConfigError
from v2x.shards import Shard, filters, known_devices, owner, spread_topics
from v2x.topics import UPLINKS, MessageClass, uplink_topic

from v2x_services.ingest.onboarding import MOST_GUESTS, Onboarding
from v2x_services.ingest.subscriptions import PER_PACKET, Subscriptions
from v2x_services.ingest.topics import Place, Topic

KNOWN = frozenset(f"RSU-{i}" for i in range(100))
CLASSES = (MessageClass.RELIABLE, MessageClass.PERISHABLE)


def matches(pattern: str, topic: str) -> bool:
    return all(p in {"+", t} for p, t in zip(pattern.split("/"), topic.split("/"), strict=True))


@given(
    st.integers(2, 9),
    st.sampled_from(UPLINKS),
    st.sampled_from(sorted(KNOWN)) | st.text("ABC-", min_size=1, max_size=4),
)
def test_a_topic_has_one_filter_in_one_session_of_its_owner(count: int, row: object, device: str) -> None:
    assert row in UPLINKS
    topic = uplink_topic(row.kind, device, row.type)  # type: ignore[attr-defined]
    found = [
        (index, kind)
        for index in range(count)
        for kind in CLASSES
        for pattern in filters(Shard(index, count), kind, KNOWN)
        if matches(pattern, topic)
    ]
    guest = device not in KNOWN and topic in spread_topics(device)
    expected = [(owner(row, device, KNOWN, count), row.message_class)]  # type: ignore[arg-type,attr-defined]
    assert found == ([] if guest else expected)


def test_all_shards_have_about_the_same_number_of_devices() -> None:
    known = [f"R{i:05d}" for i in range(1700)]
    sizes = [len(filters(Shard(i, 4), MessageClass.PERISHABLE, known)) for i in range(1, 4)]
    assert min(sizes) > 0.85 * 1700
    assert max(sizes) < 1.15 * 1700


def test_gantries_send_nothing_that_is_spread() -> None:
    assert known_devices(parsed()) == {"R1", "R2"}


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "0/0", "0/65", "/2", "1/", ""])
def test_a_wrong_shard_is_told_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="shard"):
        Shard.parse(text)
    assert Shard.parse("1/3") == Shard(1, 3)


def packets(data: bytes) -> list[mqtt5.Packet]:
    found, view = [], memoryview(data)
    while view:
        packet, size = mqtt5.read(view)
        found.append(packet)
        view = view[size:]
    return found


def test_many_filters_go_in_several_packets_and_the_old_are_dropped_last() -> None:
    subs = Subscriptions([f"t/{i}" for i in range(2 * PER_PACKET + 1)], ["old"])
    sent = packets(subs.open())
    assert [type(p) for p in sent] == [mqtt5.SubscribePacket] * 3 + [mqtt5.UnsubscribePacket]
    assert not subs.settled
    for p in sent:
        assert isinstance(p, mqtt5.SubscribePacket | mqtt5.UnsubscribePacket)
        assert not subs.settled
        assert subs.answered(p.packet_id, []) == []
    assert subs.settled
    assert subs.add(["t/1"]) == b""
    subs.drop(["t/1"])
    again = packets(subs.open())
    assert isinstance(again[-1], mqtt5.UnsubscribePacket)
    assert again[-1].patterns == ["old", "t/1"]
    assert subs.answered(9, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]) == ["NOT_AUTHORIZED"]


class Recorder:
    def __init__(self) -> None:
        self.more: list[str] = []
        self.less: list[str] = []

    def subscribe(self, filters: object) -> None:
        self.more += filters  # type: ignore[operator]

    def unsubscribe(self, filters: object) -> None:
        self.less += filters  # type: ignore[operator]


def topic(device: str, type_: str) -> Topic:
    row = next(r for r in UPLINKS if (r.kind, r.type) == ("rsu", type_))
    return Topic(uplink_topic("rsu", device, type_), Place.UPLINK, device, device.encode(), 0, 0, row, 0)


def test_guests_belong_to_shard_0_and_are_bounded() -> None:
    session = Recorder()
    guests = Onboarding(Shard(0, 2), KNOWN, session)
    for _ in range(2):
        guests.first(topic("NEW", "hb"))
    guests.first(topic("RSU-1", "hb"))
    guests.first(topic("NEW", "rsm"))
    assert session.more == list(spread_topics("NEW"))
    assert session.less == []
    for i in range(2 * MOST_GUESTS):
        guests.first(topic(f"N{i}", "hb"))
    assert len(session.more) == 4 * MOST_GUESTS


def test_a_topic_of_another_shard_is_dropped() -> None:
    a, b = (next(d for d in sorted(KNOWN) if owner(topic(d, "rsm").row, d, KNOWN, 2) == i) for i in (0, 1))  # type: ignore[arg-type]
    for index, (mine, other) in enumerate(((a, b), (b, a))):
        session = Recorder()
        shard = Onboarding(Shard(index, 2), KNOWN, session)
        shard.first(topic(mine, "rsm"))
        shard.first(topic(other, "rsm"))
        assert session.less == [topic(other, "rsm").name]
    session = Recorder()
    Onboarding(Shard(0, 2), KNOWN, session, leaving=True).first(topic("NEW", "rsm"))
    assert session.less == [topic("NEW", "rsm").name]


def test_filters_are_disjoint() -> None:
    every = [f for i in range(3) for kind in CLASSES for f in filters(Shard(i, 3), kind, KNOWN)]
    wild = [f for f in every if "+" in f]
    assert len(every) == len(set(every))
    assert not any(matches(w, f) for w in wild for f in every if f is not w)
    assert not any(matches(a, b) or matches(b, a) for a, b in combinations(wild, 2))
