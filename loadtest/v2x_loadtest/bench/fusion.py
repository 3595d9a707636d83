"""`v2x bench fusion`: a province's log through the pure engines, without brokers: CPU by observation and by frame.

The log is what ingest would write of the load of `v2x bench province`: records in order of their stamps, by zone and
partition, copies for halo zones. Engines take it in steps of ``step_ms``, from the bytes that a fetch of the service
would bring; frames, which cost the same however many observations there are, are counted apart. The kernel alone is
that which fuses a scan into the tracks of a zone, with its call from Python, on scans decoded beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from rich.console import Console
from rich.table import Table
from v2x.columns import I64, Record
from v2x.fusion.engine import Engine
from v2x.fusion.entry import PARTICIPANT
from v2x.fusion.zone import ZoneState
from v2x.topics import HEADER_RX, TRACKS, UPLINKS
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.framing import MQTT_HEADER, kafka_header
from v2x_codecs.recordbatch import read_batches
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.bench.flow import FlowOptions, make_load
from v2x_loadtest.bench.harness import Spread, machine
from v2x_loadtest.bench.load import Load
from v2x_loadtest.bench.plot import Chart, page

_DELAY_MS: Final = 5  # from the device's link to the log
_FRAME_MS: Final = 50
_BATCH_BYTES: Final = 64 << 20
_WORLD: Final = "00000000-0000-4000-8000-000000000000"


@dataclass(slots=True)
class FusionRun:
    """One pass; CPU of this thread."""

    records: int
    observations: int
    frames: int
    frame_bytes: int
    cpu_s: float
    read_s: float  # of it, bytes of a fetch to columns
    frame_s: float  # of it, frames with their events
    freeze_s: float  # for a snapshot of an engine, on average; the road waits so long
    decode_s: float  # decoding alone, by itself
    kernel_s: float
    kernel_observations: int  # as often as zones took them
    wall_s: float  # of stream time: 1 core keeps up with cpu_s / wall_s of it


def run(options: FlowOptions, seconds: float, rounds: int, step_ms: int, console: Console) -> dict[str, Any]:
    """Return the runs and print a table of them (nothing of it if ``console`` is quiet)."""
    load, doc, participants = make_load(options, lambda line: console.print(f"[dim]{line}[/]"))
    zones = ZoneMap.parse(doc)
    log, observations = _log(load, zones, options.partitions, seconds, participants)
    runs = []
    for nth in range(rounds + 1):  # the first one warms up
        made = _pass(log, zones, options.partitions, step_ms, seconds, observations)
        if nth:
            runs.append(made)
    _show(options, len(zones.zones), runs, console)
    return {
        "machine": machine(),
        "rsus": options.rsus,
        "zones": len(zones.zones),
        "partitions": options.partitions,
        "participants": participants,
        "step_ms": step_ms,
        "runs": [asdict(r) for r in runs],
    }


def _log(
    load: Load, zones: ZoneMap, partitions: int, seconds: float, participants: float
) -> tuple[list[list[Record]], int]:
    """Return the records of each partition, and how many observations (participants) they hold."""
    registry = Registry.load()
    headers = {row.code: kafka_header(registry.get(row.schema)) for row in UPLINKS}
    base_ms = 1_790_000_000_000 + load.phase_ms
    rows = load.rows[load.rows["at_us"] < seconds * 1e6]
    routes = [[zones.partition(z, partitions) for z in zones.route(d.id, None, None)] for d in load.devices]
    codec = ReferenceCodec(registry)
    log: list[list[Record]] = []
    for p in range(partitions):
        genesis = {"generation": _WORLD, "partition": p, "partitions": partitions, "ts_ms": base_ms}
        log.append([Record(0, base_ms, b"genesis", codec.encode("genesis", genesis), ())])
    packets = load.packets.tobytes()
    n = 0
    for row in rows:
        body = bytearray(packets[row["pid_at"] + row["start"] + 3 + MQTT_HEADER : row["end"]])
        at = int(row["ts_at"]) - int(row["pid_at"]) - 3 - MQTT_HEADER
        z = (base_ms + int(row["ts_ms"])) << 1
        body[at : at + 6] = bytes(z >> 7 * k & 0x7F | (0x80 if k < 5 else 0) for k in range(6))
        value = headers[int(row["code"])] + bytes(body)
        stamp = base_ms + int(row["at_us"]) // 1000 + _DELAY_MS
        key = load.devices[row["conn"]].id.encode()
        for partition in dict.fromkeys(routes[row["conn"]]):
            log[partition].append(Record(len(log[partition]), stamp, key, value, ()))
            n += 1
    return log, round(n * participants)


class _Engine(Engine):
    """An engine that says what its frames cost."""

    frame_s = 0.0

    def _frame(self, *args: Any) -> None:
        began = time.thread_time()
        super()._frame(*args)
        self.frame_s += time.thread_time() - began


def _batch(records: Sequence[Record]) -> bytes:
    """Return records as one batch of Kafka's."""
    builder: Any = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, _BATCH_BYTES)
    for n, r in enumerate(records):
        builder.append(n, timestamp=r.stamp_ms, key=r.key, value=r.value, headers=[(HEADER_RX, bytes(8))])
    return records[0].offset.to_bytes(8, "big") + bytes(builder.build())[8:]  # the offset is in no checksum


