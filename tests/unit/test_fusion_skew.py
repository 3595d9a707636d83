"""A unit whose times lie far from the others' has a wrong clock, or a slow link: which, its neighbours' tracks tell."""

from __future__ import annotations

import pytest
from tests.unit import fusion_scene as fs
from tests.unit.fusion_drive import Drive
from v2x.fusion import layout as c


def run(clock: int, link: int) -> Drive:
    """Let three vehicles pass two units; the second's clock is off by ``clock`` ms, its link takes ``link``."""
    drive = Drive()
    said = []
    for t in range(0, 5_000, 100):
        cars = [(n, -60.0 + 0.02 * t - 25.0 * n, -3.75 * (n % 2)) for n in (1, 2, 3)]
        said.append((t + 5, 1, cars, t))
        ahead = [(20 + n, x + 0.8, y) for n, x, y in cars]
        said.append((t + 40 + link, 2, ahead, t + 40 + clock))
    for at, rsu, cars, ts in sorted(said):
        drive.scan(rsu, at, cars, ts=ts, speed=20.0)
    return drive


@pytest.mark.parametrize(("clock", "link", "mean"), [(-250, 5, -0.25), (250, 5, 0.25), (0, 255, 0.0), (0, 5, 0.0)])
def test_a_wrong_clock_is_put_right_and_a_slow_link_is_not(clock: int, link: int, mean: float) -> None:
    drive = run(clock, link)
    (station,) = drive.engine.stations.values()
    zone = station.zone
    unit = max(zone.sensors.values())
    assert zone.bias[unit, c.B_MEAN_TAU] == pytest.approx(mean, abs=0.03)
    places = sorted(drive.last().values())
    assert len(places) == 3
    at = drive.frames()[-1]["event_ms"] - fs.T0
    for n, (east, _) in zip((3, 2, 1), places, strict=True):
        assert east == pytest.approx(-60 + 0.02 * at - 25.0 * n, abs=1.5)
