"""Roadside perception: what all RSUs report of a step, vectorised over the pairs (RSU, object).

For each pair in range: seen or missed; position error = an RSU's constant bias + AR(1) noise + white noise, half of
the variance each unless said; a local id that lasts while the object is seen, but for rare breaks and swaps; a class
that is mostly right. Beside them false detections, which live one to three scans at places of no meaning. Everything is
drawn from one generator in a fixed order, so the same seed senses the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.scene import Device, Vehicles
from v2x_loadtest.simulate.encode import PARTICIPANT
from v2x_loadtest.simulate.motion import Motion, metres_per_degree
from v2x_loadtest.simulate.options import SensorModel

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

MAX_PARTICIPANTS: Final = 255
_IDS: Final = 65_535
_LONG_AGO: Final = -(1 << 30)
# ptc_type and the class a sensor takes for another, by object class (SSM detectedPTCType, 0..10).
PTC_TYPE: Final = np.array([0, 0, 0, 1, 1, 1, 1, 2, 1, 2, 3], np.int32)
CONFUSED: Final = np.array([3, 3, 3, 4, 3, 6, 5, 8, 7, 8, 7], np.int32)
_SLOW_MPS: Final = 1.1  # below, headings are poor
_MAST_M: Final = 7.0  # height of an RSU's sensors
_COL: Final = {name: i for i, name in enumerate(PARTICIPANT)}


@dataclass(slots=True)
class Scans:
    """What was sensed in a step: participants in order of RSU, and each RSU's first row (n + 1 values)."""

    parts: I4  # (rows, len(PARTICIPANT))
    first: I8


