"""The pipeline on fakes: the moments that real brokers show only by luck."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from tests.integration.ingest_world import CODEC, REGISTRY, ZONES, record
from v2x.columns import Decoder
from v2x.devices import DeviceTable
from v2x.quarantine import Quarantine
from v2x.routing import Router
from v2x.timerules import TimeRules
from v2x.topics import DEADLETTER, DEVICES, GANTRY, OBSERVATIONS, SUMMARIES, MessageClass, uplink_topic
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceDecoder
from v2x_services.catalogue import LAWS
from v2x_services.ingest.counts import SessionCounts
from v2x_services.ingest.pipeline import TABLES, Pipeline, Shared
from v2x_services.ingest.privacy import Keys
from v2x_services.ingest.routes import Routes
from v2x_services.ingest.summaries import Summaries
from v2x_services.ingest.ticks import Silence, Ticker
from v2x_services.ingest.topics import TopicTable
from v2x_services.metrics import Metrics
from v2x_services.testing import FakeClock, FakeSink, FakeSource

PARTITIONS = 16  # enough for the two zones to be in different ones


@dataclass
class Bench:
    pipeline: Pipeline
    source: FakeSource
    sink: FakeSink
    metrics: Metrics
    clock: FakeClock
    shared: Shared

    def rsm(self, device: str, seq: int, **fields: int) -> tuple[str, bytes]:
        made = record("rsm", device, seq, **{"ts_ms": self.clock.us // 1000, **fields})
        return uplink_topic("rsu", device, "rsm"), CODEC.encode_mqtt("rsm", made)

    def deliver(self, *messages: tuple[str, bytes]) -> list[int]:
        return self.source.deliver(messages, rx_us=self.clock.us)

    def count(self, name: str) -> int:
        return int(self.metrics.total(name))

    def balanced(self) -> bool:
        return self.metrics.imbalance(LAWS[0]) == 0


@pytest.fixture(params=[partial(ColumnDecoder, keep=TABLES), ReferenceDecoder], ids=["columns", "reference"])
async def bench(request: pytest.FixtureRequest) -> Bench:
    decoder: Decoder = request.param(REGISTRY, 20_000)
    partitions = dict.fromkeys((OBSERVATIONS, GANTRY, DEVICES, DEADLETTER), PARTITIONS)
    clock, devices, metrics = FakeClock(), DeviceTable(64), Metrics("ingest")
    routes = Routes(Router(ZoneMap.parse(ZONES), PARTITIONS))
    shared = Shared(
        registry=REGISTRY,
        decoder=decoder,
        codec=CODEC,
        routes=routes,
        topics=TopicTable(devices, routes, decoder.schemas, partitions),
        devices=devices,
        times=TimeRules(devices.capacity),
        quarantine=Quarantine(devices.capacity),
        keys=Keys(bytes(32)),
        silence=Silence(PARTITIONS, clock),
        clock=clock,
        max_pending=100_000,
        max_in_flight=100,
    )
    source, sink = FakeSource(), FakeSink(partitions)
    pipeline = Pipeline(MessageClass.PERISHABLE, shared, source, sink, SessionCounts(metrics, "perishable"))
    await pipeline.start()
    return Bench(pipeline, source, sink, metrics, clock, shared)


async def test_nothing_is_acknowledged_before_it_is_durable(bench: Bench) -> None:
    bench.sink.hold()
    ids = bench.deliver(bench.rsm("RSU-1", 1), ("v2x/v1/rsu/RSU-1/rsm/up", b"junk"), bench.rsm("RSU-1", 2))
    await asyncio.sleep(0)
    assert bench.source.acknowledged == []
    assert bench.balanced()
    bench.sink.release()
    await bench.sink.drain()
    assert bench.source.acknowledged == [(1, i) for i in ids]
    assert bench.balanced()
    assert (bench.count("v2x_ingest_forwarded_total"), bench.count("v2x_ingest_dead_letters_total")) == (2, 1)


async def test_what_comes_durable_after_a_reconnect_is_not_acknowledged_but_comes_again(bench: Bench) -> None:
    bench.sink.hold()
    ids = bench.deliver(bench.rsm("RSU-1", 1), bench.rsm("RSU-1", 2))
    bench.source.reconnect(rx_us=bench.clock.us)
    bench.sink.release()
    await bench.sink.drain()
    assert bench.source.acknowledged == [(2, i) for i in ids]
    assert len(bench.sink.records(OBSERVATIONS)) == 4  # twice in the log: the reader's rule covers it
    assert bench.count("v2x_ingest_repeats_total") == 2
    assert bench.balanced()


async def test_a_copy_that_is_late_holds_the_acknowledgement(bench: Bench) -> None:
    (one,) = bench.deliver(bench.rsm("RSU-EDGE", 1))
    await bench.sink.drain()
    assert bench.source.acknowledged == [(1, one)]
    rows = bench.sink.records(OBSERVATIONS)
    assert sorted("copy" in dict(r.headers) for r in rows) == [False, True]
    assert len({key for key, written in bench.sink.log.items() if written}) == 2
    assert bench.count("v2x_ingest_copies_total") == 1


async def test_a_gantry_record_beside_one_that_is_copied_is_not_forgotten(bench: Bench) -> None:
    """Two records of one message must not make up for a message that the kernels leave to others."""
    source, sink = FakeSource(), FakeSink(dict.fromkeys((OBSERVATIONS, GANTRY, DEVICES, DEADLETTER), PARTITIONS))
    counts = SessionCounts(bench.metrics, "reliable")
    await Pipeline(MessageClass.RELIABLE, bench.shared, source, sink, counts).start()
    now = bench.clock.us // 1000
    ids = source.deliver(
        [
            (uplink_topic("rsu", "RSU-EDGE", "rsi"), CODEC.encode_mqtt("rsi", record("rsi", "RSU-EDGE", 1, ts_ms=now))),
            (
                uplink_topic("gantry", "G-1", "transaction"),
                CODEC.encode_mqtt("gantry_transaction", record("gantry_transaction", "G-1", 1, ts_ms=now)),
            ),
        ],
        rx_us=bench.clock.us,
    )
    await sink.drain()
    assert (len(sink.records(OBSERVATIONS)), len(sink.records(GANTRY))) == (2, 1)
    assert source.acknowledged == [(1, i) for i in ids]
    assert bench.balanced()


async def test_a_record_that_kafka_refuses_becomes_a_dead_letter(bench: Bench) -> None:
    topic, _ = bench.rsm("RSU-1", 1)
    big = record("rsm", "RSU-1", 2, ts_ms=bench.clock.us // 1000)
    big["participants"] = big["participants"][:1] * 250
    bench.sink.max_record = 4_000
    ids = bench.deliver((topic, CODEC.encode_mqtt("rsm", big)), bench.rsm("RSU-1", 3))
    await bench.sink.drain()
    # Its bytes are over the limit as well here, so the letter is refused in turn: counted, never stuck.
    assert bench.source.acknowledged == [(1, i) for i in ids]
    assert bench.count("v2x_ingest_forwarded_total") == 1
    assert bench.balanced()
    bench.sink.max_record = 1 << 20
    bench.sink.refused_topics = {OBSERVATIONS}
    ids += bench.deliver((topic, CODEC.encode_mqtt("rsm", big)))
    await bench.sink.drain()
    (letter,) = bench.sink.records(DEADLETTER)
    _, found = CODEC.decode_kafka(letter.value)
    assert (found["reason"], found["device"], found["topic"]) == ("record_too_large", "RSU-1", topic)
    # Its number is named, so that its sender can be told; and it can be published again as it is.
    assert (found["type"], found["boot"], found["seq"]) == ("rsm", big["boot"], 2)
    assert (found["payload"], found["fingerprint"]) == (
        CODEC.encode_mqtt("rsm", big),
        REGISTRY.get("rsm").fingerprint.hex(),
    )
    assert found["rx_us"] == bench.clock.us
    assert bench.source.acknowledged == [(1, i) for i in ids]
    assert bench.balanced()


async def test_reading_pauses_while_too_much_is_in_flight(bench: Bench) -> None:
    bench.sink.hold()
    bench.deliver(*[bench.rsm("RSU-1", seq) for seq in range(101)])
    assert bench.source.paused
    bench.sink.release()
    await bench.sink.drain()
    assert not bench.source.paused


async def test_what_belongs_to_others_is_set_aside(bench: Bench) -> None:
    made = record("rsi", "RSU-1", 1)
    ids = bench.deliver(
        (uplink_topic("rsu", "RSU-1", "rsi"), CODEC.encode_mqtt("rsi", made)), ("v2x/v1/rsu/RSU-1/confirm/down", b"")
    )
    assert bench.source.acknowledged == [(1, i) for i in ids]
    assert bench.sink.pending_records == 0
    assert bench.count("v2x_ingest_dropped_total") == 2
    assert bench.balanced()


async def test_gaps_and_repeats_of_sequence_numbers(bench: Bench) -> None:
    bench.deliver(*[bench.rsm("RSU-1", seq) for seq in (5, 6, 9, 9, 8, 10)])
    assert (bench.count("v2x_ingest_gaps_total"), bench.count("v2x_ingest_repeats_total")) == (2, 2)
    bench.deliver(bench.rsm("RSU-1", 0, boot=1_800_000_000_000))
    assert (bench.count("v2x_ingest_gaps_total"), bench.count("v2x_ingest_repeats_total")) == (2, 2)
    await bench.sink.drain()


async def test_more_devices_than_the_table_holds_are_no_harm(bench: Bench) -> None:
    for i in range(300):
        bench.deliver(bench.rsm(f"NEW-{i}", 1), (f"v2x/v1/rsu/NEW-{i}/nonsense/up", b"x"))
    await bench.sink.drain()
    assert bench.count("v2x_ingest_forwarded_total") == 300
    assert bench.count("v2x_ingest_dead_letters_total") == 300
    assert len(bench.shared.devices) <= 64
    assert bench.balanced()


async def test_a_vehicle_goes_where_its_position_is_and_a_box_nobody_knows_where_it_stands(bench: Bench) -> None:
    """Against the router, message by message; places and devices come back, so that what is remembered is used too."""
    router = Router(ZoneMap.parse(ZONES), PARTITIONS)
    rng = np.random.default_rng(7)
    wanted: dict[tuple[str, int], tuple[int, ...]] = {}
    for seq in range(40):
        messages = []
        for i in range(12):
            lat, lon = (int(x) for x in rng.integers((310_000_000, 1_200_900_000), (311_000_000, 1_201_100_000)))
            if seq % 5 == 4:
                lat, lon = 900_000_001, 1_800_000_001  # unavailable
            kind, device = ("bsm", f"OBU-{i}") if i < 8 else ("rsm", f"BOX-{i}")
            names = ("lat", "lon") if kind == "bsm" else ("ref_lat", "ref_lon")
            made = record(kind, device, seq, ts_ms=bench.clock.us // 1000, **dict(zip(names, (lat, lon), strict=True)))
            messages.append((uplink_topic("obu" if i < 8 else "rsu", device, kind), CODEC.encode_mqtt(kind, made)))
            wanted[device, seq] = router.place(device, lat, lon, moves=i < 8)
        bench.deliver(*messages)
    await bench.sink.drain()
    assert bench.count("v2x_ingest_forwarded_total") == len(wanted)
    found: dict[tuple[str, int], list[int]] = {}
    for (topic, partition), rows in bench.sink.log.items():
        assert topic == OBSERVATIONS
        for row in rows:
            _, made = CODEC.decode_kafka(row.value)
            assert row.key == made["device"].encode()
            first = "copy" not in dict(row.headers)
            found.setdefault((made["device"], made["seq"]), []).insert(0 if first else 9, partition)
    assert {k: (v[0], set(v[1:])) for k, v in found.items()} == {k: (v[0], set(v[1:])) for k, v in wanted.items()}
    assert len({v[0] for v in wanted.values()}) > 1
    assert bench.balanced()


async def test_ticks_go_to_silent_partitions_only(bench: Bench) -> None:
    ticker = Ticker("me", bench.sink, bench.shared.silence, CODEC, bench.clock, 20)
    bench.clock.advance(1)
    assert ticker.tick() == PARTITIONS
    assert ticker.tick() == 0
    bench.clock.advance(0.015)
    bench.deliver(bench.rsm("RSU-1", 1))
    bench.clock.advance(0.010)
    assert ticker.tick() == PARTITIONS - 1
    await bench.sink.drain()
    assert bench.balanced()
    bench.sink.hold()
    bench.clock.advance(1)
    bench.sink.append(OBSERVATIONS, 0, None, b"x" * (2 << 20), (), -1)
    assert ticker.tick() == 0  # Kafka is behind: ticks must not pile up


def _summed_up(bench: Bench, kind: MessageClass) -> tuple[Pipeline, FakeSource, FakeSink]:
    """Return a pipeline of its own that writes summaries."""
    source, sink = FakeSource(), FakeSink(dict.fromkeys((*bench.sink.topics, SUMMARIES), PARTITIONS))
    summaries = Summaries("me", bench.shared.topics, sink, CODEC, bench.clock)
    counts = SessionCounts(bench.metrics, kind.name.lower())
    return Pipeline(kind, bench.shared, source, sink, counts, summaries), source, sink


def _told(sink: FakeSink) -> list[tuple[int, bool, set[tuple[str, int, int, int]]]]:
    found = [CODEC.decode_kafka(row.value)[1] for row in sink.records(SUMMARIES)]
    return [(s["seq"], s["final"], {(r["device"], r["code"], r["first"], r["last"]) for r in s["runs"]}) for s in found]


async def test_a_summary_tells_what_is_durable_and_nothing_else(bench: Bench) -> None:
    pipeline, source, sink = _summed_up(bench, MessageClass.PERISHABLE)
    await pipeline.start()
    sink.hold()
    far = bench.clock.us // 1000 + 60_000
    source.deliver(
        [bench.rsm("RSU-1", seq) for seq in (5, 6, 7, 6, 9)]
        + [bench.rsm("RSU-1", 10, ts_ms=far), bench.rsm("RSU-EDGE", 0)],
        rx_us=bench.clock.us,
    )
    pipeline.sum_up()
    pipeline.sum_up()  # nothing came meanwhile: no other one
    source.deliver([bench.rsm("RSU-1", 10)], rx_us=bench.clock.us)
    await asyncio.sleep(0)
    assert _told(sink) == []  # Kafka has not said that it has them
    sink.release()
    await sink.drain()
    first = {("RSU-1", 1, 5, 7), ("RSU-1", 1, 9, 9), ("RSU-EDGE", 1, 0, 0)}
    assert _told(sink) == [(0, False, first)]
    pipeline.sum_up()
    pipeline.sum_up()  # it lives
    pipeline.sum_up(final=True)
    await sink.drain()
    assert _told(sink)[1:] == [(1, False, {("RSU-1", 1, 10, 10)}), (2, False, set()), (3, True, set())]


async def test_a_summary_does_not_tell_of_what_kafka_refused(bench: Bench) -> None:
    pipeline, source, sink = _summed_up(bench, MessageClass.PERISHABLE)
    await pipeline.start()
    sink.hold()
    sink.max_record = 4_000  # too small for its dead letter as well
    topic, _ = bench.rsm("RSU-1", 2)
    big = record("rsm", "RSU-1", 2, ts_ms=bench.clock.us // 1000)
    big["participants"] = big["participants"][:1] * 250
    many = [bench.rsm("RSU-1", seq) for seq in (0, 1)] + [(topic, CODEC.encode_mqtt("rsm", big))]
    source.deliver([*many, bench.rsm("RSU-1", 3), bench.rsm("RSU-EDGE", 2)], rx_us=bench.clock.us)
    pipeline.sum_up()
    source.deliver([bench.rsm("RSU-1", 4)], rx_us=bench.clock.us)
    sink.release()
    await sink.drain()
    pipeline.sum_up()
    await sink.drain()
    told = {("RSU-1", 1, 0, 1), ("RSU-1", 1, 3, 3), ("RSU-EDGE", 1, 2, 2)}
    assert _told(sink) == [(0, False, told), (1, False, {("RSU-1", 1, 4, 4)})]
    assert not sink.records(DEADLETTER)
    source.deliver([(topic, CODEC.encode_mqtt("rsm", {**big, "seq": 5}))], rx_us=bench.clock.us)
    await sink.drain()
    pipeline.sum_up()  # nothing that it can tell of
    await sink.drain()
    assert _told(sink)[2:] == [(2, False, set())]


async def test_summaries_outlive_a_table_of_topics_that_starts_anew_and_many_devices(bench: Bench) -> None:
    pipeline, source, sink = _summed_up(bench, MessageClass.PERISHABLE)
    await pipeline.start()
    devices = [f"NEW-{i}" for i in range(200)]  # the table holds 64
    for device in devices:
        source.deliver([bench.rsm(device, seq) for seq in (0, 1)], rx_us=bench.clock.us)
        await sink.drain()
    pipeline.sum_up()
    await sink.drain()
    assert {run for _, _, runs in _told(sink) for run in runs} == {(device, 1, 0, 1) for device in devices}
