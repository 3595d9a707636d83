"""The fuzzers by the million: cases that can be made again, a decoder whose mistakes are seen, cases that kill."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner
from v2x.columns import Batch, Verdict
from v2x.errors import ConfigError

from v2x_codecs import kernel
from v2x_loadtest import pages
from v2x_loadtest.cli import root
from v2x_loadtest.fuzz import campaign, columns, record, watch
from v2x_loadtest.fuzz.avro import Avro
from v2x_loadtest.fuzz.config import Config
from v2x_loadtest.fuzz.guards import Fence, WiredDecoder
from v2x_loadtest.fuzz.mutants import LONGEST, Cases, Pool
from v2x_loadtest.fuzz.target import OneByOne
from v2x_loadtest.fuzz.totals import Tally
from v2x_services.settings import Settings

INPUTS = [b"", b"a", bytes(range(256)), b"\xc3\x01" + b"x" * 300]


def test_a_case_is_a_function_of_seed_batch_and_place() -> None:
    whole = list(Pool("x", INPUTS, 2).cases(7, 3, 500))
    pool = Pool("x", INPUTS, 2)
    assert list(pool.cases(7, 3, 500)) == whole
    assert [pool.cases(7, 1500 + i, 1)[0] for i in (0, 17, 499)] == [whole[i] for i in (0, 17, 499)]
    assert list(pool.cases(8, 3, 500)) != whole
    assert list(Pool("y", INPUTS, 2).cases(7, 3, 500)) != whole
    assert len(set(whole)) > 200  # some inputs are a byte long, or none


def test_cases_are_bounded_and_the_chosen_have_their_share() -> None:
    pool = Pool("x", [b"\xff" * LONGEST, *INPUTS], chosen=[b"a"], share=0.9)
    cases = list(pool.cases(1, 0, 5_000))
    assert max(map(len, cases)) == LONGEST
    assert sum(len(case) < 250 for case in cases) > 4_000
    first = {case[0] for case in Pool("x", [b"\0" * 9], free=1).cases(1, 0, 3_000) if case}
    assert len(first) > 250


class Wrong(WiredDecoder):
    """A decoder with one mistake."""

    mistake = ""

    @staticmethod
    def spoil(heap: Any, at: int) -> None:
        """Write into the heap, which is not ours to write to."""
        np.frombuffer(heap.obj, np.uint8)[at] = 0xED

    def decode_spans(self, heap: bytes, spans: Any, expect: Any = None) -> Batch:
        batch = super().decode_spans(heap, spans, expect)
        good = np.flatnonzero(batch.verdict == Verdict.OK)
        bad = np.flatnonzero(batch.verdict == Verdict.TRUNCATED)
        if len(spans) < 100:
            return batch
        match self.mistake:
            case "raises":
                raise IndexError(3)
            case "value":
                batch.tables["tick"].data[-1, 2] += 1
            case "range":
                batch.tables["rsm"].data[0, batch.tables["rsm"].fields.index("ref_lat")] = 1 << 40
            case "text":
                batch.tables["bsm"].data[0, batch.tables["bsm"].fields.index("device.len")] += 500
            case "utf-8":
                at, size = batch.tables["bsm"].data[5, :2].tolist()
                assert size
                self.spoil(heap, at)
            case "parent":
                batch.tables["map.nodes.links"].parent[:] = 0
            case "offset":
                batch.at[bad[0]] = spans[bad[0], 1] + 1
            case "verdict":
                batch.verdict[bad[0]] = 17
            case "rows":
                batch.verdict[good[0]], batch.row[good[0]], batch.at[good[0]] = Verdict.BAD_VALUE, -1, 10
            case "field":
                batch.bad_field[bad[-1]] = 9_999
            case "wire":
                plan, store, _ = self._used[-1]
                store[plan.tables[3, kernel.BASE] - 1] = 0
        return batch


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ("", ""), ("raises", "raised"), ("value", "other values"), ("range", "beyond its field's"),
        ("text", "beyond its message"), ("parent", "another message's"), ("offset", "offset beyond"),
        ("utf-8", "not UTF-8"), ("verdict", "verdict that is none"), ("rows", "refused"),
        ("field", "field or schema"), ("wire", "a write"),
    ],
)  # fmt: skip
def test_a_broken_decoder_is_found_out(mistake: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "WiredDecoder", Wrong)
    target = Avro()
    cases = target.pool(target.seeds()).cases(1, 0, 2_000)
    assert target.judge(cases).findings == []  # and what clean messages are is known
    monkeypatch.setattr(Wrong, "mistake", mistake)
    findings = target.judge(cases).findings
    assert bool(findings) == bool(mistake)
    assert [text for _, text in findings if found not in text] == []


def test_a_value_that_hangs_on_its_neighbours_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = WiredDecoder.decode_spans

    def leaky(self: WiredDecoder, heap: bytes, spans: Any, expect: Any = None) -> Batch:
        batch = real(self, heap, spans, expect)
        table = batch.tables["tick"]
        table.data[:, 2] -= (table.msg & 1) * (table.data[:, 2] > 1_000) * (len(spans) > 100)
        return batch

    target = Avro()
    cases = target.pool(target.seeds()).cases(1, 0, 2_000)
    assert target.judge(cases).findings == []
    monkeypatch.setattr(WiredDecoder, "decode_spans", leaky)
    ((_, text),) = target.judge(cases).findings
    assert "beside other neighbours" in text


def test_all_ways_of_decoding_are_taken_and_most_verdicts_seen() -> None:
    total = Tally()
    for tally in campaign.batches("decoder", 5, 0, len(columns._DECODINGS), campaign.load("decoder")):
        total.add(tally)
    assert total.findings == []
    assert set(total.seen) >= {v.name for v in Verdict} - {"TOO_LARGE"}
    assert total.seen["OK"] > total.cases // 20
    assert sum(total.seen[v.name] for v in Verdict) == total.cases
    assert total.seen["beside fastavro"] == total.cases // columns._SAMPLE


def test_reading_beyond_the_fence_kills() -> None:
    pid = os.fork()
    if not pid:
        fence = Fence(10)
        heap = fence.heap()
        assert heap[-1] == 0
        np.frombuffer(heap, np.uint8, 1)  # may be read
        faulthandler.disable()
        beyond = np.lib.stride_tricks.as_strided(fence.bytes, (len(heap) + 1,))
        os._exit(int(beyond[-1]) + 1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGSEGV


class Deadly(OneByOne):
    """A target that does not survive some inputs."""

    name: ClassVar[str] = "deadly"
    batch: ClassVar[int] = 4
    sleeps = False

    def seeds(self) -> list[bytes]:
        """Return something to begin with."""
        return [b"good"]

    def pool(self, _inputs: Any) -> Any:
        """Return what makes one bad case."""

        class One:
            def cases(self, _seed: int, nth: int, size: int) -> Cases:
                return Cases.of(nth, [b"bad" if (nth, i) == (2, 2) else b"good" for i in range(size)])

        return One()

    def run(self, data: bytes) -> str:
        """Die of the bad one."""
        if data == b"bad":
            if self.sleeps:
                time.sleep(60)
            faulthandler.disable()
            os.kill(os.getpid(), signal.SIGSEGV)
        return "fine"


@pytest.mark.parametrize(("sleeps", "fate"), [(False, "kills the process (-11)"), (True, "hangs for 2 s")])
def test_the_case_that_kills_or_hangs_is_found(sleeps: bool, fate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "START", "fork")  # so that it knows the target
    monkeypatch.setitem(campaign.TARGETS, "deadly", (__name__, "Deadly", "dies"))
    monkeypatch.setattr(Deadly, "sleeps", sleeps)
    piece = watch.Piece("deadly", 1, 1, 3, ())
    assert watch.alone(piece, 1, 60.0) == Tally(4, [], Counter(fine=4))
    assert watch.alone(piece, 2, 2.0) == Tally(4, [(b"bad".hex(), f"batch 2, case 2: {fate}")])


def test_a_piece_that_does_not_come_back_is_looked_into_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "START", "fork")
    monkeypatch.setitem(campaign.TARGETS, "deadly", (__name__, "Deadly", "dies"))
    pieces = [watch.Piece("deadly", 1, nth, nth + 1, ()) for nth in (1, 2, 3)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        tallies = list(watch.watched(pool.imap(watch.run, pieces), pieces, 2.0))
    assert [tally.cases for tally in tallies] == [4, 4, 4]
    assert [len(tally.findings) for tally in tallies] == [0, 1, 0]


def test_settings_are_taken_as_tables_and_as_texts() -> None:
    target = Config()
    names = list(Settings.model_fields)
    at = names.index("partitions")
    assert target.table(bytes((at, 0, 0))) == {"partitions": 8}
    assert target.table(bytes((at, 0, 225, 0))) == {"partitions": 9}
    tally = target.judge(target.pool(target.seeds()).cases(3, 0, 4_000))
    assert tally.findings == []
    assert set(tally.seen) == {f"{kind} {fate}" for kind in ("table", "text", "file") for fate in ("taken", "refused")}
    assert tally.seen["table taken"] + tally.seen["table refused"] > 2_800


def test_what_the_fuzzer_found_in_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "v2x.toml"
    for parts in ("0-99999999999", "-5", "3-1", "8", "0,1,0-8", ""):
        file.write_text(f'fusion_partitions = "{parts}"\n')
        with pytest.raises(ConfigError, match="give all, or a list"):  # at once: no set of billions is made
            Settings.load(file).partition_list(8)
    for text in ("[" * 3_000, "9" * 5_000):
        file.write_text(f"a = {text}")
        with pytest.raises(ConfigError, match="configuration file"):
            Settings.load(file)


def test_a_broken_settings_check_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Settings, partitions: int) -> list[int]:
        return [int(part) for part in self.fusion_partitions.replace("all", "0").split(",") if int(part) < partitions]

    monkeypatch.setattr(Settings, "partition_list", careless)
    target = Config()
    assert target.judge(target.pool(target.seeds()).cases(3, 0, 10_000)).findings


def test_one_batch_alone_is_what_it_is_among_others() -> None:
    said = CliRunner().invoke(root, ["fuzz", "topics", "--seed", "4", "--batch", "3", "--json"])
    (tally,) = campaign.batches("topics", 4, 3, 4, campaign.load("topics"))
    assert said.exit_code == 0
    assert json.loads(said.output)["seen"] == tally.seen


def test_the_record(tmp_path: Path) -> None:
    file = tmp_path / "fuzz.json"
    command = ["fuzz", "topics", "--cases", "2000", "--record", str(file)]
    for seed in ("2", "1", "2"):
        assert CliRunner().invoke(root, [*command, "--seed", seed]).exit_code == 0
    rows = json.loads(file.read_bytes())["runs"]
    assert [(r["run"], r["cases"], r["findings"]) for r in rows] == [("seed 1", 2_000, 0), ("seed 2", 2_000, 0)]
    assert "| topics | seed 1 | 2,000 |" in record.markdown({"runs": rows})
    file.write_text("[]")
    with pytest.raises(ConfigError, match="no record"):
        CliRunner().invoke(root, [*command, "--seed", "1"], catch_exceptions=False)


def test_the_kept_record_has_a_run_without_findings_for_each_target() -> None:
    rows = json.loads((pages._DOCS / "fuzz.json").read_bytes())["runs"]
    assert {r["target"] for r in rows if not r["findings"]} == set(campaign.TARGETS)
