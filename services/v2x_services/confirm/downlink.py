"""Downlinks at QoS 0: one MQTT connection that comes back by itself, and a write that never waits.

A confirm is said again a second later, and a device that has heard none sends again; so one that is lost needs no
acknowledgement, and one for a device that is away must not be queued.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Final, cast

import mqtt5
import structlog

_CONNECT_S: Final = 10.0
_KEEP_ALIVE_S: Final = 20
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_HIGH_WATER: Final = 4 << 20
log = structlog.get_logger("confirm")


class Downlink:
    """Publishes to devices while there is a broker."""

    def __init__(self, host: str, port: int, client_id: str, username: str = "", password: str = "") -> None:
        self._host, self._port = host, port
        self._connect = mqtt5.ConnectPacket(
            client_id,
            clean_start=True,
            keep_alive=_KEEP_ALIVE_S,
            username=username or None,
            password=password.encode() if password else None,
        ).write()
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self.last_error: str | None = "not connected yet"

    @property
    def connected(self) -> bool:
        """Say whether something can be sent."""
        return self._link is not None and self._link.ready

    def start(self) -> None:
        """Connect in the background and keep connected."""
        self._task = asyncio.create_task(self._run(), name="downlink")

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send now; False where there is no connection, or the broker does not read."""
        link = self._link
        if link is None or not link.ready or link.full or link.transport is None:
            return False
        link.transport.write(mqtt5.PublishPacket(topic, payload).write())
        return True

    async def stop(self) -> None:
        """Say goodbye."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._link is not None and self._link.transport is not None:
            self._link.transport.write(mqtt5.DisconnectPacket().write())
            self._link.transport.close()

    async def _run(self) -> None:
        loop, delay = asyncio.get_running_loop(), _SHORTEST_S
        while True:
            link = self._link = _Link(self._connect)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await loop.create_connection(lambda link=link: link, self._host, self._port)  # type: ignore[misc]
                    await link.accepted
                self.last_error, delay = None, _SHORTEST_S
                await self._stay(link)
                self.last_error = "the connection was lost"
            except TimeoutError:
                self.last_error = f"no answer from the MQTT broker at {self._host}:{self._port}"
            except OSError as e:
                self.last_error = f"cannot reach the MQTT broker at {self._host}:{self._port}: {e}"
            link.abort()
            log.info("no MQTT connection", why=self.last_error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _LONGEST_S)

    @staticmethod
    async def _stay(link: _Link) -> None:
        """Ping until the connection is gone; one that does not answer is."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_KEEP_ALIVE_S / 2):
                    await link.lost.wait()
                return
            if not link.heard or link.transport is None:
                return
            link.heard = False
            link.transport.write(mqtt5.PingReqPacket().write())


class _Link(asyncio.Protocol):
    """One connection."""

    def __init__(self, connect: bytes) -> None:
        self.transport: asyncio.Transport | None = None
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.ready = self.full = False
        self.heard = True
        self._connect, self._rest = connect, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.transport.write(self._connect)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        data, at = self._rest + data, 0
        try:
            while at < len(data):
                packet, size = mqtt5.read(memoryview(data)[at:])
                at += size
                if isinstance(packet, mqtt5.ConnAckPacket) and not self.accepted.done():
                    self._answered(packet)
        except IndexError:  # its end has not come yet
            pass
        except ValueError:
            self.abort()
        self._rest = data[at:]

    def _answered(self, packet: mqtt5.ConnAckPacket) -> None:
        if packet.reason_code != 0:
            self.accepted.set_exception(ConnectionRefusedError(f"refused, {packet.reason_code.name}"))
            return
        self.ready = True
        self.accepted.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ready, self.transport = False, None
        if not self.accepted.done():
            self.accepted.set_exception(exc or ConnectionResetError("closed by the broker"))
        self.lost.set()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False

    def abort(self) -> None:
        """End without a word."""
        if self.transport is not None:
            self.transport.abort()
        if not self.accepted.done():
            self.accepted.cancel()
