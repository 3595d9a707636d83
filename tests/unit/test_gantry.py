"""Gantry records into passages, through the real codec."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from v2x.columns import Record
from v2x.errors import SnapshotError
from v2x.gantry import GantryStage
from v2x.topics import OBSERVATIONS
from v2x.zones import ZoneMap

from v2x_codecs.reference import ReferenceCodec, ReferenceDecoder
from v2x_codecs.registry import Registry

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
DECODER = ReferenceDecoder(REGISTRY)
T0 = 1_700_000_000_000
GENERATION = "11111111-2222-3333-4444-555555555555"
PARTITIONS = 8


def square(lon: float) -> list[list[float]]:
    return [[31.0, lon], [31.0, lon + 0.1], [31.1, lon + 0.1], [31.1, lon]]


def section(a: str, b: str, zone: str) -> dict:
    row = {"section": f"{a}>{b}", "from": a, "to": b, "length_m": 800.0, "zone": zone}
    return row | {"free_speed_mps": 30.0}


def zones() -> ZoneMap:
    direction = {"00000A": 1, "00000B": 1, "00000C": 1, "00000F": 2}
    place = {"lat": 31.05, "lon": 120.05}
    return ZoneMap.parse(
        {
            "version": 1,
            "name": "test",
            "partition_hint": None,
            "zones": [
                {"id": "Z1", "polygon": square(120.0), "neighbours": ["Z2"]},
                {"id": "Z2", "polygon": square(120.1), "neighbours": ["Z1"]},
            ],
            "devices": {f"G-{h}": {"zone": "Z1", "halo": [], **place} for h in direction},
            "gantries": {h: {"device": f"G-{h}", "dir": d, **place} for h, d in direction.items()},
            "sections": [section("00000A", "00000B", "Z1"), section("00000B", "00000C", "Z2")],
        }
    )


ZONES = zones()
TRANSACTION = {
    "device": "G", "boot": T0, "seq": 0, "ts_ms": T0, "trade_id": "x", "gantry_hex": "00000A", "interval_id": "",
    "drive_dir": 1, "trans_ms": T0, "consume_ms": 100, "trade_result": 0, "media_type": 1, "special_type": 0,
    "valid_status": 1, "fee": 100, "pay_fee": 100, "fee_mileage": -1, "plate": "p", "plate_colour": 0, "obu_sn": "o",
    "card_id": "c", "pass_id": "j", "vehicle_type": 1, "vehicle_class": 0, "axle_count": 2, "total_weight": 65535,
    "last_gantry_hex": "", "last_gantry_ms": 0,
}  # fmt: skip
PLATE = {
    "device": "G", "boot": T0, "seq": 0, "ts_ms": T0, "pic_id": "x", "gantry_hex": "00000A", "pic_ms": T0,
    "drive_dir": 1, "shoot_position": 1, "camera": 1, "lane": 1, "plate": "p", "plate_colour": 0, "speed": 90,
    "vehicle_model": 0, "reliability": 190, "trade_id": "",
}  # fmt: skip


class World:
    def __init__(self) -> None:
        self.stage = GantryStage(ZONES, DECODER, CODEC, 3, PARTITIONS)
        self.offset = 0
        self.out = []
        genesis = {"generation": GENERATION, "partition": 3, "partitions": PARTITIONS, "ts_ms": T0}
        self.put(b"", CODEC.encode("genesis", genesis), 0)

    def put(self, key: bytes, value: bytes, stamp_s: float) -> None:
        record = Record(self.offset, T0 + round(stamp_s * 1000), key, value, [])
        self.offset += 1
        self.out += self.stage.feed([record])

    def trade(self, vehicle: str, gantry: str, at_s: float, stamp_s: float | None = None, **over) -> None:
        row = TRANSACTION | {"gantry_hex": f"00000{gantry}", "trans_ms": T0 + round(at_s * 1000)} | over
        self.put(vehicle.encode(), CODEC.encode("gantry_transaction", row), at_s + 1 if stamp_s is None else stamp_s)

    def plate(self, vehicle: str, gantry: str, at_s: float, stamp_s: float | None = None, **over) -> None:
        row = PLATE | {"gantry_hex": f"00000{gantry}", "pic_ms": T0 + round(at_s * 1000)} | over
        self.put(vehicle.encode(), CODEC.encode("gantry_plate", row), at_s + 1 if stamp_s is None else stamp_s)

    def passages(self) -> list[dict]:
        return [CODEC.decode_kafka(o.value)[1] for o in self.out]

    def brief(self) -> list[tuple]:
        return [
            (p["section"][5] + p["section"][-1], (p["from_ms"] - T0) / 1000, (p["to_ms"] - T0) / 1000, p["method"])
            for p in self.passages()
        ]


def test_two_transactions_make_a_passage_in_the_partition_of_its_section():
    w = World()
    w.trade("v", "A", 0.0)
    assert w.out == []
    w.trade("v", "B", 27.0, vehicle_type=11)
    w.trade("v", "C", 55.0)
    assert w.brief() == [("AB", 0.0, 27.0, 1), ("BC", 27.0, 55.0, 1)]
    first = w.passages()[0]
    assert first["generation"] == GENERATION
    assert (first["from_partition"], first["from_offset"], first["from_index"]) == (3, 2, 0)
    assert (first["vehicle"], first["vehicle_type"], first["length"], first["to_zone"]) == ("v", 11, 800, "Z1")
    assert [(o.topic, o.partition) for o in w.out] == [
        (OBSERVATIONS, ZONES.partition("Z1", PARTITIONS)),
        (OBSERVATIONS, ZONES.partition("Z2", PARTITIONS)),
    ]
    assert [(o.offset, o.nth) for o in w.out] == [(2, 0), (3, 0)]


def test_vehicles_are_not_mixed():
    w = World()
    w.trade("v", "A", 0.0)
    w.trade("u", "B", 27.0)
    assert w.out == []


def test_repeats_duplicates_and_reverse_readings_make_nothing_more():
    w = World()
    w.trade("v", "A", 0.0)
    w.trade("v", "B", 27.0)
    w.trade("v", "B", 27.0)  # sent again
    w.trade("v", "B", 60.0)  # a second reading at the same gantry
    w.trade("v", "C", 80.0, valid_status=2)
    w.trade("v", "F", 80.0)  # the antenna of the other carriageway
    assert w.brief() == [("AB", 0.0, 27.0, 1)]
    c = w.stage.counters
    assert (c["dropped_duplicate"], c["dropped_reverse"], c["pairs"]) == (3, 1, 1)


def test_books_balance():
    w = World()
    w.trade("v", "A", 0.0)
    w.plate("v", "A", 0.5)
    w.plate("v", "A", 0.9, shoot_position=2)
    w.trade("v", "A", 3.0)
    w.trade("", "A", 3.0)
    w.trade("v", "9", 3.0)
    w.put(b"v", b"\x00garbage", 5.0)
    c = w.stage.counters
    parts = ("genesis", "transactions", "plates", "second_pictures")
    assert c["in"] == sum(n for k, n in c.items() if k.startswith("dropped") or k in parts)


def test_a_plate_is_a_second_witness_of_the_same_passage():
    w = World()
    w.trade("v", "A", 0.0)
    w.plate("v", "A", 0.7)
    w.plate("v", "B", 27.9)
    w.trade("v", "B", 27.0)
    assert w.brief() == [("AB", 0.0, 27.0, 1)]  # transaction with transaction
    w.trade("x", "A", 200.0)
    assert len(w.out) == 1  # and the waiting plate adds none


def test_without_a_transaction_the_plate_pairs_after_its_wait():
    w = World()
    w.trade("v", "A", 0.0)
    w.plate("v", "A", 0.7)
    w.plate("v", "B", 27.9)
    w.trade("x", "A", 30.0, stamp_s=38.0)
    assert w.out == []
    w.trade("x", "A", 31.0, stamp_s=39.0)
    assert w.brief() == [("AB", 0.7, 27.9, 1)]  # picture with picture
    w.trade("v", "B", 27.0, stamp_s=60.0)  # comes late: the passage is out already
    assert len(w.out) == 1


def test_a_missed_gantry_breaks_the_chain_and_a_plate_mends_it():
    w = World()
    w.trade("v", "A", 0.0)
    w.trade("v", "C", 55.0, last_gantry_hex="00000A", last_gantry_ms=T0)
    assert w.out == []
    assert w.stage.counters["singles_without_section"] == 1
    w = World()
    w.trade("v", "A", 0.0)
    w.plate("v", "B", 27.4)
    w.trade("v", "C", 55.0)
    assert sorted(w.brief()) == [("AB", 0.0, 27.4, 1), ("BC", 27.4, 55.0, 1)]


def test_one_record_that_names_the_gantry_before_is_a_passage():
    w = World()
    w.trade("v", "B", 174.0, last_gantry_hex="00000A", last_gantry_ms=T0, fee_mileage=790)
    w.trade("v", "A", 0.0, stamp_s=200.0)  # the first gantry sends late: already told
    assert w.brief() == [("AB", 0.0, 174.0, 2)]
    assert w.passages()[0]["length"] == 790
    w.trade("u", "B", 174.0, last_gantry_hex="00000A", last_gantry_ms=T0, fee_mileage=4650)
    assert w.passages()[1]["length"] == 800  # the fee was for a longer stretch
    w.trade("t", "B", 174.0, last_gantry_hex="00000A", last_gantry_ms=T0 + 180_000)
    assert len(w.out) == 2  # it would have arrived before it left


def test_records_in_the_wrong_order_still_pair_once():
    w = World()
    w.trade("v", "B", 27.0)
    w.trade("v", "C", 55.0)
    w.trade("v", "A", 0.0, stamp_s=90.0)
    assert sorted(w.brief()) == [("AB", 0.0, 27.0, 1), ("BC", 27.0, 55.0, 1)]


@given(st.permutations([(g, k) for g in "ABC" for k in ("trade", "plate")]), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_in_whatever_order_records_come_each_passage_is_told_once(order, drop):
    at = {"A": 0.0, "B": 27.0, "C": 55.0}
    w = World()
    for i, (gantry, kind) in enumerate(order):
        if i != drop or kind == "plate":
            getattr(w, kind)("v", gantry, at[gantry], stamp_s=60.0 + i)
    w.trade("x", "A", 200.0)
    told = [p["section"] for p in w.passages()]
    assert sorted(told) == ["00000A>00000B", "00000B>00000C"]


ROWS = st.tuples(st.sampled_from("uvw"), st.sampled_from("ABCF"), st.integers(0, 300), st.booleans())


@given(st.lists(ROWS, max_size=25), st.integers(0, 24))
@settings(max_examples=40, deadline=None)
def test_a_snapshot_anywhere_changes_nothing(rows, cut):
    a, b = World(), World()
    for i, (vehicle, gantry, at, plate) in enumerate(rows):
        for w in (a, b):
            (w.plate if plate else w.trade)(vehicle, gantry, at, stamp_s=float(i))
        if i == cut:
            blob = b.stage.snapshot()
            b.stage = GantryStage.restore(ZONES, DECODER, CODEC, 3, PARTITIONS, blob)
            assert b.stage.snapshot() == blob
    assert a.out == b.out
    assert a.stage.snapshot() == b.stage.snapshot()


def test_what_was_taken_in_is_not_taken_in_again_and_other_snapshots_are_refused():
    w = World()
    w.trade("v", "A", 0.0)
    row = TRANSACTION | {"gantry_hex": "00000B", "trans_ms": T0 + 27000}
    record = Record(w.offset, T0 + 28000, b"v", CODEC.encode("gantry_transaction", row), [])
    assert len(w.stage.feed([record])) == 1
    assert w.stage.feed([record]) == []
    blob = json.loads(w.stage.snapshot())
    for bad in (b"{", json.dumps(blob | {"zones": "0"}).encode(), json.dumps(blob | {"seen": [1]}).encode()):
        with pytest.raises(SnapshotError):
            GantryStage.restore(ZONES, DECODER, CODEC, 3, PARTITIONS, bad)


def test_a_record_that_names_no_vehicle_is_keyed_by_its_gantry_and_pairs_with_nobody():
    w = World()
    w.trade("G", "A", 0.0)
    w.trade("G", "B", 27.0, last_gantry_hex="00000A", last_gantry_ms=T0)
    assert w.out == []
    assert w.stage.counters["dropped_no_vehicle"] == 2
