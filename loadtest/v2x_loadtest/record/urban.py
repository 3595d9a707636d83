"""The town: a grid of three by two signalled junctions, its network and demand. Plane coordinates x, y before the turn.

Junctions are 400 m apart along the two avenues (rows) and 350 m along the three streets (columns); each carriageway has
two lanes of 3.5 m and a sidewalk. The middle street runs one way, north. Both avenues come from the west over long
approaches without a junction. The whole grid is turned by 12 degrees, so that nothing lies along an axis.
"""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Final

import numpy as np

from v2x_loadtest.record.drive import netconvert
from v2x_loadtest.record.fleet import URBAN, Kind
from v2x_loadtest.record.grid import Grid
from v2x_loadtest.record.lanes import (
    CROSSWALK,
    SIDEWALK,
    VEHICLE,
    Connection,
    Lane,
    LaneMap,
    Link,
    NetFile,
    Node,
    join,
    simplify,
)
from v2x_loadtest.record.signals import phases
from v2x_loadtest.scene.model import F8

BLOCK_X, BLOCK_Y, LEG = 400.0, 350.0, 300.0
LANE, WALK = 3.5, 3.0
LIMIT, LOWEST = 60 / 3.6, 25 / 3.6
TURN: Final = math.radians(12.0)
# Ends of the western approaches and the places where they are cut into links and edges.
WEST: Final = {0: (-1250.0, -800.0, -540.0, -500.0, -350.0), 1: (-900.0, -450.0)}
# SUMO edges that are one link of the MAP: the closed bit lies within a link.
CLOSED: Final = "W0_-540_E"


def spot(x: float, y: float) -> tuple[float, float]:
    """Return the grid point of plane coordinates."""
    return x * math.cos(TURN) - y * math.sin(TURN), x * math.sin(TURN) + y * math.cos(TURN)


def plane(x: F8, y: F8) -> tuple[F8, F8]:
    """Return plane coordinates of grid points."""
    return x * math.cos(TURN) + y * math.sin(TURN), -x * math.sin(TURN) + y * math.cos(TURN)


def junctions() -> dict[str, tuple[float, float]]:
    """Return the signalled junctions in plane coordinates."""
    return {f"J{c}{r}": (BLOCK_X * c, BLOCK_Y * r) for c in range(3) for r in range(2)}


def layout() -> tuple[dict[str, tuple[float, float]], list[tuple[str, str, str]]]:
    """Return all nodes (plane) and all edges (name, from, to)."""
    nodes = dict(junctions())
    pairs: list[tuple[str, str, bool]] = []
    for r in range(2):
        pairs += [(f"J0{r}", f"J1{r}", True), (f"J1{r}", f"J2{r}", True)]
        nodes[f"E{r}"] = (2 * BLOCK_X + LEG, BLOCK_Y * r)
        pairs.append((f"J2{r}", f"E{r}", True))
    for c in range(3):
        pairs.append((f"J{c}0", f"J{c}1", c != 1))
        nodes[f"S{c}"], nodes[f"N{c}"] = (BLOCK_X * c, -LEG), (BLOCK_X * c, BLOCK_Y + LEG)
        pairs += [(f"S{c}", f"J{c}0", True), (f"J{c}1", f"N{c}", True)]
    edges: list[tuple[str, str, str]] = []
    for a, b, both in pairs:
        edges.append((f"{a}_{b}", a, b))
        if both:
            edges.append((f"{b}_{a}", b, a))
    for r, cuts in WEST.items():
        names = [f"W{r}_{x:.0f}" for x in cuts] + [f"J0{r}"]
        nodes |= {n: (x, BLOCK_Y * r) for n, x in zip(names, cuts, strict=False)}
        for a, b in itertools.pairwise(names):
            edges += [(f"{a}_E", a, b), (f"{a}_W", b, a)]
    return nodes, edges


def links() -> list[tuple[str, list[str]]]:
    """Return (link, its edges in driving order); edges before the first recorded place are no link."""
    _, edges = layout()
    out = [(f"U-{name.replace('_', '-')}", [name]) for name, _, _ in edges if not name.startswith("W")]
    out += [
        ("U-A-IN1", ["W0_-800_E", "W0_-540_E", "W0_-500_E"]), ("U-A-IN2", ["W0_-350_E"]),
        ("U-A-OUT1", ["W0_-350_W"]), ("U-A-OUT2", ["W0_-500_W", "W0_-540_W", "W0_-800_W"]),
        ("U-B-IN", ["W1_-450_E"]), ("U-B-OUT", ["W1_-450_W"]),
        ("U-B-IN0", ["W1_-900_E"]), ("U-B-OUT0", ["W1_-900_W"]),
    ]  # fmt: skip
    return out


