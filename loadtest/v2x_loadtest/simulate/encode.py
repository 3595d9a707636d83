"""Avro bodies of a step's messages, written by one numba kernel: 1 µs for an RSM of twenty participants.

Avro 1.12, "Binary Encoding": int and long are zigzag varints, a string is its length and bytes, an array is a count,
the items and a 0. Every uplink starts with the envelope (device, boot, seq, ts_ms); device and boot never change, so
their bytes are made once (``device_heads``). What follows is one of four kinds of content:

* RSM: a range of rows of ``parts`` (columns of Participant), reference position from the device;
* BSM: a row of ``bsm`` and its temporary id;
* INTS: a range of ``ints``, each written as a varint (schemas of integers; counts and ends of arrays are varints too);
* RAW: a range of ``raw``, bytes made beforehand.

Copies of a scene share content: the reference position, the longitude of a BSM and every ``sec_mark`` are taken from
the device and from ``ts_ms`` when the message is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit
from v2x.topics import UPLINKS

from v2x_codecs.framing import mqtt_frame
from v2x_codecs.registry import Registry

U1 = npt.NDArray[np.uint8]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

RSM, BSM, INTS, RAW = 0, 1, 2, 3  # kinds of content
# Columns of ``parts`` and ``bsm``: the schema's order; TempId and msg_cnt are not in ``bsm``.
PARTICIPANT: Final = (
    "ptc_type", "ptc_id", "source", "object_class", "sec_mark", "d_lat", "d_lon", "ele", "pos_conf", "transmission",
    "speed", "heading", "speed_conf", "heading_conf", "accel_long", "yaw_rate", "width", "length", "height",
)  # fmt: skip
BSM_FIELDS: Final = (
    "sec_mark", "lat", "lon", "ele", "pos_conf", "semi_major", "semi_minor", "orientation", "transmission", "speed",
    "heading", "angle", "speed_conf", "heading_conf", "accel_long", "accel_lat", "accel_vert", "yaw_rate",
    "brake_pedal", "wheel_brakes", "traction", "abs", "scs", "brake_boost", "aux_brakes", "width", "length", "height",
    "vehicle_class", "fuel_type", "event_flags", "lights",
)  # fmt: skip
LON_UNAVAILABLE: Final = 1_800_000_001
_FIXED: Final = 200  # bytes that the prefix, the longest envelope and an RSM's own fields stay below
_VARINT: Final = 10  # bytes at most
_SMALL: Final = 5  # bytes of a varint of 32 bits at most
_MINUTE: Final = 60_000


def prefixes() -> U1:
    """Return the 10 bytes in front of each body, by UPLINKS code: marker and fingerprint (single-object encoding)."""
    registry = Registry.load()
    out = np.zeros((len(UPLINKS), 10), np.uint8)
    for row in UPLINKS:
        out[row.code] = np.frombuffer(mqtt_frame(registry.get(row.schema), b""), np.uint8)
    return out


def counted_types() -> U1:
    """Return 1 for each UPLINKS code whose schema has msg_cnt after the envelope."""
    registry = Registry.load()
    has = [row.schema for row in UPLINKS if registry.get(row.schema).raw["fields"][4]["name"] == "msg_cnt"]
    return np.array([row.schema in has for row in UPLINKS], np.uint8)


def varint(value: int) -> bytes:
    """Return the zigzag varint of one number."""
    z = (value << 1) ^ (value >> 63)
    out = bytearray()
    while z >= 0x80:
        out.append((z & 0x7F) | 0x80)
        z >>= 7
    out.append(z)
    return bytes(out)


def device_heads(ids: Sequence[str], boots: Sequence[int]) -> tuple[U1, I8]:
    """Return the envelope's first two fields of all devices one after the other, and n + 1 offsets."""
    heads = []
    for device, boot in zip(ids, boots, strict=True):
        text = device.encode()
        heads.append(varint(len(text)) + text + varint(boot))
    offsets = np.zeros(len(heads) + 1, np.int64)
    np.cumsum([len(h) for h in heads], out=offsets[1:])
    return np.frombuffer(b"".join(heads), np.uint8), offsets


@njit("int64(uint8[::1], int64, int64)", cache=True, inline="always")  # type: ignore[misc, unused-ignore]
def _put(out: U1, p: int, v: int) -> int:
    z = (v << 1) ^ (v >> 63)
    while z >= 0x80:
        out[p] = (z & 0x7F) | 0x80
        z >>= 7
        p += 1
    out[p] = z
    return p + 1


