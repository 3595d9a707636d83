"""Logs that were kept: the messages of a case in a file, and the topics of a Kafka as they are."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from v2x.columns import Record
from v2x.errors import BrokerError, ConfigError
from v2x.topics import GANTRY, HEADER_COPY, OBSERVATIONS
from v2x.zones import ZoneMap

from v2x_codecs.registry import Registry
from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import topic_partitions
from v2x_loadtest.scene import load_scene
from v2x_loadtest.score.cases import Case, make_case, scene_reach
from v2x_loadtest.score.play import LOG_MS, Message
from v2x_loadtest.score.truth import Truth
from v2x_services.settings import Settings

_FORMAT: Final = 1
_TOPICS: Final = (OBSERVATIONS, GANTRY)


def save(case: Case, path: Path, seconds: float | None) -> None:
    """Keep a case's messages in a file; ConfigError if that cannot be done."""
    m = case.messages
    zones = sorted({z for x in m for z in x.zones})
    head = {"format": _FORMAT, "scene": case.scene, "variant": case.variant, "seed": case.seed, "seconds": seconds,
            "zones": zones}  # fmt: skip
    arrays = {
        "head": np.frombuffer(json.dumps(head).encode(), np.uint8),
        "at_ms": np.array([x.at_ms for x in m]),
        "topic": np.array([_TOPICS.index(x.topic) for x in m], np.uint8),
        "zones": np.array([sum(1 << zones.index(z) for z in x.zones) for x in m], np.int64),
        "owner": np.array([zones.index(x.zones[0]) if x.zones else -1 for x in m], np.int64),
        **_strings("key", [x.key for x in m]),
        **_strings("value", [x.value for x in m]),
    }
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def load(path: Path) -> Case:
    """Return the case of a file that ``save`` wrote; ConfigError if it is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        head = json.loads(found["head"].tobytes())
        if head["format"] != _FORMAT:
            raise ConfigError(f"{path} has format {head['format']}, this version reads {_FORMAT}")
        names = head["zones"]
        messages = [
            Message(at, _TOPICS[topic], key, value, _names(names, mask, owner))
            for at, topic, key, value, mask, owner in zip(
                found["at_ms"].tolist(), found["topic"].tolist(), _parts(found, "key"), _parts(found, "value"),
                found["zones"].tolist(), found["owner"].tolist(), strict=True,
            )
        ]  # fmt: skip
    except OSError as error:
        raise ConfigError(f"--log {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise ConfigError(f"--log {path} is no log that --save-log wrote: {error}") from error
    case = make_case(head["scene"], head["variant"], head["seed"], head["seconds"])
    return replace(case, messages=messages)


def _names(names: Sequence[str], mask: int, owner: int) -> tuple[str, ...]:
    if owner < 0:
        return ()
    return (names[owner], *(z for k, z in enumerate(names) if mask >> k & 1 and k != owner))


def _strings(name: str, values: Sequence[bytes]) -> dict[str, Any]:
    return {
        name: np.frombuffer(b"".join(values), np.uint8),
        f"{name}_size": np.array([len(v) for v in values], np.int64),
    }


def _parts(found: dict[str, Any], name: str) -> list[bytes]:
    blob, ends = found[name].tobytes(), np.cumsum(found[f"{name}_size"])
    return [blob[b - n : b] for b, n in zip(ends.tolist(), found[f"{name}_size"].tolist(), strict=True)]


def from_kafka(bootstrap: str | None, folder: Path | None) -> Case:
    """Return what the topics hold, to be replayed as it lies there; the ledger says which scene it is.

    ConfigError without a ledger, BrokerError if Kafka cannot be read.
    """
    if folder is None:
        raise ConfigError("--log kafka needs --ledger: the folder that `v2x simulate --ledger` wrote")
    ledger = Ledger.load(folder)
    scene = load_scene(ledger.scene)
    logs = asyncio.run(_read(Settings.load(kafka_bootstrap=bootstrap).kafka_bootstrap))
    window = ledger.window_s()
    truth = Truth(scene)
    wanted = {Registry.load().get(name).id for name in ("rsm", "bsm")}
    zones = ZoneMap.parse(scene.zones)
    messages = [
        Message(r.stamp_ms - LOG_MS, OBSERVATIONS, r.key or b"", r.value, zones.zones)
        for log in logs.values()
        for r in log
        if int.from_bytes(r.value[1:5], "big") in wanted and all(name != HEADER_COPY for name, _ in r.headers)
    ]
    messages.sort(key=lambda m: m.at_ms)
    end = min(window[1], scene.duration_s)
    return Case(
        ledger.scene, "as logged", ledger.seed, zones, truth.frame, messages, (window[0], end), 0.5, ledger, truth.at,
        scene_reach(scene, truth), truth, judge_events=True, logs=logs,
    )  # fmt: skip


async def _read(bootstrap: str) -> dict[int, list[Record]]:
    """Return the records of v2x.observations by partition."""
    out: dict[int, list[Record]] = {}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="none",
        max_partition_fetch_bytes=8 << 20, fetch_max_bytes=64 << 20,
    )  # fmt: skip
    try:
        await consumer.start()
        for number in (await topic_partitions(bootstrap, [OBSERVATIONS]))[OBSERVATIONS]:
            tp = TopicPartition(OBSERVATIONS, number)
            consumer.assign([tp])
            end = (await consumer.end_offsets([tp]))[tp]
            consumer.seek(tp, (await consumer.beginning_offsets([tp]))[tp])
            rows = out[number] = []
            while await consumer.position(tp) < end:
                for records in (await consumer.getmany(timeout_ms=500, max_records=20_000)).values():
                    rows += [Record(r.offset, r.timestamp, r.key, r.value or b"", tuple(r.headers)) for r in records]
    except KafkaError as error:
        raise BrokerError(f"Kafka at {bootstrap} could not be read: {error!r}") from error
    finally:
        await consumer.stop()
    return out
