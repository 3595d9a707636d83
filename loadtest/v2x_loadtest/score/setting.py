"""The settings that fusion is measured in: a seed makes a truth and what roadside units say of it.

*Motorway* is that of the fusion prototype: 2 km, three lanes, 150 vehicles, eight units that err by 0.5-1 m (white, or
AR(1) from scan to scan with ``rho``), have a bias of 0.3 m an axis and clocks off by up to 30 ms, miss 5 %, see 0.1
things a scan that are not there, give objects other ids (0.2 % an object and scan), swap the ids of two near ones (1 %
of the pairs within 5 m, a scan), speak up to 150 ms late, and repeat 3 % of their messages. *Crossing* has the same
units round a crossing. Nothing here knows of fusion; everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from v2x.geo import LocalFrame

from v2x_loadtest.score.crossing import ARM_M, crossing
from v2x_loadtest.score.traffic import CYCLIST, F64, I64, MOTORCYCLE, PEDESTRIAN, SHAPES, STEP_S, Traffic, motorway

T0_MS: Final = 1_790_000_000_000
FRAME: Final = LocalFrame(31.5, 120.3)
ZONE: Final = "Z1"
SCAN_MS: Final = 100.0
SWAP_M: Final = 5.0
EDGE_M: Final = 20.0
LATCH_MPS: Final = 0.3
# Columns of a scan's rows: fields of Rsm.participants.
COLUMNS: Final = (
    "ptc_type", "ptc_id", "object_class", "sec_mark", "d_lat", "d_lon", "pos_conf", "speed", "heading", "accel_long",
    "width", "length",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated; the defaults are the motorway's."""

    seed: int = 1
    kind: str = "motorway"  # or "both_ways", "crossing"
    seconds: float = 40.0
    vehicles: int = 150
    length_m: float = 2000.0
    rsus: int = 8
    range_m: float = 220.0
    sigma_m: tuple[float, float] = (0.5, 1.0)  # each unit has its own between these
    rho: float = 0.0  # correlation of its positions' noise from scan to scan
    white: float = 0.0  # share of that noise's variance that does not go on all the same
    rho_motion: float = 0.0  # and of its speeds' and headings'
    speed_sigma: float = 0.3
    heading_sigma_deg: float = 1.5
    bias_m: float = 0.3
    clock_ms: float = 30.0
    miss: float = 0.05
    false: float = 0.1
    id_break: float = 0.002
    swap: float = 0.01
    delay_ms: float = 150.0
    repeats: float = 0.03


@dataclass(slots=True)
class Scan:
    """One RSM as it arrives."""

    at_ms: float  # arrival, ms since T0_MS
    rsu: int
    seq: int
    ts_ms: int  # as told, UTC
    rows: I64  # (participants, COLUMNS)
    truth: I64  # (participants,) object, -1 there is none
    again: bool = False  # a repeat


@dataclass(slots=True)
class World:
    """A setting's truth and messages."""

    setting: Setting
    traffic: Traffic
    places: list[tuple[float, float]]  # of the units, metres about FRAME's origin
    scans: list[Scan]  # by arrival

    def device(self, rsu: int) -> str:
        """Return a unit's id."""
        return f"RSU-{rsu + 1:02d}"

    def reference(self, rsu: int) -> tuple[int, int]:
        """Return a unit's latitude and longitude, 1e-7 degrees."""
        lat, lon = FRAME.e7(*self.places[rsu])
        return int(lat), int(lon)

    def covered(self, east: F64, north: F64) -> Any:
        """Return which points lie ``EDGE_M`` inside some unit's range: the part of the road that is scored."""
        gap = np.hypot(*(np.subtract.outer(x, [p[k] for p in self.places]) for k, x in enumerate((east, north))))
        near = (gap <= self.setting.range_m - EDGE_M).any(axis=1)
        if self.setting.kind == "crossing":  # the arms end, and who drives on is gone
            near &= np.maximum(abs(east), abs(north)) <= ARM_M - EDGE_M
        return near

    def zones(self) -> dict[str, Any]:
        """Return a zones document: one zone round everything."""
        x, y = np.array(self.places).T
        a, b, c, d = x.min() - 1500, x.max() + 1500, y.min() - 1500, y.max() + 1500
        corners = [FRAME.to_geo(*p) for p in ((a, c), (b, c), (b, d), (a, d))]
        places = [FRAME.to_geo(*p) for p in self.places]
        return {
            "version": 1, "name": self.setting.kind, "partition_hint": None, "gantries": {}, "sections": [],
            "zones": [{"id": ZONE, "polygon": [[float(p), float(q)] for p, q in corners], "neighbours": []}],
            "devices": {
                self.device(k): {"zone": ZONE, "halo": [], "lat": float(lat), "lon": float(lon)}
                for k, (lat, lon) in enumerate(places)
            },
        }  # fmt: skip

    def messages(self) -> Iterator[tuple[float, str, dict[str, Any]]]:
        """Yield (arrival in ms since T0_MS, device, record of schema rsm), repeats among them."""
        for scan in self.scans:
            lat, lon = self.reference(scan.rsu)
            head = {
                "device": self.device(scan.rsu), "boot": T0_MS - 1000, "seq": scan.seq, "ts_ms": scan.ts_ms,
                "msg_cnt": scan.seq % 128, "sec_mark": scan.ts_ms % 60_000, "ref_lat": lat, "ref_lon": lon,
                "ref_ele": -4096, "obstacles": [],
            }  # fmt: skip
            rest = {
                "source": 7, "ele": -4096, "transmission": 7, "speed_conf": 0, "heading_conf": 0, "yaw_rate": 32767,
                "height": 30,
            }  # fmt: skip
            people = [{**dict(zip(COLUMNS, row, strict=True)), **rest} for row in scan.rows.tolist()]
            yield scan.at_ms, self.device(scan.rsu), {**head, "participants": people}


