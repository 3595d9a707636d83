"""Dead letters: the catalogue of reasons, and the record that keeps a message which could not be taken in.

A payload of up to 64 KiB is kept whole; of a larger one its length, its SHA-256 and the first 4 KiB. Payloads that may
name a person (gantry transactions and plates) are sealed by a function that the caller passes in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from v2x.columns import Verdict

KEEP_WHOLE: Final = 64 << 10
KEEP_HEAD: Final = 4 << 10
_MAX_TOPIC: Final = 1024
_MAX_DETAIL: Final = 512
_MAX_DEVICE: Final = 64
_MAX_TYPE: Final = 16
_HEADER: Final = 10  # C3 01 and the fingerprint
_MAGIC: Final = b"\xc3\x01"


class Reason(IntEnum):
    """Why a message is a dead letter; the first ones are the decoder's verdicts, with their numbers."""

    EMPTY = Verdict.EMPTY
    BAD_FRAMING = Verdict.BAD_FRAMING
    UNKNOWN_SCHEMA = Verdict.UNKNOWN_SCHEMA
    WRONG_SCHEMA = Verdict.WRONG_SCHEMA
    TRUNCATED = Verdict.TRUNCATED
    TRAILING = Verdict.TRAILING
    BAD_VARINT = Verdict.BAD_VARINT
    BAD_VALUE = Verdict.BAD_VALUE
    OUT_OF_RANGE = Verdict.OUT_OF_RANGE
    TOO_MANY = Verdict.TOO_MANY
    TOO_LARGE = Verdict.TOO_LARGE
    UNKNOWN_TOPIC = 32
    WRONG_DEVICE = 33
    AHEAD = 34
    TOO_OLD = 35
    QUARANTINED = 36
    RECORD_TOO_LARGE = 37

    @property
    def label(self) -> str:
        """Name in records and metrics."""
        return self.name.lower()


CATALOGUE: Final[dict[Reason, str]] = {
    Reason.EMPTY: "No bytes in the payload",
    Reason.BAD_FRAMING: "Does not start with C3 01, Avro single-object encoding",
    Reason.UNKNOWN_SCHEMA: "The schema fingerprint is not in the registry",
    Reason.WRONG_SCHEMA: "A known schema, but not the one that the topic stands for",
    Reason.TRUNCATED: "The bytes end before the record does",
    Reason.TRAILING: "Bytes are left over after the record",
    Reason.BAD_VARINT: "A number of more than 10 bytes, or beyond the width of its type",
    Reason.BAD_VALUE: "A boolean, enum or union index that does not exist, or text that is not UTF-8",
    Reason.OUT_OF_RANGE: "A value beyond the schema's range, or a string longer than it may be",
    Reason.TOO_MANY: "An array with more (or fewer) items than its schema allows, or a negative number of them",
    Reason.TOO_LARGE: "The payload is over the limit (setting max_payload)",
    Reason.UNKNOWN_TOPIC: "A topic below ours that no schema belongs to",
    Reason.WRONG_DEVICE: "The device in the message is not the one in the topic",
    Reason.AHEAD: "The message's time is ahead of ours",
    Reason.TOO_OLD: "The message's time is too long ago for its class",
    Reason.QUARANTINED: "Nothing wrong with it, but its device is in quarantine",
    Reason.RECORD_TOO_LARGE: "Kafka refuses a record of this size",
}

Seal = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known about a message that could not be taken in."""

    reason: Reason
    detail: str
    topic: str
    payload: bytes
    rx_us: int
    device: str = ""
    type: str = ""
    at: int = -1
    boot: int = -1
    seq: int = -1


def fingerprint(payload: bytes) -> str:
    """Return the schema fingerprint as found (hex), empty if there is none."""
    return payload[2:_HEADER].hex() if payload[:2] == _MAGIC and len(payload) >= _HEADER else ""


def record(letter: Letter, seal: Seal | None = None) -> dict[str, Any]:
    """Return the record of schema ``dead_letter``; with ``seal`` the payload is kept sealed."""
    payload = letter.payload
    kept = payload if len(payload) <= KEEP_WHOLE else payload[:KEEP_HEAD]
    return {
        "reason": letter.reason.label,
        "detail": _cut(letter.detail, _MAX_DETAIL),
        "at": letter.at,
        "fingerprint": fingerprint(payload),
        "topic": _cut(letter.topic, _MAX_TOPIC),
        "device": _cut(letter.device, _MAX_DEVICE),
        "type": _cut(letter.type, _MAX_TYPE),
        "boot": letter.boot,
        "seq": letter.seq,
        "rx_us": letter.rx_us,
        "size": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "sealed": seal is not None,
        "payload": seal(kept) if seal is not None else kept,
    }


def _cut(text: str, limit: int) -> str:
    """Return text of at most ``limit`` bytes of UTF-8, cut at a character."""
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= limit else raw[:limit].decode("utf-8", "ignore")
