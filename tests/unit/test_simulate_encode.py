"""The simulator's kernel writes what fastavro writes, byte for byte."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from fastavro import schemaless_writer
from v2x.topics import UPLINKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.simulate.encode import (
    BSM,
    BSM_FIELDS,
    INTS,
    LON_UNAVAILABLE,
    PARTICIPANT,
    RAW,
    RSM,
    BodyWriter,
    counted_types,
    prefixes,
    varint,
)
from v2x_loadtest.simulate.steady import CODE

REGISTRY = Registry.load()
CODEC = ReferenceCodec(REGISTRY)
IDS, BOOTS = ["RSU-1", "路侧-2", "O" * 64], [0, 1_760_000_000_000, 4_102_444_800_000]
REF = np.array(
    [[315_000_000, 1_203_000_000, 50], [-900_000_000, -1_799_999_999, -4096], [900_000_001, 1_800_000_001, 61_439]]
)
SHIFT = np.array([0, 1_234_567, 0])


def fields(name: str, skip: int) -> list[dict]:
    return REGISTRY.get(name).raw["fields"][skip:]


def write(kind, code, device, seq, ts, cnt, a, b, parts=None, bsm=None, temp=None, ints=(), raw=b"\0"):
    writer = BodyWriter(IDS, BOOTS, REF, SHIFT)
    columns = zip(
        (kind, code, device, seq, ts, cnt, a, b), ("u1", "u1", "i4", "i8", "i8", "i8", "i8", "i8"), strict=True
    )
    blob, start, end = writer.write(
        *(np.array(x, t) for x, t in columns),
        np.zeros((0, len(PARTICIPANT)), np.int32) if parts is None else parts,
        np.zeros((0, len(BSM_FIELDS)), np.int32) if bsm is None else bsm,
        np.zeros((0, 8), np.uint8) if temp is None else temp,
        np.array(ints, np.int64),
        np.frombuffer(raw, np.uint8).copy(),
    )
    return [blob[s:e] for s, e in zip(start, end, strict=True)]


def random_rows(rng: np.random.Generator, specs: list[dict], n: int) -> np.ndarray:
    """Rows whose values are spread over all varint lengths, the limits among them."""
    columns = []
    for f in specs:
        low, high = f["min"], f["max"]
        bits = rng.integers(0, 31, n)
        value = np.clip(rng.integers(-(1 << 30), 1 << 30, n) >> bits, low, high)
        value[:2] = low, high
        columns.append(value)
    return np.stack(columns, axis=1).astype(np.int32)


def test_columns_are_the_schema_s() -> None:
    items = next(f for f in fields("rsm", 4) if f["name"] == "participants")["type"]["items"]["fields"]
    assert tuple(f["name"] for f in items) == PARTICIPANT
    assert tuple(f["name"] for f in fields("bsm", 6)) == BSM_FIELDS


def test_rsm_equals_fastavro() -> None:
    rng = np.random.default_rng(1)
    specs = next(f for f in fields("rsm", 4) if f["name"] == "participants")["type"]["items"]["fields"]
    parts = random_rows(rng, specs, 400)
    ranges = [(0, 0), (0, 1), (1, 21), (21, 276), (276, 340), (340, 400)]
    n = len(ranges)
    device, seq = rng.integers(0, 3, n), [0, 1, 63, 64, 1 << 35, 1 << 53]
    ts = 1_760_000_000_000 + rng.integers(0, 10**9, n)
    got = write(
        [RSM] * n,
        [CODE["rsu", "rsm"]] * n,
        device,
        seq,
        ts,
        range(n),
        [r[0] for r in ranges],
        [r[1] for r in ranges],
        parts,
    )
    for i, (a, b) in enumerate(ranges):
        d = int(device[i])
        mark = int(ts[i]) % 60_000
        rows = [dict(zip(PARTICIPANT, row, strict=True)) | {"sec_mark": mark} for row in parts[a:b].tolist()]
        record = {
            "device": IDS[d], "boot": BOOTS[d], "seq": seq[i], "ts_ms": int(ts[i]), "msg_cnt": i, "sec_mark": mark,
            "ref_lat": int(REF[d, 0]), "ref_lon": int(REF[d, 1]), "ref_ele": int(REF[d, 2]), "participants": rows,
            "obstacles": [],
        }  # fmt: skip
        assert got[i] == CODEC.encode_mqtt("rsm", record), f"message {i}"


def test_bsm_equals_fastavro_and_moves_with_its_copy() -> None:
    rng = np.random.default_rng(2)
    rows = random_rows(rng, fields("bsm", 6), 50)
    rows[:, BSM_FIELDS.index("lon")] = rng.integers(1_000_000_000, 1_300_000_000, 50)
    rows[7, BSM_FIELDS.index("lon")] = LON_UNAVAILABLE
    temp = rng.integers(0, 256, (50, 8)).astype(np.uint8)
    device, ts = rng.integers(0, 3, 50), 1_760_000_000_000 + rng.integers(0, 10**9, 50)
    device[7] = 1  # a copy; its unavailable position must stay unavailable
    n = 50
    got = write(
        [BSM] * n, [CODE["obu", "bsm"]] * n, device, range(n), ts, [5] * n, range(n), range(n), None, rows, temp
    )
    for i in range(n):
        d = int(device[i])
        record = dict(zip(BSM_FIELDS, rows[i].tolist(), strict=True))
        if record["lon"] != LON_UNAVAILABLE:
            record["lon"] += int(SHIFT[d])
        record |= {
            "device": IDS[d], "boot": BOOTS[d], "seq": i, "ts_ms": int(ts[i]), "msg_cnt": 5,
            "temp_id": temp[i].tobytes(), "sec_mark": int(ts[i]) % 60_000,
        }  # fmt: skip
        assert got[i] == CODEC.encode_mqtt("bsm", record), f"message {i}"


def test_kinds_may_be_mixed_and_neighbours_do_not_touch() -> None:
    parts = np.zeros((1, len(PARTICIPANT)), np.int32)
    got = write(
        [RAW, RSM, INTS], [CODE["rsu", "hb"], CODE["rsu", "rsm"], CODE["rsu", "spat"]], [0, 0, 0], [1, 2, 3], [9, 9, 9],
        [0, 1, 2], [2, 0, 1], [5, 1, 4], parts, ints=[7, -1, 300, 0], raw=b"abcdef",
    )  # fmt: skip
    assert got[0].endswith(b"\x12cde")  # no msg_cnt in a heartbeat
    assert got[2].endswith(varint(9) + varint(2) + varint(-1) + varint(300) + varint(0))
    assert CODEC.decode_mqtt(got[1])[1]["participants"][0]["sec_mark"] == 9


@pytest.mark.parametrize("value", [0, -1, 1, 63, 64, -64, -65, 1 << 31, (1 << 53), -(1 << 53)])
def test_varint(value: int) -> None:
    out = BytesIO()
    schemaless_writer(out, "long", value)
    assert varint(value) == out.getvalue()


def test_every_uplink_has_its_prefix() -> None:
    for row in UPLINKS:
        assert bytes(prefixes()[row.code]) == b"\xc3\x01" + REGISTRY.get(row.schema).fingerprint
        assert counted_types()[row.code] == (row.schema in {"bsm", "rsm", "rsi", "spat", "map"})