def make(setting: Setting) -> World:
    """Return the world of a setting."""
    s = setting
    if s.kind == "crossing":
        traffic = crossing(s.seed, s.seconds)
        places = [(14.0, 14.0), (-14.0, 14.0), (-14.0, -14.0), (14.0, -14.0)][: s.rsus]
    else:
        traffic = motorway(s.seed, s.seconds, s.vehicles, s.length_m, both_ways=s.kind == "both_ways")
        places = [((k + 0.5) * s.length_m / s.rsus, -8.0) for k in range(s.rsus)]
    world = World(s, traffic, places, [])
    for rsu in range(len(places)):
        world.scans += _unit(world, rsu)
    world.scans.sort(key=lambda scan: (scan.at_ms, scan.rsu, scan.seq, scan.again))
    return world


def _unit(world: World, rsu: int) -> list[Scan]:
    """Return what one unit says, in order."""
    s, traffic = world.setting, world.traffic
    rng = np.random.default_rng([s.seed, 3, rsu])
    n = traffic.east.shape[1]
    sigma = rng.uniform(*s.sigma_m)
    bias, clock = rng.normal(0, s.bias_m, 2), rng.uniform(-s.clock_ms, s.clock_ms)
    x0, y0 = world.places[rsu]
    ref = world.reference(rsu)
    ids = rng.permutation(n) + 1
    fresh = n
    noise = rng.normal(0, 1, (n, 4))  # east, north, speed, heading
    rho = np.array([s.rho, s.rho, s.rho_motion, s.rho_motion])
    fresh_share = np.sqrt(1 - rho**2)
    course = np.zeros(n)  # heading, kept while an object stands
    out: list[Scan] = []
    arrived = 0.0
    for seq, t in enumerate(np.arange(rng.uniform(0, SCAN_MS), s.seconds * 1000, SCAN_MS)):
        noise = rho * noise + fresh_share * rng.normal(0, 1, (n, 4))
        who, east, north = traffic.at(t / 1000)
        near = np.hypot(east - x0, north - y0) < s.range_m
        who, east, north = who[near], east[near], north[near]
        fresh = _spoil_ids(rng, s, ids, who, (east, north), fresh)
        seen = rng.random(len(who)) >= s.miss
        who, east, north = who[seen], east[seen], north[seen]
        ve, vn = traffic.motion(t / 1000, who)
        speed = np.hypot(ve, vn)
        course[who] = np.where(speed > LATCH_MPS, np.degrees(np.arctan2(ve, vn)), course[who])
        heading = course[who] + s.heading_sigma_deg * noise[who, 3] * _wobble(traffic, who, speed)
        speed = np.maximum(speed + s.speed_sigma * np.clip(speed / 2, 0.15, 1.0) * noise[who, 2], 0.0)
        error = noise[who, :2]
        if s.white:
            error = np.sqrt(1 - s.white) * error + np.sqrt(s.white) * rng.normal(0, 1, error.shape)
        east = east + bias[0] + sigma * error[:, 0]
        north = north + bias[1] + sigma * error[:, 1]
        cls, local, truth = traffic.cls[who], ids[who], who
        ghosts = rng.poisson(s.false)
        if ghosts:
            gx, gy = _ghosts(rng, world, rsu, ghosts, (east, north))
            east, north = np.concatenate((east, gx)), np.concatenate((north, gy))
            speed = np.concatenate((speed, rng.uniform(0, 30, ghosts)))
            heading = np.concatenate((heading, rng.uniform(0, 360, ghosts)))
            cls = np.concatenate((cls, np.full(ghosts, 3)))
            local = np.concatenate((local, fresh + 1 + np.arange(ghosts)))
            truth = np.concatenate((truth, np.full(ghosts, -1)))
            fresh += ghosts
        ts_ms = T0_MS + round(t + clock)
        arrived = max(arrived, t + rng.uniform(5.0, max(s.delay_ms, 5.0)))
        columns = (_kind(cls), local % 65_535 + 1, cls, *_place(east, north, ref), speed, heading)
        scan = Scan(arrived, rsu, seq, ts_ms, _rows(columns, ts_ms), truth.astype(np.int64))
        out.append(scan)
        if rng.random() < s.repeats:
            later = arrived + rng.uniform(0, 150)
            out.append(Scan(later, rsu, seq, ts_ms, scan.rows, scan.truth, again=True))
    return out


