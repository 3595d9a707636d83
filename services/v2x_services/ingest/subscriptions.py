"""What an MQTT session is subscribed to: the packets that make it so, and the answers still awaited.

A session outlives its connections, so the broker may hold filters from an earlier life. On each connection everything
that is wanted is subscribed to again (it costs nothing where it is there already), and only then is dropped what is not
ours: *subscribe the new, then unsubscribe the old*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import mqtt5

PER_PACKET: Final = 500  # filters; some 20 KB, which every broker takes
_IDS: Final = 65_535
_REFUSED: Final = 0x80


class Subscriptions:
    """Filters of one session."""

    def __init__(self, wanted: Iterable[str], dropped: Iterable[str] = ()) -> None:
        self._wanted = dict.fromkeys(wanted)
        self._dropped = dict.fromkeys(dropped)
        self._waiting: set[int] = set()
        self._last = 0

    @property
    def settled(self) -> bool:
        """Say whether the broker has answered everything."""
        return not self._waiting

    def open(self) -> bytes:
        """Return what to send on a new connection."""
        self._waiting.clear()
        return self._subscribe(self._wanted) + self._unsubscribe(self._dropped)

    def add(self, filters: Iterable[str]) -> bytes:
        """Want more filters; return what to send if there is a connection."""
        new = [f for f in filters if f not in self._wanted]
        self._wanted |= dict.fromkeys(new)
        for f in new:
            self._dropped.pop(f, None)
        return self._subscribe(new)

    def drop(self, filters: Iterable[str]) -> bytes:
        """Want filters no more; return what to send if there is a connection."""
        old = list(filters)
        for f in old:
            self._wanted.pop(f, None)
        self._dropped |= dict.fromkeys(old)
        return self._unsubscribe(old)

    def answered(self, packet_id: int, codes: Sequence[mqtt5.SubAckReasonCode | mqtt5.UnsubAckReasonCode]) -> list[str]:
        """Note a SUBACK or UNSUBACK; return the names of codes by which the broker refuses."""
        self._waiting.discard(packet_id)
        return [code.name for code in codes if code.value >= _REFUSED]

    def _subscribe(self, filters: Iterable[str]) -> bytes:
        """Return SUBSCRIBEs: at least once; retained ones only with a new subscription, and marked so."""
        return b"".join(
            mqtt5.SubscribePacket(
                self._id(),
                [
                    mqtt5.TopicFilter(
                        pattern,
                        max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                        retain_as_published=False,
                        retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
                    )
                    for pattern in some
                ],
            ).write()
            for some in _packets(filters)
        )

    def _unsubscribe(self, filters: Iterable[str]) -> bytes:
        return b"".join(mqtt5.UnsubscribePacket(self._id(), some).write() for some in _packets(filters))

    def _id(self) -> int:
        self._last = self._last % _IDS + 1
        self._waiting.add(self._last)
        return self._last


def _packets(filters: Iterable[str]) -> Iterator[list[str]]:
    left = iter(filters)
    while some := list(islice(left, PER_PACKET)):
        yield some
