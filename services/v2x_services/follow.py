"""Reading topics as a person does: all partitions, from the beginning, the last n records, or from now on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from v2x.errors import BrokerError

from v2x_services.topics import NO_KAFKA, bounds, partitions_of


async def follow(
    bootstrap: str, names: Sequence[str], *, last: int | None = 0, to_end: bool = False
) -> AsyncIterator[Any]:
    """Yield records (aiokafka's ConsumerRecord) of topics; in order within a partition.

    ``last`` records of each partition come first (None: all that there are); with ``to_end`` it ends at what was the
    end when it began, else it goes on for ever.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none")
    try:
        try:
            await consumer.start()
        except (KafkaError, OSError) as e:
            raise BrokerError(NO_KAFKA.format(bootstrap, type(e).__name__)) from e
        tps = [TopicPartition(name, p) for name in names for p in sorted(await partitions_of(consumer, name))]
        begin, end = await bounds(consumer, tps)
        start = {tp: begin[tp] if last is None else max(begin[tp], end[tp] - last) for tp in tps}
        waiting = {tp for tp in tps if start[tp] < end[tp]} if to_end else set(tps)
        consumer.assign(list(waiting))
        for tp in waiting:
            consumer.seek(tp, start[tp])
        while waiting:
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    yield message
            if to_end:
                waiting = {tp for tp in waiting if await consumer.position(tp) < end[tp]}
    finally:
        await consumer.stop()
