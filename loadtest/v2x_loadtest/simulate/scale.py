"""Copies of a scene side by side: names and places of the n-th copy, and the zone file for all of them.

A copy lies a whole extent further east, so nothing of one copy is in reach of another. Copy 0 is the scene itself.
"""

from __future__ import annotations

from typing import Any, Final

from v2x.errors import ConfigError
from v2x.zones import checksum

from v2x_loadtest.scene import Scene

_MARGIN: Final = 0.02  # deg beside the extent: about 2 km, more than any RSU or zone border reaches
_HEXES: Final = 1 << 24


def copy_name(name: str, copy: int) -> str:
    """Return the name (of a device, zone or link) in a copy."""
    return name if copy == 0 else f"{name}-C{copy}"


def extent_e7(scene: Scene) -> int:
    """Return how far apart copies lie, in 1e-7 deg of longitude."""
    lons = [float(p[1]) for zone in scene.zones["zones"] for p in zone["polygon"]]
    lons += [device.lon for device in scene.devices]
    return round((max(lons) - min(lons) + _MARGIN) * 1e7)


def shift_e7(scene: Scene, copies: int) -> int:
    """Return ``extent_e7``; ConfigError if so many copies do not fit between the scene and the date line."""
    extent = extent_e7(scene)
    east = max(float(p[1]) for zone in scene.zones["zones"] for p in zone["polygon"])
    if east * 1e7 + extent * (copies - 1) > 1_799_999_999:
        most = int((1_799_999_999 - east * 1e7) // extent) + 1
        raise ConfigError(f"--scale {copies} reaches beyond 180 degrees east; scene {scene.name} fits {most} times")
    return extent


def copy_hex(gantry_hex: str, copy: int) -> str:
    """Return the 6 hex digits of a gantry in a copy: copies lie 0x1000 (and 1) apart, wrapped at 24 bits."""
    if copy == 0:
        return gantry_hex
    return f"{(int(gantry_hex, 16) + copy * 0x1001) % _HEXES:06X}"


def scaled_zones(scene: Scene, copies: int) -> dict[str, Any]:
    """Return zones.json for ``copies`` copies; ConfigError if gantry numbers of two copies are equal."""
    if copies == 1:
        return scene.zones
    shift = shift_e7(scene, copies)
    doc = scene.zones
    out: dict[str, Any] = {**doc, "zones": [], "devices": {}, "gantries": {}, "sections": []}
    for c in range(copies):
        move = c * shift / 1e7
        out["zones"] += [
            {
                **zone,
                "id": copy_name(zone["id"], c),
                "polygon": [[p[0], round(p[1] + move, 9)] for p in zone["polygon"]],
                "neighbours": [copy_name(z, c) for z in zone["neighbours"]],
            }
            for zone in doc["zones"]
        ]
        for name, device in doc["devices"].items():
            out["devices"][copy_name(name, c)] = {
                **device,
                "zone": copy_name(device["zone"], c),
                "halo": [copy_name(z, c) for z in device["halo"]],
                "lon": round(device["lon"] + move, 7),
            }
        for number, gantry in doc["gantries"].items():
            new = copy_hex(number, c)
            if new in out["gantries"]:
                raise ConfigError(f"--scale {copies}: gantry {number} of copy {c} gets number {new}, which is taken")
            out["gantries"][new] = {
                **gantry,
                "device": copy_name(gantry["device"], c),
                "lon": round(gantry["lon"] + move, 7),
            }
        for section in doc["sections"]:
            first, last = copy_hex(section["from"], c), copy_hex(section["to"], c)
            out["sections"].append(
                {
                    **section,
                    "section": f"{first}>{last}",
                    "from": first,
                    "to": last,
                    "zone": copy_name(section["zone"], c),
                }
            )
    out["checksum"] = checksum(out)
    return out
