"""The planted scene: what a seed plants is found, kind by kind, and nothing else; its truth is what the acts were."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from v2x.events.catalogue import RULES

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.planted import HOURS
from v2x_loadtest.planted.actors import profile, times
from v2x_loadtest.planted.scene import planted_scene
from v2x_loadtest.scene import Scene, save_scene
from v2x_loadtest.score import kinds
from v2x_loadtest.score.case_run import run_case
from v2x_loadtest.score.cases import SCENES, SceneRow, make_case
from v2x_loadtest.simulate.build import Generator
from v2x_loadtest.simulate.options import Options


def required(scene: Scene) -> Counter[str]:
    return Counter(e.kind for e in scene.events if "optional" not in e.details)


def test_a_few_seeds_hold_every_kind_that_fusion_detects_and_one_seed_holds_many() -> None:
    scenes = [planted_scene(seed) for seed in (1, 2)]
    every = sum((required(s) for s in scenes), Counter())
    detected = {rule.kind for rule in RULES if rule.limits} - set(HOURS)  # the others are reported only
    assert detected <= set(every), detected - set(every)
    assert all(required(s).total() >= 45 for s in scenes)
    again = planted_scene(1)
    assert again.events == scenes[0].events
    assert np.array_equal(again.trajectories.lat, scenes[0].trajectories.lat)
    assert planted_scene(3).events != again.events


def test_free_flow_has_nothing_to_find() -> None:
    scene = planted_scene(1, planted=False, seconds=30.0)
    assert not required(scene)
    assert not scene.things
    assert not scene.weather
    assert not scene.faults
    assert len(scene.frame(150).idx) > 150


def test_motion_is_exact() -> None:
    s, v = profile(times(20.0), 5.0, 20.0, [(4.0, -5.0), (3.0, 0.0), (2.0, 1.5)])
    assert s[50] == pytest.approx(0.0)
    assert (s[0], s[90], s[120], v[120]) == (pytest.approx(-100.0), pytest.approx(40.0), pytest.approx(40.0), 0.0)
    assert v[150] == pytest.approx(3.0)
    assert s[150] == pytest.approx(40.0 + 3.0 + 3.0)


def test_things_are_in_the_rsms_of_those_that_see_them_and_silent_signals_say_nothing(tmp_path) -> None:
    scene = planted_scene(2, seconds=80.0)
    codec = ReferenceCodec(Registry.load())
    generator = Generator(scene, Options(seed=2, duration=80.0), 1_790_000_000_000_000)
    fault = next(f for f in scene.faults if f.what == "silent" and f.to_s - f.from_s > 5)
    seen, spats = Counter(), []
    while not generator.done:
        step = generator.step()
        for n, row in enumerate(step.messages):
            device = generator.fleet.ids[row["device"]]
            wanted = device == fault.rsu or (device.startswith("RSU") and row["seq"] % 5 == 0)
            name, message = codec.decode_mqtt(step.payload(n)) if wanted else ("", {})
            if name == "rsm":
                seen.update(thing["obs_type"] for thing in message["obstacles"])
            if name == "spat" and message["device"] == fault.rsu:
                spats.append(message["ts_ms"] / 1000 - 1_790_000_000)
    for thing in scene.things:
        assert seen[thing.obs_type] > 5
    inside = [t for t in spats if fault.from_s + 0.1 < t < min(fault.to_s, 80.0) - 0.1]
    assert not inside
    assert len(spats) > 50
    with pytest.raises(ValueError, match="cannot hold"):
        save_scene(scene, tmp_path / "p.npz")


def test_what_is_planted_is_found_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    row = SceneRow("a short one", planted={"seconds": 75.0}, events=True)
    monkeypatch.setitem(SCENES, "short", row)
    score = run_case(make_case("short", "plain", 3), (), lambda _what, _done: None)
    assert score.events is not None
    assert [e.kind for e in score.events.missed] == []
    assert [list(t.kinds) for t in score.events.invented] == []
    assert score.events.repeated == []
    found = {m.truth.kind for m in score.events.matches}
    assert found == {rule.kind for rule in RULES if rule.limits} - {"CONGESTION", *HOURS}  # too short for a queue
    assert len(score.events.matches) >= 25
    tallies: dict[str, kinds.Tally] = {}
    kinds.add(tallies, score.events)
    assert kinds.total(tallies).found == len(score.events.matches)
    table = list(kinds.rows(tallies))
    assert table[-1][0] == "all"
    assert len(table) == len(found) + 1
    assert kinds.to_dict(tallies)["all"]["recall"][0] == 1.0


def test_a_share_has_wilsons_interval() -> None:
    assert kinds.share(0, 0) is None
    p, low, high = kinds.share(98, 100) or (0, 0, 0)
    assert (p, round(low, 4), round(high, 4)) == (0.98, 0.9300, 0.9945)
    assert kinds.share(5, 5) == (1.0, pytest.approx(0.5655, abs=1e-4), 1.0)
