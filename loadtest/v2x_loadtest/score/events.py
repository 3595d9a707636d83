"""Traffic events against truth: which were found, which missed, which invented, and how late.

A told event and a true one match by kind, place and time. Place: within 50 m of where the truth says, or of where its
vehicles are at that moment; a congestion within 50 m of its queue. Time: it began with the truth, and was found while
the truth lasted or shortly after. One to one, the best pairs first (assignment). Then what is not one to one:

* Kinds of one group are stages of one incident (stopped, then broken down): the higher rank, told at the right place
  and time, covers the lower; a stage told on the way to a true higher one is not invented.
* A second event for a truth that already has one is *repeated*, and counts against precision.
* A true event that sensors cannot see, of which the window holds too little, or which the scene calls optional (it is
  at its rule's limits, or another event says it better) is *apart*: neither its finding nor its absence counts.
* What only others reported (RSI, pole) of a kind the scene has no truth of is *reported*: fusion did not invent it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy.optimize import linear_sum_assignment
from v2x.events.catalogue import KINDS

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Stamped
from v2x_loadtest.scene import TruthEvent
from v2x_loadtest.score.truth import Truth

PLACE_M: Final = 50.0
EARLY_S: Final = 2.0  # a told start may be this much before the truth's (filters smooth, clocks differ)
LATE_S: Final = 6.0  # found at most this long after truth's end and dwell
HOLD_S: Final = 1.0  # beyond the dwell that the window must hold: a track's birth and the way through
_REPORTS: Final = frozenset((1, 4))  # source kinds: RSI, pole
_FAR: Final = 1e6


@dataclass(slots=True)
class Told:
    """One event id as readers see it: its first record, and the first record of each kind it ever had."""

    id: str
    first: Stamped
    kinds: dict[str, Stamped] = field(default_factory=dict)
    status: str = ""

    def brief(self, ledger: Ledger) -> dict[str, Any]:
        """Return what a person needs to find it."""
        value = self.first.value
        return {
            "id": self.id,
            "kinds": list(self.kinds),
            "start_s": round(ledger.scene_s(value["start_ms"]), 2),
            "detected_s": round(ledger.scene_s(value["detected_ms"]), 2),
            "lat": value["lat"] * 1e-7,
            "lon": value["lon"] * 1e-7,
            "link": value["link"],
            "lane": value["lane"],
        }


@dataclass(slots=True)
class Match:
    """A true event and the told one that stands for it."""

    truth: TruthEvent
    told: Told
    kind: str  # under which it was told
    distance_m: float
    delay_s: float  # told (in Kafka) after start + dwell


@dataclass(slots=True)
class EventScore:
    """The verdict; lists hold the names."""

    matches: list[Match] = field(default_factory=list)
    missed: list[TruthEvent] = field(default_factory=list)
    invented: list[Told] = field(default_factory=list)
    repeated: list[tuple[Told, TruthEvent]] = field(default_factory=list)
    apart: list[tuple[TruthEvent, str, bool]] = field(default_factory=list)  # why, and whether it was told all the same
    stages: list[tuple[Told, TruthEvent]] = field(
        default_factory=list
    )  # of a higher true incident, or of what is apart
    reported: list[Told] = field(default_factory=list)

    @property
    def precision(self) -> float | None:
        """Told events that are true and told once, of all that are judged."""
        right = len({match.told.id for match in self.matches})
        wrong = len(self.invented) + len(self.repeated)
        return right / (right + wrong) if right + wrong else None

    @property
    def recall(self) -> float | None:
        """True events that were told, of those that could be."""
        every = len(self.matches) + len(self.missed)
        return len(self.matches) / every if every else None

    @property
    def delay_p50_s(self) -> float | None:
        """Median delay after the rule's dwell time."""
        return float(np.median([match.delay_s for match in self.matches])) if self.matches else None


