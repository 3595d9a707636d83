"""What vehicles say of themselves: the flags of their BSMs, given to the track that each BSM is of.

A flag is a witness for the vehicle's track, never an event of its own: hazard lights make a stop a breakdown, an air
bag an accident, ABS at work in several vehicles a slippery road. A vehicle whose id rotates, and that several RSUs
relay, is one witness all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from v2x.events import kernel as k
from v2x.events.catalogue import Rule
from v2x.events.merge import EventBook
from v2x.events.model import BSM, OpenEvent, Source
from v2x.events.table import TrackTable
from v2x.events.weather import Flag
from v2x.fusion.view import TrackView
from v2x.geo import LocalFrame

FLAG_HAZARD, FLAG_ABS, FLAG_TRACTION, FLAG_STABILITY = 1 << 0, 1 << 2, 1 << 3, 1 << 4  # VehicleEventFlags
FLAG_HARD_BRAKING, FLAG_WIPERS, FLAG_DISABLED, FLAG_AIRBAG = 1 << 7, 1 << 9, 1 << 11, 1 << 12
LIGHT_HAZARD: Final = 1 << 4  # ExteriorLights
ENGAGED: Final = 3  # of traction, abs and scs
_STANDING: Final = FLAG_HAZARD | FLAG_DISABLED | FLAG_AIRBAG
_SKIDS: Final = FLAG_ABS | FLAG_TRACTION | FLAG_STABILITY
_WANTED: Final = _STANDING | _SKIDS | FLAG_HARD_BRAKING | FLAG_WIPERS
_GROUPS: Final = {"standing": _STANDING, "hard braking": FLAG_HARD_BRAKING}
_CONFIDENCE: Final = 180  # the vehicle itself says so
_LAT_NONE: Final = 900000001
_LON_NONE: Final = 1800000001


def flags_of(row: Mapping[str, Any]) -> int:
    """Return the flags of a BSM that matter here, those of its lights and brakes as flags too."""
    bits = int(row["event_flags"]) & _WANTED
    if int(row["lights"]) & LIGHT_HAZARD:
        bits |= FLAG_HAZARD
    for name, flag in (("abs", FLAG_ABS), ("traction", FLAG_TRACTION), ("scs", FLAG_STABILITY)):
        if row[name] == ENGAGED:
            bits |= flag
    return bits


class Witnesses:
    """Flags of all vehicles of a zone."""

    def __init__(
        self, rules: Mapping[str, Rule], frame: LocalFrame, book: EventBook, table: TrackTable, counters: Counter[str]
    ) -> None:
        """Begin with none."""
        self._rules, self._frame, self._book, self._table, self._counters = rules, frame, book, table, counters
        self._waiting: list[tuple[int, float, float, int, str, str]] = []  # ts, east, north, bits, device, ref
        self._of: dict[int, tuple[int, int, str, str]] = {}  # track -> (ts, bits, device, ref)

    def take(self, row: Mapping[str, Any]) -> None:
        """Take a BSM; it is given to its track at the next step."""
        bits = flags_of(row)
        if not bits or row["lat"] == _LAT_NONE or row["lon"] == _LON_NONE:
            return
        east, north = self._frame.point(int(row["lat"]), int(row["lon"]))
        self._waiting.append((int(row["ts_ms"]), east, north, bits, str(row["device"]), str(row["temp_id"])))

    def assign(self, now: int, view: TrackView) -> list[Flag]:
        """Give each flag to the track nearest to where its BSM says it is; return what they say of the weather."""
        out: list[Flag] = []
        if not self._waiting and not self._of:
            return out
        reach = self._rules["BREAKDOWN"].limit("flag_m")
        known = self._table.id
        for ts, east, north, bits, device, ref in self._waiting:
            if not len(view):
                break
            away = np.hypot(view.east - east, view.north - north)
            row = int(np.argmin(away))
            track = int(view.id[row])
            if away[row] > reach:
                self._counters["flag_without_track"] += 1
                continue
            self._of[track] = (ts, bits, device, ref)
            at = int(np.searchsorted(known, track))
            if at < len(known) and known[at] == track:
                if bits & _STANDING:
                    self._table.ints[at, k.FLAG_MS] = ts
                if bits & FLAG_AIRBAG:
                    self._table.ints[at, k.AIRBAG_MS] = ts
            for kind, mask in (("SLIPPERY", _SKIDS), ("RAIN", FLAG_WIPERS)):
                if bits & mask:
                    out.append(Flag(kind, track, ref, ts, ts, east, north, device))
            for group, mask in _GROUPS.items():
                event = self._book.of_track(track, group) if bits & mask else None
                if event is not None:
                    self.testify(event, track)
        self._waiting = []
        hold = self._rules["BREAKDOWN"].limit("flag_hold_ms")
        self._of = {t: row for t, row in self._of.items() if now - row[0] <= hold}
        return out

    def testify(self, event: OpenEvent, track: int) -> None:
        """Add the vehicle's own flags to the event's sources."""
        ts, bits, device, ref = self._of.get(track, (0, 0, "", ""))
        if bits & _GROUPS.get(event.group, 0):
            for key in event.reports:  # temporary ids rotate and RSUs relay: the vehicle is one witness all the same
                if key[1] == BSM:
                    device, ref = key[0], key[2]
                    break
            self._book.testify(event, Source(device, BSM, ref, _CONFIDENCE, ts, 0))

    def succeed(self, old: int, new: int) -> None:
        """Let a track that was born again keep its flags."""
        if old in self._of:
            self._of[new] = self._of.pop(old)

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "waiting": [list(row) for row in self._waiting],
            "of": [[track, *row] for track, row in self._of.items()],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Become a ``state``."""
        self._waiting = [(r[0], r[1], r[2], r[3], r[4], r[5]) for r in state["waiting"]]
        self._of = {r[0]: (r[1], r[2], r[3], r[4]) for r in state["of"]}
