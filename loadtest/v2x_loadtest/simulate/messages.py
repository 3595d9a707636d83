"""Contents of the slower messages, as records without the envelope; pure functions of what the device knows.

``Tails`` encodes such a record to the bytes that follow the envelope (and msg_cnt, where the schema has one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from typing import Any, Final

from fastavro import parse_schema, schemaless_writer
from v2x.topics import UPLINKS

from v2x_codecs.registry import Registry
from v2x_loadtest.simulate.scale import copy_name

_FIELD_TIME: Final = timezone(timedelta(hours=8))  # gantries write local time
_REGIONS: Final = 1 << 16
MAX_RTES: Final = 16
VERSION: Final = "sim 1"


class Tails:
    """Encoder of records without their envelope, by UPLINKS code."""

    def __init__(self, registry: Registry) -> None:
        self._schemas: list[Any] = []
        for row in UPLINKS:
            raw = registry.get(row.schema).raw
            skip = 5 if raw["fields"][4]["name"] == "msg_cnt" else 4
            self._schemas.append(parse_schema({**raw, "fields": raw["fields"][skip:]}, _write_hint=False))

    def encode(self, code: int, record: Mapping[str, Any]) -> bytes:
        """Return the bytes of the fields after the envelope."""
        out = BytesIO()
        schemaless_writer(out, self._schemas[code], record)
        return out.getvalue()


def minute_of_year(ts_ms: int) -> int:
    """Return DE_MinuteOfTheYear."""
    now = datetime.fromtimestamp(ts_ms / 1000, UTC)
    return int((now - datetime(now.year, 1, 1, tzinfo=UTC)).total_seconds() // 60)


def spat_ints(ts_ms: int, intersections: Sequence[Mapping[str, Any]], region_shift: int) -> list[int]:
    """Return a SPAT after msg_cnt as the numbers that its Avro form consists of (counts and ends of arrays too)."""
    out = [minute_of_year(ts_ms), ts_ms % 60_000]
    if intersections:
        out.append(len(intersections))
    for crossing in intersections:
        phases = crossing["phases"]
        out += [(crossing["region"] + region_shift) % _REGIONS, crossing["node"], crossing["status"]]
        if phases:
            out.append(len(phases))
        for p in phases:
            out += [
                p["phase_id"], p["light"], p["likely_end"], p["next_light"], p["next_duration"], p["confidence"],
            ]  # fmt: skip
        out.append(0)
    out.append(0)
    return out


def map_record(
    nodes: Sequence[Mapping[str, Any]], copy: int, region_shift: int, d_lon: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the nodes of a copy: shifted east, in regions and links of its own (node ids are unique per region)."""
    if copy == 0:
        return {"nodes": [dict(n) for n in nodes]}

    def region(value: int) -> int:
        return (value + region_shift) % _REGIONS

    def lane(old: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **old,
            "connections": [{**c, "remote_region": region(c["remote_region"])} for c in old["connections"]],
        }

    def link(old: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **old,
            "link": copy_name(old["link"], copy),
            "up_region": region(old["up_region"]),
            "movements": [{**m, "remote_region": region(m["remote_region"])} for m in old["movements"]],
            "lanes": [lane(x) for x in old["lanes"]],
        }

    return {
        "nodes": [
            {
                **n,
                "region": region(n["region"]),
                "ref_lon": n["ref_lon"] + d_lon,
                "links": [link(x) for x in n["links"]],
            }
            for n in nodes
        ]
    }