def build(folder: Path) -> Path:
    """Write the plain network and let netconvert make it."""
    nodes, edges = layout()
    signalled = junctions()
    node_xml, edge_xml, more = [], [], []
    for name, (px, py) in nodes.items():
        x, y = spot(px, py)
        kind = "traffic_light" if name in signalled else "priority"
        node_xml.append(f'<node id="{name}" x="{x:.3f}" y="{y:.3f}" type="{kind}"/>')
    for name, a, b in edges:
        edge_xml.append(
            f'<edge id="{name}" from="{a}" to="{b}" numLanes="3" speed="{LIMIT:.4f}" width="{LANE}">'
            f'<lane index="0" allow="pedestrian" width="{WALK}" speed="2.0"/>'
            '<lane index="1" disallow="pedestrian"/><lane index="2" disallow="pedestrian"/></edge>'
        )
    for junction in signalled:
        legs: dict[str, list[str]] = {}
        for name, a, b in edges:
            if junction in {a, b}:
                legs.setdefault(b if a == junction else a, []).append(name)
        more += [
            f'<crossing node="{junction}" edges="{" ".join(sorted(names))}" priority="true" width="4"/>'
            for _, names in sorted(legs.items())
        ]
    (folder / "u.nod.xml").write_text(f"<nodes>{''.join(node_xml)}</nodes>")
    (folder / "u.edg.xml").write_text(f"<edges>{''.join(edge_xml)}</edges>")
    (folder / "u.con.xml").write_text(f"<connections>{''.join(more)}</connections>")
    net = folder / "urban.net.xml"
    netconvert(
        "-n", str(folder / "u.nod.xml"), "-e", str(folder / "u.edg.xml"), "-x", str(folder / "u.con.xml"),
        "-o", str(net), "--no-turnarounds", "true", "--precision", "3", "--offset.disable-normalization", "true",
        "--tls.default-type", "static", "--tls.cycle.time", "70", "--tls.yellow.time", "3", "--tls.allred.time", "2",
        "--junctions.internal-link-detail", "12", "--default.junctions.radius", "8",
    )  # fmt: skip
    return net


def lane_map(net: NetFile, grid: Grid) -> LaneMap:
    """Return links, nodes, lanes, crosswalks and signal phases of the network."""
    out = LaneMap(grid)
    where, edges = layout()
    ends = {name: (a, b) for name, a, b in edges}
    number = {name: 2001 + i for i, name in enumerate(sorted(where))}
    of_edge: dict[str, int] = {}
    for index, (name, chain) in enumerate(links()):
        of_edge.update(dict.fromkeys(chain, index))
        up, down = ends[chain[0]][0], ends[chain[-1]][1]
        link = Link(name, number[up], number[down], 3)
        for node in (up, down):
            out.nodes[number[node]] = Node(number[node], node, *spot(*where[node]))
        for sumo_index in (2, 1, 0):
            names = [f"{edge}_{sumo_index}" for edge in chain]
            motor = sumo_index > 0
            link.lanes.append(
                Lane(
                    index, 3 - sumo_index, VEHICLE if motor else SIDEWALK, net.width[names[0]],
                    LOWEST if motor else None, LIMIT if motor else None,
                    simplify(join([net.shape[n] for n in names])),
                )
            )  # fmt: skip
            out.of_sumo.update(dict.fromkeys(names, (index, 3 - sumo_index)))
        out.links.append(link)
    of_index = {id_: phases(program)[2] for id_, program in net.programs.items()}
    _connect(net, out, of_edge, of_index)
    _crosswalks(net, out, number)
    inner = net.internal_of()
    cut = {n for n in where if n not in junctions()}
    for lane, source in inner.items():  # at a mere cut of a road the way through belongs to the road before it
        if lane[1:].rsplit("_", 2)[0] in cut and source in out.of_sumo:
            out.of_sumo[lane] = out.of_sumo[source]
    return out


def _connect(net: NetFile, out: LaneMap, of_edge: dict[str, int], of_index: dict[str, dict[int, int]]) -> None:
    bits = {"s": 1, "l": 2, "L": 2, "r": 4, "R": 4, "t": 8}
    for c in net.connections:
        a, b = of_edge.get(c["from"]), of_edge.get(c["to"])
        if a is None or b is None or a == b or c["fromLane"] == "0":
            continue
        lane = out.lane(a, 3 - int(c["fromLane"]))
        assert lane is not None
        phase = of_index[c["tl"]][int(c["linkIndex"])] if "tl" in c else 0
        lane.connections.append(Connection(out.links[b].down, 3 - int(c["toLane"]), phase, bits.get(c["dir"], 0)))


