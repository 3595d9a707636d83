"""Time, from the log alone: the stream clock, the idle clock for time-outs, and the event clock that frames carry.

*Stream clock.* Kafka stamps each record when it appends it (LogAppendTime). Per partition the stream clock advances at
each record by clamp(stamp - previous stamp, 0, 250 ms): a broker's clock that jumps ahead an hour, or an outage of ten
minutes, moves it by a quarter of a second, and one that jumps back does not stop it.

*Idle clock.* Time-outs count on it. It is the stream clock, but it stands still in a *gap* (a step < 0 or > 250 ms)
until a device's time is again within 2 s of its record's stamp, or for 30 s of stream clock: a backlog after an outage
must not kill every track. While such a backlog is caught up with (v2x.fusion.catchup), both follow its own times.

*Event clock.* Frames are predicted to one event time, which devices and truth share: E = stream clock + D. D is the
median over the devices heard in the last two seconds of (device time - stream clock), smoothed per device and without
what its clock is off (``rate``), so one device's wrong clock or slow link does not move it. E never goes back, runs
between half and one and a half times the stream clock's pace while it follows D, and jumps ahead only where the devices
are more than half a second ahead of it (an outage). Frames leave whenever E passes a multiple of 50 ms: neighbouring
zones, also in other partitions, report the same instants, which an exact handover needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from v2x.fusion.jit import kernel
from v2x.fusion.layout import I64

MAX_STEP_MS: Final = 250
NEAR_STAMP_MS: Final = 2_000
GAP_LIMIT_MS: Final = 30_000
FRAME_MS: Final = 50
HEARD_MS: Final = 2_000
FORGET_MS: Final = 60_000
JUMP_MS: Final = 500
HOLE_MS: Final = 1_000
STEADY_MS: Final = 5_000  # a skew is steady once it has been seen for this long
RETIME_MS: Final = 1_000  # a steadier skew than this is taken out of the device's times
RATE_MS: Final = 500  # devices' clocks are compared so often ...
WINDOW_MS: Final = 2_000  # ... by the quickest message of this window and the one before
SUSPECT_MS: Final = 60  # clocks that differ less are none of ours: the zones' biases take care of them
SAME_MS: Final = 40
AGREE_MS: Final = 30  # where half of the devices differ more from the median, the broker's clock has a say ...
APART_MS: Final = 90  # ... and from here on the word
_UNHEARD: Final = -(1 << 40)
_SMOOTH_SHIFT: Final = 3  # the smoothed difference moves by an eighth
_FIRST_ROWS: Final = 64

# The stream clock's numbers: previous stamp (-1 none yet), stream clock, idle clock, stream clock at the start of a gap
# (-1 not in one), gaps.
STAMP, NOW, IDLE, FROZEN, GAPS = range(5)
# The event clock's: begun, by a device (else by a tick only), D, event time of the last frame (a multiple of FRAME_MS),
# whether it catches up (v2x.fusion.catchup), D when it began to.
STARTED, ANCHORED, OFFSET, TOLD, CATCHING, BASE = range(6)
# A device's: difference in 1/8 ms, heard at (NEVER: forgotten), steady since, re-timed by; the largest difference of
# this window and of the last, and how far that is from the others' (0: near enough).
DELTA, HEARD, SINCE, RETIMED, BEST, BEFORE, SKEW = range(7)
DEVICE_COLS: Final = 7
NEVER: Final = -1


@kernel("int64(int64[::1], int64)")
def advance(clock: Any, stamp_ms: int) -> Any:
    """Take the next record's stamp; return the step of the stream clock."""
    if clock[STAMP] < 0:
        clock[STAMP] = clock[NOW] = stamp_ms
        return 0
    raw = stamp_ms - clock[STAMP]
    clock[STAMP] = stamp_ms
    step = min(max(raw, 0), MAX_STEP_MS)
    clock[NOW] += step
    if raw != step:
        clock[GAPS] += 1
        clock[FROZEN] = clock[NOW]
    if clock[FROZEN] < 0:
        clock[IDLE] += step
    elif clock[NOW] - clock[FROZEN] >= GAP_LIMIT_MS:
        clock[FROZEN] = -1
    return step


@kernel("void(int64[::1], int64)")
def fresh(clock: Any, ts_ms: int) -> None:
    """Take the device time of the present record; a fresh one ends a gap."""
    if clock[FROZEN] >= 0 and abs(ts_ms - clock[STAMP]) <= NEAR_STAMP_MS:
        clock[FROZEN] = -1


