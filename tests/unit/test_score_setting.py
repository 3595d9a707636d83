"""The settings say what they promise: figures of the sensors, one world for one seed, messages the codec takes."""

from __future__ import annotations

import numpy as np
import pytest

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.score.setting import COLUMNS, FRAME, T0_MS, Setting, World, make


@pytest.fixture(scope="module")
def world() -> World:
    return make(Setting(seed=5, seconds=20.0))


def errors(world: World, rsu: int) -> tuple[dict[int, list[float]], int]:
    """Errors to the north by object (a unit's bias among them), and how many rows there were."""
    out: dict[int, list[float]] = {}
    rows = 0
    lat0, lon0 = world.reference(rsu)
    for scan in world.scans:
        if scan.rsu != rsu or scan.again:
            continue
        who, _, north = world.traffic.at((scan.ts_ms - T0_MS) / 1000)
        at = dict(zip(who.tolist(), north.tolist(), strict=True))
        there = FRAME.to_local((lat0 + scan.rows[:, 4]) / 1e7, (lon0 + scan.rows[:, 5]) / 1e7)[1]
        for j, y in zip(scan.truth.tolist(), there.tolist(), strict=True):
            rows += 1
            if j in at:
                out.setdefault(j, []).append(y - at[j])
    return out, rows


def test_units_err_as_they_should(world: World) -> None:
    sigmas = [np.std(np.concatenate(list(errors(world, k)[0].values()))) for k in range(8)]
    assert 0.48 < min(sigmas) < max(sigmas) < 1.05
    first = [s for s in world.scans if not s.again]
    ghosts = sum(int((s.truth < 0).sum()) for s in first)
    assert ghosts / len(first) == pytest.approx(0.1, abs=0.03)
    assert (len(world.scans) - len(first)) / len(first) == pytest.approx(0.03, abs=0.012)
    assert max(s.at_ms - (s.ts_ms - T0_MS) for s in first) < 181
    assert [s.at_ms for s in world.scans] == sorted(s.at_ms for s in world.scans)


def test_noise_is_white_or_goes_on_from_scan_to_scan(world: World) -> None:
    def lag(w: World) -> float:
        long = [np.array(x) - np.mean(x) for x in errors(w, 2)[0].values() if len(x) > 60]
        return float(np.mean([np.mean(x[1:] * x[:-1]) / np.mean(x * x) for x in long]))

    assert abs(lag(world)) < 0.1
    assert lag(make(Setting(seed=5, seconds=20.0, rho=0.9))) > 0.7
    assert lag(make(Setting(seed=5, seconds=20.0, rho=0.9, white=0.5))) == pytest.approx(0.4, abs=0.1)


def test_a_seed_is_a_world(world: World) -> None:
    again, other = make(world.setting), make(Setting(seed=6, seconds=20.0))
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(world.scans, again.scans, strict=True))
    assert not np.array_equal(world.traffic.east, other.traffic.east)
    assert 140 < np.mean([((e := world.traffic.at(t)[1]) > 0).sum() - (e > 2000).sum() for t in range(20)]) < 160


@pytest.mark.parametrize("kind", ["motorway", "both_ways", "crossing"])
def test_messages_are_legal_and_nobody_jumps(kind: str) -> None:
    world = make(Setting(seed=2, kind=kind, seconds=5.0, rsus=3, range_m=150.0))
    codec = ReferenceCodec(Registry.load())
    n = 0
    for (_, device, record), scan in zip(world.messages(), world.scans, strict=True):
        back = codec.decode_kafka(codec.encode("rsm", record))[1]
        assert back["device"] == device
        assert [p[COLUMNS[1]] for p in back["participants"]] == scan.rows[:, 1].tolist()
        n += len(scan.rows)
    assert n > 500
    step = np.hypot(np.diff(world.traffic.east, axis=0), np.diff(world.traffic.north, axis=0))
    assert np.nanmax(step) < 4.5  # 45 m/s
