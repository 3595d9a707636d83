"""Messages of a run, step by step: what each device measures, says and hands to its link, and when it does.

Pure: no clock, no socket. The same scene, options and start give the same messages, bytes and times. A step is 0.1 s of
the scene; devices have phases within it, so they do not send at one instant. Copies share what is sensed and drawn.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.topics import UPLINKS

from v2x_codecs.registry import Registry
from v2x_loadtest.scene import Scene
from v2x_loadtest.simulate import messages
from v2x_loadtest.simulate.announce import announcements
from v2x_loadtest.simulate.encode import BSM, BSM_FIELDS, INTS, PARTICIPANT, RSM
from v2x_loadtest.simulate.fleet import Fleet, make_fleet, phases
from v2x_loadtest.simulate.gnss import Obus
from v2x_loadtest.simulate.motion import metres_per_degree, motion
from v2x_loadtest.simulate.options import Options, TimeMap
from v2x_loadtest.simulate.scale import copy_hex
from v2x_loadtest.simulate.sensors import RsuSensors
from v2x_loadtest.simulate.step import MESSAGE, REPEAT, SPOILT, UNAVAILABLE, Collected, Step
from v2x_loadtest.simulate.tolling import Tolling

I8 = npt.NDArray[np.int64]

CODE: Final = {(row.kind, row.type): row.code for row in UPLINKS}
# Periods in steps of 0.1 s.
PERIOD: Final = {"spat": 5, "map": 10, "rsi": 10, "hb": 100, "env": 50, "status": 100}
_PILE_S: Final = ((1, 40.0), (2, 5.0), (3, 60.0), (4, 15.0))  # free, plugged, charging, finished: mean seconds


class Generator:
    """Makes the steps of a run one after the other."""

    def __init__(self, scene: Scene, options: Options, wall0_us: int) -> None:
        options.check(scene.duration_s)
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(options.seed).spawn(8)]
        fleet_rng, sensor_rng, gnss_rng, self._link_rng, toll_rng, say_rng, self._slow_rng, self._pick = streams
        self.scene, self.options = scene, options
        self.time = TimeMap.start(wall0_us, options, scene.duration_s)
        self.fleet: Fleet = make_fleet(scene, options, wall0_us // 1000, fleet_rng)
        self._tails = messages.Tails(Registry.load())
        self._steps = round(scene.duration_s / scene.step_s)
        self.next_step = round(options.offset / scene.step_s)
        self._end_s = np.inf
        if (seconds := options.seconds(scene.duration_s)) is not None:
            self._end_s = options.offset + seconds * options.speed
        self._rsu = [i for i, d in enumerate(scene.devices) if d.kind == "rsu"]
        self._obu = [i for i, d in enumerate(scene.devices) if d.kind == "obu"]
        self._rsu_phase, self._obu_phase = phases(len(self._rsu)), phases(len(self._obu))
        self.sensors = RsuSensors(
            [scene.devices[i] for i in self._rsu],
            scene.vehicles,
            self._rsu_phase,
            scene.step_s,
            options.sensors,
            sensor_rng,
        )
        self._obus = Obus(
            np.array([scene.devices[i].props["vehicle"] for i in self._obu], np.int64),
            scene.vehicles,
            self._obu_phase,
            scene.step_s,
            options.gnss,
            gnss_rng,
        )
        self._tolling = Tolling(scene, options.offset, options.gantries, toll_rng)
        self._announced = announcements(scene, say_rng)
        self._region_shift = 1 + max((n["region"] for nodes in scene.maps.values() for n in nodes), default=0)
        self._map_tails: dict[int, bytes] = {}
        self._count0 = fleet_rng.integers(0, 128, (len(self.fleet), len(UPLINKS)))
        self._piles: dict[int, tuple[int, float, float]] = {}  # base -> state, since, until
        self._blind = np.zeros(0, bool)
        self._wanted = np.array([options.types is None or row.type in options.types for row in UPLINKS])

    @property
    def done(self) -> bool:
        """Say whether the run's content is complete."""
        return self.next_step * self.scene.step_s >= self._end_s - 1e-9

    def wall_us(self, step: int) -> int:
        """Return when a step begins, wall time."""
        t = self.time
        return t.wall0_us + round((step * self.scene.step_s - t.offset) / t.speed * 1e6)

    def event_ms(self, t_s: float) -> float:
        """Return the event time of a scene second (going on over loops), ms UTC by a true clock, in copy 0."""
        return self.time.event0_us / 1e3 + (t_s - self.time.offset) * 1e3

    def step(self) -> Step:
        """Return the messages of the next step."""
        k = self.next_step
        self.next_step += 1
        at = k % self._steps
        if at == 0:
            self.sensors.forget()
        out = Collected()
        road = motion(self.scene, at)
        scans = self.sensors.sense(k, road)
        rows, temp = self._moving(k, road, scans.first, out)
        self._signs(k, out)
        self._tolls(k, out)
        self._slow(k, out)
        return self._finish(k, out, scans.parts, rows, temp)

    def _stamps(self, device: Any, t_s: Any, handed_s: Any = 0.0) -> tuple[Any, Any]:
        """Return ts_ms by the devices' clocks and the wall time (us) at which they hand the message to their links.

        ``t_s``: scene second of the content; ``handed_s``: seconds until the device is done, beside its usual time.
        """
        f, t = self.fleet, self.time
        late = f.shift_us[device]
        ts = np.round((t.event0_us + late) / 1e3 + (t_s - t.offset) * 1e3 + f.skew_ms[device]).astype(np.int64)
        wall = t.wall0_us + late + (t_s + handed_s - t.offset) / t.speed * 1e6 + f.sensing_ms[device] * 1e3
        return ts, np.round(wall).astype(np.int64)

    def _moving(self, k: int, road: Any, first: I8, out: Collected) -> tuple[Any, Any]:
        """Add RSMs, BSMs and the BSMs that RSUs relay."""
        f, start = self.fleet, k * self.scene.step_s
        device = f.at[:, self._rsu]  # (copies, RSUs)
        on = device >= 0
        if len(self._rsu):
            t_s = np.broadcast_to(start + self._rsu_phase * self.scene.step_s, device.shape)[on]
            ts, wall = self._stamps(device[on], t_s)
            a, b = (np.broadcast_to(x, device.shape)[on] for x in (first[:-1], first[1:]))
            out.add(RSM, CODE["rsu", "rsm"], device[on], ts, wall, a, b)
        if not self._obu:
            return np.zeros((0, len(BSM_FIELDS)), np.int32), np.zeros((0, 8), np.uint8)
        here, rows, temp, blind = self._obus.report(k, road)
        obu = np.array(self._obu)[here]
        device = f.at[:, obu]
        on = device >= 0
        t_s = np.broadcast_to(start + self._obu_phase[here] * self.scene.step_s, device.shape)
        ts, wall = self._stamps(device, t_s)
        row = np.broadcast_to(np.arange(len(here)), device.shape)
        flags = np.broadcast_to(np.where(blind, UNAVAILABLE, 0), device.shape)
        out.add(BSM, CODE["obu", "bsm"], device[on], ts[on], wall[on], row[on], row[on], flags[on])
        heard = np.flatnonzero((self._pick.random(len(here)) < self.options.gnss.relay) & ~blind)
        for i in heard:
            rsu = self._in_range(rows[i])
            relay = f.at[:, rsu] if rsu >= 0 else np.full(f.copies, -1)
            both = (relay >= 0) & on[:, i]
            # Content and stamp are the OBU's, the envelope is the RSU's, which adds its own processing.
            more = f.sensing_ms[relay[both]] * 1e3
            out.add(BSM, CODE["rsu", "bsm"], relay[both], ts[both, i], wall[both, i] + more.astype(np.int64), i, i)
        return rows, temp

    def _in_range(self, bsm: Any) -> int:
        """Return the nearest RSU (row in scene.devices) that hears an OBU, or -1."""
        lat, lon = bsm[1] / 1e7, bsm[2] / 1e7
        north, east = metres_per_degree(lat)
        best, reach = -1, np.inf
        for i in self._rsu:
            d = self.scene.devices[i]
            far = np.hypot((d.lat - lat) * north, (d.lon - lon) * east)
            if far < min(reach, d.range_m):
                best, reach = i, far
        return best

    def _signs(self, k: int, out: Collected) -> None:
        """Add SPAT, MAP and RSI."""
        f, step_s = self.fleet, self.scene.step_s
        loop, in_loop = divmod(k, self._steps)
        for r, base in enumerate(self._rsu):
            t_s = (k + self._rsu_phase[r]) * step_s
            local_s = (in_loop + self._rsu_phase[r]) * step_s
            spat = self.scene.signals(self.scene.devices[base].id, local_s) if (k + r) % PERIOD["spat"] == 0 else []
            due_map = (k + r) % PERIOD["map"] == 0 and base in self._maps()
            says = [x for x in self._announced if x.rsu == base] if (k + r) % PERIOD["rsi"] == 0 else []
            if not (spat or due_map or says):
                continue
            for copy in np.flatnonzero(f.at[:, base] >= 0).tolist():
                device = int(f.at[copy, base])
                ts, wall = (int(x) for x in self._stamps(device, t_s))
                if spat:
                    a = len(out.ints)
                    out.ints += messages.spat_ints(ts, spat, copy * self._region_shift)
                    out.add(INTS, CODE["rsu", "spat"], device, ts, wall, a, len(out.ints))
                if due_map:
                    out.add_raw(CODE["rsu", "map"], device, ts, wall, self._map_tail(copy, base, device))
                rtes = [
                    rte
                    for x in says
                    if (
                        rte := x.rte(
                            local_s, loop, len(self.scene.events), self._loop_ms(loop, device), int(f.d_lon[device])
                        )
                    )
                ]
                if rtes:
                    tail = self._tails.encode(CODE["rsu", "rsi"], messages.rsi_record(ts, f.ref[device], rtes[:16]))
                    out.add_raw(CODE["rsu", "rsi"], device, ts, wall, tail)

    def _maps(self) -> set[int]:
        return {i for i in self._rsu if self.scene.maps.get(self.scene.devices[i].id)}

    def _loop_ms(self, loop: int, device: int) -> Any:
        """Return the clock of a device: second of one loop -> ms."""
        f, start = self.fleet, loop * self.scene.duration_s
        late = f.shift_us[device] / 1e3 + f.skew_ms[device]
        return lambda t_s: self.event_ms(start + t_s) + late

    def _map_tail(self, copy: int, base: int, device: int) -> bytes:
        if device not in self._map_tails:
            record = messages.map_record(
                self.scene.maps[self.scene.devices[base].id],
                copy,
                copy * self._region_shift,
                int(self.fleet.d_lon[device]),
            )
            self._map_tails[device] = self._tails.encode(CODE["rsu", "map"], record)
        return self._map_tails[device]

    def _tolls(self, k: int, out: Collected) -> None:
        """Add transactions and plates."""
        f, step_s = self.fleet, self.scene.step_s
        for s in self._tolling.due(k * step_s, (k + 1) * step_s):
            for copy in np.flatnonzero(f.at[:, s.base] >= 0).tolist():
                device = int(f.at[copy, s.base])
                late = f.shift_us[device] / 1e3

                def skew(base: int, copy: int = copy, late: float = late) -> float:
                    return float(f.skew_ms[f.at[copy, base]]) + late

                ts, record = self._tolling.record(s, copy, f.copies, self.event_ms, skew)
                _, wall = self._stamps(device, s.at_s)
                out.add_raw(s.code, device, ts, int(wall), self._tails.encode(s.code, record))

    def _slow(self, k: int, out: Collected) -> None:
        """Add heartbeats, poles and piles."""
        f, step_s, rng = self.fleet, self.scene.step_s, self._slow_rng
        for base, d in enumerate(self.scene.devices):
            if d.kind == "obu":
                continue
            period = PERIOD[{"pole": "env", "pile": "status"}.get(d.kind, "hb")]
            changed = d.kind == "pile" and self._pile_changes(base, k * step_s)
            if not changed and (k + base * 7) % period:
                continue
            t_s = k * step_s + float(phases(base + 1)[-1]) * step_s
            noise, load = rng.normal(0, 1, 4), rng.integers(50, 600, 3)
            for copy in np.flatnonzero(f.at[:, base] >= 0).tolist():
                device = int(f.at[copy, base])
                ts, wall = (int(x) for x in self._stamps(device, t_s))
                ref = f.ref[device].tolist()
                if d.kind == "rsu":
                    code, record = CODE["rsu", "hb"], messages.rsu_hb_record(ref, load.tolist())
                elif d.kind == "gantry":
                    code = CODE["gantry", "hb"]
                    number = copy_hex(self._tolling.hexes[base], copy)
                    record = messages.gantry_hb_record(ref, number, self._tolling.waiting(base, t_s))
                elif d.kind == "pole":
                    code, record = CODE["pole", "env"], messages.pole_record(ref, t_s, noise.tolist())
                else:
                    code = CODE["pile", "status"]
                    state, since, _ = self._piles[base]
                    record = messages.pile_record(ref, state, t_s - since if state == 3 else 0.0)
                out.add_raw(code, device, ts, wall, self._tails.encode(code, record))

    def _pile_changes(self, base: int, t_s: float) -> bool:
        """Move a pile on in its cycle; say whether its state changed."""
        rng = self._slow_rng
        if base not in self._piles:
            n = int(rng.integers(len(_PILE_S)))
            self._piles[base] = (_PILE_S[n][0], t_s, t_s + float(rng.uniform(0, _PILE_S[n][1])))
            return True
        state, _, until = self._piles[base]
        if t_s < until:
            return False
        state, mean = _PILE_S[state % len(_PILE_S)]
        self._piles[base] = (state, t_s, t_s + float(rng.uniform(0.5, 1.5)) * mean)
        return True

    def _finish(self, k: int, out: Collected, parts: Any, rows: Any, temp: Any) -> Step:
        """Give numbers to the messages, encode them, and send them through the simulated links."""
        if not out.columns:
            return Step(np.zeros(0, MESSAGE), b"")
        kind, code, device, ts, handed, a, b, flags = (
            np.concatenate([c[i] for c in out.columns]).astype(t)
            for i, t in enumerate(("u1", "u1", "i4", "i8", "i8", "i8", "i8", "u1"))
        )
        keep = self._wanted[code]
        kind, code, device, ts, handed, a, b, flags = (x[keep] for x in (kind, code, device, ts, handed, a, b, flags))
        seq = self._number(device, code)
        count = (self._count0[device, code] + seq) % 128
        blob, start, end = self.fleet.writer.write(
            kind,
            code,
            device,
            seq,
            ts,
            count,
            a,
            b,
            np.ascontiguousarray(parts.reshape(-1, len(PARTICIPANT))),
            rows,
            temp,
            np.array(out.ints, np.int64),
            np.frombuffer(bytes(out.raw) or b"\0", np.uint8).copy(),
        )
        m = np.zeros(len(kind), MESSAGE)
        m["device"], m["code"], m["seq"], m["ts_ms"], m["flags"] = device, code, seq, ts, flags
        m["start"], m["end"], m["step"] = start, end, k
        self._spoil(m)
        link, rng, n = self.options.link, self._link_rng, len(m)
        tail = np.exp(rng.normal(np.log(link.tail_median_ms), link.tail_sigma, n))
        delay = self.fleet.base_ms[device] + np.minimum(tail, link.tail_max_ms)
        m["intended_us"] = handed + np.round(delay * 1e3).astype(np.int64)
        again = m[rng.random(n) < link.duplicate].copy()
        again["flags"] |= REPEAT
        again["intended_us"] += rng.integers(1_000, 60_000, len(again))
        m = np.concatenate([m, again])
        return Step(m[np.argsort(m["intended_us"], kind="stable")], blob)

    def _number(self, device: I8, code: Any) -> I8:
        """Return the next numbers per device and type, in the order given."""
        key = device.astype(np.int64) * len(UPLINKS) + code
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        new = np.ones(len(key), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        first = np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))
        rank = np.empty(len(key), np.int64)
        rank[order] = np.arange(len(key)) - first
        seq = self.fleet.seq[device, code] + rank
        np.add.at(self.fleet.seq, (device, code), 1)
        return np.asarray(seq)

    def _spoil(self, m: npt.NDArray[Any]) -> None:
        """Cut short a share of one device's messages, as asked for by ``bad``."""
        if self.options.bad is None or self.options.bad[0] not in self.fleet.ids:
            return
        device, share = self.fleet.ids.index(self.options.bad[0]), self.options.bad[1]
        hit = np.flatnonzero((m["device"] == device) & (self._pick.random(len(m)) < share))
        m["end"][hit] -= np.maximum((m["end"][hit] - m["start"][hit]) // 3, 1)
        m["flags"][hit] |= SPOILT


def build_messages(scene: Scene, options: Options, wall0_us: int) -> list[Step]:
    """Return all steps of a run that has an end."""
    generator = Generator(scene, options, wall0_us)
    if options.seconds(scene.duration_s) is None:
        raise ValueError("a run without an end has no list of messages")
    out = []
    while not generator.done:
        out.append(generator.step())
    return out
