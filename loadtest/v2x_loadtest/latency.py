"""Latency of every hop, from the *intended* send time: when the simulated link handed the message over.

Open loop: a sender that falls behind makes these figures worse, not better. Kafka's stamps are whole milliseconds,
rounded down, so a figure can be up to 1 ms low. ``age`` counts from the content's own time ``ts_ms``: it holds the
simulated network delay as well, and the device's skew.

* publish_to_kafka: the record's stamp - intended
* publish_to_track: the stamp of the first track frame made at or after the record's position - intended, for the
  messages that feed tracks (BSM, RSM)
* publish_to_event: the stamp of an event's ADDED record - intended time of the message that made it
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x_loadtest.audit.ledger import REPEAT, SCHEMA_OF, Ledger
from v2x_loadtest.audit.log import Log

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
FEEDS_TRACKS: Final = ("bsm", "rsm")
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_SEQ_BITS: Final = 40


def quantiles(values_ms: npt.ArrayLike) -> dict[str, float | int | None]:
    """Return p50 … p999 and max in ms (each a value that occurred, never one in between), and how many there were."""
    values = np.asarray(values_ms, np.float64)
    if not values.size:
        return {**dict.fromkeys(QUANTILES), "max": None, "n": 0}
    found = np.quantile(values, list(QUANTILES.values()), method="inverted_cdf")
    row: dict[str, float | int | None] = {name: round(float(v), 3) for name, v in zip(QUANTILES, found, strict=True)}
    return {**row, "max": round(float(values.max()), 3), "n": int(values.size)}


def first_stamp_at_or_after(group: I64, offset: I64, frame_group: I64, frame_offset: I64, frame_stamp: I64) -> I64:
    """Return for each (group, offset) the earliest stamp of a frame of that group whose offset is not smaller.

    -1 where there is none. Frames may be repeated and in any order.
    """
    out = np.full(group.size, -1, np.int64)
    for number in np.unique(frame_group):
        mine, theirs = np.flatnonzero(group == number), frame_group == number
        order = np.argsort(frame_offset[theirs], kind="stable")
        offsets = frame_offset[theirs][order]
        earliest = np.minimum.accumulate(frame_stamp[theirs][order][::-1])[::-1]
        at = np.searchsorted(offsets, offset[mine])
        found = np.append(earliest, -1)[at]
        out[mine] = found
    return out


@dataclass(slots=True)
class Joined:
    """The first record of each published message, beside what the ledger knows of it; columns are aligned."""

    row: I64  # row in the log's columns
    intended_us: I64
    ledger_row: I64


def join(log: Log, ledger: Ledger) -> Joined:
    """Match records with the ledger by (device, boot, type, seq); of repeated records the first one counts."""
    sent = ledger.sent
    schema_number = np.array([log.schemas[SCHEMA_OF[code]] for code in range(len(SCHEMA_OF))], np.int64)
    device_number = np.array([log.devices[d.id] for d in ledger.devices], np.int64)
    boot_of = np.zeros(len(log.devices), np.int64)
    boot_of[device_number] = [d.boot for d in ledger.devices]
    types = len(log.schemas)
    empty = np.zeros(0, np.int64)
    if not sent.size or not len(log):
        return Joined(empty, empty, empty)

    def key(device: I64, schema: I64, seq: I64) -> I64:
        return ((device * types + schema) << _SEQ_BITS) | seq

    origin = np.flatnonzero((sent["flags"] & REPEAT) == 0)
    origin = origin[sent["seq"][origin] < 1 << _SEQ_BITS]
    theirs = key(
        device_number[sent["device"][origin]],
        schema_number[sent["type"][origin]],
        sent["seq"][origin].astype(np.int64),
    )
    order = np.argsort(theirs, kind="stable")
    theirs, origin = theirs[order], origin[order]

    device, seq = log.column("device"), log.column("seq")
    rows = np.flatnonzero((boot_of[device] == log.column("boot")) & (seq >= 0) & (seq < 1 << _SEQ_BITS))
    ours = key(device[rows], log.column("schema")[rows], seq[rows])
    first = np.lexsort((log.column("offset")[rows], log.column("stamp_ms")[rows], ours))
    ours, rows = ours[first], rows[first]
    keep = np.append(True, np.diff(ours) != 0) if ours.size else np.zeros(0, bool)
    ours, rows = ours[keep], rows[keep]
    at = np.searchsorted(theirs, ours)
    hit = (at < theirs.size) & (theirs[np.minimum(at, theirs.size - 1)] == ours) if theirs.size else np.zeros(0, bool)
    matched = origin[at[hit]]
    return Joined(rows[hit], sent["intended_us"][matched].astype(np.int64), matched)


@dataclass(slots=True)
class Latency:
    """All figures in ms, as ``quantiles`` gives them."""

    hops: dict[str, dict[str, Any]] = field(default_factory=dict)  # the three of the contract, and those between
    age: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_type: dict[str, dict[str, Any]] = field(default_factory=dict)  # publish_to_kafka
    events: dict[str, float] = field(default_factory=dict)  # event id -> publish_to_event
    untracked: int = 0  # messages that feed tracks but no frame came after
    untraced: int = 0  # events whose trigger is in nobody's ledger, or was a tick


def measure(log: Log, ledger: Ledger) -> Latency:
    """Return the latency of every hop."""
    out = Latency()
    both = join(log, ledger)
    stamp_us = log.column("stamp_ms")[both.row] * 1000
    ts_us, rx_us = log.column("ts_ms")[both.row] * 1000, log.column("rx_us")[both.row]
    kafka = (stamp_us - both.intended_us) / 1000
    received = rx_us > 0
    out.hops["publish_to_kafka"] = quantiles(kafka)
    out.hops["publish_to_ingest"] = quantiles((rx_us - both.intended_us)[received] / 1000)
    out.hops["ingest_to_kafka"] = quantiles((stamp_us - rx_us)[received] / 1000)
    out.age["kafka"] = quantiles((stamp_us - ts_us) / 1000)
    schemas, schema = log.schemas.list(), log.column("schema")[both.row]
    for number in np.unique(schema):
        out.by_type[schemas[number]] = quantiles(kafka[schema == number])
    _tracks(out, log, both)
    _events(out, log, ledger, both)
    return out


def track_stamps(log: Log, both: Joined) -> tuple[npt.NDArray[np.bool_], I64]:
    """Return which rows of ``both`` feed tracks, and for those the stamp (ms) of the first frame after them, or -1."""
    schemas = log.schemas.list()
    feeds = np.isin(log.column("schema")[both.row], [schemas.index(n) for n in FEEDS_TRACKS if n in schemas])
    rows = both.row[feeds]
    group, frame_group = _groups(log, rows)
    return feeds, first_stamp_at_or_after(
        group,
        log.column("offset")[rows],
        frame_group,
        log.frames.column("offset"),
        log.frames.column("stamp_ms"),
    )


def _tracks(out: Latency, log: Log, both: Joined) -> None:
    feeds, stamps = track_stamps(log, both)
    rows, fed = both.row[feeds], stamps >= 0
    out.untracked = int((~fed).sum())
    track_us = stamps[fed] * 1000
    out.hops["publish_to_track"] = quantiles((track_us - both.intended_us[feeds][fed]) / 1000)
    out.hops["kafka_to_track"] = quantiles(stamps[fed] - log.column("stamp_ms")[rows][fed])
    out.age["track"] = quantiles(stamps[fed] - log.column("ts_ms")[rows][fed])


def _groups(log: Log, rows: I64) -> tuple[I64, I64]:
    """Give records and frames a number by (partition, zone) if all keys name zones, else by partition alone."""
    zones = log.frames.zones.list()
    keys = log.keys.list()
    number = {zone: i + 1 for i, zone in enumerate(zones)}
    of_key = np.array([number.get(key, 0) for key in keys] or [0], np.int64)
    zone = of_key[log.column("key")[rows]]
    frame_zone = log.frames.column("zone") + 1
    if not zone.all():  # keys are not zones: any frame of the partition will do
        zone, frame_zone = np.zeros_like(zone), np.zeros_like(frame_zone)
    base = len(zones) + 1
    frame_group = log.frames.column("partition") * base + frame_zone
    return log.column("partition")[rows] * base + zone, frame_group


def _events(out: Latency, log: Log, ledger: Ledger, both: Joined) -> None:
    """Find the message that made each event: by the trigger's own fields, else by the input position."""
    intended = _by_device_and_time(ledger)
    topics = log.topics.list()
    at = {
        (topics[int(t)], int(p), int(o)): int(us)
        for t, p, o, us in zip(
            log.column("topic")[both.row],
            log.column("partition")[both.row],
            log.column("offset")[both.row],
            both.intended_us,
            strict=True,
        )
    }
    values, ages = [], []
    for event in log.events:
        value = event.value
        if value["status"] != "ADDED" or value["event_id"] in out.events:
            continue
        us = intended.get((value["trigger_device"], value["trigger_ts_ms"])) if value["trigger_device"] else None
        if us is None:
            us = at.get(("v2x.observations", value["partition"], value["offset"]))
        if us is None:
            out.untraced += 1
            continue
        out.events[value["event_id"]] = round(event.stamp_ms - us / 1000, 3)
        values.append(event.stamp_ms - us / 1000)
        if value["trigger_ts_ms"]:
            ages.append(event.stamp_ms - value["trigger_ts_ms"])
    out.hops["publish_to_event"] = quantiles(values)
    out.age["event"] = quantiles(ages)


def _by_device_and_time(ledger: Ledger) -> dict[tuple[str, int], int]:
    """Return when (device, ts_ms) was meant to be sent; of several messages with one time the first."""
    sent = ledger.sent[(ledger.sent["flags"] & REPEAT) == 0]
    order = np.argsort(-sent["intended_us"], kind="stable")  # the earliest is written last and stays
    names = [d.id for d in ledger.devices]
    columns = (sent[name][order].tolist() for name in ("device", "ts_ms", "intended_us"))
    return {(names[device], ts_ms): us for device, ts_ms, us in zip(*columns, strict=True)}
