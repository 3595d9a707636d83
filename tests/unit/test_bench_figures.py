"""What the benchmarks count and draw."""

import base64
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from v2x.errors import ConfigError

from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import SENT, Ledger, LedgerDevice
from v2x_loadtest.bench.ingest import latencies, missing
from v2x_loadtest.bench.payloads import ingest_load
from v2x_loadtest.bench.peers import PEERS, Place, chosen
from v2x_loadtest.bench.plot import Chart, bars, page
from v2x_loadtest.bench.proc import cpu_of_stat, cpu_s, rss_mb
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
    assert latencies(book, log, 1_000_000, 2_000_000).tolist() == [4.0, 7.5]
    assert latencies(book, arrived([]), 0, 9_000_000).tolist() == []


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
    assert cpu_of_stat(stat) == pytest.approx(2.0)
    assert cpu_s(1 << 30) == 0.0

    assert rss_mb(os.getpid()) > 10


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
