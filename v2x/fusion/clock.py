"""Time, from the log alone: the stream clock, the idle clock for time-outs, and the event clock that frames carry.

*Stream clock.* Kafka stamps each record when it appends it (LogAppendTime). Per partition the stream clock advances at
each record by clamp(stamp - previous stamp, 0, 250 ms): a broker's clock that jumps ahead an hour, or an outage of ten
minutes, moves it by a quarter of a second, and one that jumps back does not stop it.

*Idle clock.* Time-outs count on it. It is the stream clock, but it stands still in a *gap* (a step < 0 or > 250 ms)
until a device's time is again within 2 s of its record's stamp, or for 30 s of stream clock: a backlog after an outage
must not kill every track.

*Event clock.* Frames are predicted to one event time, which devices and truth share: E = stream clock + D. D is the
median over the devices heard in the last two seconds of (device time - stream clock), smoothed per device, so one
device's wrong clock or slow link does not move it. E never goes back, runs between half and one and a half times the
stream clock's pace while it follows D, and jumps ahead only where the devices are more than half a second ahead of it
(an outage). Frames leave whenever E passes a multiple of 50 ms: neighbouring zones, also in other partitions, report
the same instants, which an exact handover needs.
"""

from __future__ import annotations

from typing import Any, Final

MAX_STEP_MS: Final = 250
NEAR_STAMP_MS: Final = 2_000
GAP_LIMIT_MS: Final = 30_000
FRAME_MS: Final = 50
HEARD_MS: Final = 2_000
FORGET_MS: Final = 60_000
JUMP_MS: Final = 500
STEADY_MS: Final = 5_000  # a skew is steady once it has been seen for this long
RETIME_MS: Final = 1_000  # a steadier skew than this is taken out of the device's times
_SMOOTH_SHIFT: Final = 3  # the smoothed difference moves by an eighth


class StreamClock:
    """Stream and idle clock of one partition, milliseconds."""

    __slots__ = ("frozen_at", "gaps", "idle_ms", "now_ms", "stamp_ms")

    def __init__(self) -> None:
        self.stamp_ms = -1  # previous stamp; -1 none yet
        self.now_ms = 0
        self.idle_ms = 0
        self.frozen_at = -1  # stream clock at the start of a gap; -1 not in one
        self.gaps = 0

    def advance(self, stamp_ms: int) -> int:
        """Take the next record's stamp; return the step of the stream clock."""
        if self.stamp_ms < 0:
            self.stamp_ms = self.now_ms = stamp_ms
            return 0
        raw = stamp_ms - self.stamp_ms
        self.stamp_ms = stamp_ms
        step = min(max(raw, 0), MAX_STEP_MS)
        self.now_ms += step
        if raw != step:
            self.gaps += 1
            self.frozen_at = self.now_ms
        if self.frozen_at < 0:
            self.idle_ms += step
        elif self.now_ms - self.frozen_at >= GAP_LIMIT_MS:
            self.frozen_at = -1
        return step

    def device(self, ts_ms: int) -> None:
        """Take the device time of the present record; a fresh one ends a gap."""
        if self.frozen_at >= 0 and abs(ts_ms - self.stamp_ms) <= NEAR_STAMP_MS:
            self.frozen_at = -1

    def state(self) -> list[int]:
        """Return everything."""
        return [self.stamp_ms, self.now_ms, self.idle_ms, self.frozen_at, self.gaps]

    def load(self, state: list[int]) -> None:
        """Take a ``state``."""
        self.stamp_ms, self.now_ms, self.idle_ms, self.frozen_at, self.gaps = state


class EventClock:
    """Event time of frames, and each device's steady skew against it."""

    __slots__ = ("_devices", "anchored", "offset_ms", "started", "told_ms")

    def __init__(self) -> None:
        self.started = False
        self.anchored = False  # by a device; else by a tick only
        self.offset_ms = 0  # D
        self.told_ms = 0  # event time of the last frame, a multiple of FRAME_MS
        # device -> [difference in 1/8 ms, heard at, steady since, re-timed by]
        self._devices: dict[str, list[int]] = {}

    def hear(self, device: str, ts_ms: int, stream_ms: int) -> int:
        """Take a device's time; return it as fusion shall use it (re-timed where its steady skew is > 1 s)."""
        delta = ts_ms - stream_ms
        row = self._devices.get(device)
        if row is None:
            self._devices[device] = row = [delta << _SMOOTH_SHIFT, stream_ms, stream_ms, 0]
        elif abs(delta - (row[0] >> _SMOOTH_SHIFT)) > JUMP_MS:
            row[0], row[2], row[3] = delta << _SMOOTH_SHIFT, stream_ms, 0  # another delay, or its clock was set
        else:
            row[0] += delta - (row[0] >> _SMOOTH_SHIFT)
        row[1] = stream_ms
        if not self.anchored:
            self.anchored = True
            if not self.started or abs(delta - self.offset_ms) > JUMP_MS:
                self.start(ts_ms, stream_ms)
        if stream_ms - row[2] >= STEADY_MS:
            skew = (row[0] >> _SMOOTH_SHIFT) - self.offset_ms
            row[3] = skew if abs(skew) > RETIME_MS else 0
        return ts_ms - row[3]

    def start(self, ts_ms: int, stream_ms: int) -> None:
        """Begin at a time: a tick's where no device speaks (a zone of gantries alone has link states too)."""
        self.started = True
        self.offset_ms = ts_ms - stream_ms
        self.told_ms = ts_ms // FRAME_MS * FRAME_MS

    def due(self, stream_ms: int) -> list[int]:
        """Return the event times of the frames that are due at this stream time, oldest first."""
        if not self.started:
            return []
        due: list[int] = []
        while stream_ms + self.offset_ms >= self.told_ms + FRAME_MS:
            self.told_ms += FRAME_MS
            due.append(self.told_ms)
            self._steer(stream_ms)
        return due

    def now(self, stream_ms: int) -> int:
        """Return the event time."""
        return stream_ms + self.offset_ms

    def skews(self) -> dict[str, int]:
        """Return by device its smoothed skew against the event clock (ms): lateness and clock error together."""
        return {device: (row[0] >> _SMOOTH_SHIFT) - self.offset_ms for device, row in self._devices.items()}

    def retimed(self) -> list[str]:
        """Return the devices whose times are corrected."""
        return [device for device, row in self._devices.items() if row[3]]

    def _steer(self, stream_ms: int) -> None:
        if self.told_ms % FORGET_MS == 0:
            self._devices = {k: row for k, row in self._devices.items() if stream_ms - row[1] <= FORGET_MS}
        heard = sorted(row[0] for row in self._devices.values() if stream_ms - row[1] <= HEARD_MS)
        if not heard:
            return
        error = (heard[(len(heard) - 1) // 2] >> _SMOOTH_SHIFT) - self.offset_ms
        if error > JUMP_MS:
            self.offset_ms += error
            self.told_ms = max(self.told_ms, (stream_ms + self.offset_ms) // FRAME_MS * FRAME_MS - FRAME_MS)
        else:
            half = FRAME_MS // 2
            self.offset_ms += max(-half, min(half, error // 8 if abs(error) >= 8 else 0))

    def state(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "started": self.started,
            "anchored": self.anchored,
            "offset": self.offset_ms,
            "told": self.told_ms,
            "devices": [[device, *row] for device, row in self._devices.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take a ``state``."""
        self.started, self.anchored = state["started"], state["anchored"]
        self.offset_ms = state["offset"]
        self.told_ms = state["told"]
        self._devices = {row[0]: list(row[1:]) for row in state["devices"]}
