"""From what the rules found to the scene's list of events: names, places, what is planted, what explains what."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x_loadtest.record import queues
from v2x_loadtest.record.lanes import VEHICLE, LaneMap
from v2x_loadtest.record.rules import Found, World, scan
from v2x_loadtest.record.tracks import Track
from v2x_loadtest.record.traffic import Traffic
from v2x_loadtest.scene.model import STEP_S, Device, TruthEvent

_BEHIND, _AHEAD, _AFTER = 250.0, 200.0, 25.0  # m behind a tail, m past a head, s after: all that a queue explains
_QUEUE_KINDS: Final = ("STOPPED_VEHICLE", "SLOW_VEHICLE", "HARD_BRAKING")
_SAME_S: Final = 12.0


def events(
    prefix: str, lanes: LaneMap, tracks: list[Track], steps: int, planted: list[tuple[str, str]], rsus: list[Device]
) -> list[TruthEvent]:
    """Return the events of a recording in order of start; ``planted`` is (kind, id of the vehicle)."""
    traffic = Traffic(tracks, lanes)
    world = World(lanes, traffic)
    jams = queues.find(traffic, steps)
    found = [f for f in scan(world, tracks) if not _in_queue(f, jams, lanes)]
    _explain(found, planted)
    rows = [(f.track.step[f.a] * STEP_S, _event(f, lanes, (f.kind, f.track.id) in planted, rsus, steps)) for f in found]
    caused: set[str] = set()  # the first queue on a link whose lanes were closed is planted, a later one is natural
    for q in sorted(jams, key=lambda q: q.start):
        name = lanes.links[q.link].name
        rows.append((q.start * STEP_S, _jam(q, lanes, ("CONGESTION", name) in planted and name not in caused, rsus)))
        caused.add(name)
    rows.sort(key=lambda r: (r[0], r[1].kind, r[1].vehicles))
    return [
        TruthEvent(
            f"{prefix}-{i + 1:02d}", e.kind, e.code, e.lat, e.lon, e.start_s, e.end_s, e.dwell_s, e.link, e.lane,
            e.vehicles, e.observable, e.details,
        )
        for i, (_, e) in enumerate(rows)
    ]  # fmt: skip


def _distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    north = (a[0] - b[0]) * 111_195.0
    east = (a[1] - b[1]) * 111_195.0 * float(np.cos(np.radians(a[0])))
    return float(np.hypot(north, east))


def _seen(lat: float, lon: float, rsus: list[Device]) -> bool:
    return any(_distance((lat, lon), (d.lat, d.lon)) <= d.range_m for d in rsus)


def _in_queue(f: Found, jams: list[queues.Queue], lanes: LaneMap) -> bool:
    """Tell whether a queue explains it; marks it optional where the queue was not yet, or no longer, congestion."""
    if f.kind not in _QUEUE_KINDS:
        return False
    row = f.a
    step, link, along = int(f.track.step[row]), int(f.track.link[row]), float(f.track.along[row])
    for q in jams:
        last = q.end if q.end is not None else 1 << 30
        if not q.forming - 100 <= step <= last + _AFTER / STEP_S:
            continue
        length = max(x.length for x in lanes.links[q.link].lanes)
        rel = along  # position on the queue's link; neighbours of that link count with its length
        if link != q.link:
            if link >= 0 and lanes.links[link].up == lanes.links[q.link].down:
                rel = along + length
            elif link >= 0 and lanes.links[link].down == lanes.links[q.link].up:
                rel = along - max(x.length for x in lanes.links[link].lanes)
            else:
                continue
        if q.lowest - _BEHIND <= rel <= q.head[1] + _AHEAD:
            if q.start <= step <= last and f.kind != "HARD_BRAKING":
                return True
            f.optional = "queue: part of one that forms, moves on or is run up to"
    return False


def _explain(found: list[Found], planted: list[tuple[str, str]]) -> None:
    """Mark what another event of the same vehicle says better."""
    for f in found:
        mine = [g for g in found if g.track is f.track and g is not f]
        if f.kind == "STOPPED_VEHICLE" and any(g.kind == "BREAKDOWN" and g.a <= f.b and f.a <= g.b for g in mine):
            f.optional = "same vehicle: is a BREAKDOWN"
        if f.kind == "EMERGENCY_LANE" and any(g.kind in {"WRONG_WAY", "BREAKDOWN"} for g in mine):
            f.optional = "same vehicle: " + next(g.kind for g in mine if g.kind in {"WRONG_WAY", "BREAKDOWN"})
        if (f.kind, f.track.id) in planted or f.optional:
            continue
        for g in mine:
            close = (max(f.a, g.a) - min(f.b, g.b)) * STEP_S <= _SAME_S
            if close and (g.kind, g.track.id) in planted:
                f.optional = f"same vehicle: before or after its {g.kind}"


def _event(f: Found, lanes: LaneMap, planted: bool, rsus: list[Device], steps: int) -> TruthEvent:
    t = f.track
    lat, lon = lanes.grid.point(float(t.x[f.a]), float(t.y[f.a]))
    end_lat, end_lon = lanes.grid.point(float(t.x[f.b - 1]), float(t.y[f.b - 1]))
    link, lane = int(t.link[f.a]), int(t.lane[f.a])
    details: dict[str, Any] = {
        "planted": planted,
        "end_lat": round(end_lat, 7),
        "end_lon": round(end_lon, 7),
        "speed_min": round(float(t.speed[f.a : f.b].min()), 2),
        "speed_max": round(float(t.speed[f.a : f.b].max()), 2),
    }
    if f.kind == "HARD_BRAKING":
        details["decel_max"] = round(-float(t.accel[f.a : f.b].min()), 2)
    if t.id.startswith("@"):
        details["scripted"] = "moves on a line of its own, SUMO's vehicles do not know it"
    if f.optional:
        details["optional"] = f.optional
    ended = f.b < len(t.step)
    gone = int(t.step[-1]) < steps - 1
    return TruthEvent(
        "", f.kind, f.code, round(lat, 7), round(lon, 7), round(float(t.step[f.a]) * STEP_S, 1),
        round(float(t.step[f.b - 1] + 1) * STEP_S, 1) if ended or gone else None,
        f.dwell_s, lanes.links[link].name if link >= 0 else "", lane, [t.number], _seen(lat, lon, rsus), details,
    )  # fmt: skip


def _jam(q: queues.Queue, lanes: LaneMap, planted: bool, rsus: list[Device]) -> TruthEvent:
    lane = lanes.lane(q.link, q.head[0])
    assert lane is not None
    lat, lon = lanes.grid.point(*lane.at(q.head[1]))
    closed = [x.lane_id for x in lanes.links[q.link].lanes if x.type == VEHICLE and x.lane_id in q.lanes]
    details: dict[str, Any] = {
        "planted": planted,
        "forming_s": round(q.forming * STEP_S, 1),
        "ten_s": None if q.many is None else round(q.many * STEP_S, 1),
        "lanes": {str(k): round(s * STEP_S, 1) for k, s in sorted(q.lanes.items()) if k in closed},
        "queue_max_m": max(s["queue_m"] for s in q.seconds),
        "seconds": q.seconds,
    }
    return TruthEvent(
        "", "CONGESTION", 707, round(lat, 7), round(lon, 7), round(q.start * STEP_S, 1),
        None if q.end is None else round(q.end * STEP_S, 1), queues.DWELL_S, lanes.links[q.link].name, q.head[0],
        q.vehicles, _seen(lat, lon, rsus), details,
    )  # fmt: skip
