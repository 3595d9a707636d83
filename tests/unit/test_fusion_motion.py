"""Motion and noise: turns are followed, covariances are honest, and what sensors are like is learnt while they run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.fusion_drive import Drive
from v2x.fusion import layout as c
from v2x.fusion.snapshot import Frozen, unpack
from v2x.fusion.zone import ZoneState
from v2x.zones import ZoneMap

from v2x_loadtest.score.consistency import measure
from v2x_loadtest.score.setting import COLUMNS, T0_MS, ZONE, Setting, World, make

SHORT: Any = {"seconds": 16.0, "vehicles": 90, "length_m": 1000.0, "rsus": 4}
HALF: Any = {"rho": 0.9, "white": 0.5}  # half of the noise goes on, half is white


def ran(world: World) -> ZoneState:
    zone = ZoneState(ZoneMap.parse(world.zones()), ZONE)
    columns = np.arange(len(COLUMNS))
    frame = 50
    for scan in world.scans:
        while frame <= scan.at_ms:
            zone.tidy(T0_MS + frame - 78, frame)
            frame += 50
        at = int(scan.at_ms)
        if not scan.again:
            where, device = world.reference(scan.rsu), world.device(scan.rsu)
            zone.scan(scan.rows, columns, where, scan.ts_ms, 0, device, T0_MS + at - 78, at)
    return zone


def units(setting: Setting) -> np.ndarray:
    """Return bias east, north, clock (s) and sigma of the units, as the setting draws them."""
    out = []
    for rsu in range(setting.rsus):
        rng = np.random.default_rng([setting.seed, 3, rsu])
        sigma = rng.uniform(*setting.sigma_m)
        out.append([*rng.normal(0, setting.bias_m, 2), rng.uniform(-setting.clock_ms, setting.clock_ms) / 1000, sigma])
    return np.array(out)


@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_noise_and_biases_are_learnt(rho: float) -> None:
    setting = Setting(seed=3, rho=rho, **SHORT)
    world = make(setting)
    zone, true = ran(world), units(setting)
    b = zone.bias[[zone.sensors[world.device(k)] for k in range(setting.rsus)]]
    sigma = np.sqrt(b[:, c.B_VAR]) * zone.prm[c.Q_SIGMA]
    assert sigma == pytest.approx(true[:, 3], rel=0.25 if rho else 0.08)
    assert b[:, c.B_RHO] == pytest.approx(rho, abs=0.05)
    # Only differences can be seen, and along the road only that of offset and clock together.
    north = b[:, c.B_Y] - true[:, 1]
    assert np.ptp(north) < (0.35 if rho else 0.12)
    along = b[:, c.B_X] - 20.0 * b[:, c.B_TAU] - true[:, 0] + 20.0 * true[:, 2]
    assert np.ptp(along) < (0.5 if rho else 0.2)


@pytest.mark.parametrize(("more", "least", "most"), [({}, 0.0, 0.2), ({"rho": 0.9}, 0.0, 0.2), (HALF, 0.6, 1.6)])
def test_noise_that_is_slower_than_it_looks_is_known(more: dict[str, float], least: float, most: float) -> None:
    setting = Setting(seed=3, **(SHORT | {"seconds": 24.0} | more))
    world = make(setting)
    zone = ran(world)
    b = zone.bias[[zone.sensors[world.device(k)] for k in range(setting.rsus)]]
    slow = b[:, c.B_SLOW].mean()
    assert least <= slow <= most
    rows = zone.s[zone.i[: len(zone.s), c.I_STATUS] == c.CONFIRMED]
    told = rows[:, c.S_SHARE].mean() - b[:, c.B_SHARE].mean()
    assert told / (0.5 * (rows[:, c.S_P] + rows[:, c.S_P + 4]).mean()) == pytest.approx(slow, abs=0.3)


@pytest.mark.parametrize(
    ("more", "rmse", "gospa"),
    [
        ({}, 0.4, 4.0),
        ({"rho": 0.9}, 0.6, 6.0),
        ({"swap": 0.1}, 0.4, 4.0),
    ],
)
def test_covariances_are_honest(more: dict[str, float], rmse: float, gospa: float) -> None:
    found = [measure(Setting(seed=seed, **SHORT, **more)) for seed in (21, 22, 23, 24)]
    assert float(np.mean([f.rmse_m for f in found])) < rmse
    assert float(np.mean([f.gospa_m for f in found])) < gospa
    assert 0.6 < np.mean([f.nees for f in found]) < 1.4  # few seeds: what no filter can see of a bias is one draw each
    assert min(f.mota for f in found) > 0.995
    assert sum(f.switches for f in found) == 0


def corner(drive: Drive, *, told: bool) -> tuple[list[float], list[float]]:
    """A vehicle goes east at 7 m/s, turns left on an arc of 12 m to north; return errors and rates of turning."""
    rng = np.random.default_rng(1)
    radius, v, errors, rates = 12.0, 7.0, [], []
    zone = drive.engine.stations["Z1"].zone
    for k in range(90):
        t = 0.1 * k
        s = v * t - 28.0
        angle = float(np.clip(s / radius, 0.0, np.pi / 2))
        beyond = max(s - radius * np.pi / 2, 0.0)
        east, north = min(s, 0.0) + radius * np.sin(angle), radius * (1 - np.cos(angle)) + beyond
        heading = 90.0 - np.degrees(angle)
        unknown = {} if told else {"speed": 8191 * 0.02, "heading": 28_800 * 0.0125}
        for rsu in (1, 2):
            seen = [(4, east + rng.normal(0, 0.3), north + rng.normal(0, 0.3))]
            drive.scan(rsu, 100 * k + 5 * rsu, seen, ts=100 * k, **({"speed": v, "heading": heading} | unknown))
        rows = np.flatnonzero(zone.i[:, c.I_STATUS] == c.CONFIRMED)
        if k > 20:
            assert len(rows) == 1
            errors.append(float(np.hypot(zone.s[rows[0], c.S_E] - east, zone.s[rows[0], c.S_N] - north)))
            rates.append(float(zone.s[rows[0], c.S_OMEGA]))
    return errors, rates


@pytest.mark.parametrize("told", [True, False])
def test_a_turn_is_followed_and_ends(told: bool) -> None:
    errors, rates = corner(Drive(), told=told)
    assert max(rates) == pytest.approx(7.0 / 12.0, abs=0.25 if told else 0.6)
    assert rates[:15] == [0.0] * 15  # going straight
    assert rates[-1] == 0.0 or not told
    assert np.sqrt(np.mean(np.square(errors))) < (0.25 if told else 0.45)
    never = Drive()
    never.engine.stations["Z1"].zone.prm[c.Q_SWING] = 1e9
    worse, none = corner(never, told=told)
    assert set(none) == {0.0}
    assert told or np.sqrt(np.mean(np.square(errors))) < 0.8 * np.sqrt(np.mean(np.square(worse)))


def test_a_snapshot_in_the_middle_of_a_turn_goes_on_turning() -> None:
    drive = Drive()
    zone = drive.engine.stations["Z1"].zone
    corner(drive, told=True)
    zone.s[0, c.S_OMEGA], zone.s[0, c.S_W + 4] = 0.3, 0.01
    kept = ZoneState(drive.zones, "Z1")
    kept.load(unpack(Frozen(zone.state()).pack()))
    assert np.array_equal(kept.s, zone.s)
    assert np.array_equal(kept.bias[: len(zone.sensors)], zone.bias[: len(zone.sensors)])


def test_two_vehicles_side_by_side_keep_their_own_messages_though_their_ids_rotate() -> None:
    drive = Drive()
    rng = np.random.default_rng(4)
    for k in range(120):
        t, x = 100 * k, -110.0 + 2.0 * k
        drive.scan(1, t + 5, [(1, x + rng.normal(0, 0.4), 0.0), (2, x + 1.0, 3.75 + rng.normal(0, 0.4))], ts=t)
        for n, north in enumerate((0.0, 3.75)):
            temp = bytes([n, k // 30]) + bytes(6)  # each id lives three seconds
            wander = (0.8 * np.sin(k / 40), 0.6 * np.cos(k / 40))  # of the satellites' place
            drive.bsm(f"OBU-{n}", t + 30 + n, x + 0.6 + n + wander[0], north + wander[1], temp)
    assert len(drive.tracks()) == 2
    places = sorted(north for _, north in drive.last().values())
    assert places == pytest.approx([0.0, 3.75], abs=0.8)


def test_a_neighbours_word_ends_a_turn() -> None:
    """Its covariance says nothing of a rate, and an old one beside it would make a matrix that is none."""
    drive = Drive()
    corner(drive, told=True)
    station = drive.engine.stations["Z1"]
    zone = station.zone
    (row,) = np.flatnonzero(zone.i[:, c.I_STATUS] == c.CONFIRMED)
    zone.s[row, c.S_OMEGA], zone.s[row, c.S_W : c.S_W + 5] = 0.3, (0.1, 0.1, 0.1, 0.1, 0.01)
    zone.i[row, c.I_OWN] = 0
    later = int(zone.i[row, c.I_LAST]) + 1_000
    station.ownership.adopt(station.ownership._state(row, later), 0, 0, later)
    assert zone.i[row, c.I_LAST] == later
    assert not zone.s[row, c.S_W : c.S_W + 5].any()
    assert zone.s[row, c.S_OMEGA] == 0.0
