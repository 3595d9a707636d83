"""One SUMO run: 0.1 s steps, every vehicle's front each step, and scripts that plant events as they go."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v2x.errors import ConfigError

from v2x_loadtest.record.motion import Raw
from v2x_loadtest.scene.model import STEP_S

Script = Generator[None, None, None]


def need_sumo() -> tuple[Any, Path]:
    """Return libsumo and the netconvert program; ConfigError that says how to install them."""
    try:
        import libsumo  # noqa: PLC0415 - an optional extra
        import pyproj  # noqa: F401, PLC0415
        import sumo  # noqa: PLC0415
    except ImportError as error:
        msg = f"recording a scene needs SUMO ({error}); install it with: pip install 'v2x-core[record]'"
        raise ConfigError(msg) from error
    os.environ.setdefault("SUMO_HOME", sumo.SUMO_HOME)
    return libsumo, Path(sumo.SUMO_HOME) / "bin" / "netconvert"


def netconvert(*arguments: str) -> None:
    """Run SUMO's netconvert; ConfigError with its words if it fails."""
    _, tool = need_sumo()
    done = subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"netconvert failed: {done.stderr.strip()[:2000]}"
        raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class Car:
    """One vehicle now."""

    id: str
    kind: str
    lane: str  # SUMO lane id
    pos: float  # of the front on the lane, m
    speed: float
    x: float
    y: float


class Drive:
    """A SUMO run; ``t`` is scene seconds (negative while it warms up)."""

    def __init__(
        self, net: Path, routes: Path, *, seed: int, warm_s: float, length_s: float, extra: tuple[str, ...] = ()
    ) -> None:
        self.sumo, _ = need_sumo()
        self.warm = round(warm_s / STEP_S)
        self.steps = round(length_s / STEP_S)
        self.step = -self.warm
        self.cars: dict[str, Car] = {}
        self.raw: dict[str, Raw] = {}
        self.lanes: list[str] = []
        self.flags: dict[str, int] = {}  # event flags of a vehicle from now on
        self.notes: list[str] = []
        self.lights: dict[str, list[str]] = {}  # SUMO's own words on each signal, one a whole scene second
        self._lane_index: dict[str, int] = {}
        self._command = [
            "sumo", "-n", str(net), "-r", str(routes), "--step-length", str(STEP_S), "--seed", str(seed),
            "--step-method.ballistic", "true", "--time-to-teleport", "-1",
            "--collision.action", "warn", "--no-step-log", "true", "--duration-log.disable", "true",
            "--extrapolate-departpos", "true", *extra,
        ]  # fmt: skip

    @property
    def t(self) -> float:
        """Return the scene second."""
        return self.step * STEP_S

    def run(self, scripts: list[Script], progress: Callable[[float], None] | None = None) -> None:
        """Drive from the warm-up to the end."""
        alive = list(scripts)
        with contextlib.redirect_stdout(io.StringIO()):
            self.sumo.start(self._command)
        try:
            for done in range(self.warm + self.steps):
                self.sumo.simulationStep()
                self._read()
                alive = [script for script in alive if next(script, self) is not self]
                self.step += 1
                if progress and done % 50 == 0:
                    progress(done / (self.warm + self.steps))
        finally:
            self.sumo.close()

    def _read(self) -> None:
        vehicle = self.sumo.vehicle
        cars: dict[str, Car] = {}
        for id_ in vehicle.getIDList():
            lane = vehicle.getLaneID(id_)
            if not lane:
                continue
            x, y = vehicle.getPosition(id_)
            raw = self.raw.get(id_)
            if raw is None:
                kind = vehicle.getTypeID(id_).split("@")[0]
                raw = self.raw[id_] = Raw(self.step, kind)
            speed = vehicle.getSpeed(id_)
            cars[id_] = Car(id_, raw.kind, lane, vehicle.getLanePosition(id_), speed, x, y)
            number = self._lane_index.get(lane)
            if number is None:
                number = self._lane_index[lane] = len(self.lanes)
                self.lanes.append(lane)
            raw.x.append(x)
            raw.y.append(y)
            raw.angle.append(vehicle.getAngle(id_))
            raw.speed.append(max(0.0, speed))
            raw.lane.append(number)
            raw.flags.append(self.flags.get(id_, 0))
        self.cars = cars
        person = self.sumo.person
        for id_ in person.getIDList():
            raw = self.raw.get(id_)
            if raw is None:
                raw = self.raw[id_] = Raw(self.step, "person")
            x, y = person.getPosition(id_)
            raw.x.append(x)
            raw.y.append(y)
            raw.angle.append(person.getAngle(id_))
            raw.speed.append(max(0.0, person.getSpeed(id_)))
            raw.lane.append(-1)
            raw.flags.append(0)
        if self.step >= 0 and self.step % 10 == 0:
            for id_ in self.sumo.trafficlight.getIDList():
                self.lights.setdefault(id_, []).append(self.sumo.trafficlight.getRedYellowGreenState(id_))

    def until(self, t: float) -> Iterator[None]:
        """Wait for scene second ``t``: ``yield from drive.until(8.0)``."""
        while self.t < t - 1e-9:
            yield None

    def on(self, lanes: set[str]) -> list[Car]:
        """Return the cars on these lanes now, in order of lane and position."""
        return sorted((c for c in self.cars.values() if c.lane in lanes), key=lambda c: (c.lane, c.pos, c.id))
