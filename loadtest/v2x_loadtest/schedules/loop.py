"""An asyncio event loop without sockets, whose clock jumps to the next timer when there is nothing to do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

LIFE: Final[ContextVar[int]] = ContextVar("LIFE", default=0)
"""Which life of the process a callback belongs to; 0: the schedule's own."""


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
        self._selector = _Selector(self)
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[asyncio.TimerHandle]
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the virtual time."""
        return self.now

    def end_life(self, life: int) -> None:
        """Have nothing run any more that belongs to a life: kill -9 lets no ``finally`` run."""
        for handle in (*self._ready, *self._scheduled):
            context = handle._context  # type: ignore[attr-defined]  # noqa: SLF001 - that of asyncio itself
            if context.get(LIFE) == life:
                handle.cancel()

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
