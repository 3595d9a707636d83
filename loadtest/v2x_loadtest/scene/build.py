"""Parts that every maker of scenes needs: local metres to WGS-84, the zone file, MAP nodes and plates."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Sequence
from typing import Any, Final

from v2x_loadtest.scene.model import BUS, TRUCK, Device

_A: Final = 6378137.0  # WGS-84
_E2: Final = 0.00669437999014
NO_SPEED: Final = 8191
# Letters of plates; I and O are not used.
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"
BLUE, YELLOW, GREEN = 0, 1, 4


def wgs84(lat0: float, lon0: float, east: float, north: float) -> tuple[float, float]:
    """Return latitude and longitude (deg) of a point in metres about an origin; good to 1 cm within 2 km."""
    phi = math.radians(lat0)
    w = 1 - _E2 * math.sin(phi) ** 2
    meridian = _A * (1 - _E2) / w**1.5
    mid = phi + north / meridian / 2
    normal = _A / math.sqrt(1 - _E2 * math.sin(mid) ** 2)
    return lat0 + math.degrees(north / meridian), lon0 + math.degrees(east / (normal * math.cos(mid)))


def e7(degrees: float) -> int:
    """Return degrees as 1e-7 deg."""
    return round(degrees * 1e7)


def speed_code(mps: float | None) -> int:
    """Return a speed in 0.02 m/s, the 'unavailable' code for None."""
    return NO_SPEED if mps is None else round(mps * 50)


def seal(doc: dict[str, Any]) -> dict[str, Any]:
    """Return the zone document with its checksum: SHA-256 of the canonical JSON without this key."""
    body = {k: v for k, v in doc.items() if k != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def zone_document(
    name: str, zones: Sequence[dict[str, Any]], devices: Iterable[Device], sections: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return zones.json: ``props['halo']`` of a device names its halo zones; OBUs are left out, they move."""
    fixed = [d for d in devices if d.kind != "obu"]
    return seal(
        {
            "version": 1,
            "name": name,
            "partition_hint": None,
            "zones": list(zones),
            "devices": {
                d.id: {"zone": d.zone, "halo": d.props.get("halo", []), "lat": round(d.lat, 7), "lon": round(d.lon, 7)}
                for d in fixed
            },
            "gantries": {
                d.props["gantry_hex"]: {
                    "device": d.id,
                    "lat": round(d.lat, 7),
                    "lon": round(d.lon, 7),
                    "dir": d.props["dir"],
                }
                for d in fixed
                if d.kind == "gantry"
            },
            "sections": list(sections),
        }
    )


def plate(rng: random.Random, cls: int, taken: set[str]) -> tuple[str, int, int]:
    """Return a new plate, its colour and the toll class of a vehicle of class ``cls``."""
    while True:
        green = cls not in {TRUCK, BUS} and rng.random() < 0.25
        tail = "".join(rng.choice("0123456789") for _ in range(5))
        text = "苏" + rng.choice("ABCDEFGHJKLMN") + (rng.choice("DF") if green else "") + tail
        if not green and rng.random() < 0.3:
            text = text[:-1] + rng.choice(_LETTERS)
        if text not in taken:
            taken.add(text)
            break
    if cls == TRUCK:
        return text, YELLOW, rng.choice((12, 13, 14, 15, 16))
    if cls == BUS:
        return text, YELLOW, rng.choice((3, 4))
    return text, GREEN if green else BLUE, 1
