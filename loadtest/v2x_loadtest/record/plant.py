"""Scripts that plant events into running traffic. Each is a generator that takes one step at a time.

Whoever is picked is picked for room: the others must not have to break a rule of their own because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from v2x_loadtest.record.drive import Car, Drive, Script
from v2x_loadtest.scene.model import FLAG_DISABLED, FLAG_HARD_BRAKING, FLAG_HAZARD

_KEEP_LANE = 0  # lane change mode: nothing of one's own accord
_AS_USUAL = 1621  # SUMO's default lane change mode


@dataclass(frozen=True, slots=True)
class Stretch:
    """A chain of SUMO edges in driving order, with the distance from its start at which each begins."""

    edges: tuple[str, ...]
    begin: tuple[float, ...]

    def along(self, car: Car) -> float | None:
        """Return how far the car's front is along the stretch; None if it is not on it."""
        edge = car.lane.rsplit("_", 1)[0]
        return self.begin[self.edges.index(edge)] + car.pos if edge in self.edges else None

    def lane(self, drive: Drive, index: int) -> list[tuple[float, Car]]:
        """Return (along, car) on one lane index, from behind to ahead."""
        cars = drive.on({f"{edge}_{index}" for edge in self.edges})
        return sorted((self.begin[self.edges.index(c.lane.rsplit("_", 1)[0])] + c.pos, c) for c in cars)


def pick(
    drive: Drive, stretch: Stretch, index: int, lo: float, hi: float, *, ahead: float, ok: Callable[[Car], bool]
) -> str | None:
    """Return the car on a lane between two places that has ``ahead`` metres before it and the most room behind."""
    row = stretch.lane(drive, index)
    best: tuple[float, str] | None = None
    for i, (s, car) in enumerate(row):
        if not lo <= s <= hi or not ok(car):
            continue
        behind = s - row[i - 1][0] if i else 500.0
        before = row[i + 1][0] - s if i + 1 < len(row) else 500.0
        if before >= ahead and (best is None or behind > best[0]):
            best = (behind, car.id)
    return best[1] if best else None


def clear(
    drive: Drive, stretch: Stretch, index: int, to: int, around: float, lo: float, hi: float, *, room: bool = True
) -> None:
    """Ask the cars of one lane between ``lo`` and ``hi`` metres of a place to use another (where that has room)."""
    beside = stretch.lane(drive, to)
    for s, car in stretch.lane(drive, index):
        if not lo <= s - around <= hi:
            continue
        # Who must force his way in makes others brake, and that would be an event of its own.
        if not room or all(
            not -(12.0 + max(0.0, 2.5 * (c.speed - car.speed)) + 0.6 * c.speed) < p - s < 12.0 + 0.5 * car.speed
            for p, c in beside
        ):
            drive.sumo.vehicle.changeLane(car.id, to, 4.0)


def _await(
    drive: Drive, stretch: Stretch, index: int, at: float, lo: float, hi: float, ahead: float, ok: Callable[[Car], bool]
) -> Generator[None, None, str]:
    """Wait until ``at`` and then until somebody fits; the generator's value is his id."""
    yield from drive.until(at)
    while True:
        who = pick(drive, stretch, index, lo, hi, ahead=ahead, ok=ok)
        if who:
            return who
        yield


def _make_way(drive: Drive, stretch: Stretch, index: int, side: int, who: str, seconds: float) -> Iterator[None]:
    """Let those behind leave the lane while all still drive at speed."""
    until = drive.t + seconds
    while drive.t < until and who in drive.cars:
        s = stretch.along(drive.cars[who])
        if s is not None:
            clear(drive, stretch, index, side, s, -500.0, -1.0)
        yield


def stopped(
    stretch: Stretch, index: int, side: int, at: float, lo: float, hi: float, hold: float, ok: Callable[[Car], bool],
    lead: float = 7.0,
) -> Callable[[Drive], Script]:  # fmt: skip
    """Let a car brake to a stand on its running lane, stand ``hold`` seconds, and go on."""

    def script(drive: Drive) -> Script:
        v = drive.sumo.vehicle
        who = yield from _await(drive, stretch, index, at, lo, hi, 0.0, ok)
        v.setLaneChangeMode(who, _KEEP_LANE)
        yield from _make_way(drive, stretch, index, side, who, lead)
        v.setDecel(who, 3.2)
        v.slowDown(who, 0.0, v.getSpeed(who) / 3.0)
        since = None
        while since is None or drive.t < since + hold:
            s = stretch.along(drive.cars[who])
            if s is not None:
                clear(drive, stretch, index, side, s, -600.0, -1.0)
            if since is None and drive.cars[who].speed < 0.1:
                since = drive.t
                v.setSpeed(who, 0.0)
            yield
        drive.notes.append(f"STOPPED_VEHICLE {who}")
        v.setAccel(who, 3.6)
        v.setSpeed(who, -1)
        yield from drive.until(drive.t + 8)
        v.setAccel(who, 2.0)
        v.setLaneChangeMode(who, _AS_USUAL)

    return script


