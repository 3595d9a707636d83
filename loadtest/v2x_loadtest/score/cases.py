"""Scenes and variants that `v2x score` knows, as tables, and what a seed makes of them: a log and its truth.

A *scene* is where the traffic comes from: recorded with SUMO (the seed draws sensors, clocks and links), or generated
(the seed draws the traffic as well). A *variant* changes the sensors. Parameters of fusion are tuned on the seeds 1-50;
figures are told for seeds from ``UNSEEN`` on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from v2x.columns import Record
from v2x.errors import ConfigError
from v2x.geo import LocalFrame
from v2x.zones import ZoneMap

from v2x_loadtest.audit.ledger import SENT, Ledger
from v2x_loadtest.planted.scene import planted_scene
from v2x_loadtest.scene import Scene, TruthEvent, load_scene
from v2x_loadtest.score.matching import F64
from v2x_loadtest.score.play import Message
from v2x_loadtest.score.setting import FRAME, T0_MS, Setting, make
from v2x_loadtest.score.sources import scene_messages, world_messages
from v2x_loadtest.score.truth import EDGE_M, Bool, Moment, Truth
from v2x_loadtest.simulate.options import GantryModel, Options, SensorModel

UNSEEN: Final = 1001
_DRAIN_S: Final = 1.0  # the log goes on after the window, so that its last instants are reported
_GONE_AT: Final = 0.4  # of the window
_AROUND_M: Final = 600.0


@dataclass(frozen=True, slots=True)
class SceneRow:
    """A scene: a recorded one by name, one that a seed plants, or a setting of the generator."""

    what: str
    recorded: str = ""
    planted: Mapping[str, Any] | None = None  # arguments of planted_scene
    setting: Mapping[str, Any] = field(default_factory=dict)
    window_s: tuple[float, float] | None = None  # of a recorded scene; None: all of it
    around: str = ""  # kind of the event round which alone tracks are scored
    events: bool = False  # told events are judged
    warm_s: float = 2.0  # from the start of the window: sensors were just switched on

    @property
    def tolled(self) -> bool:
        """Say whether it has gantries."""
        return bool(self.recorded)


@dataclass(frozen=True, slots=True)
class VariantRow:
    """What is different from the scene's own sensors."""

    what: str
    sensors: Mapping[str, Any] = field(default_factory=dict)  # fields of SensorModel
    setting: Mapping[str, Any] = field(default_factory=dict)  # fields of Setting
    gantries: Mapping[str, Any] = field(default_factory=dict)  # fields of GantryModel
    silent: str = ""  # "every other" RSU sees nothing, or the one in the "middle" is gone at 40 % of the window


