"""What a decoder must refuse and what it must take, the same for the reference and for the fast one."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from v2x.columns import Decoder, Verdict

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.framing import kafka_frame, mqtt_frame
from v2x_codecs.reference import MAX_PAYLOAD, ReferenceCodec, ReferenceDecoder
from v2x_codecs.registry import Registry

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
ENVELOPE = {"device": "RSU-1", "boot": 1_767_225_600_000, "seq": 7, "ts_ms": 1_767_225_601_000}
ACK = {**ENVELOPE, "ref_type": "rsi", "ref_id": "e:0", "code": 0, "text": ""}
PARTICIPANT = {
    "ptc_type": 1, "ptc_id": 9, "source": 3, "object_class": 1, "sec_mark": 100, "d_lat": -5, "d_lon": 6, "ele": 100,
    "pos_conf": 10, "transmission": 7, "speed": 1000, "heading": 14400, "speed_conf": 4, "heading_conf": 4,
    "accel_long": 0, "yaw_rate": 0, "width": 180, "length": 450, "height": 30,
}  # fmt: skip
RSM = {
    **ENVELOPE, "msg_cnt": 1, "sec_mark": 100, "ref_lat": 312345678, "ref_lon": 1212345678, "ref_ele": 100,
    "participants": [PARTICIPANT], "obstacles": [],
}  # fmt: skip


@pytest.fixture(params=[ReferenceDecoder, ColumnDecoder], ids=["reference", "column"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return request.param(REGISTRY)


def zigzag(value: int) -> bytes:
    raw, out = (value << 1) ^ (value >> 63), bytearray()
    while raw > 127:
        out.append(raw & 127 | 128)
        raw >>= 7
    return bytes([*out, raw])


def tick(source: bytes = b"\x02a", ts_ms: bytes = b"\x02", tail: bytes = b"") -> bytes:
    return mqtt_frame(REGISTRY.get("tick"), source + ts_ms + tail)


def genesis(partition: bytes) -> bytes:
    return mqtt_frame(REGISTRY.get("genesis"), zigzag(36) + b"g" * 36 + partition + b"\x02\x02")


def confirm(gaps: bytes) -> bytes:
    head = zigzag(1) + b"d" + b"\x02" + zigzag(3) + b"rsi" + b"\x02\x02"
    return mqtt_frame(REGISTRY.versions("confirm")[0], head + gaps + b"\x00")


FIRST_TICK_FIELD = 10
TICK_TS = 12
GENESIS_PARTITION = 10 + 37
CONFIRM_GAPS = 10 + 2 + 1 + 4 + 2


@pytest.mark.parametrize(
    ("payload", "verdict", "at", "field"),
    [
        (b"", Verdict.EMPTY, 0, None),
        (b"\xc3", Verdict.TRUNCATED, 0, None),
        (b"\xc3\x01\x00\x00", Verdict.TRUNCATED, 0, None),
        (b"\xc3\x02" + bytes(8), Verdict.BAD_FRAMING, 0, None),
        (b"{}", Verdict.BAD_FRAMING, 0, None),
        (b"\xc3\x01" + bytes(9), Verdict.UNKNOWN_SCHEMA, 2, None),
        (b"\xc3\x01" + bytes(MAX_PAYLOAD), Verdict.TOO_LARGE, 0, None),
        (tick(), Verdict.OK, -1, None),
        (tick(tail=b"\x00"), Verdict.TRAILING, TICK_TS + 1, None),
        (tick()[:-1], Verdict.TRUNCATED, TICK_TS, "tick.ts_ms"),
        (tick(ts_ms=b"\x82"), Verdict.TRUNCATED, TICK_TS, "tick.ts_ms"),
        (tick(ts_ms=b"\x01"), Verdict.OUT_OF_RANGE, TICK_TS, "tick.ts_ms"),  # -1
        (tick(ts_ms=zigzag(4_102_444_800_000)), Verdict.OK, -1, None),
        (tick(ts_ms=zigzag(4_102_444_800_001)), Verdict.OUT_OF_RANGE, TICK_TS, "tick.ts_ms"),
        (tick(ts_ms=b"\x82" + b"\x80" * 8 + b"\x00"), Verdict.OK, -1, None),  # ten bytes, padded with zeros
        (tick(ts_ms=b"\x82" + b"\x80" * 9 + b"\x00"), Verdict.BAD_VARINT, TICK_TS, "tick.ts_ms"),  # eleven
        (tick(ts_ms=b"\xff" * 9 + b"\x01"), Verdict.OUT_OF_RANGE, TICK_TS, "tick.ts_ms"),  # the smallest long
        (tick(ts_ms=b"\x80" * 9 + b"\x02"), Verdict.BAD_VARINT, TICK_TS, "tick.ts_ms"),  # bit 64
        (tick(source=b"\x00"), Verdict.OUT_OF_RANGE, FIRST_TICK_FIELD, "tick.source"),  # minLength 1
        (tick(source=zigzag(64) + b"x" * 64), Verdict.OK, -1, None),
        (tick(source=zigzag(65) + b"x" * 65), Verdict.OUT_OF_RANGE, FIRST_TICK_FIELD, "tick.source"),
        (tick(source=b"\x01"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),  # length -1
        (tick(source=zigzag(1 << 62)), Verdict.OUT_OF_RANGE, FIRST_TICK_FIELD, "tick.source"),
        (tick(source=zigzag(-(1 << 63))), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),
        (tick(source=b"\x06a"), Verdict.TRUNCATED, FIRST_TICK_FIELD, "tick.source"),
        (tick(source=b"\x06\xe8\xb7\xaf"), Verdict.OK, -1, None),  # 路
        (tick(source=b"\x08\xf0\x9f\x9a\x97"), Verdict.OK, -1, None),  # a car, four bytes
        (tick(source=b"\x02\x80"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),
        (tick(source=b"\x04\xc0\x80"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),  # overlong NUL
        (tick(source=b"\x06\xe0\x9f\xbf"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),  # overlong
        (tick(source=b"\x06\xed\xa0\x80"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),  # surrogate
        (tick(source=b"\x08\xf4\x90\x80\x80"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),  # > 10FFFF
        (tick(source=b"\x04\xe8\xb7"), Verdict.BAD_VALUE, FIRST_TICK_FIELD, "tick.source"),  # cut, ts_ms follows
        (genesis(zigzag(65535)), Verdict.OK, -1, None),
        (genesis(zigzag(65536)), Verdict.OUT_OF_RANGE, GENESIS_PARTITION, "genesis.partition"),
        (genesis(zigzag(1 << 31)), Verdict.BAD_VARINT, GENESIS_PARTITION, "genesis.partition"),  # 33 bits
        (genesis(b"\x82\x80\x80\x80\x00"), Verdict.OK, -1, None),
        (genesis(b"\x82\x80\x80\x80\x80\x00"), Verdict.BAD_VARINT, GENESIS_PARTITION, "genesis.partition"),
        (confirm(b"\x00"), Verdict.OK, -1, None),
        (confirm(b"\x02\x02\x02\x04\x00"), Verdict.OK, -1, None),  # two blocks
        (confirm(b"\x03\x04\x02\x04\x00"), Verdict.OK, -1, None),  # -2 items in 2 bytes
        (confirm(b"\x03\x06\x02\x04\x00"), Verdict.BAD_VALUE, CONFIRM_GAPS, "confirm.gaps"),  # 3 bytes, they say
        (confirm(b"\x03\x02\x02\x04\x00"), Verdict.BAD_VALUE, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(b"\x03\x01\x02\x04\x00"), Verdict.BAD_VALUE, CONFIRM_GAPS, "confirm.gaps"),  # -1 byte
        (confirm(b"\x03" + zigzag(1 << 40)), Verdict.TRUNCATED, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(zigzag(1 << 31)), Verdict.TOO_MANY, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(zigzag(-(1 << 31))), Verdict.TOO_MANY, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(zigzag((1 << 63) - 1)), Verdict.TOO_MANY, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(zigzag(-(1 << 63))), Verdict.TOO_MANY, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(zigzag(65536)), Verdict.TRUNCATED, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(zigzag(-65536) + b"\x04"), Verdict.TRUNCATED, CONFIRM_GAPS, "confirm.gaps"),
        (confirm(b"\x02\x02"), Verdict.TRUNCATED, CONFIRM_GAPS + 3, "confirm.refused"),
        (confirm(b"\x02\x01\x00"), Verdict.OK, -1, None),  # -1: gaps have no range
    ],
    ids=count(),
)  # fmt: skip
def test_one_message(decoder: Decoder, payload: bytes, verdict: Verdict, at: int, field: str | None) -> None:
    batch = decoder.decode_mqtt([tick(), payload, tick()])
    assert Verdict(batch.verdict[1]) is verdict
    assert batch.at[1] == at
    assert (decoder.field_names[batch.bad_field[1]] if batch.bad_field[1] >= 0 else None) == field
    assert (batch.row[1] >= 0) == (verdict is Verdict.OK)
    # The neighbours do not notice.
    assert batch.verdict[[0, 2]].tolist() == [0, 0]
    table = batch.tables["tick"]
    assert (batch.row[0], batch.row[2]) == (0, len(table.data) - 1)
    assert table.msg[[0, -1]].tolist() == [0, 2]


def test_nested_rows_know_message_and_parent(decoder: Decoder) -> None:
    spat = {**ENVELOPE, "msg_cnt": 1, "moy": 0, "sec_mark": 0, "intersections": [
        {"region": 1, "node": n, "status": 0, "phases": [
            {"phase_id": k, "light": 3, "likely_end": 10, "next_light": 6, "next_duration": 20, "confidence": 200}
            for k in range(n)]} for n in range(3)]}  # fmt: skip
    good = CODEC.encode_mqtt("spat", spat)
    batch = decoder.decode_mqtt([good, good[:-2], good])
    assert batch.verdict.tolist() == [0, Verdict.TRUNCATED, 0]
    assert batch.row.tolist() == [0, -1, 1]
    nodes, phases = batch.tables["spat.intersections"], batch.tables["spat.intersections.phases"]
    assert nodes.col("node").tolist() == [0, 1, 2, 0, 1, 2]
    assert nodes.msg.tolist() == [0, 0, 0, 2, 2, 2]
    assert nodes.parent.tolist() == [0, 0, 0, 1, 1, 1]
    assert phases.col("phase_id").tolist() == [0, 0, 1, 0, 0, 1]
    assert phases.parent.tolist() == [1, 2, 2, 4, 5, 5]
    assert phases.msg.tolist() == [0, 0, 0, 2, 2, 2]


def test_ranges_of_participants(decoder: Decoder) -> None:
    def rsm(**change: int) -> bytes:
        return CODEC.encode_mqtt("rsm", {**RSM, "participants": [PARTICIPANT, {**PARTICIPANT, **change}]})

    batch = decoder.decode_mqtt([rsm(), rsm(speed=8191), rsm(speed=8192), rsm(speed=-1), rsm(d_lat=-2097152), rsm()])
    assert batch.verdict.tolist() == [0, 0, Verdict.OUT_OF_RANGE, Verdict.OUT_OF_RANGE, 0, 0]
    names = [decoder.field_names[k] for k in batch.bad_field if k >= 0]
    assert names == ["rsm.participants.speed"] * 2
    table = batch.tables["rsm.participants"]
    assert table.msg.tolist() == [0, 0, 1, 1, 4, 4, 5, 5]
    assert table.col("speed").tolist() == [1000, 1000, 1000, 8191, 1000, 1000, 1000, 1000]
    assert table.col("d_lat").tolist() == [-5, -5, -5, -5, -5, -2097152, -5, -5]


def test_item_counts(decoder: Decoder) -> None:
    def rsm(count: int) -> bytes:
        return CODEC.encode_mqtt("rsm", {**RSM, "participants": [PARTICIPANT] * count})

    node = {"region": 1, "node": 1, "name": "", "ref_lat": 0, "ref_lon": 0, "ref_ele": 0, "links": []}
    state = {"generation": "g" * 36, "partition": 0, "offset": 0, "index": 0, "source": "", "ts_ms": 0}
    maps = [CODEC.encode_mqtt("map_state", {**state, "nodes": [node] * k}) for k in range(3)]
    batch = decoder.decode_mqtt([rsm(0), rsm(255), rsm(256), *maps])
    many = Verdict.TOO_MANY
    assert batch.verdict.tolist() == [0, 0, many, many, 0, many]
    assert len(batch.tables["rsm.participants"].data) == 255
    assert [decoder.field_names[k] for k in batch.bad_field if k >= 0] == [
        "rsm.participants",
        "map_state.nodes",
        "map_state.nodes",
    ]


def test_blocks_of_an_array_of_records(decoder: Decoder) -> None:
    """Arrays of plain integers take a path of their own in the fast decoder."""
    rsm = REGISTRY.get("rsm")
    head = CODEC.encode_body("rsm", {**RSM, "participants": []})[:-2]
    row = CODEC.encode_body("rsm", RSM)[len(head) + 1 : -2]

    def message(*blocks: bytes) -> bytes:
        return mqtt_frame(rsm, head + b"".join(blocks) + b"\x00\x00")

    one, sized = b"\x02" + row, b"\x01" + zigzag(len(row)) + row
    batch = decoder.decode_mqtt([
        message(one, sized, one),
        message(b"\x01" + zigzag(len(row) + 1) + row + b"\x00"),  # a byte too many in the block
        message(one, b"\x01" + zigzag(len(row) - 1) + row),
        message(b"\x03" + zigzag(2 * len(row)) + row + row),
        message(*[one] * 255),
        message(*[one] * 255, sized),
    ])  # fmt: skip
    bad = Verdict.BAD_VALUE
    assert batch.verdict.tolist() == [0, bad, bad, 0, 0, Verdict.TOO_MANY]
    start = 10 + len(head)
    assert batch.at.tolist() == [-1, start, start + len(one), -1, -1, start + 255 * len(one)]
    assert np.bincount(batch.tables["rsm.participants"].msg).tolist() == [3, 0, 0, 2, 255]


def test_the_topic_says_which_schema_is_expected(decoder: Decoder) -> None:
    payloads = [CODEC.encode_mqtt("rsm", RSM), CODEC.encode_mqtt("ack", ACK), tick()]
    wanted = np.array([decoder.schemas.index("rsm"), decoder.schemas.index("rsm"), -1], np.int32)
    batch = decoder.decode_mqtt(payloads, wanted)
    assert batch.verdict.tolist() == [0, Verdict.WRONG_SCHEMA, 0]
    assert [decoder.schemas[k] for k in batch.schema] == ["rsm", "ack", "tick"]


def test_payloads_are_decoded_where_they_lie(decoder: Decoder) -> None:
    """Any order, gaps between them, and something else behind the last one, with spare bytes or without."""
    payloads = [CODEC.encode_mqtt("rsm", RSM), CODEC.encode_mqtt("ack", ACK), CODEC.encode_mqtt("rsm", RSM)[:-1], b""]
    heap, places = bytearray(b"noise"), {}
    for i in (2, 0, 3, 1):
        places[i] = len(heap)
        heap += payloads[i] + b"\xff" * i
    spans = np.array([(places[i], len(payloads[i])) for i in range(4)], np.int64)
    plain = decoder.decode_mqtt(payloads)
    for spare in (b"", bytes(4096)):
        batch = decoder.decode_spans(bytes(heap) + spare, spans)
        assert batch.verdict.tolist() == plain.verdict.tolist() == [0, 0, Verdict.TRUNCATED, Verdict.EMPTY]
        assert batch.at.tolist() == plain.at.tolist()
        assert sorted(batch.roots) == ["ack", "rsm"]
        assert batch.tables["rsm.participants"].data.tolist() == plain.tables["rsm.participants"].data.tolist()
        assert [batch.text(name, 0, "device") for name in ("rsm", "ack")] == ["RSU-1", "RSU-1"]
    wanted = np.array([decoder.schemas.index("ack"), -1, -1, -1], np.int32)
    assert decoder.decode_spans(bytes(heap), spans, wanted).verdict[0] == Verdict.WRONG_SCHEMA
    assert len(decoder.decode_spans(b"", np.zeros((0, 2), np.int64)).verdict) == 0


def test_kafka_framing(decoder: Decoder) -> None:
    good = CODEC.encode("ack", ACK)
    unknown = b"\x00\x7f\xff\xff\xff" + good[5:]
    batch = decoder.decode_kafka([good, unknown, good[:4], b"\x01" + good[1:], b"", good])
    assert batch.verdict.tolist() == [
        0, Verdict.UNKNOWN_SCHEMA, Verdict.TRUNCATED, Verdict.BAD_FRAMING, Verdict.EMPTY, 0,
    ]  # fmt: skip
    assert batch.schema.tolist() == [decoder.schemas.index("ack"), -1, -1, -1, -1, decoder.schemas.index("ack")]
    assert [batch.text("ack", row, "device") for row in (0, 1)] == ["RSU-1", "RSU-1"]


def test_booleans_doubles_bytes_fixed_and_enums(decoder: Decoder) -> None:
    letter = {
        "reason": "r", "detail": "", "at": -1, "fingerprint": "", "topic": "", "device": "", "type": "", "boot": -1,
        "seq": -1, "rx_us": 0, "size": 3, "sha256": "", "sealed": True, "payload": b"\x00\xff\x80",
    }  # fmt: skip
    adopt = {
        "generation": "g" * 36, "from_partition": 0, "from_offset": 0, "from_index": 0, "from_zone": "a",
        "to_zone": "b", "track": 1, "state": [1.5, -2.25, float("inf")],
        "origin_lat": 0, "origin_lon": 0, "event_ms": 0,
        "object_class": 1, "length": 0, "width": 0,
    }  # fmt: skip
    body = CODEC.encode_body("dead_letter", letter)
    flipped = kafka_frame(REGISTRY.get("dead_letter"), body[:-5] + b"\x02" + body[-4:])
    batch = decoder.decode_kafka([CODEC.encode("dead_letter", letter), CODEC.encode("adopt", adopt), flipped])
    assert batch.verdict.tolist() == [0, 0, Verdict.BAD_VALUE]
    assert decoder.field_names[batch.bad_field[2]] == "dead_letter.sealed"
    letters = batch.tables["dead_letter"]
    assert letters.col("sealed").tolist() == [1]
    off, size = int(letters.col("payload.off")[0]), int(letters.col("payload.len")[0])
    assert batch.heap[off : off + size] == b"\x00\xff\x80"
    values = np.ascontiguousarray(batch.tables["adopt.state"].col("value")).view(np.float64)
    assert values.tolist() == [1.5, -2.25, float("inf")]


def test_an_empty_batch(decoder: Decoder) -> None:
    batch = decoder.decode_mqtt([])
    assert len(batch.verdict) == 0
    assert all(len(table.data) == 0 for table in batch.tables.values())
    assert {"rsm", "rsm.participants", "map.nodes.links.lanes.points"} <= batch.tables.keys()
