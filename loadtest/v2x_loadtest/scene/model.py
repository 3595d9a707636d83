"""A scene in memory: vehicles and pedestrians by frame, devices, maps, signals, gantry passages and truth.

Time is scene seconds: 0 is the start of the recording, when traffic already flows; a step is 0.1 s. Positions are
WGS-84 and mean the *centre* of the object; headings are degrees clockwise from true north.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

F8 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]
U16 = npt.NDArray[np.uint16]
Bool = npt.NDArray[np.bool_]

STEP_S: Final = 0.1
# Object classes of Rsm.participants.object_class.
CAR, VAN, TRUCK, BUS, CYCLIST, MOTORCYCLIST, TRICYCLIST, PEDESTRIAN = 3, 4, 5, 6, 7, 8, 9, 10
# Bits of Bsm.event_flags that a scene uses.
FLAG_HAZARD, FLAG_ABS, FLAG_HARD_BRAKING, FLAG_WIPERS = 1 << 0, 1 << 2, 1 << 7, 1 << 9
FLAG_DISABLED, FLAG_AIRBAG = 1 << 11, 1 << 12
_HALF_WINDOW: Final = 2  # steps each side over which acceleration and yaw rate are taken


class Objects(NamedTuple):
    """Everything on the road at one step; rows by ascending ``idx``; views, do not write."""

    idx: I32  # number of the vehicle or pedestrian: row of ``Scene.vehicles``
    lat: F8  # deg
    lon: F8  # deg
    ele: F8  # m
    speed: F8  # m/s
    heading: F8  # deg from true north, clockwise, [0, 360)
    accel: F8  # m/s2, longitudinal, over +-0.2 s
    yaw: F8  # deg/s, clockwise positive, over +-0.2 s
    link: I32  # index into ``Scene.links``; -1 off the road
    lane: I32  # lane id, 1 at the median; 0 unknown
    flags: U16  # VehicleEventFlags as the vehicle's own OBU would send them


@dataclass(slots=True)
class Vehicles:
    """One row for each vehicle or pedestrian; columns are aligned."""

    cls: I16
    length_m: F8
    width_m: F8
    height_m: F8
    plate: list[str]  # empty for pedestrians
    plate_colour: I16
    vehicle_type: I16  # toll class: 1-4 passenger, 11-16 goods; 0 none
    has_obu: Bool  # carries an ETC tag (not: a V2X on-board unit, that is a device of kind obu)
    obu_sn: list[str]

    def __len__(self) -> int:
        """Return the number of vehicles and pedestrians."""
        return len(self.cls)


@dataclass(slots=True)
class Trajectories:
    """Samples in order of (vehicle, step), at storage resolution."""

    vehicle: I32
    step: I32
    lat: I32  # 1e-7 deg
    lon: I32  # 1e-7 deg
    speed: I32  # 0.01 m/s
    heading: I32  # 0.01 deg, 0..35999
    link: I32
    lane: I32
    flags: U16


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the road and where it stands (an OBU: where it is first seen)."""

    kind: str  # rsu, obu, gantry, pole, pile
    id: str
    lat: float
    lon: float
    ele: float
    range_m: float
    zone: str
    props: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Passages:
    """Front of a vehicle over a gantry's line; rows by time."""

    gantry: I32  # index into ``Scene.devices``
    vehicle: I32
    t_s: F8
    speed_mps: F8
    lane: I32
    dir: I32  # 1 up, 2 down

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self.gantry)


