"""An event while it is open, and what is told of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from v2x.geo import LocalFrame

ADDED, MODIFIED, ENDED = "ADDED", "MODIFIED", "ENDED"
DETECTION, RSI, BSM, GANTRY, POLE = range(5)  # traffic_event.sources.kind
FUSION: Final = "fusion"  # the device name of our own detection
ELE_NONE: Final = -4096
REPORT_EXPIRY_MS: Final = 10_000  # an RSI not repeated for this long is over (sent each second or more often)
GROWTH_NONE: Final = 32767
_ID_LENGTH: Final = 64
_MAX_SOURCES: Final = 64


@dataclass(frozen=True, slots=True)
class EventChange:
    """One revision of an event: the fields of traffic_event.avsc, in its units, but position and trigger."""

    zone: str
    event_id: str
    revision: int
    status: str
    kind: str
    code: int
    level: int
    confidence: int
    lane: int
    link: str
    lat: int
    lon: int
    ele: int
    radius: int
    start_ms: int
    detected_ms: int
    updated_ms: int
    end_ms: int
    speed: int
    queue: int
    tail_lat: int
    tail_lon: int
    growth: int
    lanes: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    tracks: list[int]

    def record(self) -> dict[str, Any]:
        """Return the fields as a dict, for the encoder (generation, position and trigger are still to be added)."""
        return asdict(self)


@dataclass(slots=True)
class Source:
    """Who says so."""

    device: str
    kind: int
    ref: str
    confidence: int  # 0.5 %
    seen_ms: int
    until_ms: int = 0  # end that was announced; 0 none
    hold_ms: int = REPORT_EXPIRY_MS  # not repeated for this long, it is over

    @property
    def key(self) -> tuple[str, int, str]:
        """Return what makes two reports the same."""
        return (self.device, self.kind, self.ref)


@dataclass(slots=True)
class Place:
    """Where."""

    east: float  # m about the zone's origin
    north: float
    link: str = ""
    lane: int = 0  # lane id
    radius: float = -1.0  # m; -1 unknown
    ele: int = ELE_NONE  # 0.1 m
    course: float = -1.0  # degrees clockwise from north, of traffic there; -1 unknown

    def opposes(self, other: Place) -> bool:
        """Say whether both are known to be of traffic that runs against each other."""
        return self.course >= 0 and other.course >= 0 and 90.0 < (self.course - other.course) % 360.0 < 270.0


@dataclass(slots=True)
class LaneQueue:
    """A congestion's part on one lane."""

    link: str
    lane: int
    level: int
    vehicles: int
    speed: float  # m/s
    queue: float  # m
    tail: tuple[float, float]  # east, north