def slow(
    stretch: Stretch, index: int, side: int, at: float, lo: float, hi: float, speed: float, hold: float,
    ok: Callable[[Car], bool],
) -> Callable[[Drive], Script]:  # fmt: skip
    """Let a vehicle fall to ``speed`` for ``hold`` seconds."""

    def script(drive: Drive) -> Script:
        v = drive.sumo.vehicle
        who = yield from _await(drive, stretch, index, at, lo, hi, 0.0, ok)
        drive.notes.append(f"SLOW_VEHICLE {who}")
        v.setLaneChangeMode(who, _KEEP_LANE)
        yield from _make_way(drive, stretch, index, side, who, 5.0)
        v.slowDown(who, speed, (v.getSpeed(who) - speed) / 2.0)
        until = drive.t + (v.getSpeed(who) - speed) / 2.0 + hold
        held = False
        while drive.t < until and who in drive.cars:
            s = stretch.along(drive.cars[who])
            if s is not None:
                clear(drive, stretch, index, side, s, -600.0, -1.0)
            if not held and drive.cars[who].speed < speed + 0.1:
                held = True
                v.setSpeed(who, speed)
            yield
        v.setSpeed(who, -1)
        v.setLaneChangeMode(who, _AS_USUAL)

    return script


def hard_brake(
    stretch: Stretch, index: int, at: float, lo: float, hi: float, drop: float, decel: float, ok: Callable[[Car], bool]
) -> Callable[[Drive], Script]:
    """Let a car brake hard by ``drop`` m/s and go on."""

    def script(drive: Drive) -> Script:
        v = drive.sumo.vehicle
        who = yield from _await(drive, stretch, index, at, lo, hi, 0.0, ok)
        drive.notes.append(f"HARD_BRAKING {who}")
        usual = v.getDecel(who)
        v.setLaneChangeMode(who, _KEEP_LANE)
        v.setDecel(who, decel + 0.5)
        v.slowDown(who, v.getSpeed(who) - drop, drop / decel)
        drive.flags[who] = FLAG_HARD_BRAKING
        yield from drive.until(drive.t + drop / decel)
        drive.flags.pop(who, None)
        v.setDecel(who, usual)
        v.setSpeed(who, -1)
        yield from drive.until(drive.t + 3)
        v.setLaneChangeMode(who, _AS_USUAL)

    return script


def overspeed(
    stretch: Stretch, index: int, side: int, at: float, lo: float, hi: float, speed: float, hold: float,
    ok: Callable[[Car], bool], accel: float = 3.5,
) -> Callable[[Drive], Script]:  # fmt: skip
    """Let a car speed up to ``speed`` for ``hold`` seconds; those ahead make way."""

    def script(drive: Drive) -> Script:
        v = drive.sumo.vehicle
        who = yield from _await(drive, stretch, index, at, lo, hi, 200.0, ok)
        drive.notes.append(f"OVERSPEED {who}")
        usual, factor = v.getSpeed(who), v.getSpeedFactor(who)
        v.setMaxSpeed(who, speed * 1.2)
        v.setSpeedFactor(who, 3.0)
        v.setAccel(who, accel)
        v.setLaneChangeMode(who, _KEEP_LANE)
        v.slowDown(who, speed, (speed - usual) / (accel * 0.9))
        until = drive.t + (speed - usual) / (accel * 0.9) + hold
        held = False
        while drive.t < until and who in drive.cars:
            s = stretch.along(drive.cars[who])
            if s is not None:
                clear(drive, stretch, index, side, s, 1.0, 500.0, room=False)
            if not held and drive.cars[who].speed > speed - 0.2:
                held = True
                v.setSpeed(who, speed)
            yield
        v.setSpeedFactor(who, factor)
        v.setAccel(who, 2.0)
        v.slowDown(who, usual, (speed - usual) / 1.8)
        yield from drive.until(drive.t + (speed - usual) / 1.8)
        v.setSpeed(who, -1)
        v.setLaneChangeMode(who, _AS_USUAL)

    return script


