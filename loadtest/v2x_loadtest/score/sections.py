"""Hours of a motorway between gantries, without roadside units: travel times, their forecast, suspected incidents.

``python -m v2x_loadtest.score.sections --seeds 1001-1004`` runs SUMO (extra ``record``) for two hours a seed: one
carriageway of three lanes, four gantries, a rush hour, one vehicle in fifteen that halts for minutes where nobody
counts it as traffic, and an incident: two lanes blocked for ten minutes. Records of the gantries go through the real
pairing stage, with a share of the transactions missing (and with them what the cards would have told; one plate in
twenty is unread), and its passages through the sections' statistics. The truth is SUMO's own times at the gantries.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from v2x.columns import Record
from v2x.events.catalogue import KINDS
from v2x.events.suspicion import Suspicions
from v2x.gantry import GantryStage
from v2x.sections.forecast import MINUTES
from v2x.sections.windows import GRACE_MS, STEP_MS, WINDOW_MS, SectionStats
from v2x.zones import ZoneMap

from v2x_codecs.decoder import ColumnDecoder
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.options import parse_seeds
from v2x_loadtest.record import motorway as m
from v2x_loadtest.record.drive import need_sumo
from v2x_loadtest.record.fleet import MOTORWAY
from v2x_loadtest.scene.model import BUS, TRUCK
from v2x_loadtest.score.play import WORLD
from v2x_loadtest.score.setting import T0_MS
from v2x_services.fusion.domain import blank

HOURS: Final = 2
GANTRIES: Final = ("E01", "E04", "E07", "E09")  # at the ends of these edges
BLOCKED: Final = "E06"  # between the second and the third
BLOCKED_S: Final = 600
FREE_MPS: Final = 29.0
HALTS: Final = 1 / 15
SETTLED_S: Final = 900.0
Trip = tuple[int, list[float]]  # toll type, when it was at each gantry (s)
Row = dict[str, Any]
Sent = tuple[float, str, str, Row]  # arrival s, vehicle, schema, fields
_START: Final = T0_MS // WINDOW_MS * WINDOW_MS


@dataclass(slots=True)
class Figures:
    """Of one seed."""

    travel: list[float] = field(default_factory=list)  # errors of windows, %
    forecast: list[float] = field(default_factory=list)  # errors, %
    naive: list[float] = field(default_factory=list)  # of the last minute's mean taken for the next five
    inside: list[bool] = field(default_factory=list)
    width: list[float] = field(default_factory=list)  # of the interval, %
    found_s: float | None = None  # from the begin of the incident
    false: int = 0  # suspicions of no incident
    hours: float = 0.0  # of sections


def drive(seed: int, *, calm: bool, hours: float = HOURS) -> tuple[list[Trip], float]:
    """Return by vehicle its toll type and when it was at each gantry (s), and when the incident began.

    The incident begins after 40 to 90 minutes, or never if there are fewer.
    """
    rng = np.random.default_rng(seed)
    need_sumo()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        net = m.build(folder, m.Axis())
        edges = [edge for edge, way, _, _ in m.all_edges() if way == 0]
        began = float(rng.uniform(2400, 5400))
        rows = [kind.xml() for kind in MOTORWAY]
        rows.append(f'<route id="r" edges="{" ".join(edges)}"/>')
        peak, high = rng.uniform(1800, 5400), rng.uniform(3600, 4600)
        todo: list[tuple[float, str]] = []
        t = 0.0
        while t < hours * 3600:
            rate = (1500 + (high - 1500) * np.exp(-(((t - peak) / 1500) ** 2))) / 3600
            t += rng.exponential(1 / rate)
            kind = MOTORWAY[int(rng.choice(len(MOTORWAY), p=[k.share for k in MOTORWAY]))].name
            todo.append((t, _vehicle(f"{kind}-{len(todo)}", kind, t, "best")))
        for lane in () if calm else (1, 2):
            at = began - 150.0
            stop = f'<stop lane="{BLOCKED}_{lane}" endPos="300" duration="{BLOCKED_S}"/>'
            todo.append((at, _vehicle(f"blocks-{lane}", "saloon", at, str(lane), stop)))
        rows += [row for _, row in sorted(todo)]
        (folder / "m.rou.xml").write_text(f"<routes>{''.join(rows)}</routes>")
        _, tool = need_sumo()
        subprocess.run(
            [str(tool.parent / "sumo"), "-n", str(net), "-r", str(folder / "m.rou.xml"), "--seed", str(seed),
             "--step-length", "0.5", "--step-method.ballistic", "true", "--time-to-teleport", "-1", "--no-step-log",
             "true", "--collision.action", "none", "--end", str(hours * 3600), "--vehroute-output",
             str(folder / "out.xml"), "--vehroute-output.exit-times", "true", "--vehroute-output.write-unfinished",
             "true", "--no-warnings", "true"],
            check=True, capture_output=True,
        )  # fmt: skip
        types = {k.name: 13 if k.cls == TRUCK and k.length > 12 else 12 if k.cls == TRUCK else 3 if k.cls == BUS else 1
                 for k in MOTORWAY}  # fmt: skip
        where = [edges.index(edge) for edge in GANTRIES]
        out, stood = [], began
        for vehicle in ET.parse(folder / "out.xml").getroot().iter("vehicle"):  # noqa: S314
            route = vehicle.find("route")
            times = [float(x) for x in (route.get("exitTimes", "") if route is not None else "").split()]
            passed = [times[i] for i in where if i < len(times) and times[i] > 0]
            if vehicle.get("id", "").startswith("blocks"):
                before = edges.index(BLOCKED) - 1
                stood = max(stood, times[before]) if before < len(times) else stood
            elif passed:
                out.append((types[vehicle.get("id", "").split("-")[0]], passed))
    return out, stood


def _vehicle(name: str, kind: str, depart_s: float, lane: str, stop: str = "") -> str:
    return (
        f'<vehicle id="{name}" type="{kind}" route="r" depart="{depart_s:.1f}" departLane="{lane}" departSpeed="max">'
        f"{stop}</vehicle>"
    )


def records(rows: Sequence[Trip], missing: float, seed: int) -> list[Sent]:
    """Return (arrival s, vehicle, schema, fields) of what the gantries send, in order of arrival."""
    rng = np.random.default_rng(seed + 10_000)
    out: list[Sent] = []
    for number, (kind, passed) in enumerate(rows):
        last, ms = "", 0
        for gantry, t in zip(GANTRIES, passed, strict=False):
            here, at = f"0000{gantry[1:]}", _START + round(t * 1000)
            if rng.random() >= missing:
                fields = {"gantry_hex": here, "trans_ms": at // 1000 * 1000, "vehicle_type": kind,
                          "last_gantry_hex": last, "last_gantry_ms": ms}  # fmt: skip
                out.append((t + rng.uniform(1, 4), f"v{number}", "gantry_transaction", fields))
                last, ms = here, at // 1000 * 1000
            if rng.random() >= 1 / 20:
                picture = {"gantry_hex": here, "pic_ms": at}
                out.append((t + rng.uniform(0.3, 1.5), f"v{number}", "gantry_plate", picture))
    return sorted(out, key=lambda row: row[0])


def with_halts(rows: Sequence[Trip], seed: int) -> list[Trip]:
    """Return the same with halts between two gantries, which SUMO's traffic does not know of."""
    rng = np.random.default_rng(seed + 20_000)
    out = []
    for kind, passed in rows:
        at = int(rng.integers(1, len(GANTRIES)))
        late = float(rng.uniform(180, 1500)) if rng.random() < HALTS else 0.0
        out.append((kind, [t + late * (n >= at) for n, t in enumerate(passed)]))
    return out


