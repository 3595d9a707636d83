from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from v2x.errors import BrokerError

from v2x_services import brokers
from v2x_services.brokers import Kafka, Mosquitto
from v2x_services.process import Process


class Sleeper(Process):
    """A process that is ready when its file appears; its command line names its folder, as a broker's does."""

    name = "sleeper"
    script = (
        "import pathlib,sys,time; pathlib.Path(sys.argv[1],'ready').touch(); print('up',flush=True); time.sleep(60)"
    )

    def command(self):
        (self.folder / "ready").unlink(missing_ok=True)
        return [sys.executable, "-c", self.script, str(self.folder)]

    def serves(self) -> bool:
        return (self.folder / "ready").exists()


class Failing(Sleeper):
    script = "import sys; print('no port for me'); sys.exit(3)"


def test_start_stop_and_lines(tmp_path) -> None:
    lines: list[str] = []
    with Sleeper(tmp_path, lines.append) as p:
        assert p.pid is not None
    assert p.pid is None
    assert lines == ["up"]
    assert p.log_path.read_text() == "up\n"


def test_what_does_not_start_says_why_in_one_line(tmp_path) -> None:
    with pytest.raises(BrokerError, match=r"sleeper ended with 3: no port for me \(log: ") as e:
        Failing(tmp_path).start()
    assert "\n" not in str(e.value)


def test_what_a_killed_supervisor_left_is_stopped_and_nothing_else(tmp_path) -> None:
    left = Sleeper(tmp_path / "a").start()
    stranger = Sleeper(tmp_path / "b").start()
    new, other = Sleeper(tmp_path / "a"), Sleeper(tmp_path / "c")
    try:
        other.folder.mkdir()
        (other.folder / "sleeper.pid").write_text(str(stranger.pid))  # a pid that was given to someone else since
        os.kill(left.pid, signal.SIGCONT)
        reaper = left.process
        # Its parent is us here, so reap it as init would.
        signal.signal(signal.SIGCHLD, lambda *_: reaper.poll())
        new.start()
        other.start()
        assert reaper.poll() == -signal.SIGTERM
        assert stranger.pid is not None
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for p in (left, stranger, new, other):
            p.kill()


def test_missing_kafka_says_how_to_get_it(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(brokers, "PROJECT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("V2X_KAFKA_LIBS", "V2X_KAFKA_HOME", "KAFKA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BrokerError, match=r"scripts/setup"):
        brokers.find_libs()
    (tmp_path / "k" / "libs").mkdir(parents=True)
    (tmp_path / "k" / "libs" / "kafka_2.13-4.4.0.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path / "k"))
    assert brokers.find_libs() == tmp_path / "k" / "libs"


def test_shipped_settings_hold_what_the_design_rests_on() -> None:
    kafka = brokers.template("kafka/server.properties", host="h", port=1, controller_port=2, data="d")
    for line in (
        "log.message.timestamp.type=LogAppendTime",
        "auto.create.topics.enable=false",
        "group.min.session.timeout.ms=2000",
        "group.initial.rebalance.delay.ms=0",
        "unclean.leader.election.enable=false",
    ):
        assert line in kafka.splitlines()
    mosquitto = brokers.template("mosquitto/mosquitto.conf", host="127.0.0.1", port=1, data="d", user="u").splitlines()
    for line in ("listener 1 127.0.0.1", "set_tcp_nodelay true", "max_inflight_messages 0", "persistence true"):
        assert line in mosquitto


@pytest.mark.real
def test_mosquitto_keeps_its_port_over_a_kill(tmp_path) -> None:
    with Mosquitto(tmp_path) as m:
        port = m.port
        m.kill()
        assert not m.serves()
        m.start()
        with socket.create_connection(("127.0.0.1", port), 1):
            pass


@pytest.mark.real
def test_a_killed_kafka_is_back_with_its_data(kafka: Kafka) -> None:
    began = time.monotonic()
    kafka.kill()
    kafka.start()
    assert kafka.serves()
    # With the default broker session of 9 s the new process waits for its own old epoch.
    assert time.monotonic() - began < 60
    assert Path(kafka.folder / "data" / "meta.properties").exists()
