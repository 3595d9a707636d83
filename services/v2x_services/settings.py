"""Settings of all services in one typed table: defaults, then v2x.toml, then V2X_* of the environment, then flags.

``Settings.load`` turns every mistake into one ``ConfigError`` line that says which setting, where it came from and what
is wrong. ``provenance`` says for each setting where its value came from, for ``v2x config``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from v2x.errors import ConfigError

PREFIX: Final = "V2X_"
DEFAULT_FILE: Final = Path("v2x.toml")
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Every setting of every service; the description is its documentation."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)
    _file: ClassVar[Path | None] = None
    _origin: dict[str, str] = PrivateAttr(default_factory=dict)

    kafka_bootstrap: str = Field("127.0.0.1:9092", min_length=3, description="Kafka bootstrap servers, host:port[,…]")
    kafka_home: Path | None = Field(None, description="An installed Kafka (its libs/ is used) for v2x up and demo")
    kafka_libs: Path | None = Field(None, description="Folder of Kafka's jars; default .v2x/kafka/libs of the project")
    mqtt_host: str = Field("127.0.0.1", min_length=1, description="MQTT broker")
    mqtt_port: Port = Field(1883, description="MQTT port")
    mqtt_username: str = Field("", description="MQTT user name; empty for none")
    mqtt_password: str = Field("", repr=False, description="MQTT password")
    zones_path: Path = Field(Path("zones.json"), description="Zones, devices, gantries and sections (zones.json)")
    key_file: Path | None = Field(
        None, description="32 key bytes, hex (pseudonyms, sealed letters); default state_dir/ingest.key"
    )
    state_dir: Path = Field(Path(".v2x/state"), description="Snapshots, and files that tell the ports taken")
    host: str = Field("127.0.0.1", description="Address that /metrics and health listen on")
    ingest_metrics_port: Port = Field(9641, description="Ingest's /metrics; 0 takes a free one (see state_dir)")
    fusion_metrics_port: Port = Field(9642, description="Fusion's /metrics; 0 takes a free one (see state_dir)")
    confirm_metrics_port: Port = Field(9643, description="Confirm's /metrics; 0 takes a free one (see state_dir)")
    audit_metrics_port: Port = Field(9644, description="The standing audit's /metrics; 0 takes a free one")
    log_format: Literal["auto", "human", "json"] = Field("auto", description="auto: human on a terminal, else JSON")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level logged")

    partitions: int = Field(8, ge=1, le=1024, description="Partitions of each topic at topics apply")
    replication: int = Field(1, ge=1, le=5, description="Replicas of each topic; with 3, min.insync.replicas is 2")

    ingest_id: str = Field("ingest", pattern=r"^[A-Za-z0-9._-]{1,32}$", description="Names MQTT sessions and ticks")
    ingest_shards: int = Field(1, ge=1, le=64, description="Ingest processes of v2x up, which share the devices")
    receive_maximum: int = Field(2048, ge=1, le=65535, description="Unacknowledged publishes a session may hold")
    session_expiry_s: int = Field(86_400, ge=0, description="How long the MQTT broker keeps our session")
    queue_messages: int = Field(1_000_000, ge=1, description="The broker's max_queued_messages, for the outage budget")
    outage_budget_s: Seconds = Field(300.0, description="Outage that perishable messages are still taken after")
    max_payload: int = Field(1_000_000, ge=1024, description="Largest MQTT payload taken, bytes; larger: dead letter")
    ahead_s: Seconds = Field(5.0, description="A ts_ms further ahead of the clock than this is a dead letter")
    tick_ms: int = Field(20, ge=5, le=1000, description="Silence of a partition after which ingest writes a tick")
    pace_ms: float = Field(
        6.0,
        ge=0,
        le=100,
        description="Under load, time between two reads from the MQTT broker; up to 1.7 × above 20,000/s",
    )
    flush_ms: float = Field(5.0, ge=0, le=100, description="Longest time an output of fusion waits for company")
    pending_bytes: int = Field(64 << 20, ge=1 << 20, description="Appended and unacknowledged bytes a sink may hold")
    bad_per_minute: int = Field(120, ge=1, description="Bad messages of a device a minute before quarantine")
    bytes_per_second: int = Field(
        4_000_000, ge=1024, description="Payload bytes of a device a second before quarantine"
    )

    fusion_partitions: str = Field("all", description="Partitions that this process fuses: all, or 0-3,6")
    fusion_workers: int = Field(
        0, ge=0, le=64, description="Fusion workers of v2x up that share partitions; 0: one alone"
    )
    standby: bool = Field(False, description="A second process of ingest and fusion of v2x up stands by")
    fusion_group: str = Field(
        "v2x-fusion", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Consumer group of the workers"
    )
    fetch_records: int = Field(500, ge=1, le=10_000, description="Most records of one engine step; bounds its time")
    snapshot_s: Seconds = Field(5.0, description="Time between snapshots of a partition")
    confirm_s: Seconds = Field(1.0, description="Time between two confirms to an active device")
    audit_sweep_s: Seconds = Field(30.0, description="A gap is lost after one to two of these (reliable types: ten)")
    accept_other_version: bool = Field(False, description="Go on from an unclean snapshot of another version")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic-settings' signature)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: flags, environment, file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, cls._file))

    @classmethod
    def load(cls, config: Path | str | None = None, **flags: Any) -> Self:
        """Return settings in force; flags that are None count as not given. ConfigError on any mistake."""
        given = {name: value for name, value in flags.items() if value is not None}
        path = _file(config)
        in_file = _read(path)
        in_env = {k[len(PREFIX) :].lower() for k in os.environ if k.upper().startswith(PREFIX)}
        cls._file = path
        try:
            made = cls(**given)
        except ValidationError as e:
            raise refusal(e, lambda name: _origin(name, given, in_env, in_file, path)) from None
        finally:
            cls._file = None
        made._origin.update({name: _origin(name, given, in_env, in_file, path) for name in cls.model_fields})
        return made

    def provenance(self) -> dict[str, tuple[Any, str, str]]:
        """Return for each setting: value (secrets hidden), where it came from, what it is."""
        rows = {}
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            hidden = not info.repr and value
            rows[name] = ("********" if hidden else value, self._origin.get(name, "default"), info.description or "")
        return rows

    def environment(self) -> dict[str, str]:
        """Return V2X_* variables that give a child process these settings, defaults left out."""
        return {
            PREFIX + name.upper(): str(getattr(self, name))
            for name, where in self._origin.items()
            if where != "default" and getattr(self, name) is not None
        }

    def metrics_port(self, service: str, place: int = 0) -> int:
        """Return the port of a service's process number ``place``: 10 apart; 0 stays any free one."""
        first: int = getattr(self, f"{service}_metrics_port")
        return first + 10 * place if first else 0

    def partition_list(self, partitions: int) -> list[int]:
        """Return the partitions named by ``fusion_partitions`` (``all``, ``0-3,6``); ConfigError if that is no list."""
        if self.fusion_partitions == "all":
            return list(range(partitions))
        found: set[int] = set()
        try:
            for part in self.fusion_partitions.split(","):
                low, _, high = part.partition("-")
                first, last = int(low), int(high or low)
                known = 0 <= first <= last < partitions  # looked at before a range of billions is made
                if not known:
                    found = set()
                    break
                found.update(range(first, last + 1))
        except ValueError:
            found = set()
        if not found:
            msg = (
                f"fusion_partitions {self.fusion_partitions!r}: give all, or a list as 0-3,6 within 0-{partitions - 1}"
            )
            raise ConfigError(msg)
        return sorted(found)


