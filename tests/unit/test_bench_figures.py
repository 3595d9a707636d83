"""What the benchmarks count and draw."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from v2x.errors import ConfigError

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import SENT, Ledger, LedgerDevice
from v2x_loadtest.bench import audit, ingest_report
from v2x_loadtest.bench.flow import FlowOptions, is_flat, room_for
from v2x_loadtest.bench.harness import Results, as_dict, plot_of, show
from v2x_loadtest.bench.ingest import (
    IngestOptions,
    Report,
    Sample,
    first_stamps,
    forwarder_core,
    latencies,
    missing,
    other_cores,
)
from v2x_loadtest.bench.payloads import ingest_load
from v2x_loadtest.bench.peers import PEERS, Place, chosen
from v2x_loadtest.bench.plot import Chart, Line, bars, lines, page
from v2x_loadtest.bench.proc import Usage, cpu_of_stat, cpu_s, kill_tree, on_cores, rss_mb, tree
from v2x_loadtest.bench.records import Arrived, identity


def ledger(rows: list[tuple[int, int, int, int]]) -> Ledger:
    sent = np.zeros(len(rows), SENT)
    for i, (device, seq, intended, acked) in enumerate(rows):
        sent[i]["device"], sent[i]["seq"], sent[i]["intended_us"], sent[i]["acked_us"] = device, seq, intended, acked
    return Ledger([LedgerDevice("a", "rsu", 0), LedgerDevice("b", "rsu", 0)], sent, "x", 0, 0.0, 1.0, 1, 1)


def arrived(rows: list[tuple[int, int, int]]) -> Arrived:
    return Arrived(*(np.array(c, np.int64) for c in np.array(rows, np.int64).reshape(-1, 3).T))


def test_lost_is_what_was_acknowledged_and_is_not_there() -> None:
    book = ledger([(0, 9000, 0, 1), (0, 9001, 0, 1), (1, 9000, 0, 1), (1, 9001, 0, 0)])
    assert missing(book, arrived([(0, 9000, 5), (0, 9000, 6), (1, 9000, 7)])) == (1, 1)
    assert missing(book, arrived([])) == (3, 0)


def test_latency_is_of_the_first_record_from_the_intended_time() -> None:
    book = ledger([(0, 9000, 1_000_000, 1), (0, 9001, 1_002_500, 1), (1, 9000, 3_000_000, 1), (1, 9001, 1_000_000, 1)])
    log = arrived([(0, 9001, 1010), (0, 9000, 1009), (0, 9000, 1004), (1, 9000, 3001)])
    never = float("inf")  # (1, 9001) was due and is not there
    assert latencies(book, log, 1_000_000, 2_000_000).tolist() == [4.0, 7.5, never]
    assert latencies(book, arrived([]), 0, 9_000_000).tolist() == [never] * 4
    keys, stamps = first_stamps(log)
    assert keys.tolist() == sorted(keys.tolist())
    assert stamps.tolist() == [1004, 1010, 3001]


def test_identity_of_what_forwarders_write() -> None:
    _, _, probe = ingest_load("rsm", 1, 1.0, 1)
    record = ReferenceCodec(Registry.load()).decode_mqtt(probe)[1]
    ours = (record["device"], record["seq"])
    assert identity(probe, "raw") == ours
    assert identity(b"\0\0\0\0\1" + probe[10:], "kafka") == ours
    line = b'mqtt_consumer,topic=v2x/v1/rsu/PROBE/rsm/up value="' + base64.b64encode(probe) + b'" 1790000000000000000\n'
    assert identity(line, "influx") == ours
    assert identity(b"", "raw") is None
    assert identity(b"no line", "influx") is None


def test_cpu_of_a_process() -> None:
    stat = "42 (a (strange) name) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100 1 1"
    assert cpu_of_stat(stat) == pytest.approx(2.15)  # with its children that have ended
    assert cpu_s(1 << 30) == 0.0
    assert rss_mb(os.getpid()) > 10


BUSY = "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.2: pass\n"
PARENT = f"""
import subprocess, sys, time
ended = subprocess.run([sys.executable, "-c", {BUSY!r}])
child = subprocess.Popen([sys.executable, "-c", {BUSY!r} + "time.sleep(60)"])
time.sleep(60)
"""


def test_a_process_is_measured_and_killed_with_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT]) as parent:
        try:
            deadline = time.monotonic() + 20
            while Usage.of({"p": parent.pid}).cpu["p"] < 0.4 and time.monotonic() < deadline:
                time.sleep(0.05)
            found = tree(parent.pid)
            assert len(found) == 2
            assert found[0] == parent.pid
            assert Usage.of({"p": parent.pid}).since(Usage({"p": 0.1}))["p"] >= 0.3
            assert rss_mb(parent.pid) > sum(rss_mb(pid) for pid in found[1:]) > 5
        finally:
            kill_tree(parent.pid)
        assert parent.wait(5) == -signal.SIGKILL
    deadline = time.monotonic() + 5
    while any(_runs(pid) for pid in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_runs(pid) for pid in found)
    assert tree(1 << 30) == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_cores() -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    with on_cores([one]):
        assert os.sched_getaffinity(0) == {one}
        pinned, free = IngestOptions(), IngestOptions(pinned=False)
        assert (forwarder_core(pinned), other_cores(pinned)) == ([], [one])  # one core cannot be shared out
    assert os.sched_getaffinity(0) == before
    with on_cores([]):
        assert os.sched_getaffinity(0) == before
    everything = sorted(before)
    assert (forwarder_core(free), other_cores(free)) == ([], everything)
    if len(everything) > 1:
        assert (forwarder_core(pinned), other_cores(pinned)) == (everything[-1:], everything[:-1])
        two = IngestOptions(cores=2)
        assert (forwarder_core(two), other_cores(two)) == ([everything[1]], [everything[0]])


def test_a_lag_is_flat_or_it_grows() -> None:
    assert is_flat([], 1000)
    assert is_flat([500.0] * 3, 1000)
    assert is_flat([0.0, 5000.0, 0.0, 0.0, 100.0, 90.0], 1000)  # one peak
    assert is_flat([float(10 * s) for s in range(30)], 17_000)
    assert not is_flat([float(100 * s) for s in range(30)], 1000)


def test_a_run_that_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    room_for(1e6, tmp_path)
    with pytest.raises(ConfigError, match=r"needs about 2500001\.1 GB in .* GB are free: give less time"):
        room_for(1e15, tmp_path)


def test_figures_over_time() -> None:
    svg = ET.fromstring(lines(Line("Lag", "records", {"run 1": [(0.0, 0.0), (5.0, 50.0), (10.0, 100.0)], "none": []})))
    first, _ = (r.get("points").split() for r in svg if r.tag.endswith("polyline"))
    at = [tuple(map(float, point.split(","))) for point in first]
    assert at[1] == pytest.approx(((at[0][0] + at[2][0]) / 2, (at[0][1] + at[2][1]) / 2), abs=0.1)
    assert at[2][0] > at[0][0]
    assert at[2][1] < at[0][1]
    assert "polyline" in page("T", [], [Line("empty", "records", {"a": [(0.0, 0.0)]})])


def test_ratios_are_of_the_same_round() -> None:
    made = Results("T", "µs", {"ours": [1.0, 2.0], "peer": [2.0, 8.0]}, "ours", {"bytes": 5})
    assert as_dict(made)["results"]["peer"]["ratio_low"] == 2.0
    assert as_dict(made)["results"]["peer"]["ratio_high"] == 4.0
    assert as_dict(made)["bytes"] == 5
    assert "<svg" in plot_of(made)
    said = io.StringIO()
    show(made, Console(file=said, width=120))
    assert "3.00 (2.00-4.00)" in said.getvalue()


def test_a_quantile_that_falls_on_a_message_that_never_came_is_said() -> None:
    fast, gone = Sample(latency_ms={"p50": 1.0, "p99": None}), Sample(latency_ms={"p50": 2.0, "p99": 4.0})
    report = Report(IngestOptions(rate=10), 1.0, {}, open={"v2x ingest": [fast, gone], "other": [fast]})
    said = io.StringIO()
    ingest_report.show(report, Console(file=said, width=140))
    assert "never" in said.getvalue()
    assert "inf" not in ingest_report.plot(report)
    json.dumps(ingest_report.as_json(report), allow_nan=False)


def test_a_plot_is_one_page_that_loads_nothing() -> None:
    chart = Chart("CPU <a message>", "µs", {"ours": [1.0, 2.0, 3.0], "peer & co": [8.0], "none": []}, "ours")
    svg = ET.fromstring(bars(chart))
    rects = [r for r in svg if r.tag.endswith("rect")]
    assert len(rects) == 2
    assert float(rects[1].get("width")) == pytest.approx(4 * float(rects[0].get("width")), rel=0.01)
    text = page("T", ["a & b"], [chart])
    assert "src=" not in text
    assert "http" not in text
    assert "a &amp; b" in text


def place(folder: Path) -> Place:
    return Place("h", 1883, "v2x/v1/#", "k:9092", "out", "me", folder)


@pytest.mark.parametrize("peer", PEERS, ids=lambda p: p.name)
def test_a_peer_is_told_where_everything_is(peer, tmp_path: Path) -> None:
    command = peer.command(place(tmp_path))
    (written,) = tmp_path.iterdir()
    text = written.read_text()
    assert str(written) in command
    for part in ("v2x/v1/#", "k:9092", "out", "me", "1883"):
        assert part in text
    assert "$" not in text
    if written.suffix == ".py":
        compile(text, written.name, "exec")


def test_an_adapter_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name="mine"\nwhat="all"\ncommand=["/bin/cat","{mqtt_host}:{mqtt_port}","{topic}"]\n')
    (peer,) = chosen("none", [path])
    assert peer.command(place(tmp_path)) == ["/bin/cat", "h:1883", "out"]
    assert peer.absent() == ""
    path.write_text('name="mine"\nwhat="all"\ncommand=["/no/such/thing"]\n')
    assert "not there" in chosen("none", [path])[0].absent()
    path.write_text('name="mine"\n')
    with pytest.raises(ConfigError, match="documented form"):
        chosen("none", [path])
    path.write_text('name="mine"\nwhat="all"\ncommand=["/bin/cat"]\npayload="xml"\n')
    with pytest.raises(ConfigError, match="raw or influx"):
        chosen("none", [path])
    with pytest.raises(ConfigError, match="no peer is called nobody; there are mq-bridge"):
        chosen("nobody", [])


def test_the_audits_are_told_as_shares_of_what_ingest_took() -> None:
    rounds = [
        audit.AuditRound(1000, 1000, 990, {"ingest": 2.0, "standing": s, "full": 0.5}, 1.0, 10, 9)
        for s in (0.02, 0.06, 0.04)
    ]
    made = json.loads(json.dumps(audit.as_dict(FlowOptions(rsus=7), rounds)))
    assert (made["shares"], made["rsus"]) == ({"standing": 0.02, "full": 0.25}, 7)
    assert made["rounds"][1]["shares"]["standing"] == 0.03
    assert (made["rounds"][0]["lost"], made["rounds"][0]["standing_lost"]) == (10, 9)
    console = Console(file=io.StringIO(), width=100)
    audit.show(rounds, console)
    text = console.file.getvalue()
    assert "1.0% – 3.0%" in text
    assert "3,000 messages; lost 30, by the standing audit 27" in text
