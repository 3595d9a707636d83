"""The benchmarks against real brokers, short: what they count is right, and early acknowledgement is seen."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from v2x_loadtest.bench import audit, flow_report, ingest_report
from v2x_loadtest.bench.durability import MESSAGES
from v2x_loadtest.bench.flow import FlowOptions
from v2x_loadtest.bench.flow import run as run_flow
from v2x_loadtest.bench.ingest import IngestOptions, run
from v2x_loadtest.bench.peers import PEERS, chosen

# Acknowledges at once (aiomqtt does), writes to Kafka later: what the durability run must find out.
EARLY = """
import asyncio, sys
import aiomqtt
from aiokafka import AIOKafkaProducer

async def main(host, port, pattern, kafka, topic, name):
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer, aiomqtt.Client(
        host, int(port), identifier=name, protocol=aiomqtt.ProtocolVersion.V5, clean_start=False,
        properties=session(),
    ) as client:
        await client.subscribe(pattern, qos=1)
        async for message in client.messages:
            await producer.send(topic, bytes(message.payload))

def session():
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    found = Properties(PacketTypes.CONNECT)
    found.SessionExpiryInterval = 3600
    return found

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.real
def test_ingest_beside_a_peer_that_acknowledges_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, adapter = tmp_path / "early.py", tmp_path / "early.toml"
    script.write_text(EARLY)
    command = [
        sys.executable,
        str(script),
        "{mqtt_host}",
        "{mqtt_port}",
        "{filter}",
        "{kafka}",
        "{topic}",
        "{client_id}",
    ]
    adapter.write_text(f'name = "early"\nwhat = "acknowledges at once"\ncommand = {json.dumps(command)}\n')
    (early,) = chosen("none", [adapter])
    gone = next(p for p in PEERS if p.name == "telegraf")
    monkeypatch.setattr(type(gone), "absent", lambda self: "not installed" if self is gone else "")
    options = IngestOptions(
        payload="bsm", rate=400, connections=20, seconds=1.5, warm_s=0.5, rounds=1, window=300, partitions=2,
    )  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    report = run(options, [gone, early], Console(file=io.StringIO()), folder)
    assert report.absent == {"telegraf": "not installed"}
    assert report.failed == {}
    for runs in (report.closed, report.open):
        for (sample,) in runs.values():
            assert sample.acknowledged == sample.published == sample.delivered > 300
            assert (sample.lost, sample.repeated) == (0, 0)
            assert sample.cpu_us["self"] > 0
            assert sample.rss_mb > 10
    assert report.open["v2x ingest"][0].rate == pytest.approx(400, rel=0.1)
    assert 0 < report.open["v2x ingest"][0].latency_ms["p50"] < 1000
    ours, theirs = report.durability["v2x ingest"], report.durability["early"]
    assert (ours["lost"], ours["waits"]) == (0, True)
    assert (theirs["lost"], theirs["waits"]) == (MESSAGES, False)
    assert (ours["acknowledged"], ours["starts"], theirs["starts"]) == (MESSAGES, 1, 1)
    text = json.dumps(ingest_report.as_json(report))
    assert json.loads(text)["cpu_ratio"]["open"]["early"]["median"] > 0
    assert "<svg" in ingest_report.plot(report)
    said = io.StringIO()
    ingest_report.show(report, Console(file=said, width=120))
    assert "telegraf: absent, not installed" in said.getvalue()


@pytest.mark.real
def test_a_small_province(tmp_path: Path) -> None:
    options = FlowOptions(rsus=4, seconds=3, warm_s=1, participants=10, partitions=2)
    report = run_flow(options, tmp_path / "flow", lambda _line: None)
    assert report.published == report.acknowledged == report.in_kafka == pytest.approx(160, abs=8)
    assert (report.lost, report.repeated, report.dead, report.restarts) == (0, 0, 0, {})
    assert report.drained
    assert not report.behind
    assert report.flat
    assert report.untracked == 0
    assert report.latency["publish_to_track"]["n"] == pytest.approx(120, abs=8)
    assert report.latency["publish_to_track"]["p50"] > report.latency["publish_to_kafka"]["p50"] > 0
    assert set(report.cores) == {"publisher", "kafka", "mosquitto", "ingest", "fusion"}
    assert all(used > 0 for used in report.cores.values())
    said = io.StringIO()
    flow_report.show("x", [report], Console(file=said, width=120))
    assert "keeps up" in said.getvalue()
    json.dumps(flow_report.as_json("x", [report]))


@pytest.mark.real
def test_the_audits_of_a_small_load() -> None:
    (made,) = audit.run(FlowOptions(rsus=4, seconds=2, participants=10, partitions=2), 1, lambda _line: None)
    assert made.published == made.messages == made.records == pytest.approx(80, abs=8)
    assert (made.lost, made.standing_lost) == (0, 0)
    assert set(made.cpu) == set(audit.PARTS)
    assert made.cpu["ingest"] > 0
    assert made.start > 0
