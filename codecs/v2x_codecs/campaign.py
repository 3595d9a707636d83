"""The proof of the fast decoder: millions of good and broken messages, through it and through fastavro.

A campaign is a function of registry, seed and batch number, so any batch can be done again. Of each batch

* every message goes through the fast decoder, in batches, in both framings, now and then with the topic's schema;
* every message that it takes is read by fastavro: the same values in every table, the same number of bytes;
* a share of those it refuses goes through the strict walk (the same verdict, offset and field), and through fastavro,
  which must refuse it too, or a row of ``differences`` says why not.

What does not hold is a finding, with the message's bytes.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Any, Final

import numpy as np
from fastavro import schemaless_reader
from v2x.columns import I32, Batch, Verdict

from v2x_codecs import mutate
from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.differences import Difference, explain
from v2x_codecs.framing import KAFKA_HEADER, MQTT_HEADER, kafka_header, mqtt_header
from v2x_codecs.layout import FieldPlan, Kind, Layout, RecordPlan
from v2x_codecs.reference import ReferenceCodec, ReferenceDecoder
from v2x_codecs.registry import Registry, Schema

BATCH: Final = 1000
_INVENTED: Final = 30  # records a batch, beside the given ones
_OUTSIDE: Final = 0.02
_BASE: Final = 64  # bytes: a message twice as long as another is taken half as often, beyond this
_NUMBERS: Final = frozenset({Kind.INT, Kind.LONG})
_HEAPED: Final = frozenset({Kind.STRING, Kind.BYTES, Kind.FIXED})
# What fastavro raises on a body it does not take; anything else would be news.
REFUSES: Final = (EOFError, ValueError, IndexError, OverflowError)


@dataclass(frozen=True, slots=True)
class Case:
    """A refused message, in MQTT framing, with all that is known of it."""

    payload: bytes
    schema: str
    verdict: Verdict
    at: int
    field: str
    difference: str  # the row of the table if fastavro takes the body


@dataclass(slots=True)
class Tally:
    """What a batch, or many, came to."""

    cases: int = 0
    accepted: int = 0
    compared: int = 0  # of the refused, with walk and fastavro
    verdicts: Counter[str] = field(default_factory=Counter)
    differences: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in another."""
        self.cases += other.cases
        self.accepted += other.accepted
        self.compared += other.compared
        self.verdicts.update(other.verdicts)
        self.differences.update(other.differences)
        self.findings += other.findings


