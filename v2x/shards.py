"""Shards of ingest: which of n processes takes an uplink topic. A pure function, so that no shard has to ask another.

Each topic belongs to exactly one shard, and the filters of different shards (and of one session) never overlap, so that
a broker hands out every message once::

    what carries the load, by device         v2x/v1/rsu/{id}/{bsm|rsm|spat|map}/up     shard = hash(id) mod n
    all the rest, by wildcard                v2x/v1/{kind}/+/{type}/up                 shard 0

Shard 0 has the rest because MQTT filters cannot subtract: whoever holds a wildcard gets everything below it. So the
reliable types and whatever an unknown device may send first never depend on a list of devices. An RSU that the zone map
does not know (a *guest*) is met by its heartbeat, and shard 0 then subscribes to it by name.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, Self

from v2x.errors import ConfigError
from v2x.topics import ROOT, UPLINKS, MessageClass, UplinkType, uplink_topic
from v2x.zones import ZoneMap, partition_of

MOST: Final = 64
# (kind, type) of uplinks that are spread over the shards by device.
SPREAD: Final = (("rsu", "bsm"), ("rsu", "rsm"), ("rsu", "spat"), ("rsu", "map"))
_SPREAD: Final = frozenset(SPREAD)
HELLO: Final = ("rsu", "hb")  # what a guest is met by
FIRST: Final = 0  # the shard that takes what is not spread, and guests


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` ingest processes."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``i/n``; ConfigError says what is wrong."""
        index, slash, count = text.partition("/")
        if not (slash and index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
            msg = f"shard {text!r}: give i/n, as 0/2 and 1/2 for the two processes of two"
            raise ConfigError(msg)
        made = cls(int(index), int(count))
        if not 1 <= made.count <= MOST:
            msg = f"shard {text!r}: there may be 1 to {MOST} shards, not {made.count}"
            raise ConfigError(msg)
        if made.index >= made.count:
            msg = f"shard {text!r}: of {made.count} shards the last one is {made.count - 1}/{made.count}"
            raise ConfigError(msg)
        return made

    @property
    def alone(self) -> bool:
        """Say whether there is but one: then wildcards do, and there are no guests."""
        return self.count == 1

    @property
    def name(self) -> str:
        """Return the name of its process, in files and logs."""
        return "ingest" if self.alone else f"ingest-{self.index}of{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def is_spread(row: UplinkType) -> bool:
    """Say whether an uplink type is spread over the shards by device."""
    return (row.kind, row.type) in _SPREAD


def owner(row: UplinkType, device: str, known: Container[str], count: int) -> int:
    """Return the shard (of ``count``) that takes a device's messages of one type; ``known``: ids with a shard."""
    return partition_of(device.encode(), count) if is_spread(row) and device in known else FIRST


def spread_topics(device: str) -> tuple[str, ...]:
    """Return the topics of an RSU that are spread."""
    return tuple(uplink_topic(kind, device, type_) for kind, type_ in SPREAD)


def known_devices(zones: ZoneMap) -> frozenset[str]:
    """Return the devices of a zone map that may send what is spread: all but its gantries."""
    return frozenset(zones.devices) - {gantry.device for gantry in zones.gantries.values()}


def filters(shard: Shard, kind: MessageClass, known: Iterable[str]) -> tuple[str, ...]:
    """Return the MQTT filters of one session (message class) of a shard; none if it has nothing to take.

    For one shard of several; a single one takes everything by wildcard.
    """
    rows = [row for row in UPLINKS if row.message_class is kind]
    out = []
    if shard.index == FIRST:
        out += [f"{ROOT}/{row.kind}/+/{row.type}/up" for row in rows if not is_spread(row)]
    if any(map(is_spread, rows)):
        mine = (d for d in sorted(known) if partition_of(d.encode(), shard.count) == shard.index)
        out += [topic for device in mine for topic in spread_topics(device)]
    return tuple(out)