@dataclass(frozen=True, slots=True)
class TruthEvent:
    """What truly happened, found by the event rules in the true trajectories.

    ``start_s`` is when the rule's condition first held, ``start_s + dwell_s`` the earliest moment that anyone may call
    it an event. ``end_s`` is when it stopped holding; None: it lasts to the end of the recording.
    """

    id: str
    kind: str  # symbol of traffic_event.kind
    code: int  # GB/T 29100
    lat: float
    lon: float
    start_s: float
    end_s: float | None
    dwell_s: float
    link: str
    lane: int
    vehicles: list[int]
    observable: bool
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignalPhase:
    """Lights of one phase over a cycle: (light as in Spat.phases.light, seconds) one after the other."""

    phase_id: int
    lights: tuple[tuple[int, float], ...]

    def at(self, t: float) -> tuple[int, float, int, float]:
        """Return light, seconds to its end, next light and its duration, ``t`` seconds into the cycle (or later)."""
        lights = self.lights
        if len(lights) > 1 and lights[0][0] == lights[-1][0]:  # one light over the cycle's end: let it begin there
            wrap = lights[-1][1]
            lights = ((lights[0][0], lights[0][1] + wrap), *lights[1:-1])
            t += wrap
        t %= sum(seconds for _, seconds in lights)
        for i, (light, seconds) in enumerate(lights):
            if t < seconds:
                return light, seconds - t, *lights[(i + 1) % len(lights)]
            t -= seconds
        return *lights[0], *lights[1 % len(lights)]  # rounding at the cycle's end


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """Fixed-time plan of one intersection, sent by one RSU; a cycle starts at scene second ``offset_s``."""

    rsu: str
    region: int
    node: int
    offset_s: float
    phases: tuple[SignalPhase, ...]

    def spat(self, t_s: float) -> dict[str, Any]:
        """Return the intersection as in Spat.intersections."""
        phases = []
        for phase in self.phases:
            light, left, nxt, duration = phase.at(t_s - self.offset_s)
            phases.append(
                {
                    "phase_id": phase.phase_id,
                    "light": light,
                    "likely_end": min(round(left * 10), 36000),
                    "next_light": nxt,
                    "next_duration": min(round(duration * 10), 36000),
                    "confidence": 200,
                }
            )
        return {"region": self.region, "node": self.node, "status": 0, "phases": phases}


@dataclass(frozen=True, slots=True)
class Thing:
    """An obstacle on the road that is no traffic."""

    obs_type: int  # Rsm.obstacles.obs_type: 3 animal, 5 lost goods, 6 cone ...
    from_s: float
    to_s: float
    lat: float  # deg, at ``from_s``
    lon: float
    north_mps: float = 0.0
    east_mps: float = 0.0