class Campaign:
    """Batches of one seed. ``golden``: messages in MQTT framing to begin with (may be none)."""

    def __init__(self, registry: Registry, golden: Sequence[bytes], seed: int = 1, share: float = 0.25) -> None:
        """``share``: of the refused messages that are compared."""
        self._registry, self._seed, self._share = registry, seed, share
        self._codec = ReferenceCodec(registry)
        self._fast, self._slow = ColumnDecoder(registry), ReferenceDecoder(registry)
        layout = Layout(registry)
        self._tables = layout.tables
        self._newest = {n: next(p for s, p in layout.plans if s is registry.get(n)) for n in registry.names}
        self._kinds: dict[int, Kind] = {}
        for _, plan in layout.plans:
            self._note_kinds(plan)
        self._schemas = [s for name in registry.names for s in registry.versions(name)]
        self._golden: dict[int, list[bytes]] = {s.id: [] for s in self._schemas}
        for payload in golden:
            self._golden[registry.by_fingerprint(payload[2:MQTT_HEADER]).id].append(payload[MQTT_HEADER:])

    def batches(self, first: int, size: int = BATCH) -> Iterator[tuple[Tally, list[Case]]]:
        """Yield what batch ``first`` and all after it come to, and their compared refused messages."""
        nth = first
        while True:
            yield self.batch(nth, size)
            nth += 1

    def batch(self, nth: int, size: int = BATCH) -> tuple[Tally, list[Case]]:
        """Return what one batch comes to, and the refused messages that were compared."""
        rng = Random(f"{self._seed}/{nth}")
        mqtt = rng.random() < 0.5
        schemas, payloads = self._payloads(rng, size, mqtt=mqtt)
        expect = None
        if mqtt and rng.random() < 0.3:
            names = self._registry.names
            expect = np.array([rng.choice((-1, names.index(s.name), rng.randrange(len(names)))) for s in schemas], "i4")
        return self.judge(payloads, expect, rng, mqtt=mqtt)

    def judge(
        self, payloads: Sequence[bytes], expect: I32 | None = None, rng: Random | None = None, *, mqtt: bool = True
    ) -> tuple[Tally, list[Case]]:
        """Compare the decoders on these messages; without ``rng`` all of those that are refused."""
        tally = Tally(cases=len(payloads))
        try:
            batch = self._fast.decode_mqtt(payloads, expect) if mqtt else self._fast.decode_kafka(payloads)
        except Exception as error:  # noqa: BLE001 - the one thing a batch must never do
            hexes = " ".join(p.hex() for p in payloads)
            tally.findings.append(f"the batch raised {error!r}: {hexes}")
            return tally, []
        tally.verdicts.update(Verdict(v).name for v in batch.verdict.tolist())
        taken = np.flatnonzero(batch.verdict == Verdict.OK).tolist()
        tally.accepted = len(taken)
        self._same_values(batch, payloads, taken, tally, mqtt=mqtt)
        refused = np.flatnonzero(batch.verdict != Verdict.OK).tolist()
        sample = refused if rng is None else [i for i in refused if rng.random() < self._share]
        return tally, self._same_refusal(batch, payloads, expect, sample, tally, mqtt=mqtt)

    def _payloads(self, rng: Random, size: int, *, mqtt: bool) -> tuple[list[Schema], list[bytes]]:
        bodies = {key: list(found) for key, found in self._golden.items()}
        for _ in range(_INVENTED):
            schema = rng.choice(self._schemas)
            invented = mutate.record(schema.raw, rng, outside=rng.choice((0.0, _OUTSIDE)))
            bodies[schema.id].append(self._codec._body(schema, invented))  # noqa: SLF001 - of any version
        start = MQTT_HEADER if mqtt else KAFKA_HEADER
        made = [
            (schema, (mqtt_header(schema) if mqtt else kafka_header(schema)) + body)
            for schema in self._schemas
            for body in bodies[schema.id]
        ]
        framed: dict[int, list[bytes]] = {s.id: [] for s in self._schemas}
        for schema, payload in made:
            framed[schema.id].append(payload)
        weights = [1.0 / max(len(payload), _BASE) for _, payload in made]
        picked = rng.choices(made, weights, k=size)
        return [s for s, _ in picked], [mutate.mistaken(p, start, framed[s.id], rng) for s, p in picked]

    def _body(self, payload: bytes, *, mqtt: bool) -> tuple[Schema, bytes]:
        if mqtt:
            return self._registry.by_fingerprint(payload[2:MQTT_HEADER]), payload[MQTT_HEADER:]
        return self._registry.by_id(int.from_bytes(payload[1:KAFKA_HEADER], "big")), payload[KAFKA_HEADER:]

    def _read(self, schema: Schema, body: bytes) -> tuple[Any, int]:
        """Return what fastavro makes of a good body, by the newest version, and how many bytes it read."""
        stream, newest = BytesIO(body), self._registry.get(schema.name)
        found = schemaless_reader(stream, schema.parsed, None if newest is schema else newest.parsed)
        return found, stream.tell()

    def _same_values(
        self, batch: Batch, payloads: Sequence[bytes], taken: Sequence[int], tally: Tally, *, mqtt: bool
    ) -> None:
        wanted = [_Rows() for _ in self._tables]
        for i in taken:
            schema, body = self._body(payloads[i], mqtt=mqtt)
            try:
                record, size = self._read(schema, body)
            except REFUSES as error:
                tally.findings.append(f"fastavro refuses ({error!r}) what we take: {payloads[i].hex()}")
                continue
            if size != len(body):
                tally.findings.append(f"fastavro reads {size} of {len(body)} bytes: {payloads[i].hex()}")
            self._flatten(wanted, self._newest[schema.name], record, i, i)
        for plan, rows in zip(self._tables, wanted, strict=True):
            if not plan.used:
                continue
            table = batch.tables[plan.name]
            if not len(table.msg) and not rows.msg:
                continue  # nearly all, where few messages are judged
            offs = [k for k, name in enumerate(table.fields) if name.endswith(".off")]
            rest = [k for k in range(len(table.fields)) if k not in {*offs, *(k + 1 for k in offs)}]
            texts = [
                [batch.heap[off : off + size] for off, size in table.data[:, k : k + 2].tolist()]
                for k in offs
            ]  # fmt: skip
            same = (
                table.msg.tolist() == rows.msg
                and table.parent.tolist() == rows.parent
                and (table.data[:, rest] if offs else table.data).tolist() == rows.numbers
                and [list(row) for row in zip(*texts, strict=True)] == (rows.texts if offs else [])
            )
            if not same:
                tally.findings.append(self._first_difference(plan.name, payloads, taken, mqtt=mqtt))

    def _first_difference(self, table: str, payloads: Sequence[bytes], taken: Sequence[int], *, mqtt: bool) -> str:
        """Return the message whose values differ even when it is alone, else the whole batch."""
        for i in taken:
            if len(taken) > 1 and self.judge([payloads[i]], mqtt=mqtt)[0].findings:
                return f"table {table} differs from fastavro's: {payloads[i].hex()}"
        return f"table {table} differs from fastavro's in a batch: {' '.join(p.hex() for p in payloads)}"

    def _flatten(self, tables: list[_Rows], plan: RecordPlan, record: Any, msg: int, parent: int) -> None:
        rows = tables[plan.table.index]
        row = len(rows.msg)
        rows.msg.append(msg)
        rows.parent.append(parent)
        numbers: list[int] = []
        texts: list[bytes] = []
        rows.numbers.append(numbers)
        rows.texts.append(texts)
        for item in plan.fields:
            value = record if plan.plain else record[item.name]
            if item.kind in _NUMBERS:
                numbers.append(value)
            elif item.kind in _HEAPED:
                texts.append(value.encode() if isinstance(value, str) else value)
            elif item.kind is Kind.ARRAY:
                assert item.items is not None
                for inner in value:
                    self._flatten(tables, item.items, inner, msg, row)
            else:
                numbers.append(_cell(item, value))

    def _same_refusal(
        self, batch: Batch, payloads: Sequence[bytes], expect: I32 | None, sample: Sequence[int], tally: Tally,
        *, mqtt: bool,
    ) -> list[Case]:  # fmt: skip
        some = [payloads[i] for i in sample]
        wanted = None if expect is None else expect[sample]
        slow = self._slow.decode_mqtt(some, wanted) if mqtt else self._slow.decode_kafka(some)
        cases = []
        for k, i in enumerate(sample):
            tally.compared += 1
            found = tuple(int(column[i]) for column in (batch.verdict, batch.at, batch.bad_field, batch.schema))
            strict = tuple(int(column[k]) for column in (slow.verdict, slow.at, slow.bad_field, slow.schema))
            if found != strict:
                tally.findings.append(f"verdict, offset, field, schema {found}, the walk has {strict}: {some[k].hex()}")
                continue
            verdict, at, number, schema = Verdict(found[0]), found[1], found[2], found[3]
            known = schema >= 0 and verdict not in {Verdict.WRONG_SCHEMA, Verdict.TOO_LARGE}
            row = self._theirs(some[k], verdict, at, number, tally, mqtt=mqtt) if known else None
            if verdict is Verdict.WRONG_SCHEMA or not mqtt:
                continue  # cases are told in one framing, and without a topic
            name = self._slow.field_names[number] if number >= 0 else ""
            of = self._slow.schemas[schema] if schema >= 0 else ""
            cases.append(Case(some[k], of, verdict, at, name, row.name if row else ""))
        return cases

    def _theirs(
        self, payload: bytes, verdict: Verdict, at: int, number: int, tally: Tally, *, mqtt: bool
    ) -> Difference | None:
        """Return the row that says why fastavro takes a body that we refuse; None if it does not take it."""
        schema, body = self._body(payload, mqtt=mqtt)
        try:
            # As the writer had it: an array that the newest version dropped is skipped by fastavro without a look at
            # the message's end, so that a count of 2^60 keeps it busy for years.
            schemaless_reader(BytesIO(body), schema.parsed, None)
        except REFUSES:
            return None
        row = explain(verdict, self._kinds[number] if number >= 0 else None, payload, at)
        if row is None:
            tally.findings.append(f"fastavro takes what we refuse ({verdict.name} at {at}): {payload.hex()}")
        else:
            tally.differences[row.name] += 1
        return row

    def _note_kinds(self, plan: RecordPlan) -> None:
        for item in plan.fields:
            # The values of a plain array have a name of their own; a record's fields have theirs.
            self._kinds[item.index] = item.kind
            if item.items is not None:
                self._note_kinds(item.items)


@dataclass(slots=True)
class _Rows:
    """A table as fastavro's records make it: numbers and texts apart."""

    msg: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)
    texts: list[list[bytes]] = field(default_factory=list)


def _cell(item: FieldPlan, value: Any) -> int:
    if item.kind is Kind.ENUM:
        return item.symbols.index(value)
    if item.kind is Kind.DOUBLE:
        return int(struct.unpack("<q", struct.pack("<d", value))[0])
    return int(value)
