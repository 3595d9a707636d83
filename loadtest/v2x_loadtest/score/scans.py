"""What sensors measured, decoded from the log once, for trackers other than ours: the same inputs, repeats left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from v2x.geo import LocalFrame

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.registry import Registry
from v2x_loadtest.score.matching import F64, I64
from v2x_loadtest.score.play import LOG_MS, Message

_CHUNK: Final = 2000
_SPEED, _HEADING = 0.02, np.radians(0.0125)
_NO_SPEED, _NO_HEADING, _NO_PLACE = 8191, 28_800, 900_000_001


@dataclass(slots=True)
class Scan:
    """One sensor's objects at one instant; an on-board unit's message is a scan of one."""

    at_ms: float  # when it is in the log, ms UTC
    ts_ms: int  # as told
    sensor: int
    place: tuple[float, float] | None  # of a roadside unit, m; None: it moves
    id: I64
    east: F64  # m
    north: F64
    vel_e: F64  # m/s, as told; 0 where it is not
    vel_n: F64


def scans(messages: Sequence[Message], frame: LocalFrame) -> list[Scan]:
    """Return all scans in order of arrival."""
    decoder = ColumnDecoder(Registry.load())
    sensors: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    out: list[Scan] = []
    for first in range(0, len(messages), _CHUNK):
        chunk = messages[first : first + _CHUNK]
        batch = decoder.decode_kafka([m.value for m in chunk])
        rsm, people = batch.tables["rsm"], batch.tables["rsm.participants"]
        begins, ends = (np.searchsorted(people.msg, rsm.msg, side) for side in ("left", "right"))
        columns = {name: people.col(name) for name in ("ptc_id", "d_lat", "d_lon", "speed", "heading")}
        for k, m in enumerate(rsm.msg.tolist()):
            device = batch.text("rsm", k, "device")
            sensor = sensors.setdefault(device, len(sensors))
            if _again(seen, sensor, int(rsm.col("seq")[k])):
                continue
            rows = slice(int(begins[k]), int(ends[k]))
            lat0, lon0 = int(rsm.col("ref_lat")[k]), int(rsm.col("ref_lon")[k])
            place = frame.point(lat0, lon0)
            east, north = frame.to_local((columns["d_lat"][rows] + lat0) * 1e-7, (columns["d_lon"][rows] + lon0) * 1e-7)
            velocity = _velocity(columns["speed"][rows], columns["heading"][rows])
            when = (chunk[m].at_ms + LOG_MS, int(rsm.col("ts_ms")[k]))
            out.append(Scan(*when, sensor, place, columns["ptc_id"][rows].copy(), east, north, *velocity))
        bsm = batch.tables["bsm"]
        for k, m in enumerate(bsm.msg.tolist()):
            device = batch.text("bsm", k, "device")
            if chunk[m].zones == () or int(bsm.col("lat")[k]) >= _NO_PLACE or device.startswith("RSU"):
                continue  # no place, or a unit's copy of what the vehicle says itself
            sensor = sensors.setdefault(device, len(sensors))
            if _again(seen, sensor, int(bsm.col("seq")[k])):
                continue
            east, north = frame.to_local([bsm.col("lat")[k] * 1e-7], [bsm.col("lon")[k] * 1e-7])
            velocity = _velocity(bsm.col("speed")[k : k + 1], bsm.col("heading")[k : k + 1])
            when = (chunk[m].at_ms + LOG_MS, int(bsm.col("ts_ms")[k]))
            out.append(Scan(*when, sensor, None, np.array([1]), east, north, *velocity))
    out.sort(key=lambda s: s.at_ms)
    return out


def _again(seen: set[tuple[int, int]], sensor: int, seq: int) -> bool:
    known = (sensor, seq) in seen
    seen.add((sensor, seq))
    return known


def _velocity(speed: I64, heading: I64) -> tuple[F64, F64]:
    known = (speed < _NO_SPEED) & (heading < _NO_HEADING)
    mps, angle = np.where(known, speed * _SPEED, 0.0), heading * _HEADING
    return mps * np.sin(angle), mps * np.cos(angle)