@dataclass(frozen=True, slots=True)
class Spell:
    """Weather at one pole: fields of pole_env, in its units, that differ from a dry day's for some time."""

    pole: str
    from_s: float
    to_s: float
    fields: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the signals that an RSU tells of: "silent", "dark", "clash" (all green) or a status bit."""

    rsu: str
    from_s: float
    to_s: float
    what: str
    status: int = 0  # IntersectionStatusObject


class Scene:
    """A recorded scene; see the module's text for units and frames of reference."""

    def __init__(
        self,
        name: str,
        *,
        steps: int,
        zones: dict[str, Any],
        vehicles: Vehicles,
        trajectories: Trajectories,
        links: Sequence[str],
        devices: Sequence[Device],
        maps: Mapping[str, list[dict[str, Any]]],
        plans: Sequence[SignalPlan],
        passages: Passages,
        events: Sequence[TruthEvent],
        ele_m: float = 5.0,
        info: Mapping[str, Any] | None = None,
        things: Sequence[Thing] = (),
        weather: Sequence[Spell] = (),
        faults: Sequence[Fault] = (),
    ) -> None:
        self.name = name
        self.steps = steps
        self.step_s = STEP_S
        self.duration_s = steps * STEP_S
        self.zones = zones
        self.vehicles = vehicles
        self.trajectories = trajectories
        self.links = list(links)
        self.devices = list(devices)
        self.maps = dict(maps)
        self.plans = list(plans)
        self.passages = passages
        self.events = list(events)
        self.ele_m = ele_m
        self.info = dict(info or {})  # how it was made: seed, SUMO version, licence
        self.things, self.weather, self.faults = list(things), list(weather), list(faults)
        self._index()

    def _index(self) -> None:
        """Bring the samples into frame order and derive what is not stored."""
        tr = self.trajectories
        accel, yaw = _rates(tr)
        order = np.lexsort((tr.vehicle, tr.step))
        self._start = np.searchsorted(tr.step[order], np.arange(self.steps + 1))
        self._rows = Objects(
            idx=tr.vehicle[order].astype(np.int32),
            lat=np.multiply(tr.lat[order], 1e-7, dtype=np.float64),
            lon=np.multiply(tr.lon[order], 1e-7, dtype=np.float64),
            ele=np.full(len(order), self.ele_m),
            speed=np.multiply(tr.speed[order], 0.01, dtype=np.float64),
            heading=np.multiply(tr.heading[order], 0.01, dtype=np.float64),
            accel=accel[order],
            yaw=yaw[order],
            link=tr.link[order].astype(np.int32),
            lane=tr.lane[order].astype(np.int32),
            flags=tr.flags[order].astype(np.uint16),
        )

    def frame(self, step: int) -> Objects:
        """Return everything on the road at ``step`` (0.1 s each); IndexError beyond the recording."""
        if not 0 <= step < self.steps:
            msg = f"step {step} is not in scene {self.name}, which has {self.steps}"
            raise IndexError(msg)
        a, b = int(self._start[step]), int(self._start[step + 1])
        return Objects._make(column[a:b] for column in self._rows)

    def signals(self, rsu_id: str, t_s: float) -> list[dict[str, Any]]:
        """Return what this RSU's SPAT says at ``t_s``: rows of Spat.intersections, empty where it has no signals."""
        said = [plan.spat(t_s) for plan in self.plans if plan.rsu == rsu_id]
        for fault in self.faults:
            if fault.rsu == rsu_id and fault.from_s <= t_s < fault.to_s:
                if fault.what == "silent":
                    return []
                light = {"dark": 1, "clash": 6}.get(fault.what)
                for node in said:
                    node["status"] |= fault.status
                    for phase in node["phases"] if light else ():
                        phase["light"] = light
        return said

    def sky(self, pole: str, t_s: float) -> dict[str, int]:
        """Return what a pole's measurement differs by from a dry day's at ``t_s``."""
        out: dict[str, int] = {}
        for spell in self.weather:
            if spell.pole == pole and spell.from_s <= t_s < spell.to_s:
                out.update(spell.fields)
        return out

    def travel_truth(self, section: str, from_s: float, to_s: float) -> list[tuple[int, float, float]]:
        """Return (vehicle, at the first gantry, at the second) of all that did both within [from_s, to_s)."""
        row = next((s for s in self.zones["sections"] if s["section"] == section), None)
        if row is None:
            msg = f"scene {self.name} has no section {section!r}"
            raise KeyError(msg)
        number = {d.props["gantry_hex"]: i for i, d in enumerate(self.devices) if d.kind == "gantry"}
        inside = (self.passages.t_s >= from_s) & (self.passages.t_s < to_s)
        first = inside & (self.passages.gantry == number[row["from"]])
        seen = dict(zip(self.passages.vehicle[first].tolist(), self.passages.t_s[first].tolist(), strict=True))
        second = inside & (self.passages.gantry == number[row["to"]])
        return [
            (vehicle, seen[vehicle], t)
            for vehicle, t in zip(
                self.passages.vehicle[second].tolist(), self.passages.t_s[second].tolist(), strict=True
            )
            if vehicle in seen and seen[vehicle] < t
        ]


def _rates(tr: Trajectories) -> tuple[F8, F8]:
    """Return acceleration (m/s2) and yaw rate (deg/s) by differences over +-0.2 s, one-sided at the ends of a track."""
    n = len(tr.vehicle)
    if n == 0:
        return np.zeros(0), np.zeros(0)
    rows = np.arange(n)
    # A track is a run of one vehicle with steps without a gap.
    new = np.ones(n, bool)
    new[1:] = (tr.vehicle[1:] != tr.vehicle[:-1]) | (tr.step[1:] != tr.step[:-1] + 1)
    first = np.maximum.accumulate(np.where(new, rows, 0))
    last_of_run = np.append(np.flatnonzero(new)[1:] - 1, n - 1)
    last = last_of_run[np.cumsum(new) - 1]
    a, b = np.maximum(rows - _HALF_WINDOW, first), np.minimum(rows + _HALF_WINDOW, last)
    dt = np.maximum(b - a, 1) * STEP_S
    accel = (tr.speed[b] - tr.speed[a]) * 0.01 / dt
    turn = (tr.heading[b] - tr.heading[a] + 18000) % 36000 - 18000
    return accel, turn * 0.01 / dt
