"""What OBUs say of themselves: BSM rows from the true state of their vehicles and a GNSS receiver's errors."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.scene import Vehicles
from v2x_loadtest.simulate.encode import BSM_FIELDS, LON_UNAVAILABLE
from v2x_loadtest.simulate.motion import Motion, metres_per_degree
from v2x_loadtest.simulate.options import GnssModel

F8 = npt.NDArray[np.float64]
I4 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int64]

LAT_UNAVAILABLE: Final = 900_000_001
_HAZARD: Final = 1 << 0  # event_flags
_HARD_BRAKING: Final = 1 << 7
_HARD_MPS2: Final = -4.0
_COL: Final = {name: i for i, name in enumerate(BSM_FIELDS)}
_ROTATE_STEPS: Final = 3000  # a temporary id lasts 5 minutes
# BasicVehicleClass by object class: passenger car 10, light lorry 20, lorry 25, motorcycle 40, bus 50, else 0.
_CLASS: Final = np.array([0, 0, 0, 10, 20, 25, 50, 0, 40, 0, 0], np.int32)


class Obus:
    """The OBUs of one copy of a scene."""

    def __init__(
        self,
        vehicle: npt.NDArray[np.int64],
        vehicles: Vehicles,
        phase: F8,
        step_s: float,
        model: GnssModel,
        rng: np.random.Generator,
    ) -> None:
        """``vehicle``: each OBU's vehicle number; ``phase``: its place in the step."""
        self.vehicle, self._phase, self._model, self._rng = vehicle, phase, model, rng
        self._rho = float(np.exp(-step_s / model.tau_s))
        self._error = rng.normal(0, model.sigma_m, (2, len(vehicle)))
        self._temp = rng.integers(0, 256, (len(vehicle), 8)).astype(np.uint8)
        self._rotate = rng.integers(0, _ROTATE_STEPS, len(vehicle))
        self._size = np.stack(
            [np.asarray(x, float)[vehicle] for x in (vehicles.width_m, vehicles.length_m, vehicles.height_m)]
        )
        self._class = _CLASS[np.clip(np.asarray(vehicles.cls, np.int64)[vehicle], 0, 10)]

    def report(self, step: int, road: Motion) -> tuple[I8, I4, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return which OBUs are on the road, their BSM rows and temporary ids, and who has no position."""
        m, rng = self._model, self._rng
        n = len(self.vehicle)
        # Drawn for all, on the road or not: what one OBU says does not hang on the others.
        self._error = self._rho * self._error + np.sqrt(1 - self._rho**2) * rng.normal(0, m.sigma_m, (2, n))
        white = rng.normal(0, 1, (4, n))
        blind = rng.random(n) < m.unavailable
        turned = np.flatnonzero((step + self._rotate) % _ROTATE_STEPS == 0)
        self._temp[turned] = rng.integers(0, 256, (len(turned), 8))
        at = np.searchsorted(road.idx, self.vehicle)
        here = np.flatnonzero(at < len(road.idx))
        here = here[road.idx[at[here]] == self.vehicle[here]]
        true = road.take(at[here], self._phase[here])
        north, east = metres_per_degree(true.lat)
        off = self._error[:, here] + m.white_m * white[:2, here]
        lat = np.round((true.lat + off[1] / north) * 1e7)
        lon = np.round((true.lon + off[0] / east) * 1e7)
        flags = true.flags.astype(np.int64) | np.where(true.accel <= _HARD_MPS2, _HARD_BRAKING, 0)
        braking = true.accel < -0.5
        blind = blind[here]
        rows = np.zeros((len(here), len(BSM_FIELDS)), np.int32)
        for name, value in (
            ("lat", np.where(blind, LAT_UNAVAILABLE, lat)),
            ("lon", np.where(blind, LON_UNAVAILABLE, lon)),
            ("ele", np.where(blind, -4096, np.clip(np.round(true.ele * 10), -4095, 61439))),
            ("pos_conf", np.where(blind, 0, 10)),
            ("semi_major", np.where(blind, 255, 10)),
            ("semi_minor", np.where(blind, 255, 10)),
            ("orientation", np.where(blind, 65535, 0)),
            ("transmission", 2),
            ("speed", np.clip(np.round((true.speed + m.speed_mps * white[2, here]) * 50), 0, 8190)),
            ("heading", np.round((true.heading + m.heading_deg * white[3, here]) * 80) % 28800),
            ("angle", 127),
            ("speed_conf", 6),
            ("heading_conf", 4),
            ("accel_long", np.clip(np.round(true.accel * 100), -2000, 2000)),
            ("accel_lat", np.clip(np.round(np.radians(true.yaw) * true.speed * 100), -2000, 2000)),
            ("accel_vert", -127),
            ("yaw_rate", np.clip(np.round(true.yaw * 100), -32767, 32767)),
            ("brake_pedal", np.where(braking, 2, 1)),
            ("wheel_brakes", np.where(braking, 30, 0)),
            ("traction", 2),
            ("abs", 2),
            ("scs", 2),
            ("brake_boost", 1),
            ("width", np.clip(np.round(self._size[0, here] * 100), 1, 1023)),
            ("length", np.clip(np.round(self._size[1, here] * 100), 1, 4095)),
            ("height", np.clip(np.round(self._size[2, here] * 20), 1, 127)),
            ("vehicle_class", self._class[here]),
            ("fuel_type", 1),
            ("event_flags", flags),
            ("lights", 1 | np.where(flags & _HAZARD, 1 << 4, 0)),
        ):
            rows[:, _COL[name]] = value
        return here, rows, self._temp[here], blind
