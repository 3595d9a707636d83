"""Batches of mistaken messages through the compiled decoder, checked in columns: millions a minute.

A batch is decoded twice, the second time in reverse, with other bytes between the messages: in Kafka's framing, with
the topics' schemas given, or with no table kept, by turns. ``invariants`` says what must hold of each decoding and
between the two, ``guards`` watches what is read and written, clean messages stand between the mistaken ones and must
come out as alone, and one message in ``_SAMPLE`` goes through fastavro too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.columns import I32, I64, Batch, Table, Verdict

from v2x_codecs.campaign import Campaign
from v2x_codecs.framing import KAFKA_HEADER, MQTT_HEADER
from v2x_codecs.layout import LONG_MAX, LONG_MIN, Kind, Layout, RecordPlan
from v2x_codecs.registry import Registry
from v2x_loadtest.fuzz import invariants
from v2x_loadtest.fuzz.guards import Fence, WiredDecoder
from v2x_loadtest.fuzz.mutants import LONGEST, Cases
from v2x_loadtest.fuzz.totals import Tally

_MOST: Final = LONGEST - 196  # bytes of a payload that is taken, so that some are too large
_EVERY: Final = 16  # cases to a clean message
_SAMPLE: Final = 500
_EXPECTED: Final = 0.06  # of the messages: the topic stands for some schema
_DECODINGS: Final = ("mqtt", "kafka", "expected", "narrow")
_HEAPED: Final = frozenset({Kind.STRING, Kind.BYTES, Kind.FIXED})
_NONE: Final = np.empty(0, np.int32)
_ODD_KEYS: Final = np.random.default_rng(7).integers(1 << 62, size=256, dtype=np.int64).astype(np.uint64) * 2 + 1


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a table."""

    name: str
    parent: str  # empty for a root table
    schema: int
    most: int  # rows a parent may have
    columns: I64  # (c, 3): kind, lowest, highest


@dataclass(frozen=True, slots=True)
class _Decoding:
    batch: Batch
    digests: npt.NDArray[np.uint64]
    wrong: int  # index of invariants.WRONG
    message: int  # which it is


