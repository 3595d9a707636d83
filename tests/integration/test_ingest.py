"""Ingest against real Mosquitto and real Kafka: good messages of every kind, and what each kind of bad one becomes."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from pathlib import Path

import pytest
from tests.integration.ingest_world import CODEC, Publisher, now_ms, payload, read, record, rsm, running, settings
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, UPLINKS, uplink_topic

from v2x_services.brokers import Mosquitto
from v2x_services.ingest.privacy import load_keys

pytestmark = pytest.mark.real
HOUR_MS = 3_600_000


async def test_every_kind_of_message_gets_where_it_belongs(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    s = settings(world, mosquitto.port, tmp_path)
    async with running(s) as ingest, Publisher(mosquitto.port, "pub") as pub:
        sent = [(row, f"{row.kind}-{row.type}") for row in UPLINKS]
        codes = await pub.publish(
            (uplink_topic(row.kind, device, row.type), payload(row.schema, device, 5)) for row, device in sent
        )
        assert set(codes) == {0}
        # Reliable ones reach the perishable session too, and are set aside there.
        reliable = sum(row.message_class == 1 for row in UPLINKS)
        await ingest.settled(len(sent) + reliable)
        assert ingest.count("v2x_ingest_forwarded_total") == len(sent)
        assert ingest.by_reason("v2x_ingest_dropped_total") == {"elsewhere": reliable}
        assert ingest.count("v2x_ingest_dead_letters_total") == 0
        assert ingest.balanced()
        for topic in (OBSERVATIONS, GANTRY, DEVICES):
            found = await read(world, topic)
            wanted = {(row.schema, device) for row, device in sent if row.kafka == topic}
            assert {(f.schema, f.record["device"]) for f in found if not f.is_copy} == wanted
            for f in found:
                assert abs(int.from_bytes(f.headers["rx"], "big") / 1000 - f.stamp_ms) < 5000


async def test_only_the_header_changes(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    topic, data = rsm("RSU-1", 1)
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish([(topic, data)])
        await ingest.settled(1)
    (found,) = await read(world, OBSERVATIONS)
    assert CODEC.encode_mqtt("rsm", found.record) == data
    assert found.key == b"RSU-1"


async def test_plates_are_pseudonyms_before_kafka(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    clear = record(
        "gantry_transaction", "G-1", 0, plate="京A12345", plate_colour=0, obu_sn="1101", card_id="", pass_id="P1"
    )
    seen = record("gantry_plate", "G-1", 0, plate="京A·12345_0", plate_colour=9)
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish(
            [
                (uplink_topic("gantry", "G-1", "transaction"), CODEC.encode_mqtt("gantry_transaction", clear)),
                (uplink_topic("gantry", "G-1", "plate"), CODEC.encode_mqtt("gantry_plate", seen)),
            ]
        )
        await ingest.settled(4)
    found = {f.schema: f for f in await read(world, GANTRY)}
    transaction, plate = found["gantry_transaction"], found["gantry_plate"]
    for name in ("plate", "obu_sn", "pass_id"):
        assert len(transaction.record[name]) == 32
        assert transaction.record[name] != clear[name]
    assert transaction.record["card_id"] == ""
    assert {k: v for k, v in transaction.record.items() if k not in {"plate", "obu_sn", "pass_id"}} == {
        k: v for k, v in clear.items() if k not in {"plate", "obu_sn", "pass_id"}
    }
    # Both records of the vehicle meet: one pseudonym, one key, one partition.
    assert plate.record["plate"] == transaction.record["plate"]
    assert plate.key == transaction.key == transaction.record["plate"].encode()
    assert plate.partition == transaction.partition


async def test_copies_for_the_neighbour_zone_are_marked(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish([rsm("RSU-EDGE", 1), rsm("RSU-1", 1)])
        await ingest.settled(2)
        assert ingest.balanced()
    found = [(f.record["device"], f.partition, f.is_copy) for f in await read(world, OBSERVATIONS)]
    edge = sorted(f[1:] for f in found if f[0] == "RSU-EDGE")
    home = next(f[1] for f in found if f[0] == "RSU-1")
    if len(edge) == 1:  # both zones hash to one partition: one copy
        assert edge == [(home, False)]
    else:
        assert sorted(edge) == sorted([(home, False), (1 - home, True)])


def _bad() -> dict[str, tuple[str, bytes, str]]:
    """Return name: (topic, payload, reason) for each kind of bad message, each of a device of its own."""
    good = payload("rsm", "RSU-0", 1)
    unknown = b"\xc3\x01" + bytes(8) + good[10:]
    wild = CODEC.encode_mqtt("rsm", record("rsm", "RSU-3", 1, ref_lat=900_000_002))
    # An array block that claims 2^31 items: cut the body where the participants begin.
    empty = CODEC.encode_mqtt("rsm", record("rsm", "RSU-6", 1, participants=[], obstacles=[]))
    assert empty.endswith(b"\0\0")
    claims = empty[:-2] + _varint(1 << 31) + b"\x02" * 100
    old = now_ms() - 2 * HOUR_MS
    return {
        "random bytes": (uplink_topic("rsu", "RSU-0", "rsm"), os.urandom(200), "bad_framing"),
        "truncated Avro": (uplink_topic("rsu", "RSU-1", "rsm"), payload("rsm", "RSU-1", 1)[:-3], "truncated"),
        "unknown fingerprint": (uplink_topic("rsu", "RSU-2", "rsm"), unknown, "unknown_schema"),
        "out of range": (uplink_topic("rsu", "RSU-3", "rsm"), wild, "out_of_range"),
        "wrong id in topic": (uplink_topic("rsu", "RSU-4", "rsm"), payload("rsm", "RSU-X", 1), "wrong_device"),
        "an hour ahead": (*rsm("RSU-5", 1, ts_ms=now_ms() + HOUR_MS), "ahead"),
        "perishable far too old": (*rsm("RSU-7", 1, ts_ms=old), "too_old"),
        "2^31 items": (uplink_topic("rsu", "RSU-6", "rsm"), claims, "too_many"),
        "1 MB": (uplink_topic("rsu", "BIG", "rsm"), os.urandom(1 << 20), "too_large"),
        "no schema": ("v2x/v1/rsu/RSU-8/nonsense/up", good, "unknown_topic"),
        "deep topic": ("v2x/v1/a/b/c/d/e/f", b"x", "unknown_topic"),
        "short topic": ("v2x/v1/x", b"x", "unknown_topic"),
        "neither up nor down": ("v2x/v1/rsu/RSU-8/rsm/sideways", good, "unknown_topic"),
        "another schema": (uplink_topic("rsu", "RSU-9", "bsm"), payload("rsm", "RSU-9", 1), "wrong_schema"),
        "empty": (uplink_topic("rsu", "RSU-10", "rsm"), b"", "empty"),
        "trailing": (uplink_topic("rsu", "RSU-11", "rsm"), payload("rsm", "RSU-11", 1) + b"x", "trailing"),
    }


def _varint(n: int) -> bytes:
    n = (n << 1) ^ (n >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


async def test_each_bad_message_is_a_dead_letter_and_its_neighbours_pass(
    world: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    bad = _bad()
    good = [rsm("RSU-0", seq) for seq in range(100, 100 + 2 * len(bad))]
    messages = [
        m for i, (topic, data, _) in enumerate(bad.values()) for m in (good[2 * i], (topic, data), good[2 * i + 1])
    ]
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        assert set(await pub.publish(messages)) == {0}
        await ingest.settled(len(messages))
        assert ingest.count("v2x_ingest_forwarded_total") == len(good)
        assert ingest.count("v2x_ingest_dead_letters_total") == len(bad)
        assert ingest.count("v2x_ingest_dropped_total") == 0
        assert ingest.balanced()
    letters = {(f.record["topic"], f.record["size"]): f.record for f in await read(world, DEADLETTER)}
    assert len(letters) == len(bad)
    for name, (topic, data, reason) in bad.items():
        letter = letters[topic, len(data)]
        assert letter["reason"] == reason, (name, letter["detail"])
        assert letter["sha256"] == hashlib.sha256(data).hexdigest()
        assert letter["payload"] == (data if len(data) <= 65_536 else data[:4096])
        assert not letter["sealed"]
        assert letter["rx_us"] > 0
    wild = letters[bad["out of range"][0], len(bad["out of range"][1])]
    assert "ref_lat" in wild["detail"]
    assert wild["at"] > 10
    ahead = letters[bad["an hour ahead"][0], len(bad["an hour ahead"][1])]
    assert (ahead["device"], ahead["type"], ahead["seq"]) == ("RSU-5", "rsm", 1)
    assert sorted(f.record["seq"] for f in await read(world, OBSERVATIONS)) == list(range(100, 100 + len(good)))


async def test_gantry_bytes_in_dead_letters_are_sealed(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    whole = payload("gantry_transaction", "G-1", 1, plate="京A12345")
    s = settings(world, mosquitto.port, tmp_path)
    messages = [
        (uplink_topic("gantry", "G-1", "transaction"), whole[:-1]),
        (uplink_topic("rsu", "RSU-1", "rsm"), whole),  # on a topic where nobody expects a plate
        ("v2x/v1/gantry/G-1/what/up", whole),
    ]
    async with running(s) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish(messages)
        await ingest.settled(4)
        assert ingest.balanced()
    letters = [f.record for f in await read(world, DEADLETTER)]
    keys = load_keys(tmp_path / "state" / "ingest.key")
    assert (tmp_path / "state" / "ingest.key").stat().st_mode & 0o777 == 0o600
    assert len(letters) == 3
    for letter in letters:
        assert letter["sealed"]
        assert "京A12345".encode() not in letter["payload"]
        assert (letter["topic"], keys.unseal(letter["payload"])) in messages


async def test_an_unavailable_position_is_legal(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    messages = [
        rsm("RSU-0", 1, ref_lat=900_000_001, ref_lon=1_800_000_001),
        (
            uplink_topic("obu", "OBU-1", "bsm"),
            payload("bsm", "OBU-1", 1, lat=900_000_001, lon=1_800_000_001),
        ),
    ]
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish(messages)
        await ingest.settled(2)
        assert ingest.count("v2x_ingest_forwarded_total") == 2
        assert ingest.count("v2x_ingest_unavailable_position_total") == 2
    assert len(await read(world, OBSERVATIONS)) == 2
    assert await read(world, DEADLETTER) == []


async def test_a_device_with_half_of_its_messages_bad_is_quarantined_and_no_other(
    world: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    good = [rsm("RSU-1", seq) for seq in range(200)]
    half = [rsm("RSU-2", seq) if seq % 2 else (uplink_topic("rsu", "RSU-2", "rsm"), b"junk") for seq in range(200)]
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        for i in range(0, 200, 10):
            await pub.publish([*good[i : i + 10], *half[i : i + 10]])
        await ingest.settled(400)
        ingest.metrics.refresh()
        assert ingest.count("v2x_ingest_quarantined_devices") == 1
        assert ingest.balanced()
        dropped = ingest.by_reason("v2x_ingest_dropped_total")
        letters = await read(world, DEADLETTER)
        assert set(dropped) == {"bad_framing", "quarantined"}
        assert sum(dropped.values()) + len(letters) + ingest.count("v2x_ingest_forwarded_total") == 400
        assert len(letters) < 40  # those before the quarantine, and ten of it a minute
    found = [f.record["device"] for f in await read(world, OBSERVATIONS)]
    assert found.count("RSU-1") == 200
    assert found.count("RSU-2") < 20


async def test_silent_partitions_get_ticks(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with running(settings(world, mosquitto.port, tmp_path)):
        await asyncio.sleep(1.0)
    found = await read(world, OBSERVATIONS, ticks=True)
    for partition in (0, 1):
        stamps = [f.stamp_ms for f in found if f.partition == partition and f.schema == "tick"]
        assert 20 < len(stamps) < 100
        gaps = sorted(b - a for a, b in itertools.pairwise(stamps))
        assert gaps[len(gaps) // 2] <= 40


async def test_retained_ones_may_be_old(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    topic, data = uplink_topic("rsu", "RSU-3", "map"), payload("map", "RSU-3", 1, ts_ms=now_ms() - 2 * HOUR_MS)
    async with Publisher(mosquitto.port, "pub") as pub:
        await pub.publish([(topic, data)], retain=True)
        try:
            async with running(settings(world, mosquitto.port, tmp_path)) as ingest:
                await ingest.settled(1)
                assert ingest.count("v2x_ingest_forwarded_total") == 1
                # The same message published now is not exempt, retain flag or not.
                await pub.publish([(topic, data)], retain=True)
                await ingest.settled(2)
                assert ingest.by_reason("v2x_ingest_dead_letters_total") == {"too_old": 1}
        finally:
            await pub.publish([(topic, b"")], retain=True)


async def test_qos_0_is_taken_too(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with running(settings(world, mosquitto.port, tmp_path)) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish([rsm("RSU-1", 1)], qos=0)
        await ingest.settled(1)
        assert ingest.count("v2x_ingest_forwarded_total") == 1
        assert ingest.count("v2x_ingest_acknowledged_total") == 0


async def test_a_small_receive_maximum_does_not_stop_the_flow(world: str, mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Batches are flushed by time: waiting for more records than may come would be a deadlock."""
    s = settings(world, mosquitto.port, tmp_path, receive_maximum=1)
    async with running(s) as ingest, Publisher(mosquitto.port, "pub") as pub:
        await pub.publish(rsm("RSU-1", seq) for seq in range(50))
        await ingest.settled(50)
        assert ingest.count("v2x_ingest_acknowledged_total") == 50
