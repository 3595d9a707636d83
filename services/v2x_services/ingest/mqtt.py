"""The MQTT source: one persistent session on an ``asyncio.Protocol`` over the sans-IO ``mqtt5`` codec.

::

    data ─► parse all packets ─► one Arrivals to the listener ─► pause (``pace``), read on

A PUBACK leaves only when ``acknowledge`` is called; until then the message counts against our Receive Maximum, which
is the back-pressure. A packet id is good for one connection (epoch). After a lost connection the source connects again
by itself, with jittered back-off, and resumes the session: the broker sends again what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import mqtt5
import numpy as np
from v2x.columns import I64

from v2x_services.ingest.kernels import FULL, MORE, acks, scan
from v2x_services.ingest.pace import Pace
from v2x_services.ingest.packets import PUBLISH, publish_row, read_control
from v2x_services.ingest.subscriptions import Subscriptions
from v2x_services.ports import ARRIVAL_COLUMNS, HEAP_SPARE, Arrivals, Clock, SourceListener

log = logging.getLogger(__name__)

MAX_PACKET: Final = 16 << 20  # a broker does not send us more; far above what is taken in, so that it is seen and told
_LONGEST_HEAD: Final = 5  # bytes of a packet's type and length
_CONNECT_S: Final = 10.0
_PINGS: Final = 4  # in a keep alive
_IN_VAIN: Final = 2
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 5.0
_SPARE: Final = bytes(HEAP_SPARE)


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """How to reach the broker, and what our session there is like."""

    host: str
    port: int
    client_id: str
    filters: tuple[str, ...]
    dropped: tuple[str, ...] = ()  # filters that the session may hold from before and must not
    receive_maximum: int = 2048
    session_expiry_s: int = 86_400
    username: str = ""
    password: str = ""
    keep_alive_s: int = 8  # a connection that is dead without a word is noticed after a half to three quarters of it
    pace_s: float = 0.006


class MqttSource:
    """A ``MessageSource`` on a real broker."""

    def __init__(self, config: MqttConfig, clock: Clock) -> None:
        self.config = config
        self.subscriptions = Subscriptions(config.filters, config.dropped)
        self.end_session = False  # leave nothing behind at the stop: no session, no queue
        self.connected = False  # connected and subscribed
        self.last_error: str | None = None
        self._clock = clock
        self._epoch = 0
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._paused = False
        self._stopping = False

    async def start(self, listener: SourceListener) -> None:
        """Connect in the background and keep connected."""
        self._listener = listener
        self._task = asyncio.create_task(self._run(), name=f"mqtt {self.config.client_id}")

    def acknowledge(self, epoch: int, packet_ids: Sequence[int] | I64) -> bool:
        """Send PUBACKs in this order; False where the connection they belong to is gone."""
        link = self._link
        if link is None or link.epoch != epoch or link.closed.done():
            return False
        out = np.empty(4 * len(packet_ids), np.uint8)
        acks(np.asarray(packet_ids, np.int64), out)
        link.write(out.tobytes())
        return True

    def pause(self) -> None:
        """Stop reading: TCP and the Receive Maximum hold the broker back."""
        self._paused = True
        if self._link is not None:
            self._link.hold()

    def resume(self) -> None:
        """Go on reading."""
        self._paused = False
        if self._link is not None:
            self._link.unhold()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe to more, now and at each connection."""
        self._send(self.subscriptions.add(filters))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Subscribe to less, now and at each connection."""
        self._send(self.subscriptions.drop(filters))

    async def ping(self) -> bool:
        """Wait until the broker has dealt with all that we sent, PUBACKs too; False where the connection is gone."""
        return self._link is not None and await self._link.ping()

    async def stop(self) -> None:
        """Disconnect; the session stays with the broker until it expires, unless ``end_session``."""
        self._stopping = True
        if self._link is not None:
            self._link.say_goodbye()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        delay = _SHORTEST_S
        while not self._stopping:
            link = _Link(self)
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await loop.create_connection(partial(_same, link), self.config.host, self.config.port)
                    await link.subscribed
                self.connected, self.last_error = True, None
                delay = _SHORTEST_S
                reason = await asyncio.shield(link.closed)
            except TimeoutError:
                reason = f"no answer from the MQTT broker at {self.config.host}:{self.config.port}"
            except OSError as e:
                reason = f"cannot reach the MQTT broker at {self.config.host}:{self.config.port}: {e}"
            finally:
                self.connected = False
                link.abort()
            self._over(link, reason)
            if link.taken_over:
                log.error("MQTT session %s was taken over: does a second ingest run?", self.config.client_id)
                delay = _LONGEST_S
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(2 * delay, _LONGEST_S)

    def _send(self, packets: bytes) -> None:
        if packets and self._link is not None:
            self._link.write(packets)

    def _over(self, link: _Link, reason: str) -> None:
        self.last_error = reason
        self._link = None
        if link.epoch:
            log.warning("MQTT session %s: %s", self.config.client_id, reason)
            self._listener.disconnected(link.epoch, reason)

    def _established(self, link: _Link, *, session_present: bool) -> int:
        self._epoch += 1
        self._link = link
        link.epoch = self._epoch
        self._listener.connected(self._epoch, session_present=session_present)
        return self._epoch

    def _arrived(self, batch: Arrivals) -> None:
        self._listener.arrived(batch)


class _Link(asyncio.Protocol):
    """One connection: CONNECT, SUBSCRIBE, then messages in and PUBACKs out until it ends."""

    def __init__(self, source: MqttSource) -> None:
        self.epoch = 0  # set when the broker has accepted us
        self.taken_over = False
        loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._source = source
        self._config = source.config
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 2
        self._room = 256  # messages that a read is expected to bring
        self._pace = Pace(source.config.pace_s, loop.time())
        self._brought = 0  # messages of the last read
        self._resume_timer: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._unanswered = 0  # pings: counted, since after standing still ourselves the clock would say too much
        self._pong: asyncio.Future[bool] | None = None
        self._held = False
        self._reason = ""

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but inheritance
        c = self._config
        packet = mqtt5.ConnectPacket(
            c.client_id,
            username=c.username or None,
            password=c.password.encode() if c.password else None,
            clean_start=False,
            keep_alive=c.keep_alive_s,
            session_expiry_interval=c.session_expiry_s,
            receive_max=c.receive_maximum,
            max_packet_size=MAX_PACKET,
        )
        self._transport.write(packet.write())

    def data_received(self, data: bytes) -> None:
        """Take all whole packets, and pause if this is what load looks like."""
        self._chunks.append(data)
        self._have += len(data)
        self._brought = 0
        if self._have >= self._need and not self._parse():
            return
        pause = self._pace.after(self._loop.time(), self._brought)
        if pause and self._resume_timer is None and self._transport is not None:
            self._transport.pause_reading()
            self._resume_timer = self._loop.call_later(pause, self._paced)

    def eof_received(self) -> None:
        """Let the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._cancel_timers()
        self._transport = None
        self._end(self._reason or (f"connection lost: {exc}" if exc else "connection closed by the broker"))

    # -- for the source

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is gone."""
        if self._transport is not None:
            self._transport.write(data)

    def hold(self) -> None:
        """Stop reading until ``unhold``."""
        self._held = True
        if self._transport is not None:
            self._transport.pause_reading()

    def unhold(self) -> None:
        """Read again."""
        self._held = False
        self._unanswered = 0  # an answer may have waited unread
        if self._transport is not None and self._resume_timer is None:
            self._transport.resume_reading()

    def say_goodbye(self) -> None:
        """Disconnect in good order; queued PUBACKs still leave."""
        self._reason = "stopped"
        expiry = 0 if self._source.end_session else None
        self.write(mqtt5.DisconnectPacket(session_expiry_interval=expiry).write())
        if self._transport is not None:
            self._transport.close()

    async def ping(self) -> bool:
        """Wait for an answer that surely came after the call (one may be a regular ping's); False at the end."""
        for _ in range(2):
            pong = self._pong = self._loop.create_future()
            self.write(mqtt5.PingReqPacket().write())
            either: set[asyncio.Future[Any]] = {pong, self.closed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not pong.done():
                return False
        return True

    def abort(self) -> None:
        """Drop the connection."""
        self._cancel_timers()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        self._end("dropped")

    # -- inside

    def _parse(self) -> bool:
        """Take whole packets; return False if they are no packets (what the listener raises is not the broker's)."""
        heap = b"".join((*self._chunks, _SPARE))
        data = np.frombuffer(heap, np.uint8)
        end, at, n = self._have, 0, 0
        rows = np.empty((self._room, ARRIVAL_COLUMNS), np.int64)
        while True:
            n, at, why, need = scan(data, at, end, rows, n)
            if need > MAX_PACKET + _LONGEST_HEAD:
                self._fail(f"the broker sends a packet of {need} bytes, we take {MAX_PACKET}")
                return False
            if why == MORE:
                break
            if why == FULL:
                self._room *= 2
                rows = np.vstack((rows, np.empty_like(rows)))
                continue
            try:
                if heap[at] >> 4 == PUBLISH:
                    if n == len(rows):
                        rows = np.vstack((rows, np.empty_like(rows)))
                    rows[n] = publish_row(heap, at, need)
                    n += 1
                else:
                    self._control(read_control(memoryview(heap)[at : at + need]))
            except (ValueError, IndexError) as e:
                self._fail(f"the broker sent what is not MQTT 5: {e}")
            if self._reason:  # this connection is over: whatever follows comes again
                return False
            at += need
        self._chunks = [heap[at:end]] if at < end else []
        self._have = end - at
        self._need = need
        self._brought = n
        if n:
            self._source._arrived(Arrivals(self.epoch, self._source._clock.now_us(), heap, rows[:n]))  # noqa: SLF001
        return True

    def _control(self, packet: Any) -> None:
        match packet:
            case mqtt5.ConnAckPacket():
                if packet.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
                    self._fail(f"the broker refuses us: {packet.reason_code.name} {packet.reason_str or ''}".rstrip())
                    return
                if self.epoch:  # MQTT-3.2.0-2; taken, it would begin the session again and ping twice as often
                    self._fail("the broker accepts us twice on one connection")
                    return
                self._source._established(self, session_present=packet.session_present)  # noqa: SLF001
                keep_alive = packet.server_keep_alive or self._config.keep_alive_s
                self._ping(keep_alive / _PINGS)
                self.write(self._source.subscriptions.open())
                self._subscribed()
            case mqtt5.SubAckPacket() | mqtt5.UnsubAckPacket():
                refused = self._source.subscriptions.answered(packet.packet_id, packet.reason_codes)
                if refused:
                    self._fail(f"the broker refuses our subscriptions: {', '.join(sorted(set(refused)))}")
                else:
                    self._subscribed()
            case mqtt5.PingRespPacket():
                self._unanswered = 0
                if self._pong is not None and not self._pong.done():
                    self._pong.set_result(True)
            case mqtt5.DisconnectPacket():
                self.taken_over = packet.reason_code == mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
                self._fail(f"the broker disconnects us: {packet.reason_code.name} {packet.reason_str or ''}".rstrip())
            case _:
                self._fail(f"unexpected {type(packet).__name__}")

    def _subscribed(self) -> None:
        if self._source.subscriptions.settled and not self.subscribed.done():
            self.subscribed.set_result(None)
            if self._source._paused:  # noqa: SLF001 - not earlier, or the broker's answers would stay unread
                self.hold()

    def _paced(self) -> None:
        self._resume_timer = None
        if self._transport is not None and not self._held:
            self._transport.resume_reading()

    def _ping(self, every_s: float) -> None:
        if self._unanswered >= _IN_VAIN and not self._held:
            self._fail(f"no answer to a ping for {_IN_VAIN * every_s:.0f} s")
            return
        self.write(mqtt5.PingReqPacket().write())
        self._unanswered += 1
        self._ping_timer = self._loop.call_later(every_s, self._ping, every_s)

    def _fail(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    def _end(self, reason: str) -> None:
        if not self.closed.done():
            self.closed.set_result(reason)
        if not self.subscribed.done():
            self.subscribed.set_exception(ConnectionError(reason))
            self.subscribed.exception()  # it is told through the source, whether or not somebody waits

    def _cancel_timers(self) -> None:
        for timer in (self._resume_timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        self._resume_timer = self._ping_timer = None


def _same(link: _Link) -> _Link:
    return link
