"""A planted scene: a seed draws traffic, acts and weather, and the truth of them.

What the truth says is what the acts were made to be, by the catalogue's words and figures; beside it only what the
scene's other traffic does by chance (a vehicle that brakes hard before a red light) is looked for. Nothing here knows
of fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from v2x.events.catalogue import KINDS

from v2x_loadtest.planted import layout
from v2x_loadtest.planted.actors import F64, LANE_MPS, Actor, Box, Car, Note, car, times
from v2x_loadtest.planted.jam import jam
from v2x_loadtest.planted.motorway import ACTS, Act, Row, box, link_of, slowly
from v2x_loadtest.planted.street import street
from v2x_loadtest.planted.weather import flag, sky
from v2x_loadtest.scene import Device, Fault, Passages, Scene, Spell, Thing, Trajectories, TruthEvent, Vehicles
from v2x_loadtest.scene.model import PEDESTRIAN, STEP_S
from v2x_loadtest.score.traffic import CAR, CYCLIST, TRUCK

SECONDS: Final = 200.0
_TRIES: Final = 200
_ROOM_M, _ROOM_S = 100.0, 10.0  # between two acts on a carriageway
_SAME: Final = (0.0, 70.0)  # ... and where one was a minute ago, another would be taken for it
_JAM_S: Final = 120.0  # a shorter scene has no queue
_EDGE_M: Final = 300.0
_SPACING_M: Final = (90.0, 260.0)
_OBUS: Final = 0.2
_BRAKES: Final = ((-3.0, 0.5), (-4.7, 1.3))  # m/s2, s: perhaps hard braking; surely
_SEEN_S: Final = 4.0  # so long must it have been in sight


def planted_scene(seed: int, *, planted: bool = True, seconds: float = SECONDS) -> Scene:
    """Return the scene of a seed; without ``planted`` the same road in free flow."""
    rng = np.random.default_rng([seed, 11])
    t = times(seconds)
    acts = _acts(rng, t) if planted else []
    cars = [c for act in acts for c in act.cars]
    actors: list[Actor] = [*cars, *_flow(rng, t, acts)]
    notes = [note for act in acts for note in act.notes]
    things = [thing for act in acts for thing in act.things]
    spells: list[Spell] = []
    devices = layout.devices()
    if planted:
        poles = [d for d in devices if d.kind == "pole"]
        west = bool(rng.random() < 0.5)
        spells, told = sky(rng, t, poles, west_shower=west)
        notes += [*told, *flag(rng, t, [a for a in actors if isinstance(a, Car)], west_shower=west)]
    streets = street(rng, t, planted=planted)
    actors += streets.actors
    notes += [*streets.notes, *_chance(t, streets.actors, streets.notes)]
    actors = [a for a in actors if np.isfinite(a.x).sum() > 3]
    for number, actor in enumerate(actors):
        actor.number = number
    devices += _obus(actors)
    return _scene(seed, t, actors, notes, devices, [*things, *streets.things], spells, streets.faults)


# -- acts -------------------------------------------------------------------------------------------------------------
def _acts(rng: np.random.Generator, t: F64) -> list[Act]:
    """Return the acts that found room: one of each, then the second of each, and so on."""
    out: list[Act] = []
    boxes: list[Box] = []
    if t[-1] > _JAM_S:
        d = layout.EAST if rng.random() < 0.5 else layout.WEST
        at = (float(rng.uniform(30, 50)), float(rng.uniform(3000, 3400)))
        act = jam(rng, t, d, 3, at)
        act.notes += [note for c in act.cars for note in slowly(t, c)]
        out.append(act)
        boxes.append(Box(d, (at[1] - 900, at[1] + 700), (at[0] - 10, at[0] + 110)))
    for turn in range(max(row.count for row in ACTS.values())):
        for row in ACTS.values():
            if turn < row.count:
                _place(rng, t, row, out, boxes)
    return out


def _place(rng: np.random.Generator, t: F64, row: Row, out: list[Act], boxes: list[Box]) -> None:
    """Add an act where and when nothing else is; leave it out if there is no room."""
    for _ in range(_TRIES):
        d = int(rng.choice([layout.EAST, layout.WEST]))
        lane = int(rng.choice(row.lanes))
        at = (float(rng.uniform(8, t[-1] - row.seconds - 4)), float(rng.uniform(_EDGE_M, layout.LENGTH_M - _EDGE_M)))
        here = box(row, d, at)
        if here.s[1] > layout.LENGTH_M - _EDGE_M or any(
            here.meets(b, _ROOM_M, _ROOM_S) or here.meets(b, *_SAME) for b in boxes
        ):
            continue
        act = row.make(rng, t, d, lane, at)
        if any(_meet(c, other, 160.0) for c in act.cars for a in out for other in a.cars):
            continue
        if not any(note.kind in {"SLOW_VEHICLE", "WRONG_WAY"} for note in act.notes):
            act.notes += [note for c in act.cars for note in slowly(t, c)]
        for note in act.notes:
            note.link = link_of(d, at[1])
        out.append(act)
        boxes.append(here)
        return


def _meet(a: Car, b: Car, room_m: float) -> bool:
    """Say whether two vehicles are ever nearer than this on one lane."""
    if a.direction != b.direction or not a.lanes & b.lanes:
        return False
    with np.errstate(invalid="ignore"):
        return bool((np.abs(a.s - b.s) < room_m).any())


# -- other traffic ----------------------------------------------------------------------------------------------------
def _flow(rng: np.random.Generator, t: F64, acts: Sequence[Act]) -> list[Car]:
    """Return the free flow: each lane at its own speed, without those that would meet an act."""
    out = []
    for d in (layout.EAST, layout.WEST):
        for lane, mps in LANE_MPS.items():
            s = layout.LENGTH_M - float(rng.uniform(0, 100))
            while s > -mps * t[-1]:
                cls = TRUCK if lane == 3 and rng.random() < 0.25 else CAR
                c = car(t, d, lane, (0.0, s), [], cls=cls, obu=rng.random() < _OBUS)
                if not any(_hinders(c, other, act.clear_m) for act in acts for other in act.cars):
                    out.append(c)
                s -= float(rng.uniform(*_SPACING_M))
    return out


def _hinders(c: Car, other: Car, clear_m: tuple[float, float]) -> bool:
    if c.direction != other.direction or not c.lanes & other.lanes:
        return False
    with np.errstate(invalid="ignore"):
        ahead = c.s - other.s
        return bool(((ahead > -clear_m[0]) & (ahead < clear_m[1])).any())


def _chance(t: F64, actors: Sequence[Actor], notes: Sequence[Note]) -> list[Note]:
    """Return the hard braking of those of the streets that no act is about: before a red light, say."""
    known = {id(a) for note in notes for a in note.actors}
    out = []
    for a in actors:
        if id(a) in known or a.cls in {PEDESTRIAN, CYCLIST}:
            continue
        accel = np.convolve(np.gradient(a.speed, STEP_S), np.full(3, 1 / 3), "same")
        accel[~np.isfinite(a.x)] = 0.0
        for begin, end in _runs(accel <= _BRAKES[0][0]):
            if (end - begin) * STEP_S < _BRAKES[0][1]:
                continue
            seen = (begin - int(np.flatnonzero(np.isfinite(a.x))[0])) * STEP_S >= _SEEN_S
            sure = seen and any((q - p) * STEP_S >= _BRAKES[1][1] for p, q in _runs(accel[begin:end] <= _BRAKES[1][0]))
            details = {} if sure else {"optional": "near the rule's limits: sensors cannot decide it"}
            place = (float(a.x[begin]), float(a.y[begin]))
            seconds = (float(t[begin]), float(t[min(end, len(t) - 1)]))
            out.append(Note("HARD_BRAKING", place, *seconds, 1.0, (a,), details=details))
    return out


def _runs(mask: Any) -> list[tuple[int, int]]:
    edge = np.diff(np.concatenate([[0], np.asarray(mask, np.int8), [0]]))
    return list(zip(np.flatnonzero(edge == 1).tolist(), np.flatnonzero(edge == -1).tolist(), strict=True))


# -- the scene --------------------------------------------------------------------------------------------------------
def _obus(actors: Sequence[Actor]) -> list[Device]:
    out: list[Device] = []
    for a in actors:
        if a.obu:
            k = int(np.flatnonzero(np.isfinite(a.x))[0])
            lat, lon = (round(float(v), 7) for v in layout.FRAME.to_geo(a.x[k], a.y[k]))
            zone = "P-Z1" if a.x[k] < layout.LENGTH_M / 2 else "P-Z2"
            out.append(Device("obu", f"OBU-P-{len(out) + 1:04d}", lat, lon, 5.0, 0.0, zone, {"vehicle": a.number}))
    return out


def _scene(
    seed: int, t: F64, actors: Sequence[Actor], notes: Sequence[Note], devices: list[Device], things: list[Thing],
    spells: list[Spell], faults: list[Fault],
) -> Scene:  # fmt: skip
    fixed = [d for d in devices if d.kind != "obu"]
    sizes = np.array([a.size for a in actors]).reshape(-1, 3)
    n = len(actors)
    return Scene(
        "planted",
        steps=len(t),
        zones=layout.zones(fixed),
        vehicles=Vehicles(
            cls=np.array([a.cls for a in actors], np.int16), length_m=sizes[:, 0], width_m=sizes[:, 1],
            height_m=sizes[:, 2], plate=[""] * n, plate_colour=np.full(n, 9, np.int16),
            vehicle_type=np.zeros(n, np.int16), has_obu=np.zeros(n, bool), obu_sn=[""] * n,
        ),
        trajectories=_trajectories(actors),
        links=[],
        devices=devices,
        maps=layout.maps(fixed),
        plans=layout.plans(),
        passages=Passages(*(np.zeros(0, x) for x in (np.int32, np.int32, float, float, np.int32, np.int32))),
        events=_events(notes, t),
        info={"seed": seed, "origin": "computed"},
        things=things,
        weather=spells,
        faults=faults,
    )  # fmt: skip


def _trajectories(actors: Sequence[Actor]) -> Trajectories:
    columns: list[tuple[Any, ...]] = []
    for a in actors:
        at = np.flatnonzero(np.isfinite(a.x))
        at = np.arange(at[0], at[-1] + 1)
        at = at[np.isfinite(a.x[at])]
        dx, dy = np.gradient(a.x[at]), np.gradient(a.y[at])
        moves = np.hypot(dx, dy) > 0.02
        heading = np.degrees(np.arctan2(dx, dy)) % 360
        held = np.maximum.accumulate(np.where(moves, np.arange(len(at)), -1))
        first = int(np.argmax(moves)) if moves.any() else 0
        heading = heading[np.where(held < 0, first, held)]
        lat, lon = layout.FRAME.to_geo(a.x[at], a.y[at])
        columns.append((np.full(len(at), a.number), at, lat, lon, a.speed[at], heading, a.flags[at]))
    vehicle, step, lat, lon, speed, heading, flags = (np.concatenate(c) for c in zip(*columns, strict=True))
    none = np.zeros(len(step), np.int32)
    return Trajectories(
        vehicle=vehicle.astype(np.int32), step=step.astype(np.int32), lat=np.rint(lat * 1e7).astype(np.int32),
        lon=np.rint(lon * 1e7).astype(np.int32), speed=np.rint(speed * 100).astype(np.int32),
        heading=np.rint(heading * 100).astype(np.int32) % 36000, link=none - 1, lane=none,
        flags=flags.astype(np.uint16),
    )  # fmt: skip


def _events(notes: Sequence[Note], t: F64) -> list[TruthEvent]:
    out = []
    for n, note in enumerate(sorted(notes, key=lambda x: (x.start_s, x.kind, x.place))):
        lat, lon = (float(v) for v in layout.FRAME.to_geo(*note.place))
        end = None if note.end_s is None or note.end_s >= t[-1] else round(note.end_s, 2)
        code = KINDS[note.kind].code
        out.append(TruthEvent(
            f"P-{n + 1:03d}", note.kind, code, round(lat, 7), round(lon, 7), round(note.start_s, 2), end,
            note.dwell_s, note.link, note.lane, [a.number for a in note.actors if a.number >= 0], True,
            {"planted": True, **note.details},
        ))  # fmt: skip
    return out
