"""`v2x bench decode`: payloads to checked columns, against fastavro on the same bytes.

The peer's figure is the cheaper of what a user could do: `fastavro.schemaless_reader`, without any range check.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any, Final

import fastavro
import numpy as np
from rich.console import Console

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_codecs.vectors import load
from v2x_loadtest.bench.harness import Results, interleave

_BATCH: Final = 1000
_PEER_BATCH: Final = 100
_MQTT_HEADER: Final = 10


def rsm(participants: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return an RSM such as a roadside unit sends: every field set, positions within 250 m of the reference."""

    def one(k: int) -> dict[str, int]:
        return {
            "ptc_type": 1, "ptc_id": 1 + k, "source": 7, "object_class": 3, "sec_mark": int(rng.integers(60000)),
            "d_lat": int(rng.integers(-22000, 22000)), "d_lon": int(rng.integers(-26000, 26000)), "ele": 120,
            "pos_conf": 10, "transmission": 2, "speed": int(rng.integers(800, 1800)),
            "heading": int(rng.integers(28800)), "speed_conf": 4, "heading_conf": 4,
            "accel_long": int(rng.integers(-150, 150)), "yaw_rate": int(rng.integers(-200, 200)),
            "width": 180, "length": 460, "height": 30,
        }  # fmt: skip

    return {
        "device": "RSU-M-01", "boot": 1_790_000_000_000, "seq": 4711, "ts_ms": 1_790_000_471_100, "msg_cnt": 3,
        "sec_mark": 11_100, "ref_lat": 315_000_000, "ref_lon": 1_203_000_000, "ref_ele": 100,
        "participants": [one(k) for k in range(participants)], "obstacles": [],
    }  # fmt: skip


def run(schema: str, participants: int, rounds: int, console: Console) -> Results:
    """Measure µs a message, CPU time of this thread."""
    registry = Registry.load()
    codec = ReferenceCodec(registry)
    rng = np.random.default_rng(1)
    if schema == "rsm":
        payloads = [codec.encode_mqtt("rsm", rsm(participants, rng)) for _ in range(_BATCH)]
    else:
        golden = [v.mqtt for v in load(registry) if v.schema == schema]
        payloads = [golden[i % len(golden)] for i in range(_BATCH)]
    decoder = ColumnDecoder(registry)
    if decoder.decode_mqtt(payloads).verdict.any():
        raise AssertionError("the benchmark's own messages must be valid")
    parsed = registry.get(schema).parsed
    bodies = [p[_MQTT_HEADER:] for p in payloads[:_PEER_BATCH]]

    def columns() -> None:
        decoder.decode_mqtt(payloads)

    def fast() -> None:
        for body in bodies:
            fastavro.schemaless_reader(io.BytesIO(body), parsed, None)

    candidates = {
        "columns, checked": lambda: _cost(columns, len(payloads), repeat=20),
        "fastavro, unchecked": lambda: _cost(fast, len(bodies), repeat=2),
    }
    results = interleave(candidates, rounds, console)
    size = sum(map(len, payloads)) / len(payloads)
    what = f"{schema} of {participants} participants" if schema == "rsm" else f"{schema} (golden vectors)"
    title = f"Decode of {what}, {size:.0f} B"
    facts = {"schema": schema, "bytes": size, "batch": _BATCH}
    return Results(title, "µs CPU a message", results, "columns, checked", facts)


def _cost(work: Callable[[], None], messages: int, repeat: int) -> float:
    start = time.thread_time_ns()
    for _ in range(repeat):
        work()
    return (time.thread_time_ns() - start) / 1000 / messages / repeat
