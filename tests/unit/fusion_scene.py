"""A synthetic motorway for fusion's tests: true tracks, roadside units that see them badly, and the log they make.

Numbers as in the project's fusion notes: 2 km, three lanes each way, eight units 250 m apart, 10 Hz, position noise
half white, half AR(1) over one second, a bias and a clock error per unit, misses, false detections, local ids that
break and swap, a network delay with a tail. Everything from one seed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from v2x.columns import Record
from v2x.geo import LocalFrame
from v2x.zones import ZoneMap

T0 = 1_790_000_000_000
ORIGIN = (31.5, 120.3)
FRAME = LocalFrame(*ORIGIN)
GENERATION = "11111111-2222-4333-8444-555555555555"
LANE_M = 3.75


@dataclass
class Settings:
    seed: int = 1
    seconds: float = 20.0
    vehicles: int = 150
    walkers: int = 4
    length_m: float = 2000.0
    rsus: int = 8
    range_m: float = 220.0
    sigma_m: float = 0.5
    bias_m: float = 0.3
    clock_ms: float = 15.0
    miss: float = 0.04
    false: float = 0.05
    false_lives: tuple[float, ...] = (0.8, 0.17, 0.03)
    id_break: float = 0.002  # per object and scan
    id_swap: float = 0.002
    speed_sigma: float = 0.3
    heading_sigma: float = 1.5
    delay_ms: float = 8.0
    tail: float = 0.01
    zones: int = 1
    azimuth_deg: float = 60.0  # of the road


@dataclass
class Scene:
    settings: Settings
    steps: int
    east: np.ndarray = field(repr=False)  # (step, object), 20 Hz
    north: np.ndarray = field(repr=False)
    speed: np.ndarray = field(repr=False)
    heading: np.ndarray = field(repr=False)
    cls: np.ndarray = field(repr=False)

    def at(self, t_ms: float) -> tuple[np.ndarray, np.ndarray]:
        """True positions at a time since T0 (linear between steps)."""
        x = min(max(t_ms / 50.0, 0.0), self.steps - 1.001)
        a = int(x)
        w = x - a
        return (1 - w) * self.east[a] + w * self.east[a + 1], (1 - w) * self.north[a] + w * self.north[a + 1]


def make(s: Settings) -> Scene:
    rng = np.random.default_rng(s.seed)
    steps = int(s.seconds * 20) + 2
    t = np.arange(steps) * 0.05
    n = s.vehicles + s.walkers
    along, lateral, forward = np.zeros((steps, n)), np.zeros((steps, n)), np.ones(n)
    cls = np.full(n, 3)
    lanes = [(d, lane) for d in (1, -1) for lane in range(3)]
    for k in range(s.vehicles):
        d, lane = lanes[k % 6]
        gap = s.length_m * 1.4 / max(s.vehicles / 6, 1)
        start = (k // 6) * gap + rng.uniform(0, 0.4) * gap - 0.2 * s.length_m
        v = 33.0 - 4.0 * lane
        own = rng.uniform(0.3, 1.2)
        phase = rng.uniform(0, 2 * np.pi)
        along[:, k] = start + v * t + 6.0 * np.sin(t / 7.0 + lane) + own * np.sin(t / 2.5 + phase)
        lateral[:, k] = (lane + 0.5) * LANE_M + 3.0 + 0.2 * np.sin(t / 3 + phase)
        if rng.random() < 0.1:
            cls[k] = 5
        forward[k] = d
    for k in range(s.vehicles, n):
        forward[k] = 1 if k % 2 else -1
        along[:, k] = rng.uniform(0.2, 0.8) * s.length_m + 1.3 * t
        lateral[:, k] = 3 * LANE_M + 3.0 + 2.0 + 0.3 * np.sin(t)
        cls[k] = 10
    x = np.where(forward > 0, along, s.length_m - along) - s.length_m / 2
    y = -lateral * forward
    a = np.radians(s.azimuth_deg)
    east, north = x * np.sin(a) - y * np.cos(a), x * np.cos(a) + y * np.sin(a)
    ve, vn = np.gradient(east, 0.05, axis=0), np.gradient(north, 0.05, axis=0)
    return Scene(s, steps, east, north, np.hypot(ve, vn), np.degrees(np.arctan2(ve, vn)) % 360, cls)


def road(s: Settings, along: float, left: float = 0.0) -> tuple[float, float]:
    a = np.radians(s.azimuth_deg)
    return along * np.sin(a) - left * np.cos(a), along * np.cos(a) + left * np.sin(a)


def zone_map(s: Settings) -> ZoneMap:
    half = s.length_m / 2 + 800
    edges = np.linspace(-half, half, s.zones + 1)
    names = [f"Z{k + 1}" for k in range(s.zones)]
    zones = []
    for k in range(s.zones):
        corners = [(edges[k], -80.0), (edges[k + 1], -80.0), (edges[k + 1], 80.0), (edges[k], 80.0)]
        geo = [FRAME.to_geo(*road(s, *p)) for p in corners]
        near = [names[j] for j in (k - 1, k + 1) if 0 <= j < s.zones]
        zones.append({"id": names[k], "polygon": [[float(a), float(b)] for a, b in geo], "neighbours": near})
    devices = {}
    for k in range(s.rsus):
        along = rsu_along(s, k)
        zone = int(np.clip(np.searchsorted(edges, along) - 1, 0, s.zones - 1))
        halo = [
            names[j]
            for j in (zone - 1, zone + 1)
            if 0 <= j < s.zones and min(abs(along - e) for e in (edges[max(j, zone)],)) < s.range_m + 110
        ]
        lat, lon = FRAME.to_geo(*road(s, along))
        devices[f"RSU-{k + 1:02d}"] = {"zone": names[zone], "halo": halo, "lat": float(lat), "lon": float(lon)}
    return ZoneMap.parse(
        {
            "version": 1,
            "name": "test",
            "partition_hint": None,
            "zones": zones,
            "devices": devices,
            "gantries": {},
            "sections": [],
        }
    )


def rsu_along(s: Settings, k: int) -> float:
    return (k + 0.5) * s.length_m / s.rsus - s.length_m / 2


def scans(scene: Scene) -> list[tuple[float, str, dict[str, Any]]]:
    """(arrival ms since T0, device, rsm record), by arrival."""
    s = scene.settings
    rng = np.random.default_rng(s.seed + 1000)
    n = scene.east.shape[1]
    rho = np.exp(-0.1)
    out = []
    for k in range(s.rsus):
        device = f"RSU-{k + 1:02d}"
        re, rn = road(s, rsu_along(s, k))
        lat0, lon0 = FRAME.e7(float(re), float(rn))
        bias = rng.normal(0, s.bias_m, 2)
        clock = rng.normal(0, s.clock_ms)
        ids = rng.permutation(20000)[:n] + 1
        fresh = 30000
        slow = rng.normal(0, s.sigma_m * np.sqrt(0.5), (n, 2))
        phase = rng.uniform(0, 100)
        ghosts: list[list[float]] = []  # east, north, scans left, id
        for seq, t in enumerate(np.arange(phase, s.seconds * 1000, 100.0)):
            e, north = scene.at(t)
            step = min(int(t / 50), scene.steps - 1)
            slow = rho * slow + np.sqrt(1 - rho**2) * rng.normal(0, s.sigma_m * np.sqrt(0.5), (n, 2))
            white = rng.normal(0, s.sigma_m * np.sqrt(0.5), (n, 2))
            seen = (np.hypot(e - re, north - rn) < s.range_m) & (rng.random(n) > s.miss)
            rows = np.flatnonzero(seen)
            for j in rows[rng.random(len(rows)) < s.id_break]:
                fresh += 1
                ids[j] = fresh
            for j in rows[rng.random(len(rows)) < s.id_swap]:
                away = np.hypot(e[rows] - e[j], north[rows] - north[j])
                away[rows == j] = 1e9
                if len(rows) > 1 and away.min() < 15.0:
                    other = rows[away.argmin()]
                    ids[j], ids[other] = ids[other], ids[j]
            ts = T0 + round(t + clock)
            people = []
            for j in rows:
                z = (e[j] + bias[0] + slow[j, 0] + white[j, 0], north[j] + bias[1] + slow[j, 1] + white[j, 1])
                lat, lon = FRAME.e7(float(z[0]), float(z[1]))
                foot = scene.cls[j] == 10
                people.append(
                    participant(
                        int(ids[j]), lat - lat0, lon - lon0, ts,
                        max(scene.speed[step, j] + rng.normal(0, s.speed_sigma), 0.0),
                        (scene.heading[step, j] + rng.normal(0, s.heading_sigma * (4 if foot else 1))) % 360,
                        int(scene.cls[j]),
                    )
                )  # fmt: skip
            for _ in range(rng.poisson(s.false)):
                fresh += 1
                x, y = road(s, rsu_along(s, k) + rng.uniform(-200, 200), rng.uniform(-15, 15))
                if len(rows) and rng.random() < 0.5:
                    j = rows[rng.integers(len(rows))]
                    x, y = e[j] + rng.normal(0, 3), north[j] + rng.normal(0, 3)
                lives = 1 + rng.choice(len(s.false_lives), p=s.false_lives)
                ghosts.append([float(x), float(y), float(lives), fresh])
            for g in ghosts:
                lat, lon = FRAME.e7(g[0] + rng.normal(0, 0.5), g[1] + rng.normal(0, 0.5))
                people.append(
                    participant(int(g[3]), lat - lat0, lon - lon0, ts, rng.uniform(0, 30), rng.uniform(0, 360), 3)
                )
                g[2] -= 1
            ghosts = [g for g in ghosts if g[2] > 0]
            delay = s.delay_ms + rng.exponential(4.0) + (rng.uniform(100, 300) if rng.random() < s.tail else 0.0)
            out.append((t + delay, device, rsm(device, seq, ts, lat0, lon0, people)))
    return sorted(out, key=lambda x: (x[0], x[1]))


def participant(
    ptc_id: int, d_lat: int, d_lon: int, ts_ms: int, speed: float, heading: float, cls: int, **other: int
) -> dict[str, int]:
    foot = cls == 10
    return {
        "ptc_type": 3 if foot else 1, "ptc_id": ptc_id, "source": 7, "object_class": cls, "sec_mark": ts_ms % 60000,
        "d_lat": d_lat, "d_lon": d_lon, "ele": -4096, "pos_conf": 0, "transmission": 7,
        "speed": round(speed / 0.02), "heading": round(heading / 0.0125) % 28800, "speed_conf": 0, "heading_conf": 0,
        "accel_long": 2001, "yaw_rate": 32767, "width": 50 if foot else 180, "length": 50 if foot else 450,
        "height": 30,
        **other,
    }  # fmt: skip


def rsm(
    device: str, seq: int, ts_ms: int, lat: int, lon: int, people: list[dict[str, int]], things: Any = ()
) -> dict[str, Any]:
    return {
        "device": device, "boot": T0 - 1000, "seq": seq, "ts_ms": ts_ms, "msg_cnt": seq % 128,
        "sec_mark": ts_ms % 60000,
        "ref_lat": lat, "ref_lon": lon, "ref_ele": -4096, "participants": people, "obstacles": list(things),
    }  # fmt: skip


def log(
    encoder: Any, messages: list[tuple[float, str, dict[str, Any]]], partition: int = 0, partitions: int = 1
) -> list[Record]:
    """Return a partition's log: genesis, the messages by arrival, ticks every 20 ms of silence."""
    genesis = {"generation": GENERATION, "partition": partition, "partitions": partitions, "ts_ms": T0}
    out = [Record(0, T0, b"genesis", encoder.encode("genesis", genesis), ())]
    last = 0.0
    for at, device, record in messages:
        while at - last > 20.0:
            last += 20.0
            out.append(tick(encoder, len(out), int(T0 + last)))
        last = at
        rx = int((T0 + at - 2) * 1000).to_bytes(8, "big")
        out.append(Record(len(out), int(T0 + at), device.encode(), encoder.encode("rsm", record), (("rx", rx),)))
    return out


