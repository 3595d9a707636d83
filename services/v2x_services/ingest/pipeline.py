"""The pipeline: a batch of MQTT messages is judged as columns, written to Kafka, and acknowledged once it is durable.

One ``Pipeline`` serves one MQTT session; what is known of devices and topics is shared by both (``Shared``)::

    arrived ─► topic ─► decode ─► device, time ─► quarantine ─► route ─► sink ─► durable ─► ledger ─► PUBACK
                 └────────┴────────────┴──────────────┴──► dead letter, or counted ──┘

Nothing waits here: ``arrived`` and ``_done`` run to their end in the event loop. Back-pressure is the session's Receive
Maximum, and the bounds of sink and ledger (then reading pauses). Every message has a fate in the ledger, and is counted
when it leaves it: received = forwarded + dead letters + dropped + in flight, at any moment.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from v2x.columns import I64, Batch, Decoder, Table
from v2x.deadletters import Letter, Reason, record
from v2x.devices import DeviceTable
from v2x.ledger import AckLedger
from v2x.pseudonym import vehicle_key
from v2x.quarantine import Quarantine, Ruling
from v2x.routing import known_position
from v2x.timerules import TimeRules
from v2x.topics import DEADLETTER, GANTRY, HEADER_COPY, HEADER_RX, MessageClass
from v2x.zones import partition_of

from v2x_codecs.framing import MQTT_HEADER, to_kafka
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.ingest import kernels as k
from v2x_services.ingest.counts import DEAD, DROPPED, FORWARDED, SessionCounts
from v2x_services.ingest.judged import Judged, Taken, letter_of, refused_letter
from v2x_services.ingest.privacy import Keys
from v2x_services.ingest.routes import Routes
from v2x_services.ingest.summaries import Summaries
from v2x_services.ingest.ticks import Silence
from v2x_services.ingest.topics import Topic, TopicTable
from v2x_services.ports import (
    A_PACKET_ID,
    A_PAYLOAD,
    A_RETAINED,
    A_SIZE,
    ROW_COLUMNS,
    Arrivals,
    Clock,
    Headers,
    LogSink,
    MessageSource,
    RecordRefused,
    Rows,
)

log = logging.getLogger(__name__)

_ENVELOPE: Final = ("device.off", "device.len", "ts_ms", "boot", "seq")
_TS_MS: Final = _ENVELOPE.index("ts_ms")
# Latitude and longitude of a schema's own or reference position, where it is in the root table.
_POSITIONS: Final = {
    "bsm": ("lat", "lon"),
    "rsm": ("ref_lat", "ref_lon"),
    "rsi": ("ref_lat", "ref_lon"),
    "rsu_hb": ("lat", "lon"),
    "gantry_hb": ("lat", "lon"),
    "pole_env": ("lat", "lon"),
    "pile_status": ("lat", "lon"),
}
# A plain integer: numpy and numba ask an enum's class many questions each time they meet one.
_QUARANTINED: Final = int(Reason.QUARANTINED)
TABLES: Final = ("map.nodes",)
"""Tables that are read here beside the root ones."""
_RESUME_AT: Final = 0.5  # share of the bound below which reading goes on


@dataclass(slots=True)
class Shared:
    """What both sessions of a shard use."""

    registry: Registry
    decoder: Decoder
    codec: ReferenceCodec
    routes: Routes
    topics: TopicTable
    devices: DeviceTable
    times: TimeRules
    quarantine: Quarantine
    keys: Keys
    silence: Silence
    clock: Clock
    max_pending: int = 64 << 20  # bytes in a session's sink, above which it reads no more
    max_in_flight: int = 4096  # messages in a session's ledger, likewise
    personal: frozenset[bytes] = frozenset()  # fingerprints of schemas with fields that name a person
    versions: I64 = field(init=False)  # (2, 2^k): open hash from fingerprints to schema ids
    _renewals: int = 0
    _columns: dict[str, I64] = field(default_factory=dict)

    def __post_init__(self) -> None:
        r = self.registry
        names = [name for name in r.names if any(f.get("personal") for f in r.get(name).raw["fields"])]
        self.personal = frozenset(version.fingerprint for name in names for version in r.versions(name))
        known = [version for name in r.names for version in r.versions(name)]
        mask = (1 << (2 * len(known)).bit_length()) - 1
        self.versions = np.full((2, mask + 1), -1, np.int64)
        for version in known:
            key = int.from_bytes(version.fingerprint, "little", signed=True)
            slot = key & mask
            while self.versions[1, slot] >= 0:
                slot = (slot + 1) & mask
            self.versions[:, slot] = key, version.id

    def columns_of(self, table: Table) -> I64 | None:
        """Return where a root table has what ``kernels.envelope`` reads; None if it is no uplink's."""
        found = self._columns.get(table.name)
        if found is None:
            fields = table.fields
            if "device.off" not in fields:
                return None
            names = (*_ENVELOPE, *_POSITIONS.get(table.name, ("", "")))
            found = self._columns[table.name] = np.array(
                [fields.index(name) if name in fields else -1 for name in names], np.int64
            )
        return found

    def forget(self) -> None:
        """Clear per-device columns when the device table started anew."""
        if self.devices.renewals != self._renewals:
            self._renewals = self.devices.renewals
            self.times.clear()
            self.quarantine.clear()


