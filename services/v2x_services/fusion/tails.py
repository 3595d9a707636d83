"""How far the outputs of a partition are out: the positions at the tail of each output topic's partition.

After a restart the core makes again what it made after its last snapshot, byte for byte; what is at or before these
positions is already in the log and is not written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiokafka import TopicPartition
from v2x.errors import DecodeError
from v2x.topics import EVENTS, LINKS, MAPS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_services.topics import bounds

OUTPUT_TOPICS: Final = (TRACKS, EVENTS, LINKS, MAPS)
# A copy by a zombie, or the last batch sent again after a fault, can stand behind the furthest record: look at some.
LOOK_BACK: Final = 64
Position = tuple[int, int]  # input offset, index


async def last_positions(
    consumer: Any, codec: ReferenceCodec, partitions: Sequence[int], generations: dict[int, str]
) -> dict[tuple[str, int], Position]:
    """Return the furthest position per (output topic, partition) that belongs to that partition's generation.

    Uses ``consumer`` (no group) and leaves its assignment changed.
    """
    tps = [TopicPartition(topic, p) for topic in OUTPUT_TOPICS for p in partitions]
    begin, end = await bounds(consumer, tps)
    waiting = {tp for tp in tps if end[tp] > begin[tp]}
    consumer.assign(list(waiting))
    for tp in waiting:
        consumer.seek(tp, max(begin[tp], end[tp] - LOOK_BACK))
    furthest: dict[tuple[str, int], Position] = {}
    while waiting:
        for tp, messages in (await consumer.getmany(timeout_ms=1000)).items():
            for message in messages:
                at = _position(codec, message.value, generations.get(tp.partition, ""))
                key = (tp.topic, tp.partition)
                if at is not None and at > furthest.get(key, (-1, -1)):
                    furthest[key] = at
        # By position, not by count: compaction leaves holes in the offsets.
        waiting = {tp for tp in waiting if await consumer.position(tp) < end[tp]}
    return furthest


def _position(codec: ReferenceCodec, value: bytes | None, generation: str) -> Position | None:
    try:
        _, record = codec.decode_kafka(value or b"")
    except DecodeError:
        return None
    if not generation or record.get("generation") != generation:
        return None
    return int(record["offset"]), int(record["index"])
