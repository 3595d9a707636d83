"""Weather and road surface: what poles measure, and what several vehicles' own systems feel.

A pole is a witness of each kind by itself: a measurement beyond the enter threshold must stand for the rule's dwell
time, one beyond the exit threshold (or silence) ends its word. Of the surface it says one thing, the gravest. A single
vehicle's ABS says little, so flags wait until enough vehicles, apart by track and by temporary id, set them within a
stretch of road and of time (and not all at once: that is a chain of emergency braking); then each is a source. Both are
reports to the book of events, as an RSI is: poles, vehicles and RSIs that mean one thing at one place are one event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import hypot
from typing import Any, Final, NamedTuple

from v2x.events.merge import EventBook
from v2x.events.model import BSM, POLE, EventChange, Place, Source
from v2x.events.rule import Rule

POLE_KINDS: Final = ("FOG", "RAIN", "ICE", "STANDING_WATER", "SLIPPERY")
_SURFACE: Final = ("ICE", "STANDING_WATER", "SLIPPERY")  # the gravest first
_WATER, _SNOW, _ICE = 4, 5, 6  # pole_env.surface
_NONE: Final = 65535
_FRICTION_NONE: Final = 101
_TEMPERATURE_NONE: Final = 1001
REPEAT_MS: Final = 1000  # BSMs come at 10 Hz: a vehicle is asked once a second


@dataclass(slots=True)
class Pole:
    """What one pole says of one kind."""

    since: int = 0  # ms: it has been beyond the enter threshold from then on; 0: it is not
    off: int = 0  # ms: it has been beyond the exit threshold from then on; 0: it is not
    seen: int = 0  # ms: its last measurement
    level: int = 0
    told: bool = False  # is a report
    east: float = 0.0
    north: float = 0.0


class Flag(NamedTuple):
    """One vehicle's word for a kind."""

    kind: str
    track: int
    temp: str
    first_ms: int
    ts_ms: int  # its last
    east: float
    north: float
    device: str


class Said(NamedTuple):
    """What a pole says from now on (``level`` 0: it takes it back)."""

    device: str
    kind: str
    level: int
    ts_ms: int  # of its last measurement
    at_ms: int  # when it began or ended
    east: float
    north: float


