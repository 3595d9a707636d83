"""Congestion: queues as chains of slow vehicles, followed from step to step.

A slow vehicle whose leader (also over the end of its link) is slow and near belongs to its leader's chain; the reach
of 'near' makes a chain as dense as the rule asks for, whatever the length of the link. Chains of five or more that
lie side by side are one jam, whatever number of lanes and links it covers; its head is the front of its longest
chain, its tail the end of it. A jam keeps its identity while its place overlaps that of the step before; two jams
that meet become the older one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.events.catalogue import Rule
from v2x.events.chains import Chain, Finder, Flags, widen
from v2x.fusion.layout import BEYOND
from v2x.fusion.view import TrackView
from v2x.geo import F64
from v2x.road import Road

I64 = npt.NDArray[np.int64]

NEAR_M: Final = 100.0  # jams (and chains side by side) nearer than this along a link are one
SPEED_TAU_MS: Final = 700.0  # the mean speed is smoothed, to the age of what it is made of: beyond, a band is calmer
GROWTH_KNOWN: Final = 0.3  # share of the growth's mean that must be of now, or noise would be told
MAX_STEP_MS: Final = 250
PAST_MS: Final = 25_000  # a jam that dissolved explains slow vehicles for this long


@dataclass(slots=True)
class LaneJam:
    """A congestion's part on one lane."""

    speed: float  # m/s, smoothed mean of the slow ones
    level: int
    count: int
    queue: float  # m on this lane
    tail: tuple[float, float]  # east, north


@dataclass(slots=True)
class Jam:
    """A congestion, candidate or real."""

    number: int  # counts within the zone
    spans: dict[int, list[float]]  # link -> [from, to] m along
    since: int  # ms: when it began
    held: int = 0
    off: int = 0  # ms: since when it is not seen; 0 seen
    event_id: str = ""  # empty: not (yet) an event
    speed: float = 0.0  # m/s, smoothed mean
    level: int = 0
    count: int = 0
    queue: float = 0.0  # m
    head: tuple[float, float] = (0.0, 0.0)  # east, north
    tail: tuple[float, float] = (0.0, 0.0)
    head_lane: int = -1
    tail_link: int = -1
    tracks: list[int] = field(default_factory=list)
    ours: bool = True  # its head is a track that we tell; found anew at each step
    lanes: dict[int, LaneJam] = field(default_factory=dict)  # by lane index
    mean_queue: float = 0.0  # m, exponential mean
    young: float = 1.0  # weight of the first queue in that mean
    growth: float | None = None  # m/s; None: not known yet


@dataclass(slots=True)
class Covers:
    """By lane: the jam on its link."""

    since: I64  # ms; 0: none (any more)
    low: F64  # m along: its tail
    high: F64  # m along: its head; below ``low``: none


@dataclass(frozen=True, slots=True)
class JamChange:
    """What a step found: ``started``, ``ended`` or neither (it goes on)."""

    jam: Jam
    started: bool
    ended: bool
    into: Jam | None = None  # ended, because it met this one