class RsuSensors:
    """All RSUs of one copy of a scene; ``sense`` is called step by step."""

    def __init__(
        self,
        rsus: list[Device],
        vehicles: Vehicles,
        phase: F8,
        step_s: float,
        model: SensorModel,
        rng: np.random.Generator,
    ) -> None:
        """``phase``: each RSU's place in the step, [0, 1)."""
        n, v = len(rsus), len(vehicles)
        self._model, self._rng, self._phase, self._step_s = model, rng, phase, step_s
        self._lat = np.array([d.lat for d in rsus])
        self._lon = np.array([d.lon for d in rsus])
        self._lat7 = np.array([round(d.lat * 1e7) for d in rsus], np.int64)
        self._lon7 = np.array([round(d.lon * 1e7) for d in rsus], np.int64)
        self._range = np.array([d.range_m for d in rsus], float)
        self._north, self._east = metres_per_degree(self._lat)
        self._cls = np.clip(np.asarray(vehicles.cls, np.int64), 0, len(PTC_TYPE) - 1)
        self._size = np.stack([np.asarray(x, float) for x in (vehicles.width_m, vehicles.length_m, vehicles.height_m)])
        self.sigma = rng.uniform(*model.sigma_m, n)
        angle, length = rng.uniform(0, 2 * np.pi, n), rng.uniform(*model.bias_m, n)
        self.bias = np.stack([length * np.sin(angle), length * np.cos(angle)])  # east, north
        self._false = rng.uniform(*model.false_per_scan, n)
        self._source = rng.choice(np.array([3, 4, 6, 7]), n)  # video, radar, lidar, integrated
        self._next_id = rng.integers(0, _IDS, n)
        self._ids = np.zeros((n, v), np.int64)
        self._error = np.zeros((2, n, v))
        self._seen = np.full((n, v), _LONG_AGO, np.int64)
        self._wrong = np.zeros((n, v), bool)
        self._ghosts: list[list[dict[str, float]]] = [[] for _ in rsus]

    def forget(self) -> None:
        """Forget all objects: the scene starts again."""
        self._seen[:] = _LONG_AGO
        self._ghosts = [[] for _ in self._ghosts]

    def sense(self, step: int, road: Motion) -> Scans:
        """Return the scans of a step (a count that goes on over loops)."""
        m, rng = self._model, self._rng
        at = [
            (road.lon + road.d_lon * f - lon) * east
            for f, lon, east in zip(self._phase, self._lon, self._east, strict=True)
        ]
        e = np.array(at).reshape(len(self._lat), len(road.idx))
        n = (road.lat + np.outer(self._phase, road.d_lat) - self._lat[:, None]) * self._north[:, None]
        near = e * e + n * n < (self._range**2)[:, None]
        rsu, row = np.nonzero(near)
        seen = rng.random(len(rsu)) >= m.miss
        if m.occlusion:
            seen &= ~(self._shadowed(e, n, near, road)[rsu, row] & (rng.random(len(rsu)) < 0.85))
        veh = road.idx[row].astype(np.int64)
        self._follow(step, rsu, veh)
        rsu, row, veh = rsu[seen], row[seen], veh[seen]
        self._swap(rsu, veh, e[rsu, row], n[rsu, row])
        parts = self._participants(rsu, veh, road.take(row, self._phase[rsu]))
        return self._collect(rsu, parts, np.hypot(e[rsu, row], n[rsu, row]), e, n, near, road)

    def _follow(self, step: int, rsu: I8, veh: I8) -> None:
        """Carry noise and local ids of all pairs in range to this step."""
        m, rng = self._model, self._rng
        correlated = self.sigma[rsu] * np.sqrt(m.correlated)
        rho = np.exp(-self._step_s / m.tau_s)
        fresh = step - self._seen[rsu, veh] > m.forget_s / self._step_s
        drawn = rng.normal(0, 1, (2, len(rsu)))
        old = self._error[:, rsu, veh]
        self._error[:, rsu, veh] = np.where(
            fresh, correlated * drawn, rho * old + correlated * np.sqrt(1 - rho * rho) * drawn
        )
        self._seen[rsu, veh] = step
        new = fresh | (rng.random(len(rsu)) < m.id_break)
        r, v = rsu[new], veh[new]
        count = np.bincount(r, minlength=len(self._lat))
        rank = np.arange(len(r)) - (np.cumsum(count) - count)[r]  # pairs are in order of RSU
        self._ids[r, v] = (self._next_id[r] + rank) % _IDS + 1
        self._next_id += count
        self._wrong[r, v] = rng.random(len(r)) < m.wrong_class

    def _swap(self, rsu: I8, veh: I8, e: F8, n: F8) -> None:
        """Exchange the ids of a few close pairs."""
        for i in np.flatnonzero(self._rng.random(len(rsu)) < self._model.id_swap):
            same = np.flatnonzero(rsu == rsu[i])
            d = np.hypot(e[same] - e[i], n[same] - n[i])
            d[same == i] = np.inf
            k = int(np.argmin(d))
            if d[k] < self._model.swap_m:
                a, b, r = veh[i], veh[same[k]], rsu[i]
                self._ids[r, a], self._ids[r, b] = self._ids[r, b], self._ids[r, a]

    def _participants(self, rsu: I8, veh: I8, true: Motion) -> I4:
        m, rng = self._model, self._rng
        k = len(rsu)
        white = self.sigma[rsu] * np.sqrt(1 - m.correlated) * rng.normal(0, 1, (2, k))
        off = self.bias[:, rsu] + self._error[:, rsu, veh] + white
        d_lat = np.round((true.lat + off[1] / self._north[rsu]) * 1e7).astype(np.int64) - self._lat7[rsu]
        d_lon = np.round((true.lon + off[0] / self._east[rsu]) * 1e7).astype(np.int64) - self._lon7[rsu]
        cls = self._cls[veh]
        wrong = self._wrong[rsu, veh] ^ (rng.random(k) < m.flicker)
        cls = np.where(wrong, CONFUSED[cls], cls)
        speed = np.maximum(true.speed + rng.normal(0, m.speed_mps, k), 0)
        heading = true.heading + rng.normal(0, m.heading_deg, k) * np.where(true.speed < _SLOW_MPS, 3, 1)
        size = self._size[:, veh] + rng.normal(0, m.size_m, (3, k)) * np.array([[0.5], [1.0], [0.5]])
        parts = np.zeros((k, len(PARTICIPANT)), np.int32)
        for name, value in (
            ("ptc_type", PTC_TYPE[cls]),
            ("ptc_id", self._ids[rsu, veh]),
            ("source", self._source[rsu]),
            ("object_class", cls),
            ("d_lat", d_lat),
            ("d_lon", d_lon),
            ("ele", np.clip(np.round(true.ele * 10), -4095, 61439)),
            ("pos_conf", 10),
            ("transmission", 7),
            ("speed", np.minimum(np.round(speed * 50), 8190)),
            ("heading", np.round(heading * 80) % 28800),
            ("speed_conf", 5),
            ("heading_conf", 3),
            ("accel_long", np.clip(np.round((true.accel + rng.normal(0, m.accel, k)) * 100), -2000, 2000)),
            ("yaw_rate", np.clip(np.round((true.yaw + rng.normal(0, m.yaw, k)) * 100), -32767, 32766)),
            ("width", np.clip(np.round(size[0] * 100), 1, 1023)),
            ("length", np.clip(np.round(size[1] * 100), 1, 4095)),
            ("height", np.clip(np.round(size[2] * 20), 1, 127)),
        ):
            parts[:, _COL[name]] = value
        return parts

    def _collect(self, rsu: I8, parts: I4, d: F8, e: F8, n: F8, near: npt.NDArray[np.bool_], road: Motion) -> Scans:
        """Add false detections, bring rows into RSU order, keep the nearest 255 of an RSU."""
        false_rsu, false_parts = self._false_detections(e, n, near, road)
        if false_rsu:
            rsu = np.append(rsu, false_rsu)
            parts = np.concatenate([parts, np.array(false_parts, np.int32)])
            d = np.append(d, np.zeros(len(false_rsu)))
            order = np.argsort(rsu, kind="stable")
            rsu, parts, d = rsu[order], parts[order], d[order]
        count = np.bincount(rsu, minlength=len(self._lat))
        if count.size and count.max() > MAX_PARTICIPANTS:
            keep = np.ones(len(rsu), bool)
            for r in np.flatnonzero(count > MAX_PARTICIPANTS):
                mine = np.flatnonzero(rsu == r)
                keep[mine[np.argsort(d[mine])[MAX_PARTICIPANTS:]]] = False
            rsu, parts = rsu[keep], parts[keep]
            count = np.bincount(rsu, minlength=len(self._lat))
        return Scans(parts, np.concatenate([[0], np.cumsum(count)]).astype(np.int64))

    def _false_detections(
        self, e: F8, n: F8, near: npt.NDArray[np.bool_], road: Motion
    ) -> tuple[list[int], list[list[Any]]]:
        """Half appear near something real (multipath, shadows), half anywhere in range; they drift at random."""
        rng, rsus, rows = self._rng, [], []
        born = rng.random(len(self._lat)) < self._false
        for r in np.flatnonzero(born | np.array([bool(g) for g in self._ghosts], bool)):
            ghosts = self._ghosts[r]
            if born[r]:
                angle, reach = rng.uniform(0, 2 * np.pi), self._range[r] * np.sqrt(rng.random())
                x, y, heading = reach * np.sin(angle), reach * np.cos(angle), rng.uniform(0, 360)
                seen = np.flatnonzero(near[r])
                if rng.random() < 0.5 and len(seen):
                    k = rng.choice(seen)
                    x, y = e[r, k] + rng.normal(0, 12), n[r, k] + rng.normal(0, 12)
                    heading = road.heading[k] + rng.normal(0, 20)
                ghosts.append(
                    {
                        "x": x,
                        "y": y,
                        "id": self._next_id[r] % _IDS + 1,
                        "cls": rng.choice([0, 3, 3, 3, 5, 7, 10]),
                        "speed": abs(rng.normal(0, 12)),
                        "heading": heading % 360,
                        "lives": 1 + rng.choice(3, p=self._model.false_lives),
                    }
                )
                self._next_id[r] += 1
            for g in ghosts:
                rsus.append(int(r))
                rows.append(self._ghost_row(int(r), g))
                g["lives"] -= 1
                g["x"] += rng.normal(0, 1.5)
                g["y"] += rng.normal(0, 1.5)
            self._ghosts[r] = [g for g in ghosts if g["lives"] > 0]
        return rsus, rows

    def _ghost_row(self, r: int, g: dict[str, float]) -> list[Any]:
        cls = int(g["cls"])
        row = {
            "ptc_type": PTC_TYPE[cls],
            "ptc_id": g["id"],
            "source": self._source[r],
            "object_class": cls,
            "d_lat": round(g["y"] / self._north[r] * 1e7),
            "d_lon": round(g["x"] / self._east[r] * 1e7),
            "ele": -4096,
            "pos_conf": 9,
            "transmission": 7,
            "speed": min(round(g["speed"] * 50), 8190),
            "heading": round(g["heading"] * 80) % 28800,
            "speed_conf": 3,
            "heading_conf": 1,
            "accel_long": 2001,
            "yaw_rate": 32767,
        }
        return [row.get(name, 0) for name in PARTICIPANT]

    def _shadowed(self, e: F8, n: F8, near: npt.NDArray[np.bool_], road: Motion) -> npt.NDArray[np.bool_]:
        """Return (RSU, object): behind a vehicle of over 2.5 m, seen from a mast of 7 m."""
        height = self._size[2, road.idx]
        d, bearing = np.hypot(e, n), np.arctan2(e, n)
        out = np.zeros_like(near)
        for k in np.flatnonzero(height > 2.5):
            half = np.arctan2(0.5 * self._size[1, road.idx[k]], np.maximum(d[:, k], 5.0))[:, None]
            reach = d[:, k] * _MAST_M / max(_MAST_M - height[k], 0.5)  # where the line of sight over it meets the road
            turn = np.abs((bearing - bearing[:, k : k + 1] + np.pi) % (2 * np.pi) - np.pi)
            behind = (d > d[:, k : k + 1] + 2) & (d < reach[:, None]) & (height < height[k])[None, :]
            out |= behind & (turn < half) & near[:, k : k + 1]
        return out
