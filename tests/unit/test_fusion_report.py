"""What a zone reports, against the same in plain Python; and that the quick look for duplicates leaves none out."""

from __future__ import annotations

from math import atan2, cos, hypot, pi, radians, sin, sqrt

import numpy as np
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import CODEC, DECODER
from v2x.fusion import layout as c
from v2x.fusion import upkeep as up
from v2x.fusion.engine import Engine
from v2x.fusion.kalman import noise, told_cov
from v2x.fusion.report import Y_LANE
from v2x.fusion.station import Station
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


def test_reports_and_duplicates(monkeypatch) -> None:
    seen = {"frames": 0, "quiet": 0, "merged": 0}
    tidy, frame = ZoneState.tidy, Station.frame

    def tidied(self: ZoneState, event_ms: int, idle_ms: int) -> None:
        before = int(self.stat[c.STAT_MERGED])
        tidy(self, event_ms, idle_ms)
        if self.stat[c.STAT_MERGED] != before:
            seen["merged"] += 1
            return
        stat = self.stat.copy()  # nothing was merged: the full search must find nothing either
        up._merge(self.s, self.i.copy(), self.heads.copy(), self.ctl.copy(), stat, self.prm, event_ms)
        assert stat[c.STAT_MERGED] == before
        seen["quiet"] += 1

    def framed(self: Station, outlet, event_ms: int, *args) -> None:
        frame(self, outlet, event_ms, *args)
        z = self.zone
        got = np.delete(z._y[:13, : z._count], Y_LANE, axis=0).T.tolist()
        assert got == plain(z, event_ms)
        seen["frames"] += 1

    monkeypatch.setattr(ZoneState, "tidy", tidied)
    monkeypatch.setattr(Station, "frame", framed)
    scene = fs.make(NOISY)
    zones = fs.zone_map(NOISY)
    fs.World(scene, [Engine(None, zones, DECODER, CODEC, 0, 1, CODEC.decode_kafka)], CODEC, zones).run()
    assert min(seen.values()) >= 10, seen
