"""Score against what truly happened: events, tracks and travel times, by public tools, never by our own output."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from v2x.errors import ConfigError

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Log
from v2x_loadtest.scene import Scene, TruthEvent

try:
    from v2x_loadtest.score.events import EventScore, score_events
    from v2x_loadtest.score.tracks import TrackScore, score_tracks
    from v2x_loadtest.score.travel import TravelScore, score_travel
    from v2x_loadtest.score.truth import Truth
except ImportError as error:
    raise ConfigError(f"scoring needs {error.name}: pip install 'v2x-core[score]'") from error

__all__ = ["Score", "score"]


@dataclass(slots=True)
class Score:
    """All three."""

    events: EventScore
    tracks: TrackScore
    travel: TravelScore
    ledger: Ledger
    window_s: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the score for machines: the six figures first, then what they are made of."""
        events, tracks = self.events, self.tracks
        return {
            "event_precision": _round(events.precision),
            "event_recall": _round(events.recall),
            "event_delay_p50_s": _round(events.delay_p50_s),
            "position_rmse_m": _round(tracks.position_rmse_m),
            "id_switches": tracks.id_switches,
            "travel_time_mape": _round(self.travel.mape),
            "window_s": [round(t, 2) for t in self.window_s],
            "tracks": {name: _round(value) for name, value in asdict(tracks).items()},
            "found": [
                {
                    "truth": match.truth.id,
                    "kind": match.truth.kind,
                    "told_as": match.kind,
                    "id": match.told.id,
                    "distance_m": round(match.distance_m, 1),
                    "delay_s": round(match.delay_s, 3),
                }
                for match in events.matches
            ],
            "missed": [_truth(event) for event in events.missed],
            "invented": [told.brief(self.ledger) for told in events.invented],
            "repeated": [{**told.brief(self.ledger), "truth": event.id} for told, event in events.repeated],
            "apart": [{**_truth(event), "why": why, "told": told} for event, why, told in events.apart],
            "stages": [{**told.brief(self.ledger), "truth": event.id} for told, event in events.stages],
            "reported": [told.brief(self.ledger) for told in events.reported],
            "travel_time": {
                "pairs_by_section": self.travel.pairs_by_section(),
                "windows": self.travel.windows,
                "unmatched": self.travel.unmatched,
            },
        }


def score(log: Log, scene: Scene, ledger: Ledger) -> Score:
    """Score everything in ``log`` against ``scene``; of several copies side by side the first, which is the scene."""
    truth = Truth(scene)
    window = ledger.window_s()
    zones = {zone["id"] for zone in scene.zones["zones"]}
    events = [record for record in log.events if record.value["zone"] in zones]
    return Score(
        events=score_events(events, truth, ledger, window),
        tracks=score_tracks(log.frames.of(zones), log.decode, truth, ledger, window),
        travel=score_travel(log.links, scene, ledger),
        ledger=ledger,
        window_s=window,
    )


def _truth(event: TruthEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "kind": event.kind,
        "code": event.code,
        "start_s": round(event.start_s, 2),
        "end_s": None if event.end_s is None else round(event.end_s, 2),
        "dwell_s": event.dwell_s,
        "lat": event.lat,
        "lon": event.lon,
        "link": event.link,
        "lane": event.lane,
    }


def _round(value: float | None) -> float | int | None:
    return round(value, 4) if isinstance(value, float) else value
