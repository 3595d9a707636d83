"""Membership in the consumer group that shares the partitions among fusion workers.

A consumer of its own joins the group and never reads a record (all its partitions are paused); it only learns which
partitions are ours. The service reads with a consumer that is assigned by hand, as without a group. So nothing of ours
runs inside a rebalance callback, where the client swallows exceptions, and a rebalance by itself interrupts nothing: a
worker feeds what it has until it knows what it must give up.

Membership is static: a worker that is killed and returns with its number gets its partitions back without a rebalance.
One that does not return is missed after the session time-out; one that stops cleanly leaves at once. Nothing is
committed: a partition's position is that of its snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

log = structlog.get_logger("fusion")
SESSION_MS: Final = 3_000
HEARTBEAT_MS: Final = 500
_REBALANCE_MS: Final = 10_000
_POLL_MS: Final = 500
_RETRY_S: Final = 0.5
_LEAVE_S: Final = 2.0


class Membership:
    """One worker's place in the group; ``fatal`` keeps what it cannot go on from."""

    def __init__(self, bootstrap: str, topics: Collection[str], group: str, worker: int) -> None:
        self.assigned: frozenset[TopicPartition] | None = None  # None before the first assignment
        self.generation = 0  # counts assignments
        self.fatal: BaseException | None = None
        self._bootstrap, self._topics, self._group, self._worker = bootstrap, tuple(topics), group, worker
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Join in the background, and stay a member whatever Kafka does."""
        self._task = asyncio.create_task(self._run(), name="fusion group")
        self._task.add_done_callback(self._ended)

    async def leave(self) -> None:
        """Leave the group, so that others take over at once."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task
        await self._close(leaving=True)

    def take(self, assigned: Collection[TopicPartition]) -> None:
        """Note an assignment: it replaces the one before."""
        self.assigned = frozenset(assigned)
        self.generation += 1
        for tp in assigned:
            self._consumer.pause(tp)
            self._consumer.seek(tp, 0)  # or it would look for a position
        log.info("partitions assigned", worker=self._worker, partitions=sorted(f"{t}-{p}" for t, p in assigned))

    async def _run(self) -> None:
        while True:
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                group_id=self._group,
                group_instance_id=f"{self._group}-{self._worker}",
                client_id=f"{self._group}-{self._worker}",
                partition_assignment_strategy=(RangePartitionAssignor,),
                session_timeout_ms=SESSION_MS,
                heartbeat_interval_ms=HEARTBEAT_MS,
                rebalance_timeout_ms=_REBALANCE_MS,
                request_timeout_ms=_REBALANCE_MS + 5_000,
                enable_auto_commit=False,
                auto_offset_reset="latest",
            )
            try:
                await self._consumer.start()
                self._consumer.subscribe(self._topics, listener=_Listener(self))
                while True:
                    await self._consumer.getmany(timeout_ms=_POLL_MS)  # reads nothing; tells what is wrong
            except KafkaError as e:
                log.warning("fusion group: joining again", error=repr(e))
            await self._close()
            await asyncio.sleep(_RETRY_S)

    async def _close(self, *, leaving: bool = False) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        coordinator = getattr(consumer, "_coordinator", None)
        if leaving and coordinator is not None:
            coordinator._group_instance_id = None  # noqa: SLF001 - else the client never says that it leaves
        with suppress(Exception):
            async with asyncio.timeout(_LEAVE_S):
                await consumer.stop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.fatal = task.exception()


class _Listener(ConsumerRebalanceListener):
    """Hands assignments on; nothing here may raise."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Go on: what is ours no more is known when the next assignment comes."""

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note what is ours now."""
        self._membership.take(assigned)
