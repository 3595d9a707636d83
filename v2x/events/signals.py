"""What the signals say: by lane for the rules of vehicles, by node for the rule of the signals themselves.

Who stands at a red light is no event, nor who waits on green for others to pass. A lane counts as green only if every
phase of its connections is protected green: the first in a lane that may go straight while its left turn is red may
well want to turn left. A lane is closed (nobody may drive over its stop line) only if every phase is plain red.

A node's signals fail (v2x.events.catalogue, SIGNAL_FAILURE) when its SPAT ceases although its RSU is heard, when all
its lights are dark or it says itself that it is out of order, or when it shows protected green to two ways that cross.
All of it is columns: a device's SPAT names the same phases each time, so their rows are looked up once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from v2x.columns import Table
from v2x.events.rule import Rule
from v2x.fusion.jit import kernel
from v2x.geo import F64
from v2x.road import Road

UNKNOWN, RED, GREEN = 0, 1, 2
SILENT, DARK, CLASH = 1, 2, 3  # why signals fail: also the event's level
STALE_MS: Final = 3000  # SPAT comes twice a second or more often
MAX_STEP_MS: Final = 250
_GREEN: Final = 6  # protected; on permissive green (5) one may have to wait, all through it
_OFF: Final = 1  # dark
_STOP: Final = 3  # plain red
_OUT_OF_ORDER: Final = 1 << 2 | 1 << 8 | 1 << 9  # failureFlash, failureMode, off

_LIGHT, _SINCE, _TOLD, _PHASE_WIDTH = range(4)  # columns of the phases' table: light as in SPAT
(
    _N_TOLD, _N_STATUS, _N_COUNT, _N_ALIVE,  # last SPAT, its status, how many so far; its RSU was heard otherwise
    _N_SILENT, _N_DARK, _N_CLASH,  # how long it has been so, ms
    _N_CAUSE, _N_OFF,  # the event's cause, 0 none; since when it is not seen any more
    _N_OWN, _NODE_WIDTH,  # 0: a neighbour's, who judges it
) = range(11)  # fmt: skip
_TOUCH: Final = 1.0  # m4: what only touches does not cross
_P_SILENT, _P_ALIVE, _P_KNOWN, _P_DARK, _P_CLASH, _P_END, _P_COUNT = range(7)

Node = tuple[int, int]  # region, node
Phase = tuple[int, int, int]  # region, node, phase
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(slots=True)
class Lights:
    """By lane."""

    light: I8  # 0 unknown, 1 red or yellow, 2 green
    green_ms: I64  # since when it is green
    red_ms: I64  # since when all its phases are plain red; 0: not


@kernel("void(int64, int64[:, ::1], int32[::1], int32[::1], int8[::1], int64[::1], int64[::1])")
def _lanes(now: Any, table: Any, start: Any, items: Any, light: Any, green: Any, red: Any) -> None:
    """Write the lights of every lane; ``items[start[lane]:start[lane + 1]]`` are its phases' rows, -1 unknown."""
    for lane in range(light.shape[0]):
        first, last = start[lane], start[lane + 1]
        light[lane], green[lane], red[lane] = UNKNOWN, 0, 0
        greens, stops, reds, known, latest, closed = 0, 0, 0, 0, 0, 0
        for x in range(first, last):
            row = items[x]
            if row < 0 or now - table[row, _TOLD] > STALE_MS:
                continue
            known += 1
            now_shows = table[row, _LIGHT]
            if now_shows == _GREEN:
                greens += 1
                latest = max(latest, table[row, _SINCE])
            elif now_shows in (2, 3, 4, 7):  # flashing green (4) is about to end
                reds += 1
                if now_shows == _STOP:
                    stops += 1
                    closed = max(closed, table[row, _SINCE])
        if known == last - first and known > 0:
            if greens == known:
                light[lane], green[lane] = GREEN, latest
            elif reds > 0:
                light[lane] = RED
            if stops == known:
                red[lane] = closed