def _zones(length_m: Sequence[float]) -> ZoneMap:
    hexes = [f"0000{g[1:]}" for g in GANTRIES]
    place = {"lat": 31.5, "lon": 120.3}
    return ZoneMap.parse(
        {
            "version": 1, "name": "sections", "zones": [
                {"id": "Z", "polygon": [[31.0, 120.0], [31.0, 121.0], [32.0, 121.0]], "neighbours": []}],
            "devices": {}, "gantries": {h: {"device": f"G-{h}", "dir": 1, **place} for h in hexes},
            "sections": [
                {"section": f"{a}>{b}", "from": a, "to": b, "length_m": length, "zone": "Z",
                 "free_speed_mps": FREE_MPS} for a, b, length in zip(hexes, hexes[1:], length_m, strict=False)],
        }
    )  # fmt: skip


def passages(zones: ZoneMap, sent: Sequence[Sent]) -> Iterator[tuple[float, Row]]:
    """Yield (second, passage) as the pairing stage makes them of the records."""
    registry = Registry.load()
    codec = ReferenceCodec(registry, strict=False)
    stage = GantryStage(zones, ColumnDecoder(registry), codec, 0, 1)
    genesis = {"generation": WORLD, "partition": 0, "partitions": 1, "ts_ms": _START}
    stage.feed([Record(0, _START, b"genesis", codec.encode("genesis", genesis), ())])
    for n, (t, vehicle, schema, fields) in enumerate(sent, 1):
        value = codec.encode(schema, {**blank(registry.get(schema).raw), "device": "G", "drive_dir": 1, **fields})
        for made in stage.feed([Record(n, _START + round(t * 1000), vehicle.encode(), value, ())]):
            yield t, codec.decode_kafka(made.value)[1]


