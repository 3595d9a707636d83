"""A TCP proxy between the services and a broker that makes the network bad: late, lossy, cut, half-open.

It forwards byte streams, so it cannot lose a packet; ``loss`` shows applications what TCP makes of a lost one: that
share of the chunks, and all that is behind them, comes a retransmission time-out (200 ms) later. ``cut``: nothing
passes, connections stay open, what was sent comes afterwards. ``half_open``: connections of this moment are dead for
ever without a FIN or RST, as if the peer's machine had gone; new ones work.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import deque
from typing import Final, Self

_CHUNK: Final = 1 << 16
_RETRANSMIT_S: Final = 0.2
_HELD: Final = 512  # chunks of a direction under way; then the sender is held, as by a full window
_TICK_S: Final = 0.05


class Proxy:
    """Listens on a port of the loopback and forwards to ``target``; a thread with a loop of its own."""

    def __init__(self, target: tuple[str, int], port: int, seed: int = 1) -> None:
        self.target, self.port = target, port
        self.delay_s = 0.0  # each way
        self.loss = 0.0
        self.cut = False
        self._epoch = 0
        self._rng = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5.0)
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    def half_open(self) -> None:
        """Let the connections of this moment die without a word."""
        self._epoch += 1

    def heal(self) -> None:
        """Be a good network again; what is half open stays so."""
        self.delay_s, self.loss, self.cut = 0.0, 0.0, False

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        epoch = self._epoch
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            self._tasks.discard(task)
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, up_writer, epoch))
                both.create_task(self._pump(up_reader, writer, epoch))
        except* (OSError, _ClosedError, asyncio.CancelledError):
            pass  # asyncio would print the end of a cancelled task of a server
        finally:
            self._tasks.discard(task)
            for one in (writer, up_writer):
                with contextlib.suppress(OSError, RuntimeError):
                    one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, epoch: int) -> None:
        """Forward one direction until it ends."""
        loop = asyncio.get_running_loop()
        line: deque[tuple[float, bytes]] = deque()  # when to hand it on, and what; empty bytes: the end
        more, room, last = asyncio.Event(), asyncio.Event(), 0.0

        async def take() -> None:
            nonlocal last
            data = b"-"
            while data:
                try:
                    data = await reader.read(_CHUNK)
                except OSError:
                    data = b""
                late = self.delay_s + (_RETRANSMIT_S if self.loss and self._rng.random() < self.loss else 0.0)
                last = max(last, loop.time() + late)
                line.append((last, data))
                more.set()
                while len(line) > _HELD:
                    room.clear()
                    await room.wait()

        taking = asyncio.ensure_future(take())
        try:
            while True:
                while not line:
                    more.clear()
                    await more.wait()
                at, data = line[0]
                if at > loop.time():
                    await asyncio.sleep(at - loop.time())
                while self.cut or epoch != self._epoch:  # noqa: ASYNC110 - set by another thread
                    await asyncio.sleep(_TICK_S)
                line.popleft()
                room.set()
                if not data:
                    raise _ClosedError
                writer.write(data)
                await writer.drain()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)


class _ClosedError(Exception):
    """One side has closed."""
