"""Invented records, and bytes with mistakes in them: what the campaign feeds the decoders with.

All is a function of the given ``random.Random``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from v2x_codecs.layout import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN

_BOUNDS: Final = {"int": (INT_MIN, INT_MAX), "long": (LONG_MIN, LONG_MAX)}
_TEXTS: Final = ("", "a", "RSU-1", "路", "é", "\U0001f697", "e:0", "x" * 64)
_BYTES: Final = (0x00, 0x01, 0x02, 0x03, 0x7F, 0x80, 0x81, 0xC3, 0xED, 0xF4, 0xFE, 0xFF)
_ITEMS: Final = (0, 0, 1, 1, 2, 3, 7)
_MOST: Final = 40  # bytes of an invented text beyond its least
_BLOCK: Final = 64  # items, at most, that a mistaken count claims


def record(raw: Mapping[str, Any], rng: Random, *, outside: float = 0.0) -> dict[str, Any]:
    """Return a record of a schema (JSON); with the probability ``outside`` a number is anything its type can hold."""
    named: dict[str, Any] = {}
    return {f["name"]: _value(f["type"], f, rng, outside, named) for f in raw["fields"]}


def _value(raw: Any, limits: Mapping[str, Any], rng: Random, outside: float, named: dict[str, Any]) -> Any:
    if isinstance(raw, str) and raw in named:
        raw = named[raw]
    kind = raw["type"] if isinstance(raw, Mapping) else raw
    if isinstance(raw, Mapping) and "name" in raw:
        named[raw["name"]] = raw
    match kind:
        case "int" | "long":
            low, high = _BOUNDS[kind]
            if rng.random() >= outside:
                low, high = limits.get("min", low), limits.get("max", high)
            small = min(max(0, low), high)
            return rng.choice((low, high, small, rng.randint(low, high), min(small + rng.randrange(100), high)))
        case "string" | "bytes":
            return _text(kind, limits, rng)
        case "array":
            least, most = limits.get("minItems", 0), limits.get("maxItems", 1 << 16)
            count = min(max(rng.choice(_ITEMS), least), most)
            return [_value(raw["items"], {}, rng, outside, named) for _ in range(count)]
        case "record":
            return {f["name"]: _value(f["type"], f, rng, outside, named) for f in raw["fields"]}
        case "enum":
            return rng.choice(raw["symbols"])
        case "fixed":
            return rng.randbytes(raw["size"])
        case "boolean":
            return rng.random() < 0.5
        case "double":
            return struct.unpack("<d", struct.pack("<q", rng.choice((0, 1, -1, rng.getrandbits(63)))))[0]
    raise ValueError(f"no value can be invented for {raw!r}")


def _text(kind: str, limits: Mapping[str, Any], rng: Random) -> str | bytes:
    least = int(limits.get("minLength", 0))
    most = min(int(limits.get("maxLength", least + _MOST)), least + _MOST)
    if kind == "bytes":
        return rng.randbytes(rng.randint(least, most))
    text = rng.choice(_TEXTS)
    while len(text.encode()) > most:
        text = text[:-1]
    return text + "x" * (least - len(text.encode()))


def zigzag(value: int, size: int = 0) -> bytes:
    """Return a number's varint (of any width), padded with zeros to ``size`` bytes."""
    raw, out = value << 1 if value >= 0 else (-value << 1) - 1, bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    while len(out) < size:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def _number(rng: Random) -> bytes:
    value = rng.choice((
        0, 1, -1, 63, 64, -64, -65, 255, 256, 1 << 13, 1 << 16, INT_MAX, INT_MIN, INT_MAX + 1, INT_MIN - 1,
        LONG_MAX, LONG_MIN, LONG_MAX + 1, 1 << 70, rng.getrandbits(34) - (1 << 33), rng.randrange(_BLOCK),
        -rng.randrange(_BLOCK),
    ))  # fmt: skip
    return zigzag(value, rng.choice((0, 0, 0, 0, 5, 6, 10, 11)))


def mistaken(data: bytes, start: int, others: Sequence[bytes], rng: Random) -> bytes:
    """Return a message with none to four mistakes, nearly always behind its header, which has ``start`` bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 2, 2, 3, 4))):
        first = start if rng.random() < 0.98 else 0
        at = min(first + int(rng.random() * (len(out) - first + 1)), len(out)) if len(out) > first else len(out)
        match int(rng.random() * 12):
            case 0:
                out[at : at + 1] = bytes((rng.choice(_BYTES),))
            case 1:
                if at < len(out):
                    out[at] ^= 1 << int(rng.random() * 8)
            case 2:
                out[at : at + 1] = bytes((int(rng.random() * 256),))
            case 3:
                out[at:at] = rng.choice((b"\x00", b"\x01", b"\x80", b"\xff", b"\x02\x02", b"\xff" * 9 + b"\x01"))
            case 4:
                del out[at : at + 1 + int(rng.random() * 3)]
            case 5:
                del out[at:]
            case 6:  # another number in place of the one that may begin here
                end = at
                while end < len(out) and out[end] >= 0x80:
                    end += 1
                out[at : end + 1] = _number(rng)
            case 7:  # the same number, longer
                if at < len(out) and out[at] < 0x80:
                    out[at : at + 1] = bytes((out[at] | 0x80, *(0x80,) * rng.choice((0, 3, 4, 8, 9)), 0))
            case 8:
                out[at:at] = out[at : at + 1 + int(rng.random() * 20)]
            case 9:  # go on as another message does
                out[at:] = rng.choice(others)[at:]
            case 10:  # an item count as a block with its size, right or wrong
                if at < len(out) and 0 < out[at] < 0x40 and not out[at] & 1:
                    out[at : at + 1] = bytes((out[at] - 1,)) + zigzag(max(int(rng.random() * (len(out) - at)), 0))
            case _:
                out += bytes((rng.choice(_BYTES),))
    return bytes(out)
