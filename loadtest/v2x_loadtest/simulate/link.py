"""One device's MQTT 5 connection: an asyncio.Protocol on the sans-IO ``mqtt5`` codec.

A device has a client id, publishes at QoS 1 and counts what the broker acknowledges. PUBACK with 0x10 (no matching
subscribers) or an error is *not delivered*: a perishable message is lost then, a reliable one is tried again, five
times with growing pauses. What is un-acknowledged when the connection goes is sent again, with DUP, on the next one;
what comes up meanwhile is kept: the newest ``KEEP`` perishable messages, reliable ones up to ``KEEP_RELIABLE``.

A device with reliable types also has a ``Store`` (store.py), listens to its confirms, and publishes again what they ask
for. Such a repeat is no row of the ledger: the message has one already.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import mqtt5
from v2x.errors import BrokerError
from v2x.topics import UPLINKS, MessageClass

from v2x_loadtest.simulate.ledger import Ledger
from v2x_loadtest.simulate.store import Key, Store, Tally, read_confirm

KEEP: Final = 300
KEEP_RELIABLE: Final = 10_000
TRIES: Final = 5
KEEP_ALIVE_S: Final = 30
CONNECT_S: Final = 10.0
_IDS: Final = 65_534  # of publishes
_SUBSCRIBE_ID: Final = 65_535
_QOS1: Final = mqtt5.QoS.AT_LEAST_ONCE
_HIGH_WATER: Final = 1 << 20
RELIABLE: Final = tuple(row.message_class is MessageClass.RELIABLE for row in UPLINKS)
RETAINED: Final = tuple(row.type == "map" for row in UPLINKS)

TYPES: Final = tuple(row.type for row in UPLINKS)

# (ledger row or -1, UPLINKS code, payload, tries so far, what the store knows it by)
Item = tuple[int, int, bytes, int, Key | None]


@dataclass(slots=True)
class Broker:
    """What the connections of a run share: where the broker is, the ledger, and counts."""

    host: str
    port: int
    ledger: Ledger
    rng: random.Random
    resent: int = 0  # with DUP after a reconnect, or again after a refusal
    refused: int = 0  # PUBACKs other than success
    given_up: int = 0
    reconnects: int = 0
    connected: int = 0
    in_flight: int = 0
    retrying: int = 0  # refused reliable messages that pause
    stopping: bool = False
    acked_rows: list[int] = field(default_factory=list)
    acked_at: list[int] = field(default_factory=list)
    confirms: int = 0  # heard
    tally: Tally = field(default_factory=Tally)  # of all stores

    def account(self) -> None:
        """Enter gathered acknowledgements in the ledger."""
        if self.acked_rows:
            self.ledger.acked(self.acked_rows, self.acked_at)
            self.acked_rows, self.acked_at = [], []


class DeviceLink(asyncio.Protocol):
    """A device's connection, kept up until ``close``."""

    __slots__ = (
        "_broker", "_connack", "_heard", "_inflight", "_keeper", "_lost", "_next_id", "_paused", "_rest", "_silent",
        "_topic", "_topics", "_transport", "_used", "_waiting", "_window", "boot", "client_id", "confirms", "ready",
        "store",
    )  # fmt: skip

    def __init__(self, broker: Broker, client_id: str, topic: Callable[[int], str], confirms: str = "") -> None:
        """``topic(code)`` names the topic of a message type; ``confirms``: that of its confirms, if it is to listen."""
        self._broker, self.client_id, self._topic = broker, client_id, topic
        self.confirms, self.boot = confirms, 0
        self.store = Store(broker.tally) if confirms else None
        self._topics: dict[int, str] = {}
        self._transport: asyncio.Transport | None = None
        self._inflight: dict[int, Item] = {}
        self._waiting: deque[Item] = deque()
        self._next_id, self._window = 0, 0
        self.ready = self._paused = False
        self._used = self._heard = False
        self._silent = 0
        self._rest = b""
        self._connack: asyncio.Future[mqtt5.ConnAckPacket] | None = None
        self._lost = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def unacknowledged(self) -> int:
        """Return how many messages wait for the broker or for a connection."""
        return len(self._inflight) + len(self._waiting)

    def send(self, row: int, code: int, payload: bytes, seq: int) -> None:
        """Publish now, or as soon as there is a connection and room in the broker's window.

        ``seq``: its number; -1 for a repeat that the link makes, of which the device knows nothing.
        """
        key = None
        if self.store is not None and seq >= 0 and RELIABLE[code]:
            key = Key(TYPES[code], self.boot, seq)
            self.store.keep(key, payload)
        if not self.ready or self._paused or len(self._inflight) >= self._window:
            self._broker.ledger.held_back(row)
            self._keep((row, code, payload, 0, key))
        else:
            self._publish((row, code, payload, 0, key))

    def send_again(self, now: float) -> None:
        """Publish again what the store wants; call it about once a second."""
        if self.store and self.ready:
            codes = {TYPES[code]: code for code in self._topics if RELIABLE[code]}
            for key, payload in self.store.due(now):
                self._waiting.append((-1, codes[key.type], payload, 1, key))
            self._drain()

    def _publish(self, item: Item, *, duplicate: bool = False) -> None:
        assert self._transport is not None
        _, code, payload, _, _ = item
        pid = self._next_id
        while True:
            pid = pid % _IDS + 1
            if pid not in self._inflight:
                break
        self._next_id = pid
        topic = self._topics.get(code)
        if topic is None:
            topic = self._topics[code] = self._topic(code)
        self._inflight[pid] = item
        self._broker.in_flight += 1
        self._used = True
        self._transport.write(
            mqtt5.PublishPacket(
                topic, payload, qos=_QOS1, retain=RETAINED[code], packet_id=pid, duplicate=duplicate
            ).write()
        )

    def _keep(self, item: Item) -> None:
        """Put a message that has not left into the device's memory; drop the oldest perishable one if that is full."""
        self._waiting.append(item)
        if len(self._waiting) > KEEP:
            i = next((i for i, x in enumerate(self._waiting) if not RELIABLE[x[1]]), None)
            if i is None and len(self._waiting) > KEEP_RELIABLE:
                i = 0
            if i is not None:
                item = self._waiting[i]
                del self._waiting[i]
                self._give_up(item)

    def _give_up(self, item: Item) -> None:
        row, _, _, _, key = item
        if row >= 0:
            self._broker.given_up += 1
            self._broker.ledger.dropped(row)
        if key is not None and self.store is not None:
            self.store.discard(key)

    def _drain(self) -> None:
        """Send what waits, as far as the window goes."""
        now = time.time_ns() // 1000
        while self._waiting and self.ready and not self._paused and len(self._inflight) < self._window:
            item = self._waiting.popleft()
            if item[3] == 0:
                self._broker.ledger.sent(item[0], now)
            else:
                self._broker.resent += 1
            self._publish(item)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are."""
        transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._rest = b""
        packet = mqtt5.ConnectPacket(self.client_id, clean_start=True, keep_alive=KEEP_ALIVE_S)
        transport.write(packet.write())

    def data_received(self, data: bytes) -> None:
        """Take acknowledgements."""
        self._heard = True
        if self._rest:
            data = self._rest + data
        view, at, now = memoryview(data), 0, time.time_ns() // 1000
        try:
            while at < len(data):
                packet, size = mqtt5.read(view[at:])
                at += size
                if isinstance(packet, mqtt5.PubAckPacket):
                    self._acknowledged(packet, now)
                else:
                    self._other(packet)
        except IndexError:  # the packet's end has not come yet
            pass
        except ValueError:
            self._abort()
            return
        self._rest = data[at:]
        if self._waiting:
            self._drain()

    def _acknowledged(self, packet: mqtt5.PubAckPacket, now: int) -> None:
        item = self._inflight.pop(packet.packet_id, None)
        if item is None:
            return
        broker = self._broker
        broker.in_flight -= 1
        if packet.reason_code == 0:
            row, _, _, _, key = item
            if row >= 0:
                broker.acked_rows.append(row)
                broker.acked_at.append(now)
            if key is not None and self.store is not None:
                self.store.delivered(key, now / 1e6)
            return
        broker.refused += 1
        row, code, payload, tries, key = item
        if not RELIABLE[code] or tries + 1 >= TRIES:
            self._give_up(item)
            return
        broker.retrying += 1
        pause = 0.5 * 2**tries * broker.rng.uniform(0.5, 1.5)
        asyncio.get_running_loop().call_later(pause, self._again, (row, code, payload, tries + 1, key))

    def _again(self, item: Item) -> None:
        self._broker.retrying -= 1
        self._waiting.append(item)
        self._drain()

    def _other(self, packet: Any) -> None:
        if isinstance(packet, mqtt5.ConnAckPacket):
            if self._connack is not None and not self._connack.done():
                self._connack.set_result(packet)
        elif isinstance(packet, mqtt5.PublishPacket):
            told = read_confirm(bytes(packet.payload or b""))
            if told is not None and self.store is not None:
                self._broker.confirms += 1
                self.store.confirmed(told)
        elif isinstance(packet, mqtt5.DisconnectPacket):
            self._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the keeper."""
        if self.ready:
            self._broker.connected -= 1
        self.ready, self._transport = False, None
        if self._connack is not None and not self._connack.done():
            self._connack.set_exception(exc or ConnectionResetError("the broker closed the connection"))
        self._lost.set()

    def pause_writing(self) -> None:
        """Hold back: the broker does not read."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        self._drain()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Coming and going.

    async def open(self) -> None:
        """Connect once, and stay connected from then on; BrokerError if the broker refuses or is not there."""
        try:
            await self._connect()
        except (OSError, TimeoutError) as error:
            b = self._broker
            raise BrokerError(
                f"no MQTT broker at {b.host}:{b.port} ({str(error) or 'it does not answer'}); start one with `v2x up`,"
                " or name yours with --mqtt HOST:PORT"
            ) from error
        self._keeper = asyncio.ensure_future(self._keep_up())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._connack = loop.create_future()
        self._lost.clear()
        async with asyncio.timeout(CONNECT_S):
            await loop.create_connection(lambda: self, self._broker.host, self._broker.port)
            try:
                connack = await self._connack
            except BaseException:
                self._abort()
                raise
        if connack.reason_code != 0:
            self._abort()
            raise BrokerError(f"the MQTT broker refuses device {self.client_id}: {connack.reason_code.name}")
        self._window = connack.receive_max
        self._paused = False
        self._broker.connected += 1
        self.ready = True
        if self.confirms and self._transport is not None:
            # At QoS 0: a confirm that is lost is said again.
            self._transport.write(mqtt5.SubscribePacket(_SUBSCRIBE_ID, [mqtt5.TopicFilter(self.confirms)]).write())
        unacknowledged, self._inflight = list(self._inflight.values()), {}
        self._broker.in_flight -= len(unacknowledged)
        for i, item in enumerate(unacknowledged):
            if len(self._inflight) >= self._window:
                rest = [(row, code, data, max(tries, 1), key) for row, code, data, tries, key in unacknowledged[i:]]
                self._waiting.extendleft(reversed(rest))
                break
            self._broker.resent += 1
            self._publish(item, duplicate=True)
        self._drain()

    async def _keep_up(self) -> None:
        pause = 0.1
        while True:
            await self._lost.wait()
            if self._broker.stopping:
                return
            await asyncio.sleep(self._broker.rng.uniform(0.5, 1.0) * pause)
            try:
                await self._connect()
            except (OSError, TimeoutError, BrokerError):
                self._lost.set()
                pause = min(pause * 2, 5.0)
            else:
                self._broker.reconnects += 1
                pause = 0.1

    def look_after(self) -> None:
        """Ping an idle connection, give up one that has been silent for three calls; call every 5 s."""
        if self.ready and self._transport is not None:
            self._silent = 0 if self._heard or (self._used and not self._inflight) else self._silent + 1
            if self._silent >= 3:
                self._abort()
            elif not self._used:
                self._transport.write(mqtt5.PingReqPacket().write())
            self._used = self._heard = False

    async def close(self) -> None:
        """Say goodbye and end."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._transport is not None:
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._transport.close()
            self.ready = False
