"""The kernels that Python calls for measurements: a roadside scan, one vehicle's own message."""

from __future__ import annotations

from math import nan, pi, sqrt
from typing import Any, Final

import numpy as np

from v2x.fusion import layout as c
from v2x.fusion.angles import compass, turn
from v2x.fusion.grid import bucket, link
from v2x.fusion.jit import helper, kernel
from v2x.fusion.kalman import ahead
from v2x.fusion.scan import fuse
from v2x.fusion.skew import doubt
from v2x.fusion.track import reach, take_row
from v2x.geo import ECC2, SEMI_MAJOR_M

# Columns of rsm.participants that the kernel reads, in the order of its ``cols`` argument.
PARTICIPANT: Final = (
    "ptc_type", "ptc_id", "object_class", "sec_mark", "d_lat", "d_lon", "pos_conf", "speed", "heading", "accel_long",
    "width", "length",
)  # fmt: skip
# DE_PositionConfidence in metres (95 %); 0 unavailable.
POSITION_CONFIDENCE_M: Final = np.array(
    [0.0, 500.0, 200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01]
)
WORST_M: Final = 25.0  # a position worse than this is no position
OFFSET_NONE: Final = -2_097_152
SPEED_NONE: Final = 8_191
HEADING_NONE: Final = 28_800
ACCEL_NONE: Final = 2_001
LAT_NONE: Final = 900_000_001
LON_NONE: Final = 1_800_000_001
MINUTE_MS: Final = 60_000
SLACK_MS: Final = 1_000  # a participant's own mark may differ this much from its message's time
RSU_ITSELF: Final = 4
GUESS: Final = np.array([0, 3, 7, 10, 0])  # class by participant type
E7_RAD: Final = pi / 180.0 / 1e7

_STATE: Final = (
    "float64[:,::1], int64[:,::1], float64[:,::1], int64[:,::1], int64[::1], float64[:,::1], int64[::1], int64[::1], "
    "float64[::1], float64[:,::1], int64[:,::1]"
)


@helper
def local(lat_e7: int, lon_e7: int, geo: Any) -> tuple[float, float]:
    """Return (east, north), m."""
    d = lat_e7 * E7_RAD - geo[c.G_LAT]
    sine, cosine = turn(geo[c.G_SIN], geo[c.G_COS], d)
    normal = SEMI_MAJOR_M / sqrt(1.0 - ECC2 * sine * sine)
    return (lon_e7 - geo[c.G_LON]) * E7_RAD * normal * cosine, d * geo[c.G_MERIDIAN]


@helper
def _aim(m: Any, k: Any, b: Any, t_ms: int, z: tuple[float, float]) -> None:
    """Store position and time without the sensor's bias and clock error."""
    m[c.M_E] = z[0] - b[c.B_X]
    m[c.M_N] = z[1] - b[c.B_Y]
    k[c.K_T] = t_ms - round(b[c.B_TAU] * 1e3)
    k[c.K_ROW] = -1


@helper
def _velocity(m: Any, speed: int, heading: int) -> None:
    """Store the velocity of 0.02 m/s and 0.0125 degrees; both must be available."""
    if heading == HEADING_NONE:
        m[c.M_HX] = m[c.M_HY] = 0.0
        m[c.M_VE] = m[c.M_VN] = nan
        return
    m[c.M_HX], m[c.M_HY] = compass(heading)
    v = nan if speed == SPEED_NONE else speed * 0.02
    m[c.M_VE], m[c.M_VN] = v * m[c.M_HX], v * m[c.M_HY]


@helper
def _when(t_ms: int, event_ms: int, prm: Any, stat: Any) -> Any:
    """Return whether a time is of use; count it if not."""
    if event_ms - t_ms > prm[c.Q_LATE]:
        stat[c.STAT_LATE] += 1
        return False
    if t_ms - event_ms > prm[c.Q_AHEAD]:
        stat[c.STAT_AHEAD] += 1
        return False
    return True