class Batches:
    """The decoder, with all that its batches are held against."""

    def __init__(self, registry: Registry, golden: Sequence[bytes], campaign: Campaign) -> None:
        self._registry, self._campaign = registry, campaign
        self._layout = Layout(registry)
        self._tables = _tables(self._layout)
        self._wide = WiredDecoder(registry, _MOST)
        self._narrow = WiredDecoder(registry, _MOST, keep=())
        self._fence = Fence(1)
        self._lines = np.empty(0, np.uint8)
        prints = [
            (int.from_bytes(s.fingerprint, "little"), registry.by_fingerprint(s.fingerprint).id)
            for s, _ in self._layout.plans
        ]
        self._prints = np.array(sorted(set(prints)), np.uint64)
        self._clean = [data for data in golden if len(data) <= _MOST]
        self._together = Cases.of(0, self._clean)
        self._clean_digests = np.array([self._alone(data) for data in self._clean], np.uint64)

    def judge(self, cases: Cases) -> Tally:
        """Decode a batch twice, and some of it beside fastavro."""
        tally = Tally(cases=len(cases))
        n, how = len(cases), _DECODINGS[cases.nth % len(_DECODINGS)]
        clean = np.arange(n // _EVERY) % len(self._clean)
        order = np.insert(np.arange(n), np.arange(len(clean)) * _EVERY, n + clean)
        expect = self._expected(cases.nth, len(order)) if how == "expected" else None
        plain = np.full(n + len(self._clean), -1, np.int64)
        try:
            first = self._decode(cases, order, plain, tally, expect=expect)
            tally.seen.subtract(Verdict(v).name for v in first.batch.verdict[order >= n].tolist())  # no cases
            if not self._wrong(first, cases, order, tally):
                self._same_clean(first, order, cases, tally)
                self._again(first, cases, order, plain, expect, how, tally)
        except Exception as e:  # noqa: BLE001 - the one thing a batch must never do
            tally.findings.append(("", f"batch {cases.nth} raised {e!r}"))
        some = [cases[i] for i in range(cases.nth % _SAMPLE, n, _SAMPLE)]
        beside, _ = self._campaign.judge(some)
        tally.findings += [(finding.rpartition(" ")[2], finding) for finding in beside.findings]
        tally.seen["beside fastavro"] += len(some)
        return tally

    def _again(
        self, first: _Decoding, cases: Cases, order: I64, plain: I64, expect: I32 | None, how: str, tally: Tally
    ) -> None:
        """Decode the batch another way, and compare."""
        back = np.ascontiguousarray(np.arange(len(order))[::-1])
        numbers = self._kafka_ids(first.batch, cases, order, plain) if how == "kafka" else plain
        second = self._decode(
            cases, order[::-1].copy(), numbers, tally,
            expect=None if expect is None else np.ascontiguousarray(expect[::-1]), how=how,
        )  # fmt: skip
        if self._wrong(second, cases, order[::-1], tally):
            return
        one, other = first.batch, second.batch
        wrong, message = invariants.same(
            back, MQTT_HEADER - KAFKA_HEADER if how == "kafka" else 0, how != "narrow",
            one.verdict, one.at, one.bad_field, first.digests, one.schema,
            other.verdict, other.at, other.bad_field, second.digests, other.schema,
        )  # fmt: skip
        if wrong:
            self._found(wrong, cases, int(order[message]), tally)

    def _decode(
        self, cases: Cases, order: I64, numbers: I64, tally: Tally, *, expect: I32 | None = None, how: str = ""
    ) -> _Decoding:
        """Lay out messages against the fence, decode and check them."""
        decoder = self._narrow if how == "narrow" else self._wide
        sizes = np.concatenate((cases.spans[:, 1], self._together.spans[:, 1]))[order]
        gaps = bool(how)
        shorter = (MQTT_HEADER - KAFKA_HEADER) * int((numbers[order] >= 0).sum())
        size = int(sizes.sum()) + len(order) * gaps - shorter + decoder.spare
        if len(self._fence.bytes) < size:
            self._fence = Fence(2 * size)
        at, spans = len(self._fence.bytes) - size, np.empty((len(order), 2), np.int64)
        clean, room = self._together, self._fence.bytes
        end = invariants.lay(
            cases.heap, cases.spans, clean.heap, clean.spans, order, numbers, gaps, room, at, spans
        )  # fmt: skip
        self._fence.bytes[end:] = 0
        heap: Any = self._fence.heap()
        mqtt = how != "kafka"
        batch = decoder.decode_spans(heap, spans, expect) if mqtt else decoder.decode_kafka_spans(heap, spans)
        if not decoder.whole():
            tally.findings.append(("", f"batch {cases.nth}: a write beyond a table's store"))
        return self._checked(batch, spans, mqtt=mqtt, narrow=how == "narrow", counts=None if how else tally.seen)

    def _checked(
        self, batch: Batch, spans: I64, *, mqtt: bool = True, narrow: bool = False, counts: Counter[str] | None = None
    ) -> _Decoding:
        n = len(spans)
        digests = np.zeros(n, np.uint64)
        firsts = {"": _NONE}
        header = MQTT_HEADER if mqtt else KAFKA_HEADER
        for salt, known in enumerate(self._tables):
            table = batch.tables.get(known.name)
            if table is None or not len(table.data) or (narrow and known.parent):
                continue
            firsts[known.name] = np.empty(n, np.int32)
            parents = batch.tables[known.parent].msg if known.parent else _NONE
            wrong, message = invariants.rows(
                table.data, table.msg, table.parent, known.columns, _ODD_KEYS, salt + 1, known.schema, known.most,
                header, batch.verdict, batch.schema, batch.row, spans, parents, firsts[known.parent],
                firsts[known.name], digests,
            )  # fmt: skip
            wrong, message = (wrong, message) if wrong else self._not_utf8(table, known, batch.heap)
            if wrong:
                return _Decoding(batch, digests, wrong, message)
        verdicts = np.zeros(len(Verdict), np.int64)
        wrong, message = invariants.heads(
            spans, batch.verdict, batch.at, batch.bad_field, batch.schema, batch.row, digests,
            len(self._layout.field_names), len(self._layout.schemas), verdicts,
        )  # fmt: skip
        if counts is not None:
            counts.update({v.name: int(k) for v, k in zip(Verdict, verdicts.tolist(), strict=True) if k})
        return _Decoding(batch, digests, wrong, message)

    def _not_utf8(self, table: Table, known: _Known, heap: bytes) -> tuple[int, int]:
        """Read the texts of a table; return what is wrong and with which message, as ``invariants.rows``."""
        for column in np.flatnonzero(known.columns[:, invariants.C_KIND] == invariants.TEXT).tolist():
            spans = table.data[:, column : column + 2]
            need = int(spans[:, 1].sum()) + len(spans)
            if len(self._lines) < need:
                self._lines = np.empty(2 * need, np.uint8)
            invariants.texts(table.data, column, np.frombuffer(heap, np.uint8), self._lines, 0)
            try:
                str(self._lines[:need].data, "utf-8")
            except UnicodeDecodeError as e:
                row = int(np.searchsorted(np.cumsum(spans[:, 1] + 1), e.start, side="right"))
                return 14, int(table.msg[row])
        return 0, -1

    def _wrong(self, found: _Decoding, cases: Cases, order: I64, tally: Tally) -> bool:
        if found.wrong:
            self._found(found.wrong, cases, int(order[found.message]) if found.message >= 0 else -1, tally)
        return bool(found.wrong)

    def _same_clean(self, found: _Decoding, order: I64, cases: Cases, tally: Tally) -> None:
        """Hold the clean messages against what they are alone."""
        at = np.flatnonzero(order >= len(cases))
        bad = found.digests[at] != self._clean_digests[order[at] - len(cases)]
        bad &= found.batch.verdict[at] != Verdict.WRONG_SCHEMA
        for i in at[bad][:1].tolist():
            self._found(13, cases, int(order[i]), tally)

    def _found(self, wrong: int, cases: Cases, case: int, tally: Tally) -> None:
        """Add a finding, with the message that shows it alone if there is one."""
        text = f"batch {cases.nth}, case {case}: {invariants.WRONG[wrong]}"
        if case < 0:
            tally.findings.append(("", text))
            return
        data = cases[case] if case < len(cases) else self._clean[case - len(cases)]
        tally.findings.append((data.hex(), text))

    def _expected(self, nth: int, n: int) -> I32:
        rng = np.random.default_rng(nth)
        some = rng.random(n) < _EXPECTED
        expect = np.where(some, rng.integers(len(self._layout.schemas), size=n), -1)
        return expect.astype(np.int32)

    def _kafka_ids(self, batch: Batch, cases: Cases, order: I64, plain: I64) -> I64:
        """Return for each case the id of its schema, where it is known."""
        numbers = plain.copy()
        known = order[batch.schema >= 0]
        own = known[known < len(cases)]
        starts = cases.spans[own, 0]
        prints = cases.heap[starts[:, None] + np.arange(2, MQTT_HEADER)].view("<u8").reshape(-1)
        numbers[own] = self._prints[np.searchsorted(self._prints[:, 0], prints), 1]
        begin = np.array([int.from_bytes(data[2:MQTT_HEADER], "little") for data in self._clean], np.uint64)
        numbers[len(cases) :] = self._prints[np.searchsorted(self._prints[:, 0], begin), 1]
        return numbers

    def _alone(self, data: bytes) -> int:
        """Return the digest of a clean message."""
        spans = np.array([[0, len(data)]], np.int64)
        found = self._checked(self._wide.decode_spans(data, spans), spans)
        assert found.wrong == 0, invariants.WRONG[found.wrong]
        return int(found.digests[0])


def _tables(layout: Layout) -> list[_Known]:
    """Return the tables with the bounds of their columns over all versions, parents first."""
    bounds: dict[str, dict[int, tuple[int, int, int]]] = {t.name: {} for t in layout.tables}
    most: dict[str, int] = {}

    def widen(table: str, column: int, kind: int, low: int, high: int) -> None:
        _, below, above = bounds[table].get(column, (kind, low, high))
        bounds[table][column] = kind, min(low, below), max(high, above)

    def walk(plan: RecordPlan) -> None:
        name = plan.table.name
        for item in plan.fields:
            if item.items is not None:
                inner = item.items.table.name
                most[inner] = max(most.get(inner, 0), item.hi)
                walk(item.items)
            elif item.kind in _HEAPED:
                low, high = (item.size, item.size) if item.kind is Kind.FIXED else (item.lo, item.hi)
                kind = invariants.TEXT if item.kind is Kind.STRING else invariants.OFFSET
                widen(name, item.column, kind, 0, 0)
                widen(name, item.column + 1, invariants.LENGTH, low, high)
            else:
                low, high = {Kind.BOOLEAN: (0, 1), Kind.DOUBLE: (LONG_MIN, LONG_MAX)}.get(item.kind, (item.lo, item.hi))
                widen(name, item.column, invariants.VALUE, low, high)
        for column, value in plan.defaults:
            widen(name, column, bounds[name][column][0], value, value)

    for _, plan in layout.plans:
        walk(plan)
    return [
        _Known(
            t.name, t.name.rpartition(".")[0], layout.schemas.index(t.name.partition(".")[0]), most.get(t.name, 1),
            np.array([bounds[t.name][c] for c in range(len(t.fields))], np.int64),
        )
        for t in layout.tables if t.used
    ]  # fmt: skip