SCENES: Final[dict[str, SceneRow]] = {
    "motorway": SceneRow("recorded, 4 km both ways, planted events, a jam", "motorway", events=True),
    "urban": SceneRow("recorded, six signalled junctions, planted events, pedestrians", "urban", events=True),
    "jam": SceneRow("the recorded motorway round its jam", "motorway", window_s=(10, 115), around="CONGESTION"),
    "prototype": SceneRow("generated, that of the fusion prototype: 2 km, 3 lanes, 150 vehicles, 8 RSUs", setting={}),
    "planted": SceneRow("planted by the seed: about 70 events of every kind, and as much that only looks like one",
                        planted={}, events=True),
    "free": SceneRow("the road of `planted` in free flow: 5 km both ways, three crossings, nothing happens",
                     planted={"planted": False}, events=True),
    "crossing": SceneRow("generated, one crossing with turns, people and cyclists, 4 RSUs",
                         setting={"kind": "crossing", "rsus": 4}),
    "dense": SceneRow("generated, 1,200 vehicles at once on 8 km both ways, 32 RSUs",
                      setting={"kind": "both_ways", "vehicles": 1200, "length_m": 8000.0, "rsus": 32, "seconds": 20.0}),
    "synthetic": SceneRow("computed, 1 km, twenty cars, one stops: a quick try", "synthetic", events=True),
}  # fmt: skip
VARIANTS: Final[dict[str, VariantRow]] = {
    "plain": VariantRow("as the scene is"),
    "ar1": VariantRow("all position noise goes on from scan to scan, rho 0.9",
                      {"correlated": 1.0, "tau_s": 0.949}, {"rho": 0.9}),
    "misses": VariantRow("20 % misses", {"miss": 0.2}, {"miss": 0.2}),
    "swaps": VariantRow("ten times as many swaps of local ids", {"id_swap": 0.02}, {"swap": 0.1}),
    "clocks": VariantRow("clocks ten times as wrong: 300 ms", {"clock_ms": 150.0}, {"clock_ms": 300.0}),
    "night": VariantRow("every other RSU sees nothing, the others half as well", {"sigma_m": (0.45, 0.9), "miss": 0.1},
                        {"sigma_m": (0.75, 1.5), "miss": 0.1}, silent="every other"),
    "gone": VariantRow("an RSU in the middle is gone after 40 % of the time", silent="middle"),
    "tolls": VariantRow("20 % of the gantries' transactions are missing", gantries={"missed": 0.2}),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reach:
    """What the roadside units reach as long as they live: columns over the units."""

    east: F64  # m
    north: F64
    range_m: F64
    until_s: F64  # scene second from which they see nothing any more
    focus: tuple[float, float] | None = None  # only round this place

    def __call__(self, t_s: float, east: F64, north: F64, slack_m: float = -EDGE_M) -> Bool:
        """Return which points count at a second; ``slack_m`` widens the ranges (by default they are narrowed)."""
        live = self.until_s > t_s
        gap = np.hypot(east[:, None] - self.east[live], north[:, None] - self.north[live])
        inside = np.asarray((gap <= self.range_m[live] + slack_m).any(axis=1))
        if self.focus is not None:
            inside &= np.hypot(east - self.focus[0], north - self.focus[1]) < _AROUND_M
        return inside


@dataclass(slots=True)
class Case:
    """A scene, a variant and a seed: the log to be played and the truth about it."""

    scene: str
    variant: str
    seed: int
    zones: ZoneMap
    frame: LocalFrame
    messages: list[Message]  # in order of arrival
    window_s: tuple[float, float]  # scene seconds that the log holds
    warm_s: float  # tracks are scored from so long after its start
    ledger: Ledger  # scene seconds and UTC
    at: Callable[[float], Moment]  # scene second
    covered: Reach
    truth: Truth | None = None  # of a recorded scene: its events and passages
    judge_events: bool = False
    logs: dict[int, list[Record]] | None = None  # by partition: a log to be replayed as it is, instead of the messages

    @property
    def begin_ms(self) -> int:
        """Return when the log begins, ms UTC."""
        return T0_MS - 100

    @property
    def end_ms(self) -> int:
        """Return when it ends."""
        return T0_MS + round((self.window_s[1] - self.window_s[0] + _DRAIN_S) * 1000)

    @property
    def zone_hours(self) -> float:
        """Return hours times zones."""
        return (self.window_s[1] - self.window_s[0]) / 3600 * len(self.zones.zones)


def scene_row(name: str) -> SceneRow:
    """Return the row of a scene; a file of `v2x record` is taken too; ConfigError if there is none."""
    if name in SCENES:
        return SCENES[name]
    if name.endswith(".npz"):
        return SceneRow(f"recorded, {name}", name, events=True)
    raise ConfigError(f"no scene {name!r}; choose from {', '.join(SCENES)}, or give a file of `v2x record`")


def variant_row(name: str) -> VariantRow:
    """Return the row of a variant; ConfigError if there is none."""
    if name not in VARIANTS:
        raise ConfigError(f"no variant {name!r}; choose from {', '.join(VARIANTS)}")
    return VARIANTS[name]


def make_case(name: str, variant: str, seed: int, seconds: float | None = None) -> Case:
    """Return a case; ``seconds`` cuts its window short. ConfigError for what does not go together."""
    scene, change = scene_row(name), variant_row(variant)
    if change.gantries and not scene.tolled:
        raise ConfigError(f"variant {variant} needs gantries; scene {name} is generated and has none")
    return (_recorded if scene.recorded or scene.planted is not None else _generated)(
        name, scene, variant, change, seed, seconds
    )


def _recorded(name: str, row: SceneRow, variant: str, change: VariantRow, seed: int, seconds: float | None) -> Case:
    scene = copy.copy(load_scene(row.recorded)) if row.recorded else planted_scene(seed, **(row.planted or {}))
    begin, end = row.window_s or (0.0, scene.duration_s)
    window = (begin, min(end, begin + seconds) if seconds else end)
    _check_length(name, window, row.warm_s)
    options = Options(
        seed=seed,
        offset=begin,
        duration=window[1] - begin,
        sensors=replace(SensorModel(), **change.sensors),
        gantries=replace(GantryModel(), **change.gantries),
    )
    rsus = [d for d in scene.devices if d.kind == "rsu"]
    until = _until(change.silent, len(rsus), window)
    silent = {d.id: float(s) for d, s in zip(rsus, until, strict=True) if np.isfinite(s)}
    zones = ZoneMap.parse(scene.zones)
    messages = scene_messages(scene, options, zones, T0_MS, silent)
    truth = Truth(scene)
    reach = scene_reach(scene, truth, until)
    scene.events = [replace(e, observable=e.observable and _seen(e, truth, reach)) for e in scene.events]
    centre = next(
        (e for e in scene.events if row.around and e.kind == row.around and "optional" not in e.details), None
    )
    if centre is not None:
        east, north = truth.frame.to_local(centre.lat, centre.lon)
        reach = replace(reach, focus=(float(east), float(north)))
    ledger = Ledger([], np.zeros(0, SENT), scene.name, T0_MS, begin, 1.0, 1, seed)
    return Case(
        name,
        variant,
        seed,
        zones,
        truth.frame,
        messages,
        window,
        row.warm_s,
        ledger,
        truth.at,
        reach,
        truth,
        row.events,
    )


def _generated(name: str, row: SceneRow, variant: str, change: VariantRow, seed: int, seconds: float | None) -> Case:
    setting = Setting(**{"seed": seed, **row.setting, **change.setting})
    if seconds:
        setting = replace(setting, seconds=min(seconds, setting.seconds))
    window = (0.0, setting.seconds)
    _check_length(name, window, row.warm_s)
    world = make(setting)
    until = _until(change.silent, len(world.places), window)
    silent = {world.device(k): float(s) for k, s in enumerate(until) if np.isfinite(s)}
    zones = ZoneMap.parse(world.zones())
    east, north = np.array(world.places).T
    reach = Reach(east, north, np.full(len(east), setting.range_m), until)

    def at(t_s: float) -> Moment:
        return Moment(*world.traffic.at(t_s))

    ledger = Ledger([], np.zeros(0, SENT), name, T0_MS, 0.0, 1.0, 1, seed)
    messages = world_messages(world, zones, silent)
    return Case(name, variant, seed, zones, FRAME, messages, window, row.warm_s, ledger, at, reach)


def scene_reach(scene: Scene, truth: Truth, until_s: F64 | None = None) -> Reach:
    """Return what the units of a recorded scene reach; ``until_s``: as in Reach, by default they all live on."""
    rsus = [d for d in scene.devices if d.kind == "rsu"]
    places = truth.frame.to_local([d.lat for d in rsus], [d.lon for d in rsus])
    live = np.full(len(rsus), np.inf) if until_s is None else until_s
    return Reach(*places, np.array([d.range_m for d in rsus]), live)


def _check_length(name: str, window: tuple[float, float], warm_s: float) -> None:
    if window[1] - window[0] < warm_s + 1:
        raise ConfigError(
            f"--seconds {window[1] - window[0]:g} is too short for scene {name}: tracks are scored from second "
            f"{warm_s:g} on, so at least {warm_s + 1:g} are needed"
        )


def _until(silent: str, units: int, window: tuple[float, float]) -> F64:
    """Return from which scene second each unit sees nothing any more."""
    until = np.full(units, np.inf)
    if silent == "every other":
        until[1::2] = window[0]
    elif silent == "middle":
        until[units // 2] = window[0] + _GONE_AT * (window[1] - window[0])
    return until


def _seen(event: TruthEvent, truth: Truth, reach: Reach) -> bool:
    """Say whether a unit that lives reaches the event when it may first be told."""
    east, north = truth.frame.to_local([event.lat], [event.lon])
    return bool(reach(event.start_s + event.dwell_s, east, north, 0.0)[0])


def known(names: Sequence[str], every: Mapping[str, Any]) -> list[str]:
    """Return names with ``all`` resolved, in the table's order."""
    return list(every) if "all" in names else list(names)


def pairs(scenes: Sequence[str], variants: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every scene in every variant; of several variants those that a scene cannot have are left out."""
    for scene in scenes:
        for variant in variants:
            if len(variants) == 1 or scene_row(scene).tolled or not variant_row(variant).gantries:
                yield scene, variant
