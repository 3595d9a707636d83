"""The ledger: rows before their messages, acknowledgements after, counts that add up; options of the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from v2x.errors import ConfigError

from v2x_loadtest.audit import ledger as reader
from v2x_loadtest.cmd_simulate import parse_bad, parse_endpoint
from v2x_loadtest.simulate.ledger import ROW, Ledger, rows_of
from v2x_loadtest.simulate.step import MESSAGE


def messages(n: int, first_us: int = 1_000_000) -> np.ndarray:
    m = np.zeros(n, MESSAGE)
    m["intended_us"] = first_us + np.arange(n) * 1000
    m["seq"], m["device"], m["code"] = np.arange(n), np.arange(n) % 7, 1
    m["flags"][::10] = 1
    return m


def on_disk(folder: Path) -> np.ndarray:
    return np.frombuffer((folder / "sent.bin").read_bytes(), ROW)


def test_the_auditor_reads_what_we_write() -> None:
    assert reader.SENT == ROW


def test_a_killed_simulator_leaves_all_it_sent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    rows = rows_of(messages(100))
    first = ledger.append(rows[:60], 1_050_000)
    assert (first, len(on_disk(tmp_path))) == (0, 60)  # before any flush
    ledger.acked([3, 5], [1_060_000, 1_060_001])
    ledger.flush()
    assert ledger.append(rows[60:], 1_100_000) == 60
    disk = on_disk(tmp_path)
    assert len(disk) == 100
    assert set(np.flatnonzero(disk["acked_us"])) == {3, 5}
    assert (disk["sent_us"][[0, 99]] == [1_050_000, 1_100_000]).all()


def test_counts_over_many_blocks(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    n = 40_000
    rows = rows_of(messages(n))
    for a in range(0, n, 64):
        ledger.append(rows[a : a + 64], 1_000_000 + a * 1000)
    ledger.acked(list(range(n)), [9] * n)
    ledger.flush()
    assert (ledger.published, ledger.acknowledged, ledger.repeats) == (n, n, n // 10)
    assert ledger.by_type[1] == n
    assert (on_disk(tmp_path)["acked_us"] == 9).all()
    assert len(ledger._blocks) == 1  # only the block that is still written to
    ledger.close()
    assert len(on_disk(tmp_path)) == n


def test_what_was_held_back_is_not_published_until_it_leaves(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(rows_of(messages(10)), 1_010_000)
    ledger.held_back(4)
    ledger.held_back(5)
    ledger.flush()
    assert (ledger.published, int(ledger.late.sum())) == (8, 8)
    assert (on_disk(tmp_path)["sent_us"][[4, 5]] == 0).all()
    ledger.sent(4, 3_004_000)
    ledger.dropped(5)
    ledger.flush()
    assert (ledger.published, int(ledger.late.sum())) == (9, 9)
    assert ledger.late_max_us == 2_000_000
    assert on_disk(tmp_path)["sent_us"][4] == 3_004_000
    ledger.close()


def test_lateness(tmp_path: Path) -> None:
    ledger = Ledger(None)
    m = messages(1000)
    m["intended_us"] = 1_000_000
    m["intended_us"][:10] -= 50_000
    ledger.append(rows_of(m), 1_001_950)
    ledger.count()
    assert ledger.late_ms(0.5) == pytest.approx(2.0)
    assert ledger.late_ms(0.995) == pytest.approx(52.0)
    assert ledger.late_max_us == 51_950
    assert Ledger(None).late_ms(0.5) == 0


def test_an_older_run_in_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sent.npy").write_bytes(b"old")
    (tmp_path / "sent.bin").write_bytes(b"x" * 1000)
    ledger = Ledger(tmp_path)
    ledger.append(rows_of(messages(1)), 5)
    head = {
        "devices": [{"id": "R", "kind": "rsu", "boot": 1}], "scene": "s", "t0_ms": 1, "offset_s": 0.0, "speed": 1.0,
        "copies": 1, "seed": 1,
    }  # fmt: skip
    ledger.describe(head)
    ledger.close()
    assert json.loads((tmp_path / "devices.json").read_bytes()) == head
    assert len(reader.Ledger.load(tmp_path).sent) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--ledger"):
        Ledger(tmp_path / "file")


def test_arguments() -> None:
    assert parse_endpoint("127.0.0.1:1883") == ("127.0.0.1", 1883)
    assert parse_endpoint("[::1]:1883") == ("::1", 1883)
    for wrong in ("1883", "host:", "host:0", "host:70000", ":1883"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            parse_endpoint(wrong)
    assert parse_bad(None) is None
    assert parse_bad("RSU-M-01=0.5") == ("RSU-M-01", 0.5)
    for wrong in ("RSU", "RSU=2", "=0.5", "RSU=x"):
        with pytest.raises(ConfigError, match="DEVICE=SHARE"):
            parse_bad(wrong)
