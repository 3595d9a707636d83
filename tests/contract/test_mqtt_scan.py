"""The compiled scan of MQTT packets against the codec: the same messages, however the bytes are cut."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import mqtt5
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from v2x_loadtest.fuzz import framing

Message = tuple[str, bytes, int, bool]
ids = st.integers(1, 65_535)
topics = st.one_of(
    st.sampled_from(["v2x/v1/rsu/RSU-1/rsm/up", "a", "v2x/v1/obu/路侧/bsm/up", "x" * 300]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=20),
)
cuts = st.lists(st.integers(0), max_size=6)
payloads = st.one_of(st.binary(max_size=40), st.integers(100, 20_000).map(bytes))


@st.composite
def publishes(
    draw: st.DrawFn, topics: st.SearchStrategy[str] = topics, contents: st.SearchStrategy[bytes] = payloads
) -> mqtt5.PublishPacket:
    counted = draw(st.booleans())
    more: dict[str, Any] = draw(
        st.sampled_from([{}, {}, {}, {"message_expiry_interval": 60}, {"content_type": "avro", "response_topic": "b"}])
    )
    return mqtt5.PublishPacket(
        draw(topics),
        draw(contents),
        qos=mqtt5.QoS.AT_LEAST_ONCE if counted else mqtt5.QoS.AT_MOST_ONCE,
        packet_id=draw(ids) if counted else None,
        retain=draw(st.booleans()),
        duplicate=counted and draw(st.booleans()),
        **more,
    )


async def feed(chunks: list[bytes]) -> tuple[list[Message], str]:
    """Give chunks to a connection; return its messages, and why it ended."""
    found, reason, _ = framing.feed(chunks)
    return [(topic.decode(), payload, packet, retained) for topic, payload, packet, retained in found], reason


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(p % (len(data) + 1) for p in places)})
    return [data[a:b] for a, b in pairwise(edges)]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(publishes(), st.just(mqtt5.PingRespPacket())), max_size=12), cuts)
def test_the_same_messages_however_the_bytes_are_cut(packets: list[Any], places: list[int]) -> None:
    data = b"".join(p.write() for p in packets)
    expected = [(p.topic, p.payload, p.packet_id or 0, p.retain) for p in packets if isinstance(p, mqtt5.PublishPacket)]
    found, reason = asyncio.run(feed(cut(data, places)))
    assert (found, reason) == (expected, "")


@pytest.mark.parametrize("n", [1, 255, 256, 257, 5000])
async def test_any_number_of_messages_in_one_read(n: int) -> None:
    one = mqtt5.PublishPacket("t", b"x", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1)
    found, _ = await feed([b"".join([one.write()] * n)])
    assert found == [("t", b"x", 1, False)] * n


GOOD = mqtt5.PublishPacket("ab", b"xyz", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=7, content_type="t").write()


def damaged(at: int, byte: int) -> bytes:
    data = bytearray(GOOD)
    data[at] = byte
    return bytes(data)


@pytest.mark.parametrize(
    "packet",
    [
        damaged(0, 0x34),  # QoS 2
        damaged(0, 0x36),  # QoS 3
        damaged(3, 0),  # no topic
        damaged(3, 200),  # a topic beyond the packet
        damaged(4, 0xFF),  # a topic that is not UTF-8
        damaged(4, 0),  # a topic with a null character
        damaged(7, 0),  # packet id 0
        damaged(8, 100),  # properties beyond the packet
        b"\x32\xff\xff\xff\xff\x01" + GOOD[2:],  # a length of five bytes
    ],
)
@pytest.mark.parametrize("places", [[], [1], [3, 5, 6]])
async def test_what_is_no_publish_ends_the_connection_and_nothing_of_it_is_taken(
    packet: bytes, places: list[int]
) -> None:
    assert (await feed([GOOD]))[0] == [("ab", b"xyz", 7, False)]
    found, reason = await feed([GOOD, *cut(packet, places), GOOD])
    assert found == [("ab", b"xyz", 7, False)]
    assert reason.startswith("the broker sent what is not MQTT 5")