@kernel("void(int64[::1], int64, int64)")
def begin(events: Any, ts_ms: int, stream_ms: int) -> None:
    """Let event time begin at ts_ms."""
    events[STARTED] = 1
    events[OFFSET] = ts_ms - stream_ms
    events[TOLD] = ts_ms // FRAME_MS * FRAME_MS


@kernel("int64(int64[::1], int64[:,::1], int64, int64, int64)")
def hear(events: Any, devices: Any, number: int, ts_ms: int, stream_ms: int) -> Any:
    """Take a device's time; return by how much fusion shall re-time it (its steady skew where that is > 1 s)."""
    row = devices[number]
    if events[CATCHING]:  # stream clock and devices tell nothing of each other
        if row[HEARD] == NEVER:
            return 0
        row[HEARD] = stream_ms
        return row[RETIMED]
    delta = ts_ms - stream_ms
    if (
        row[HEARD] == NEVER or abs(delta - (row[DELTA] >> _SMOOTH_SHIFT)) > JUMP_MS
    ):  # another delay, or its clock was set
        row[DELTA], row[SINCE], row[RETIMED] = delta << _SMOOTH_SHIFT, stream_ms, 0
        row[BEST], row[BEFORE], row[SKEW] = delta, _UNHEARD, 0
    else:
        row[DELTA] += delta - (row[DELTA] >> _SMOOTH_SHIFT)
        row[BEST] = max(row[BEST], delta)
    row[HEARD] = stream_ms
    if not events[ANCHORED]:
        events[ANCHORED] = 1
        if not events[STARTED] or abs(delta - events[OFFSET]) > JUMP_MS:
            begin(events, ts_ms, stream_ms)
    if stream_ms - row[SINCE] >= STEADY_MS:
        skew = (row[DELTA] >> _SMOOTH_SHIFT) - events[OFFSET]
        row[RETIMED] = skew if abs(skew) > RETIME_MS else 0
    return row[RETIMED]


@kernel("int64(int64[::1], int64)")
def next_due(events: Any, stream_ms: int) -> Any:
    """Go on to the next frame; return its event time, -1 if it is not due."""
    if not events[STARTED] or stream_ms + events[OFFSET] < events[TOLD] + FRAME_MS:
        return -1
    events[TOLD] += FRAME_MS
    return events[TOLD]


