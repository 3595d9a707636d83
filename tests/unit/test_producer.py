"""The producer's connection: what an answer says, and a broker that gives none."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, cast

import numpy as np
from aiokafka.errors import KafkaError, RequestTimedOutError
from hypothesis import given
from hypothesis import strategies as st

from v2x_services.lanes import Chunk, tokens_of
from v2x_services.patience import Patience
from v2x_services.ports import NO_TOKEN
from v2x_services.producer import _codes, _Link, _written

answers = st.dictionaries(
    st.tuples(st.sampled_from(["a", "v2x.observations"]), st.integers(0, 70_000)),
    st.sampled_from([0, 0, 0, 6, 46]),
    max_size=20,
)


def body(codes: dict[tuple[str, int], int]) -> bytes:
    """Return the body of a produce response, version 7."""
    topics = sorted({topic for topic, _ in codes})
    out = struct.pack(">i", len(topics))
    for topic in topics:
        some = [(p, code) for (name, p), code in codes.items() if name == topic]
        out += struct.pack(">h", len(topic)) + topic.encode() + struct.pack(">i", len(some))
        out += b"".join(struct.pack(">ihqqq", p, code, 1 << 40, -1, 0) for p, code in some)
    return out + struct.pack(">i", 0)


@given(answers, st.binary(max_size=9))
def test_an_answer_is_read_whole_only_where_there_is_something_to_say(
    codes: dict[tuple[str, int], int], before: bytes
) -> None:
    raw = before + body(codes)
    assert _codes(raw, len(before)) == codes
    written = _written(np.frombuffer(raw, np.uint8), len(before), len(raw))
    assert written == (-1 if any(codes.values()) else len(codes))


def test_an_answer_that_is_cut_is_not_read_beyond_its_end() -> None:
    raw = body({("a", 0): 0, ("a", 1): 0, ("v2x.observations", 7): 0})
    long_name = raw[:4] + b"\x7f\xff" + raw[6:]
    for answer in (*(raw[:n] for n in range(len(raw) - 4)), long_name, b"\xff" * 30):
        assert _written(np.frombuffer(answer, np.uint8), 0, len(answer)) == -1


class Transport:
    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, frame: bytearray) -> None:
        self.frames.append(bytes(frame))

    def abort(self) -> None:
        """Do nothing."""


async def test_each_request_has_its_own_time_and_the_first_that_is_over_ends_them_all() -> None:
    link, transport = _Link(Patience(0.2)), Transport()
    link.connection_made(cast("asyncio.Transport", transport))
    said: list[Any] = []
    link.send(bytearray(20), said.append)
    link.data_received(struct.pack(">ii", 4 + len(body({})), 1) + body({}))
    assert said == [0]
    await asyncio.sleep(0.15)
    for _ in range(2):
        link.send(bytearray(20), said.append)
    await asyncio.sleep(0.1)  # the first one's time is over, but it was answered
    assert len(said) == 1
    await asyncio.sleep(0.2)
    assert [type(one) for one in said[1:]] == [RequestTimedOutError] * 2
    assert issubclass(RequestTimedOutError, KafkaError)
    assert link.transport is None


def test_tokens_of_many_records_are_told_once_each() -> None:
    column = np.arange(10, 16)
    one, two = Chunk(tokens=[column[:2], 7]), Chunk(tokens=[column[2:6], NO_TOKEN])
    assert list(tokens_of([Chunk(tokens=[7, NO_TOKEN]), Chunk(tokens=[8])], 3)) == [7, 8]
    assert list(tokens_of([Chunk(tokens=[column[:2]]), Chunk(tokens=[column[2:6]])], 6)) == column.tolist()
    assert list(tokens_of([Chunk(tokens=[column[:2]])], 2)) == [10, 11]
    assert sorted(tokens_of([one, two], 8)) == [7, *column.tolist()]
    assert list(tokens_of([Chunk(tokens=[NO_TOKEN])], 1)) == []
