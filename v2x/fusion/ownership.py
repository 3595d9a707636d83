"""Who reports a track: ownership moves from zone to zone through the log, and the global id moves with it.

::

                 100 m before the border           2 m past it
    A owns  ──── adopt(id, state) ────►  B binds its own track to the id
            ──── adopt again each 100 ms within 20 m: a lease of 300 ms
            ──── release(id, state, T) ────────────────────►  B reports event times > T, A those <= T

Both zones see the vehicle all along (the devices near a border are written to both), so what moves is the id, not the
track. T lies three frames ahead of the release, time enough for the record to arrive, and frames of all zones carry
event times on one 50 ms grid: no vehicle is told twice for one instant, nor left out. Where no release comes (the
neighbour is dead) the lease runs out and B takes over. A track that nobody owns is taken by the zone it is in. Should
both zones have taken one (two births on the line), the smaller id wins. Zones of one partition have one log and need
not go through it to speak to each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import hypot
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.place import LEASE_MS, RELEASE
from v2x.fusion.zone import ZoneState

BIND_M: Final = 5.0
BIND_MPS: Final = 6.0
BIND_GATE: Final = 16.0
STALE_MS: Final = 200
LATE_MS: Final = 1_000  # nobody is where he was so long ago
KNOWN_HITS: Final = 20  # what a neighbour owns is no young track
P_SIZE: Final = 10
_TRIANGLE: Final = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3))

Message = tuple[str, str, dict[str, Any]]  # schema, zone it goes to, fields but the source position


class Ownership:
    """Ownership in one zone; its state is in the track table."""

    def __init__(self, zone: ZoneState) -> None:
        self.zone = zone
        self.counters: Counter[str] = Counter()

    # -- what this zone decides -------------------------------------------------------------------------------------
    def tell(self, told: list[list[int]], taken: int, event_ms: int) -> list[Message]:
        """Return the records that go to neighbours: ``told`` and ``taken`` are what v2x.fusion.place decided."""
        z, out = self.zone, list[Message]()
        if taken:
            self.counters["taken_over"] += taken
        for row, what, beside in told:
            if what == RELEASE:
                self.counters["released"] += 1
                out.append(("release", z.neighbours[beside - 1], self._state(row, int(z.i[row, c.I_UNTIL]))))
            else:
                self.counters["adopts_sent"] += 1
                out.append(("adopt", z.neighbours[beside - 1], self._state(row, event_ms)))
        return out

    def _state(self, row: int, event_ms: int) -> dict[str, Any]:
        """Return the fields of adopt and release, predicted to an event time."""
        z = self.zone
        s, i = z.s[row], z.i[row]
        state = list(z.at(row, event_ms))
        cov = [[0.0] * 4 for _ in range(4)]
        for (a, b), value in zip(_TRIANGLE, s[c.S_P : c.S_P + P_SIZE].tolist(), strict=True):
            cov[a][b] = cov[b][a] = value
        return {
            "from_zone": z.id,
            "track": int(i[c.I_GID]),
            "state": state + [x for line in cov for x in line],
            "origin_lat": round(z.frame.lat * 1e7),
            "origin_lon": round(z.frame.lon * 1e7),
            "event_ms": event_ms,
            "object_class": int(i[c.I_CLS]),
            "length": min(round(float(s[c.S_LEN]) * 100), 4095),
            "width": min(round(float(s[c.S_WID]) * 100), 1023),
        }

    # -- what a neighbour says --------------------------------------------------------------------------------------
    def adopt(self, record: Mapping[str, Any], stream_ms: int, idle_ms: int, told_ms: int) -> bool:
        """Take a neighbour's word that it owns a track near us; return whether we told it too, until now.

        A word older than a lease is that of a zone that was away: we keep what we took over.
        """
        if told_ms - record["event_ms"] > LEASE_MS:
            self.counters["adopted_late"] += 1
            return False
        row = self._find(record, idle_ms)
        if row < 0:
            return False
        i = self.zone.i[row]
        both = bool(i[c.I_OWN]) and not i[c.I_UNTIL]
        if both:
            # Both report it: the one that took it over from a neighbour it believed dead steps back.
            self.counters["disowned"] += 1
            i[c.I_OWN] = i[c.I_UNTIL] = i[c.I_FROM] = i[c.I_TOLD] = 0
        i[c.I_LEASE] = stream_ms
        self.counters["adopted"] += 1
        return both

    def release(self, record: Mapping[str, Any], stream_ms: int, idle_ms: int, told_ms: int) -> None:
        """Take a track over: ours for event times after the record's."""
        row = self._find(record, idle_ms, late=told_ms - record["event_ms"] > LATE_MS)
        if row < 0:
            return
        i = self.zone.i[row]
        i[c.I_LEASE] = stream_ms
        if i[c.I_OWN]:
            return
        i[c.I_OWN] = 1
        i[c.I_UNTIL] = i[c.I_TOLD] = i[c.I_LONE] = 0
        i[c.I_FROM] = record["event_ms"]
        self.counters["taken"] += 1
        if told_ms > record["event_ms"]:
            self.counters["taken_late"] += 1

    def _find(self, record: Mapping[str, Any], idle_ms: int, *, late: bool = False) -> int:
        """Return the row that has this id, binding or making one if need be; -1: our own claim is older.

        A late word is good for a track that we know by that id, no more: -1.
        """
        z, gid = self.zone, int(record["track"])
        east, north, ve, vn, cov = self.here(record)
        live = np.flatnonzero(z.i[: z.ctl[c.CTL_TOP], c.I_STATUS] != c.FREE)
        same = live[z.i[live, c.I_GID] == gid]
        if len(same):
            row = int(same[0])
            if record["event_ms"] - z.i[row, c.I_LAST] > STALE_MS and not z.i[row, c.I_OWN]:
                self._set(row, record, (east, north, ve, vn), cov, idle_ms)
            return row
        if late:
            self.counters["released_late"] += 1
            return -1
        best, least = -1, BIND_GATE
        for row in live.tolist():
            s, i = z.s[row], z.i[row]
            x, y, we, wn = z.at(row, record["event_ms"])
            x, y = x - east, y - north
            if abs(x) > BIND_M or abs(y) > BIND_M or hypot(we - ve, wn - vn) > BIND_MPS:
                continue
            if i[c.I_GID] and not i[c.I_OWN]:
                continue  # bound to another
            spread = s[c.S_P] + s[c.S_P + 4] + cov[0] + cov[4] + 2.0 * float(z.prm[c.Q_BIAS]) ** 2
            d = float((x * x + y * y) / (0.5 * spread))
            if d < least:
                best, least = row, d
        if best < 0:
            self.counters["adopted_unseen"] += 1
            return self._make(record, (east, north, ve, vn), cov, idle_ms)
        i = z.i[best]
        if i[c.I_OWN] and i[c.I_GID] < gid:
            self.counters["claim_kept"] += 1
            return -1
        i[c.I_GID] = gid
        i[c.I_STATUS] = c.CONFIRMED
        return best

    def here(self, record: Mapping[str, Any]) -> tuple[float, float, float, float, list[float]]:
        """Return position, velocity and covariance of a record about our origin."""
        state = record["state"]
        z = self.zone
        origin = (record["origin_lat"], record["origin_lon"])
        if origin == (round(z.frame.lat * 1e7), round(z.frame.lon * 1e7)):
            east, north = state[0], state[1]
        else:
            other = type(z.frame)(origin[0] / 1e7, origin[1] / 1e7)
            lat, lon = other.to_geo(state[0], state[1])
            there, up = z.frame.to_local(lat, lon)
            east, north = float(there), float(up)
        return east, north, state[2], state[3], [state[4 + 4 * a + b] for a, b in _TRIANGLE]

    def _make(
        self, record: Mapping[str, Any], state: tuple[float, float, float, float], cov: list[float], idle_ms: int
    ) -> int:
        z = self.zone
        row = z.take_row(state[0], state[1])
        i = z.i[row]
        i[c.I_STATUS] = c.CONFIRMED
        i[c.I_HITS] = KNOWN_HITS
        i[c.I_GID] = record["track"]
        i[c.I_BORN] = record["event_ms"]
        i[c.I_CLS] = record["object_class"]
        if 0 < record["object_class"] < c.CLASSES:
            z.votes[row, record["object_class"]] = 1.0
        self._set(row, record, state, cov, idle_ms)
        return row

    def _set(
        self, row: int, record: Mapping[str, Any], state: tuple[float, float, float, float], cov: list[float],
        idle_ms: int,
    ) -> None:  # fmt: skip
        """Let a track that nobody here measures follow its owner's word."""
        z = self.zone
        s, i = z.s[row], z.i[row]
        s[c.S_E], s[c.S_N], s[c.S_VE], s[c.S_VN] = state
        s[c.S_P : c.S_P + P_SIZE] = cov
        s[c.S_OMEGA] = s[c.S_SWING] = 0.0  # a rate of turning would belong to another covariance
        s[c.S_W : c.S_W + 5] = 0.0
        s[c.S_LEN], s[c.S_WID] = record["length"] * 0.01, record["width"] * 0.01
        s[c.S_SIZE_W] = max(float(s[c.S_SIZE_W]), 1.0)
        s[c.S_VREF] = hypot(state[2], state[3])
        if s[c.S_VREF] > 1.0:
            s[c.S_HX], s[c.S_HY] = state[2] / s[c.S_VREF], state[3] / s[c.S_VREF]
            i[c.I_HEADSET] = 2
        i[c.I_T] = i[c.I_TREF] = i[c.I_LAST] = record["event_ms"]
        i[c.I_SEEN] = idle_ms
