"""Travel times of sections, as the gantries' records gave them, against the true passages; and their speeds.

The true speed of a section over a window is all distance over all time that was driven between its gantries: of every
vehicle that has passed the first and not yet the second, second by second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Stamped
from v2x_loadtest.scene import Scene
from v2x_loadtest.scene.model import F8

_NO_SPEED = 65535


@dataclass(slots=True)
class TravelScore:
    """Mean absolute percentage error over all windows with vehicles, and the windows."""

    mape: float | None = None
    windows: list[dict[str, Any]] = field(default_factory=list)
    unmatched: int = 0  # windows that say something where truth has no vehicle
    speeds: dict[str, float] = field(default_factory=dict)  # mean absolute error in %, by what tells the speed
    speed_nees: float | None = None  # of the fused speed: squared error over its variance, 1 if it is right

    def pairs_by_section(self) -> dict[str, int]:
        """Return how many vehicles were counted in each section."""
        out: dict[str, int] = {}
        for row in self.windows:
            out[row["section"]] = out.get(row["section"], 0) + row["vehicles"]
        return out


def score_travel(links: Sequence[Stamped], scene: Scene, ledger: Ledger) -> TravelScore:
    """Compare each (section, window), by its last record, with all that truly arrived in the window."""
    known = {row["section"] for row in scene.zones["sections"]}
    latest: dict[tuple[str, int, int], dict[str, Any]] = {}
    for record in sorted(links, key=lambda r: (r.partition, r.offset)):
        value = record.value
        if value["link"] in known and value["vehicles"] and value["travel_time"]:
            latest[value["link"], value["from_ms"], value["to_ms"]] = value
    out = TravelScore()
    errors = []
    for (section, from_ms, to_ms), value in sorted(latest.items()):
        from_s, to_s = ledger.scene_s(from_ms), ledger.scene_s(to_ms)
        arrived = [b - a for _, a, b in scene.travel_truth(section, float("-inf"), to_s) if b >= from_s]
        if not arrived:
            out.unmatched += 1
            continue
        true_ms = float(np.mean(arrived)) * 1000
        error = abs(value["travel_time"] - true_ms) / true_ms * 100
        errors.append(error)
        out.windows.append(
            {
                "section": section,
                "from_s": round(from_s, 1),
                "to_s": round(to_s, 1),
                "travel_time_s": value["travel_time"] / 1000,
                "true_s": round(true_ms / 1000, 3),
                "vehicles": value["vehicles"],
                "rejected": value["rejected"],
                "true_vehicles": len(arrived),
                "error_percent": round(error, 2),
            }
        )
    out.mape = float(np.mean(errors)) if errors else None
    _score_speeds(latest, scene, ledger, out)
    return out


def _score_speeds(
    latest: dict[tuple[str, int, int], dict[str, Any]], scene: Scene, ledger: Ledger, out: TravelScore
) -> None:
    driven = {section: _driven(scene, section) for section in {key[0] for key in latest}}
    errors: dict[str, list[float]] = {"speed": [], "rsu_speed": [], "fused_speed": []}
    squares = []
    for (section, from_ms, to_ms), value in sorted(latest.items()):
        first, last = (round(ledger.scene_s(ms)) for ms in (from_ms, to_ms))
        count, total = driven[section][:, max(first, 0) : max(last, 0)].sum(axis=1)
        if first < 0 or not count or value["rsu_speed"] == _NO_SPEED:
            continue  # without both there is nothing to compare
        true = total / count
        for name, rows in errors.items():
            rows.append(abs(value[name] / 100 - true) / true * 100)
        squares.append(((value["fused_speed"] - 100 * true) / value["fused_speed_sd"]) ** 2)
    if squares:
        out.speeds = {name: float(np.mean(rows)) for name, rows in errors.items()}
        out.speed_nees = float(np.mean(squares))


def _driven(scene: Scene, section: str) -> F8:
    """Return by scene second how many vehicles are on a section, and the sum of their speeds: shape (2, seconds)."""
    ends = {s["section"]: (s["from"], s["to"]) for s in scene.zones["sections"]}[section]
    number = {d.props["gantry_hex"]: i for i, d in enumerate(scene.devices) if d.kind == "gantry"}
    p, seconds = scene.passages, int(scene.duration_s)
    at = [
        dict(zip(p.vehicle[here].tolist(), p.t_s[here].tolist(), strict=True))
        for here in (p.gantry == number[hex_] for hex_ in ends)
    ]
    out = np.zeros((2, seconds))
    for second in range(seconds):
        now = scene.frame(round(second / scene.step_s))
        for vehicle, speed in zip(now.idx.tolist(), now.speed.tolist(), strict=True):
            if at[0].get(vehicle, np.inf) <= second < at[1].get(vehicle, np.inf):
                out[:, second] += (1.0, speed)
    return out
