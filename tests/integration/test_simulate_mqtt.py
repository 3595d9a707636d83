"""The simulator against a real Mosquitto, and against a broker of a few lines that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import aiomqtt
import mqtt5
import numpy as np
import pytest
from v2x.errors import BrokerError
from v2x.topics import UPLINKS, parse_uplink

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.scene import load_scene
from v2x_loadtest.simulate import LinkModel, Options, simulate
from v2x_loadtest.simulate.run import Run
from v2x_services.brokers import Mosquitto, free_port

CODEC = ReferenceCodec(Registry.load())
Key = tuple[str, int, int, int]  # device, boot, UPLINKS code, seq


class Receiver:
    """Everything that a subscriber got, and whether a message was a retained one."""

    def __init__(self) -> None:
        self.got: Counter[Key] = Counter()
        self.retained: list[str] = []
        self.count = asyncio.Condition()

    def take(self, topic: str, payload: bytes, *, retain: bool) -> None:
        uplink = parse_uplink(topic)
        name, record = CODEC.decode_mqtt(payload)
        assert name == uplink.row.schema
        assert record["device"] == uplink.device
        if retain:
            self.retained.append(topic)
        else:
            self.got[uplink.device, record["boot"], uplink.row.code, record["seq"]] += 1


@contextlib.asynccontextmanager
async def subscribed(port: int) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("v2x/v1/#", qos=1)

        async def pump() -> None:
            async for m in client.messages:
                receiver.take(str(m.topic), m.payload, retain=m.retain)

        task = asyncio.ensure_future(pump())
        try:
            yield receiver
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def sent(folder: Path, rows: Callable[[np.ndarray], np.ndarray]) -> Counter[Key]:
    ledger = Ledger.load(folder)
    return Counter(
        (ledger.devices[r["device"]].id, ledger.devices[r["device"]].boot, int(r["type"]), int(r["seq"]))
        for r in ledger.sent[rows(ledger.sent)]
    )


async def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - what happens is in another process
            await asyncio.sleep(0.01)


async def test_all_that_is_published_is_acknowledged_and_arrives(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with subscribed(mosquitto.port) as receiver:
        options = Options(port=mosquitto.port, duration=3, offset=11, ledger=tmp_path, link=LinkModel(duplicate=0.1))
        summary = await simulate(load_scene("synthetic"), options)
        want = sent(tmp_path, lambda r: r["acked_us"] > 0)
        await until(lambda: receiver.got.total() >= want.total())
    assert summary.published == summary.acknowledged == want.total() > 100
    assert receiver.got == want  # repeats too, and no more of them
    assert summary.repeats == sum(n - 1 for n in want.values()) > 0
    assert (summary.unacknowledged, summary.refused, summary.given_up, summary.reconnects) == (0, 0, 0, 0)
    assert summary.by_type["rsu/rsm"] > 80
    rows = Ledger.load(tmp_path).sent
    assert (rows["sent_us"] >= rows["intended_us"]).all()
    assert (rows["acked_us"] >= rows["sent_us"]).all()
    head = json.loads((tmp_path / "devices.json").read_bytes())
    assert (head["t0_ms"], head["scene"]) == (head["wall_t0_ms"], "synthetic")
    async with subscribed(mosquitto.port) as late:
        await until(lambda: len(late.retained) == 3)
    assert {t.split("/")[4] for t in late.retained} == {"map"}


async def test_without_a_reader_perishable_messages_are_lost_and_reliable_ones_wait(tmp_path: Path) -> None:
    # A broker of its own: the shared one keeps sessions of other tests, which are readers too.
    with Mosquitto(tmp_path / "broker") as mosquitto:
        # The pile speaks at once, at step 100.
        options = Options(
            port=mosquitto.port, duration=3, offset=10, ledger=tmp_path, types=frozenset({"status", "rsm"})
        )
        running = asyncio.ensure_future(simulate(load_scene("synthetic"), options))
        await until(lambda: (tmp_path / "sent.bin").is_file() and (tmp_path / "sent.bin").stat().st_size > 46 * 20)
        async with subscribed(mosquitto.port) as receiver:
            summary = await running
            await until(lambda: receiver.got.total() >= summary.acknowledged)
        status = next(r.code for r in UPLINKS if r.type == "status")
        assert summary.refused > 10
        assert summary.resent > 0
        assert summary.unacknowledged == summary.given_up > 10
        missing = sent(tmp_path, lambda r: r["acked_us"] == 0)
        assert {k[2] for k in missing} == {next(r.code for r in UPLINKS if r.type == "rsm")}
        assert any(k[2] == status for k in receiver.got)
        assert receiver.got == sent(tmp_path, lambda r: r["acked_us"] > 0)


async def test_a_broker_that_is_killed_and_comes_back(tmp_path: Path) -> None:
    scene = load_scene("synthetic")
    with Mosquitto(tmp_path / "broker") as broker:
        run = Run(scene, Options(port=broker.port, duration=4, ledger=tmp_path / "ledger"))
        async with subscribed(broker.port):
            running = asyncio.ensure_future(run.run())
            file = tmp_path / "ledger" / "sent.bin"
            await until(lambda: file.is_file() and file.stat().st_size > 46 * 40)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(broker.start)
        async with subscribed(broker.port) as receiver:
            summary = await running
            late = sent(tmp_path / "ledger", lambda r: r["acked_us"] > int(r["acked_us"].max()) - 500_000)
            await until(lambda: not late - receiver.got)
    assert summary.reconnects == len(scene.devices)
    unknown = sent(tmp_path / "ledger", lambda r: (r["sent_us"] > 0) & (r["acked_us"] == 0))
    assert summary.published - summary.acknowledged == summary.unacknowledged == unknown.total()
    assert summary.acknowledged > 0.5 * summary.published
    assert late.total() > 10


class OddBroker:
    """Speaks enough MQTT 5 to take a connection; what it does with PUBLISH is up to ``answer(packet, connection)``."""

    def __init__(self, answer: Callable[[mqtt5.PublishPacket, int], bytes | None], window: int = 100) -> None:
        self.answer, self.window = answer, window
        self.connections = 0
        self.publisher: asyncio.StreamWriter | None = None  # connection of the last PUBLISH
        self.packets: list[tuple[int, mqtt5.PublishPacket]] = []
        self.refuse: mqtt5.ConnAckReasonCode | None = None

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number, buffer = self.connections, b""
        try:
            while data := await reader.read(1 << 16):
                buffer += data
                with contextlib.suppress(IndexError):
                    while buffer:
                        packet, size = mqtt5.read(memoryview(buffer))
                        buffer = buffer[size:]
                        if isinstance(packet, mqtt5.ConnectPacket):
                            code = self.refuse or mqtt5.ConnAckReasonCode.SUCCESS
                            writer.write(mqtt5.ConnAckPacket(reason_code=code, receive_max=self.window).write())
                        elif isinstance(packet, mqtt5.PublishPacket):
                            self.packets.append((number, packet))
                            self.publisher = writer
                            answer = self.answer(packet, number)
                            if answer is None:
                                writer.transport.abort()
                                return
                            writer.write(answer)
        except ConnectionError:
            pass
        finally:
            writer.close()


def ack(packet: mqtt5.PublishPacket, code: mqtt5.PubAckReasonCode = mqtt5.PubAckReasonCode.SUCCESS) -> bytes:
    assert packet.packet_id is not None
    return mqtt5.PubAckPacket(packet.packet_id, reason_code=code).write()


ONE_RSU = {"rsus": 1, "obus": 0, "types": frozenset({"rsm"}), "link": LinkModel(duplicate=0, tail_max_ms=0)}


def seqs(packets: list[tuple[int, mqtt5.PublishPacket]]) -> list[int]:
    return [CODEC.decode_mqtt(bytes(p.payload))[1]["seq"] for _, p in packets]


async def test_unacknowledged_messages_come_again_with_dup_in_order(tmp_path: Path) -> None:
    def answer(packet: mqtt5.PublishPacket, _connection: int) -> bytes | None:
        unanswered.append(packet)
        if len(unanswered) < 5:
            return b""
        return None if len(unanswered) == 5 else ack(packet)

    unanswered: list[mqtt5.PublishPacket] = []
    async with OddBroker(answer) as broker:
        summary = await simulate(
            load_scene("synthetic"), Options(port=broker.port, duration=2, ledger=tmp_path, **ONE_RSU)
        )
    lost, again = broker.packets[:5], broker.packets[5:10]
    assert seqs(lost) == seqs(again) == [0, 1, 2, 3, 4]
    assert [p.duplicate for _, p in lost] == [False] * 5
    assert [p.duplicate for _, p in again] == [True] * 5
    assert seqs(broker.packets[5:]) == list(range(20))  # what came up meanwhile follows
    assert (summary.published, summary.acknowledged, summary.resent, summary.reconnects) == (20, 20, 5, 1)


async def test_the_broker_s_window_is_kept(tmp_path: Path) -> None:
    held: list[bytes] = []
    most = 0

    def answer(packet: mqtt5.PublishPacket, _connection: int) -> bytes:
        held.append(ack(packet))
        return b""

    async def release() -> None:
        nonlocal most
        while True:
            await asyncio.sleep(0.5)  # five messages come up meanwhile
            most = max(most, len(held))
            if held and broker.publisher is not None:
                broker.publisher.write(b"".join(held))
                held.clear()

    async with OddBroker(answer, window=3) as broker:
        releasing = asyncio.ensure_future(release())
        options = Options(port=broker.port, duration=2.1, ledger=tmp_path, **ONE_RSU)
        summary = await simulate(load_scene("synthetic"), options)
        releasing.cancel()
    assert most == 3
    assert summary.published == summary.acknowledged == 21
    assert seqs(broker.packets) == list(range(21))
    assert summary.late_max_ms > 500  # they were late, and it is said


async def test_refusals_are_no_deliveries(tmp_path: Path) -> None:
    def answer(packet: mqtt5.PublishPacket, _connection: int) -> bytes:
        seq = CODEC.decode_mqtt(bytes(packet.payload))[1]["seq"]
        return ack(packet, mqtt5.PubAckReasonCode.QUOTA_EXCEEDED if seq % 2 else mqtt5.PubAckReasonCode.SUCCESS)

    async with OddBroker(answer) as broker:
        options = Options(port=broker.port, duration=1, ledger=tmp_path, **ONE_RSU)
        summary = await simulate(load_scene("synthetic"), options)
    assert (summary.published, summary.acknowledged, summary.refused, summary.given_up) == (10, 5, 5, 5)
    assert {k[3] for k in sent(tmp_path, lambda r: r["acked_us"] > 0)} == {0, 2, 4, 6, 8}


async def test_a_broker_that_wants_us_not(tmp_path: Path) -> None:
    async with OddBroker(lambda p, _: ack(p)) as broker:
        broker.refuse = mqtt5.ConnAckReasonCode.NOT_AUTHORIZED
        with pytest.raises(BrokerError, match="refuses device RSU-S-01: NOT_AUTHORIZED"):
            await simulate(load_scene("synthetic"), Options(port=broker.port, duration=1, **ONE_RSU))


def command(port: int, *more: str) -> list[str]:
    code = "from v2x_loadtest.cli import main; main()"
    run = [sys.executable, "-c", code, "simulate", "--scene", "synthetic", "--mqtt", f"127.0.0.1:{port}"]
    return [*run, "--loop", *more]


async def test_ctrl_c_ends_cleanly(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with subscribed(mosquitto.port) as receiver:
        process = await asyncio.create_subprocess_exec(
            *command(mosquitto.port, "--json", "--ledger", str(tmp_path)), stdout=-1, stderr=-1
        )
        assert process.stderr is not None
        assert b"published" in await process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert process.returncode == 0, err
        summary = json.loads(out)
        await until(lambda: receiver.got.total() >= summary["acknowledged"])
    assert summary["interrupted"] is True
    assert summary["published"] == summary["acknowledged"] > 20
    assert sent(tmp_path, lambda r: r["acked_us"] > 0) == receiver.got


async def test_kill_leaves_a_ledger_of_all_that_was_sent(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with subscribed(mosquitto.port) as receiver:
        process = await asyncio.create_subprocess_exec(
            *command(mosquitto.port, "--ledger", str(tmp_path)), stdout=-1, stderr=-1
        )
        assert process.stdout is not None
        await process.stdout.readline()
        process.kill()
        await process.wait()
        await until(lambda: not sent(tmp_path, lambda r: r["acked_us"] > 0) - receiver.got)
    known = sent(tmp_path, lambda r: r["sent_us"] > 0)
    assert receiver.got.total() > 20
    assert not receiver.got - known


async def test_no_broker_is_one_line_and_exit_2() -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(*command(port), stdout=-1, stderr=-1)
    _, err = await process.communicate()
    assert process.returncode == 2
    lines = err.decode().strip().splitlines()
    assert len(lines) == 1
    assert f"no MQTT broker at 127.0.0.1:{port}" in lines[0]
