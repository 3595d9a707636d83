"""The motorway: its course, its network, its demand. Distances are posts in metres along the median, eastward.

A gentle double bend of radius 2.9 km; each way three lanes of 3.75 m and a hard shoulder of 3.5 m. Recorded is the part
from -300 to 4300 m; 900 m beyond each end let traffic settle.
"""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Final

import numpy as np

from v2x_loadtest.record.drive import netconvert
from v2x_loadtest.record.fleet import MOTORWAY, Kind
from v2x_loadtest.record.grid import Grid
from v2x_loadtest.record.lanes import EMERGENCY, VEHICLE, Connection, Lane, LaneMap, Link, NetFile, Node, join, simplify
from v2x_loadtest.scene.model import BUS, F8, TRUCK

LANE, SHOULDER, MEDIAN = 3.75, 3.5, 1.5  # m; MEDIAN is from the axis to the first lane
HALF: Final = MEDIAN + 3 * LANE + SHOULDER
LIMIT, LOWEST = 120 / 3.6, 60 / 3.6
BEGIN, END = -300.0, 4300.0  # recorded
RUN_IN: Final = 900.0
# Ends of links: 500 m each, but for one that holds a whole queue.
_CUTS: Final = (
    (-300.0, 200.0, 700.0, 1200.0, 1700.0, 2200.0, 2700.0, 3700.0, 4300.0),
    (4300.0, 3800.0, 3300.0, 2800.0, 2300.0, 1800.0, 1300.0, 800.0, 300.0, -300.0),
)
CLOSED: Final = (3640.0, 3700.0)  # eastbound, where two lanes close
_TURN, _PERIOD, _COURSE = 0.25, 4600.0, math.radians(18.0)  # of the bends; direction of the axis, from east


class Axis:
    """The median: kilometre post to grid point and back."""

    def __init__(self) -> None:
        self.s = np.arange(BEGIN - RUN_IN - 100, END + RUN_IN + 101, 1.0)
        self.theta = _COURSE + _TURN * np.sin(2 * np.pi * (self.s - BEGIN) / _PERIOD)
        mid = (self.theta[1:] + self.theta[:-1]) / 2
        x = np.concatenate([[0.0], np.cumsum(np.cos(mid))])
        y = np.concatenate([[0.0], np.cumsum(np.sin(mid))])
        zero = int(np.searchsorted(self.s, 2000.0))
        self.x, self.y = x - x[zero], y - y[zero]

    def at(self, s: float, left: float = 0.0) -> tuple[float, float]:
        """Return the grid point at post ``s``, ``left`` of the axis as one looks east."""
        x, y, th = (float(np.interp(s, self.s, v)) for v in (self.x, self.y, self.theta))
        return x - left * math.sin(th), y + left * math.cos(th)

    def line(self, a: float, b: float, left: float, spacing: float = 10.0) -> list[tuple[float, float]]:
        """Return points from post ``a`` to ``b`` at a distance from the axis."""
        n = max(2, round(abs(b - a) / spacing) + 1)
        return [self.at(float(s), left) for s in np.linspace(a, b, n)]

    def post(self, x: F8, y: F8) -> tuple[F8, F8]:
        """Return (post, left) of grid points."""
        x, y = np.asarray(x, float), np.asarray(y, float)
        s = 2000.0 + x * math.cos(_COURSE) + y * math.sin(_COURSE)
        for _ in range(6):
            th = np.interp(s, self.s, self.theta)
            dx, dy = x - np.interp(s, self.s, self.x), y - np.interp(s, self.s, self.y)
            s = s + dx * np.cos(th) + dy * np.sin(th)
        left: F8 = dy * np.cos(th) - dx * np.sin(th)
        return s, left


def lane_left(way: int, lane_id: int) -> float:
    """Return how far left of the axis a lane's centre is; ``way`` 0 east, 1 west; lane 4 is the shoulder."""
    off = MEDIAN + LANE * (lane_id - 0.5) if lane_id < 4 else MEDIAN + 3 * LANE + SHOULDER / 2
    return off if way else -off


def all_edges() -> list[tuple[str, int, float, float]]:
    """Return (edge, way, from post, to post) of all edges, in driving order."""
    out: list[tuple[str, int, float, float]] = []
    for way, letter in ((0, "E"), (1, "W")):
        posts = sorted({BEGIN - RUN_IN, *_CUTS[way], END + RUN_IN, *((CLOSED[0],) if way == 0 else ())})
        if way:
            posts.reverse()
        out += [(f"{letter}{i:02d}", way, a, b) for i, (a, b) in enumerate(itertools.pairwise(posts))]
    return out


def edge_at(way: int, post: float) -> tuple[str, float]:
    """Return the edge that holds a post, and how far from its start."""
    for name, w, a, b in all_edges():
        if w == way and min(a, b) <= post <= max(a, b):
            return name, abs(post - a)
    raise ValueError(post)


