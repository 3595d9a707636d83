"""Messages of a run, step by step: what each device measures, says and hands to its link, and when it does.

Pure: no clock, no socket. The same scene, options and start give the same messages, bytes and times. A step is 0.1 s of
the scene; devices have phases within it, so they do not send at one instant. Copies share what is sensed and drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from v2x.topics import UPLINKS

from v2x_codecs.registry import Registry
from v2x_loadtest.scene import Scene
from v2x_loadtest.simulate.clock import Clock
from v2x_loadtest.simulate.encode import BSM, BSM_FIELDS, PARTICIPANT, RSM
from v2x_loadtest.simulate.fleet import Fleet, make_fleet, phases
from v2x_loadtest.simulate.gnss import Obus
from v2x_loadtest.simulate.messages import Tails
from v2x_loadtest.simulate.motion import metres_per_degree, motion
from v2x_loadtest.simulate.options import Options, TimeMap
from v2x_loadtest.simulate.sensors import RsuSensors
from v2x_loadtest.simulate.steady import CODE, Steady
from v2x_loadtest.simulate.step import MESSAGE, REPEAT, SPOILT, UNAVAILABLE, Collected, Step
from v2x_loadtest.simulate.things import Obstacles
from v2x_loadtest.simulate.tolling import Tolling

I8 = npt.NDArray[np.int64]


class Generator:
    """Makes the steps of a run one after the other."""

    def __init__(self, scene: Scene, options: Options, wall0_us: int) -> None:
        options.check(scene.duration_s)
        streams = [np.random.default_rng(s) for s in np.random.SeedSequence(options.seed).spawn(8)]
        fleet_rng, sensor_rng, gnss_rng, self._link_rng, toll_rng, slow_rng, self._pick, thing_rng = streams
        self.scene, self.options = scene, options
        self.time = TimeMap.start(wall0_us, options, scene.duration_s)
        self.fleet: Fleet = make_fleet(scene, options, wall0_us // 1000, fleet_rng)
        self._tails = Tails(Registry.load())
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
        self._things: Obstacles | None = None
        if scene.things:
            errors = self.sensors.sigma, self.sensors.bias
            devices = [scene.devices[i] for i in self._rsu]
            self._things = Obstacles(devices, scene.things, errors, scene.step_s, options.sensors, thing_rng)
        self._obus = Obus(
            np.array([scene.devices[i].props["vehicle"] for i in self._obu], np.int64),
            scene.vehicles,
            self._obu_phase,
            scene.step_s,
            options.gnss,
            gnss_rng,
        )
        self._tolling = Tolling(scene, options.offset, self.fleet.copies, options.gantries, toll_rng)
        self._clock = Clock(self.time, self.fleet)
        self._steady = Steady(scene, self.fleet, self._clock, self._tails, self._tolling, options.wants, slow_rng)
        self._count0 = fleet_rng.integers(0, 128, (len(self.fleet), len(UPLINKS)))
        self._wanted = np.array([options.wants(row.type) for row in UPLINKS])

    @property
    def done(self) -> bool:
        """Say whether the run's content is complete."""
        return self.next_step * self.scene.step_s >= self._end_s - 1e-9

    def wall_us(self, step: int) -> int:
        """Return when a step begins, wall time."""
        t = self.time
        return t.wall0_us + round((step * self.scene.step_s - t.offset) / t.speed * 1e6)

    def step(self) -> Step:
        """Return the messages of the next step."""
        for made in self.parts():
            if made is not None:
                return made
        raise AssertionError

    def parts(self) -> Iterator[Step | None]:
        """Make the next step in parts of some ms each, for a caller that has other things to do; the last one is it."""
        k = self.next_step
        self.next_step += 1
        at = k % self._steps
        if at == 0:
            self.sensors.forget()
        out = Collected()
        road = motion(self.scene, at)
        scans = self.sensors.sense(k, road)
        rows, temp = self._moving(k, road, scans.first, out)
        yield None
        self._steady.speak(k, out)
        yield None
        self._tolls(k, out)
        yield None
        yield self._finish(k, out, scans.parts, rows, temp)

    def _moving(self, k: int, road: Any, first: I8, out: Collected) -> tuple[Any, Any]:
        """Add RSMs, BSMs and the BSMs that RSUs relay."""
        f, start = self.fleet, k * self.scene.step_s
        device = f.at[:, self._rsu]  # (copies, RSUs)
        on = device >= 0
        if len(self._rsu):
            t_s = np.broadcast_to(start + self._rsu_phase * self.scene.step_s, device.shape)[on]
            ts, wall = self._clock.stamps(device[on], t_s)
            a, b = (np.broadcast_to(x, device.shape)[on] for x in (first[:-1], first[1:]))
            out.add(RSM, CODE["rsu", "rsm"], device[on], ts, wall, a, b)
        if not self._obu:
            return np.zeros((0, len(BSM_FIELDS)), np.int32), np.zeros((0, 8), np.uint8)
        here, rows, temp, blind = self._obus.report(k, road)
        obu = np.array(self._obu)[here]
        device = f.at[:, obu]
        on = device >= 0
        t_s = np.broadcast_to(start + self._obu_phase[here] * self.scene.step_s, device.shape)
        ts, wall = self._clock.stamps(device, t_s)
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

    def _tolls(self, k: int, out: Collected) -> None:
        """Add transactions and plates."""
        f = self.fleet
        for at_s, copy, s in self._tolling.due(k):
            device = int(f.at[copy, s.base])
            if device >= 0 and self._wanted[s.code]:
                clocks = [self._clock.reader(int(f.at[copy, b])) for b in (s.base, self._tolling.before(s))]
                ts, record = self._tolling.record(s, copy, f.copies, *clocks)
                out.add_raw(
                    s.code, device, (ts, self._clock.stamp(device, at_s)[1]), self._tails.encode(s.code, record)
                )

    def _finish(self, k: int, out: Collected, parts: Any, rows: Any, temp: Any) -> Step:
        """Give numbers to the messages, encode them, and send them through the simulated links."""
        kind, code, device, ts, handed, a, b, flags = out.columns()
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
            out.ints,
            out.raw,
        )
        m = np.zeros(len(kind), MESSAGE)
        m["device"], m["code"], m["seq"], m["ts_ms"], m["flags"] = device, code, seq, ts, flags
        m["start"], m["end"], m["step"] = start, end, k
        if self._things is not None:
            blob = self._obstruct(k, m, blob)
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

    def _obstruct(self, k: int, m: npt.NDArray[Any], blob: bytes) -> bytes:
        """Put the things into the RSMs of those that see any: an RSM's last byte says that it has none."""
        assert self._things is not None
        more = bytearray(blob)
        rows = {int(d): n for n, d in enumerate(m["device"].tolist()) if m["code"][n] == CODE["rsu", "rsm"]}
        stamp = int(m["ts_ms"][next(iter(rows.values()))]) if rows else 0
        for rsu, obstacles in self._things.sense(k % self._steps, stamp).items():
            for device in self.fleet.at[:, self._rsu[rsu]].tolist():
                if device in rows:
                    n = rows[device]
                    whole = blob[int(m["start"][n]) : int(m["end"][n]) - 1] + obstacles
                    m["start"][n], m["end"][n] = len(more), len(more) + len(whole)
                    more += whole
        return bytes(more)

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