@kernel(
    f"int64({_STATE}, int64[:,::1], int64[::1], int64, int64, float64[::1], float64[::1], "
    "int64, int64, int64, int64, int64, int64)"
)
def fuse_rsm(
    s: Any, i: Any, votes: Any, mem: Any, heads: Any, sensors: Any, ctl: Any, stat: Any, prm: Any, m: Any, k: Any,
    rows: Any, cols: Any, ref_lat: int, ref_lon: int, geo: Any, confidence: Any,
    ts_ms: int, shift_ms: int, sensor: int, event_ms: int, idle_ms: int, skew_ms: int,
) -> Any:  # fmt: skip
    """Fuse a roadside scan (rows of rsm.participants, units of the schema); return how many rows fed a track.

    ``shift_ms`` is taken from every time (a device whose clock is steadily wrong); ``event_ms`` is the event clock,
    ``skew_ms`` how far the sensor's times seem to be off (0: not much).
    """
    n = 0
    before = stat[c.STAT_FUSED]
    b = sensors[sensor]
    stat[c.STAT_ROWS] += rows.shape[0]
    for x in range(rows.shape[0]):
        row = rows[x]
        kind = row[cols[0]]
        if kind == RSU_ITSELF or row[cols[1]] == 0:
            stat[c.STAT_SELF] += 1
            continue
        conf = confidence[row[cols[6]]]
        if row[cols[4]] == OFFSET_NONE or row[cols[5]] == OFFSET_NONE or conf > 2.0 * WORST_M:
            stat[c.STAT_UNAVAILABLE] += 1
            continue
        t_ms = ts_ms
        mark = row[cols[3]]
        if mark < MINUTE_MS:
            # the instant with this mark that is nearest to the message's time
            off = (mark - ts_ms % MINUTE_MS + MINUTE_MS // 2) % MINUTE_MS - MINUTE_MS // 2
            if abs(off) <= SLACK_MS:
                t_ms = ts_ms + off
        t_ms -= shift_ms
        if not _when(t_ms, event_ms, prm, stat):
            continue
        a, z = m[n], k[n]
        _aim(a, z, b, t_ms, local(ref_lat + row[cols[4]], ref_lon + row[cols[5]], geo))
        _velocity(a, row[cols[7]], row[cols[8]])
        a[c.M_SIGMA] = max(conf * 0.5, prm[c.Q_SIGMA])
        a[c.M_ACC] = nan if row[cols[9]] == ACCEL_NONE else row[cols[9]] * 0.01
        a[c.M_WID] = row[cols[10]] * 0.01
        a[c.M_LEN] = row[cols[11]] * 0.01
        z[c.K_KEY] = (sensor << c.KEY_SHIFT) | row[cols[1]]
        reach(mem, z[c.K_KEY])
        told = row[cols[2]] > 2
        z[c.K_CLS] = row[cols[2]] if told else GUESS[kind]
        z[c.K_WEIGHT] = 1 if told else 0
        n += 1
    if skew_ms != 0 or b[c.B_MEAN_TAU] != 0.0 or b[c.B_SUSPECT] != 0.0:
        doubt(s, i, heads, sensors, ctl, prm, m, k, n, sensor, skew_ms)
    fuse(s, i, votes, mem, heads, sensors, ctl, stat, prm, m, k, n, sensor, idle_ms)
    return stat[c.STAT_FUSED] - before


@kernel(f"int64({_STATE}, float64[::1], int64[::1], int64, int64, float64[::1], int64, int64, int64, int64, int64)")
def fuse_one(
    s: Any, i: Any, votes: Any, mem: Any, heads: Any, sensors: Any, ctl: Any, stat: Any, prm: Any, m: Any, k: Any,
    row: Any, what: Any, speed: int, heading: int, geo: Any, lat: int, lon: int, sensor: int, event_ms: int,
    idle_ms: int,
) -> Any:  # fmt: skip
    """Fuse one observation: ``row`` as M (but place and velocity), ``what`` as K; return 1 if it fed a track."""
    before = stat[c.STAT_FUSED]
    stat[c.STAT_ROWS] += 1
    if not _when(what[c.K_T], event_ms, prm, stat):
        return 0
    m[0, :] = row
    k[0, :] = what
    _velocity(m[0], speed, heading)
    _aim(m[0], k[0], sensors[sensor], what[c.K_T], local(lat, lon, geo))
    fuse(s, i, votes, mem, heads, sensors, ctl, stat, prm, m, k, 1, sensor, idle_ms)
    return stat[c.STAT_FUSED] - before


@kernel("int64(float64[:,::1], int64[:,::1], float64[:,::1], int64[::1], int64[::1], float64[::1], float64, float64)")
def new_row(s: Any, i: Any, votes: Any, heads: Any, ctl: Any, prm: Any, east: float, north: float) -> Any:
    """Return an empty row with a fresh uid, in the grid at a place; -1 if the table is full."""
    row = take_row(s, i, votes, ctl)
    if row >= 0:
        link(i, heads, row, bucket(east, north, prm[c.Q_CELL], heads.shape[0]))
    return int(row)


@kernel("UniTuple(float64, 4)(float64[:,::1], int64[:,::1], int64, int64)")
def place_at(s: Any, i: Any, row: int, t_ms: int) -> tuple[float, float, float, float]:
    """Return position and velocity (east, north) of a track at a time, either way."""
    east, north, ve, vn = ahead(s[row], (t_ms - i[row, c.I_T]) * 1e-3)
    return float(east), float(north), float(ve), float(vn)
