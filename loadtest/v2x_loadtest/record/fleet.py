"""Kinds of vehicles: sizes, and how they are driven (EIDM: the default model brakes like a sawtooth at 0.1 s)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from v2x_loadtest.scene.model import BUS, CAR, TRUCK, VAN


@dataclass(frozen=True, slots=True)
class Kind:
    """One vType."""

    name: str
    cls: int
    share: float
    length: float
    width: float
    height: float
    max_speed: float  # m/s
    factor: str  # SUMO speedFactor
    accel: float
    decel: float
    tau: float

    def xml(self, extra: str = "") -> str:
        """Return the vType element."""
        v_class = {TRUCK: "truck", BUS: "bus"}.get(self.cls, "passenger")
        return (
            f'<vType id="{self.name}" vClass="{v_class}" length="{self.length}" width="{self.width}" '
            f'height="{self.height}" maxSpeed="{self.max_speed}" speedFactor="{self.factor}" accel="{self.accel}" '
            f'decel="{self.decel}" emergencyDecel="9" tau="{self.tau}" minGap="2.5" carFollowModel="EIDM" {extra}/>'
        )


MOTORWAY: Final = (
    Kind("compact", CAR, 0.28, 4.3, 1.76, 1.5, 42.0, "normc(0.93,0.05,0.82,1.07)", 2.0, 2.6, 1.2),
    Kind("saloon", CAR, 0.27, 4.8, 1.84, 1.45, 45.0, "normc(0.96,0.05,0.85,1.08)", 2.2, 2.6, 1.2),
    Kind("suv", CAR, 0.19, 4.7, 1.9, 1.7, 42.0, "normc(0.94,0.05,0.83,1.07)", 2.0, 2.6, 1.3),
    Kind("van", VAN, 0.09, 5.4, 2.0, 2.2, 36.0, "normc(0.88,0.04,0.78,0.98)", 1.7, 2.4, 1.3),
    Kind("lorry", TRUCK, 0.07, 8.4, 2.45, 3.2, 25.0, "1.0", 1.1, 2.0, 1.5),
    Kind("trailer", TRUCK, 0.06, 15.5, 2.55, 3.9, 24.0, "1.0", 0.9, 2.0, 1.6),
    Kind("coach", BUS, 0.04, 11.6, 2.55, 3.4, 27.8, "1.0", 1.2, 2.0, 1.5),
)

URBAN: Final = (
    Kind("compact", CAR, 0.36, 4.3, 1.76, 1.5, 42.0, "normc(0.95,0.05,0.85,1.08)", 2.2, 2.6, 1.2),
    Kind("saloon", CAR, 0.30, 4.8, 1.84, 1.45, 45.0, "normc(0.98,0.05,0.86,1.08)", 2.3, 2.6, 1.2),
    Kind("suv", CAR, 0.20, 4.7, 1.9, 1.7, 42.0, "normc(0.96,0.05,0.85,1.08)", 2.2, 2.6, 1.2),
    Kind("van", VAN, 0.09, 5.4, 2.0, 2.2, 36.0, "normc(0.94,0.04,0.84,1.04)", 1.8, 2.5, 1.3),
    Kind("bus", BUS, 0.05, 11.6, 2.55, 3.1, 20.0, "1.0", 1.2, 2.0, 1.4),
)