@dataclass(slots=True)
class OpenEvent:
    """An event that goes on."""

    event_id: str
    kind: str
    code: int
    group: str
    level: int
    place: Place
    start_ms: int
    detected_ms: int
    revision: int = -1  # none told yet
    speed: float = -1.0  # m/s; -1 unknown
    queue: float = -1.0  # m; -1 none
    tail: tuple[float, float] | None = None  # east, north
    growth: float | None = None  # m/s; None unknown
    lanes: list[LaneQueue] = field(default_factory=list)
    reports: dict[tuple[str, int, str], Source] = field(default_factory=dict)
    tracks: list[int] = field(default_factory=list)  # tracks (or other detections) that support it now
    members: list[int] = field(default_factory=list)  # tracks to name, where they are not the supporters
    detection: int = 0  # confidence of our own detection, 0.5 %; 0: none so far
    detection_ref: str = ""
    told: list[Any] = field(default_factory=list)  # what the last revision said
    told_ms: int = 0
    end_ms: int = 0

    @property
    def alive(self) -> bool:
        """Say whether anyone still supports it."""
        return bool(self.tracks or self.reports)

    def confidence(self) -> int:
        """Return the confidence of all sources taken as independent, 0.5 %; never quite certain."""
        doubt = 1.0 - self.detection / 200.0
        for source in self.reports.values():
            doubt *= 1.0 - source.confidence / 200.0
        return min(199, round(200.0 * (1.0 - doubt)))

    def change(self, zone: str, frame: LocalFrame, status: str, now: int) -> EventChange:
        """Return this state as a revision (the caller counts it)."""
        lat, lon = frame.e7(self.place.east, self.place.north)
        tail = frame.e7(*self.tail) if self.tail is not None else (900000001, 1800000001)
        sources = [
            {"device": s.device, "kind": s.kind, "ref": s.ref, "confidence": s.confidence}
            for s in self.reports.values()
        ]
        if self.detection:
            own = {"device": FUSION, "kind": DETECTION, "ref": self.detection_ref, "confidence": self.detection}
            sources.insert(0, own)
        return EventChange(
            zone=zone,
            event_id=self.event_id,
            revision=self.revision,
            status=status,
            kind=self.kind,
            code=self.code,
            level=self.level,
            confidence=self.confidence(),
            lane=self.place.lane,
            link=self.place.link[:64],
            lat=lat,
            lon=lon,
            ele=self.place.ele,
            radius=65535 if self.place.radius < 0 else min(65534, round(self.place.radius * 10)),
            start_ms=self.start_ms,
            detected_ms=self.detected_ms,
            updated_ms=now,
            end_ms=self.end_ms,
            speed=_speed(self.speed),
            queue=_metres(self.queue),
            tail_lat=tail[0],
            tail_lon=tail[1],
            growth=GROWTH_NONE if self.growth is None else max(-32767, min(32766, round(self.growth * 100))),
            lanes=[_lane_queue(frame, one) for one in self.lanes[:_MAX_SOURCES]],
            sources=sources[:_MAX_SOURCES],
            tracks=sorted(self.members or [t for t in self.tracks if t >= 0])[:_MAX_SOURCES],
        )

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        out = _fields(self)  # asdict copies all that is below, at twenty times the cost
        out["place"] = _fields(self.place)
        out["reports"] = [_fields(s) for s in self.reports.values()]
        out["tail"] = list(self.tail) if self.tail is not None else None
        out["lanes"] = [_fields(one) for one in self.lanes]
        return out

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> OpenEvent:
        """Return the event of a ``state``."""
        row = dict(state)
        row["place"] = Place(**row["place"])
        row["reports"] = {s.key: s for s in (Source(**r) for r in row["reports"])}
        row["tail"] = (row["tail"][0], row["tail"][1]) if row["tail"] is not None else None
        row["lanes"] = [LaneQueue(**{**one, "tail": (one["tail"][0], one["tail"][1])}) for one in row["lanes"]]
        row["tracks"], row["members"], row["told"] = list(row["tracks"]), list(row["members"]), list(row["told"])
        return cls(**row)


def _fields(row: Any) -> dict[str, Any]:
    """Return the fields of a dataclass with slots."""
    return {name: getattr(row, name) for name in row.__slots__}


def _lane_queue(frame: LocalFrame, one: LaneQueue) -> dict[str, Any]:
    lat, lon = frame.e7(*one.tail)
    return {
        "link": one.link[:64], "lane": one.lane, "level": one.level, "vehicles": one.vehicles,
        "speed": _speed(one.speed), "queue": _metres(one.queue), "tail_lat": lat, "tail_lon": lon,
    }  # fmt: skip


def _speed(mps: float) -> int:
    return 8191 if mps < 0 else min(8190, round(mps / 0.02))


def _metres(metres: float) -> int:
    return 65535 if metres < 0 else min(65534, round(metres))


def event_id(zone: str, kind: str, start_ms: int, who: str) -> str:
    """Return the deterministic id; a name that is too long keeps its head and a hash of the whole."""
    name = f"{zone}-{kind}-{start_ms}-{who}"
    if len(name) <= _ID_LENGTH:
        return name
    return f"{name[: _ID_LENGTH - 17]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
