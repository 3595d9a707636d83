"""Keyed pseudonyms for what names a person: plates, OBU serials, card and pass numbers (PIPL).

A pseudonym is BLAKE2b with a secret key over the normalised value, 16 bytes in hex, with the kind of value as
personalisation, so that equal strings of different kinds do not meet. The same vehicle gets the same pseudonym at every
gantry, which is all that section speeds need; without the key it cannot be reversed by trying all plates.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from v2x.errors import ConfigError

KEY_BYTES: Final = 32
DIGEST_BYTES: Final = 16
COLOUR_UNKNOWN: Final = 9
# What gantry software writes for "nothing": an unread plate, a missing card.
_NOTHING: Final = frozenset({"", "(NULL)", "NULL", "-1", "默A00000", "0", "无"})
_FILLING: Final = str.maketrans("", "", " ·.-•\t　")
_SERIALS: Final = (("obu_sn", b"obu"), ("card_id", b"card"), ("pass_id", b"pass"))


def _bare(text: str) -> str:
    """Return text without separators; empty if it stands for nothing."""
    bare = text.translate(_FILLING)
    return "" if text.strip() in _NOTHING or bare in _NOTHING else bare


def normalise_plate(plate: str, colour: int) -> tuple[str, int]:
    """Return plate and colour in one form: full-width, case, separators and a ``_colour`` suffix do not matter.

    An empty plate means none was read.
    """
    text = unicodedata.normalize("NFKC", plate).upper()
    head, sep, tail = text.rpartition("_")
    if sep and tail.isdigit():
        text = head
        if colour == COLOUR_UNKNOWN:
            colour = int(tail)
    text = _bare(text)
    return (text, colour) if text else ("", COLOUR_UNKNOWN)


class Pseudonyms:
    """Makes pseudonyms with one secret key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            msg = f"the pseudonym key has {len(key)} bytes; {KEY_BYTES} are needed"
            raise ConfigError(msg)
        self._key = key

    def of(self, kind: bytes, value: str) -> str:
        """Return the pseudonym of a normalised value (hex), or an empty string for an empty one."""
        if not value:
            return ""
        return blake2b(value.encode(), digest_size=DIGEST_BYTES, key=self._key, person=kind).hexdigest()

    def plate(self, plate: str, colour: int) -> str:
        """Return the pseudonym of a plate with its colour; empty if no plate was read."""
        text, shade = normalise_plate(plate, colour)
        return self.of(b"plate", f"{text}_{shade}") if text else ""

    def serial(self, kind: bytes, value: str) -> str:
        """Return the pseudonym of a serial, card or pass number; empty if there is none."""
        return self.of(kind, _bare(unicodedata.normalize("NFKC", value).upper()))

    def cover(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a gantry record (transaction or plate) with pseudonyms in place of what names a person."""
        out = dict(record)
        out["plate"] = self.plate(record["plate"], record["plate_colour"])
        for name, kind in _SERIALS:
            if name in record:
                out[name] = self.serial(kind, record[name])
        return out


def vehicle_key(covered: Mapping[str, Any]) -> bytes:
    """Return the key under which all gantries' records of one vehicle meet; falls back to the gantry itself."""
    for name in ("plate", "obu_sn", "card_id", "pass_id"):
        if covered.get(name):
            return str(covered[name]).encode()
    return str(covered["device"]).encode()
