"""Fusion workers under random faults on a virtual clock: the outputs are those of one quiet run, whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from v2x_loadtest.cmd_schedules import Part, schedules
from v2x_loadtest.schedules.fusion_run import run_fusion_schedule
from v2x_loadtest.schedules.fusion_world import FAULTS, FusionPlan
from v2x_services.fusion import service, snapshots
from v2x_services.fusion.stage import Stage

SEEDS = range(1, 41)


def test_the_outputs_are_those_of_a_quiet_run() -> None:
    outcomes = [run_fusion_schedule(seed) for seed in SEEDS]
    assert {o.seed: o.wrongs for o in outcomes if o.wrongs} == {}
    assert sum(o.kills for o in outcomes) > 100  # kills, stops and freezes: they really happen
    assert sum(o.repeated for o in outcomes) > 50  # and zombies really write


def test_every_kind_of_fault_is_among_them() -> None:
    assert {what for seed in SEEDS for _, what, _ in FusionPlan.of(seed).faults} == set(FAULTS)


def test_a_seed_replays() -> None:
    seed = next(s for s in SEEDS if len(FusionPlan.of(s).faults) > 4)
    assert run_fusion_schedule(seed).trace == run_fusion_schedule(seed).trace


def snapshot_before_its_outputs_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a state whose outputs are still under way."""
    monkeypatch.setattr(Stage, "all_out", lambda _self, _number: True)


def suppress_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take outputs for written that are not."""
    real = service.last_positions

    async def broken(*args: object) -> dict[object, tuple[int, int]]:
        return {key: (offset + 3, nth) for key, (offset, nth) in (await real(*args)).items()}  # type: ignore[arg-type]

    monkeypatch.setattr(service, "last_positions", broken)


def trust_a_damaged_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not look at a snapshot's checksum."""

    monkeypatch.setitem(snapshots._SUMS, 2, ("crc32", lambda _blob: "0"))


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (snapshot_before_its_outputs_are_out, "no output at"),
        (suppress_too_much, "no output at"),
        (trust_a_damaged_snapshot, "ended"),
    ],
)
def test_broken_code_is_found_out(monkeypatch: pytest.MonkeyPatch, defect, says) -> None:
    defect(monkeypatch)
    for seed in range(1, 200):
        if any(says in wrong for wrong in run_fusion_schedule(seed).wrongs):
            return
    pytest.fail(f"no schedule shows it: {defect.__doc__}")


@pytest.mark.parametrize(("part", "seeds"), [("fusion", "1-8"), ("ingest", "20-27")])
def test_a_seed_replays_in_another_process_too(part: str, seeds: str) -> None:
    command = [sys.executable, "-m", "v2x_loadtest.cli", "schedules", "--of", part, "--seeds", seeds, "--trace"]
    one, other = (
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    )
    assert one == other
    assert one.count(b"\nseed ") == 7


def test_the_command_runs_them(capsys: pytest.CaptureFixture[str]) -> None:
    schedules(Part.FUSION, "1-2", jobs=1)
    assert capsys.readouterr().out.startswith("2 schedules")