@kernel(
    "boolean(int64, int64, int64, int64[:, ::1], int32[::1], int64[::1], int64[:, ::1], int32[::1], int32[::1], "
    "int64[::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1])"
)
def _take(
    n: int, ts: int, own: int, nodes: Any, nodes_msg: Any, node_cols: Any, phases: Any, phases_msg: Any, parent: Any,
    phase_cols: Any, our_nodes: Any, our_phases: Any, table: Any, about: Any,
) -> Any:  # fmt: skip
    """Write message ``n`` of a batch; False, with nothing written, if it names other phases than ``our_phases``.

    ``node_cols``: columns of region, node, status; ``phase_cols``: of phase and light. ``our_nodes``: region, node, row
    in ``about``; ``our_phases``: index of the node, phase, row in ``table``: as the message is expected to name them.
    """
    a = np.searchsorted(nodes_msg, n)
    c = np.searchsorted(phases_msg, n)
    count, total = our_nodes.shape[0], our_phases.shape[0]
    if np.searchsorted(nodes_msg, n + 1) - a != count or np.searchsorted(phases_msg, n + 1) - c != total:
        return False
    for x in range(count):
        if nodes[a + x, node_cols[0]] != our_nodes[x, 0] or nodes[a + x, node_cols[1]] != our_nodes[x, 1]:
            return False
    for x in range(total):
        if parent[c + x] - a != our_phases[x, 0] or phases[c + x, phase_cols[0]] != our_phases[x, 1]:
            return False
    for x in range(count):
        row = our_nodes[x, 2]
        about[row, _N_COUNT] += 1
        about[row, _N_OWN] = own
        if ts >= about[row, _N_TOLD]:
            about[row, _N_TOLD], about[row, _N_STATUS] = ts, nodes[a + x, node_cols[2]]
    for x in range(total):
        row = our_phases[x, 2]
        if ts < table[row, _TOLD]:
            continue  # late
        if table[row, _LIGHT] != phases[c + x, phase_cols[1]]:
            table[row, _LIGHT], table[row, _SINCE] = phases[c + x, phase_cols[1]], ts
        table[row, _TOLD] = ts
    return True


@kernel("int64(int64, int64, int64[:, ::1], int64[:, ::1], int64[::1], int64[:, ::1], int64[::1], int64[:, ::1])")
def _judge(now: int, step: int, table: Any, about: Any, node_of: Any, pairs: Any, p: Any, found: Any) -> Any:
    """Judge the signals of all nodes; write (node's row, cause, since ms) where that changed, and return how many.

    ``node_of``: by phase, its node's row; ``pairs``: rows of two phases whose ways cross, and their node's. Cause 0: it
    is over.
    """
    count = about.shape[0]
    dark = np.ones(count, np.int8)
    clash = np.zeros(count, np.int8)
    for row in range(table.shape[0]):
        if table[row, _LIGHT] != _OFF or now - table[row, _TOLD] > STALE_MS:
            dark[node_of[row]] = 0
    for x in range(pairs.shape[0]):
        a, b = pairs[x, 0], pairs[x, 1]
        both = table[a, _LIGHT] == _GREEN and table[b, _LIGHT] == _GREEN
        if both and table[a, _TOLD] == table[b, _TOLD] and now - table[a, _TOLD] <= STALE_MS:
            clash[pairs[x, 2]] = 1  # in one message
    n = 0
    for row in range(count):
        if about[row, _N_OWN] == 0:
            continue
        fresh = now - about[row, _N_TOLD] <= STALE_MS
        lives = now - about[row, _N_ALIVE] <= p[_P_ALIVE] and about[row, _N_ALIVE] - about[row, _N_TOLD] > STALE_MS
        silent = not fresh and lives and about[row, _N_COUNT] >= p[_P_KNOWN]
        off = fresh and (dark[row] != 0 or (about[row, _N_STATUS] & _OUT_OF_ORDER) != 0)
        # It fell silent when it last spoke, not when that was noticed.
        about[row, _N_SILENT] = max(about[row, _N_SILENT], STALE_MS) + step if silent else 0
        about[row, _N_DARK] = about[row, _N_DARK] + step if off else 0
        about[row, _N_CLASH] = about[row, _N_CLASH] + step if clash[row] != 0 else 0
        cause, held = 0, 0
        if about[row, _N_CLASH] >= p[_P_CLASH]:
            cause, held = CLASH, about[row, _N_CLASH]
        elif about[row, _N_DARK] >= p[_P_DARK]:
            cause, held = DARK, about[row, _N_DARK]
        elif about[row, _N_SILENT] >= p[_P_SILENT]:
            cause, held = SILENT, about[row, _N_SILENT]
        was = about[row, _N_CAUSE]
        if cause > 0:
            about[row, _N_OFF] = 0
            if cause == was:
                continue
        elif was == 0:
            continue
        else:
            if about[row, _N_OFF] == 0:
                about[row, _N_OFF] = now
            held = now - about[row, _N_OFF]
            if held < p[_P_END]:
                continue
        about[row, _N_CAUSE] = cause
        found[n, 0], found[n, 1], found[n, 2] = row, cause, now - held
        n += 1
    return n


