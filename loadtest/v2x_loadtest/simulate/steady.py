"""What devices say on a schedule of their own: SPAT, MAP, RSI, heartbeats, poles, piles.

Each device has its slot in the period of each type, spread over all devices of the run, so that copies do not speak in
one step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, Final

import numpy as np
from v2x.topics import UPLINKS

from v2x_loadtest.scene import Scene
from v2x_loadtest.simulate import messages
from v2x_loadtest.simulate.announce import Announcement, announcements
from v2x_loadtest.simulate.clock import Clock
from v2x_loadtest.simulate.fleet import Fleet
from v2x_loadtest.simulate.messages import Tails
from v2x_loadtest.simulate.scale import copy_hex
from v2x_loadtest.simulate.step import Collected
from v2x_loadtest.simulate.tolling import Tolling

CODE: Final = {(row.kind, row.type): row.code for row in UPLINKS}
# Periods in steps of 0.1 s (RSU requirements: SPAT 500 ms, MAP 1 s, RSI 1 s).
PERIOD: Final = {"spat": 5, "map": 10, "rsi": 10, "hb": 100, "env": 50, "status": 100}
_PILE_S: Final = ((1, 40.0), (2, 5.0), (3, 60.0), (4, 15.0))  # free, plugged, charging, finished: mean seconds
_CHARGING: Final = 3


def slots(devices: Sequence[int], period: int) -> list[list[int]]:
    """Return the devices of each slot of a period, evenly spread."""
    out: list[list[int]] = [[] for _ in range(period)]
    for i, device in enumerate(devices):
        out[i % period].append(device)
    return out


class Steady:
    """All scheduled speakers of a fleet."""

    def __init__(
        self,
        scene: Scene,
        fleet: Fleet,
        clock: Clock,
        tails: Tails,
        tolling: Tolling,
        wanted: Callable[[str], bool],
        rng: np.random.Generator,
    ) -> None:
        """``wanted(type)``: whether messages of a type are asked for."""
        self._scene, self._fleet, self._clock, self._tails, self._tolling = scene, fleet, clock, tails, tolling
        self._rng = rng
        self._steps = round(scene.duration_s / scene.step_s)
        self._base, self._copy = fleet.base.tolist(), fleet.copy.tolist()
        self._phase, self._ref = fleet.phase.tolist(), fleet.ref.tolist()
        self._region_shift = 1 + max((n["region"] for nodes in scene.maps.values() for n in nodes), default=0)
        self._said: dict[int, list[Announcement]] = {}
        for said in announcements(scene, rng):
            self._said.setdefault(said.rsu, []).append(said)
        self._speakers: list[tuple[list[list[int]], Callable[[int, int, Collected], None]]] = []
        rsus = self._of("rsu")
        lit = [i for i in rsus if scene.signals(scene.devices[self._base[i]].id, 0.0)]
        mapped = [i for i in rsus if scene.maps.get(scene.devices[self._base[i]].id)]
        telling = [i for i in rsus if self._base[i] in self._said]
        self._map_tails = {i: self._map_tail(i) for i in mapped} if wanted("map") else {}
        for name, devices, speak in (
            ("map", mapped, self._map),
            ("spat", lit, self._spat),
            ("rsi", telling, self._rsi),
            ("hb", rsus, self._rsu_hb),
            ("hb", self._of("gantry"), self._gantry_hb),
            ("env", self._of("pole"), self._pole),
            ("status", self._of("pile"), self._pile),
        ):
            if wanted(name):
                self._speakers.append((slots(devices, PERIOD[name]), speak))
        # Piles: (until, device) of each present state.
        self._pile_state: dict[int, tuple[int, float]] = {}
        self._pile_ends: list[tuple[float, int]] = []
        for device in self._of("pile") if wanted("status") else ():
            n = int(rng.integers(len(_PILE_S)))
            self._pile_state[device] = (_PILE_S[n][0], 0.0)
            heappush(self._pile_ends, (float(rng.uniform(0, _PILE_S[n][1])), device))

    def _of(self, kind: str) -> list[int]:
        return [i for i, k in enumerate(self._fleet.kinds) if k == kind]

    def speak(self, k: int, out: Collected) -> None:
        """Add what is said in step ``k`` (going on over loops)."""
        for table, speak in self._speakers:
            for device in table[k % len(table)]:
                speak(k, device, out)
        now_s = (k + 1) * self._scene.step_s
        while self._pile_ends and self._pile_ends[0][0] < now_s:
            until, device = heappop(self._pile_ends)
            state, mean = _PILE_S[self._pile_state[device][0] % len(_PILE_S)]
            self._pile_state[device] = (state, until)
            heappush(self._pile_ends, (until + float(self._rng.uniform(0.5, 1.5)) * mean, device))
            if until >= k * self._scene.step_s:  # earlier ones were before the run
                self._pile(k, device, out)

    def _time(self, k: int, device: int) -> float:
        return float((k + self._phase[device]) * self._scene.step_s)

    def _add(self, code: int, k: int, device: int, record: dict[str, Any], out: Collected) -> None:
        stamp = self._clock.stamp(device, self._time(k, device))
        out.add_raw(code, device, stamp, self._tails.encode(code, record))

    def _spat(self, k: int, device: int, out: Collected) -> None:
        local_s = self._time(k % self._steps, device)
        crossings = self._scene.signals(self._scene.devices[self._base[device]].id, local_s)
        if not crossings:
            return  # out of order
        stamp = self._clock.stamp(device, self._time(k, device))
        shift = self._copy[device] * self._region_shift
        out.add_ints(CODE["rsu", "spat"], device, stamp, messages.spat_ints(stamp[0], crossings, shift))

    def _map_tail(self, device: int) -> bytes:
        nodes, copy = self._scene.maps[self._scene.devices[self._base[device]].id], self._copy[device]
        record = messages.map_record(nodes, copy, copy * self._region_shift, int(self._fleet.d_lon[device]))
        return self._tails.encode(CODE["rsu", "map"], record)

    def _map(self, k: int, device: int, out: Collected) -> None:
        stamp = self._clock.stamp(device, self._time(k, device))
        out.add_raw(CODE["rsu", "map"], device, stamp, self._map_tails[device])

    def _rsi(self, k: int, device: int, out: Collected) -> None:
        loop, step = divmod(k, self._steps)
        local_s = self._time(step, device)
        clock = self._clock.reader(device, loop * self._scene.duration_s)
        d_lon, events = int(self._fleet.d_lon[device]), len(self._scene.events)
        said = (x.rte(local_s, loop, events, clock, d_lon) for x in self._said[self._base[device]])
        rtes = [rte for rte in said if rte is not None][: messages.MAX_RTES]
        if rtes:
            ts = self._clock.stamp(device, self._time(k, device))[0]
            self._add(CODE["rsu", "rsi"], k, device, messages.rsi_record(ts, self._ref[device], rtes), out)

    def _rsu_hb(self, k: int, device: int, out: Collected) -> None:
        load = self._rng.integers(50, 600, 3).tolist()
        self._add(CODE["rsu", "hb"], k, device, messages.rsu_hb_record(self._ref[device], load), out)

    def _gantry_hb(self, k: int, device: int, out: Collected) -> None:
        base = self._base[device]
        number = copy_hex(self._tolling.hexes[base], self._copy[device])
        backlog = self._tolling.waiting(base, self._time(k, device))
        record = messages.gantry_hb_record(self._ref[device], number, backlog)
        self._add(CODE["gantry", "hb"], k, device, record, out)

    def _pole(self, k: int, device: int, out: Collected) -> None:
        noise = self._rng.normal(0, 1, 4).tolist()
        sky = self._scene.sky(self._scene.devices[self._base[device]].id, self._time(k % self._steps, device))
        record = messages.pole_record(self._ref[device], self._time(k, device), noise, sky)
        self._add(CODE["pole", "env"], k, device, record, out)

    def _pile(self, k: int, device: int, out: Collected) -> None:
        state, since = self._pile_state[device]
        charged = max(self._time(k, device) - since, 0.0) if state == _CHARGING else 0.0
        self._add(CODE["pile", "status"], k, device, messages.pile_record(self._ref[device], state, charged), out)
