"""Catching up: what an outage held back arrives in a burst, and is taken in the order and at the pace of its own time.

::

    stamps      ──────┤ outage: nothing ├── a minute's records within a second or two ──┤────── live
    event time  ─────────────────────── runs on from where it stood, frame by frame ──────────────

A burst lets each device's records come in their order, but devices come through different sessions and partitions of
time: their event times may be seconds apart. So from the first record after a gap on, what has a time of its own is
*held*, until every device that is waited for has come as far, and is then taken by *due time*. That is the device's
time, less how much earlier than the others' its messages usually come: taken in that order, records arrive in fusion
as they would have without the outage. Event time follows the due times, and the idle clock follows event time: frames,
dwell times and time-outs are those of a quiet day, only sooner.

Waited for are roadside units that were heard in the two seconds before the gap or since, but none for longer than half
a second of stream clock. It is over when the last of them is as near to its stamps as event time was before the gap,
when event time runs no faster than the stream clock (the broker's clock was set: no burst at all), or after 30 s.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from typing import Any, Final

from v2x.columns import Record
from v2x.fusion.clock import FRAME_MS, GAP_LIMIT_MS, HEARD_MS, MAX_STEP_MS, EventClock, StreamClock

WAIT_MS: Final = 500
LIVE_MS: Final = 300  # nearer to the stamps than this, as measured before the gap, is live again
PACE_MS: Final = 500  # of stream clock: so often it is asked whether this is a burst at all
SILENT_MS: Final = 5_000  # ... or where no unit says anything
MAX_HELD: Final = 8_192  # records; beyond, the oldest is taken whatever is missing before it

Held = tuple[int, int, Record]  # due time, offset


class CatchUp:
    """Records that are held, and up to when they are due."""

    def __init__(self, clock: StreamClock, events: EventClock) -> None:
        self.active = False
        self.times = 0  # how often
        self._clock, self._events = clock, events
        self._held: list[Held] = []
        self._newest: dict[str, list[int]] = {}  # unit -> due time of its newest scan, stream clock when it came
        self._behind = 0  # ms that event time was behind the stamps before the gap
        self._ahead = 0  # newest due time of all
        self._began = 0  # stream clock at the last gap
        self._heard = False  # whether a scan has come since
        self._mark = [0, 0, 0]  # stream clock, newest due time, that of the last unit, when the pace was looked at

    @property
    def held(self) -> int:
        """Return how many records are held."""
        return len(self._held)

    def begin(self, event_ms: int, behind_ms: int) -> None:
        """Hold from here on, if there is anybody to wait for: event time stood at ``event_ms`` before the gap."""
        now = self._clock.now_ms
        if not self.active:
            heard = self._events.units(now - MAX_STEP_MS - HEARD_MS)
            if not heard:
                return
            self.active, self._behind, self._ahead = True, behind_ms, event_ms
            self.times += 1
            self._newest = {unit: [event_ms, now] for unit in heard}
            self._events.catch_up(on=True)
        for newest in self._newest.values():
            newest[1] = now  # a gap again: wait for all anew
        self._began, self._mark, self._heard = now, [now, self._ahead, event_ms], False

    def hold(self, record: Record, device: str, ts_ms: int, *, scan: bool) -> None:
        """Keep a record of ``ts_ms`` by its device's clock ('': by event time); scans say how far a unit has come."""
        due = self._events.due_ms(device, ts_ms) if device else ts_ms
        insort(self._held, (due, record.offset, record))
        if scan and self._events.is_unit(device):
            newest = self._newest.setdefault(device, [due, 0])
            newest[0], newest[1] = max(newest[0], due), self._clock.now_ms
            self._ahead, self._heard = max(self._ahead, due), True

    def take(self, stamp_ms: int) -> list[Held]:
        """Return what is due now, in order; ``active`` is False if this was the last of it."""
        now = self._clock.now_ms
        waited = [due for due, heard in self._newest.values() if now - heard <= WAIT_MS]
        upto = min(waited, default=self._ahead)
        n = max(len(self._held) - MAX_HELD, 0)
        if self._over(stamp_ms, now, upto):
            self.active, n = False, len(self._held)
        elif n == 0 and upto < self._events.now(now) + FRAME_MS:
            return []
        while n < len(self._held) and self._held[n][0] <= upto:
            n += 1
        out, self._held = self._held[:n], self._held[n:]
        return out

    def end(self) -> None:
        """Let the clocks go on as before: what was held has been taken."""
        self._newest = {}
        self._events.catch_up(on=False)
        self._clock.calm()

    def _over(self, stamp_ms: int, now: int, upto: int) -> bool:
        if stamp_ms - upto <= self._behind + LIVE_MS or now - self._began >= GAP_LIMIT_MS:
            return True
        took = now - self._mark[0]
        if took < (PACE_MS if self._heard else SILENT_MS):
            return False
        gained = max(self._ahead - self._mark[1], upto - self._mark[2])  # the first may be live and the last far behind
        self._mark = [now, self._ahead, upto]
        return 2 * gained <= 3 * took

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "active": self.active, "times": self.times, "newest": self._newest, "behind": self._behind,
            "ahead": self._ahead, "began": self._began, "mark": self._mark, "heard": self._heard,
            "held": [
                [due, r.offset, r.stamp_ms, None if r.key is None else r.key.hex(), r.value.hex(),
                 [[name, value.hex()] for name, value in r.headers]]
                for due, _, r in self._held
            ],
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a ``state``."""
        self.active, self.times, self._behind = state["active"], state["times"], state["behind"]
        self._ahead, self._began, self._mark = state["ahead"], state["began"], list(state["mark"])
        self._heard = state["heard"]
        self._newest = {unit: list(row) for unit, row in state["newest"].items()}
        self._held = []
        for due, offset, stamp_ms, key, value, headers in state["held"]:
            heads = tuple((name, bytes.fromhex(text)) for name, text in headers)
            known = None if key is None else bytes.fromhex(key)
            self._held.append((due, offset, Record(offset, stamp_ms, known, bytes.fromhex(value), heads)))
