"""What a device does so that its reliable messages are never lost: a store, as a pure state machine in one file.

For people who make devices: read this beside docs/devices.md; it needs nothing but Python. No sockets, no clock: the
caller says what happened and when, and is told what to send again::

    keep ─► (publish, QoS 1) ─► delivered ──► confirmed: forgotten
              ▲                     │  told as a gap, or nothing told for a while
              └──── send again ◄────┤  (5 times, with growing pauses, same boot and number)
                                    └► given up, and counted

A PUBACK says that the broker has a message, which a crash of the broker undoes. A confirm says that it is in the log.
A confirm is cumulative: all numbers from ``floor`` to ``upto`` are in the log, but for ``gaps`` (send those again) and
``refused`` (never send those again).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

# The schema `confirm`, version 2, as single-object encoding has it in front of the body.
FRAME: Final = bytes.fromhex("c30164bec4defb7ef33a")
TRIES: Final = 5  # times that a message is sent again
GAP_S: Final = 2.0  # after its delivery, or the last try, a message told as a gap goes again; doubled each time
SILENCE_S: Final = 10.0  # the same for one of which nothing is told
CAPACITY: Final = 10_000


class Confirm(NamedTuple):
    """A confirm message."""

    device: str
    ts_ms: int
    type: str
    boot: int
    upto: int
    gaps: frozenset[int]
    refused: frozenset[int]
    floor: int


class Key(NamedTuple):
    """A message: what the platform knows it by as well."""

    type: str
    boot: int
    seq: int


@dataclass(slots=True)
class Kept:
    """A message in the store."""

    payload: bytes
    tries: int = 0
    at: float = -1.0  # s: when the broker took it last; negative: it has not, or it is on its way again
    gap: bool = False  # told as missing since then


@dataclass(slots=True)
class Tally:
    """What became of messages. kept = confirmed + refused + given_up + dropped + those in the store."""

    kept: int = 0
    confirmed: int = 0
    refused: int = 0  # dead letters: the platform has them and says they are bad
    given_up: int = 0  # sent again TRIES times in vain
    dropped: int = 0  # the oldest, when the store was full
    again: int = 0  # sent again (not a message more)


class Store:
    """Reliable messages of one device until they are confirmed."""

    __slots__ = ("_capacity", "_kept", "tally")

    def __init__(self, tally: Tally | None = None, capacity: int = CAPACITY) -> None:
        """``tally`` may be shared by many devices."""
        self.tally = tally or Tally()
        self._kept: dict[Key, Kept] = {}  # in the order of keeping
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: Key, payload: bytes) -> None:
        """Keep a message; call it before the message is published. A real device writes it to flash here."""
        if key in self._kept:
            return
        self.tally.kept += 1
        self._kept[key] = Kept(payload)
        if len(self._kept) > self._capacity:
            del self._kept[next(iter(self._kept))]
            self.tally.dropped += 1

    def delivered(self, key: Key, now: float) -> None:
        """Note that the broker has acknowledged a message with success (PUBACK 0): from now on a confirm is due."""
        kept = self._kept.get(key)
        if kept is not None:
            kept.at, kept.gap = now, False

    def discard(self, key: Key) -> None:
        """Give a message up that the broker does not take (PUBACK 0x10 or an error, again and again)."""
        if self._kept.pop(key, None) is not None:
            self.tally.given_up += 1

    def confirmed(self, told: Confirm) -> None:
        """Take a confirm."""
        for key in [k for k in self._kept if k[:2] == told[2:4] and told.floor <= k.seq <= told.upto]:
            if key.seq in told.gaps:
                self._kept[key].gap = True
                continue
            del self._kept[key]
            if key.seq in told.refused:
                self.tally.refused += 1
            else:
                self.tally.confirmed += 1

    def due(self, now: float) -> Iterator[tuple[Key, bytes]]:
        """Yield what is to be published again now; call it about once a second while connected."""
        for key, kept in list(self._kept.items()):
            pause = (GAP_S if kept.gap else SILENCE_S) * 2**kept.tries
            if kept.at < 0 or now - kept.at < pause:
                continue
            if kept.tries == TRIES:
                del self._kept[key]
                self.tally.given_up += 1
                continue
            kept.tries += 1
            kept.at = -1.0
            self.tally.again += 1
            yield key, kept.payload


def read_confirm(payload: bytes) -> Confirm | None:
    """Return the confirm in an MQTT payload; None if it is another schema or cut short."""
    if payload[: len(FRAME)] != FRAME:
        return None
    reader = _Reader(payload, len(FRAME))
    try:
        device, ts_ms, kind, boot = reader.text(), reader.number(), reader.text(), reader.number()
        return Confirm(
            device, ts_ms, kind, boot, reader.number(), reader.numbers(), reader.numbers(), floor=reader.number()
        )
    except (IndexError, UnicodeDecodeError):
        return None


class _Reader:
    """Avro's binary form: zigzag varints, text with its length before it, arrays in counted blocks."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def number(self) -> int:
        raw = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            raw |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (raw >> 1) ^ -(raw & 1)
            shift += 7

    def text(self) -> str:
        size = self.number()
        begin, self._at = self._at, self._at + size
        if size < 0 or self._at > len(self._data):
            raise IndexError(size)
        return self._data[begin : self._at].decode()

    def numbers(self) -> frozenset[int]:
        found: list[int] = []
        while count := self.number():
            if count < 0:  # a block that says its size in bytes
                count, _ = -count, self.number()
            found += [self.number() for _ in range(count)]
        return frozenset(found)
