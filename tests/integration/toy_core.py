"""A tiny pure core for tests of the fusion service, and a program that runs the service on it (to be killed).

Its state is a hash over everything it was fed, and each output carries it: a record lost, repeated or out of order
anywhere changes every output after it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from collections.abc import Sequence

from v2x.columns import Output, Record
from v2x.gantry import Frozen
from v2x.topics import EVENTS, LINKS, OBSERVATIONS, TRACKS

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_services.fusion import membership
from v2x_services.fusion.service import Fusion
from v2x_services.kafka import KafkaSink
from v2x_services.metrics import Metrics
from v2x_services.settings import Settings

CODEC = ReferenceCodec(Registry.load())
COLUMNS = [
    *("track", "object_class", "lat", "lon", "speed", "heading", "accel", "pos_sigma", "length", "width", "lane"),
    *("hits", "age_ms", "links"),
]  # all empty here


class ToyCore:
    """Chains a hash over its input; writes a frame for each record and a link state for each seventh."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition
        self.generation: str | None = None
        self.position = -1
        self.chain = ""
        self.counters = {"fused": 0}

    def feed(self, records: Sequence[Record]) -> list[Output]:
        made: list[Output] = []
        for r in records:
            if r.key == b"genesis":
                self.generation = CODEC.decode_kafka(r.value)[1]["generation"]
            assert r.offset == self.position + 1, (r.offset, self.position)
            self.position = r.offset
            self.counters["fused"] += 1
            self.chain = hashlib.sha256(self.chain.encode() + r.value).hexdigest()[:32]
            if self.topic == OBSERVATIONS:
                made.append(self._frame(r, 0))
                if r.offset % 7 == 0:
                    made.append(self._link(r, 1))
        return made

    def freeze(self) -> Frozen:
        return Frozen(json.dumps([self.generation, self.position, self.chain, self.counters]).encode())

    def load(self, blob: bytes) -> ToyCore:
        self.generation, self.position, self.chain, self.counters = json.loads(blob)
        return self

    def _place(self, r: Record, nth: int) -> dict[str, object]:
        return {"generation": self.generation, "partition": self.partition, "offset": r.offset, "index": nth}

    def _frame(self, r: Record, nth: int) -> Output:
        frame = {"zone": self.chain, "event_ms": r.stamp_ms, "stream_ms": r.stamp_ms, "inputs": self.counters["fused"]}
        value = CODEC.encode("track_frame", {**self._place(r, nth), **frame, **{c: [] for c in COLUMNS}})
        return Output(TRACKS, self.partition, b"toy", value, r.offset, nth)

    def _link(self, r: Record, nth: int) -> Output:
        numbers = dict.fromkeys(("from_ms", "to_ms", "length", "vehicles", "rejected", "travel_time"), 0)
        rest = {"zone": "z", "link": self.chain, "origin": "TRACKS", "speed": 0, "free_speed": 0, "level": 0, "tpi": 0}
        return Output(
            LINKS,
            self.partition,
            b"toy",
            CODEC.encode("link_state", {**self._place(r, nth), **numbers, **rest}),
            r.offset,
            nth,
        )


class ToyCores:
    """Makes toy cores."""

    def __init__(self, config: str = "toy") -> None:
        self.config = config
        self.code = "toy"

    def warm_up(self) -> None:
        """Nothing to compile."""

    def fresh(self, topic: str, partition: int, partitions: int) -> ToyCore:  # noqa: ARG002
        return ToyCore(topic, partition)

    def restore(self, topic: str, partition: int, partitions: int, blob: bytes) -> ToyCore:  # noqa: ARG002
        return ToyCore(topic, partition).load(blob)


async def run(
    settings: Settings,
    stop: asyncio.Event,
    config: str = "toy",
    worker: int | None = None,
    *,
    standing_by: bool = False,
) -> Metrics:
    """Run the service on toy cores, as a worker of the group if it has a number."""
    metrics = Metrics("fusion", "test")
    sink = KafkaSink(settings.kafka_bootstrap, (TRACKS, EVENTS, LINKS, OBSERVATIONS), client_id="toy")
    members = None if worker is None else membership(settings, worker)
    await Fusion(settings, ToyCores(config), sink, metrics, members, standing_by=standing_by).run(stop)
    return metrics


async def _main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    bootstrap, folder, how = sys.argv[1:]  # how: a worker's number, "standby", or "alone"
    s = Settings.load(kafka_bootstrap=bootstrap, state_dir=folder, snapshot_s=0.2, fetch_records=20)
    await run(s, stop, worker=int(how) if how.isdecimal() else None, standing_by=how == "standby")


if __name__ == "__main__":
    asyncio.run(_main())
