"""The run: connect all devices, then send on schedule (open loop), whatever the broker does; account for everything.

One timer walks the messages in order of intended time. Content is made a little ahead, step by step. A message is late
by as much as we hand it over after its intended time; the summary says how late, and whether we fell behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.topics import UPLINKS, downlink_topic

from v2x_loadtest.scene import Scene
from v2x_loadtest.simulate.build import Generator
from v2x_loadtest.simulate.ledger import Ledger, rows_of
from v2x_loadtest.simulate.link import RELIABLE, Broker, DeviceLink
from v2x_loadtest.simulate.options import Options
from v2x_loadtest.simulate.step import MESSAGE, REPEAT, Step

LEAD_US: Final = 250_000  # content is made so long before its step begins
_START_S: Final = 0.6  # between the last connection and scene second ``offset``; more than LEAD_US
_CONNECT_AT_ONCE: Final = 100
_CHUNK: Final = 64  # rows that get one send stamp
_TICK_S: Final = 0.001
_IDLE_S: Final = 0.02
_ACKS_S: Final = 5.0
_CONFIRMS_S: Final = 15.0  # at the end, where the platform confirms at all: a gap, told and filled, takes seconds
_CONFIRMED_KINDS: Final = frozenset(row.kind for row in UPLINKS if RELIABLE[row.code])
BEHIND_MS: Final = 20.0  # a p99 above is called falling behind


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run stands; counts since its start, ``rate`` and ``late_ms`` of the last second."""

    elapsed_s: float
    scene_s: float
    published: int
    acknowledged: int
    in_flight: int
    connected: int
    devices: int
    rate: float
    late_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did."""

    scene: str
    devices: int
    rsus: int
    copies: int
    seconds: float  # wall time from the first message to the last
    published: int
    acknowledged: int
    repeats: int  # deliberate duplicates among the published
    resent: int  # sent again by us: DUP after a reconnect, or after a refusal
    refused: int  # PUBACKs that were no success
    given_up: int  # dropped: refused, or never left for want of a connection
    reconnects: int
    unacknowledged: int
    kept: int  # messages of reliable types, which a device keeps until they are confirmed
    confirmed: int
    sent_again: int  # because no confirm named them, or named them as missing
    declined: int  # dead letters by the platform's word
    unconfirmed: int  # still kept at the end; all of them where nothing confirms
    abandoned: int  # sent again five times in vain, or dropped from a full store
    by_type: dict[str, int]
    rate: float  # messages a second
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    behind: bool
    cpu_s: float  # of this process, from the first message to the last
    cpu_us_per_message: float
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


class Run:
    """One run; ``stop()`` may be called at any time from the loop."""

    def __init__(self, scene: Scene, options: Options, on_progress: Callable[[Progress], None] | None = None) -> None:
        options.check(scene.duration_s)
        self._scene, self._options, self._on_progress = scene, options, on_progress
        self._ended = asyncio.Event()
        self.interrupted = False
        self._pending: npt.NDArray[Any] = np.zeros(0, MESSAGE)
        self._head = 0
        self._intended: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._rows = rows_of(self._pending)
        self._making: Iterator[Step | None] | None = None
        self._blobs: dict[int, bytes] = {}
        self._links: list[DeviceLink] = []

    def stop(self) -> None:
        """Send nothing more."""
        self.interrupted = True
        self._ended.set()

    async def run(self) -> Summary:
        """Do it; BrokerError if there is no broker at the start."""
        # Made once to know the fleet and to have all code loaded, made anew when the time of the start is known.
        began = time.monotonic()
        probe = Generator(self._scene, self._options, 0)
        probe.step()
        self._making_s = time.monotonic() - began
        self._ledger = Ledger(self._options.ledger)
        self._broker = Broker(self._options.host, self._options.port, self._ledger, random.Random(self._options.seed))
        fleet = probe.fleet
        _raise_open_files()
        try:
            for number, device in enumerate(fleet.ids):
                kind = fleet.kinds[number]
                listens = self._options.confirm and kind in _CONFIRMED_KINDS
                self._links.append(
                    DeviceLink(
                        self._broker,
                        device,
                        lambda code, number=number: fleet.topic(number, code),  # type: ignore[misc]
                        downlink_topic(kind, device, "confirm") if listens else "",
                    )
                )
            await self._connect()
            if not self.interrupted:
                await self._send_all()
            return self._summary()
        finally:
            self._broker.stopping = True
            for link in self._links:
                await link.close()
            await asyncio.sleep(0)
            self._ledger.close()

    async def _connect(self) -> None:
        gate = asyncio.Semaphore(_CONNECT_AT_ONCE)

        async def one(link: DeviceLink) -> None:
            async with gate:
                if not self.interrupted:
                    await link.open()

        opening = [asyncio.ensure_future(one(link)) for link in self._links]
        try:
            await asyncio.gather(*opening)
        finally:
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)

    async def _send_all(self) -> None:
        self._wall0 = time.time_ns() // 1000 + round((_START_S + 2 * self._making_s) * 1e6)
        self._source = Generator(self._scene, self._options, self._wall0)
        fleet, t = self._source.fleet, self._source.time
        for link, boot in zip(self._links, fleet.boot_ms.tolist(), strict=True):
            link.boot = boot
        self._ledger.describe(
            {
                "devices": [
                    {"id": i, "kind": k, "boot": int(b), "copy": int(c), "shift_ms": int(s) / 1e3}
                    for i, k, b, c, s in zip(
                        fleet.ids, fleet.kinds, fleet.boot_ms, fleet.copy, fleet.shift_us, strict=True
                    )
                ],
                "scene": self._scene.name,
                "t0_ms": t.event0_us // 1000,
                "wall_t0_ms": t.wall0_us // 1000,
                "offset_s": t.offset,
                "speed": t.speed,
                "loop_s": self._scene.duration_s,
                "copies": fleet.copies,
                "seed": self._options.seed,
            }
        )
        self._cpu0 = time.process_time()
        gc.collect()
        gc.freeze()  # a full collection over all scenes and devices would stall the sending
        watch = asyncio.ensure_future(self._watch())
        self._tick()
        try:
            await self._ended.wait()
            self._seconds = (time.time_ns() // 1000 - self._wall0) / 1e6
            self._cpu = time.process_time() - self._cpu0
            deadline = time.monotonic() + _ACKS_S
            while self._outstanding() and time.monotonic() < deadline:  # noqa: ASYNC110 - many connections, one wait
                await asyncio.sleep(0.01)
            deadline = time.monotonic() + _CONFIRMS_S
            while self._unconfirmed() and self._broker.confirms and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            gc.unfreeze()
        self._broker.account()
        self._ledger.flush()

    def _outstanding(self) -> bool:
        return bool(self._broker.retrying or any(link.unacknowledged for link in self._links))

    def _unconfirmed(self) -> int:
        return sum(len(link.store) for link in self._links if link.store is not None)

    def _tick(self) -> None:
        """Make content, send what is due, come again."""
        if self._ended.is_set():
            return
        now = time.time_ns() // 1000
        source = self._source
        if self._making is None and not source.done and source.wall_us(source.next_step) - now < LEAD_US:
            self._making = source.parts()
        if self._making is not None and (made := next(self._making)) is not None:
            self._making = None
            self._take(made)
        self._send_due(now)
        if source.done and self._making is None and self._head == len(self._pending):
            self._ended.set()
            return
        wait = 0.0 if self._making is not None else _IDLE_S
        if self._head < len(self._pending):
            wait = min(wait, (int(self._intended[self._head]) - time.time_ns() // 1000) / 1e6)
        asyncio.get_running_loop().call_later(min(max(wait, _TICK_S), _IDLE_S), self._tick)

    def _take(self, made: Step) -> None:
        """Put a step's messages into the schedule."""
        if not len(made.messages):
            return
        step = int(made.messages["step"][0])
        self._blobs[step] = made.blob
        rest = self._pending[self._head :]
        pending = np.concatenate([rest, made.messages])
        self._pending = pending[np.argsort(pending["intended_us"], kind="stable")]
        self._intended = np.ascontiguousarray(self._pending["intended_us"])
        self._rows = rows_of(self._pending)
        self._head = 0
        oldest = int(rest["step"].min()) if len(rest) else step
        for old in [k for k in self._blobs if k < oldest]:
            del self._blobs[old]

    def _send_due(self, now: int) -> None:
        due = int(np.searchsorted(self._intended, now, side="right"))
        links, blobs = self._links, self._blobs
        while self._head < due:
            part = slice(self._head, min(due, self._head + _CHUNK))
            rows = self._pending[part]
            self._head = part.stop
            first = self._ledger.append(self._rows[part], time.time_ns() // 1000)
            for row, device, code, seq, step, start, end in zip(
                range(first, first + len(rows)),
                rows["device"].tolist(),
                rows["code"].tolist(),
                np.where(rows["flags"] & REPEAT, -1, rows["seq"]).tolist(),
                rows["step"].tolist(),
                rows["start"].tolist(),
                rows["end"].tolist(),
                strict=True,
            ):
                links[device].send(row, code, blobs[step][start:end], seq)

    async def _watch(self) -> None:
        """Each second: flush the ledger, look after the connections, report."""
        last, before = 0, self._ledger.late.copy()
        for second in range(1, 1 << 62):
            at = (self._wall0 / 1e6 + second) - time.time()
            await asyncio.sleep(max(at, 0.0))
            self._broker.account()
            self._ledger.flush()
            now_s = time.time()
            for link in self._links:
                link.send_again(now_s)
            if second % 5 == 0:
                for link in self._links:
                    link.look_after()
            if self._on_progress is not None:
                published, now = self._ledger.published, self._ledger.late.copy()
                self._on_progress(self._progress(published - last, now - before))
                last, before = published, now

    def _progress(self, sent: int, late: npt.NDArray[Any]) -> Progress:
        elapsed = time.time() - self._wall0 / 1e6
        total = max(int(late.sum()), 1)
        return Progress(
            elapsed_s=elapsed,
            scene_s=self._options.offset + elapsed * self._options.speed,
            published=self._ledger.published,
            acknowledged=self._ledger.acknowledged,
            in_flight=self._broker.in_flight,
            connected=self._broker.connected,
            devices=len(self._links),
            rate=float(sent),
            late_ms=(int(np.searchsorted(np.cumsum(late), 0.99 * total)) + 1) * 0.1,
        )

    def _summary(self) -> Summary:
        ledger, broker = self._ledger, self._broker
        fleet = self._source.fleet if hasattr(self, "_source") else None
        seconds = getattr(self, "_seconds", 0.0)
        cpu = getattr(self, "_cpu", 0.0)
        p99 = ledger.late_ms(0.99)
        return Summary(
            scene=self._scene.name,
            devices=len(self._links),
            rsus=fleet.kinds.count("rsu") if fleet else 0,
            copies=fleet.copies if fleet else 0,
            seconds=round(seconds, 3),
            published=ledger.published,
            acknowledged=ledger.acknowledged,
            repeats=ledger.repeats,
            resent=broker.resent,
            refused=broker.refused,
            given_up=broker.given_up,
            reconnects=broker.reconnects,
            unacknowledged=ledger.published - ledger.acknowledged,
            kept=broker.tally.kept,
            confirmed=broker.tally.confirmed,
            sent_again=broker.tally.again,
            declined=broker.tally.refused,
            unconfirmed=self._unconfirmed(),
            abandoned=broker.tally.given_up + broker.tally.dropped,
            by_type={f"{row.kind}/{row.type}": int(ledger.by_type[row.code]) for row in UPLINKS},
            rate=round(ledger.published / seconds, 1) if seconds > 0 else 0.0,
            late_p50_ms=ledger.late_ms(0.5),
            late_p99_ms=p99,
            late_max_ms=round(ledger.late_max_us / 1e3, 1),
            behind=p99 > BEHIND_MS,
            cpu_s=round(cpu, 3),
            cpu_us_per_message=round(cpu / ledger.published * 1e6, 1) if ledger.published else 0.0,
            interrupted=self.interrupted,
        )


def _raise_open_files() -> None:
    """Use as many files as the system allows: one connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def simulate(
    scene: Scene,
    options: Options,
    on_progress: Callable[[Progress], None] | None = None,
    stop: asyncio.Event | None = None,
) -> Summary:
    """Replay a scene as devices; set ``stop`` to end early. BrokerError or ConfigError for what the user must mend."""
    run = Run(scene, options, on_progress)
    if stop is None:
        return await run.run()

    async def wait() -> None:
        await stop.wait()
        run.stop()

    watcher = asyncio.ensure_future(wait())
    try:
        return await run.run()
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
