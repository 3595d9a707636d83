"""Several shards of ingest on real brokers: each message once, guests let in, and a new number of shards under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import mqtt5
import pytest
from tests.integration.ingest_world import Publisher, Running, payload, read, rsm, running, settings
from tests.integration.test_ingest_faults import DEVICES, Traffic
from v2x.shards import Shard, owner
from v2x.topics import DEVICES as DEVICES_TOPIC
from v2x.topics import OBSERVATIONS, UPLINKS, uplink_topic

from v2x_services.brokers import Mosquitto
from v2x_services.ingest.app import Ingest
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

pytestmark = pytest.mark.real
RSM = next(row for row in UPLINKS if row.schema == "rsm")
KNOWN = frozenset([*DEVICES, "RSU-EDGE"])


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of our own: sessions that other tests left would take what nobody should."""
    with Mosquitto(tmp_path / "mosquitto") as made:
        yield made


def shard_of(device: str, count: int) -> int:
    return owner(RSM, device, KNOWN, count)


@asynccontextmanager
async def shards(s: Settings, count: int) -> AsyncIterator[list[Running]]:
    """Run a whole set; stop it at the end."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(s, f"{i}/{count}")) for i in range(count)]


async def leave(s: Settings, count: int) -> int:
    """Run what `v2x ingest --shard i/n --leave` runs, for each; return how many messages were still queued."""
    taken = 0.0
    for i in range(count):
        metrics = Metrics("ingest")
        async with asyncio.timeout(20):
            await Ingest(s, metrics, Shard(i, count), leaving=True).run(asyncio.Event())
        taken += metrics.total("v2x_ingest_received_total")
    return int(taken)


async def seen(bootstrap: str) -> Counter[tuple[str, str, int]]:
    """Return how often each message is in Kafka."""
    return Counter((f.record["device"], f.schema, f.record["seq"]) for f in await read(bootstrap, OBSERVATIONS))


async def session_present(port: int, client_id: str) -> bool:
    """Ask the broker whether it keeps a session; ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(mqtt5.ConnectPacket(client_id, clean_start=False).write())
    packet, _ = mqtt5.read(memoryview(await reader.read(4096)))
    writer.write(mqtt5.DisconnectPacket(session_expiry_interval=0).write())
    await writer.drain()
    writer.close()
    assert isinstance(packet, mqtt5.ConnAckPacket)
    return packet.session_present


async def test_two_shards_take_every_message_once(world: str, broker: Mosquitto, tmp_path: Path) -> None:
    s = settings(world, broker.port, tmp_path)
    async with shards(s, 2) as (zero, one), Publisher(broker.port, "pub") as pub:
        sent = [rsm(device, seq) for device in DEVICES for seq in range(50)]
        sent += [(uplink_topic("rsu", d, "rsi"), payload("rsi", d, 0)) for d in DEVICES]
        sent += [(uplink_topic("rsu", d, "hb"), payload("rsu_hb", d, 0)) for d in DEVICES]
        sent += [(uplink_topic("obu", "O-1", "bsm"), payload("bsm", "O-1", seq)) for seq in range(50)]
        sent += [(uplink_topic("gantry", "G-1", "hb"), payload("gantry_hb", "G-1", 0))]
        assert set(await pub.publish(sent)) == {0}
        of_one = 50 * sum(shard_of(device, 2) == 1 for device in DEVICES)
        assert 0 < of_one < 400
        await one.settled(of_one)
        await zero.settled(len(sent) - of_one)
        assert (zero.count("v2x_ingest_received_total"), one.count("v2x_ingest_received_total")) == (
            len(sent) - of_one,
            of_one,
        )
        assert zero.balanced()
        assert one.balanced()
        found = [f for topic in (OBSERVATIONS, DEVICES_TOPIC) for f in await read(world, topic) if not f.is_copy]
        assert Counter(f.schema for f in found) == {"rsm": 400, "rsi": 8, "rsu_hb": 8, "bsm": 50, "gantry_hb": 1}
        assert {f.record["source"] for f in await read(world, OBSERVATIONS, ticks=True) if f.schema == "tick"}