def breakdown(
    stretch: Stretch, index: int, at: float, lo: float, hi: float, ok: Callable[[Car], bool]
) -> Callable[[Drive], Script]:
    """Let a car set its hazard lights, roll onto the hard shoulder and stay there."""

    def script(drive: Drive) -> Script:
        v = drive.sumo.vehicle
        who = yield from _await(drive, stretch, index, at, lo, hi, 0.0, ok)
        drive.notes.append(f"BREAKDOWN {who}")
        drive.flags[who] = FLAG_HAZARD
        v.setVehicleClass(who, "custom1")
        v.setLaneChangeMode(who, _KEEP_LANE)
        v.slowDown(who, 21.0, max(0.5, (v.getSpeed(who) - 21.0) / 1.8))
        v.changeLane(who, index - 1, 200.0)
        while not drive.cars[who].lane.endswith("_0"):
            yield
        yield from drive.until(drive.t + 1.5)
        v.setDecel(who, 3.4)
        v.slowDown(who, 0.0, v.getSpeed(who) / 3.3)
        while drive.cars[who].speed > 0.05:
            yield
        v.setSpeed(who, 0.0)
        drive.flags[who] = FLAG_HAZARD | FLAG_DISABLED
        yield

    return script


def stranded(
    stretch: Stretch, index: int, at: float, lo: float, hi: float, ok: Callable[[Car], bool]
) -> Callable[[Drive], Script]:
    """Let a car set its hazard lights, stop on its lane and stay there."""

    def script(drive: Drive) -> Script:
        v = drive.sumo.vehicle
        who = yield from _await(drive, stretch, index, at, lo, hi, 0.0, ok)
        drive.notes.append(f"BREAKDOWN {who}")
        drive.flags[who] = FLAG_HAZARD
        v.setLaneChangeMode(who, _KEEP_LANE)
        yield from drive.until(drive.t + 3.5)  # a lane change that has begun ends first
        v.setDecel(who, 3.2)
        v.slowDown(who, 0.0, v.getSpeed(who) / 3.0)
        while drive.cars[who].speed > 0.05:
            yield
        v.setSpeed(who, 0.0)
        drive.flags[who] = FLAG_HAZARD | FLAG_DISABLED
        yield

    return script


def closure(
    stretch: Stretch, closed: tuple[int, ...], past: tuple[int, float] | None, edge: str, at: float, until: float
) -> Callable[[Drive], Script]:
    """Close lanes of an edge at ``at`` and open them at ``until``; on the lane of ``past`` one may pass at that speed.

    Who cannot stop in comfort is let through, as a police car ahead of the queue would do.
    """

    def script(drive: Drive) -> Script:
        v, lane = drive.sumo.vehicle, drive.sumo.lane
        yield from drive.until(at)
        start = stretch.begin[stretch.edges.index(edge)]
        after = start + lane.getLength(f"{edge}_0") + 5.0
        through: dict[str, tuple[float, float]] = {}  # who is let through: own highest speed and speed factor
        for car in list(drive.cars.values()):
            s = stretch.along(car)
            if s is None or not start - (car.speed**2 / (2 * 1.6) + 30.0) <= s <= after:
                continue
            through[car.id] = (v.getMaxSpeed(car.id), v.getSpeedFactor(car.id))
            v.setVehicleClass(car.id, "custom1")
            if past:
                v.setMaxSpeed(car.id, max(car.speed, 5.0))
                v.setSpeedFactor(car.id, 8.0)
        usual = {i: lane.getMaxSpeed(f"{edge}_{i}") for i in (*closed, *((past[0],) if past else ()))}
        allowed = {i: lane.getAllowed(f"{edge}_{i}") for i in closed}
        for i in closed:
            lane.setAllowed(f"{edge}_{i}", ["custom1"])
        if past:
            lane.setMaxSpeed(f"{edge}_{past[0]}", past[1])
        while drive.t < until - 1e-9:
            for id_ in list(through):
                s = stretch.along(drive.cars[id_]) if id_ in drive.cars else None
                if s is None or s > after:
                    most, factor = through.pop(id_)
                    if id_ in drive.cars:
                        v.setMaxSpeed(id_, most)
                        v.setSpeedFactor(id_, factor)
            yield
        for i in closed:
            lane.setAllowed(f"{edge}_{i}", list(allowed[i]))
        if past:
            lane.setMaxSpeed(f"{edge}_{past[0]}", usual[past[0]])
        yield

    return script