def _pass(
    log: list[list[Record]], zones: ZoneMap, partitions: int, step_ms: int, seconds: float, observations: int
) -> FusionRun:
    registry = Registry.load()
    decoder, codec = ColumnDecoder(registry), ReferenceCodec(registry)
    engines = [_Engine(None, zones, decoder, codec, p, partitions, codec.decode_kafka) for p in range(partitions)]
    begin = min(part[0].stamp_ms for part in log if part)
    wall = round(seconds * 1000)
    cuts = [
        np.searchsorted([r.stamp_ms for r in part], range(begin, begin + wall + 2 * step_ms, step_ms)).tolist()
        for part in log
    ]
    fetches = [
        (engine, _batch(part[cut[n] : cut[n + 1]]))
        for n in range(len(cuts[0]) - 1)
        for engine, part, cut in zip(engines, log, cuts, strict=True)
        if cut[n] < cut[n + 1]
    ]
    frames = frame_bytes = 0
    read = 0.0
    began = time.thread_time()
    for engine, blob in fetches:
        reading = time.thread_time()
        found = read_batches(blob, 0)
        read += time.thread_time() - reading
        assert found is not None
        for out in engine.feed(found.records):
            if out.topic == TRACKS:
                frames += 1
                frame_bytes += len(out.value)
    cpu = time.thread_time() - began
    frame = sum(engine.frame_s for engine in engines)
    began = time.thread_time()
    for engine in engines:
        engine.freeze()
    freeze = (time.thread_time() - began) / len(engines)
    began = time.thread_time()
    for part in log:
        for i in range(0, len(part), 500):
            decoder.decode_kafka([r.value for r in part[i : i + 500]])
    decode = time.thread_time() - began
    kernel = _kernel(log, zones, partitions, decoder)
    return FusionRun(
        sum(map(len, log)), observations, frames, frame_bytes, cpu, read, frame, freeze, decode, *kernel, seconds
    )


