"""Confirmed delivery against real brokers: what is told, over restarts, and that nothing reliable is ever lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiomqtt
import pytest
from aiokafka import TopicPartition
from tests.integration.ingest_world import BOOT, Publisher, now_ms, payload, running, settings
from v2x.audit import size
from v2x.topics import SUMMARIES, UPLINKS, MessageClass, uplink_topic

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import read_log
from v2x_loadtest.audit.standing import StandingAudit
from v2x_loadtest.audit.verdict import judge
from v2x_loadtest.scene import load_scene
from v2x_loadtest.simulate import Options
from v2x_loadtest.simulate.run import Run
from v2x_loadtest.simulate.store import Confirm as Told
from v2x_loadtest.simulate.store import read_confirm
from v2x_services.brokers import Mosquitto
from v2x_services.catalogue import LAWS
from v2x_services.confirm.app import Confirm
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

pytestmark = pytest.mark.real
RELIABLE = {row.schema for row in UPLINKS if row.message_class is MessageClass.RELIABLE}


@asynccontextmanager
async def confirming(made: Settings) -> AsyncIterator[Metrics]:
    """Run the service until the block ends; ready when it begins."""
    metrics, stop = Metrics("confirm"), asyncio.Event()
    service = Confirm(made, metrics)
    task = asyncio.create_task(service.run(stop))
    try:
        async with asyncio.timeout(30):
            while service.not_ready():
                assert not task.done(), await task
                await asyncio.sleep(0.02)
        yield metrics
    finally:
        stop.set()
        await task
    metrics.refresh()
    assert metrics.imbalance(next(law for law in LAWS if law.name == "confirm")) == 0


@asynccontextmanager
async def auditing(made: Settings) -> AsyncIterator[StandingAudit]:
    """Run the standing audit until the block ends; it reads from now on."""
    audit, stop = StandingAudit(made, Metrics("audit")), asyncio.Event()
    task = asyncio.create_task(audit.run(stop))
    try:
        async with asyncio.timeout(30):
            while audit.why_not_ready:
                assert not task.done(), await task
                await asyncio.sleep(0.02)
        yield audit
    finally:
        stop.set()
        await task


@dataclass
class Ear:
    """What was told last, by device, type and boot."""

    last: dict[tuple[str, str, int], Told] = field(default_factory=dict)

    async def until(
        self, device: str, type_: str, upto: int, *, boot: int = BOOT, gaps: set[int] | None = None
    ) -> Told:
        async with asyncio.timeout(15):
            while True:
                told = self.last.get((device, type_, boot))
                if told is not None and told.upto == upto and told.gaps == (gaps or set()):
                    return told
                await asyncio.sleep(0.02)


@asynccontextmanager
async def listening(port: int) -> AsyncIterator[Ear]:
    ear = Ear()
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("v2x/v1/+/+/confirm/down")

        async def pump() -> None:
            async for m in client.messages:
                told = read_confirm(m.payload)
                assert told is not None
                assert str(m.topic).split("/")[3] == told.device
                ear.last[told.device, told.type, told.boot] = told

        task = asyncio.ensure_future(pump())
        try:
            yield ear
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def trade(seq: int, **fields: object) -> tuple[str, bytes]:
    """Return a transaction; each of another vehicle, so they go to all partitions."""
    made = payload("gantry_transaction", "G-1", seq, plate=f"苏A{seq:05d}", **fields)
    return uplink_topic("gantry", "G-1", "transaction"), made


async def test_what_is_told_and_over_restarts(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    made = settings(world, mosquitto.port, tmp_path, confirm_s=0.2)
    state = made.state_dir / "confirm" / "streams.json"
    async with (
        running(made) as ingest,
        listening(mosquitto.port) as ear,
        Publisher(mosquitto.port, "pub") as pub,
    ):
        async with confirming(made) as metrics:
            ahead = trade(4, ts_ms=now_ms() + 60_000)  # a dead letter with a number
            cut = trade(6)[0], trade(6)[1][:-3]  # another one, whose number can still be read
            await pub.publish([trade(1), trade(0), trade(0), trade(3), ahead, trade(5), cut])
            told = await ear.until("G-1", "transaction", 6, gaps={2})
            assert (told.refused, told.floor) == ({4, 6}, 0)
            await pub.publish([trade(2)])
            await ear.until("G-1", "transaction", 6)
            # Written to two zones, durable once; perishable types are nobody's affair.
            edge = "RSU-EDGE"
            await pub.publish([(uplink_topic("rsu", edge, t), payload(t, edge, 0)) for t in ("rsi", "rsm")])
            await ear.until(edge, "rsi", 0)
            assert (edge, "rsm", BOOT) not in ear.last
            await ingest.settled(10)
            counted = {k: v.value for k, v in metrics._series["v2x_confirm_passed_over_total"].items()}
            assert counted["copy",] == 1
            assert counted["repeat",] >= 1
        assert state.is_file()
        begun = metrics.total("v2x_confirm_records_total")
        # From the file: what it has read is not read again, and what came meanwhile is seen.
        await pub.publish([trade(7), trade(9)])
        await ingest.settled(12)
        async with confirming(made) as metrics:
            told = await ear.until("G-1", "transaction", 9, gaps={8})
            assert told.refused == {4, 6}
            assert metrics.total("v2x_confirm_records_total") < begun + 20  # and ticks
        # From the log alone, and after a reboot of the device.
        state.write_bytes(state.read_bytes()[:-1])
        ear.last.clear()
        async with confirming(made):
            told = await ear.until("G-1", "transaction", 9, gaps={8})
            assert told.refused == {4, 6}
            await pub.publish([trade(seq, boot=BOOT + 1) for seq in (0, 1)])
            await ear.until("G-1", "transaction", 1, boot=BOOT + 1)


async def test_a_killed_mosquitto_costs_no_reliable_message(world: str, tmp_path: Path) -> None:
    scene = load_scene("motorway")
    zones = tmp_path / "road.json"
    zones.write_text(json.dumps(scene.zones))
    with Mosquitto(tmp_path / "mosquitto") as broker:
        made = settings(world, broker.port, tmp_path, zones_path=zones, audit_sweep_s=600)
        ledger = tmp_path / "ledger"
        async with confirming(made) as metrics, auditing(made) as standing:
            async with running(made):
                run = Run(scene, Options(port=broker.port, duration=9, offset=30, scale=2, ledger=ledger))
                task = asyncio.create_task(run.run())
                async with asyncio.timeout(20):
                    while not metrics.total("v2x_confirm_sent_total"):
                        assert not task.done()
                        await asyncio.sleep(0.02)
                await asyncio.sleep(1.0)
            # While ingest is away the broker queues and acknowledges; then it forgets all of that.
            await asyncio.sleep(1.5)
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            async with running(made) as ingest:
                summary = await task
                async with asyncio.timeout(20):
                    while ingest.count("v2x_ingest_in_flight"):  # noqa: ASYNC110 - counters tell nobody
                        await asyncio.sleep(0.02)
            log, told = await read_log(world), await read_log(world, [SUMMARIES])
            books = standing._metrics
            async with asyncio.timeout(10):
                while any(standing._tap.next[TopicPartition(*at)] < end for at, end in told.ends.items()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for _ in range(2):
                standing.sweep(everything=True)
            books.refresh()
    verdict = judge(log, Ledger.load(ledger))
    by_type = verdict.account.by_type()
    assert summary.sent_again > 0  # the crash did take reliable messages
    assert summary.kept > 100
    assert (summary.unconfirmed, summary.abandoned, summary.declined) == (0, 0, 0)
    assert summary.confirmed == summary.kept
    reliable = [part for name, part in by_type.items() if name in RELIABLE]
    for part in reliable:
        # Each once by the reader's rule, whatever was sent again.
        assert (part.lost, part.unacknowledged, part.unknown) == (0, 0, 0)
        assert part.logged == part.published
    assert sum(part.logged for part in reliable) == summary.kept
    # What is not sent again is lost, and counted to the message: every acknowledged one is in the log or named.
    perishable = [part for name, part in by_type.items() if name not in RELIABLE]
    assert sum(part.lost for part in perishable) > 100
    assert all(part.published == part.logged + part.lost + part.unacknowledged for part in perishable)
    # The standing audit says the same without a ledger: what lies between the first and the last number of a stream.
    for name, part in by_type.items():
        gaps = sum(size(row.gaps) for row in part.streams)
        assert (name, books.value("v2x_audit_lost_total", type=name).value) == (name, gaps)
    assert books.imbalance(next(law for law in LAWS if law.name == "audit")) == 0