def _crosswalks(net: NetFile, out: LaneMap, number: dict[str, int]) -> None:
    """Give each crosswalk to the link that leads to it (or away, where none does), as lanes 21, 22, … of it."""
    for edge, function in net.function.items():
        if function != "crossing":
            continue
        name = net.edge_lanes[edge][0]
        line = net.shape[name]
        node = number[edge[1:].rsplit("_", 1)[0]]
        middle = line.mean(axis=0)
        best = min(
            (i for i, link in enumerate(out.links) if node in {link.down, link.up}),
            key=lambda i: (
                min(
                    float(np.hypot(*(lane.line[-1 if out.links[i].down == node else 0] - middle)))
                    for lane in out.links[i].lanes
                    if lane.type == VEHICLE
                ),
                i,
            ),
        )
        link = out.links[best]
        lane_id = 21 + sum(x.type == CROSSWALK for x in link.lanes)
        link.lanes.append(Lane(best, lane_id, CROSSWALK, net.width[name], None, None, line))


# Trips: (from, to, vehicles a second). The way in over A is busy: it feeds the queue that is planted there.
_FLOWS: Final = (
    ("W0_-1250_E", "J20_E0", 0.20), ("W0_-1250_E", "J10_S1", 0.10), ("W0_-1250_E", "J01_N0", 0.08),
    ("W0_-1250_E", "J11_N1", 0.03), ("W0_-1250_E", "J00_S0", 0.07),
    ("W1_-900_E", "J21_E1", 0.09), ("W1_-900_E", "J21_N2", 0.03), ("W1_-900_E", "J10_S1", 0.02),
    ("E0_J20", "W0_-1250_W", 0.12), ("E0_J20", "J20_S2", 0.03), ("E1_J21", "W1_-900_W", 0.10),
    ("E1_J21", "J01_N0", 0.03), ("S0_J00", "J01_N0", 0.05), ("N0_J01", "J00_S0", 0.06), ("S1_J10", "J20_E0", 0.04),
    ("N1_J11", "W1_-900_W", 0.04), ("S2_J20", "J21_N2", 0.04), ("N2_J21", "J20_S2", 0.04),
    ("S2_J20", "W0_-1250_W", 0.03), ("N2_J21", "J21_E1", 0.03), ("S1_J10", "W0_-1250_W", 0.03),
)  # fmt: skip
_WALKS: Final = (("J00_J10", "J10_J20"), ("J10_J00", "J00_S0"), ("J01_J11", "J11_N1"), ("J21_J11", "J11_J01"),
                 ("J20_J21", "J21_E1"), ("S0_J00", "J00_J01"), ("J20_J10", "J10_S1"), ("N2_J21", "J21_J20"),
                 ("S1_J10", "J10_J11"), ("J11_J21", "J21_J20"))  # fmt: skip


def demand(path: Path, seed: int, until_s: float) -> dict[str, Kind]:
    """Write vehicles and walkers; return the vehicles' kinds by id."""
    rng = random.Random(seed)
    rows: list[tuple[float, str, str]] = []
    who: dict[str, Kind] = {}
    for flow, (a, b, rate) in enumerate(_FLOWS):
        t = rng.random() / rate
        while t < until_s:
            kind = rng.choices(URBAN, [k.share for k in URBAN])[0]
            id_ = f"f{flow:02d}.{len(who):05d}"
            who[id_] = kind
            text = (
                f'<trip id="{id_}" type="{kind.name}" from="{a}" to="{b}" depart="{t:.1f}" departLane="best" '
                'departPos="base" departSpeed="desired"/>'
            )
            rows.append((t, id_, text))
            t += 1.2 + rng.expovariate(1.0 / (1.0 / rate - 1.2))
    for walk, (a, b) in enumerate(_WALKS):
        t, n = rng.random() * 40.0, 0
        while t < until_s:
            id_ = f"p{walk:02d}.{n:03d}"
            rows.append(
                (t, id_, f'<person id="{id_}" depart="{t:.1f}"><walk from="{a}" to="{b}" speed="1.3"/></person>')
            )
            t, n = t + 25.0 + rng.expovariate(1 / 30.0), n + 1
    rows.sort()
    types = "".join(k.xml('lcKeepRight="0.2"') for k in URBAN)
    path.write_text(f"<routes>{types}{''.join(text for _, _, text in rows)}</routes>")
    return who