def _kernel(log: list[list[Record]], zones: ZoneMap, partitions: int, decoder: ColumnDecoder) -> tuple[float, int]:
    """Return CPU seconds of fusing every scan into its zones, and how many observations those were."""
    states = {zone: ZoneState(zones, zone) for zone in zones.zones}
    cpu, n = 0.0, 0
    for p, part in enumerate(log):
        batch = decoder.decode_kafka([record.value for record in part])
        scans, people = batch.tables["rsm"], batch.tables["rsm.participants"]
        rows = np.ascontiguousarray(people.data)
        columns = np.array([people.fields.index(name) for name in PARTICIPANT], np.int64)
        ends = np.searchsorted(people.msg, scans.msg, "right").tolist()
        begins = np.searchsorted(people.msg, scans.msg).tolist()
        heads = zip(*(scans.col(name).tolist() for name in ("ref_lat", "ref_lon", "ts_ms")), strict=True)
        calls: list[tuple[ZoneState, I64, tuple[int, int], int, str]] = []
        for k, (lat, lon, ts_ms) in enumerate(heads):
            device = batch.text("rsm", k, "device")
            for zone in zones.route(device, lat, lon):
                if zones.partition(zone, partitions) == p:
                    calls.append((states[zone], rows[begins[k] : ends[k]], (lat, lon), ts_ms, device))
                    n += ends[k] - begins[k]
        first = calls[0][3] if calls else 0
        for _, group in groupby(calls, lambda call: call[3] // _FRAME_MS):
            scans_now = list(group)
            began = time.thread_time_ns()
            for state, mine, ref, ts_ms, device in scans_now:
                state.scan(mine, columns, ref, ts_ms, 0, device, ts_ms, ts_ms - first)
            cpu += (time.thread_time_ns() - began) / 1e9
            for state in {id(call[0]): call[0] for call in scans_now}.values():
                state.tidy(scans_now[-1][3], scans_now[-1][3] - first)
    return cpu, n


def plot(made: dict[str, Any]) -> str:
    """Return a page of what ``run`` returned."""
    runs = [FusionRun(**r) for r in made["runs"]]
    per = {
        "decode and fuse": [(r.cpu_s - r.frame_s) / r.observations * 1e6 for r in runs],
        "with frames and events": [r.cpu_s / r.observations * 1e6 for r in runs],
        "decode alone": [r.decode_s / r.observations * 1e6 for r in runs],
        "kernel alone": [r.kernel_s / r.kernel_observations * 1e6 for r in runs],
    }
    charts = [
        Chart("CPU an observation", "µs", per, "decode and fuse", 2),
        Chart("CPU a record", "µs", {"fusion": [r.cpu_s / r.records * 1e6 for r in runs]}, "fusion", 1),
        Chart("Cores to keep up", "cores", {"fusion": [r.cpu_s / r.wall_s for r in runs]}, "fusion", 2),
    ]
    title = f"Fusion of {made['rsus']:,} RSUs, {made['zones']} zones, {made['partitions']} partitions"
    return page(title, [f"{made['participants']:.1f} participants an RSM; CPU of one thread."], charts)


def _show(options: FlowOptions, zones: int, runs: list[FusionRun], console: Console) -> None:
    table = Table(
        title=f"Fusion of {options.rsus:,} RSUs, {zones} zones, {options.partitions} partitions, CPU of one thread",
        caption=f"{machine()['cpu']}; median (range) of {len(runs)} passes",
    )
    table.add_column("")
    table.add_column("", justify="right")
    first = runs[0]
    table.add_row("records, observations", f"{first.records:,}, {first.observations:,}")
    table.add_row("frames, bytes a frame", f"{first.frames:,}, {first.frame_bytes / max(first.frames, 1):,.0f}")
    rows: tuple[tuple[str, Callable[[FusionRun], float], int], ...] = (
        ("cores to keep up", lambda r: r.cpu_s / r.wall_s, 2),
        ("µs a record", lambda r: r.cpu_s / r.records * 1e6, 1),
        ("µs a record, frames apart", lambda r: (r.cpu_s - r.frame_s) / r.records * 1e6, 1),
        ("µs a record, reading a fetch alone", lambda r: r.read_s / r.records * 1e6, 2),
        ("µs an observation, all", lambda r: r.cpu_s / r.observations * 1e6, 2),
        ("µs an observation, decoding and fusing", lambda r: (r.cpu_s - r.frame_s) / r.observations * 1e6, 2),
        ("µs an observation, decoding alone", lambda r: r.decode_s / r.observations * 1e6, 2),
        ("µs a frame", lambda r: r.frame_s / max(r.frames, 1) * 1e6, 0),
        ("ms to freeze an engine", lambda r: r.freeze_s * 1e3, 1),
        ("µs an observation, kernel alone", lambda r: r.kernel_s / r.kernel_observations * 1e6, 2),
        ("kernel alone, M observations/s", lambda r: r.kernel_observations / r.kernel_s / 1e6, 2),
    )
    for name, value, digits in rows:
        table.add_row(name, Spread.of([value(r) for r in runs]).show(digits))
    console.print(table)