class Weather:
    """All poles and flags of a zone."""

    def __init__(self, rules: Mapping[str, Rule], book: EventBook, place: Callable[[float, float], Place]) -> None:
        """Begin with a fine day; ``place`` knows the road at a point (east, north)."""
        self.rules, self.book, self.place = rules, book, place
        self.poles: dict[tuple[str, str], Pole] = {}  # device, kind
        self.flags: dict[tuple[str, int], Flag] = {}  # by kind and track
        self._said: list[Said] = []

    # -- poles ------------------------------------------------------------------------------------------------------
    def measure(self, device: str, ts_ms: int, row: Mapping[str, Any], east: float, north: float) -> None:
        """Take a pole's measurement (fields of pole_env)."""
        levels = {kind: self._level(kind, row, told=self._told(device, kind)) for kind in POLE_KINDS}
        worse = False
        for kind in _SURFACE:
            if worse and levels[kind] is not None:
                levels[kind] = 0
            worse = worse or bool(levels[kind])
        for kind, level in levels.items():
            if level is None:
                continue  # not measured
            pole = self.poles.get((device, kind))
            if pole is None:
                if not level:
                    continue
                pole = self.poles[device, kind] = Pole()
            if ts_ms < pole.seen:
                continue  # late
            pole.seen, pole.east, pole.north = ts_ms, east, north
            self._follow(device, kind, pole, level)

    def _told(self, device: str, kind: str) -> bool:
        pole = self.poles.get((device, kind))
        return pole is not None and pole.told

    def _follow(self, device: str, kind: str, pole: Pole, level: int) -> None:
        rule, ts = self.rules[kind], pole.seen
        if level:
            pole.since, pole.off = pole.since or ts, 0
            pole.level = level
            if pole.told or ts - pole.since >= rule.dwell_ms:
                pole.told = True
                self._said.append(Said(device, kind, level, ts, pole.since, pole.east, pole.north))
            return
        if not pole.told:
            del self.poles[device, kind]
            return
        pole.off = pole.off or ts
        if ts - pole.off >= rule.end_ms:
            self._said.append(Said(device, kind, 0, ts, pole.off, pole.east, pole.north))
            del self.poles[device, kind]
        else:
            self._said.append(Said(device, kind, pole.level, ts, pole.since, pole.east, pole.north))

    def _level(self, kind: str, row: Mapping[str, Any], *, told: bool) -> int | None:
        """Return the level of a kind, 0 if it is not so, None if it is not measured."""
        rule = self.rules[kind]
        bound = rule.limit("exit" if told else "enter")
        if kind == "FOG":
            value = None if row["visibility"] == _NONE else float(row["visibility"])
            return None if value is None else _graded(rule, -value, -bound)
        if kind == "RAIN":
            value = None if row["rain"] == _NONE else row["rain"] / 10
            return None if value is None else _graded(rule, value, bound)
        surface = int(row["surface"])
        friction = None if row["friction"] == _FRICTION_NONE else row["friction"] / 100
        if kind == "STANDING_WATER":
            film = None if row["water_film"] == _NONE else row["water_film"] / 100
            known, so = bool(surface) or film is not None, surface == _WATER or (film is not None and film >= bound)
        elif kind == "ICE":
            cold = row["surface_temp"] != _TEMPERATURE_NONE and row["surface_temp"] / 10 <= rule.limit("freezing")
            low = friction is not None and friction < bound
            known, so = bool(surface) or friction is not None, surface == _ICE or (cold and low)
        else:
            low = friction is not None and friction < bound
            known, so = bool(surface) or friction is not None, surface == _SNOW or low
        return (rule.level if so else 0) if known else None

    def advance(self, now: int, felt: Iterable[Flag]) -> list[EventChange]:
        """Report what poles and vehicles have said since the last call; return what ended by that."""
        out: list[EventChange] = []
        for said in self._poles(now):
            rule, key = self.rules[said.kind], (said.device, POLE, said.kind)
            if not said.level:
                out += self.book.withdraw(now, key, said.ts_ms, said.at_ms)
                continue
            source = Source(*key, rule.confidence, said.ts_ms, 0, int(rule.limit("gone_ms")))
            place = self.place(said.east, said.north)
            self.book.report(now, said.kind, source, place, said.at_ms, said.level, -1.0)
        for flag in felt:
            self._feel(now, flag)
        return out

    def _poles(self, now: int) -> list[Said]:
        """Return what poles say; one that is silent takes its word back."""
        out, self._said = self._said, []
        for (device, kind), pole in list(self.poles.items()):
            if now - pole.seen > self.rules[kind].limit("gone_ms"):
                if pole.told:
                    out.append(Said(device, kind, 0, pole.seen, pole.seen, pole.east, pole.north))
                del self.poles[device, kind]
        return out

    # -- vehicles ---------------------------------------------------------------------------------------------------
    def _feel(self, now: int, flag: Flag) -> None:
        """Report a vehicle's word with those of others, or alone where the book has such an event already."""
        rule = self.rules[flag.kind]
        words = self.words(flag)
        if words is None:
            return
        if not words and self.book.near(rule, self.place(flag.east, flag.north)) is not None:
            words = [flag]
        for one in words:
            confidence, hold = int(rule.limit("flag_confidence")), int(rule.limit("within_ms"))
            source = Source(one.device, BSM, one.temp, confidence, one.ts_ms, 0, hold)
            place = self.place(one.east, one.north)
            self.book.report(now, one.kind, source, place, one.first_ms, rule.level, -1.0)

    def words(self, new: Flag) -> list[Flag] | None:
        """Take a vehicle's word; return the words of all vehicles near it in place and time, if enough; None: no news.

        One vehicle has one word, by its track and by its temporary id (tracks break, ids rotate).
        """
        rule = self.rules[new.kind]
        old = self.flags.get((new.kind, new.track))
        if old is not None:
            if new.ts_ms - old.ts_ms < REPEAT_MS:
                return None
            new = new._replace(first_ms=old.first_ms)
        oldest = new.ts_ms - rule.limit("within_ms")
        self.flags = {key: f for key, f in self.flags.items() if f.kind != new.kind or f.ts_ms >= oldest}
        self.flags[new.kind, new.track] = new
        reach = rule.limit("within_m")
        near = {
            f.temp: f
            for f in self.flags.values()
            if f.kind == new.kind and hypot(f.east - new.east, f.north - new.north) <= reach
        }
        begun = [f.first_ms for f in near.values()]
        enough = len(near) >= rule.limit("vehicles") and max(begun) - min(begun) >= rule.limit("spread_ms")
        return list(near.values()) if enough else []

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "poles": [
                [*key, p.since, p.off, p.seen, p.level, p.told, p.east, p.north] for key, p in self.poles.items()
            ],
            "flags": [list(flag) for flag in self.flags.values()],
            "said": [list(said) for said in self._said],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self.poles = {(device, kind): Pole(*rest) for device, kind, *rest in state["poles"]}
        self.flags = {(row[0], row[1]): Flag(*row) for row in state["flags"]}
        self._said = [Said(*row) for row in state["said"]]


def _graded(rule: Rule, value: float, bound: float) -> int:
    """Return 0 below a bound, else the level by the rule's further bounds (all with the sign of ``value``)."""
    if value < bound:
        return 0
    sign = 1.0 if bound >= 0 else -1.0
    return 1 + sum(value >= sign * rule.limit(name) for name in ("level2", "level3"))
