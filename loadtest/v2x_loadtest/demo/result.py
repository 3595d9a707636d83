"""The demo's result for machines: the keys that were promised, and what stands behind them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Final

from v2x_loadtest.audit.log import Log
from v2x_loadtest.audit.verdict import Verdict
from v2x_loadtest.latency import Latency
from v2x_loadtest.score import Score
from v2x_loadtest.score.events import told_events

_E7: Final = 1e-7


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "system": platform.platform(), "python": platform.python_version()}


def events(log: Log, latency: Latency) -> list[dict[str, Any]]:
    """Return every event as its last revision has it."""
    last: dict[str, dict[str, Any]] = {}
    for record in log.events:
        value = record.value
        known = last.get(value["event_id"])
        if known is None or value["revision"] > known["revision"]:
            last[value["event_id"]] = value
    out = []
    for told in told_events(log.events):
        value, first = last[told.id], told.first
        out.append(
            {
                "id": told.id,
                "code": value["code"],
                "status": value["status"],
                "start_ms": value["start_ms"],
                "detected_ms": value["detected_ms"],
                "lat": round(value["lat"] * _E7, 7),
                "lon": round(value["lon"] * _E7, 7),
                "kind": value["kind"],
                "level": value["level"],
                "link": value["link"],
                "lane": value["lane"],
                "revision": value["revision"],
                "end_ms": value["end_ms"] or None,
                "published_ms": first.stamp_ms,
                "latency_ms": latency.events.get(told.id),
                "queue_m": None if value["queue"] == 65535 else value["queue"],
                "sources": [{"device": s["device"], "kind": s["kind"]} for s in value["sources"]],
            }
        )
    return out


def result(log: Log, verdict: Verdict, latency: Latency, score: Score) -> dict[str, Any]:
    """Return the whole result; the keys of the audit, then events, latency and score."""
    audit = verdict.to_dict()
    first = ("published", "acknowledged", "observations", "duplicates_in_log", "deadletter", "fused", "lost")
    return {
        **{name: audit.pop(name) for name in first},
        "tracks": score.tracks.tracks,
        "events": events(log, latency),
        "latency_ms": latency.hops,
        "score": score.to_dict(),
        "age_ms": latency.age,
        "latency_by_type_ms": latency.by_type,
        "latency_resolution_ms": 1,
        "untracked": latency.untracked,
        "events_untraced": latency.untraced,
        "audit": audit,
        "machine": machine(),
    }
