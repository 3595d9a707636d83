"""Prepared packets are what an MQTT codec would write, and what is patched into them is what a decoder reads."""

import socket
import time

import mqtt5
import numpy as np
import pytest
from rich.console import Console
from v2x.errors import ConfigError
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.bench import fusion
from v2x_loadtest.bench.flow import FlowOptions, make_load
from v2x_loadtest.bench.load import SEQ_END, SEQ_FIRST, BenchDevice, Load, constant, publish_packet
from v2x_loadtest.bench.payloads import BOOT_MS, ingest_load
from v2x_loadtest.bench.publisher import Publisher, read_acks, send_rows

REGISTRY = Registry.load()


def packets(data: bytes) -> list[mqtt5.PublishPacket]:
    out, view = [], memoryview(data)
    while view:
        packet, size = mqtt5.read(view)
        assert isinstance(packet, mqtt5.PublishPacket)
        out.append(packet)
        view = view[size:]
    return out


def still(packets: np.ndarray) -> np.ndarray:
    out = np.ascontiguousarray(packets)
    out.flags.writeable = False
    return out


def sent_by(load: Load, nth: int, ts0: int, begun: int = 0) -> list[mqtt5.PublishPacket]:
    """What pass ``nth`` puts on the wire, all connections being one socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        r = {name: np.ascontiguousarray(load.rows[name]) for name in load.rows.dtype.names}
        n = send_rows(
            np.full(len(load.devices), ours.fileno(), np.int32), r["conn"], r["start"], r["end"], r["pid_at"],
            r["seq_at"], r["ts_at"], r["seq"], r["per_pass"], r["ts_ms"], still(load.packets), 0,
            len(load.rows), nth, ts0, np.full(len(load.devices), 300, np.int64), np.zeros(4096, np.uint8),
            np.array([begun]),
        )  # fmt: skip
        assert n == len(load.rows)
        ours.shutdown(socket.SHUT_WR)
        data = b""
        while part := theirs.recv(1 << 20):
            data += part
    return packets(data)


@pytest.mark.parametrize("kind", ["bsm", "rsm"])
def test_a_patched_packet_decodes_to_its_seq_and_time(kind: str) -> None:
    load, doc, _ = ingest_load(kind, 10, 100.0, 4)
    assert load.rate == pytest.approx(100.0)
    found = sent_by(load, nth=7, ts0=1_795_000_000_000)
    codec = ReferenceCodec(REGISTRY)
    assert [p.packet_id for p in found] == [300] * 10
    for i, packet in enumerate(found):
        name, record = codec.decode_mqtt(packet.payload)
        device = load.devices[i]
        assert packet.topic == f"v2x/v1/{device.kind}/{device.id}/{kind}/up"
        assert packet.qos == mqtt5.QoS.AT_LEAST_ONCE
        assert (name, record["device"], record["boot"]) == (kind, device.id, BOOT_MS)
        assert record["seq"] == SEQ_FIRST + 7
        assert record["ts_ms"] == 1_795_000_000_000 + i * 10
    assert not ColumnDecoder(REGISTRY).decode_mqtt([p.payload for p in found]).verdict.any()
    zones = ZoneMap.parse(doc)
    partitions = set()
    for i, packet in enumerate(found):
        record = codec.decode_mqtt(packet.payload)[1]
        place = (record["ref_lat"], record["ref_lon"]) if kind == "rsm" else (record["lat"], record["lon"])
        (zone,) = zones.route(load.devices[i].id, *place)
        partitions.add(zones.partition(zone, 4))
    assert partitions == {0, 1, 2, 3}


def test_the_largest_seq_still_fits() -> None:
    load, _, _ = ingest_load("rsm", 2, 10.0, 1)
    load.rows["seq"] = SEQ_END - 1
    records = [ReferenceCodec(REGISTRY).decode_mqtt(p.payload)[1] for p in sent_by(load, 0, BOOT_MS)]
    assert [r["seq"] for r in records] == [SEQ_END - 1] * 2


def test_scene_content_goes_on_from_pass_to_pass() -> None:
    load, doc, mean = make_load(FlowOptions(rsus=16, participants=20), lambda _line: None)
    assert mean == pytest.approx(20, rel=0.15)
    assert load.rate == pytest.approx(160, rel=0.01)
    assert len(load.devices) == 16
    assert {d.id for d in load.devices} <= set(ZoneMap.parse(doc).devices)
    assert (np.diff(load.rows["at_us"]) >= 0).all()
    assert load.rows["at_us"][-1] < load.cycle_us
    start = load.start_ms(1_795_000_012_345)
    assert start % 60_000 == load.phase_ms
    assert 0 <= start - 1_795_000_012_345 < 60_000
    some = np.arange(0, len(load.rows), 97)
    cut = Load(load.name, load.devices, load.rows[some], load.packets, load.cycle_us)
    first, second = (
        [ReferenceCodec(REGISTRY).decode_mqtt(p.payload)[1] for p in sent_by(cut, n, start + n * 60_000)]
        for n in (0, 1)
    )
    for a, b, row in zip(first, second, cut.rows, strict=True):
        assert b["ts_ms"] - a["ts_ms"] == 60_000
        assert b["seq"] - a["seq"] == row["per_pass"]
        assert a["sec_mark"] == a["ts_ms"] % 60_000 == b["sec_mark"]
    of_one = load.rows[load.rows["conn"] == 3]
    assert sorted(of_one["seq"]) == list(range(SEQ_FIRST, SEQ_FIRST + len(of_one)))
    assert set(of_one["per_pass"]) == {len(of_one)}
    assert list(of_one["rank"]) == list(range(len(of_one)))


def test_a_full_socket_stops_and_the_rest_of_the_packet_goes_out_later() -> None:
    load, _, _ = ingest_load("rsm", 1, 10.0, 1)
    r = {name: np.ascontiguousarray(load.rows[name]) for name in load.rows.dtype.names}
    many = {name: np.ascontiguousarray(np.repeat(column, 2000)) for name, column in r.items()}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        pid, scratch, begun = np.ones(1, np.int64), np.zeros(4096, np.uint8), np.zeros(1, np.int64)
        data, head = b"", 0
        theirs.settimeout(5)
        while head < 2000:
            head += send_rows(
                np.full(1, ours.fileno(), np.int32), many["conn"], many["start"], many["end"], many["pid_at"],
                many["seq_at"], many["ts_at"], many["seq"], many["per_pass"], many["ts_ms"],
                still(load.packets), head, 2000, 0, BOOT_MS, pid, scratch, begun,
            )  # fmt: skip
            data += theirs.recv(1 << 20)
        ours.shutdown(socket.SHUT_WR)
        while part := theirs.recv(1 << 20):
            data += part
    assert [p.packet_id for p in packets(data)] == list(range(1, 2001))


def test_acknowledgements_find_their_rows() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        # Two rows a pass: connection 0 has row 1, connection 1 row 0; what is read is of connection 1.
        fds = np.array([ours.fileno()], np.int32)
        acked, out = np.zeros(6, np.int64), np.zeros(2, np.int64)
        rest, rest_len = np.zeros((1, 16), np.uint8), np.zeros(1, np.int64)

        def read(now: int) -> int:
            return int(
                read_acks(
                    fds, rest, rest_len, np.zeros(4096, np.uint8), np.array([1]), np.array([1]), np.array([1, 0]), 2,
                    acked, now, out,
                )
            )  # fmt: skip

        pub = [bytes([0x40, 2, 0, 1]), bytes([0x40, 3, 0, 2, 0x10]), bytes([0x40, 4, 0, 3, 0, 0])]
        theirs.sendall(pub[0] + pub[1][:3])
        assert read(5) == -1
        assert (acked.tolist(), out.tolist()) == ([5, 0, 0, 0, 0, 0], [1, 0])
        theirs.sendall(pub[1][3:] + pub[2])
        assert read(6) == -1
        assert (acked.tolist(), out.tolist()) == ([5, 0, 0, 0, 6, 0], [2, 1])
        theirs.shutdown(socket.SHUT_WR)
        assert read(7) == 0


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match="too long"):
        publish_packet("t", b"", BenchDevice("x" * 64, "rsu", 0))
    with pytest.raises(ConfigError, match="bsm or rsm"):
        ingest_load("spat", 1, 1.0, 1)
    load, _, _ = ingest_load("rsm", 1, 10.0, 1)
    with pytest.raises(ConfigError, match="more connections"):
        Publisher(load, "127.0.0.1", 1, np.zeros(8, np.int64), 70_000)


def test_a_load_survives_its_file(tmp_path) -> None:
    load = constant("x", [b"p" * 40], [BenchDevice("a", "rsu", 1), BenchDevice("b", "rsu", 1)], "rsm", 50.0, "no/v1")
    load.save(tmp_path)
    again = Load.read(tmp_path)
    assert again.devices == load.devices
    assert (again.rows == load.rows).all()
    assert bytes(again.packets) == bytes(load.packets)
    assert b"no/v1/rsu/b/rsm/up" in bytes(again.packets)
    assert again.rate == 50.0
    assert time.time() > 0


def test_copies_that_are_one_zone() -> None:
    options = FlowOptions(rsus=30, participants=5, zone_copies=2)
    load, doc, _ = make_load(options, lambda _line: None)
    zones = ZoneMap.parse(doc)
    assert len(zones.zones) == 2
    routes = [zones.route(d.id, None, None) for d in load.devices]
    assert [len(r) for r in routes] == [1] * 30
    assert {r[0] for r in routes} == set(zones.zones)


def test_fusion_takes_the_log_whole() -> None:
    made = fusion.run(FlowOptions(rsus=6, participants=5, partitions=2), 1.0, 1, 50, Console(quiet=True))
    (run,) = made["runs"]
    assert 50 < run["records"] < 80  # six devices, two genesis records, and copies for the other zone
    assert run["frames"] >= 10
    assert run["frame_bytes"] > 100 * run["frames"]
    assert 0 < run["decode_s"] < run["cpu_s"]
    assert run["kernel_observations"] > 200
    assert 0 < run["kernel_s"] < 1
    assert "M observations" not in fusion.plot(made)
    assert "kernel alone" in fusion.plot(made)
    assert 0 < run["read_s"] < run["cpu_s"] - run["frame_s"] < run["cpu_s"]