def told_events(records: Iterable[Stamped]) -> list[Told]:
    """Return the events in ``records``, each (id, revision) once, in the order they came."""
    seen: set[tuple[str, int]] = set()
    out: dict[str, Told] = {}
    for record in sorted(records, key=lambda r: r.stamp_ms):  # an event may go on in another partition
        value = record.value
        if (value["event_id"], value["revision"]) in seen:
            continue
        seen.add((value["event_id"], value["revision"]))
        told = out.setdefault(value["event_id"], Told(value["event_id"], record))
        told.kinds.setdefault(value["kind"], record)
        told.status = value["status"]
    return list(out.values())


def score_events(records: Sequence[Stamped], truth: Truth, ledger: Ledger, window_s: tuple[float, float]) -> EventScore:
    """Match all told events with the scene's truth over the published window (scene seconds)."""
    told = told_events(records)
    true = [event for event in truth.scene.events if _touches(event, window_s)]
    rows = [(t, kind) for t in told for kind in t.kinds]
    gap = np.full((len(true), len(rows)), _FAR)
    cost = np.full_like(gap, _FAR)
    for i, event in enumerate(true):
        for j, (t, kind) in enumerate(rows):
            if _stage(kind, event.kind):
                gap[i, j] = _distance(event, t.kinds[kind], truth, ledger, window_s)
                if gap[i, j] <= PLACE_M and kind == event.kind:
                    late = abs(ledger.scene_s(t.kinds[kind].value["start_ms"]) - max(event.start_s, window_s[0]))
                    cost[i, j] = gap[i, j] / PLACE_M + min(late, 60.0) / 30.0
    pairs = (
        {int(i): int(j) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < _FAR}
        if cost.size
        else {}
    )
    out = EventScore()
    used = _judge_truth(out, true, rows, gap, pairs, ledger, window_s)
    _judge_told(out, [t for t in told if t.id not in used], true, rows, gap)
    return out


def _judge_truth(
    out: EventScore,
    true: list[TruthEvent],
    rows: list[tuple[Told, str]],
    gap: np.ndarray[Any, np.dtype[np.float64]],
    pairs: dict[int, int],
    ledger: Ledger,
    window_s: tuple[float, float],
) -> set[str]:
    """Give each true event its verdict; return the ids of told events that stand for one."""
    used: set[str] = set()
    for i, event in enumerate(true):
        j = pairs.get(i)
        if j is None:  # a higher stage of the same incident covers it
            higher = [j for j, (_, kind) in enumerate(rows) if gap[i, j] <= PLACE_M and _covers(kind, event.kind)]
            j = min(higher, key=lambda j: float(gap[i, j]), default=None)
        if j is not None:
            used.add(rows[j][0].id)
        why = _why_apart(event, window_s)
        if why:
            out.apart.append((event, why, j is not None))
        elif j is None:
            out.missed.append(event)
        else:
            told, kind = rows[j]
            due_ms = ledger.wall_ms(max(event.start_s, window_s[0]) + event.dwell_s)
            delay = (told.kinds[kind].stamp_ms - due_ms) * 1e-3
            out.matches.append(Match(event, told, kind, float(gap[i, j]), delay))
    return used


def _judge_told(
    out: EventScore,
    left: list[Told],
    true: list[TruthEvent],
    rows: list[tuple[Told, str]],
    gap: np.ndarray[Any, np.dtype[np.float64]],
) -> None:
    """Give each told event that stands for no truth its verdict."""
    kinds = {event.kind for event in true}
    found, apart = {match.truth.id for match in out.matches}, {event.id for event, _, _ in out.apart}
    for t in left:
        mine = [j for j, (other, _) in enumerate(rows) if other is t]
        near = [
            (true[i].id in apart, rows[j][1] != true[i].kind, float(gap[i, j]), i)
            for i in range(len(true))
            for j in mine
            if gap[i, j] <= PLACE_M
        ]
        if near:  # what must be told before what is apart, the same kind before another stage, then the nearest
            is_apart, other_stage, _, i = min(near)
            if is_apart or (other_stage and true[i].id not in found):
                out.stages.append((t, true[i]))
            else:
                out.repeated.append((t, true[i]))
        elif not kinds & set(t.kinds) and all(s["kind"] in _REPORTS for s in t.first.value["sources"]):
            out.reported.append(t)
        else:
            out.invented.append(t)


