from __future__ import annotations

import io
import json
import logging
import sys
import tomllib

import pytest
from typer.testing import CliRunner
from v2x.errors import ConfigError

from v2x_loadtest.cli import root
from v2x_services import log
from v2x_services.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("V2X_MQTT_PORT", "V2X_KAFKA_BOOTSTRAP", "V2X_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_flags_beat_environment_beats_file_beats_default(monkeypatch, tmp_path) -> None:
    (tmp_path / "v2x.toml").write_text('mqtt_port = 1\nmqtt_host = "file"\nkafka_bootstrap = "file:1"\n')
    monkeypatch.setenv("V2X_MQTT_PORT", "2")
    monkeypatch.setenv("V2X_KAFKA_BOOTSTRAP", "env:2")
    s = Settings.load(kafka_bootstrap="flag:3", mqtt_port=None)
    assert (s.kafka_bootstrap, s.mqtt_port, s.mqtt_host, s.partitions) == ("flag:3", 2, "file", 8)
    origins = {name: where for name, (_, where, _) in s.provenance().items()}
    assert origins["kafka_bootstrap"] == "flag"
    assert origins["mqtt_port"] == "environment V2X_MQTT_PORT"
    assert origins["mqtt_host"] == "file v2x.toml"
    assert origins["partitions"] == "default"
    assert s.environment() == {"V2X_KAFKA_BOOTSTRAP": "flag:3", "V2X_MQTT_PORT": "2", "V2X_MQTT_HOST": "file"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mqtt_port = 70000", r"mqtt_port \(from file v2x.toml\).*65535"),
        ("mqtt_prot = 1", "mqtt_prot"),
        ("mqtt_port = ", "v2x.toml"),
        ('log_format = "xml"', "log_format"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path, text, says) -> None:
    (tmp_path / "v2x.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as e:
        Settings.load()
    assert "\n" not in str(e.value)


def test_a_file_that_is_named_must_be_there(tmp_path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Settings.load(tmp_path / "nothing.toml")


def test_a_secret_is_not_shown() -> None:
    s = Settings.load(mqtt_password="hunter2")
    assert "hunter2" not in repr(s)
    assert "hunter2" not in str(s.provenance())


@pytest.mark.parametrize(("text", "found"), [("all", [0, 1, 2, 3]), ("2", [2]), ("0-1,3", [0, 1, 3])])
def test_partition_lists(text, found) -> None:
    assert Settings.load(fusion_partitions=text).partition_list(4) == found


@pytest.mark.parametrize("text", ["", "4", "0-9", "x", "3-1"])
def test_bad_partition_lists(text) -> None:
    with pytest.raises(ConfigError, match="fusion_partitions"):
        Settings.load(fusion_partitions=text).partition_list(4)


def test_config_writes_a_file_that_reads_back(tmp_path) -> None:
    result = CliRunner().invoke(root, ["config", "--toml"])
    assert result.exit_code == 0, result.output
    lines = [
        line.removeprefix("# ") for line in result.output.splitlines() if " = " in line and not line.endswith("= ")
    ]
    assert len(tomllib.loads("\n".join(lines))) > 20


@pytest.mark.parametrize("fmt", ["json", "human"])
def test_logs(monkeypatch, fmt) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root_logger = logging.getLogger()
    handlers, level = root_logger.handlers[:], root_logger.level
    try:
        log.setup("demo", fmt).info("it happened", device="RSU-1")
        logging.getLogger("other").warning("a library's %s", "word")
    finally:
        root_logger.handlers[:] = handlers
        root_logger.setLevel(level)
    ours, theirs = stream.getvalue().splitlines()
    if fmt == "json":
        record = json.loads(ours)
        assert (record["event"], record["device"], record["service"], record["level"]) == (
            "it happened",
            "RSU-1",
            "demo",
            "info",
        )
        assert json.loads(theirs)["event"] == "a library's word"
    else:
        assert "it happened" in ours
        assert "a library's word" in theirs