class Signals:
    """Lights by phase, from them by lane, and the health of each node's signals."""

    def __init__(self, rule: Rule) -> None:
        """Begin without knowledge."""
        self._p = np.zeros(_P_COUNT, dtype=np.int64)
        for at, name in enumerate(("silent_ms", "alive_ms", "known", "dark_ms", "clash_ms")):
            self._p[at] = int(rule.limit(name))
        self._p[_P_END] = rule.end_ms
        self.nodes: list[Node] = []
        self._node_rows: dict[Node, int] = {}
        self._rows: dict[Phase, int] = {}
        self._table: I64 = np.zeros((0, _PHASE_WIDTH), dtype=np.int64)
        self._about: I64 = np.zeros((0, _NODE_WIDTH), dtype=np.int64)
        self._known: dict[str, tuple[I64, I64]] = {}  # device -> what its last SPAT named, as _take wants it
        self._now = 0
        self._fields: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._node_cols = self._phase_cols = np.zeros(0, dtype=np.int64)
        self._map = (-1, -1)  # the road's version and the number of phases that what follows is of
        self._start: I32 = np.zeros(1, dtype=np.int32)
        self._items: I32 = np.zeros(0, dtype=np.int32)
        self._node_of: I64 = np.zeros(0, dtype=np.int64)
        self._pairs: I64 = np.zeros((0, 3), dtype=np.int64)
        self._found: I64 = np.zeros((0, 3), dtype=np.int64)
        self._lights = Lights(np.zeros(0, dtype=np.int8), *np.zeros((2, 0), dtype=np.int64))

    # -- what comes in ----------------------------------------------------------------------------------------------
    def spat(self, device: str, ts_ms: int, n: int, nodes: Table, phases: Table, *, own: bool) -> None:
        """Take message ``n`` of a batch: rows of spat.intersections and spat.intersections.phases.

        ``own``: the device is of this zone, not a neighbour's whose signals are seen from here.
        """
        if self._fields != (nodes.fields, phases.fields):
            self._fields = (nodes.fields, phases.fields)
            self._node_cols = np.array([nodes.fields.index(x) for x in ("region", "node", "status")], dtype=np.int64)
            self._phase_cols = np.array([phases.fields.index(x) for x in ("phase_id", "light")], dtype=np.int64)
        known = self._known.get(device)
        if known is None or not self._write(n, ts_ms, own, nodes, phases, known):
            known = self._known[device] = self._look_up(n, nodes, phases)
            self._write(n, ts_ms, own, nodes, phases, known)

    def _write(self, n: int, ts_ms: int, own: bool, nodes: Table, phases: Table, known: tuple[I64, I64]) -> bool:
        written: bool = _take(
            n, ts_ms, int(own), nodes.data, nodes.msg, self._node_cols, phases.data, phases.msg, phases.parent,
            self._phase_cols, *known, self._table, self._about,
        )  # fmt: skip
        return written

    def _look_up(self, n: int, nodes: Table, phases: Table) -> tuple[I64, I64]:
        """Return the rows of all that a message names, made where they are new."""
        a, b = np.searchsorted(nodes.msg, (n, n + 1)).tolist()
        c, d = np.searchsorted(phases.msg, (n, n + 1)).tolist()
        of_node = [(*node, self._node(node)) for node in map(tuple, nodes.data[a:b, self._node_cols[:2]].tolist())]
        of_phase = [
            (at, phase, self._phase((*of_node[at][:2], phase)))
            for at, phase in zip(
                (phases.parent[c:d] - a).tolist(), phases.data[c:d, self._phase_cols[0]].tolist(), strict=True
            )
        ]
        return (
            np.array(of_node, dtype=np.int64).reshape(-1, 3),
            np.array(of_phase, dtype=np.int64).reshape(-1, 3),
        )

    def alive(self, device: str, ts_ms: int) -> None:
        """Note that a device said something else than SPAT."""
        known = self._known.get(device)
        if known is not None:
            for row in known[0][:, 2].tolist():
                self._about[row, _N_ALIVE] = max(int(self._about[row, _N_ALIVE]), ts_ms)

    def _node(self, node: Node) -> int:
        row = self._node_rows.get(node)
        if row is None:
            row = self._node_rows[node] = len(self.nodes)
            self.nodes.append(node)
            self._about = np.vstack((self._about, np.zeros((1, _NODE_WIDTH), dtype=np.int64)))
        return row

    def _phase(self, phase: Phase) -> int:
        row = self._rows.get(phase)
        if row is None:
            row = self._rows[phase] = len(self._rows)
            self._table = np.vstack((self._table, np.zeros((1, _PHASE_WIDTH), dtype=np.int64)))
        return row

    # -- what follows -----------------------------------------------------------------------------------------------
    def by_lane(self, now: int, road: Road) -> Lights:
        """Return the lights of every lane; good until the next call."""
        self._fit(road)
        out = self._lights
        if not self._rows:  # nobody tells any: all are unknown, as they were made
            return out
        _lanes(now, self._table, self._start, self._items, out.light, out.green_ms, out.red_ms)
        return out

    def judge(self, now: int, road: Road) -> list[tuple[int, int, int]]:
        """Return (node's row, cause, ms) of those that began to fail, or fail otherwise, since ms, or ended (0)."""
        step = min(max(now - self._now, 0), MAX_STEP_MS) if self._now else 0
        self._now = max(now, self._now)
        if not self.nodes:
            return []
        self._fit(road)
        n = _judge(now, step, self._table, self._about, self._node_of, self._pairs, self._p, self._found)
        return [(row, cause, since) for row, cause, since in self._found[:n].tolist()]

    def _fit(self, road: Road) -> None:
        """Make what depends on the map anew if that has grown."""
        here = (road.version, len(self._rows))
        if here == self._map and len(self._lights.light) == len(road.lanes):
            return
        self._map = here
        self._start = np.cumsum([0, *map(len, road.phases)]).astype(np.int32)
        self._items = np.array([self._rows.get(ph, -1) for own in road.phases for ph in own], dtype=np.int32)
        count = len(road.lanes)
        self._lights = Lights(np.zeros(count, dtype=np.int8), *np.zeros((2, count), dtype=np.int64))
        self._node_of = np.array([self._node_rows[phase[:2]] for phase in self._rows], dtype=np.int64)
        self._found = np.zeros((len(self.nodes), 3), dtype=np.int64)
        pairs = [
            (self._rows[*node, a], self._rows[*node, b], row)
            for node, row in self._node_rows.items()
            for a, b in crossing_phases(road, node)
            if (*node, a) in self._rows and (*node, b) in self._rows
        ]
        self._pairs = np.array(pairs, dtype=np.int64).reshape(-1, 3)

    # -- state ------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "now": self._now,
            "phases": [[*phase, *self._table[row].tolist()] for phase, row in self._rows.items()],
            "nodes": [[*node, *self._about[row].tolist()] for row, node in enumerate(self.nodes)],
            "known": {device: [named.tolist() for named in known] for device, known in self._known.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self._now = state["now"]
        self._map = (-1, -1)
        self._rows, self._node_rows = {}, {}
        self.nodes = []
        self._table, self._about = self._table[:0], self._about[:0]
        for region, node, *rest in state["nodes"]:
            row = self._node((region, node))  # first: it makes the table anew
            self._about[row] = rest
        for region, node, phase, *rest in state["phases"]:
            row = self._phase((region, node, phase))
            self._table[row] = rest
        self._known = {
            device: (np.array(nodes, dtype=np.int64).reshape(-1, 3), np.array(phases, dtype=np.int64).reshape(-1, 3))
            for device, (nodes, phases) in state["known"].items()
        }


def crossing_phases(road: Road, node: Node) -> list[tuple[int, int]]:
    """Return the pairs of a node's phases of which two ways cross, by the straight lines from stop line to exit.

    Ways from one link, or to one, do not count: they part or merge.
    """
    ways = [
        (phase, lane, after)
        for lane in road.node_lanes.get(node, ())
        for after, phase, _ in road.ways[lane]
        if phase and len(road.lines[lane]) > 1 and len(road.lines[after]) > 1
    ]
    if len(ways) < 2:
        return []
    phase, lane, after = np.array(ways, dtype=np.int64).T
    begin = np.array([road.lines[x][-1] for x in lane])
    end = np.array([road.lines[x][0] for x in after])

    def side(a: F64, b: F64, c: F64) -> F64:
        """Return for all (i, j) on which side of the line a[i]–b[i] the point c[j] is."""
        along = b - a
        return along[:, :1] * (c[:, 1] - a[:, 1:]) - along[:, 1:] * (c[:, 0] - a[:, :1])

    parted = side(begin, end, begin) * side(begin, end, end) < -_TOUCH  # the ends of j are on two sides of i
    link = road.lanes.link
    apart = (link[lane][:, None] != link[lane]) & (link[after][:, None] != link[after])
    first, second = np.nonzero(parted & parted.T & apart & (phase[:, None] < phase))
    return sorted(set(zip(phase[first].tolist(), phase[second].tolist(), strict=True)))
