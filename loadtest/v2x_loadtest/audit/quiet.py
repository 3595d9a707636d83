"""What came out, set against what one quiet process makes of the same log: the strongest question there is.

Fusion is a function of each partition's log, so there is one right answer, byte for byte, whatever befell the services.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from v2x.columns import Record
from v2x.topics import EVENTS, LINKS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.log import TOPICS, Log
from v2x_services.follow import follow
from v2x_services.fusion.domain import DomainCores
from v2x_services.reader import Once

OUT: Final = (TRACKS, EVENTS, LINKS)
Records = dict[tuple[str, int], list[Record]]


async def read_all(bootstrap: str) -> tuple[Log, Records]:
    """Read the topics once; return the log's columns, and the records that fusion reads and writes."""
    log, records = Log(), defaultdict[tuple[str, int], list[Record]](list)
    taken: list[Record] = []
    where = ("", -1)
    async for m in follow(bootstrap, TOPICS, last=None, to_end=True):
        if (m.topic, m.partition) != where:
            log.take(*where, taken)
            where, taken = (m.topic, m.partition), []
        taken.append(Record(m.offset, m.timestamp, m.key, m.value, m.headers))
        if m.topic == OBSERVATIONS or m.topic in OUT:
            records[where].append(taken[-1])
    log.take(*where, taken)
    return log, records


@dataclass(slots=True)
class Quiet:
    """What is out against what one quiet run makes, by the reader's rule."""

    outputs: int = 0  # that a quiet run makes
    missing: int = 0
    extra: int = 0
    missing_ends: int = 0  # events among the missing whose end is not told
    missing_events: int = 0  # revisions of events among the missing
    first: list[str] = field(default_factory=list)  # of what is wrong


def compare(records: Mapping[tuple[str, int], Sequence[Record]], cores: DomainCores, partitions: int) -> Quiet:
    """Feed each partition's log to a fresh core in one go, and set what it makes against what is there."""
    codec, found = ReferenceCodec(Registry.load()), Quiet()
    for p in range(partitions):
        expected = cores.fresh(OBSERVATIONS, p, partitions).feed(list(records.get((OBSERVATIONS, p), [])))
        for topic in OUT:
            once = Once()
            seen = [r.value for r in records.get((topic, p), []) if once(*codec.decode_kafka(r.value))]
            wanted = [o.value for o in expected if o.topic == topic]
            _set_against(found, topic, p, seen, wanted, codec)
    return found


def _set_against(
    found: Quiet, topic: str, partition: int, seen: Sequence[Any], wanted: Sequence[Any], codec: ReferenceCodec
) -> None:
    found.outputs += len(wanted)
    if list(seen) == list(wanted):
        return
    missing, extra = _without(wanted, seen), _without(seen, wanted)
    found.missing += len(missing)
    found.extra += len(extra)
    for value in missing if topic == EVENTS else ():
        found.missing_events += 1
        found.missing_ends += codec.decode_kafka(value)[1]["status"] == "ENDED"
    at = next((i for i, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), min(len(seen), len(wanted)))
    found.first.append(
        f"{topic} partition {partition}: record {at} of {len(wanted)} differs; "
        f"{len(missing)} missing, {len(extra)} that a quiet run does not make"
    )
    if not missing and not extra:
        found.extra += 1  # the same records in another order are wrong too


def _without(these: Sequence[Any], those: Sequence[Any]) -> list[Any]:
    known = set(those)
    return [value for value in these if value not in known]
