"""The fuzzers: their targets hold on kept and mistaken inputs, and find what is broken."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from typer.testing import CliRunner
from v2x.errors import ConfigError

from v2x_loadtest import cmd_fuzz
from v2x_loadtest.cli import root
from v2x_loadtest.fuzz import campaign
from v2x_loadtest.fuzz.framing import Framing, read_stream
from v2x_loadtest.fuzz.totals import Tally, Totals
from v2x_services.ingest import mqtt

# mqtt5's panics leave an error behind that nobody can raise any more.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ONE = mqtt5.PublishPacket("a/b", b"xyz", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=7).write()


@pytest.mark.parametrize("name", campaign.TARGETS)
def test_every_kept_input_holds(name: str) -> None:
    target = campaign.make(name)
    kept = campaign.load(name)
    assert [(data.hex(), wrong) for data in [*target.seeds(), *kept] if (wrong := campaign.one(target, data))] == []


@pytest.mark.parametrize("name", campaign.TARGETS)
def test_new_mistakes_hold_too(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tally,) = campaign.batches(name, seed=2026, first=0, last=1, corpus=campaign.load(name))
    assert tally.findings == []
    assert tally.cases == campaign.kind(name).batch
    capfd.readouterr()


def test_the_slow_reading_is_the_standards() -> None:
    assert read_stream(ONE) == ([(b"a/b", b"xyz", 7, False)], False)
    assert read_stream(ONE[:-1]) == ([], False)
    assert read_stream(b"\x36" + ONE[1:]) == ([], True)  # QoS 3
    assert read_stream(b"\x32\xff\xff\xff\xff\x01" + ONE[2:]) == ([], True)
    assert read_stream(mqtt5.PingRespPacket().write() + ONE) == ([(b"a/b", b"xyz", 7, False)], False)
    assert read_stream(mqtt5.DisconnectPacket().write() + ONE) == ([], True)
    assert read_stream(mqtt5.ConnAckPacket().write() + ONE) == ([(b"a/b", b"xyz", 7, False)], False)
    assert read_stream(2 * mqtt5.ConnAckPacket().write() + ONE) == ([], True)
    assert read_stream(b"\x30\xff\xff\xff\x7f") == ([], True)  # 256 MiB: more than we say that we take


def not_utf8(packet: bytes) -> bytes:
    return packet[:-1] + b"\xff"


@pytest.mark.parametrize(
    "packet",
    [
        not_utf8(mqtt5.DisconnectPacket(reason_str="abc").write()),  # mqtt5 panics, which no `except Exception` holds
        mqtt5.DisconnectPacket().write(),
        b"\x30\xff\xff\xff\x7f",
        mqtt5.ConnAckPacket().write(),
        2 * mqtt5.ConnAckPacket(server_keep_alive=30).write(),  # each began a ping of its own, with the third in vain
    ],
)
def test_what_the_fuzzer_found_in_the_framing(packet: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    target = Framing()
    for how in range(8):
        target.run(bytes((how,)) + ONE + packet + ONE)
    capfd.readouterr()


def test_a_broken_framing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "publish_row", lambda _heap, at, size: (at, 1, at, size, 1, 0))
    assert broken(Framing())


def test_a_panic_is_found_out(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(mqtt, "read_control", lambda packet: mqtt5.read(packet)[0])
    bad = not_utf8(mqtt5.DisconnectPacket(reason_str="abc").write())
    assert "PanicException" in campaign.one(Framing(), b"\0" + bad)
    capfd.readouterr()


def broken(target: Framing) -> bool:
    return any(campaign.one(target, data) for data in target.seeds())


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    said = run(root, ["fuzz", "zones", "--cases", "1", "--seed", "3"]).output
    assert "zones: 2,000 inputs of seed 3, 0 findings" in said
    assert run(root, ["fuzz", "framing", "--replay", "00" + ONE.hex()]).output == "nothing wrong with it\n"
    for wrong in (["fuzz", "nonsense"], ["fuzz", "zones", "--replay", "xyz"]):
        with pytest.raises(ConfigError):
            run(root, wrong, catch_exceptions=False)


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: str, cases: int) -> str:
        return (
            CliRunner()
            .invoke(root, ["fuzz", "topics", "--cases", f"{cases}", "--corpus", f"{tmp_path / folder}"])
            .output
        )

    monkeypatch.setattr(cmd_fuzz, "_PIECE", 1)
    assert "4,000 inputs of seed 1" in run("cut", 4_000)
    began: list[int] = []
    real = cmd_fuzz.spread

    def seen(piece: Any, pieces: Any, *args: Any, **kwargs: Any) -> Any:
        began.extend(piece[2] for piece in pieces)
        return real(piece, pieces, *args, **kwargs)

    monkeypatch.setattr(cmd_fuzz, "spread", seen)
    assert "6,000 inputs of seed 1" in run("cut", 6_000)
    assert began == [2]  # the third batch alone
    assert "6,000 inputs of seed 1" in run("whole", 6_000)
    assert Totals(tmp_path / "cut", "topics").runs == Totals(tmp_path / "whole", "topics").runs
    assert "6,000 inputs of seed 1" in run("cut", 6_000)
    assert began == [2, 0, 1, 2]  # nothing was left to do


def test_totals_come_back_with_their_findings_and_say_when_they_are_none(tmp_path: Path) -> None:
    totals = Totals(tmp_path, "zones")
    totals.of("guided").add(Tally(7, [("00", "odd")]))
    totals.keep([b"b", b"", b"b"])
    totals.save()
    again = Totals(tmp_path, "zones")
    assert again.of("guided") == Tally(7, [("00", "odd")])
    assert again.load() == [b"", b"b"]
    other = Totals(tmp_path, "zones")
    again.of("seed 1").add(Tally(3, seen=Counter(taken=3)))
    other.of("seed 2").add(Tally(4))
    again.save()
    other.save()  # of a run beside: neither takes the other's back
    assert Totals(tmp_path, "zones").runs == again.runs | {"seed 2": Tally(4)}
    (tmp_path / "zones.json").write_text('{"guided": 3}')
    with pytest.raises(ConfigError, match="remove it"):
        Totals(tmp_path, "zones")


def test_guided_says_what_is_missing_or_goes_on_where_it_ended(tmp_path: Path) -> None:
    try:
        import atheris  # noqa: F401, PLC0415
    except ImportError:
        with pytest.raises(ConfigError, match=r"v2x\[fuzz\]"):
            CliRunner().invoke(root, ["fuzz", "zones", "--guided"], catch_exceptions=False)
    else:
        command = [sys.executable, "-m", "v2x_loadtest.cli", "fuzz", "zones", "--guided", "--corpus", str(tmp_path)]
        for cases in (50, 80):
            assert subprocess.run([*command, "--cases", f"{cases}"], check=False).returncode == 0
            assert Totals(tmp_path, "zones").of("guided").cases == cases
