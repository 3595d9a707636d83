"""Travel times of sections, as the gantries' records gave them, against the true passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Stamped
from v2x_loadtest.scene import Scene


@dataclass(slots=True)
class TravelScore:
    """Mean absolute percentage error over all windows with vehicles, and the windows."""

    mape: float | None = None
    windows: list[dict[str, Any]] = field(default_factory=list)
    unmatched: int = 0  # windows that say something where truth has no vehicle

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
        if value["origin"] == "GANTRY" and value["link"] in known and value["vehicles"] and value["travel_time"]:
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
    return out
