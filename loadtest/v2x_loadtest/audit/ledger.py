"""What the simulator published: one row a message, and who its devices are.

A folder with ``devices.json`` and ``sent.npy`` (a complete array) or ``sent.bin`` (bare rows, as a simulator that was
killed leaves them).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.errors import ConfigError
from v2x.topics import UPLINKS

SENT: Final = np.dtype(
    [
        ("device", "<u4"),  # index into devices
        ("type", "u1"),  # UPLINKS code
        ("flags", "u1"),
        ("seq", "<u8"),
        ("ts_ms", "<i8"),
        ("intended_us", "<i8"),  # UTC: when the simulated link handed it over
        ("sent_us", "<i8"),  # 0: it never left
        ("acked_us", "<i8"),  # 0: not acknowledged
    ]
)
REPEAT, SPOILT, UNAVAILABLE = 1, 2, 4  # flags
SCHEMA_OF: Final = {row.code: row.schema for row in UPLINKS}


@dataclass(frozen=True, slots=True)
class LedgerDevice:
    """A simulated device."""

    id: str
    kind: str
    boot: int  # ms UTC


@dataclass(slots=True)
class Ledger:
    """The rows, and how scene time and wall time belong together."""

    devices: list[LedgerDevice]
    sent: npt.NDArray[Any]  # dtype SENT
    scene: str
    t0_ms: int  # event time (UTC ms, as in ts_ms) at scene second ``offset_s``; it runs at the scene's pace
    offset_s: float
    speed: float
    copies: int
    seed: int
    wall_t0_ms: int = 0  # wall time there; it is t0_ms unless ``speed`` is above 1

    def scene_s(self, event_ms: float) -> float:
        """Return the scene second of an event time."""
        return self.offset_s + (event_ms - self.t0_ms) * 1e-3

    def utc_ms(self, scene_s: float) -> float:
        """Return the event time, ms UTC, of a scene second."""
        return self.t0_ms + (scene_s - self.offset_s) * 1e3

    def wall_ms(self, scene_s: float) -> float:
        """Return when a scene second was played, ms UTC."""
        return (self.wall_t0_ms or self.t0_ms) + (scene_s - self.offset_s) * 1e3 / self.speed

    def window_s(self) -> tuple[float, float]:
        """Return from and to which scene second content was published (by the messages' own times)."""
        fine = self.sent[(self.sent["flags"] & SPOILT) == 0]
        if not fine.size:
            return self.offset_s, self.offset_s
        # The clocks of a few devices are off; the bulk is not.
        low, high = np.percentile(fine["ts_ms"], [0.1, 99.9])
        return self.scene_s(float(low)), self.scene_s(float(high))

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Read a ledger; ConfigError names the file that is missing or broken."""
        try:
            head = json.loads((folder / "devices.json").read_bytes())
            devices = [LedgerDevice(str(d["id"]), str(d["kind"]), int(d["boot"])) for d in head["devices"]]
            path = folder / "sent.npy"
            if path.is_file():
                sent = np.load(path, allow_pickle=False)
            else:
                raw = (folder / "sent.bin").read_bytes()
                sent = np.frombuffer(raw[: len(raw) // SENT.itemsize * SENT.itemsize], SENT)
            if sent.dtype != SENT or (sent.size and int(sent["device"].max()) >= len(devices)):
                msg = f"ledger {folder} is broken: its rows are not what the simulator writes"
                raise ConfigError(msg)
            return cls(
                devices,
                sent,
                str(head["scene"]),
                int(head["t0_ms"]),
                float(head["offset_s"]),
                float(head["speed"]),
                int(head["copies"]),
                int(head["seed"]),
                int(head.get("wall_t0_ms", 0)),
            )
        except OSError as error:
            msg = f"no ledger in {folder}: {error.filename} cannot be read ({error.strerror}); `v2x simulate` writes it"
            raise ConfigError(msg) from error
        except (ValueError, KeyError, TypeError) as error:
            msg = f"ledger {folder} is broken: {error}"
            raise ConfigError(msg) from error


def started_ms(folder: Path) -> float:
    """Return when the simulator's first second began, wall time in ms UTC; 0 if it has not."""
    try:
        head = json.loads((folder / "devices.json").read_bytes())
        return float(head.get("wall_t0_ms") or head["t0_ms"])
    except (OSError, ValueError, KeyError):
        return 0.0
