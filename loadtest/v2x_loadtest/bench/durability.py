"""Whether a forwarder's PUBACK waits for Kafka: both are killed with messages under way; what is missing afterwards.

1. the forwarder forwards a probe, then Kafka is killed -9
2. messages are published; Mosquitto acknowledges them and hands them to the forwarder
3. the forwarder and its children are killed -9: what it had acknowledged to Mosquitto by then, Mosquitto has forgotten
4. Kafka and the forwarder start again, the forwarder whenever it ends by itself, as a supervisor would do, or has
   forwarded nothing for 30 s, as people do
5. probes are published until one of them is in Kafka: only then is the forwarder back, and what is still missing when
   nothing more comes is lost. A forwarder that is not back in time has no result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from v2x.errors import BrokerError

from v2x_loadtest.bench.candidates import Probe
from v2x_loadtest.bench.payloads import PROBE
from v2x_loadtest.bench.proc import kill_tree
from v2x_loadtest.bench.records import Ends, Topics
from v2x_services.process import Process

# FastStream never starts when over 1,000 messages come again: they fill its queue before its handlers run, and the
# answer to its SUBSCRIBE stands behind them.
MESSAGES: Final = 500
HELD_S: Final = 2.0  # from the last publish to the kill: time to acknowledge too early
PUBLISHING_S: Final = 60.0
_BACK_S: Final = 90.0
_STUCK_S: Final = 30.0
_PROBE_S: Final = 0.5
_QUIET_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Durability:
    """What became of the messages."""

    published: int
    acknowledged: int  # by Mosquitto
    lost: int
    repeated: int
    stayed_up: bool  # with Kafka dead, until it was killed
    starts: int  # until it was back
    back_s: float  # from Kafka's return until a new message was forwarded

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; ``waits`` is the answer."""
        row = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**row, "waits": self.lost == 0 and self.acknowledged > 0}


def kill(process: Process) -> bool:
    """Kill a forwarder with its children; return whether it still ran."""
    alive = process.pid is not None
    if process.pid is not None:
        kill_tree(process.pid)
    process.kill()
    return alive


def wait_until_back(
    process: Process, spawn: Callable[[], None], kafka: Topics, begin: Ends, probe: Probe, payload: str
) -> tuple[int, float]:
    """Start it (again) until a probe is in Kafka behind ``begin``; return starts and seconds. BrokerError if never."""
    began = started = time.monotonic()
    starts = 0
    with probe:
        while not len(kafka.read(begin, {PROBE: 0}, payload).seq):
            if time.monotonic() - began > _BACK_S:
                raise BrokerError(
                    f"no result: {_BACK_S:.0f} s after Kafka is back {process.name} forwards nothing: "
                    f"{process.last_line()}"
                )
            if process.pid is not None and time.monotonic() - started > _STUCK_S:
                kill(process)
            if process.pid is None:
                spawn()
                starts, started = starts + 1, time.monotonic()
            probe.send()
            time.sleep(_PROBE_S)
    return starts, time.monotonic() - began


def wait_until_quiet(kafka: Topics, begin: Ends, devices: dict[str, int], payload: str) -> None:
    """Wait until all messages are there, or no new one came for a while."""
    count, quiet = -1, time.monotonic()
    while time.monotonic() - quiet < _QUIET_S:
        now = len(set(kafka.read(begin, devices, payload).key.tolist()))
        if now >= MESSAGES:
            return
        if now != count:
            count, quiet = now, time.monotonic()
        time.sleep(_PROBE_S)
