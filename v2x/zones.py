"""Zones: which stretch of road a message belongs to, and which Kafka partition that stretch has. Pure functions.

A zone is 5–10 km of road with a polygon. ``zones.json`` (made by ``v2x record`` or by the operator; versioned and
checksummed) gives each fixed device its zone and its *halo*: the neighbours that also need what the device sees because
it stands near a border. A device that is not in the table (an OBU, a new RSU) is routed by its position. A zone's
partition is Kafka's murmur2 of its id, so every reader finds it with the partition count alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, hypot, radians
from pathlib import Path
from typing import Any, Final

from v2x.errors import ConfigError

E7: Final = 1e7
# Metres of one degree of a meridian, mean: border distances need no better than 1 %.
DEG_M: Final = 111_195.0
# A vehicle that speaks for itself this near to a neighbour is told to both zones: the adopt distance and one second.
HALO_M: Final = 150.0
_UNAVAILABLE_LAT: Final = 900_000_001
_UNAVAILABLE_LON: Final = 1_800_000_001
_MIN_CORNERS: Final = 3
_MASK: Final = 0xFFFFFFFF

Polygon = tuple[tuple[float, float], ...]


def murmur2(data: bytes) -> int:
    """Return Kafka's 32-bit murmur2 (seed 0x9747b28c), unsigned."""
    m = 0x5BD1E995
    n = len(data)
    h = (0x9747B28C ^ n) & _MASK
    whole = n & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * m) & _MASK
        k = ((k ^ (k >> 24)) * m) & _MASK
        h = ((h * m) & _MASK) ^ k
    if n > whole:
        h = ((h ^ int.from_bytes(data[whole:], "little")) * m) & _MASK
    h = ((h ^ (h >> 13)) * m) & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes, n: int) -> int:
    """Return the partition of n that Kafka's default partitioner gives this key."""
    return (murmur2(key) & 0x7FFFFFFF) % n


