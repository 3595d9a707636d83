"""From records of the log to what is settled: envelopes by the kernel, Python only for reliable types.

The law of this stage: records = settled (durable, refused) + passed over (other, copy, repeat, unreadable).
"""

from __future__ import annotations

from typing import Final

from v2x.columns import Records
from v2x.confirm import RELIABLE, Confirmations
from v2x.errors import V2XError
from v2x.topics import DEADLETTER, DEVICES, GANTRY, HEADER_COPY, OBSERVATIONS, MessageClass, parse_uplink

from v2x_codecs.envelopes import EnvelopeReader
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.metrics import Metrics

# The small ones first: a fetch is filled in this order, and none may starve behind a backlog of observations.
TOPICS: Final = (GANTRY, DEVICES, DEADLETTER, OBSERVATIONS)


class Intake:
    """Feeds one ``Confirmations``."""

    def __init__(self, registry: Registry, confirmations: Confirmations, metrics: Metrics) -> None:
        self._into = confirmations
        self._reader = EnvelopeReader(registry, {row.schema for row in RELIABLE})
        code_of = {row.schema: row.code for row in RELIABLE}
        self._codes = [code_of[name] for name in self._reader.schemas]
        self._letters = ReferenceCodec(registry, strict=False)
        self._records = {topic: metrics.value("v2x_confirm_records_total", topic=topic) for topic in TOPICS}
        passed, settled = "v2x_confirm_passed_over_total", "v2x_confirm_settled_total"
        self._durable, self._refused = (metrics.value(settled, how=how) for how in ("durable", "refused"))
        reasons = ("other", "copy", "repeat", "unreadable")
        self._other, self._copy, self._repeat, self._unreadable = (metrics.value(passed, reason=r) for r in reasons)

    def take(self, topic: str, records: Records) -> None:
        """Take records of one partition, in order."""
        self._records[topic].value += len(records)
        if topic == DEADLETTER:
            self._take_letters(records)
            return
        into, found = self._into, self._reader.read(records.values, records.size)
        durable, copies, n = into.durable, 0, len(found.index)
        self._other.value += found.others
        self._unreadable.value += found.broken
        if not n:
            return
        columns = (found.index, found.schema, found.device_at, found.device_size, found.boot, found.seq)
        stamps = records.stamp_ms[found.index].tolist()
        for (i, schema, at, size, boot, seq), stamp_ms in zip(
            zip(*(column.tolist() for column in columns), strict=True), stamps, strict=True
        ):
            # A copy for a neighbouring zone may be in the log before the record itself is.
            if topic == OBSERVATIONS and any(name == HEADER_COPY for name, _ in records[i].headers):
                copies += 1
                continue
            device = records.values[at : at + size].decode("utf-8", "replace")
            into.take(self._codes[schema], device, boot, seq, stamp_ms)
        durable = into.durable - durable
        self._durable.value += durable
        self._copy.value += copies
        self._repeat.value += n - durable - copies

    def _take_letters(self, records: Records) -> None:
        for i in range(len(records)):
            record = records[i]
            try:
                name, letter = self._letters.decode_kafka(record.value)
                row = parse_uplink(letter["topic"]).row if name == "dead_letter" else None
            except V2XError:
                self._unreadable.value += 1
                continue
            if row is None or row.message_class is not MessageClass.RELIABLE:
                self._other.value += 1
            elif letter["seq"] < 0 or letter["boot"] < 0:
                self._unreadable.value += 1
            else:
                before = self._into.refused
                self._into.refuse(row.code, letter["device"], letter["boot"], letter["seq"], record.stamp_ms)
                news = self._into.refused - before
                self._refused.value += news
                self._repeat.value += 1 - news
