"""Suspected incidents: late for everybody, at once, and where nobody looks."""

from __future__ import annotations

import json
import random

import pytest
from tests.unit.events_world import FRAME, T0, World, motorway_nodes, parked
from v2x.events import EventChange
from v2x.events.catalogue import KINDS
from v2x.events.merge import EventBook
from v2x.events.model import Place
from v2x.events.suspicion import Suspicions
from v2x.sections.windows import GRACE_MS, STEP_MS, SectionStats, Signs

KIND = "INCIDENT_SUSPECTED"
RULE = KINDS[KIND]
PLACE = ("G-2", 1000.0, -8.0, 1000.0, 90.0)  # device, middle, half length, course of the section M1 and M2
START = T0 // STEP_MS * STEP_MS


def signs(t: int, quick: float, *, vehicles: int = 12, unseen: float = 1200.0) -> Signs:
    end = START + t * 1000
    return Signs(end - 60_000, end, quick, vehicles, 60.0, unseen, 2000 / quick if quick else -1.0)


def told(quick: dict[int, float], until: int, **over: float) -> list[tuple[int, str, int]]:
    """Return (second, status, level) of what comes of quartiles that hold from a second on."""
    one, book = Suspicions(RULE), EventBook("Z", FRAME, KINDS)
    out = []
    for t in range(0, until, 10):
        now = signs(t, next(v for k, v in sorted(quick.items(), reverse=True) if k <= t), **over)
        one.load(json.loads(json.dumps(one.state())))
        changes = one.take(now.to_ms, book, "A>B", now, "G-2", Place(*PLACE[1:3], radius=1000.0, course=90.0))
        changes += book.tick(now.to_ms)
        out += [(t, c.status, c.level) for c in changes]
    return out


def test_a_suspicion_begins_after_its_dwell_grows_and_ends():
    rows = told({0: 65.0, 600: 90.0, 660: 140.0, 720: 66.0}, 900)
    assert rows == [(610, "ADDED", 1), (660, "MODIFIED", 2), (780, "ENDED", 2)]


RUSH = {k: 65.0 * (1 + k / 6000) for k in range(0, 3600, 10)}  # half as long again within 50 minutes


@pytest.mark.parametrize(
    ("quick", "over"),
    [({0: 65.0, 600: 90.0}, {"unseen": 100.0}), ({0: 65.0, 600: 90.0}, {"vehicles": 4}), ({0: 65.0, 600: 80.0}, {}),
     ({0: 65.0, 600: 90.0, 610: 65.0}, {}), (RUSH, {})],
    ids=["seen", "few", "a little", "one window", "a rush hour"],
)  # fmt: skip
def test_what_is_no_suspicion(quick, over):
    assert told(quick, 3600, **over) == []


def test_an_empty_road_ends_it_and_says_nothing_new():
    rows = told({0: 65.0, 600: 140.0, 700: 0.0}, 1200)
    assert [(status, level) for _, status, level in rows] == [("ADDED", 2), ("ENDED", 2)]


def test_what_we_detect_there_explains_it():
    w = World(motorway_nodes())
    out: list[EventChange] = []

    def each(t: float) -> list[EventChange]:
        if round(t * 10) % 100:
            return []
        now = signs(round(t), 65.0 if t < 30 else 110.0)
        out.extend(w.det.suspect("A>B", now, *PLACE))
        return []

    w.run([parked(1, 500.0, arrives=4.0)], 90.0, each)
    assert [c.kind for c in out] == []
    v = World(motorway_nodes())
    late = [c for t in range(0, 90, 10) for c in v.det.suspect("A>B", signs(t, 65.0 if t < 30 else 110.0), *PLACE)]
    assert [(c.kind, c.status, c.code, c.radius) for c in late] == [(KIND, "ADDED", 0, 10000)]
    assert late[0].sources == [{"device": "G-2", "kind": 3, "ref": "A>B late", "confidence": 100}]


def test_a_congestion_of_the_same_section_is_another_event():
    w = World(motorway_nodes())
    row = {"link": "A>B", "from_ms": START - 60_000, "to_ms": START, "level": 4, "speed": 900}
    w.det.section(row, *PLACE)
    for t in range(-30, 60, 10):
        w.det.suspect("A>B", signs(t, 65.0 if t < 0 else 140.0), *PLACE)
    assert sorted(e.kind for e in w.det.book.open.values()) == ["CONGESTION", KIND]


class Section:
    section, length_m, free_speed_mps = "A>B", 2000.0, 33.3


def road(seed: int, blocked_s: tuple[int, int] | None) -> list[tuple[int, int]]:
    """Return (second, level) of suspicions in an hour of passages, one in twelve with a halt of minutes."""
    rng = random.Random(seed)
    stats, one = SectionStats("Z", [Section]), Suspicions(RULE)
    rows = []
    t = 0.0
    while t < 3600:
        t += rng.expovariate(0.3)
        late = 0.0
        if blocked_s and blocked_s[0] < t < blocked_s[1] + 120:
            late = min(t - blocked_s[0], 120.0, max(0.0, blocked_s[1] + 120 - t))
        travel = 2000.0 / rng.gauss(29.0, 2.5) + late + (rng.uniform(120, 900) if rng.random() < 1 / 12 else 0.0)
        rows.append((t + travel, travel, rng.choice([1, 1, 1, 11, 14])))
    out = []
    rows.sort()
    for end in range(0, 3600, 10):
        while rows and rows[0][0] < end:
            at, travel, kind = rows.pop(0)
            ms = START + int(at * 1000)
            row = {"section": "A>B", "from_ms": ms - round(travel * 1000), "to_ms": ms, "vehicle_type": kind}
            stats.passage({**row, "method": 1})
        stats.advance(START + end * 1000 + GRACE_MS)
        level, _ = one.judge("A>B", stats.signs()["A>B"], explained=False)
        if level:
            out.append((end, level))
    return out


def test_an_incident_is_suspected_within_three_minutes_and_halts_are_not():
    for seed in range(2001, 2007):
        assert road(seed, None) == []
        found = road(seed, (1500, 2400))
        assert found
        assert 1500 < found[0][0] < 1500 + 180 + 70  # who is delayed arrives later
        assert max(level for _, level in found) >= 2
        assert found[-1][0] < 2800
