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
            speed=8191 if self.speed < 0 else min(8190, round(self.speed / 0.02)),
            queue=65535 if self.queue < 0 else min(65534, round(self.queue)),
            tail_lat=tail[0],
            tail_lon=tail[1],
            sources=sources[:_MAX_SOURCES],
            tracks=sorted(self.members or [t for t in self.tracks if t >= 0])[:_MAX_SOURCES],
        )

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        out = _fields(self)  # asdict copies all that is below, at twenty times the cost
        out["place"] = _fields(self.place)
        out["reports"] = [_fields(s) for s in self.reports.values()]
        out["tail"] = list(self.tail) if self.tail is not None else None
        return out

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> OpenEvent:
        """Return the event of a ``state``."""
        row = dict(state)
        row["place"] = Place(**row["place"])
        row["reports"] = {s.key: s for s in (Source(**r) for r in row["reports"])}
        row["tail"] = (row["tail"][0], row["tail"][1]) if row["tail"] is not None else None
        row["tracks"], row["members"], row["told"] = list(row["tracks"]), list(row["members"]), list(row["told"])
        return cls(**row)


def _fields(row: Any) -> dict[str, Any]:
    """Return the fields of a dataclass with slots."""
    return {name: getattr(row, name) for name in row.__slots__}


def event_id(zone: str, kind: str, start_ms: int, who: str) -> str:
    """Return the deterministic id; a name that is too long keeps its head and a hash of the whole."""
    name = f"{zone}-{kind}-{start_ms}-{who}"
    if len(name) <= _ID_LENGTH:
        return name
    return f"{name[: _ID_LENGTH - 17]}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
