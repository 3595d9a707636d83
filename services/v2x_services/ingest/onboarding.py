"""Guests and strays of a shard: devices that the zone map does not know, and topics that are another shard's.

Only for one of several shards; a single one takes everything by wildcard. It hears of each topic once, when the first
message comes, and changes the subscriptions of the session (see ``v2x.shards``):

* the heartbeat of an RSU that the zone map does not know: shard 0 subscribes to its other topics by name. Until then
  the broker has no subscriber for them and says so to the device (PUBACK 0x10, not delivered);
* a topic that is another shard's (the session still holds a filter from before the zone map changed): what came is
  taken, the filter is dropped;
* leaving: whatever still comes after the known filters are gone is a guest's, and is dropped likewise.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from v2x.shards import FIRST, HELLO, Shard, is_spread, owner, spread_topics

from v2x_services.ingest.topics import Topic

log = logging.getLogger(__name__)
MOST_GUESTS: Final = 4_096  # nothing proves who sends a heartbeat: made-up ids must not fill the broker


class Session(Protocol):
    """The part of an MQTT source that this needs."""

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe to more."""
        ...

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Subscribe to less."""
        ...


class Onboarding:
    """The guests of one shard."""

    def __init__(self, shard: Shard, known: frozenset[str], session: Session, *, leaving: bool = False) -> None:
        self.guests: set[str] = set()
        self._shard, self._known, self._session, self._leaving = shard, known, session, leaving

    def first(self, topic: Topic) -> None:
        """Note the first message of a topic."""
        row = topic.row
        if row is None:
            return
        if is_spread(row):
            if self._leaving or owner(row, topic.device, self._known, self._shard.count) != self._shard.index:
                log.info("%s is not ours: unsubscribing", topic.name)
                self._session.unsubscribe([topic.name])
        elif (row.kind, row.type) == HELLO and self._shard.index == FIRST and not self._leaving:
            self._greet(topic.device)

    def _greet(self, device: str) -> None:
        if device in self._known or device in self.guests:
            return
        if len(self.guests) >= MOST_GUESTS:
            log.warning("%s is not in the zone map, and there are %d such devices already", device, MOST_GUESTS)
            return
        log.info("%s is not in the zone map: shard 0 takes it", device)
        self.guests.add(device)
        self._session.subscribe(spread_topics(device))
