"""What a zone reports, against the same in plain Python; and that the quick look for duplicates leaves none out."""

from __future__ import annotations

from math import atan2, cos, hypot, pi, radians, sin, sqrt

import numpy as np
import pytest
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, DECODER
from v2x.fusion import layout as c
from v2x.fusion import upkeep as up
from v2x.fusion.angles import bearing, compass, turn
from v2x.fusion.engine import Engine
from v2x.fusion.kalman import noise, told_cov
from v2x.fusion.report import Y_LANE
from v2x.fusion.rounds import FIRST, N, Rounds
from v2x.fusion.zone import ZoneState
from v2x.geo import ECC2, SEMI_MAJOR_M

NOISY = fs.Settings(
    seconds=6.0, vehicles=120, walkers=10, sigma_m=1.5, bias_m=4.0, id_break=0.1, false=0.5, length_m=800.0, rsus=3
)


def plain(z: ZoneState, event_ms: int) -> list[list[int]]:
    """Rows of (id, class, lat, lon, speed, heading, accel, sigma, length, width, hits, age), in order of id."""
    out = []
    for row in range(int(z.ctl[c.CTL_TOP])):
        s, i = z.s[row].tolist(), z.i[row].tolist()
        if i[c.I_STATUS] != c.CONFIRMED or not i[c.I_OWN] or i[c.I_FROM] >= event_ms:
            continue
        if 0 < i[c.I_UNTIL] < event_ms:
            continue
        dt = (event_ms - i[c.I_T]) * 1e-3
        ve, vn, turn = s[c.S_VE], s[c.S_VN], s[c.S_OMEGA] * dt
        far = dt if abs(turn) < 1e-9 else dt * 2.0 * sin(turn / 2) / turn  # the chord, half the turn to the left
        east = s[c.S_E] + far * (ve * cos(turn / 2) - vn * sin(turn / 2))
        north = s[c.S_N] + far * (vn * cos(turn / 2) + ve * sin(turn / 2))
        phi = radians(z.frame.lat) + north / z.frame.meridian_m
        normal = SEMI_MAJOR_M / sqrt(1.0 - ECC2 * sin(phi) ** 2)
        ee, en, nn = told_cov(z.s[row], dt, noise(z.s[row], z.i[row], z.prm))
        sigma = sqrt((ee + nn) / 2 + sqrt(((ee - nn) / 2) ** 2 + en * en))
        ahead = max(event_ms // 100 - i[c.I_SLOT], 0)
        hits = sum(i[c.I_SLOTS] >> 6 * x & 63 for x in range(max(10 - ahead, 0)))
        out.append(
            [
                i[c.I_GID], i[c.I_CLS], round(phi * 180 / pi * 1e7),
                round(z.frame.lon * 1e7 + east / (normal * cos(phi)) * 180 / pi * 1e7),
                min(round(hypot(s[c.S_VE], s[c.S_VN]) * 50), 8190),
                round(atan2(s[c.S_HX], s[c.S_HY]) * 180 / pi % 360 * 80) % 28800,
                max(min(round(s[c.S_ACC] * 100), 2000), -2000), min(round(sigma * 100), 65535),
                min(round(s[c.S_LEN] * 100), 4095), min(round(s[c.S_WID] * 100), 1023), hits,
                max(event_ms - i[c.I_LAST], 0),
            ]
        )  # fmt: skip
    return sorted(out)


def close(got: list[list[int]], expected: list[list[int]]) -> None:
    """Ids and counts are equal; what is rounded may be a unit off where it lies between two."""
    assert [row[:2] + row[10:] for row in got] == [row[:2] + row[10:] for row in expected]
    off = np.abs(np.array(got, np.int64) - np.array(expected, np.int64)).reshape(-1, 12)
    off[:, 5] = np.minimum(off[:, 5], 28_800 - off[:, 5])
    assert off.max(initial=0) <= 1
    assert np.count_nonzero(off) <= 1 + off.size // 1000


def test_reports_and_duplicates(monkeypatch) -> None:
    seen = {"frames": 0, "quiet": 0, "merged": 0}
    make = Rounds.make

    def made(self: Rounds, event_ms: int, stream_ms: int, idle_ms: int, *args) -> None:
        zones = [station.zone for station in self._stations]
        merged = [tidied(z, event_ms, idle_ms, event_ms % 100 == (nth % 2) * 50) for nth, z in enumerate(zones)]
        make(self, event_ms, stream_ms, idle_ms, *args)
        for z, row, more in zip(zones, self._said.tolist(), merged, strict=True):
            assert z.stat[c.STAT_MERGED] == more
            columns = self._y[:13, row[FIRST] : row[FIRST] + row[N]]
            close(np.delete(columns, Y_LANE, axis=0).T.tolist(), plain(z, event_ms))
            seen["frames"] += 1

    def tidied(z: ZoneState, event_ms: int, idle_ms: int, merge: bool) -> int:
        """Do on copies what the round will do; return how many it will have merged."""
        before = int(z.stat[c.STAT_MERGED])
        s, i, heads, ctl, stat = (a.copy() for a in (z.s, z.i, z.heads, z.ctl, z.stat))
        up.upkeep(s, i, heads, ctl, stat, z.prm, event_ms, idle_ms, merge)
        if not merge:
            return before
        if stat[c.STAT_MERGED] != before:
            seen["merged"] += 1
        else:  # the quick look found nothing: neither must the full search
            up._merge(s, i.copy(), heads.copy(), ctl.copy(), again := stat.copy(), z.prm, event_ms)
            assert again[c.STAT_MERGED] == before
            seen["quiet"] += 1
        return int(stat[c.STAT_MERGED])

    monkeypatch.setattr(Rounds, "make", made)
    scene = fs.make(NOISY)
    zones = fs.zone_map(NOISY)
    fs.World(scene, [Engine(None, zones, DECODER, CODEC, 0, 1, CODEC.decode_kafka)], CODEC, zones).run()
    assert min(seen.values()) >= 5, seen


def test_angles_are_those_of_the_library() -> None:
    for heading in range(28_801):
        east, north = compass(heading)
        assert abs(east - sin(radians(heading * 0.0125))) < 1e-14
        assert abs(north - cos(radians(heading * 0.0125))) < 1e-14
        told = bearing(east, north)
        assert 0.0 <= told <= 2 * pi
        assert abs((told - radians(heading * 0.0125) + pi) % (2 * pi) - pi) < 1e-9
    assert bearing(0.0, 0.0) == 0.0
    for by in (-0.01, -1e-4, 0.0, 3e-3, 0.01):
        assert turn(sin(0.6), cos(0.6), by) == pytest.approx((sin(0.6 + by), cos(0.6 + by)), abs=1e-15)
