"""Routing: which partitions of ``v2x.observations`` a message goes to, by zone map, device and position.

A fixed device goes where the zone map puts it; one that the map does not know goes by its reference position, and stays
there while it does not move (messages without a position follow the last one). An OBU goes by its decoded position, in
cells of about 11 m: near a border both zones get it anyway. Two zones in one partition get one copy.
"""

from __future__ import annotations

from typing import Final, TypeVar

from v2x.zones import ZoneMap

CELL_BITS: Final = 10  # bits of a position in 1e-7 degrees that do not matter: 1,024 are 11 m
_MAX_CELLS: Final = 65_536
LAT_MAX: Final = 900_000_000
LON_MAX: Final = 1_800_000_000

Partitions = tuple[int, ...]
_K = TypeVar("_K")


def known_position(lat_e7: int | None, lon_e7: int | None) -> bool:
    """Say whether a position is there and not the 'unavailable' code."""
    return lat_e7 is not None and lon_e7 is not None and lat_e7 <= LAT_MAX and lon_e7 <= LON_MAX


class Router:
    """Routes with what it has worked out before (bounded)."""

    __slots__ = ("_cells", "_homes", "_partitions", "_zones")

    def __init__(self, zones: ZoneMap, partitions: int) -> None:
        self._zones = zones
        self._partitions = partitions
        self._homes: dict[str, Partitions] = {}  # fixed devices that the map does not know, by their last position
        self._cells: dict[tuple[int, int], Partitions] = {}

    def fixed(self, device: str) -> Partitions | None:
        """Return where the zone map puts a device, None if it does not know it."""
        return self._of(self._zones.route(device, None, None)) if device in self._zones.devices else None

    def place(self, device: str, lat_e7: int | None, lon_e7: int | None, *, moves: bool) -> Partitions:
        """Return partitions, the owner's first; position in 1e-7 degrees, None or 'unavailable' if unknown."""
        if not known_position(lat_e7, lon_e7):
            home = None if moves else self._homes.get(device)
            return home or self._of(self._zones.route(device, None, None))
        assert lat_e7 is not None
        assert lon_e7 is not None
        cell = (lat_e7 >> CELL_BITS, lon_e7 >> CELL_BITS)
        found = self._cells.get(cell)
        if found is None:
            centre = 1 << (CELL_BITS - 1)
            # The empty id is in no map: the position alone decides.
            zones = self._zones.route("", (cell[0] << CELL_BITS) + centre, (cell[1] << CELL_BITS) + centre)
            found = _bounded(self._cells, cell, self._of(zones))
        if not moves:
            _bounded(self._homes, device, found)
        return found

    def _of(self, zones: tuple[str, ...]) -> Partitions:
        return tuple(dict.fromkeys(self._zones.partition(zone, self._partitions) for zone in zones))


def _bounded(cache: dict[_K, Partitions], key: _K, value: Partitions) -> Partitions:
    if len(cache) >= _MAX_CELLS:
        cache.clear()
    cache[key] = value
    return value
