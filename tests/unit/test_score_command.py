"""`v2x score` from end to end on small scenes, its parts by hand, and the commands that the documents show."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from v2x.errors import ConfigError

from v2x_loadtest.audit.log import Stamped
from v2x_loadtest.cli import root
from v2x_loadtest.cmd_score import pick_baselines
from v2x_loadtest.options import parse_seeds
from v2x_loadtest.score.baselines import hungarian, in_order, single
from v2x_loadtest.score.case_run import CaseScore, run_case
from v2x_loadtest.score.cases import SCENES, VARIANTS, make_case
from v2x_loadtest.score.events import Match, Told
from v2x_loadtest.score.figures import track_figures
from v2x_loadtest.score.jam import score_jams
from v2x_loadtest.score.play import Estimates, Player
from v2x_loadtest.score.saved import load, save
from v2x_loadtest.score.scans import Scan, scans

ROOT = Path(__file__).parents[2]


def quiet(_what: str, _done: float) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def small() -> CaseScore:
    return run_case(make_case("synthetic", "plain", 1001), ["single", "hungarian"], quiet, draw=True)


# --- the whole ---------------------------------------------------------------


def test_a_scene_is_scored_from_its_log(small: CaseScore) -> None:
    ours = small.values["ours"]
    assert ours["rmse_m"] < 0.7
    assert ours["mota"] > 0.9
    assert (ours["recall"], ours["precision"], ours["duplicates"]) == (1.0, 1.0, 0.0)
    assert ours["travel_mape"] < 5
    assert 0.1 < ours["nees"] < 4
    assert set(small.values) == {"ours", "single", "hungarian"}
    assert small.values["single"]["rmse_m"] > ours["rmse_m"]
    assert small.values["single"]["switches_40s"] > 1  # from unit to unit ids are others


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    runs = [run_case(make_case("prototype", "plain", s, 5), [], quiet).values["ours"] for s in (1001, 1001, 1002)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0]["gospa_m"] < 8


def test_a_handover_between_two_partitions_keeps_ids() -> None:
    case = make_case("synthetic", "plain", 1003, 20)
    partitions = next(n for n in range(2, 20) if len({case.zones.partition(z, n) for z in case.zones.zones}) == 2)
    played = Player(case.zones, case.frame, partitions=partitions).run(case.messages, case.begin_ms, case.end_ms)
    assert played.counters["ownership_released"] > 3
    assert track_figures(case, played.frames).values["switches"] == 0


@pytest.mark.parametrize("variant", ["gone", "night", "misses", "swaps", "clocks", "ar1"])
def test_variants_change_the_log(variant: str) -> None:
    scene = "prototype" if variant == "swaps" else "synthetic"  # twenty cars on a kilometre are seldom close
    plain, other = (make_case(scene, name, 1001, 6) for name in ("plain", variant))
    values = [[m.value for m in case.messages if b"RSU-" in m.key] for case in (plain, other)]
    assert values[0] != values[1]
    if variant in {"gone", "night"}:
        assert len(other.messages) < 0.9 * len(plain.messages)
        assert np.isfinite(other.covered.until_s).sum() == 1
        east, north = other.covered.east[1:2], other.covered.north[1:2]  # at the unit that is gone
        assert not other.covered(5.9, east, north, slack_m=-200)[0]
        assert plain.covered(5.9, east, north, slack_m=-200)[0]


def test_missing_transactions_are_missing() -> None:
    plain, fewer = (make_case("synthetic", name, 1001) for name in ("plain", "tolls"))
    count = [sum(m.topic == "v2x.gantry" for m in case.messages) for case in (plain, fewer)]
    assert count[1] < count[0]


def test_a_saved_log_scores_the_same(tmp_path: Path) -> None:
    case = make_case("synthetic", "plain", 1001, 8)
    save(case, tmp_path / "log.npz", 8)
    again = load(tmp_path / "log.npz")
    assert again.messages == case.messages
    assert run_case(again, [], quiet).values == run_case(case, [], quiet).values


def test_a_log_of_kafka_is_replayed_as_it_lies_there() -> None:
    case = make_case("synthetic", "plain", 1001, 8)
    player = Player(case.zones, case.frame)
    logs: dict[int, list[object]] = {p: [] for p in range(8)}
    for p, engine in player.engines.items():
        feed = engine.feed
        engine.feed = lambda records, p=p, feed=feed: (logs[p].extend(records), feed(records))[1]  # type: ignore[method-assign]
    first = player.run(case.messages, case.begin_ms, case.end_ms)
    again = Player(case.zones, case.frame, partitions=8).replay(logs)  # type: ignore[arg-type]
    assert again.events == sorted(first.events, key=lambda e: e.partition)
    assert list(again.frames) == list(first.frames)
    assert all(np.array_equal(again.frames[t].east, first.frames[t].east) for t in first.frames)
    assert run_case(replace(case, logs=logs), [], quiet).values["ours"]["mota"] > 0.9  # type: ignore[arg-type]


# --- figures by hand ---------------------------------------------------------


def test_nees_is_one_where_the_covariance_is_right_and_four_where_it_is_half(small: CaseScore) -> None:
    case, rng = small.case, np.random.default_rng(3)
    cov = np.array([[0.5, 0.2], [0.2, 0.3]])
    root_ = np.linalg.cholesky(cov)
    frames = {}
    for k in range(15, 200):
        now = case.at(0.2 * k)
        off = root_ @ rng.normal(0, 1, (2, now.idx.size))
        told = np.repeat([[0.5], [0.2], [0.3]], now.idx.size, axis=1)
        t = round(case.ledger.utc_ms(0.2 * k))
        frames[t] = Estimates(now.idx + 7, now.east + off[0], now.north + off[1], told)
    assert track_figures(case, frames).values["nees"] == pytest.approx(1.0, abs=0.08)
    for e in frames.values():
        e.cov /= 4
    values = track_figures(case, frames).values
    assert values["nees"] == pytest.approx(4.0, abs=0.3)
    assert values["rmse_m"] == pytest.approx(np.sqrt(0.8), abs=0.04)
    assert values["mota"] == pytest.approx(1.0, abs=0.01)


def test_a_jam_is_judged_second_by_second(small: CaseScore) -> None:
    case = small.case
    assert case.truth is not None
    base = case.truth.scene.events[0]
    lat, lon = base.lat, base.lon
    # 20 km/h, level 2; in the last second 16 km/h, so near to level 3 that it is right as well.
    speeds = [5.6] * 9 + [4.4]
    seconds = [{"t": 10.0 + k, "speed": v, "tail_lat": lat, "tail_lon": lon} for k, v in enumerate(speeds)]
    truth = replace(base, kind="CONGESTION", details={"seconds": seconds})
    far = 40 / 111_000

    def told(k: float, **value: object) -> Stamped:
        row = {"event_id": "J", "status": "MODIFIED", "level": 2, "tail_lat": round(lat * 1e7),
               "tail_lon": round(lon * 1e7), **value}  # fmt: skip
        return Stamped(0, 0, int(case.ledger.wall_ms(10.0 + k)), row)

    records = [told(1.5), told(4.5, tail_lat=round((lat + far) * 1e7)), told(6.5, level=3)]
    match = Match(truth, Told("J", records[0]), "CONGESTION", 0.0, 0.0)
    got = score_jams([match], records, case.truth, case.ledger)
    # Told for seconds 2 to 9; the tail 40 m off in 5 and 6; the level wrong in 7 and 8.
    assert got.seconds == 8
    assert got.tail_right == pytest.approx(6 / 8)
    assert got.level_right == pytest.approx(6 / 8)
    assert got.tail_p50_m == pytest.approx(0, abs=0.1)
    assert score_jams([], records, case.truth, case.ledger).tail_right is None


# --- baselines ---------------------------------------------------------------


def line(sensors: int = 2, noise: float = 0.3) -> tuple[list[Scan], list[tuple[int, int]]]:
    """Two cars, 20 m/s, 8 m apart, seen by units 400 m apart at both ends of a kilometre."""
    rng, out = np.random.default_rng(1), []
    for k in range(100):
        for s in range(sensors):
            x = np.array([20.0 * k / 10, 20.0 * k / 10 + 8])
            z = x + rng.normal(0, noise, 2)
            y = rng.normal(0, noise, 2)
            speed = np.full(2, 20.0)
            ids = np.array([5, 6]) + 10 * s
            out.append(Scan(100.0 * k + 50, 100 * k, s, (400.0 * s - 100, 0.0), ids, z, y, speed, np.zeros(2)))
    return out, [(t, t + 60) for t in range(1000, 9600, 200)]


def test_the_plain_filter_follows_two_cars_and_is_better_than_one_sensor() -> None:
    inputs, instants = line()
    frames, alone = hungarian(inputs, instants), single(inputs, instants)
    assert {len(e.track) for e in frames.values()} == {2}
    assert len({int(i) for e in frames.values() for i in e.track}) == 2

    def error(made: dict[int, Estimates]) -> float:
        true = [np.array([20.0 * t / 1000, 20.0 * t / 1000 + 8]) for t, _ in instants]
        return float(
            np.mean([np.abs(np.sort(made[t].east) - x).mean() for (t, _), x in zip(instants, true, strict=True)])
        )

    assert error(frames) < 0.7 * error(alone)
    assert {len(e.track) for e in alone.values()} == {2}
    assert len({int(i) for e in alone.values() for i in e.track}) == 4  # new ids at the other unit


def test_scans_are_taken_in_order_of_their_own_times_and_late_ones_once() -> None:
    inputs, instants = line(sensors=1)
    late = replace(inputs[20], at_ms=inputs[20].at_ms + 140)
    lost = replace(inputs[30], at_ms=inputs[30].at_ms + 5_000)
    mixed = sorted([*inputs[:20], late, *inputs[21:30], lost, *inputs[31:]], key=lambda s: s.at_ms)
    taken = [s.ts_ms for _, now in in_order(mixed, instants) for s in now]
    assert taken == sorted(taken)
    assert late.ts_ms in taken
    assert lost.ts_ms not in taken


def test_scans_hold_what_the_units_said_and_repeats_once() -> None:
    case = make_case("prototype", "plain", 1001, 4)
    found = scans(case.messages, case.frame)
    assert len(found) < len(case.messages)  # 3 % are said twice
    now = case.at(case.ledger.scene_s(found[100].ts_ms))
    gap = np.hypot(found[100].east[:, None] - now.east, found[100].north[:, None] - now.north).min(axis=1)
    assert np.median(gap) < 2
    assert np.median(found[100].vel_e) == pytest.approx(25, abs=12)


def test_stone_soup_follows_them_too() -> None:
    pytest.importorskip("stonesoup", reason="Stone Soup is not installed (pip install 'v2x-core[compare]')")
    from v2x_loadtest.score.baselines import gnn  # noqa: PLC0415

    inputs, instants = line()
    frames = gnn(inputs[:60], instants[:8])
    assert {len(e.track) for e in frames.values()} == {2}
    assert len({int(i) for e in frames.values() for i in e.track}) == 2


# --- the command -------------------------------------------------------------


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(root, ["score", *args])
    if isinstance(result.exception, ConfigError):
        return 2, str(result.exception)
    return result.exit_code, result.output


class _Loads(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [f"{tag} {k}" for k, _ in attrs if k in {"src", "href", "srcset"} or k.startswith("on")]
        self.found += [tag for t in (tag,) if t in {"script", "link", "iframe", "img"}]


def test_the_command_writes_table_json_and_a_page_of_its_own(tmp_path: Path) -> None:
    page, data = tmp_path / "s.html", tmp_path / "s.json"
    code, output = run(
        "--scene", "synthetic", "--seeds", "1001-1002", "--seconds", "25", "--html", str(page), "--json", str(data)
    )  # fmt: skip
    assert code == 0, output
    assert "GOSPA" in output
    (part,) = json.loads(data.read_text())["parts"]
    assert part["seeds"] == [1001, 1002]
    assert part["trackers"]["ours"]["mota"]["low"] <= part["trackers"]["ours"]["mota"]["mean"]
    text = page.read_text()
    loads = _Loads()
    loads.feed(text)
    assert loads.found == []
    assert loads.tags.count("svg") == 4
    assert "http" not in text
    assert "STOPPED_VEHICLE" in text
    assert len(text) < 2_000_000


def test_strict_is_exit_code_1_where_a_bar_is_missed() -> None:
    args = ("--scene", "prototype", "--variant", "ar1", "--seeds", "1001", "--seconds", "5", "--baselines", "none")
    missed = "FAIL" in run(*args)[1]
    assert run(*args, "--strict")[0] == (1 if missed else 0)
    assert run(*args)[0] == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--scene", "nowhere"], "no scene 'nowhere'; choose from motorway, urban"),
        (["--variant", "rain"], "no variant 'rain'"),
        (["--seeds", "7-3"], "--seeds 7-3"),
        (["--seeds", "x"], "--seeds x: give a range"),
        (["--baselines", "magic"], "no baseline 'magic'"),
        (["--scene", "prototype", "--variant", "tolls"], "needs gantries"),
        (["--log", "/nothing.npz"], "--log /nothing.npz cannot be read"),
        (["--log", "kafka"], "--log kafka needs --ledger"),
        (["--log", "x", "--scene", "urban"], "leave out --scene"),
        (["--html", "/no/such/folder/x.html"], "is no folder"),
    ],
)
def test_mistakes_are_told(args: list[str], says: str) -> None:
    code, output = run(*args)
    assert code == 2
    assert says in output


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"junk")
    assert "is no log that --save-log wrote" in run("--log", str(tmp_path / "x.npz"))[1]


def test_ctrl_c_prints_what_is_done_and_ends_with_130() -> None:
    command = [sys.executable, "-m", "v2x_loadtest.cli", "score", "--scene", "synthetic", "--scene", "urban"]
    process = subprocess.Popen(
        [*command, "--seeds", "1001", "--baselines", "none"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        for line_ in process.stderr:
            if "urban" in line_:
                process.send_signal(signal.SIGINT)
                break
        output, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert "synthetic, plain" in output
    assert "\x1b" not in output


def test_seeds_and_baselines() -> None:
    assert parse_seeds("1001-1003,1007,1002") == [1001, 1002, 1003, 1007]
    assert pick_baselines("none", ["single"]) == []


def test_lists() -> None:
    code, output = run("--list")
    assert code == 0
    for name in (*SCENES, *VARIANTS, "hungarian"):
        assert name in output


def shown() -> list[str]:
    text = "".join((ROOT / name).read_text() for name in ("docs/accuracy.md", "README.md"))
    found = re.findall(r"^\s*(v2x score .*)$", text, re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize("command", shown())
def test_the_commands_of_the_documents_run_in_a_small_form(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.split("#", maxsplit=1)[0])[1:]
    if "kafka" in words:
        pytest.skip("needs Kafka: tests/integration/test_audit_topics.py reads such a log")
    if "gnn" in command or "--baselines all" in command:
        try:
            pick_baselines("gnn", ["gnn"])
        except ConfigError as error:
            pytest.skip(str(error))
    for option, small_ in (("--seeds", "1001"), ("--seconds", "3.5"), ("--scene", "synthetic")):
        if option in words and option != "--scene":
            words[words.index(option) + 1] = small_
        elif option == "--seconds" and "--log" not in words:
            words += [option, small_]
    words = ["synthetic" if w in {"motorway", "urban", "all", "dense"} and words[k - 1] == "--scene" else w
             for k, w in enumerate(words)]  # fmt: skip
    if "--log" in words:
        save(make_case("synthetic", "plain", 1001, 3.5), tmp_path / words[words.index("--log") + 1], 3.5)
    result = CliRunner().invoke(root, words)
    assert result.exit_code in {0, 1}, result.output
    assert not isinstance(result.exception, ConfigError), result.exception