def refusal(error: ValidationError, origin: Callable[[str], str]) -> ConfigError:
    """Return the one line that says which setting is wrong; ``origin`` says where a setting comes from."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    return ConfigError(f"setting {name} (from {origin(name)}): {first['msg']}; `v2x config` lists all settings")


def _file(config: Path | str | None) -> Path | None:
    named = config or os.environ.get(PREFIX + "CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            msg = f"configuration file {path} does not exist"
            raise ConfigError(msg)
        return path
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _read(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        data = path.read_bytes()
    except OSError as e:
        msg = f"configuration file {path}: {e}"
        raise ConfigError(msg) from e
    return parse(data, path)


def parse(data: bytes, path: Path) -> Mapping[str, Any]:
    """Return the settings that a file's bytes hold; ConfigError where they are no TOML."""
    try:
        return tomllib.loads(data.decode())  # as it is: read_text() takes a bare CR for an end of line
    except (ValueError, RecursionError) as e:  # numbers of thousands of digits and arrays of arrays of … too
        msg = f"configuration file {path}: {e}"
        raise ConfigError(msg) from e


def _origin(name: str, given: Mapping[str, Any], env: set[str], file: Mapping[str, Any], path: Path | None) -> str:
    if name in given:
        return "flag"
    if name in env:
        return f"environment {PREFIX}{name.upper()}"
    if name in file:
        return f"file {path}"
    return "default"
