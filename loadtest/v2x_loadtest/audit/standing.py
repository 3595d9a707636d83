"""The standing audit: counts what never comes, as the log is written. `v2x audit --standing`.

::

    v2x.summaries ─► what ingest says that it wrote, each second ─► told ─► gaps, lost
    v2x.deadletter ─► numbers of what could not be taken in ────────┘
    one partition, in turn, in full ─► the same numbers? ───────────► untold, untrue

So it reads a small share of the log. A source of summaries that began anew without a final one was killed, and left a
second or so untold: then all partitions are read from there on (a *catch-up*) before anything of it is called lost.

It begins at the end of the log. With each sweep it saves what it knows and how far it has read; after a stop or a kill
it goes on from there, so what came meanwhile is counted as if it had been there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from v2x.columns import I64, Records
from v2x.errors import V2XError
from v2x.standing import AGAIN, FRESH, LOST, UNPLACED, Gap, Standing
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, SUMMARIES, UPLINKS, MessageClass, parse_uplink

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.envelopes import EnvelopeReader, Envelopes
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit import kept
from v2x_loadtest.audit.sources import Sources
from v2x_loadtest.audit.turns import Turns
from v2x_services import memory, topics
from v2x_services.http import HealthServer
from v2x_services.metrics import Metrics
from v2x_services.running import until
from v2x_services.settings import Settings
from v2x_services.tap import LogTap, Offsets

ALWAYS: Final = (SUMMARIES, DEADLETTER)
UPLINK_TOPICS: Final = (OBSERVATIONS, GANTRY, DEVICES)
_PACE_S: Final = 1.0  # few large fetches: small ones cost several times as much
_AGAIN_S: Final = 1.0
_PATIENCE: Final = 10  # sweeps of perishable types to one of reliable types, which devices send again for minutes
_SHOWN: Final = 5
_NEWEST: Final = 32  # losses that metrics name
_COUNTS: Final = {FRESH: "seen", AGAIN: "again", LOST: "lost", UNPLACED: "unplaced"}
log = structlog.get_logger("audit")


class StandingAudit:
    """One process audits all partitions."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.why_not_ready = "starting"
        self._settings, self._metrics = settings, metrics
        registry = Registry.load()
        self._letters = ReferenceCodec(registry, strict=False)
        self._decoder = ColumnDecoder(registry, keep={"summary.runs"})
        self._reader = EnvelopeReader(registry)
        self._types = {name: k for k, name in enumerate(self._reader.schemas)}
        self._kinds = np.full(256, -1, np.int64)  # of the numbers in the table of uplinks
        for row in UPLINKS:
            self._kinds[row.code] = self._types[row.schema]
        self.standing = Standing(len(self._types))
        self.turns = Turns(self._reader, self.standing)
        self.sources = Sources()
        reliable = {row.schema for row in UPLINKS if row.message_class is MessageClass.RELIABLE}
        self._perishable = np.array([name not in reliable for name in self._reader.schemas])
        self._file = settings.state_dir / "audit" / "standing.npz"
        self._known = False  # whether there is anything to save
        self._generations: dict[str, dict[int, str]] = {}
        self._losses: deque[Gap] = deque(maxlen=_NEWEST)
        self._tap = LogTap(
            settings.kafka_bootstrap,
            "v2x-audit-log",
            (*ALWAYS, *UPLINK_TOPICS),
            skipped=self._skipped,
            failed=lambda: metrics.inc("v2x_audit_faults_total"),
            pace_s=_PACE_S,
        )
        self._records = {t: metrics.value("v2x_audit_records_total", topic=t) for t in (*ALWAYS, *UPLINK_TOPICS)}
        self._taken = {by: metrics.value("v2x_audit_taken_total", by=by) for by in ("summary", "letter", "record")}
        self._other = metrics.value("v2x_audit_other_total")
        metrics.before_scrape(self._refresh)

    async def run(self, stop: asyncio.Event) -> None:
        """Audit until ``stop``; raises what cannot be gone on from."""
        try:
            await until(stop, self._work())
        finally:
            self.why_not_ready = "stopping"
            await self._tap.stop()
            if self._known:
                await self._save()

    def take(self, topic: str, records: Records) -> None:
        """Take records of one partition, in order."""
        self._records[topic].value += len(records)
        if topic == SUMMARIES:
            self._take_summaries(records)
        elif topic == DEADLETTER:
            for i in range(len(records)):
                self._take_letter(records[i].value)
        else:
            found = self._envelopes(records)
            self.turns.take(found, records.values)

    def take_untold(self, topic: str, records: Records) -> None:
        """Take records that no summary may have told of."""
        self._records[topic].value += len(records)
        found = self._envelopes(records)
        if len(found.index):
            columns = found.schema, found.device_at, found.device_size, found.boot, found.seq
            self.standing.take(records.values, *columns)
            self._taken["record"].value += len(found.index)

    def sweep(self, *, everything: bool) -> None:
        """Call lost what has not come in time: of perishable types, or of all."""
        before = int(self.standing.counts[:, LOST].sum())
        losses = self.standing.sweep(np.ones_like(self._perishable) if everything else self._perishable)
        lost = int(self.standing.counts[:, LOST].sum()) - before
        self._losses += losses
        if lost:
            log.error("messages are lost", lost=lost, first=[self._name(gap) for gap in losses[:_SHOWN]])

    def _envelopes(self, records: Records) -> Envelopes:
        found = self._reader.read(records.values, records.size)
        self._other.value += found.others + found.broken
        return found

    def _take_summaries(self, records: Records) -> None:
        batch = self._decoder.decode_heap(records.values, records.size)
        heads, runs = batch.tables["summary"], batch.tables["summary.runs"]
        self._other.value += len(records) - len(heads.data)
        for row, i in enumerate(heads.msg.tolist()):
            name = batch.text("summary", row, "source")
            start_ms, seq, ts_ms, final = (int(heads.col(n)[row]) for n in ("start_ms", "seq", "ts_ms", "final"))
            cut_ms = min(ts_ms, int(records.stamp_ms[i]))
            self.sources.take(name, start_ms, seq, cut_ms, time.monotonic(), final=bool(final))
        if len(runs.data):
            at, size, code, boot, first, last = (
                np.ascontiguousarray(runs.col(n)) for n in ("device.off", "device.len", "code", "boot", "first", "last")
            )
            kind = self._kinds[code]
            last = np.where(kind < 0, first - 1, last)  # a type that a newer ingest has: none of ours
            told = self.standing.take_runs(batch.heap, np.maximum(kind, 0), at, size, boot, first, last)
            self._taken["summary"].value += told

    def _take_letter(self, value: bytes) -> None:
        """Take a dead letter: its number has come, whatever was wrong with it."""
        try:
            _, letter = self._letters.decode_kafka(value)
            kind = self._types[parse_uplink(letter["topic"]).row.schema]
        except (V2XError, KeyError):
            self._other.value += 1
            return
        if letter["boot"] < 0 or letter["seq"] < 0:
            self._other.value += 1
            return
        device = letter["device"].encode()
        self.standing.take(device, *(_column(n) for n in (kind, 0, len(device), letter["boot"], letter["seq"])))
        self.turns.letter(device, kind, letter["boot"], letter["seq"])
        self._taken["letter"].value += 1

    async def _work(self) -> None:
        await self._start()
        sweep, sweeps = time.monotonic() + self._settings.audit_sweep_s, 0
        while True:
            for tp, records in (await self._tap.read()).items():
                self.take(tp.topic, records)
            now = time.monotonic()
            since_ms = self.sources.doubt(now)
            if since_ms is not None:
                await self._catch_up(since_ms)
            if now >= sweep and not self._behind(ALWAYS):
                sweep, sweeps = now + self._settings.audit_sweep_s, sweeps + 1
                self.sweep(everything=sweeps % _PATIENCE == 0)
                await self._save()
            if self.turns.due(now):
                await self._turn(now)

    async def _start(self) -> None:
        begin, end = await self._tap.start(self._say)
        self._generations = await topics.generations(self._settings.kafka_bootstrap, topics.GENESIS_TOPICS)
        of = self._tap.partitions
        # The records of one gantry are in several partitions, those of a pile in one; both topics are small.
        self.turns.units = [*([tp] for tp in of[OBSERVATIONS]), of[GANTRY], of[DEVICES]]
        self._tap.next = self._go_on(begin, end) or {tp: at for tp, at in end.items() if tp.topic in ALWAYS}
        self._known = True
        await self._turn(time.monotonic())
        memory.settle()
        self.why_not_ready = ""
        behind = sum(end[tp] - at for tp, at in self._tap.next.items() if tp.topic in ALWAYS)
        log.info("auditing", partitions=len(of[OBSERVATIONS]), streams=len(self.standing), behind=behind)

    def _go_on(self, begin: Offsets, end: Offsets) -> Offsets:
        """Take over what was saved, and return where to go on; nothing, if the log is another one or was cut."""
        found = kept.load(self._file)
        if found is None:
            return {}
        head = found.head
        at = {TopicPartition(topic, p): offset for topic, p, offset in head["offsets"]}
        ours = {tp for tp in end if tp.topic in ALWAYS}
        if (
            at.keys() != ours
            or any(not begin[tp] <= at[tp] <= end[tp] for tp in ours)
            or self._of_another_world(head["generations"])
            or head["types"] != list(self._types)
        ):
            log.warning("what was saved does not fit the log or this version: beginning at the end of the log")
            return {}
        self.standing.load(found.arrays)
        self.sources.load(head["sources"], time.monotonic())
        for by, value in head["taken"].items():
            self._taken[by].value = value
        return at

    def _of_another_world(self, was: Sequence[tuple[str, int, str]]) -> bool:
        now = {(topic, p): name for topic, of in self._generations.items() for p, name in of.items()}
        # Retention may have taken the record with the name, then or now.
        return any(
            len(name) > 1 and len(now.get((topic, p), "")) > 1 and now[topic, p] != name for topic, p, name in was
        )

    def _state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        head = {
            "generations": [[topic, p, name] for topic, of in self._generations.items() for p, name in of.items()],
            "types": list(self._types),
            "offsets": [[*tp, at] for tp, at in self._tap.next.items() if tp.topic in ALWAYS],
            "sources": self.sources.dump(),
            "taken": {by: counter.value for by, counter in self._taken.items()},
        }
        return head, self.standing.dump()

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(kept.save, self._file, *self._state())
        except OSError as e:  # a kill now would cost what came since the last one; auditing goes on
            self._metrics.inc("v2x_audit_faults_total")
            log.warning("the state cannot be saved", file=str(self._file), error=str(e))

    def _behind(self, names: Sequence[str]) -> bool:
        lag = self._tap.lag()
        return any(lag[name] for name in names)

    def _say(self, why_not_ready: str) -> None:
        self.why_not_ready = why_not_ready

    def _skipped(self, tp: TopicPartition, records: int) -> None:
        self._metrics.inc("v2x_audit_skipped_total", max(0, records), topic=tp.topic)

    async def _turn(self, now: float) -> None:
        """End the check of a partition, or look at it once more, and begin the next."""
        doubtful = self._behind((*ALWAYS, *UPLINK_TOPICS)) or self.sources.silent(now)
        found = self.turns.judge(now, doubtful=doubtful)
        if found is not None:
            for what, n in (("untold", found.untold), ("untrue", found.untrue)):
                self._metrics.inc(f"v2x_audit_{what}_total", n)
            if found.untold or found.untrue:
                named = [self._name(gap) for gap in found.named[:_SHOWN]]
                log.error("summaries and log differ", untold=found.untold, untrue=found.untrue, first=named)
        unit = self.turns.begin(now)
        if unit is None:
            return
        try:
            end = await self._tap.ends(unit)
        except KafkaError as e:
            self._metrics.inc("v2x_audit_faults_total")
            log.warning("no partition to check", error=repr(e))
            end = {}
        await self._tap.begin({tp: at for tp, at in self._tap.next.items() if tp.topic in ALWAYS} | end)

    async def _catch_up(self, since_ms: int) -> None:
        """Read all partitions from where a source may have left something untold, to the end of this moment."""
        tps, read = [tp for topic in UPLINK_TOPICS for tp in self._tap.partitions[topic]], 0
        try:
            async for tp, records in self._tap.stretch(tps, since_ms):
                self.take_untold(tp.topic, records)
                read += len(records)
        except (KafkaError, OSError) as e:
            self._metrics.inc("v2x_audit_faults_total")
            log.warning("the log could not be read, trying again", error=repr(e))
            await asyncio.sleep(_AGAIN_S)
            return
        self.sources.settled()
        self._metrics.inc("v2x_audit_catch_ups_total")
        log.info("a source left something untold: read the log instead", since_ms=since_ms, records=read)

    def _name(self, gap: Gap) -> str:
        numbers = str(gap.first) if gap.first == gap.last else f"{gap.first}-{gap.last}"
        return f"{gap.device} {self._reader.schemas[gap.type]} {numbers} (boot {gap.boot})"

    def _refresh(self) -> None:
        m, standing = self._metrics, self.standing
        for name, k in self._types.items():
            for which, what in _COUNTS.items():
                m.set(f"v2x_audit_{what}_total", float(standing.counts[k, which]), type=name)
        m.set("v2x_audit_missing", standing.missing())
        m.set("v2x_audit_streams", len(standing))
        m.set("v2x_audit_forgotten_total", standing.forgotten)
        m.set("v2x_audit_checked_total", self.turns.checked)
        m.set("v2x_audit_checks_total", self.turns.checks)
        m.clear("v2x_audit_gap")
        for state, gaps in (("lost", self._losses), ("missing", standing.gaps()[:_NEWEST])):
            for gap in gaps:
                m.set(
                    "v2x_audit_gap", gap.last - gap.first + 1, state=state, device=gap.device, boot=str(gap.boot),
                    type=self._reader.schemas[gap.type], first=str(gap.first), last=str(gap.last),
                )  # fmt: skip
        for topic, n in self._tap.lag().items():
            m.set("v2x_audit_lag_records", n, topic=topic)


def _column(value: int) -> I64:
    return np.array([value], np.int64)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Audit until ``stop`` is set, with /metrics and health."""
    metrics = Metrics("audit")
    audit = StandingAudit(settings, metrics)
    port = settings.metrics_port("audit")
    async with HealthServer(metrics, lambda: audit.why_not_ready, settings.host, port) as server:
        server.tell(settings.state_dir)
        await audit.run(stop)