async def test_a_guest_is_met_by_its_heartbeat(world: str, broker: Mosquitto, tmp_path: Path) -> None:
    s = settings(world, broker.port, tmp_path)
    async with Publisher(broker.port, "pub") as pub:
        async with shards(s, 2) as (zero, _):
            assert await pub.publish([rsm("NEW", 0)]) == [16]  # no subscriber, and the device is told so
            hello = uplink_topic("rsu", "NEW", "hb"), payload("rsu_hb", "NEW", 0)
            assert await pub.publish([hello]) == [0]
            async with asyncio.timeout(5):
                seq = 1
                while await pub.publish([rsm("NEW", seq)]) == [16]:
                    seq += 1
                    await asyncio.sleep(0.05)
            zero.metrics.refresh()
            assert zero.count("v2x_ingest_guest_devices") == 1
        assert await pub.publish([rsm("NEW", seq + 1)]) == [0]  # the session is kept, and the guest's filter with it
        async with shards(s, 2):
            async with asyncio.timeout(10):
                while {f.record["seq"] for f in await read(world, OBSERVATIONS) if f.schema == "rsm"} != {seq, seq + 1}:
                    pass
        assert await leave(s, 2) == 0
        assert await pub.publish([rsm("NEW", seq + 2), rsm("RSU-1", 0), hello]) == [16, 16, 16]


async def test_a_left_set_is_emptied_and_forgotten(world: str, broker: Mosquitto, tmp_path: Path) -> None:
    s = settings(world, broker.port, tmp_path, receive_maximum=10)
    async with shards(s, 2):
        pass
    async with Publisher(broker.port, "pub") as pub:
        assert set(await pub.publish(rsm(d, seq) for seq in range(1000) for d in DEVICES)) == {0}
        assert await leave(s, 2) == 8000
        assert len(await read(world, OBSERVATIONS)) == 8000
        assert await leave(s, 2) == 0  # also where there is nothing to leave
        for i, kind in ((0, "reliable"), (0, "perishable"), (1, "perishable")):
            assert not await session_present(broker.port, f"v2x-{s.ingest_id}-{i}of2-{kind}")


@pytest.mark.parametrize("steps", [(1, 2), (2, 3, 2)], ids=["1-2", "2-3-2"])
async def test_resharding_under_load(world: str, broker: Mosquitto, tmp_path: Path, steps: tuple[int, ...]) -> None:
    s = settings(world, broker.port, tmp_path)
    queued = []
    async with Publisher(broker.port, "pub") as pub, AsyncExitStack() as last:
        old = await last.enter_async_context(AsyncExitStack())
        await old.enter_async_context(shards(s, steps[0]))
        traffic = Traffic(pub)
        await asyncio.sleep(1)
        for before, after in pairwise(steps):
            new = await last.enter_async_context(AsyncExitStack())
            await new.enter_async_context(shards(s, after))
            await asyncio.sleep(0.5)
            await old.aclose()
            queued.append(await leave(s, before))
            old = new
            await asyncio.sleep(0.5)
        acknowledged = await traffic.end()
        # The MQTT broker's word is not Kafka's: what it still queues stays in the sessions when the last set stops.
        async with asyncio.timeout(20):
            while acknowledged - (await seen(world)).keys():
                pass
    assert len(acknowledged) > 500
    found = await seen(world)
    copies = sum(found.values()) - len(found)
    print(f"\n{steps}: {len(acknowledged)} acknowledged, {copies} copies, {queued} drained")
    assert acknowledged - found.keys() == set()
    assert set(found) == acknowledged  # every publish was acknowledged
    assert copies > 0  # the sets overlapped
    assert max(found.values()) <= 2
    for before in set(steps[:-1]) - {steps[-1]}:
        place = "0" if before == 1 else f"0of{before}"
        assert not await session_present(broker.port, f"v2x-{s.ingest_id}-{place}-perishable")
