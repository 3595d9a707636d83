"""What gantries have to send: transactions and plate records of a scene's passages, with the faults of the field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

import numpy as np
from v2x.topics import UPLINKS

from v2x_loadtest.scene import Scene
from v2x_loadtest.simulate import messages
from v2x_loadtest.simulate.options import GantryModel
from v2x_loadtest.simulate.scale import copy_hex

TRANSACTION: Final = next(r.code for r in UPLINKS if r.type == "transaction")
PLATE: Final = next(r.code for r in UPLINKS if r.type == "plate")
_DEFAULT_MILEAGE: Final = 1000
_TRIP_S: Final = (300.0, 5400.0)  # how long ago a vehicle entered the motorway
Clock = Callable[[float], float]  # scene second -> event time, ms UTC
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Sending:
    """A record that a gantry sends at ``at_s`` (scene seconds going on over loops)."""

    at_s: float
    base: int  # row of the gantry in scene.devices
    code: int
    passage: int  # row of scene.passages
    loop: int
    failed: bool = False
    consume_ms: int = 0
    plate_fault: int = 0  # 1 unread, 2 misread
    matched: bool = False  # a plate record that has its transaction
    reliability: int = 190


class Tolling:
    """The sendings of all gantries of a scene in order of time; copies share them."""

    def __init__(self, scene: Scene, offset_s: float, model: GantryModel, rng: np.random.Generator) -> None:
        self._scene, self._model, self._rng, self._offset = scene, model, rng, offset_s
        self._queue: list[tuple[float, int, Sending]] = []
        self._count = 0
        self._loop = -1
        self.hexes = {i: str(d.props["gantry_hex"]) for i, d in enumerate(scene.devices) if d.kind == "gantry"}
        ends = {s["to"]: round(s["length_m"]) for s in scene.zones["sections"]}
        self._mileage = {i: ends.get(h, _DEFAULT_MILEAGE) for i, h in self.hexes.items()}
        self._before: list[int] = []  # row of the same vehicle's passage before, or -1
        last: dict[int, int] = {}
        for i, vehicle in enumerate(np.asarray(scene.passages.vehicle).tolist()):
            self._before.append(last.get(vehicle, -1))
            last[vehicle] = i
        self._trip = rng.uniform(*_TRIP_S, max(len(scene.vehicles), 1))

    def due(self, from_s: float, to_s: float) -> list[Sending]:
        """Return what is sent in [from_s, to_s), in order of time; call with rising times."""
        duration = self._scene.duration_s
        while self._loop < int(to_s / duration + 1e-9):
            self._loop += 1
            self._fill(self._loop)
        out = []
        while self._queue and self._queue[0][0] < to_s:
            out.append(heappop(self._queue)[2])
        return [s for s in out if s.at_s >= from_s - 1e-9]

    def _push(self, sending: Sending) -> None:
        self._count += 1
        heappush(self._queue, (sending.at_s, self._count, sending))

    def _fill(self, loop: int) -> None:
        m, rng, start = self._model, self._rng, loop * self._scene.duration_s
        for i, t in enumerate(np.asarray(self._scene.passages.t_s).tolist()):
            draw, delay, wait = rng.random(3), rng.uniform(*m.delay_s), rng.uniform(0.3, 1.5)
            consume, reliability = int(rng.integers(120, 300)), int(rng.integers(170, 200))
            if loop == 0 and t < self._offset:
                continue
            base = int(self._scene.passages.gantry[i])
            missed = draw[0] < m.missed
            failed = not missed and draw[1] < m.failed
            if not missed:
                self._push(Sending(start + t + delay, base, TRANSACTION, i, loop, failed=failed, consume_ms=consume))
            fault = 1 if draw[2] < m.plate_unread else 2 if draw[2] < m.plate_unread + m.plate_misread else 0
            # The camera knows its transaction only if that was done first.
            self._push(
                Sending(
                    start + t + wait,
                    base,
                    PLATE,
                    i,
                    loop,
                    plate_fault=fault,
                    matched=not missed and not failed and delay < wait,
                    reliability=reliability if fault == 0 else 80,
                )
            )

    def waiting(self, base: int, now_s: float) -> tuple[int, int]:
        """Return transactions and plates of passages before ``now_s`` that a gantry has yet to send."""
        out = [0, 0]
        for _, _, s in self._queue:
            if s.base == base and self._passed(s) <= now_s:
                out[s.code == PLATE] += 1
        return out[0], out[1]

    def _passed(self, s: Sending) -> float:
        return s.loop * self._scene.duration_s + float(self._scene.passages.t_s[s.passage])

    def record(
        self, s: Sending, copy: int, copies: int, event_ms: Clock, skew_ms: Callable[[int], float]
    ) -> tuple[int, dict[str, Any]]:
        """Return ts_ms and record of a sending in a copy.

        ``event_ms(scene second) -> ms`` is the true event time, ``skew_ms(base) -> ms`` the clock error of a gantry.
        """
        scene, p = self._scene, self._scene.passages
        vehicle, start = int(p.vehicle[s.passage]), s.loop * scene.duration_s
        serial = s.loop * len(p.t_s) + s.passage
        ts = round(event_ms(self._passed(s)) + skew_ms(s.base))
        v = scene.vehicles
        who = messages.traveller(
            v.plate[vehicle],
            int(v.plate_colour[vehicle]),
            v.obu_sn[vehicle],
            int(v.vehicle_type[vehicle]),
            (s.loop * copies + copy) * len(v) + vehicle,
            original=copy == 0 and s.loop == 0,
            entered_ms=round(event_ms(start - float(self._trip[vehicle]))),
        )
        number, direction = copy_hex(self.hexes[s.base], copy), int(p.dir[s.passage])
        if s.code == TRANSACTION:
            last = self._before[s.passage]
            last_base = int(p.gantry[last]) if last >= 0 else -1
            return ts, messages.transaction_record(
                who,
                gantry_hex=number,
                direction=direction,
                ts_ms=ts,
                serial=serial,
                consume_ms=s.consume_ms,
                failed=s.failed,
                mileage_m=self._mileage[s.base],
                last_hex=copy_hex(self.hexes[last_base], copy) if last >= 0 else "",
                last_ms=int(event_ms(start + float(p.t_s[last])) + skew_ms(last_base)) // 1000 * 1000
                if last >= 0
                else 0,
            )
        plate = who.plate
        if s.plate_fault == 1:
            plate = ""
        elif s.plate_fault == 2 and plate:
            at = len(plate) - 1 - s.passage % 4
            plate = plate[:at] + _LETTERS[(_LETTERS.find(plate[at]) + 1) % len(_LETTERS)] + plate[at + 1 :]
        return ts, messages.plate_record(
            gantry_hex=number,
            direction=direction,
            ts_ms=ts,
            serial=serial,
            lane=int(p.lane[s.passage]),
            plate=plate,
            colour=who.colour if plate else 9,
            speed_mps=float(p.speed_mps[s.passage]),
            reliability=s.reliability,
            trade=messages.trade_id(number, ts, serial) if s.matched else "",
        )