def checksum(doc: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a zone map's canonical JSON without its ``checksum``."""
    bare = {k: v for k, v in doc.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone: polygon corners are (lat, lon) in degrees."""

    id: str
    polygon: Polygon
    neighbours: tuple[str, ...]

    @property
    def origin(self) -> tuple[float, float]:
        """Mean corner (lat, lon), on whole 1e-7 degrees: the origin of the zone's local metres."""
        n = len(self.polygon)
        return (
            round(sum(p[0] for p in self.polygon) / n * E7) / E7,
            round(sum(p[1] for p in self.polygon) / n * E7) / E7,
        )


@dataclass(frozen=True, slots=True)
class Device:
    """A fixed device as the map knows it."""

    zone: str
    halo: tuple[str, ...]
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class Gantry:
    """A gantry of the toll system, by its hex id."""

    device: str
    lat: float
    lon: float
    direction: int  # 1 up, 2 down


@dataclass(frozen=True, slots=True)
class Section:
    """A toll section between two gantries."""

    section: str  # "HEX1>HEX2"
    from_hex: str
    to_hex: str
    length_m: float
    zone: str
    free_speed_mps: float


class ZoneMap:
    """A parsed ``zones.json``."""

    __slots__ = ("_by_id", "_routes", "checksum", "devices", "gantries", "name", "sections", "version", "zones")

    def __init__(
        self,
        version: int,
        name: str,
        zones: Sequence[Zone],
        devices: Mapping[str, Device],
        gantries: Mapping[str, Gantry],
        sections: Sequence[Section],
        digest: str,
    ) -> None:
        self.version = version
        self.name = name
        self.zones: tuple[str, ...] = tuple(z.id for z in zones)
        self._by_id = {z.id: z for z in zones}
        self.devices = dict(devices)
        self._routes = {k: (d.zone, *(h for h in d.halo if h != d.zone)) for k, d in self.devices.items()}
        self.gantries = dict(gantries)
        self.sections: tuple[Section, ...] = tuple(sections)
        self.checksum = digest

    @classmethod
    def load(cls, path: str | Path) -> ZoneMap:
        """Read a file; ConfigError if it cannot be read or is wrong."""
        try:
            doc = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"zone map {path} cannot be read: {error}"
            raise ConfigError(msg) from error
        return cls.parse(doc)

    @classmethod
    def parse(cls, doc: Mapping[str, Any]) -> ZoneMap:
        """Check a document and return its map; ConfigError says what is wrong."""
        try:
            return cls._parse(doc)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            msg = f"zone map is not of the documented form: {error!r}; make it again with `v2x record`"
            raise ConfigError(msg) from error

    @classmethod
    def _parse(cls, doc: Mapping[str, Any]) -> ZoneMap:
        digest = checksum(doc)
        if doc.get("checksum", digest) != digest:
            msg = f"zone map checksum is {doc['checksum']}, its content gives {digest}: edited or cut; make it again"
            raise ConfigError(msg)
        zones = [
            Zone(str(z["id"]), tuple((float(a), float(b)) for a, b in z["polygon"]), tuple(z.get("neighbours", ())))
            for z in doc["zones"]
        ]
        names = [z.id for z in zones]
        if not names or len(set(names)) != len(names):
            raise ConfigError("zone map needs at least one zone, and each id once")
        for z in zones:
            if len(z.polygon) < _MIN_CORNERS:
                raise ConfigError(f"zone {z.id}: a polygon needs at least {_MIN_CORNERS} corners, not {len(z.polygon)}")
            for n in z.neighbours:
                if n not in names or n == z.id:
                    raise ConfigError(f"zone {z.id}: neighbour {n!r} is no other zone of this map")
        devices = {
            str(k): Device(d["zone"], tuple(d.get("halo", ())), float(d["lat"]), float(d["lon"]))
            for k, d in doc.get("devices", {}).items()
        }
        for k, d in devices.items():
            for zone in (d.zone, *d.halo):
                if zone not in names:
                    raise ConfigError(f"device {k}: zone {zone!r} is not in this map")
        gantries = {
            str(k): Gantry(g["device"], float(g["lat"]), float(g["lon"]), int(g["dir"]))
            for k, g in doc.get("gantries", {}).items()
        }
        sections = [
            Section(s["section"], s["from"], s["to"], float(s["length_m"]), s["zone"], float(s["free_speed_mps"]))
            for s in doc.get("sections", ())
        ]
        for s in sections:
            if s.zone not in names:
                raise ConfigError(f"section {s.section}: zone {s.zone!r} is not in this map")
            for gantry in (s.from_hex, s.to_hex):
                if gantry not in gantries:
                    raise ConfigError(f"section {s.section}: gantry {gantry!r} is not in this map")
        return cls(int(doc["version"]), str(doc["name"]), zones, devices, gantries, sections, digest)

    def zone(self, zone: str) -> Zone:
        """Return one zone; ConfigError if there is none of that id."""
        found = self._by_id.get(zone)
        if found is None:
            raise ConfigError(f"zone {zone!r} is not in the map {self.name!r}; it has {', '.join(self.zones)}")
        return found

    def route(self, device: str, lat_e7: int | None, lon_e7: int | None) -> tuple[str, ...]:
        """Return the zones a message goes to: its owner first, then the halo.

        Positions in 1e-7 degrees; None or the 'unavailable' code means unknown. An unknown device without a position
        still has one home, by its name's hash, so that its messages are counted somewhere.
        """
        known = self._routes.get(device)
        if known is not None:
            return known
        if lat_e7 is None or lon_e7 is None or lat_e7 >= _UNAVAILABLE_LAT or lon_e7 >= _UNAVAILABLE_LON:
            return (self.zones[partition_of(device.encode(), len(self.zones))],)
        lat, lon = lat_e7 / E7, lon_e7 / E7
        owner = self.nearest(lat, lon)
        near = [n for n in self._by_id[owner].neighbours if self.border_distance_m(n, lat, lon) > -HALO_M]
        return (owner, *near)

    def partition(self, zone: str, n: int) -> int:
        """Return the partition (of n) that holds a zone."""
        return partition_of(zone.encode(), n)

    def zone_at(self, lat: float, lon: float) -> str | None:
        """Return the first zone whose polygon holds the point (degrees), None outside all."""
        for zone in self._by_id.values():
            if _inside(zone.polygon, lat, lon):
                return zone.id
        return None

    def nearest(self, lat: float, lon: float) -> str:
        """Return the zone at the point, or the one whose polygon is nearest."""
        inside = self.zone_at(lat, lon)
        if inside is not None:
            return inside
        return max(self.zones, key=lambda z: self.border_distance_m(z, lat, lon))

    def border_distance_m(self, zone: str, lat: float, lon: float) -> float:
        """Return metres from the point (degrees) to the zone's border: positive inside, negative outside."""
        polygon = self.zone(zone).polygon
        away = _edge_distance_m(polygon, lat, lon)
        return away if _inside(polygon, lat, lon) else -away


def _inside(polygon: Polygon, lat: float, lon: float) -> bool:
    inside = False
    a_lat, a_lon = polygon[-1]
    for b_lat, b_lon in polygon:
        if (a_lat > lat) != (b_lat > lat) and lon < (b_lon - a_lon) * (lat - a_lat) / (b_lat - a_lat) + a_lon:
            inside = not inside
        a_lat, a_lon = b_lat, b_lon
    return inside


def _edge_distance_m(polygon: Polygon, lat: float, lon: float) -> float:
    scale = DEG_M * cos(radians(lat))
    best = float("inf")
    ax, ay = (polygon[-1][1] - lon) * scale, (polygon[-1][0] - lat) * DEG_M
    for b_lat, b_lon in polygon:
        bx, by = (b_lon - lon) * scale, (b_lat - lat) * DEG_M
        dx, dy = bx - ax, by - ay
        square = dx * dx + dy * dy
        t = 0.0 if square == 0.0 else min(1.0, max(0.0, -(ax * dx + ay * dy) / square))
        best = min(best, hypot(ax + t * dx, ay + t * dy))
        ax, ay = bx, by
    return best
