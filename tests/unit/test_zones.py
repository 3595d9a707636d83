"""Zones: Kafka's partitions, routing with halos, and what a broken map says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from v2x import zones
from v2x.errors import ConfigError
from v2x.zones import ZoneMap, checksum, murmur2

DOC: dict[str, Any] = {
    "version": 1,
    "name": "two",
    "partition_hint": None,
    "zones": [
        {"id": "A", "polygon": [[31.0, 120.0], [31.0, 120.02], [31.01, 120.02], [31.01, 120.0]], "neighbours": ["B"]},
        {"id": "B", "polygon": [[31.0, 120.02], [31.0, 120.04], [31.01, 120.04], [31.01, 120.02]], "neighbours": ["A"]},
    ],
    "devices": {
        "R1": {"zone": "A", "halo": [], "lat": 31.005, "lon": 120.005},
        "R2": {"zone": "A", "halo": ["B"], "lat": 31.005, "lon": 120.019},
    },
    "gantries": {
        "00A001": {"device": "G1", "lat": 31.005, "lon": 120.001, "dir": 1},
        "00A002": {"device": "G2", "lat": 31.005, "lon": 120.03, "dir": 1},
    },
    "sections": [
        {"section": "00A001>00A002", "from": "00A001", "to": "00A002", "length_m": 2760.0, "zone": "B",
         "free_speed_mps": 33.0}
    ],
}  # fmt: skip


def parsed(**changes: Any) -> ZoneMap:
    return ZoneMap.parse({**copy.deepcopy(DOC), **changes})


def test_murmur2_is_kafkas() -> None:
    # From Apache Kafka's UtilsTest.
    known = {
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        "abc": 479470107,
    }
    assert {k: murmur2(k.encode()) for k in known} == {k: v & 0xFFFFFFFF for k, v in known.items()}
    assert parsed().partition("abc", 8) == 479470107 % 8


def test_fixed_devices_go_by_the_table_owner_first() -> None:
    z = parsed()
    assert z.route("R1", None, None) == ("A",)
    assert z.route("R2", 0, 0) == ("A", "B")


@pytest.mark.parametrize(
    ("lon", "route"),
    [
        (120.0100, ("A",)),
        (120.0190, ("A", "B")),  # 95 m before the border
        (120.0210, ("B", "A")),
        (120.0300, ("B",)),
        (120.0500, ("B",)),  # outside all: the nearest
        (119.9000, ("A",)),
    ],
)
def test_others_go_by_position(lon: float, route: tuple[str, ...]) -> None:
    assert parsed().route("OBU-7", 310050000, round(lon * 1e7)) == route


def test_unknown_device_without_position_has_one_home() -> None:
    z = parsed()
    homes = {z.route(f"X{k}", 900000001, 1800000001) for k in range(50)}
    assert homes == {("A",), ("B",)}
    assert z.route("X1", None, None) == z.route("X1", 900000001, 1800000001)


def test_border_distance_is_metres_and_signed() -> None:
    z = parsed()
    assert z.border_distance_m("A", 31.005, 120.019) == pytest.approx(95.3, abs=0.5)
    assert z.border_distance_m("B", 31.005, 120.019) == pytest.approx(-95.3, abs=0.5)
    assert z.zone_at(31.005, 120.03) == "B"
    assert z.zone_at(32.0, 120.03) is None


def test_checksum_is_checked() -> None:
    good = {**DOC, "checksum": checksum(DOC)}
    assert ZoneMap.parse(good).checksum == good["checksum"]
    with pytest.raises(ConfigError, match="edited or cut"):
        ZoneMap.parse({**good, "name": "other"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zones": []}, "at least one zone"),
        ({"zones": [{**DOC["zones"][0], "polygon": [[1, 2], [3, 4]]}]}, "at least 3 corners"),
        ({"zones": [{**DOC["zones"][0], "neighbours": ["C"]}]}, "no other zone"),
        ({"devices": {"R": {"zone": "C", "halo": [], "lat": 0, "lon": 0}}}, "not in this map"),
        ({"sections": [{**DOC["sections"][0], "from": "00B001"}]}, "gantry '00B001'"),
        ({"sections": [{**DOC["sections"][0], "zone": "C"}]}, "zone 'C'"),
        ({"version": "x"}, "documented form"),
    ],
)
def test_broken_maps_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(**change)


def test_file_that_is_not_there(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        ZoneMap.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="it has A, B"):
        parsed().zone("C")


def test_origin_is_on_the_grid_of_the_wire() -> None:
    lat, lon = parsed().zone("A").origin
    assert (lat, lon) == pytest.approx((31.005, 120.01))
    assert lat * zones.E7 == pytest.approx(round(lat * zones.E7), abs=1e-3)