def tick(encoder: Any, offset: int, stamp_ms: int) -> Record:
    return Record(offset, stamp_ms, b"tick", encoder.encode("tick", {"source": "test", "ts_ms": stamp_ms}), ())


class World:
    """Engines of all partitions with the log between them: what one says to another arrives some ms later.

    ``hop_ms``: how much later, or a function of the output (None: never). ``said``: (ms, device, schema, record) beside
    the scene's scans.
    """

    def __init__(
        self, scene: Scene, engines: list[Any], encoder: Any, zones: ZoneMap,
        hop_ms: float | Callable[[Any], float | None] = 12, said: Sequence[tuple[float, str, str, dict[str, Any]]] = (),
    ) -> None:  # fmt: skip
        self.scene, self.engines, self.encoder, self.zones, self.said = scene, engines, encoder, zones, said
        self.hop: Callable[[Any], float | None] = hop_ms if callable(hop_ms) else lambda _: hop_ms
        self.logs: list[list[Record]] = [[] for _ in engines]
        self.outputs: list[list[Any]] = [[] for _ in engines]

    def run(self, deaf: Any = None) -> None:
        """Run everything; ``deaf(partition, at_ms)`` says when a partition's engine is down (its log goes on)."""
        n = len(self.engines)
        queue: list[tuple[float, int, int, bytes, bytes, tuple[Any, ...]]] = []
        count = 0

        def push(at: float, partition: int, key: bytes, value: bytes, headers: tuple[Any, ...] = ()) -> None:
            nonlocal count
            count += 1
            heapq.heappush(queue, (at, count, partition, key, value, headers))

        for p in range(n):
            genesis = {"generation": GENERATION, "partition": p, "partitions": n, "ts_ms": T0}
            push(0.0, p, b"genesis", self.encoder.encode("genesis", genesis))
            for k in range(1, int(self.scene.settings.seconds * 50)):
                push(k * 20.0, p, b"tick", self.encoder.encode("tick", {"source": "test", "ts_ms": T0 + k * 20}))
        scanned = [(at, device, "rsm", record) for at, device, record in scans(self.scene)]
        for at, device, schema, record in [*scanned, *self.said]:
            value = self.encoder.encode(schema, record)
            route = self.zones.route(device, None, None)
            for p in dict.fromkeys(self.zones.partition(z, n) for z in route):
                push(at, p, device.encode(), value)
        while queue:
            at, _, p, key, value, headers = heapq.heappop(queue)
            record = Record(len(self.logs[p]), int(T0 + at), key, value, headers)
            self.logs[p].append(record)
            if deaf is not None and deaf(p, at):
                continue
            todo = self.logs[p][self.engines[p].position + 1 :]
            for out in self.engines[p].feed(todo):
                self.outputs[p].append(out)
                hop = self.hop(out) if out.topic == "v2x.observations" else None
                if hop is not None:
                    push(at + hop, out.partition, out.key, out.value)
