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
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Final

import numpy as np
import numpy.typing as npt
from v2x.columns import I64, Batch, Decoder
from v2x.deadletters import Letter, Reason, record
from v2x.devices import DeviceTable
from v2x.ledger import AckLedger
from v2x.pseudonym import vehicle_key
from v2x.quarantine import Quarantine
from v2x.routing import Partitions, Router
from v2x.timerules import TimeRules, TimeVerdict
from v2x.topics import DEADLETTER, GANTRY, HEADER_COPY, HEADER_RX, OBSERVATIONS, MessageClass
from v2x.zones import partition_of

from v2x_codecs.framing import MQTT_HEADER, kafka_header
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.ingest.counts import DEAD, DROPPED, FORWARDED, SessionCounts
from v2x_services.ingest.judged import Judged, letter_of
from v2x_services.ingest.privacy import Keys
from v2x_services.ingest.ticks import Silence
from v2x_services.ingest.topics import Place, Topic, TopicTable
from v2x_services.ports import Arrivals, Clock, Headers, LogSink, MessageSource, RecordRefused

log = logging.getLogger(__name__)

_TIME_REASONS: Final = np.zeros(len(TimeVerdict), np.int32)
_TIME_REASONS[TimeVerdict.AHEAD] = Reason.AHEAD
_TIME_REASONS[TimeVerdict.TOO_OLD] = Reason.TOO_OLD
# Columns of a schema's own or reference position: table, latitude, longitude.
_POSITIONS: Final = {
    "bsm": ("bsm", "lat", "lon"),
    "rsm": ("rsm", "ref_lat", "ref_lon"),
    "rsi": ("rsi", "ref_lat", "ref_lon"),
    "map": ("map.nodes", "ref_lat", "ref_lon"),
    "rsu_hb": ("rsu_hb", "lat", "lon"),
    "gantry_hb": ("gantry_hb", "lat", "lon"),
    "pole_env": ("pole_env", "lat", "lon"),
    "pile_status": ("pile_status", "lat", "lon"),
}
# As plain integers: numpy asks an enum's class many questions each time it meets one.
_UNKNOWN_TOPIC: Final = int(Reason.UNKNOWN_TOPIC)
_WRONG_DEVICE: Final = int(Reason.WRONG_DEVICE)
_QUARANTINED: Final = int(Reason.QUARANTINED)
_LAT_NONE: Final = 900_000_001
_LON_NONE: Final = 1_800_000_001
_RESUME_AT: Final = 0.5  # share of the bound below which reading goes on