def build(folder: Path, axis: Axis) -> Path:
    """Write the plain network and let netconvert make it."""
    nodes, edges, ways = [], [], []
    every = all_edges()
    for name, way, a, b in every:
        left = MEDIAN if way else -MEDIAN
        for post in (a, b):
            x, y = axis.at(post, left)
            nodes.append(f'<node id="n{"EW"[way]}{post:.0f}" x="{x:.3f}" y="{y:.3f}" type="unregulated" radius="0"/>')
        shape = " ".join(f"{x:.3f},{y:.3f}" for x, y in axis.line(a, b, left))
        edges.append(
            f'<edge id="{name}" from="n{"EW"[way]}{a:.0f}" to="n{"EW"[way]}{b:.0f}" numLanes="4" speed="{LIMIT:.4f}" '
            f'width="{LANE}" spreadType="right" shape="{shape}">'
            f'<lane index="0" allow="emergency custom1" width="{SHOULDER}"/>'
            + "".join(f'<lane index="{i}" allow="passenger bus truck custom1"/>' for i in (1, 2, 3))
            + "</edge>"
        )
    for (a_name, a_way, _, _), (b_name, b_way, _, _) in itertools.pairwise(every):
        if a_way == b_way:
            ways += [f'<connection from="{a_name}" to="{b_name}" fromLane="{i}" toLane="{i}"/>' for i in range(4)]
    (folder / "m.nod.xml").write_text(f"<nodes>{''.join(sorted(set(nodes)))}</nodes>")
    (folder / "m.edg.xml").write_text(f"<edges>{''.join(edges)}</edges>")
    (folder / "m.con.xml").write_text(f"<connections>{''.join(ways)}</connections>")
    net = folder / "motorway.net.xml"
    netconvert(
        "-n", str(folder / "m.nod.xml"), "-e", str(folder / "m.edg.xml"), "-x", str(folder / "m.con.xml"),
        "-o", str(net), "--junctions.minimal-shape", "true",
        "--no-turnarounds", "true", "--no-internal-links", "true", "--precision", "3",
        "--offset.disable-normalization", "true",
    )  # fmt: skip
    return net


def lane_map(net: NetFile, grid: Grid, axis: Axis) -> LaneMap:
    """Return links (about 500 m each), nodes and lanes of the network."""
    out = LaneMap(grid)
    for way, letter in ((0, "E"), (1, "W")):
        cuts = _CUTS[way]
        for i, post in enumerate(cuts):
            number = 1001 + 100 * way + i
            x, y = axis.at(post, 0.0)
            out.nodes[number] = Node(number, f"K{post / 1000:.1f}{letter}", x, y)
        for i, (a, b) in enumerate(itertools.pairwise(cuts)):
            link = Link(f"M-{letter}{i + 1}", 1001 + 100 * way + i, 1002 + 100 * way + i, 1)
            index = len(out.links)
            chain = [n for n, w, p, q in all_edges() if w == way and min(a, b) <= min(p, q) and max(p, q) <= max(a, b)]
            for sumo_index in (3, 2, 1, 0):
                names = [f"{edge}_{sumo_index}" for edge in chain]
                lane = Lane(
                    index,
                    4 - sumo_index,
                    VEHICLE if sumo_index else EMERGENCY,
                    net.width[names[0]],
                    LOWEST if sumo_index else None,
                    LIMIT if sumo_index else None,
                    simplify(join([net.shape[n] for n in names])),
                )
                if i + 2 < len(cuts):
                    lane.connections.append(Connection(link.down + 1, lane.lane_id, 0, 1))
                link.lanes.append(lane)
                out.of_sumo.update(dict.fromkeys(names, (index, lane.lane_id)))
            out.links.append(link)
    for inner, outer in net.internal_of().items():
        if outer in out.of_sumo:
            out.of_sumo[inner] = out.of_sumo[outer]
    return out


def demand(path: Path, seed: int, until_s: float, rate: float) -> dict[str, Kind]:
    """Write vehicles for both directions, ``rate`` a second each, with safe gaps by lane; return their kinds by id."""
    rng = random.Random(seed)
    kinds = {k.name: k for k in MOTORWAY}
    every = all_edges()
    routes = "".join(
        f'<route id="r{letter}" edges="{" ".join(e for e, w, _, _ in every if w == way)}"/>'
        for way, letter in ((0, "E"), (1, "W"))
    )
    rows: list[tuple[float, str]] = []
    who: dict[str, Kind] = {}
    for letter in "EW":
        free = [0.0, 0.0, 0.0, 0.0]
        t, n = 0.0, 0
        while t < until_s:
            t += 0.35 + rng.expovariate(1.0 / (1.0 / rate - 0.35))
            kind = rng.choices(MOTORWAY, [k.share for k in MOTORWAY])[0]
            lane = 1 if kind.cls in {TRUCK, BUS} else rng.choices((1, 2, 3), (0.12, 0.44, 0.44))[0]
            at = max(t, free[lane])
            free[lane] = at + 2.0 + rng.random() * 0.6
            id_ = f"{letter}{n:05d}"
            n += 1
            who[id_] = kind
            text = (
                f'<vehicle id="{id_}" type="{kind.name}" route="r{letter}" depart="{at:.1f}" departLane="{lane}" '
                'departPos="base" departSpeed="desired"/>'
            )
            rows.append((at, text))
    rows.sort()
    types = "".join(k.xml('lcStrategic="0.2" lcCooperative="1" lcKeepRight="0.3"') for k in kinds.values())
    path.write_text(f"<routes>{types}{routes}{''.join(text for _, text in rows)}</routes>")
    return who
