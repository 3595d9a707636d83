"""A network of byte streams that come late and in pieces, and that break."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from random import Random
from typing import Any, Final, cast

from v2x_loadtest.schedules.loop import LIFE, VirtualLoop

_LATENCY_S: Final = (0.000_05, 0.003)
_APART_S: Final = 1e-6
_TORN: Final = 0.1  # share of writes that arrive in two pieces
Accept = Callable[[], asyncio.Protocol]


class End(asyncio.Transport):
    """One end of a connection. ``dead``: what is sent goes nowhere, and nobody is told (a half-open connection)."""

    def __init__(self, network: Network, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._network = network
        # As in asyncio, what a protocol is told runs in the context that made the connection: it is of the same life.
        self._context = contextvars.copy_context()
        self._protocol = cast("asyncio.Protocol", protocol)
        self.peer: End | None = None
        self.dead = False
        self._closing = False
        self.lost = False
        self._paused = False
        self.unread: list[bytes] = []
        self._arrives = 0.0  # when the last piece for the peer does

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        """Know nothing of sockets."""
        return default

    def is_closing(self) -> bool:
        """Say whether it was closed from this end, or is lost."""
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, in order, in one or two pieces."""
        raw = bytes(data)
        if self._closing or not raw:
            return
        rng = self._network.rng
        cut = rng.randrange(len(raw)) if rng.random() < _TORN else 0
        for piece in (raw[:cut], raw[cut:]):
            if piece:
                self._later(self._deliver, piece)

    def pause_reading(self) -> None:
        """Hand no more bytes to the protocol."""
        self._paused = True

    def resume_reading(self) -> None:
        """Hand on what came meanwhile."""
        self._paused = False
        self._network.loop.call_soon(self.hand_on)

    def is_reading(self) -> bool:
        """Say whether bytes are handed on."""
        return not self._paused and not self._closing

    def close(self) -> None:
        """End it in good order: what was written arrives first."""
        if not self._closing:
            self._closing = True
            self._network.loop.call_soon(self.lose, None)
            self._later(self._reset, None)

    def abort(self) -> None:
        """End it at once."""
        if not self._closing:
            self._closing = True
            self._network.loop.call_soon(self.lose, None)
            self._later(self._reset, ConnectionResetError("reset by peer"))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Have no buffer to limit."""

    def get_write_buffer_size(self) -> int:
        """Return 0: the network takes all at once."""
        return 0

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol that the connection is gone, once."""
        if not self.lost:
            self.lost = self._closing = True
            self.unread.clear()
            self._network.ends.pop(self, None)
            self._context.run(self._protocol.connection_lost, error)

    def die(self) -> None:
        """End it because its process was killed: only the other side hears of it."""
        self.lost = self._closing = True
        self._network.ends.pop(self, None)
        self._later(self._reset, ConnectionResetError("reset by peer"))

    @property
    def life(self) -> int:
        """Return which life it belongs to."""
        return self._context.get(LIFE) or 0

    def _later(self, what: Callable[[Any], None], argument: Any) -> None:
        loop = self._network.loop
        # Timers of the same moment fire in any order: pieces must not be of the same moment.
        self._arrives = max(self._arrives + _APART_S, loop.now + self._network.rng.uniform(*_LATENCY_S))
        loop.call_at(self._arrives, what, argument)

    def _deliver(self, piece: bytes) -> None:
        peer = self.peer
        if peer is not None and not peer.lost and not self.dead:
            peer.unread.append(piece)
            peer.hand_on()

    def _reset(self, error: Exception | None) -> None:
        if self.peer is not None and not self.dead:
            self.peer.lose(error)

    def hand_on(self) -> None:
        """Give the protocol what has come, unless it does not read."""
        while self.unread and not self._paused and not self.lost:
            data, self.unread = b"".join(self.unread), []
            self._context.run(self._protocol.data_received, data)


class Network:
    """Connects clients to servers by host and port."""

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop = loop
        self.rng = rng
        self.servers: dict[tuple[str, int], Accept] = {}
        self.away: set[tuple[str, int]] = set()  # connections are refused
        self.ends: dict[End, tuple[str, int]] = {}  # both ends of what stands, and the server's place
        loop.network = self

    async def connect(self, host: str, port: int, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        """Connect to a server."""
        await asyncio.sleep(self.rng.uniform(*_LATENCY_S))
        place = host, port
        if place in self.away or place not in self.servers:
            raise ConnectionRefusedError(f"nobody listens at {host}:{port}")
        served = self.servers[place]()
        client, server = End(self, protocol), contextvars.Context().run(End, self, served)
        client.peer, server.peer = server, client
        self.ends[client] = self.ends[server] = place
        served.connection_made(server)
        protocol.connection_made(client)
        return client

    def cut(self, place: tuple[str, int]) -> int:
        """Break all connections to a place, both ends at once; return how many."""
        ends = [end for end, at in self.ends.items() if at == place]
        for end in ends:
            end.lose(ConnectionResetError("the network is cut"))
        return len(ends) // 2

    def kill(self, life: int) -> None:
        """End all connections of a life."""
        for end in [end for end in self.ends if end.life == life]:
            contextvars.Context().run(end.die)

    def deafen(self, place: tuple[str, int]) -> int:
        """Have all present connections to a place carry nothing any more, with nobody told."""
        ends = [end for end, at in self.ends.items() if at == place]
        for end in ends:
            end.dead = True
        return len(ends) // 2