@dataclass(slots=True)
class Shared:
    """What both sessions of a shard use."""

    registry: Registry
    decoder: Decoder
    codec: ReferenceCodec
    router: Router
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
    _renewals: int = 0
    _headers: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        r = self.registry
        names = [name for name in r.names if any(f.get("personal") for f in r.get(name).raw["fields"])]
        self.personal = frozenset(version.fingerprint for name in names for version in r.versions(name))

    def header_of(self, payload: bytes) -> bytes:
        """Return the Kafka header for an accepted MQTT payload."""
        fingerprint = int.from_bytes(payload[2:MQTT_HEADER], "little")
        found = self._headers.get(fingerprint)
        if found is None:
            found = self._headers[fingerprint] = kafka_header(self.registry.by_fingerprint(payload[2:MQTT_HEADER]))
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
        self, kind: MessageClass, shared: Shared, source: MessageSource, sink: LogSink, counts: SessionCounts
    ) -> None:
        self.kind = kind
        self.ledger = AckLedger()
        self.counts = counts
        self._shared = shared
        self._source = source
        self._sink = sink
        self._paused = False

    async def start(self) -> None:
        """Reach Kafka first, then take messages."""
        await self._sink.start(self._done)
        await self._source.start(self)

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
        first = self.ledger.take(batch.epoch, batch.packet_ids, batch.rx_us)
        self.counts.took(len(batch.topics), sum(map(len, batch.payloads)))
        find = self._shared.topics.get
        topics = [find(name) for name in batch.topics]
        tokens = np.arange(first, first + len(topics), dtype=np.int64)
        kind = self.kind
        ours = np.array([topic.session == kind for topic in topics], np.bool_)
        if ours.all():
            self._judge(batch, topics, batch.payloads, tokens, np.array(batch.retained, np.bool_))
        else:
            aside = tokens[~ours]
            self.ledger.decide(aside, self.counts.elsewhere)
            self.ledger.settle(aside)
            if ours.any():
                kept = np.array(batch.retained, np.bool_)[ours]
                some = list(compress(topics, ours))
                self._judge(batch, some, list(compress(batch.payloads, ours)), tokens[ours], kept)
        self._release()
        self._back_pressure()

    # -- judging

    def _judge(
        self,
        batch: Arrivals,
        topics: list[Topic],
        payloads: list[bytes],
        tokens: I64,
        retained: npt.NDArray[np.bool_],
    ) -> None:
        shared, n = self._shared, len(topics)
        expect = np.array([topic.schema for topic in topics], np.int32)
        numbers = np.array([topic.number for topic in topics], np.int32)
        shared.forget()
        decoded = shared.decoder.decode_mqtt(payloads, expect)
        judged = self._columns(decoded, topics, batch.rx_us)
        judged.reason[expect < 0] = _UNKNOWN_TOPIC
        mono_ms = shared.clock.monotonic_us() // 1000
        good = judged.reason == 0
        if good.any():
            kinds = np.full(int(np.count_nonzero(good)), self.kind, np.int32)
            verdict = shared.times.judge(
                batch.rx_us // 1000, mono_ms, numbers[good], judged.ts_ms[good], kinds, retained[good]
            )
            judged.reason[good] = _TIME_REASONS[verdict]
        sizes = np.array([len(payload) for payload in payloads], np.int64)
        ruling = shared.quarantine.judge(mono_ms, numbers, sizes, judged.reason != 0)
        headers = [(HEADER_RX, batch.rx_us.to_bytes(8, "big"))]
        good = judged.reason == 0
        forward = ~ruling.held & good
        if forward.all():
            self.ledger.decide(tokens, FORWARDED)
            self._forward(list(range(n)), topics, payloads, tokens, judged, headers)
            return
        reason = np.where(ruling.held & good, _QUARANTINED, judged.reason)
        dead = ~good & ~ruling.held | ruling.keep
        self.ledger.decide(tokens, np.where(forward, FORWARDED, np.where(dead, DEAD, DROPPED) + reason))
        only_counted = ~forward & ~dead
        if only_counted.any():
            self.ledger.settle(tokens[only_counted])
        self._forward(np.flatnonzero(forward).tolist(), topics, payloads, tokens, judged, headers)
        for i in np.flatnonzero(dead).tolist():
            letter = letter_of(judged, i, Reason(int(reason[i])), topics[i], payloads[i], batch.rx_us)
            self._bury(letter, topics[i], int(tokens[i]), headers)

    def _columns(self, decoded: Batch, topics: Sequence[Topic], rx_us: int) -> Judged:
        n = len(topics)
        judged = Judged(
            reason=decoded.verdict.astype(np.int32),
            decoded=decoded,
            names=self._shared.decoder,
            ts_ms=np.full(n, -1, np.int64),
            boot=np.full(n, -1, np.int64),
            seq=np.full(n, -1, np.int64),
            lat=np.full(n, _LAT_NONE, np.int64),
            lon=np.full(n, _LON_NONE, np.int64),
        )
        for index in sorted(set(decoded.schema[decoded.row >= 0].tolist())):
            name = self._shared.decoder.schemas[index]
            table = decoded.tables[name]
            rows = table.msg
            if "device.off" not in table.fields:  # known to us, but no uplink: only on a stray topic
                continue
            judged.ts_ms[rows] = table.col("ts_ms")
            judged.boot[rows] = table.col("boot")
            judged.seq[rows] = table.col("seq")
            heap = decoded.heap
            columns = (table.col(c).tolist() for c in ("device.off", "device.len", "boot", "seq"))
            for i, off, size, boot, seq in zip(rows.tolist(), *columns, strict=True):
                topic = topics[i]
                if heap[off : off + size] != topic.id:
                    judged.reason[i] = _WRONG_DEVICE
                elif topic.row is not None and topic.follow(boot, seq):
                    self.counts.jumped(topic)
            if name in _POSITIONS:
                place, lat, lon = _POSITIONS[name]
                where = decoded.tables[place]
                # Backwards, so that of several nodes of a map the first one stays.
                judged.lat[where.msg[::-1]] = where.col(lat)[::-1]
                judged.lon[where.msg[::-1]] = where.col(lon)[::-1]
                away = (judged.lat[rows] >= _LAT_NONE) | (judged.lon[rows] >= _LON_NONE)
                if away.any():
                    self.counts.without_position(name, int(np.count_nonzero(away)))
            self.counts.skew(name, rx_us / 1e6 - table.col("ts_ms") / 1e3)
        return judged

    # -- to the sink

    def _forward(
        self,
        which: list[int],
        topics: Sequence[Topic],
        payloads: Sequence[bytes],
        tokens: I64,
        judged: Judged,
        headers: Headers,
    ) -> None:
        shared, append = self._shared, self._sink.append
        copy_headers: Headers | None = None
        for i in which:
            topic = topics[i]
            row = topic.row
            assert row is not None
            token = int(tokens[i])
            payload = payloads[i]
            if row.kafka == GANTRY and topic.personal and row.schema != "gantry_hb":
                name, clear = shared.codec.decode_mqtt(payload)
                covered = shared.keys.pseudonyms.cover(clear)
                key = vehicle_key(covered)
                place = partition_of(key, self._sink.partitions(GANTRY))
                append(GANTRY, place, key, shared.codec.encode(name, covered), headers, token)
                continue
            value = shared.header_of(payload) + payload[MQTT_HEADER:]
            partitions = topic.partitions or self._place(topic, judged, i)
            append(row.kafka, partitions[0], topic.id, value, headers, token)
            if row.kafka == OBSERVATIONS:
                shared.silence.broken(partitions[0])
                if len(partitions) > 1:
                    if copy_headers is None:
                        copy_headers = [*headers, (HEADER_COPY, b"1")]
                    self.ledger.expect(token, len(partitions))
                    for partition in partitions[1:]:
                        append(row.kafka, partition, topic.id, value, copy_headers, token)
                        shared.silence.broken(partition)
                    self.counts.copied(len(partitions) - 1)

    def _place(self, topic: Topic, judged: Judged, i: int) -> Partitions:
        assert topic.row is not None
        moves = topic.row.kind == "obu"
        return self._shared.router.place(topic.device, int(judged.lat[i]), int(judged.lon[i]), moves=moves)

    def _bury(self, letter: Letter, topic: Topic, token: int, headers: Headers) -> None:
        personal = topic.personal or letter.payload[2:MQTT_HEADER] in self._shared.personal
        seal = self._shared.keys.seal if personal else None
        value = self._shared.codec.encode("dead_letter", record(letter, seal))
        key = topic.id or letter.topic.encode()[:64]
        self._sink.append(DEADLETTER, partition_of(key, self._sink.partitions(DEADLETTER)), key, value, headers, token)

    # -- from the sink

    def _done(self, tokens: list[int], error: Exception | None) -> None:
        if error is not None:
            tokens = self._refused(tokens, error)
        self.ledger.settle(tokens)
        self._release()
        self._back_pressure()

    def _refused(self, tokens: list[int], error: Exception) -> list[int]:
        """Turn records that Kafka will never take into dead letters; return the tokens that are settled by that."""
        if not isinstance(error, RecordRefused):
            raise error
        settled = []
        for token, refused in zip(tokens, error.records, strict=True):
            if refused.topic == DEADLETTER:
                log.error("a dead letter is refused by Kafka: %s", error)
                self.ledger.decide([token], DROPPED + Reason.RECORD_TOO_LARGE)
                settled.append(token)
                continue
            self.ledger.decide([token], DEAD + Reason.RECORD_TOO_LARGE)
            rx_us = int.from_bytes(dict(refused.headers).get(HEADER_RX, b""), "big")
            device = (refused.key or b"").decode("utf-8", "replace") if refused.topic != GANTRY else ""
            letter = Letter(Reason.RECORD_TOO_LARGE, str(error), refused.topic, refused.value, rx_us, device)
            nowhere = Topic(refused.topic, Place.STRAY, device, device.encode(), 0, -1, None, -1)
            self._bury(letter, nowhere, token, [(HEADER_RX, rx_us.to_bytes(8, "big"))])
        return settled

    def _release(self) -> None:
        out = self.ledger.release()
        if not len(out.epoch):
            self.counts.in_flight(self.ledger.in_flight)
            return
        acknowledged = 0
        wanted = out.packet_id > 0
        for epoch in sorted(set(out.epoch[wanted].tolist())):
            ids = out.packet_id[wanted & (out.epoch == epoch)]
            if self._source.acknowledge(epoch, ids.tolist()):
                acknowledged += len(ids)
        self.counts.released(out, acknowledged, self._shared.clock.now_us())
        self.counts.in_flight(self.ledger.in_flight)

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