def _wobble(traffic: Traffic, who: I64, speed: F64) -> F64:
    """Return by how much worse headings are: of people, and of what hardly moves."""
    return np.where(traffic.cls[who] == PEDESTRIAN, 6.0, 1.0) * np.clip(2.0 / np.maximum(speed, 0.1), 1.0, 4.0)


def _spoil_ids(rng: np.random.Generator, s: Setting, ids: I64, who: I64, at: tuple[F64, F64], fresh: int) -> int:
    """Break and swap local ids; return the newest id."""
    for j in who[rng.random(len(who)) < s.id_break].tolist():
        fresh += 1
        ids[j] = fresh
    if s.swap and len(who) > 1:
        gap = np.hypot(np.subtract.outer(at[0], at[0]), np.subtract.outer(at[1], at[1]))
        a, b = np.nonzero(np.triu(gap < SWAP_M, 1))
        for k in np.flatnonzero(rng.random(len(a)) < s.swap).tolist():
            one, other = who[a[k]], who[b[k]]
            ids[one], ids[other] = ids[other], ids[one]
    return fresh


def _ghosts(rng: np.random.Generator, world: World, rsu: int, count: int, at: tuple[F64, F64]) -> tuple[F64, F64]:
    """Return places of things that are not there: beside what is there, or anywhere in range on the road."""
    s = world.setting
    x0, y0 = world.places[rsu]
    x = x0 + rng.uniform(-s.range_m, s.range_m, count)
    y = y0 + rng.uniform(-s.range_m, s.range_m, count) if s.kind == "crossing" else rng.uniform(-5.0, 15.0, count)
    beside = (rng.random(count) < 0.5) & (len(at[0]) > 0)
    if beside.any():
        j = rng.integers(0, len(at[0]), count)
        x = np.where(beside, at[0][j] + rng.normal(0, 3, count), x)
        y = np.where(beside, at[1][j] + rng.normal(0, 3, count), y)
    return x, y


def _kind(cls: I64) -> I64:
    """Return the participant type of classes."""
    return np.where(cls == PEDESTRIAN, 3, np.where((cls == CYCLIST) | (cls == MOTORCYCLE), 2, 1)).astype(np.int64)


def _place(east: F64, north: F64, ref: tuple[int, int]) -> tuple[I64, I64]:
    lat, lon = FRAME.to_geo(east, north)
    return tuple(  # type: ignore[return-value]
        np.rint(np.asarray(x) * 1e7).astype(np.int64) - r for x, r in zip((lat, lon), ref, strict=True)
    )


def _rows(columns: tuple[Any, ...], ts_ms: int) -> I64:
    kind, local, cls, d_lat, d_lon, speed, heading = columns
    rows = np.zeros((len(local), len(COLUMNS)), np.int64)
    shape = np.array([SHAPES[int(c)][:2] for c in cls]).reshape(-1, 2)
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = kind, local, cls, ts_ms % 60_000
    rows[:, 4], rows[:, 5] = d_lat, d_lon
    rows[:, 7] = np.rint(speed / 0.02)
    rows[:, 8] = np.rint(heading % 360 / 0.0125).astype(np.int64) % 28_800
    rows[:, 9] = 2001
    rows[:, 10], rows[:, 11] = np.rint(shape[:, 1] * 100), np.rint(shape[:, 0] * 100)
    return rows


__all__ = ["COLUMNS", "STEP_S", "T0_MS", "ZONE", "Scan", "Setting", "World", "make"]
