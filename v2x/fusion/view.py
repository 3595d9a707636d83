"""TrackView: what the rest of the core sees of a zone's tracks in one frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]


@dataclass(slots=True)
class TrackView:
    """Tracks of one zone, all predicted to ``event_ms``; equal-length columns, rows in order of ``id``.

    Behind the tracks that this zone tells stand those near it that a neighbour tells, with ids from layout.BEYOND on.
    """

    zone: str
    event_ms: int  # UTC
    stream_ms: int  # stream clock of the partition
    id: I64  # global track id
    cls: I16  # object class as in Rsm: 3 car, 4 van, 5 truck, 6 bus, 7 cyclist, 8/9 motor-/tricyclist, 10 pedestrian
    east: F64  # m about the zone's origin (v2x.geo.LocalFrame)
    north: F64  # m
    vel_e: F64  # m/s
    vel_n: F64  # m/s
    speed: F64  # m/s
    heading: F64  # degrees clockwise from true north, 0 <= heading < 360; kept from before when standing
    accel: F64  # m/s2 along the heading, filtered
    length: F64  # m; 0 unknown
    width: F64  # m; 0 unknown
    lane: I32  # index into Road.lanes, or -1
    along: F64  # m along the lane
    lateral: F64  # m left of the lane's centre line
    age_ms: I64  # event_ms less last_ms
    hits: I64  # scans that fed the track in the last second
    born_ms: I64  # event time of the first measurement
    last_ms: I64  # event time of the last measurement
    sigma: F64  # m, standard deviation of the position (larger axis)

    def __len__(self) -> int:
        return len(self.id)