class Pipeline:
    """The listener of one MQTT session."""

    def __init__(
        self,
        kind: MessageClass,
        shared: Shared,
        source: MessageSource,
        sink: LogSink,
        counts: SessionCounts,
        summaries: Summaries | None = None,
    ) -> None:
        self.kind = kind
        self.ledger = AckLedger()
        self.counts = counts
        self._session = int(kind)
        self._shared = shared
        self._source = source
        self._sink = sink
        self._summaries = summaries
        self._paused = False
        self._settled = False  # something was settled that the sink has not told of

    async def start(self) -> None:
        """Reach Kafka first, then take messages."""
        await self._sink.start(self._done)
        await self._source.start(self)

    def sum_up(self, *, final: bool = False) -> None:
        """Have a summary written of all that was taken until now, once it is durable; ``final``: it is the last."""
        if self._summaries is not None:
            self._summaries.cut(self.ledger.taken, final=final)
            self._summaries.released(self.ledger.released)

    # -- from the source

    def connected(self, epoch: int, *, session_present: bool) -> None:
        """Count a connection; without our session messages may be lost."""
        self.counts.connected(session_present=session_present)
        if not session_present:
            log.warning("MQTT session %s: the broker had no session of ours: loss is possible", self.counts.name)
        log.info("MQTT session %s: connected, epoch %d", self.counts.name, epoch)

    def disconnected(self, epoch: int, reason: str) -> None:
        """Note the end of an epoch: what is on its way to Kafka goes on, unacknowledged, and comes again."""
        self.counts.disconnected()
        log.info("MQTT session %s: epoch %d ended: %s", self.counts.name, epoch, reason)

    def arrived(self, batch: Arrivals) -> None:
        """Judge a batch and hand it on."""
        rows, shared = batch.rows, self._shared
        # What is good is the rule: other fates are decided where they show.
        first = self.ledger.take(batch.epoch, rows[:, A_PACKET_ID], batch.rx_us, FORWARDED)
        met = shared.topics.meet(batch, self._session)
        shared.forget()
        tokens = np.arange(first, first + len(rows), dtype=np.int64)
        self.counts.took(len(rows), met.size)
        if not met.others:
            self._judge(Taken(batch, rows, met.which, met.known, tokens))
        else:
            self._settled = True
            ours = shared.topics.facts[met.which, k.F_SESSION] == self._session
            aside = tokens[~ours]
            self.ledger.decide(aside, self.counts.elsewhere)
            self.ledger.settle(aside)
            if ours.any():
                known = np.ascontiguousarray(met.known[:, ours])
                self._judge(Taken(batch, rows[ours], met.which[ours], known, tokens[ours]))
        if self._settled:
            self._release()
        else:
            self.counts.in_flight(self.ledger.in_flight)
        self._back_pressure()

    # -- judging

    def _judge(self, taken: Taken) -> None:
        shared, rows, rx_us = self._shared, taken.rows, taken.batch.rx_us
        expect, numbers = taken.known[0], taken.known[1]
        spans = rows[:, A_PAYLOAD : A_SIZE + 1]
        judged, bad = self._columns(shared.decoder.decode_spans(taken.batch.heap, spans, expect), taken)
        mono_ms = shared.clock.monotonic_us() // 1000
        bad += shared.times.judge(
            rx_us // 1000, mono_ms, numbers, judged.ts_ms, self._session, rows[:, A_RETAINED], judged.reason
        )
        ruling = shared.quarantine.judge(mono_ms, numbers, rows[:, A_SIZE], judged.reason)
        headers = [(HEADER_RX, rx_us.to_bytes(8, "big"))]
        if bad or ruling is not None:
            self._set_aside(taken, judged, ruling, headers)
        else:
            self._forward(taken, judged, headers)

    def _set_aside(self, taken: Taken, judged: Judged, ruling: Ruling | None, headers: Headers) -> None:
        """Forward what is good, bury what is kept, and count the rest."""
        bad, n = judged.reason != 0, len(taken.rows)
        held, keep = (np.zeros(n, np.bool_), np.zeros(n, np.bool_)) if ruling is None else ruling
        away = bad | held
        reason = np.where(held & ~bad, _QUARANTINED, judged.reason)
        dead = bad & ~held | keep
        self.ledger.decide(taken.tokens, np.where(away, np.where(dead, DEAD, DROPPED) + reason, FORWARDED))
        only_counted = away & ~dead
        if only_counted.any():
            self._settled = True
            self.ledger.settle(taken.tokens[only_counted])
        judged.reason = np.where(away, reason, 0).astype(np.int32)
        self._forward(taken, judged, headers)
        for i in np.flatnonzero(dead).tolist():
            topic, rx_us = self._shared.topics[int(taken.which[i])], taken.batch.rx_us
            letter = letter_of(judged, i, Reason(int(reason[i])), topic, taken.payload(i), rx_us)
            self._bury(letter, topic, int(taken.tokens[i]), headers)

    def _columns(self, decoded: Batch, taken: Taken) -> tuple[Judged, int]:
        """Return what the messages say, and how many are bad."""
        n, shared, batch = len(taken.rows), self._shared, taken.batch
        reason, envelopes = np.empty(n, np.int32), np.empty((5, n), np.int64)
        bad = k.begin(decoded.verdict, taken.known, reason, envelopes)
        bodies = batch.data if decoded.heap is batch.heap else np.frombuffer(decoded.heap, np.uint8)
        for name in decoded.roots:
            table = decoded.tables[name]
            columns = shared.columns_of(table)
            if columns is None:  # known to us, but no uplink: only on a stray topic
                continue
            skipped, repeated, without, wrong = k.envelope(
                table.data, table.msg, columns, bodies, batch.data, taken.rows, taken.which, shared.topics.facts,
                envelopes, reason,
            )  # fmt: skip
            bad += wrong
            if name == "map":  # its position is that of its first node
                nodes = decoded.tables["map.nodes"]
                # Backwards, so that of several nodes the first one stays.
                envelopes[3, nodes.msg[::-1]] = nodes.col("ref_lat")[::-1]
                envelopes[4, nodes.msg[::-1]] = nodes.col("ref_lon")[::-1]
                away = (envelopes[3, table.msg] > k.LAT_MAX) | (envelopes[4, table.msg] > k.LON_MAX)
                without = int(np.count_nonzero(away))
            if skipped or repeated:
                self.counts.jumped(name, skipped, repeated)
            if without:
                self.counts.without_position(name, without)
            self.counts.skew(name, batch.rx_us, table.data[:, columns[_TS_MS]])
        return Judged(reason, decoded, shared.decoder, envelopes), bad

    # -- to the sink

    def _forward(self, taken: Taken, judged: Judged, headers: Headers) -> None:
        """Write what is good: most by the kernels, gantry records one by one, since they change on the way."""
        shared = self._shared
        topics, routes, n = shared.topics, shared.routes, len(taken.rows)
        if self._summaries is not None:
            self._summaries.note(taken.which, judged.reason, judged.envelopes)
        where = np.empty(n, np.int64)
        if k.route(taken.which, topics.facts, judged.reason, judged.envelopes, routes.cells, where):
            for i in np.flatnonzero(where == k.UNRESOLVED).tolist():
                line = int(taken.which[i])
                topic = topics[line]
                lat, lon = judged.envelopes[3:, i].tolist()
                where[i] = routes.place(topic.device, lat, lon, moves=topic.moves)
                if not topic.moves and known_position(lat, lon):
                    topics.facts[line, k.F_LAT : k.F_LAST + 1] = lat, lon, where[i]
        rows, copies = np.empty((n * (routes.sets.shape[1] - 1), ROW_COLUMNS), np.int64), np.empty(n, np.int64)
        m, placed = k.lay_out(  # some messages become several records
            taken.batch.data, taken.rows, taken.tokens, taken.which, topics.facts, where, routes.sets, shared.versions,
            shared.silence.last, shared.clock.monotonic_us(), rows, copies,
        )  # fmt: skip
        if m:
            kinds: tuple[Headers, ...] = (headers,)
            if m > placed:
                for i in np.flatnonzero(copies).tolist():
                    self.ledger.expect(int(taken.tokens[i]), int(copies[i]) + 1)
                self.counts.copied(m - placed)
                kinds = (headers, [*headers, (HEADER_COPY, b"1")])
            self._sink.append_rows(Rows(topics.lanes, taken.batch.heap, rows[:m], kinds))
        if placed < n:
            for i in np.flatnonzero((where < 0) & (judged.reason == 0)).tolist():
                self._forward_gantry(topics[int(taken.which[i])], taken.payload(i), int(taken.tokens[i]), headers)

    def _forward_gantry(self, topic: Topic, payload: bytes, token: int, headers: Headers) -> None:
        shared, place = self._shared, self._sink.partitions(GANTRY)
        name, clear = shared.codec.decode_mqtt(payload)
        if not topic.personal or name == "gantry_hb":
            key, value = topic.id, to_kafka(shared.registry, payload)
        else:
            covered = shared.keys.pseudonyms.cover(clear)
            key, value = vehicle_key(covered), shared.codec.encode(name, covered)
        self._sink.append(GANTRY, partition_of(key, place), key, value, headers, token)

    def _bury(self, letter: Letter, topic: Topic, token: int, headers: Headers) -> None:
        personal = topic.personal or letter.payload[2:MQTT_HEADER] in self._shared.personal
        seal = self._shared.keys.seal if personal else None
        value = self._shared.codec.encode("dead_letter", record(letter, seal))
        key = topic.id or letter.topic.encode()[:64]
        self._sink.append(DEADLETTER, partition_of(key, self._sink.partitions(DEADLETTER)), key, value, headers, token)

    # -- from the sink

    def _done(self, tokens: list[int] | I64, error: Exception | None) -> None:
        if error is not None:
            tokens = self._refused([int(token) for token in tokens], error)
        self.ledger.settle(tokens)
        self._release()
        self._back_pressure()

    def _refused(self, tokens: list[int], error: Exception) -> list[int]:
        """Turn records that Kafka will never take into dead letters; return the tokens that are settled by that."""
        if not isinstance(error, RecordRefused):
            raise error
        if not len(tokens):  # a tick or a summary: nobody waits for it
            log.error("refused by Kafka: %s", error)
            return []
        settled = []
        for token, refused in zip(tokens, error.records, strict=True):
            if refused.topic == DEADLETTER:
                log.error("a dead letter is refused by Kafka: %s", error)
                self.ledger.decide([token], DROPPED + Reason.RECORD_TOO_LARGE)
                settled.append(token)
                continue
            self.ledger.decide([token], DEAD + Reason.RECORD_TOO_LARGE)
            rx_us = int.from_bytes(dict(refused.headers).get(HEADER_RX, b""), "big")
            letter, topic, message = refused_letter(
                self._shared.registry, self._shared.topics, refused, str(error), rx_us
            )
            if self._summaries is not None and message is not None:
                self._summaries.refused(token, message)
            self._bury(letter, topic, token, [(HEADER_RX, rx_us.to_bytes(8, "big"))])
        return settled

    def _release(self) -> None:
        self._settled = False
        out = self.ledger.release()
        n = len(out.epoch)
        if n:
            acknowledged = 0
            epochs = out.epoch
            if epochs[0] == epochs[-1]:  # they never go back
                acknowledged = self._acknowledge(int(epochs[0]), out.packet_id, out.acks)
            else:
                for epoch in sorted(set(epochs.tolist())):
                    ids = out.packet_id[epochs == epoch]
                    acknowledged += self._acknowledge(epoch, ids, int(np.count_nonzero(ids)))
            self.counts.released(out, acknowledged, self._shared.clock.now_us())
            if self._summaries is not None:
                self._summaries.released(self.ledger.released)
        self.counts.in_flight(self.ledger.in_flight)

    def _acknowledge(self, epoch: int, packet_ids: I64, wanted: int) -> int:
        ids = packet_ids if wanted == len(packet_ids) else packet_ids[packet_ids > 0]
        return wanted if wanted and self._source.acknowledge(epoch, ids) else 0

    def _back_pressure(self) -> None:
        # Receive Maximum alone is no bound: Mosquitto 2.0.11 keeps to it only until it has a queue. Acknowledged in
        # order, each PUBACK then lets a whole Receive Maximum more out (measured: 100 asked for, 1,970 in flight).
        shared = self._shared
        load = max(self._sink.pending_bytes / shared.max_pending, self.ledger.in_flight / shared.max_in_flight)
        if not self._paused and load > 1:
            self._paused = True
            self._source.pause()
        elif self._paused and load < _RESUME_AT:
            self._paused = False
            self._source.resume()
