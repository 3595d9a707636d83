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
_PLATE_S: Final = (0.3, 1.5)  # from the passage to the sending of its plate record
_GOLDEN: Final = 0.6180339887498949
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Sending:
    """A record that a gantry sends of a passage; copies send it at times of their own within ``window_s``."""

    code: int
    base: int  # row of the gantry in scene.devices
    passage: int  # row of scene.passages
    loop: int
    passed_s: float  # scene seconds going on over loops
    window_s: tuple[float, float]  # when it may be sent, after the passage
    place: float  # of copy 0 in the window, [0, 1)
    failed: bool = False
    consume_ms: int = 0
    plate_fault: int = 0  # 1 unread, 2 misread
    matched: bool = False  # a plate record that has its transaction
    reliability: int = 190
    last: int = -1  # row of the passage that the vehicle's card tells of: the last before that was no miss

    def at_s(self, copy: int) -> float:
        """Return when a copy sends it."""
        first, last = self.window_s
        return self.passed_s + first + (last - first) * ((self.place + copy * _GOLDEN) % 1.0)


class Tolling:
    """The sendings of all gantries, step by step."""

    def __init__(
        self, scene: Scene, offset_s: float, copies: int, model: GantryModel, rng: np.random.Generator
    ) -> None:
        self._scene, self._model, self._rng, self._offset, self._copies = scene, model, rng, offset_s, copies
        self._passages: list[tuple[float, int, Sending]] = []  # heap by time of the passage
        self._buckets: dict[int, list[tuple[float, int, Sending]]] = {}  # by step of the sending
        self._count = 0
        self._loop = -1
        self._open: dict[tuple[int, int], list[tuple[float, float]]] = {}  # (gantry, code): passed, sent by copy 0
        self.hexes = {i: str(d.props["gantry_hex"]) for i, d in enumerate(scene.devices) if d.kind == "gantry"}
        ends = {s["to"]: round(s["length_m"]) for s in scene.zones["sections"]}
        self._mileage = {i: ends.get(h, _DEFAULT_MILEAGE) for i, h in self.hexes.items()}
        self._trip = rng.uniform(*_TRIP_S, max(len(scene.vehicles), 1))

    def due(self, step: int) -> list[tuple[float, int, Sending]]:
        """Return (scene second, copy, sending) of a step in order of time; call with rising steps."""
        to_s = (step + 1) * self._scene.step_s
        while self._loop < int(to_s / self._scene.duration_s + 1e-9):
            self._loop += 1
            self._fill(self._loop)
        while self._passages and self._passages[0][0] < to_s:
            s = heappop(self._passages)[2]
            self._open.setdefault((s.base, s.code), []).append((s.passed_s, s.at_s(0)))
            for copy in range(self._copies):
                at = s.at_s(copy)
                self._buckets.setdefault(int(at / self._scene.step_s), []).append((at, copy, s))
        return sorted(self._buckets.pop(step, ()), key=lambda x: x[0])

    def waiting(self, base: int, now_s: float) -> tuple[int, int]:
        """Return how many transactions and plates a gantry (of copy 0) has yet to send."""
        out = []
        for code in (TRANSACTION, PLATE):
            self._open[base, code] = [x for x in self._open.get((base, code), ()) if x[1] > now_s]
            out.append(sum(passed <= now_s for passed, _ in self._open[base, code]))
        return out[0], out[1]

    def before(self, s: Sending) -> int:
        """Return the gantry (row in scene.devices) that the vehicle passed before; this one if there is none."""
        return int(self._scene.passages.gantry[s.last]) if s.last >= 0 else s.base

    def _push(self, sending: Sending) -> None:
        self._count += 1
        heappush(self._passages, (sending.passed_s, self._count, sending))

    def _fill(self, loop: int) -> None:
        m, rng, start = self._model, self._rng, loop * self._scene.duration_s
        vehicles = np.asarray(self._scene.passages.vehicle).tolist()
        cards: dict[int, int] = {}  # by vehicle: what its card tells of
        for i, t in enumerate(np.asarray(self._scene.passages.t_s).tolist()):
            draw, places = rng.random(3), rng.random(2)
            consume, reliability = int(rng.integers(120, 300)), int(rng.integers(170, 200))
            if loop == 0 and t < self._offset:
                cards[vehicles[i]] = i
                continue
            base = int(self._scene.passages.gantry[i])
            missed = draw[0] < m.missed
            failed = not missed and draw[1] < m.failed
            if not missed:
                last, cards[vehicles[i]] = cards.get(vehicles[i], -1), i
                self._push(
                    Sending(
                        TRANSACTION, base, i, loop, start + t, m.delay_s, places[0], failed=failed, consume_ms=consume,
                        last=last,
                    )
                )  # fmt: skip
            fault = 1 if draw[2] < m.plate_unread else 2 if draw[2] < m.plate_unread + m.plate_misread else 0
            self._push(
                Sending(
                    PLATE,
                    base,
                    i,
                    loop,
                    start + t,
                    _PLATE_S,
                    places[1],
                    plate_fault=fault,
                    matched=not missed and not failed and fault == 0,
                    reliability=reliability if fault == 0 else 80,
                )
            )

    def record(
        self, s: Sending, copy: int, copies: int, clock: Clock, clock_before: Clock
    ) -> tuple[int, dict[str, Any]]:
        """Return ts_ms and record of a sending in a copy, by the clocks of this gantry and of the one before."""
        scene, p = self._scene, self._scene.passages
        vehicle, start = int(p.vehicle[s.passage]), s.loop * scene.duration_s
        serial = s.loop * len(p.t_s) + s.passage
        ts = round(clock(s.passed_s))
        v = scene.vehicles
        who = messages.traveller(
            v.plate[vehicle],
            int(v.plate_colour[vehicle]),
            v.obu_sn[vehicle],
            int(v.vehicle_type[vehicle]),
            (s.loop * copies + copy) * len(v) + vehicle,
            original=copy == 0 and s.loop == 0,
            entered_ms=round(clock(start - float(self._trip[vehicle]))),
        )
        number, direction = copy_hex(self.hexes[s.base], copy), int(p.dir[s.passage])
        if s.code == TRANSACTION:
            last = s.last
            return ts, messages.transaction_record(
                who,
                gantry_hex=number,
                direction=direction,
                ts_ms=ts,
                serial=serial,
                consume_ms=s.consume_ms,
                failed=s.failed,
                mileage_m=self._mileage[s.base],
                last_hex=copy_hex(self.hexes[self.before(s)], copy) if last >= 0 else "",
                last_ms=int(clock_before(start + float(p.t_s[last]))) // 1000 * 1000 if last >= 0 else 0,
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