def judge(trips: tuple[list[Trip], float], seed: int, missing: float, *, calm: bool, hours: float = HOURS) -> Figures:
    """Send, pair and compare what ``drive`` returned; ``calm``: without the incident."""
    rows, began = trips
    ends = {edge: b for edge, way, _, b in m.all_edges() if way == 0}
    zones = _zones([ends[b] - ends[a] for a, b in pairwise(GANTRIES)])
    true = {
        s.section: sorted((p[k + 1], p[k + 1] - p[k]) for _, p in rows if len(p) > k + 1)
        for k, s in enumerate(zones.sections)
    }
    stats, rule = SectionStats("Z", list[Any](zones.sections)), Suspicions(KINDS["INCIDENT_SUSPECTED"])
    coming = passages(zones, records(with_halts(rows, seed), missing, seed))
    waiting = next(coming, None)
    out = Figures(hours=len(zones.sections) * (hours * 3600 - SETTLED_S) / 3600)
    stats.advance(_START)
    told: set[str] = set()
    latest: dict[tuple[str, int], Row] = {}
    for second in range(1, round(hours * 3600)):
        while waiting is not None and waiting[0] < second:
            stats.passage(waiting[1])
            waiting = next(coming, None)
        for row in stats.advance(_START + second * 1000):
            key = row["link"], row["to_ms"]
            if not row["forecast_ms"]:  # told again, by a late passage: the forecast of that moment stands
                row |= {k: v for k, v in latest.get(key, row).items() if k.startswith("forecast")}
            latest[key] = row
        if (second * 1000 - GRACE_MS) % STEP_MS == 0:
            for name, signs in stats.signs().items():
                level, _ = rule.judge(name, signs, explained=False)
                if level and name not in told:
                    hit = not calm and name == zones.sections[1].section and began <= second <= began + BLOCKED_S + 300
                    out.found_s = second - began if hit and out.found_s is None else out.found_s
                    # Its queue reaches back into the section before, which is no false alarm.
                    back = (
                        not calm and name == zones.sections[0].section and began <= second <= began + BLOCKED_S + 1200
                    )
                    out.false += not (hit or back)
                told = told | {name} if level else told - {name}
    _compare(latest, true, out, hours)
    return out


def _compare(
    latest: dict[tuple[str, int], Row], true: dict[str, list[tuple[float, float]]], out: Figures, hours: float
) -> None:
    def mean(section: str, first: float, last: float) -> float | None:
        times = [travel for at, travel in true[section] if first <= at < last]
        return sum(times) / len(times) if times else None

    for (section, to_ms), row in latest.items():
        end = (to_ms - _START) / 1000
        if end < SETTLED_S:
            continue
        came = mean(section, end - 60, end)
        if came and row["travel_time"]:
            out.travel.append(abs(row["travel_time"] / 1000 / came - 1) * 100)
        if row["forecast_ms"] != to_ms or end + 60 * MINUTES > hours * 3600:
            continue
        came = mean(section, end, end + 60 * MINUTES)
        if came:
            out.forecast.append(abs(row["forecast"] / 1000 / came - 1) * 100)
            out.inside.append(row["forecast_low"] <= came * 1000 <= row["forecast_high"])
            out.width.append((row["forecast_high"] - row["forecast_low"]) / row["forecast"] * 100)
            if row["travel_time"]:
                out.naive.append(abs(row["travel_time"] / 1000 / came - 1) * 100)


def main() -> None:
    """Print the figures of each seed, and of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1001-1002")
    parser.add_argument("--missing", type=float, action="append", help="share of the transactions; again for more")
    parser.add_argument("--calm", action="store_true", help="without the incident")
    args = parser.parse_args()
    every: dict[float, list[Figures]] = {missing: [] for missing in args.missing or [0.0, 0.2]}
    for seed in parse_seeds(args.seeds, 100):
        trips = drive(seed, calm=args.calm)
        for missing, own in every.items():
            own.append(judge(trips, seed, missing, calm=args.calm))
            print(_text(f"missing {missing:.0%} seed {seed}", own[-1:]), flush=True)
    for missing, own in every.items():
        print(_text(f"missing {missing:.0%} all", own), flush=True)


def _text(name: str, every: Sequence[Figures]) -> str:
    def of(what: str, mean: Callable[[Any], Any] = np.mean) -> float:
        return float(mean([x for one in every for x in getattr(one, what)] or [np.nan]))

    found = ["not at all" if one.found_s is None else f"{one.found_s:.0f} s" for one in every]
    return (
        f"{name}: travel time MAPE {of('travel'):.2f} %, forecast {of('forecast'):.2f} % (last minute kept: "
        f"{of('naive'):.2f} %), inside {of('inside'):.3f}, interval {of('width'):.0f} % wide "
        f"(median {of('width', np.median):.0f} %); incident after "
        f"{', '.join(found)}; {sum(one.false for one in every)} false in {sum(one.hours for one in every):.0f} "
        "section-hours"
    )


if __name__ == "__main__":
    main()