def rsi_record(ts_ms: int, ref: Sequence[int], rtes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a RSI with events ``rtes`` (fields of Rte; what is left out is unavailable)."""
    unset = {
        "event_source": 5, "confidence": 160, "priority": 5, "ele": -4096, "radius": 65535, "lane_id": 0, "end_ms": 0,
        "ended": 0, "speed": 8191, "queue": 65535, "description": "", "path": [],
    }  # fmt: skip
    return {
        "moy": minute_of_year(ts_ms),
        "ref_lat": int(ref[0]),
        "ref_lon": int(ref[1]),
        "ref_ele": int(ref[2]),
        "rtes": [{**unset, **r} for r in rtes],
        "rtss": [],
    }


def place(ref: Sequence[int]) -> dict[str, int]:
    """Return lat, lon, ele as the records of fixed devices have them."""
    return {"lat": int(ref[0]), "lon": int(ref[1]), "ele": int(ref[2])}


def rsu_hb_record(ref: Sequence[int], load: Sequence[int]) -> dict[str, Any]:
    """Return a RSU's heartbeat; ``load``: cpu, memory, disk in 0.1 %."""
    cpu, mem, disk = (int(x) for x in load)
    return {
        **place(ref), "cpu": cpu, "mem": mem, "disk": disk, "power": 1, "run": 1, "network": 3, "version": VERSION,
    }  # fmt: skip


def gantry_hb_record(ref: Sequence[int], gantry_hex: str, backlog: tuple[int, int]) -> dict[str, Any]:
    """Return a gantry's heartbeat; ``backlog``: transactions and plates not yet sent."""
    kinds = ((1, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (9, 1))
    return {
        **place(ref),
        "gantry_hex": gantry_hex,
        "backlog_transactions": backlog[0],
        "backlog_plates": backlog[1],
        "parts": [{"kind": k, "number": n, "status": 0} for k, n in kinds],
        "version": VERSION,
    }


def pole_record(
    ref: Sequence[int], t_s: float, noise: Sequence[float], sky: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return a pole's measurement on a dry day; ``noise``: four standard normal numbers.

    ``sky``: what is different, measured to 2 % (the surface's kind as it is, its temperature to 0.2 degC).
    """
    n = [float(x) for x in noise]
    dry = {
        **place(ref), "visibility": max(round(8000 + 300 * n[0]), 0), "rain": 0, "surface": 1, "water_film": 0,
        "friction": 80, "surface_temp": round(245 + t_s / 60 + 2 * n[1]), "air_temp": round(212 + 2 * n[2]),
        "humidity": 620, "wind_speed": max(round(23 + 4 * n[3]), 0), "wind_dir": round(1350 + 40 * n[0]) % 3600,
    }  # fmt: skip
    for name, value in (sky or {}).items():
        by = 0.0 if name == "surface" else 2 * n[1] if name == "surface_temp" else 0.02 * n[0] * value
        dry[name] = round(value + by)
    return dry


def pile_record(ref: Sequence[int], state: int, charged_s: float) -> dict[str, Any]:
    """Return a charging pile's status; ``charged_s``: how long it has been charging (0 if it is not)."""
    charging = state == 3
    return {
        **place(ref), "state": state, "connector": 2, "power": 600 if charging else 0, "rated": 1200,
        "energy": 1_000_000 + round(charged_s / 3.6 * 60),
        "soc": min(300 + round(charged_s), 1000) if state > 1 else 1001, "fault": 0, "price": 120,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traveller:
    """A vehicle as gantries know it."""

    plate: str
    colour: int
    obu_sn: str  # empty: pays by CPC card
    card: str  # 20 digits
    vehicle_type: int
    entered_ms: int

    @property
    def pass_id(self) -> str:
        """Return the 36 characters of its journey: medium, net, card, entry time."""
        medium = "01" if self.obu_sn else "02"
        entered = datetime.fromtimestamp(self.entered_ms / 1000, _FIELD_TIME).strftime("%Y%m%d%H%M%S")
        return f"{medium}3201{self.card[-16:]}{entered}"


def traveller(
    plate: str, colour: int, obu_sn: str, vehicle_type: int, number: int, *, original: bool, entered_ms: int
) -> Traveller:
    """Return the traveller ``number`` (unique over copies and loops); a copy gets plate and numbers of its own."""
    if not original:
        digits, rest = "", number
        for _ in range(5):
            rest, d = divmod(rest, 34)
            digits = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"[d] + digits
        plate = f"{plate[:1]}Z{digits}"
        obu_sn = f"{obu_sn[:4]}9{number:011d}" if obu_sn else ""
    return Traveller(plate, colour, obu_sn, f"3201{number:016d}", vehicle_type, entered_ms)


def trade_id(gantry_hex: str, ts_ms: int, serial: int) -> str:
    """Return gantry (19), hour (10), serial (6)."""
    hour = datetime.fromtimestamp(ts_ms / 1000, _FIELD_TIME).strftime("%Y%m%d%H")
    return f"S003732001{int(gantry_hex, 16):09d}{hour}{serial % 1_000_000:06d}"


def transaction_record(
    who: Traveller, *, gantry_hex: str, direction: int, ts_ms: int, serial: int, consume_ms: int, failed: bool,
    mileage_m: int, last_hex: str, last_ms: int,
) -> dict[str, Any]:  # fmt: skip
    """Return a transaction; ``last_hex`` and ``last_ms``: gantry passed before and when, empty and 0 if unknown."""
    per_km = 45 + 25 * (who.vehicle_type % 10) + (10 if who.vehicle_type > 10 else 0)  # 0.01 CNY
    pay = 0 if failed else round(per_km * mileage_m / 1000)
    return {
        "trade_id": trade_id(gantry_hex, ts_ms, serial),
        "gantry_hex": gantry_hex,
        "interval_id": f"S003732001{int(gantry_hex, 16) % 1_000_000:06d}",
        "drive_dir": direction,
        "trans_ms": ts_ms // 1000 * 1000,
        "consume_ms": consume_ms,
        "trade_result": int(failed),
        "media_type": 1 if who.obu_sn else 2,
        "special_type": 0,
        "valid_status": 0 if failed else 1,
        "fee": round(pay * 0.95) if who.obu_sn else pay,
        "pay_fee": pay,
        "fee_mileage": mileage_m,
        "plate": who.plate,
        "plate_colour": who.colour,
        "obu_sn": who.obu_sn,
        "card_id": who.card,
        "pass_id": who.pass_id,
        "vehicle_type": who.vehicle_type,
        "vehicle_class": 0,
        "axle_count": 2 if who.vehicle_type < 13 else min(who.vehicle_type - 10, 6),
        "total_weight": 65535,
        "last_gantry_hex": last_hex,
        "last_gantry_ms": last_ms,
    }


def plate_record(
    *, gantry_hex: str, direction: int, ts_ms: int, serial: int, lane: int, plate: str, colour: int, speed_mps: float,
    reliability: int, trade: str,
) -> dict[str, Any]:  # fmt: skip
    """Return a plate record of the head camera; ``trade``: id of the matched transaction, empty if none."""
    return {
        "pic_id": f"{trade_id(gantry_hex, ts_ms, serial)}-1",
        "gantry_hex": gantry_hex,
        "pic_ms": ts_ms,
        "drive_dir": direction,
        "shoot_position": 1,
        "camera": 100 + lane,
        "lane": lane,
        "plate": plate,
        "plate_colour": colour,
        "speed": min(round(speed_mps * 3.6), 510),
        "vehicle_model": 0,
        "reliability": reliability,
        "trade_id": trade,
    }