@kernel("void(int64[::1], int64[:,::1], int64, int64)")
def rate(events: Any, devices: Any, count: int, stream_ms: int) -> None:
    """Compare the clocks of the first ``count`` devices by their quickest messages: no delay is below zero.

    What lies far from the median is a wrong clock, or a link that is always slow: zones find out (v2x.fusion.skew).
    Where the devices do not agree among themselves, the median means little, and the broker's clock is taken, if it
    lies among them.
    """
    best = np.empty(count, np.int64)
    n = 0
    for k in range(count):
        if devices[k, HEARD] != NEVER and stream_ms - devices[k, HEARD] <= HEARD_MS:
            best[n] = max(devices[k, BEST], devices[k, BEFORE])
            n += 1
    if n == 0:
        return
    ranked = np.sort(best[:n])
    middle = ranked[(n - 1) // 2]
    spread = np.sort(np.abs(ranked - middle))[n // 2]
    if spread > AGREE_MS and ranked[0] < SUSPECT_MS and ranked[n - 1] > -SUSPECT_MS:
        middle -= middle * min(spread - AGREE_MS, APART_MS - AGREE_MS) // (APART_MS - AGREE_MS)
    for k in range(count):
        row = devices[k]
        if row[HEARD] == NEVER or stream_ms - row[HEARD] > HEARD_MS:
            continue
        skew = max(row[BEST], row[BEFORE]) - middle
        if row[RETIMED] != 0 or abs(skew) > RETIME_MS or stream_ms - row[SINCE] < RATE_MS:
            row[SKEW] = 0
        elif abs(skew - row[SKEW]) >= SAME_MS:
            row[SKEW] = skew if abs(skew) >= SUSPECT_MS else 0
        if events[TOLD] % WINDOW_MS == 0:
            row[BEFORE], row[BEST] = row[BEST], _UNHEARD


@kernel("void(int64[::1], int64[:,::1], int64, int64)")
def steer(events: Any, devices: Any, count: int, stream_ms: int) -> None:
    """Let event time follow the first ``count`` devices: the median of those that were heard of late."""
    heard = np.empty(count, np.int64)
    n = 0
    for k in range(count):
        if devices[k, HEARD] != NEVER and stream_ms - devices[k, HEARD] <= HEARD_MS:
            heard[n] = devices[k, DELTA] - (devices[k, SKEW] << _SMOOTH_SHIFT)
            n += 1
    if n == 0:
        return
    error = (np.sort(heard[:n])[(n - 1) // 2] >> _SMOOTH_SHIFT) - events[OFFSET]
    if error > JUMP_MS:
        events[OFFSET] += error
        events[TOLD] = max(events[TOLD], (stream_ms + events[OFFSET]) // FRAME_MS * FRAME_MS - FRAME_MS)
    elif abs(error) >= 8:
        events[OFFSET] += max(-FRAME_MS // 2, min(FRAME_MS // 2, error // 8))


class StreamClock:
    """Stream and idle clock of one partition, milliseconds."""

    __slots__ = ("numbers",)

    def __init__(self) -> None:
        self.numbers: I64 = np.array([-1, 0, 0, -1, 0], np.int64)

    @property
    def now_ms(self) -> int:
        """Return the stream clock."""
        return int(self.numbers[NOW])

    @property
    def idle_ms(self) -> int:
        """Return the idle clock."""
        return int(self.numbers[IDLE])

    @property
    def gaps(self) -> int:
        """Return how many steps were < 0 or > 250 ms."""
        return int(self.numbers[GAPS])

    def advance(self, stamp_ms: int) -> int:
        """Take the next record's stamp; return the step of the stream clock."""
        return int(advance(self.numbers, stamp_ms))

    def device(self, ts_ms: int) -> None:
        """Take the device time of the present record; a fresh one ends a gap."""
        fresh(self.numbers, ts_ms)

    @property
    def stamp_ms(self) -> int:
        """Return the last record's stamp, -1 if there was none."""
        return int(self.numbers[STAMP])

    def idle(self, step_ms: int) -> None:
        """Let the idle clock go on while event time catches up."""
        self.numbers[IDLE] += step_ms

    def calm(self) -> None:
        """End a gap."""
        self.numbers[FROZEN] = -1

    def state(self) -> list[int]:
        """Return everything."""
        found: list[int] = self.numbers.tolist()
        return found

    def load(self, state: list[int]) -> None:
        """Take a ``state``."""
        self.numbers[:] = state


class EventClock:
    """Event time of frames, and each device's steady skew against it.

    ``fixed`` devices have the first rows for good, so that their numbers can be kept elsewhere; others get a row when
    they are first heard and lose it when they are forgotten.
    """

    __slots__ = ("_fixed", "_numbers", "numbers", "rows")

    def __init__(self, fixed: Sequence[str] = ()) -> None:
        self.numbers: I64 = np.zeros(6, np.int64)
        self._fixed = len(fixed)
        self._numbers = {device: n for n, device in enumerate(fixed)}
        self.rows: I64 = np.zeros((max(_FIRST_ROWS, len(fixed)), DEVICE_COLS), np.int64)
        self.rows[:, HEARD] = NEVER

    @property
    def started(self) -> bool:
        """Return whether event time has begun."""
        return bool(self.numbers[STARTED])

    @property
    def anchored(self) -> bool:
        """Return whether it follows devices (else a tick began it)."""
        return bool(self.numbers[ANCHORED])

    @property
    def told_ms(self) -> int:
        """Return the event time of the last frame."""
        return int(self.numbers[TOLD])

    def hear(self, device: str, ts_ms: int, stream_ms: int) -> int:
        """Take a device's time; return it as fusion shall use it (re-timed where its steady skew is > 1 s)."""
        number = self._numbers.get(device)
        if number is None:
            number = self._add(device)
        return ts_ms - int(hear(self.numbers, self.rows, number, ts_ms, stream_ms))

    def skew(self, device: str) -> int:
        """Return by how much a device's times lie beyond the others', ms; 0 if it is not known to be much."""
        number = self._numbers.get(device)
        return 0 if number is None else int(self.rows[number, SKEW])

    def _add(self, device: str) -> int:
        number = self._numbers[device] = len(self._numbers)
        if number == len(self.rows):
            self.rows = np.vstack((self.rows, np.zeros_like(self.rows)))
        self.rows[number, HEARD] = NEVER
        return number

    def start(self, ts_ms: int, stream_ms: int) -> None:
        """Begin at a time: a tick's where no device speaks (a zone of gantries alone has link states too)."""
        begin(self.numbers, ts_ms, stream_ms)

    def due(self, stream_ms: int) -> list[int]:
        """Return the event times of the frames that are due at this stream time, oldest first."""
        due: list[int] = []
        while (event_ms := int(next_due(self.numbers, stream_ms))) >= 0:
            due.append(event_ms)
            if self.catching:
                continue
            if event_ms % FORGET_MS == 0:
                self._forget(stream_ms)
            if event_ms % RATE_MS == 0:
                rate(self.numbers, self.rows, len(self._numbers), stream_ms)
            steer(self.numbers, self.rows, len(self._numbers), stream_ms)
        return due

    def now(self, stream_ms: int) -> int:
        """Return the event time."""
        return stream_ms + int(self.numbers[OFFSET])

    # -- catching up ------------------------------------------------------------------------------------------------
    @property
    def catching(self) -> bool:
        """Return whether event time catches up."""
        return bool(self.numbers[CATCHING])

    def units(self, since_ms: int) -> list[str]:
        """Return the fixed devices that were heard since then, stream clock."""
        names = list(self._numbers)[: self._fixed]
        rows = self.rows[: self._fixed, HEARD].tolist()
        return [device for device, heard in zip(names, rows, strict=True) if heard >= since_ms]

    def is_unit(self, device: str) -> bool:
        """Return whether a device is a fixed one."""
        return self._numbers.get(device, self._fixed) < self._fixed

    def catch_up(self, *, on: bool) -> None:
        """Begin to follow ``follow`` alone, or cease to; differences to the stream clock count on from there."""
        offset, base = int(self.numbers[OFFSET]), int(self.numbers[BASE])
        self.numbers[CATCHING], self.numbers[BASE] = int(on), offset
        if not on:
            rows = self.rows[: len(self._numbers)]
            rows[:, DELTA] += (offset - base) << _SMOOTH_SHIFT
            rows[:, BEST] += offset - base
            rows[:, BEFORE] += offset - base

    def due_ms(self, device: str, ts_ms: int) -> int:
        """Return the event time at which a message would have come without the outage."""
        number = self._numbers.get(device)
        if number is None or self.rows[number, HEARD] == NEVER:
            return ts_ms
        return ts_ms - int(self.rows[number, DELTA] >> _SMOOTH_SHIFT) + int(self.numbers[BASE])

    def stay(self, step_ms: int) -> None:
        """Stand still at a step of the stream clock."""
        self.numbers[OFFSET] -= step_ms

    def follow(self, event_ms: int, stream_ms: int) -> int:
        """Go on to an event time, if it is ahead; return by how much time-outs go on.

        Over a hole in what was held nothing is told and nothing times out.
        """
        ahead = event_ms - self.now(stream_ms)
        if ahead <= 0:
            return 0
        self.numbers[OFFSET] += ahead
        if ahead <= HOLE_MS:
            return ahead
        self.numbers[TOLD] = max(int(self.numbers[TOLD]), event_ms // FRAME_MS * FRAME_MS - FRAME_MS)
        return 0

    # -- what is known of devices -----------------------------------------------------------------------------------
    def skews(self) -> dict[str, int]:
        """Return by device its smoothed skew against the event clock (ms): lateness and clock error together."""
        offset = int(self.numbers[OFFSET])
        return {device: (row[DELTA] >> _SMOOTH_SHIFT) - offset for device, row in self._known()}

    def retimed(self) -> list[str]:
        """Return the devices whose times are corrected."""
        return [device for device, row in self._known() if row[RETIMED]]

    def _known(self) -> list[tuple[str, list[int]]]:
        rows = zip(self._numbers, self.rows[: len(self._numbers)].tolist(), strict=True)
        return [(device, row) for device, row in rows if row[HEARD] != NEVER]

    def _forget(self, stream_ms: int) -> None:
        """Forget who has long been silent: a fixed device keeps its row, the others' rows move up."""
        rows = self.rows[: len(self._numbers)]
        keep = (rows[:, HEARD] != NEVER) & (stream_ms - rows[:, HEARD] <= FORGET_MS)
        rows[~keep, HEARD] = NEVER
        keep[: self._fixed] = True
        names = [device for device, kept in zip(self._numbers, keep.tolist(), strict=True) if kept]
        self.rows[: len(names)] = rows[keep]
        self._numbers = {device: n for n, device in enumerate(names)}

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        started, anchored, offset, told, catching, base = self.numbers.tolist()
        return {
            "started": bool(started),
            "anchored": bool(anchored),
            "offset": offset,
            "told": told,
            "catching": [catching, base],
            "devices": [[device, *row] for device, row in self._known()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take a ``state``."""
        self.numbers[:] = [state["started"], state["anchored"], state["offset"], state["told"], *state["catching"]]
        self._numbers = dict(list(self._numbers.items())[: self._fixed])
        self.rows[:, HEARD] = NEVER
        for device, *row in state["devices"]:
            number = self._numbers.get(device)
            if number is None:
                number = self._add(device)  # may give us a larger table
            self.rows[number] = row