def _stage(told: str, true: str) -> bool:
    """Return whether the kinds are one, or stages of one incident."""
    return told == true or (told in KINDS and true in KINDS and KINDS[told].group == KINDS[true].group)


def _covers(told: str, true: str) -> bool:
    return told != true and _stage(told, true) and KINDS[told].rank > KINDS[true].rank


def _touches(event: TruthEvent, window_s: tuple[float, float]) -> bool:
    return event.start_s <= window_s[1] and (event.end_s is None or event.end_s >= window_s[0])


def _why_apart(event: TruthEvent, window_s: tuple[float, float]) -> str:
    """Return why a true event cannot be judged; empty if it can."""
    if not event.observable:
        return "no sensor can see it"
    if event.details.get("optional"):
        return f"optional: {event.details['optional']}"
    start, end = max(event.start_s, window_s[0]), window_s[1]
    if start > event.start_s and event.end_s is not None:
        end = min(end, event.end_s)
    if end - start < event.dwell_s + HOLD_S:
        return f"the window holds {max(end - start, 0):.1f} s of it, its rule needs {event.dwell_s:.1f} s"
    return ""


def _distance(event: TruthEvent, record: Stamped, truth: Truth, ledger: Ledger, window_s: tuple[float, float]) -> float:
    """Return how far (m) the told place is from the true one, or a huge number if the times do not fit."""
    value = record.value
    start, found = ledger.scene_s(value["start_ms"]), ledger.scene_s(value["updated_ms"] or value["detected_ms"])
    end = float("inf") if event.end_s is None else event.end_s
    begin = max(event.start_s, window_s[0])
    if not (begin - EARLY_S <= start <= end + EARLY_S and begin - EARLY_S <= found <= end + event.dwell_s + LATE_S):
        return _FAR
    here = _local(truth, value["lat"] * 1e-7, value["lon"] * 1e-7)
    places = [_local(truth, event.lat, event.lon), *_extent(event, found, truth)]
    places += [p for p in (truth.place(v, t) for v in event.vehicles for t in (found, start)) if p is not None]
    if event.kind == "CONGESTION":
        return _to_line(here, places)
    return max(min(_gap(here, p) for p in places) - float(event.details.get("reach_m", 0.0)), 0.0)


def _local(truth: Truth, lat: float, lon: float) -> tuple[float, float]:
    east, north = truth.frame.to_local(lat, lon)
    return float(east), float(north)


def _gap(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _extent(event: TruthEvent, t_s: float, truth: Truth) -> list[tuple[float, float]]:
    """Return the tail of a congestion's queue at ``t_s``, from the truth's account of every second."""
    rows = event.details.get("seconds") or []
    if event.kind != "CONGESTION" or not rows:
        return []
    row = min(rows, key=lambda r: abs(r["t"] - t_s))
    return [_local(truth, row["tail_lat"], row["tail_lon"])]


def _to_line(here: tuple[float, float], places: list[tuple[float, float]]) -> float:
    """Return the distance from a point to the segments between any two of ``places``: a queue is nearly straight."""
    best = min(_gap(here, p) for p in places)
    for i, a in enumerate(places):
        for b in places[i + 1 :]:
            length = _gap(a, b)
            if length > 0:
                part = ((here[0] - a[0]) * (b[0] - a[0]) + (here[1] - a[1]) * (b[1] - a[1])) / length**2
                part = min(max(part, 0.0), 1.0)
                best = min(best, _gap(here, (a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1]))))
    return best