@njit(
    "int64(uint8[::1], uint8[::1], int32[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1],"
    " int32[:,::1], int32[:,::1], uint8[:,::1], int64[::1], uint8[::1],"
    " Array(uint8, 1, 'C', readonly=True), int64[::1], int32[:,::1], int32[::1], uint8[:,::1], uint8[::1],"
    " uint8[::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)  # type: ignore[misc, unused-ignore]
def _write(
    kind: U1, code: U1, dev: I4, seq: I8, ts: I8, cnt: I8, a: I8, b: I8,
    parts: I4, bsm: I4, temp: U1, ints: I8, raw: U1,
    heads: U1, head_at: I8, ref: I4, d_lon: I4, prefix: U1, counted: U1,
    out: U1, start: I8, end: I8,
) -> int:  # fmt: skip
    p = 0
    for m in range(len(kind)):
        start[m] = p
        d, t = dev[m], code[m]
        for i in range(10):
            out[p + i] = prefix[t, i]
        p += 10
        for i in range(head_at[d], head_at[d + 1]):
            out[p] = heads[i]
            p += 1
        p = _put(out, p, seq[m])
        p = _put(out, p, ts[m])
        if counted[t]:
            p = _put(out, p, cnt[m])
        k = kind[m]
        if k == 0:
            mark = ts[m] % _MINUTE
            p = _put(out, p, mark)
            for i in range(3):
                p = _put(out, p, ref[d, i])
            if b[m] > a[m]:
                p = _put(out, p, b[m] - a[m])
                for row in range(a[m], b[m]):
                    for i in range(parts.shape[1]):
                        p = _put(out, p, mark if i == 4 else parts[row, i])
            p = _put(out, p, 0)
            p = _put(out, p, 0)  # no obstacles
        elif k == 1:
            row = a[m]
            for i in range(8):
                out[p + i] = temp[row, i]
            p += 8
            p = _put(out, p, ts[m] % _MINUTE)
            for i in range(1, bsm.shape[1]):
                v = bsm[row, i]
                if i == 2 and v != LON_UNAVAILABLE:
                    v += d_lon[d]
                p = _put(out, p, v)
        elif k == 2:
            for i in range(a[m], b[m]):
                p = _put(out, p, ints[i])
        else:
            for i in range(a[m], b[m]):
                out[p] = raw[i]
                p += 1
        end[m] = p
    return p


class BodyWriter:
    """The kernel with what does not change: envelopes, reference positions and prefixes of a fleet."""

    def __init__(
        self, ids: Sequence[str], boots: Sequence[int], ref: npt.NDArray[Any], d_lon: npt.NDArray[Any]
    ) -> None:
        """Take ids, boots (ms), reference positions (n, 3: 1e-7 deg, 1e-7 deg, 0.1 m) and shifts (1e-7 deg)."""
        self._heads, self._head_at = device_heads(ids, boots)
        self._ref = np.ascontiguousarray(ref, np.int32)
        self._d_lon = np.ascontiguousarray(d_lon, np.int32)
        self._prefix, self._counted = prefixes(), counted_types()

    def write(
        self, kind: U1, code: U1, dev: I4, seq: I8, ts: I8, cnt: I8, a: I8, b: I8,
        parts: I4, bsm: I4, temp: U1, ints: I8, raw: U1,
    ) -> tuple[bytes, I8, I8]:  # fmt: skip
        """Return payloads one after the other, and where each starts and ends; columns as the module's text says."""
        n = len(kind)
        length = np.select(
            [kind == RSM, kind == BSM, kind == INTS],
            [(b - a) * (_SMALL * len(PARTICIPANT)), np.full(n, _SMALL * len(BSM_FIELDS)), (b - a) * _VARINT],
            b - a,
        )
        out = np.empty(int(length.sum()) + _FIXED * n, np.uint8)
        start, end = np.empty(n, np.int64), np.empty(n, np.int64)
        size = _write(
            kind, code, dev, seq, ts, cnt, a, b, parts, bsm, temp, ints, raw,
            self._heads, self._head_at, self._ref, self._d_lon, self._prefix, self._counted, out, start, end,
        )  # fmt: skip
        return out[:size].tobytes(), start, end
