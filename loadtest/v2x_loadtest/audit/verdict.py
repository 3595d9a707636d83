"""Log and ledger joined, and the account drawn."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.audit import (
    Account,
    EventCheck,
    PositionCheck,
    Sightings,
    Stream,
    Unreadable,
    check_events,
    check_positions,
    distinct,
    settle,
)
from v2x.errors import TopicError
from v2x.topics import OBSERVATIONS, parse_uplink

from v2x_loadtest.audit.ledger import SCHEMA_OF, SPOILT, Ledger
from v2x_loadtest.audit.log import UPLINK_TOPICS, Log

I64 = npt.NDArray[np.int64]
SHOWN_SPANS: Final = 20  # in JSON, a stream
SHOWN_STREAMS: Final = 50


@dataclass(slots=True)
class Verdict:
    """The whole audit."""

    account: Account
    events: EventCheck
    frames: PositionCheck
    by_topic: dict[str, int]  # distinct is in the account; these are records
    halo_copies: int
    strange: dict[str, int]
    behind: int  # uplinks in observations that fusion has not yet spoken after
    observed: int  # distinct uplinks in observations

    @property
    def fine(self) -> bool:
        """Nothing lost, nothing told twice."""
        return not (self.account.lost or self.events.faults or self.frames.conflicts)

    def to_dict(self) -> dict[str, Any]:
        """Return the audit for machines."""
        total = self.account
        return {
            "published": total.published,
            "acknowledged": total.acknowledged,
            "observations": total.logged,
            "duplicates_in_log": total.repeated,
            "deadletter": sum(total.dead.values()),
            "deadletter_by_reason": total.dead,
            "fused": total.fused,
            "not_yet_fused": self.behind,
            "lost": total.lost,
            "unacknowledged": total.unacknowledged,
            "unknown": total.unknown,
            "ledger": total.ledger,
            "records": self.by_topic,
            "halo_copies": self.halo_copies,
            "strange": self.strange,
            "by_type": {
                name: {
                    "published": part.published,
                    "acknowledged": part.acknowledged,
                    "observations": part.logged,
                    "duplicates_in_log": part.repeated,
                    "deadletter": sum(part.dead.values()),
                    "lost": part.lost,
                    "unacknowledged": part.unacknowledged,
                }
                for name, part in total.by_type().items()
            },
            "faults": [
                {
                    **row.stream._asdict(),
                    "lost": [str(run) for run in row.lost[:SHOWN_SPANS]],
                    "excused": row.excused,
                }
                for row in total.faults()[:SHOWN_STREAMS]
            ],
            "event_records": {
                "events": self.events.events,
                "records": self.events.records,
                "copies": self.events.copies,
                "open": self.events.open,
                "duplicates": self.events.duplicates,
                "faults": self.events.faults,
            },
            "frame_records": {
                "records": self.frames.records,
                "copies": self.frames.copies,
                "conflicts": self.frames.conflicts[:SHOWN_SPANS],
            },
        }


def judge(log: Log, ledger: Ledger | None) -> Verdict:
    """Draw the account of all that is in ``log``, against ``ledger`` if there is one."""
    sightings: dict[Stream, Sightings] = defaultdict(Sightings)
    if ledger is not None:
        _published(ledger, sightings)
    behind, observed = _logged(log, sightings)
    unreadable = _dead(log, sightings)
    topics = log.topics.list()
    counts = np.bincount(log.column("topic"), minlength=len(topics))
    return Verdict(
        account=settle(sightings, unreadable, ledger=ledger is not None),
        events=check_events(log.event_rows),
        frames=check_positions(
            *(log.frames.column(name) for name in ("generation", "input", "offset", "nth", "digest"))
        ),
        by_topic={name: int(counts[topics.index(name)]) if name in topics else 0 for name in UPLINK_TOPICS},
        halo_copies=log.halo_copies,
        strange=dict(log.strange),
        behind=behind,
        observed=observed,
    )


def groups(*keys: I64) -> list[I64]:
    """Return row numbers grouped by equal keys."""
    if not keys[0].size:
        return []
    order = np.lexsort(keys)
    changed = np.zeros(order.size - 1, bool)
    for key in keys:
        changed |= np.diff(key[order]) != 0
    return np.split(order, np.flatnonzero(changed) + 1)


def _published(ledger: Ledger, sightings: dict[Stream, Sightings]) -> None:
    sent = ledger.sent[ledger.sent["sent_us"] != 0]  # the others never left: there was no connection
    device, kind = sent["device"].astype(np.int64), sent["type"].astype(np.int64)
    seqs = sent["seq"].astype(np.int64)
    for rows in groups(device, kind):
        who = ledger.devices[int(device[rows[0]])]
        seen = sightings[Stream(who.id, who.boot, SCHEMA_OF[int(kind[rows[0]])])]
        seen.published = seqs[rows]
        seen.acknowledged = seqs[rows[sent["acked_us"][rows] != 0]]
        seen.spoilt = seqs[rows[(sent["flags"][rows] & SPOILT) != 0]]


def _logged(log: Log, sightings: dict[Stream, Sightings]) -> tuple[int, int]:
    """Fill in what is in the topics; return how many uplinks fusion has not spoken after, and how many it was given."""
    devices, schemas, topics = log.devices.list(), log.schemas.list(), log.topics.list()
    seq, device, boot, schema = (log.column(name) for name in ("seq", "device", "boot", "schema"))
    partition, offset = log.column("partition"), log.column("offset")
    speaks = log.frames.column("partition")
    reach = np.full(max(int(partition.max(initial=-1)), int(speaks.max(initial=-1))) + 1, -1, np.int64)
    np.maximum.at(reach, speaks, log.frames.column("offset"))
    road = log.column("topic") == (topics.index(OBSERVATIONS) if OBSERVATIONS in topics else -1)
    taken = road & (offset <= reach[partition]) if partition.size else road
    behind = observed = 0
    for rows in groups(device, boot, schema):
        first = rows[0]
        seen = sightings[Stream(devices[device[first]], int(boot[first]), schemas[schema[first]])]
        seen.logged = seq[rows]
        seen.fused = seq[rows[taken[rows]]]
        given = distinct(seq[rows[road[rows]]])
        observed += given.size
        behind += given.size - distinct(seen.fused).size
    return behind, observed


def _dead(log: Log, sightings: dict[Stream, Sightings]) -> list[Unreadable]:
    unreadable: Counter[tuple[str, str, str]] = Counter()
    found: dict[Stream, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for letter in log.dead:
        value = letter.value
        try:
            kind = parse_uplink(value["topic"]).row.schema
        except TopicError:
            kind = value["type"]
        if value["seq"] < 0 or value["boot"] < 0:
            unreadable[value["device"], kind, value["reason"]] += 1
        else:
            found[Stream(value["device"], value["boot"], kind)][value["reason"]].append(value["seq"])
    for stream, reasons in found.items():
        for reason, seqs in reasons.items():
            sightings[stream].dead[reason] = np.array(seqs, np.int64)
    return [Unreadable(device, kind, reason, n) for (device, kind, reason), n in sorted(unreadable.items())]