class Congestion:
    """All jams of a zone."""

    def __init__(self, rule: Rule) -> None:
        """Begin without a jam."""
        self.rule = rule
        self._least = int(rule.limit("vehicles"))
        self.jams: list[Jam] = []
        self.count = 0
        self.now = 0
        self._past: list[tuple[int, dict[int, list[float]]]] = []  # (end ms, where) of jams that dissolved
        self._finder = Finder()
        self._hot: Flags = np.zeros(0, dtype=np.bool_)  # by link; scratch, as what follows
        self._covers = Covers(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
        self._covered = False  # ``_covers`` is not as new

    def advance(self, now: int, view: TrackView, road: Road, lead: I64, gap: F64, slow: int) -> list[JamChange]:
        """Take one frame with each row's leader, and how many are slow enough for a jam.

        Return the jams that began, go on or ended.
        """
        dt = min(max(now - self.now, 0), MAX_STEP_MS) if self.now else 0
        self.now = max(now, self.now)
        if slow < self._least and not self.jams and not self._past:
            return []
        groups = self._groups(self._find(view, road, lead, gap), road)
        return self._follow(groups, dt, view, road)

    def covers(self, road: Road) -> Covers:
        """Return by lane where a jam is, also one still in its dwell time, or one that has just dissolved.

        It is good until the next call.
        """
        count, out = len(road.lanes), self._covers
        if len(out.since) != count:
            out = self._covers = Covers(np.zeros(count, dtype=np.int64), np.zeros(count), np.full(count, -1.0))
        elif self._covered:
            out.since[:], out.low[:], out.high[:] = 0, 0.0, -1.0
        self._covered = bool(self._past or self.jams)
        for ended, spans in self._past:
            if self.now - ended <= PAST_MS:
                self._cover(road, spans, None)
        for jam in self.jams:
            self._cover(road, jam.spans, jam.since)
        return out

    def _cover(self, road: Road, spans: Mapping[int, list[float]], since: int | None) -> None:
        out = self._covers
        for link, (low, high) in spans.items():
            for lane in road.link_lanes[link]:
                out.low[lane], out.high[lane] = low, high
                if since is not None:
                    out.since[lane] = since

    # -- what is there now ------------------------------------------------------------------------------------------
    def _find(self, view: TrackView, road: Road, lead: I64, gap: F64) -> list[Chain]:
        rule = self.rule
        if len(self._hot) != len(road.links):
            self._hot = np.zeros(len(road.links), dtype=np.bool_)
        self._hot[:] = False
        for jam in self.jams:
            if jam.event_id:
                self._hot[list(jam.spans)] = True
        speeds = (rule.limit("enter_mps"), rule.limit("exit_mps"))
        return self._finder.chains(view, road, lead, gap, self._hot, speeds, rule.limit("gap_m"), self._least)

    def _groups(self, chains: list[Chain], road: Road) -> list[list[Chain]]:
        """Put chains that lie side by side, or end to end over a link's end, together."""
        groups: list[tuple[dict[int, list[float]], list[Chain]]] = []
        for chain in chains:
            spans = {link: list(span) for link, span in chain.spans.items()}
            mine = [chain]
            rest = []
            for other_spans, others in groups:
                if _touch(spans, other_spans) or _end_to_end(spans, other_spans, road):
                    _join(spans, other_spans)
                    mine = others + mine
                else:
                    rest.append((other_spans, others))
            groups = [*rest, (spans, mine)]
        return [chains for _, chains in groups]

    # -- what becomes of it -----------------------------------------------------------------------------------------
    def _follow(self, groups: list[list[Chain]], dt: int, view: TrackView, road: Road) -> list[JamChange]:
        changes: list[JamChange] = []
        seen: list[Jam] = []
        for chains in groups:
            spans: dict[int, list[float]] = {}
            for chain in chains:
                _join(spans, chain.spans)
            mine = [jam for jam in self.jams if _touch(jam.spans, spans) and jam not in seen]
            mine.sort(key=lambda jam: (not jam.event_id, jam.since, jam.number))
            if mine:
                jam = mine[0]
                for other in mine[1:]:
                    self.jams.remove(other)
                    if other.event_id:
                        changes.append(JamChange(other, started=False, ended=True, into=jam))
                jam.held += dt
            else:
                jam = Jam(self.count, spans, self.now)
                self.count += 1
                self.jams.append(jam)
            jam.off = 0
            self._measure(jam, chains, spans, dt, view, road)
            seen.append(jam)
            needed = self.rule.dwell_ms
            if self._at_signal(chains, view, road):
                needed = int(self.rule.limit("signal_dwell_ms"))
            # Over a border, who has the head tells it; the other sees it too and is silent.
            started = not jam.event_id and jam.held >= needed and jam.ours
            if jam.event_id or started:
                self._measure_lanes(jam, chains, dt, view)
                changes.append(JamChange(jam, started=started, ended=False))
        self._past = [row for row in self._past if self.now - row[0] <= PAST_MS]
        for jam in list(self.jams):
            if jam in seen:
                continue
            if not jam.event_id:
                self.jams.remove(jam)
                continue
            jam.off = jam.off or self.now
            if self.now - jam.off >= self.rule.end_ms:
                self.jams.remove(jam)
                self._past.append((self.now, jam.spans))
                changes.append(JamChange(jam, started=False, ended=True))
        return changes

    def _measure(
        self, jam: Jam, chains: list[Chain], spans: dict[int, list[float]], dt: int, view: TrackView, road: Road
    ) -> None:
        longest = max(chains, key=lambda c: (c.length, c.count, -c.head))
        count, slow = sum(c.count for c in chains), sum(c.slow for c in chains)
        if slow:  # else all are about to leave it
            share = min(1.0, dt / SPEED_TAU_MS) if jam.count else 1.0
            jam.speed += share * (sum(c.speed_sum for c in chains) / slow - jam.speed)
        jam.count, jam.queue, jam.spans = count, longest.length, spans
        jam.level = self._level(jam.speed, jam.level)
        jam.head = (view.east.item(longest.head), view.north.item(longest.head))
        jam.tail = (view.east.item(longest.tail), view.north.item(longest.tail))
        jam.head_lane, jam.ours = view.lane.item(longest.head), view.id.item(longest.head) < BEYOND
        jam.tail_link = road.lanes.link.item(view.lane.item(longest.tail))
        jam.tracks = sorted(t for t in (view.id.item(c.head) for c in chains) if t < BEYOND)
        self._measure_growth(jam, dt)

    def _measure_lanes(self, jam: Jam, chains: list[Chain], dt: int, view: TrackView) -> None:
        """Tell the lanes of an event apart (a chain may cover several, a lane be covered by several)."""
        share = min(1.0, dt / SPEED_TAU_MS)
        parts: dict[int, list[float]] = {}  # lane -> vehicles, sum of speeds, from, to, row of the last, slow ones
        for (lane, count, tail, few), (speeds, low, high) in (part for chain in chains for part in chain.lanes):
            one = parts.setdefault(lane, [0, 0.0, low, high, tail, 0])
            one[0], one[1], one[5] = one[0] + count, one[1] + speeds, one[5] + few
            if low < one[2]:
                one[2], one[4] = low, tail
            one[3] = max(one[3], high)
        old, jam.lanes = jam.lanes, {}
        for lane, (vehicles, total, low, high, last, slow) in sorted(parts.items()):
            was = old.get(lane)
            speed = total / slow if slow else was.speed if was is not None else jam.speed
            if was is not None:
                speed = was.speed + share * (speed - was.speed)
            place = view.east.item(int(last)), view.north.item(int(last))
            level = self._level(speed, was.level if was is not None else 0)
            jam.lanes[lane] = LaneJam(speed, level, int(vehicles), high - low, place)

    def _measure_growth(self, jam: Jam, dt: int) -> None:
        """Follow the queue by an exponential mean: by how much it is behind says how fast the queue grows."""
        if not jam.mean_queue:
            jam.mean_queue = jam.queue
        tau = self.rule.limit("growth_ms")
        share = dt / (tau + dt)
        jam.mean_queue += share * (jam.queue - jam.mean_queue)
        jam.young *= 1.0 - share
        if 1.0 - jam.young >= GROWTH_KNOWN:
            jam.growth = (jam.queue - jam.mean_queue) / (tau / 1000.0) / (1.0 - jam.young)

    def _level(self, speed: float, old: int) -> int:
        band = self.rule.limit("level_band_mps")
        level = level_of(self.rule, speed)
        if old and level != old:
            edge = self.rule.limit("level3_mps" if 3 in {old, level} else "level2_mps")
            if abs(speed - edge) < band:
                return old
        return level

    @staticmethod
    def _at_signal(chains: list[Chain], view: TrackView, road: Road) -> bool:
        """Say whether every chain's front is before a signal.

        Not only at its stop line: on green a queue dissolves from its front, which so moves back along the lane.
        """
        return all(road.lanes.signal.item(view.lane.item(chain.head)) for chain in chains)

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "now": self.now,
            "count": self.count,
            "jams": [_jam_out(jam) for jam in self.jams],
            "past": [[end, [[link, *span] for link, span in spans.items()]] for end, spans in self._past],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.now, self.count = state["now"], state["count"]
        self.jams = [_jam_in(row) for row in state["jams"]]
        self._past = [(end, {link: [low, high] for link, low, high in spans}) for end, spans in state["past"]]


def level_of(rule: Rule, speed: float) -> int:
    """Return the level of a queue whose slow vehicles go at ``speed`` m/s on average."""
    return 3 if speed < rule.limit("level3_mps") else 2 if speed < rule.limit("level2_mps") else 1


def _touch(a: Mapping[int, list[float]], b: Mapping[int, list[float]]) -> bool:
    for link, span in a.items():
        other = b.get(link)
        if other is not None and span[0] - NEAR_M <= other[1] and other[0] - NEAR_M <= span[1]:
            return True
    return False


def _end_to_end(a: Mapping[int, list[float]], b: Mapping[int, list[float]], road: Road) -> bool:
    """Say whether one begins just after the other's link ends."""
    for first, second in ((a, b), (b, a)):
        for link, span in first.items():
            room = road.link_length.item(link) - span[1]
            for after in road.down[link]:
                if after in second and room + second[after][0] <= NEAR_M:
                    return True
    return False


def _join(into: dict[int, list[float]], other: Mapping[int, Iterable[float]]) -> None:
    for link, (low, high) in other.items():
        widen(into, link, low, high)


_JAM_FIELDS: Final = (
    *("number", "since", "held", "off", "event_id", "speed", "level", "count", "queue"),
    *("head_lane", "tail_link", "tracks", "mean_queue", "young", "growth"),
)


def _jam_out(jam: Jam) -> dict[str, Any]:
    out = {name: getattr(jam, name) for name in _JAM_FIELDS}
    out["spans"] = [[link, *span] for link, span in jam.spans.items()]
    out["head"], out["tail"] = list(jam.head), list(jam.tail)
    out["tracks"] = list(jam.tracks)
    out["lanes"] = [[lane, *astuple(part)] for lane, part in jam.lanes.items()]
    return out


def _jam_in(row: Mapping[str, Any]) -> Jam:
    jam = Jam(0, {int(link): [low, high] for link, low, high in row["spans"]}, 0)
    for name in _JAM_FIELDS:
        setattr(jam, name, row[name])
    jam.head, jam.tail = (row["head"][0], row["head"][1]), (row["tail"][0], row["tail"][1])
    jam.tracks = list(row["tracks"])
    jam.lanes = {
        lane: LaneJam(speed, level, count, queue, (tail[0], tail[1]))
        for lane, speed, level, count, queue, tail in row["lanes"]
    }
    return jam
