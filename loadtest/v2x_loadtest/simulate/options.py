"""What a simulation is asked to do: options, and the figures of the sensor and link models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from v2x.errors import ConfigError
from v2x.topics import UPLINKS

MAX_DEVICES: Final = 28_000  # connections from one address to one port: Linux gives ports 32768 to 60999


@dataclass(frozen=True, slots=True)
class SensorModel:
    """How roadside perception differs from the truth; ranges are drawn once an RSU."""

    sigma_m: tuple[float, float] = (0.3, 0.6)  # position noise each axis
    correlated: float = 0.5  # share of its variance that goes on from scan to scan
    tau_s: float = 1.0  # of this share, AR(1)
    bias_m: tuple[float, float] = (0.2, 0.3)  # constant offset of an RSU, any direction
    clock_ms: float = 15.0  # sigma of a roadside device's clock
    miss: float = 0.04  # an object in range is not seen in a scan
    false_per_scan: tuple[float, float] = (0.01, 0.05)  # new false detections
    false_lives: tuple[float, float, float] = (0.8, 0.17, 0.03)  # they last 1, 2, 3 scans
    id_break: float = 0.002  # an object gets a new local id in a scan
    id_swap: float = 0.002  # an object exchanges ids with its nearest neighbour in a scan, if that is close
    swap_m: float = 6.0
    forget_s: float = 1.0  # unseen for so long: a new id
    speed_mps: float = 0.2
    heading_deg: float = 1.0  # three times as much below 1.1 m/s (4 km/h)
    accel: float = 0.3  # m/s2
    yaw: float = 0.5  # deg/s
    size_m: float = 0.15
    wrong_class: float = 0.03  # of the objects, for as long as they keep their id
    flicker: float = 0.01  # of the scans
    occlusion: bool = False  # lorries and buses shadow what is behind them


@dataclass(frozen=True, slots=True)
class GnssModel:
    """How an OBU's own position differs from the truth."""

    sigma_m: float = 0.4  # slow error each axis
    tau_s: float = 20.0
    white_m: float = 0.1
    clock_ms: float = 2.0
    speed_mps: float = 0.05
    heading_deg: float = 0.3
    relay: float = 0.05  # share of BSMs that the nearest RSU also hears and passes on
    unavailable: float = 0.0  # share of BSMs without a position (flag 4 in the ledger)


@dataclass(frozen=True, slots=True)
class LinkModel:
    """The way from a device to the broker, before our own connection."""

    base_ms: tuple[float, float] = (5.0, 15.0)  # drawn once a device
    tail_median_ms: float = 3.0  # lognormal
    tail_sigma: float = 1.0
    tail_max_ms: float = 150.0
    duplicate: float = 0.01  # sent again, 1 to 60 ms later
    sensing_ms: tuple[float, float] = (20.0, 40.0)  # an RSU's processing, once a device
    other_ms: float = 5.0  # everyone else's


@dataclass(frozen=True, slots=True)
class GantryModel:
    """What goes wrong at a gantry."""

    delay_s: tuple[float, float] = (0.5, 3.0)  # from the passage to the sending of the transaction
    missed: float = 0.01  # no transaction at all
    failed: float = 0.01  # a failed one
    plate_unread: float = 0.01
    plate_misread: float = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run; times in seconds."""

    host: str = "127.0.0.1"
    port: int = 1883
    duration: float | None = None  # wall time; None: to the end of the scene, or for ever with ``loop``
    offset: float = 0.0  # scene second to start at
    speed: float = 1.0
    loop: bool = False
    scale: int = 1
    rsus: int | None = None  # at most so many RSUs in all; more than the scene has makes copies
    obus: int | None = None  # at most so many OBUs in each copy
    types: frozenset[str] | None = None  # only these message types (as in the topics)
    seed: int = 1
    ledger: Path | None = None
    confirm: bool = True  # devices keep reliable messages until they are confirmed, and send them again
    sensors: SensorModel = field(default_factory=SensorModel)
    gnss: GnssModel = field(default_factory=GnssModel)
    link: LinkModel = field(default_factory=LinkModel)
    gantries: GantryModel = field(default_factory=GantryModel)
    bad: tuple[str, float] | None = None  # device, share of its messages that are cut short (flag 2 in the ledger)

    def wants(self, type_: str) -> bool:
        """Say whether messages of a type are asked for."""
        return self.types is None or type_ in self.types

    def check(self, scene_s: float) -> None:
        """Raise ConfigError for what cannot be done with a scene of ``scene_s`` seconds."""
        known = {row.type for row in UPLINKS}
        for wrong, text in (
            (self.speed <= 0, f"--speed {self.speed:g} must be positive"),
            (self.scale < 1, f"--scale {self.scale} must be at least 1"),
            (
                self.rsus is not None and self.rsus < 1,
                f"--rsus {self.rsus} must be at least 1; leave it out for all",
            ),
            (self.obus is not None and self.obus < 0, f"--obus {self.obus} must not be negative"),
            (self.duration is not None and self.duration <= 0, f"--duration {self.duration} must be positive"),
            (
                not 0 <= self.offset < scene_s,
                f"--offset {self.offset:g} is not inside the scene, which has {scene_s:g} s",
            ),
            (
                self.types is not None and not self.types <= known,
                f"--types {','.join(sorted(self.types or ()))}: choose from {', '.join(sorted(known))}",
            ),
            (
                self.speed > 1 and self.loop and self.duration is None,
                "--speed above 1 with --loop needs --duration: event time must end at the wall clock",
            ),
            (
                self.duration is not None
                and not self.loop
                and self.offset + self.duration * self.speed > scene_s + 1e-6,
                f"--duration {self.duration or 0:g} goes past the end of the scene ({scene_s:g} s); add --loop",
            ),
        ):
            if wrong:
                raise ConfigError(text)

    def seconds(self, scene_s: float) -> float | None:
        """Return how long the run is, wall seconds; None for ever."""
        if self.duration is not None:
            return self.duration
        return None if self.loop else (scene_s - self.offset) / self.speed


@dataclass(frozen=True, slots=True)
class TimeMap:
    """Scene seconds (going on over loops), event time and wall time.

    Event time runs at the scene's pace, so that speeds and stamps agree; above ``speed`` 1 it starts in the past and
    ends at the wall clock, so no stamp is ever ahead.
    """

    wall0_us: int  # wall time at ``offset``
    event0_us: int  # event time at ``offset``
    offset: float
    speed: float

    @classmethod
    def start(cls, wall0_us: int, options: Options, scene_s: float) -> TimeMap:
        """Return the map of a run that starts at ``wall0_us``."""
        seconds = options.seconds(scene_s)
        behind = 0.0 if seconds is None or options.speed <= 1 else seconds * (options.speed - 1)
        return cls(wall0_us, wall0_us - round(behind * 1e6), options.offset, options.speed)
