"""An asyncio event loop without sockets, whose clock jumps to the next timer when there is nothing to do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from heapq import heapify, heappush
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

LIFE: Final[ContextVar[int]] = ContextVar("LIFE", default=0)
"""Which life of the process a callback belongs to; 0: the schedule's own."""


_THREAD_S: Final = 0.01  # what a thread takes


class StuckError(Exception):
    """Nothing is ready and no timer is set: whoever waits, waits for ever."""


class Connects(Protocol):
    """The network that ``create_connection`` asks."""

    async def connect(self, host: str, port: int, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        """Connect a protocol to a server; OSError where there is none."""
        ...


class _Selector:
    """Waits for no file: it lets the time pass."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise StuckError
        self._loop.now += timeout
        return []

    def close(self) -> None:
        """Hold nothing."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks and timers in the order of a virtual clock, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.network: Connects | None = None
        self._frozen: set[int] = set()
        self._held: list[asyncio.Handle] = []
        self._lives: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._selector = _Selector(self)
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the virtual time."""
        return self.now

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        """Make a task, and note whose it is."""
        task: asyncio.Task[Any] = super().create_task(coro, name=name, context=context)
        self._lives[task] = (context.get(LIFE) if context is not None else LIFE.get()) or 0
        return task

    def end_life(self, life: int) -> None:
        """End a life as kill -9 does: nothing of it runs any more, no ``finally`` reaches anybody."""
        self._frozen.discard(life)
        self._forget(life)
        context = copy_context()
        context.run(LIFE.set, life)
        for task in [task for task, whose in self._lives.items() if whose == life and not task.done()]:
            # Left alone, the garbage collector would have its ``finally`` run some time later.
            with suppress(BaseException):
                context.run(task.get_coro().close)
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it is meant
        self._forget(life)

    def _forget(self, life: int) -> None:
        for handle in (*self._ready, *self._scheduled, *self._held):
            if _life(handle) == life:
                handle.cancel()

    def freeze(self, life: int) -> None:
        """Have a life stand still, as SIGSTOP does: what is due for it waits."""
        self._frozen.add(life)

    def thaw(self, life: int) -> None:
        """Let a life go on: all that waited is due now."""
        self._frozen.discard(life)
        held, self._held = self._held, []
        for handle in held:
            if _life(handle) in self._frozen:
                self._held.append(handle)
            elif isinstance(handle, asyncio.TimerHandle):
                heappush(self._scheduled, handle)
            else:
                self._ready.append(handle)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # noqa: ARG002
        """Run a function in no thread, a little later."""
        done = self.create_future()

        def run() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(func(*args))
            except Exception as e:  # noqa: BLE001 - it is whoever waits that takes it
                done.set_exception(e)

        self.call_later(_THREAD_S, run)
        return done

    def _run_once(self) -> None:
        if self._frozen:
            for queue in (self._ready, self._scheduled):
                still = [handle for handle in queue if _life(handle) in self._frozen]
                if still:
                    self._held += still
                    rest = [handle for handle in queue if _life(handle) not in self._frozen]
                    queue.clear()
                    queue.extend(rest)  # type: ignore[arg-type]
            heapify(self._scheduled)
        super()._run_once()  # type: ignore[misc]

    def _process_events(self, event_list: list[Any]) -> None:
        """Have none."""

    def _write_to_self(self) -> None:
        """Need not be woken: there is one thread."""

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int, **_options: Any
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect over the simulated network."""
        assert self.network is not None
        protocol = protocol_factory()
        return await self.network.connect(host, port, protocol), protocol


def _life(handle: asyncio.Handle) -> int:
    context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio keeps it there
    return int(context.get(LIFE) or 0)
