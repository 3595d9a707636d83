"""Where everything lies: the columns of a zone's track table, association memory, sensor table and parameters.

Rows for tracks (all of a track in a few cache lines: 2.5 times faster than a column per field at this size), columns
for messages. ``S`` holds reals, ``I`` integers, ``C`` the class votes; one row index means the same track in all three.
Units: metres about the zone's origin (east, north), m/s, seconds; times are event-time milliseconds UTC.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# --- S: reals of a track ---------------------------------------------------------------------------------------------
S_E: Final = 0
S_N: Final = 1
S_VE: Final = 2
S_VN: Final = 3
S_P: Final = 4  # upper triangle of the covariance, row by row: 00 01 02 03 11 12 13 22 23 33
S_ACC: Final = 14  # m/s2 along the heading
S_LEN: Final = 15  # m
S_WID: Final = 16  # m
S_SIZE_W: Final = 17  # weight behind length and width
S_VREF: Final = 18  # m/s, speed at the last sample of acceleration
S_HX: Final = 19  # heading as a unit vector (east, north), latched while slow; 0, 0 unknown
S_HY: Final = 20
S_MOVE: Final = 21  # manoeuvre level: smoothed normalised innovation of the velocity
S_OMEGA: Final = 22  # rad/s, to the left; 0 unless it turns
S_SWING: Final = 23  # smoothed normalised innovation of the velocity across: a turn has one sign
S_Z: Final = 24  # four pairs: what the sensors of I_SRC said last (east, north; without their biases)
S_SHARE: Final = 32  # m2, variance that the filter does not see: of the bias that its sensors share, of slow noise
S_SHARE_T: Final = 33  # s2, the same of their clocks
S_W: Final = 34  # while it turns: covariance of omega with east, north and both velocities, and its variance (else 0)
S_TOLD: Final = 39  # m/s, speed that the first of I_SRC told last; < 0 none
S_COLS: Final = 40

# --- I: integers of a track ------------------------------------------------------------------------------------------
I_UID: Final = 0  # unique within the zone's life; 0: row is free
I_T: Final = 1  # event time of the state
I_LAST: Final = 2  # event time of the last measurement
I_BORN: Final = 3  # event time of the first measurement
I_HITS: Final = 4  # measurements in all
I_STATUS: Final = 5  # 0 free, 1 tentative, 2 confirmed
I_SEEN: Final = 6  # idle clock at the last measurement
I_GID: Final = 7  # global id; 0 none yet
I_SLOTS: Final = 8  # ten counters of six bits: hits in the last ten tenths of a second
I_SLOT: Final = 9  # the newest counter's tenth of a second
I_CLS: Final = 10
I_OWN: Final = 11  # 1: this zone reports it
I_UNTIL: Final = 12  # last event time this zone reports it for; 0 no end (set by a release)
I_FROM: Final = 13  # reported for event times after this one (set by the neighbour's release)
I_LEASE: Final = 14  # stream clock when its owner last spoke of it; 0 never
I_TOLD: Final = 15  # event time of the last adopt record sent
I_LONE: Final = 16  # stream clock since when it has no owner here although it is ours by place; 0 not
I_CELL: Final = 17  # grid bucket
I_NEXT: Final = 18  # grid chain; at a free row the next free row
I_PREV: Final = 19
I_TREF: Final = 20  # event time of the last sample of acceleration
I_HEADSET: Final = 21  # 1: heading known
I_SRC: Final = 22  # four of (sensor << SRC_SHIFT | event time): the sensors that fed it last
I_SRCS: Final = 4
I_ALONE: Final = 26  # 1: no other track within ALONE_M at the last frame
I_LANE: Final = 29  # index into Road.lanes + 1 when last matched; 0 none
I_CLAIM: Final = 30  # serial of the scan that has assigned it
I_BY: Final = 31  # scratch of the assignment
I_COLS: Final = 32

BEYOND: Final = 1 << 60  # and more: in a view, the id of a track that we see and a neighbour tells
SRC_SHIFT: Final = 42
SRC_TIME: Final = (1 << SRC_SHIFT) - 1

FREE: Final = 0
TENTATIVE: Final = 1
CONFIRMED: Final = 2

CLASSES: Final = 16
PEDESTRIAN: Final = 10
CYCLIST: Final = 7

# --- MEM: association memory, (sensor, local id) -> track; evicted like a cache, checked by uid, never deleted -----
# The vehicles' places come first, then a block for each roadside sensor: a scan's ids lie in two pages, not in twenty.
MEM_KEY: Final = 0
MEM_UID: Final = 1
MEM_ROW: Final = 2
MEM_T: Final = 3
MEM_COLS: Final = 4
MEM_WAYS: Final = 4
MEM_VEHICLES: Final = 2_048  # powers of two
MEM_BLOCK: Final = 256
KEY_SHIFT: Final = 17  # of a key: sensor, local id
VEHICLE_KEY: Final = 1 << 62

# --- B: sensors: bias east, north (m), clock (s), its covariance, what its noise is like, comparisons with others ----
B_X: Final = 0
B_Y: Final = 1
B_TAU: Final = 2
B_P: Final = 3  # 00 01 02 11 12 22, the others' biases given
B_N: Final = 9  # comparisons in all
B_VAR: Final = 10  # variance of a position by what the sensor tells of it (M_SIGMA squared)
B_STEP: Final = 11  # the same of what is new in it since the scan before: small if the noise goes on
B_AWAY: Final = 12  # (1 + rho) / (1 - rho), rho the noise's correlation from scan to scan
B_RHO: Final = 13
B_DT: Final = 14  # s between two scans of a track
B_ALONG: Final = 15  # variance of a speed by what is expected, and of a heading
B_ACROSS: Final = 16
B_HEARD: Final = 17  # residuals behind these
B_SPEED_STEP: Final = 18  # as B_STEP, of a speed
B_SPEED_AWAY: Final = 19  # as B_AWAY, of velocities
B_SPEED_REST: Final = 20  # variance of speeds about the updated track alone
B_SPEED_APART: Final = 21  # half the variance between two sensors' speeds, and the mean of their B_SPEED_STEP
B_SPEED_STEPS: Final = 22
B_SPEED_PAIRS: Final = 23  # comparisons behind these
B_SHARE: Final = 24  # what S_SHARE and S_SHARE_T tend to
B_SHARE_T: Final = 25
B_GAIN: Final = 26  # weight of a residual
B_SCANS: Final = 27
B_MEAN_TAU: Final = 28  # s, mean of the clock error's prior: 0, or what the log's times say of it (v2x.fusion.skew)
B_DOUBT: Final = 29  # evidence for another mean
B_SUSPECT: Final = 30  # 1: its times are behind the others', and it is not known yet why
B_SLOW: Final = 31  # variance that noise slower than AR(1) adds to a track, by what the filter has of it
B_PAIR: Final = 32  # B_PAIRS blocks: other sensor, comparisons, information (as B_P), information times difference
B_PAIRS: Final = 8
PAIR: Final = 12
PAIR_N: Final = 1
PAIR_I: Final = 2
PAIR_Y: Final = 8
B_NEAR: Final = 128  # variance of the difference to other sensors, and its covariance over FAR_SCANS scans
B_FAR: Final = 129
B_FARS: Final = 130  # samples behind these
B_PROBE: Final = 131  # PROBES blocks, by uid: track, other sensor, time, difference east and north
PROBES: Final = 8
PROBE: Final = 5
B_COLS: Final = 176
VEHICLES: Final = 0  # sensor 0: vehicles that speak for themselves; no bias is estimated

# --- GEO: a zone's origin: latitude (rad), longitude (1e-7 deg), metres per rad north, sine and cosine of latitude ---
G_LAT: Final = 0
G_LON: Final = 1
G_MERIDIAN: Final = 2
G_SIN: Final = 3
G_COS: Final = 4
GEO_COLS: Final = 5

# --- CTL: scalars of a zone ------------------------------------------------------------------------------------------
CTL_UID: Final = 0  # last uid given
CTL_FREE: Final = 1  # first row that was given back, -1 none; rows from CTL_TOP on are free as well
CTL_TOP: Final = 2  # rows ever used (a bound for loops)
CTL_LIVE: Final = 3  # rows in use
CTL_SERIAL: Final = 4  # scans so far
CTL_GID: Final = 5  # last global id given, without the zone's prefix
CTL_PREFIX: Final = 6  # the zone's prefix of global ids
CTL_KNOWN: Final = 7  # sensors whose bias is known against others
CTL_COLS: Final = 8

# --- STAT: counters of a zone ----------------------------------------------------------------------------------------
STAT_ROWS: Final = 0  # rows offered
STAT_FUSED: Final = 1  # rows that updated or began a track
STAT_UNAVAILABLE: Final = 2  # rows without position
STAT_LATE: Final = 3  # rows older than the filter can use
STAT_AHEAD: Final = 4  # rows from the future
STAT_FULL: Final = 5  # rows that found no free track row
STAT_SELF: Final = 6  # rows that are the RSU itself
STAT_BORN: Final = 7
STAT_CONFIRMED: Final = 8
STAT_LOST: Final = 9  # confirmed tracks that timed out
STAT_MERGED: Final = 10
STAT_FAST: Final = 11  # associations by memory
STAT_SLOW: Final = 12  # associations by search
STAT_DROPPED: Final = 13  # tentative tracks that never were
STAT_COLS: Final = 16
STAT_NAMES: Final = (
    "rows", "rows_fused", "rows_unavailable", "rows_late", "rows_ahead", "rows_full", "rows_self",
    "tracks_born", "tracks_confirmed", "tracks_lost", "tracks_merged", "associations_fast", "associations_slow",
    "tracks_dropped",
)  # fmt: skip

# --- PRM: parameters, reals ------------------------------------------------------------------------------------------
PARAMETERS: Final[dict[str, float]] = {
    "sigma_m": 0.5,  # position noise of a sensor that tells no accuracy
    "sigma_speed_mps": 0.4,
    "sigma_heading_rad": 0.06,
    "sigma_clock_s": 0.004,  # what the clock estimate leaves
    "slip_mps": 1.5,  # across: heading and motion differ while lanes are changed at a crawl
    "q_along": 1.0,  # acceleration noise of a car, m2/s3; of other classes see CLASS_Q
    "q_across": 0.3,
    "q_turn": 0.3,  # of the rate of turning, rad2/s3
    "swing": 1.0,  # S_SWING from which a track turns
    "move": 2.0,  # how much a manoeuvre adds to the acceleration noise
    "fast_gate": 6.0,
    "alone_gate": 12.0,  # the same where no other track is near
    "gate": 16.0,
    "memory_bonus": 2.0,
    "birth_hits": 3.0,
    "tentative_ms": 350.0,
    "lost_ms": 1500.0,
    "lost_hit_ms": 50.0,  # a young track is given up sooner: after tentative_ms and this for each hit
    "lost_slow_ms": 3000.0,  # a standing vehicle may stand in a shadow
    "late_ms": 1000.0,
    "ahead_ms": 1000.0,
    "stale_ms": 4000.0,  # event time: no track is predicted further than this
    "bias_m": 0.3,  # prior of a sensor's bias
    "bias_clock_s": 0.017,  # prior of a sensor's clock
    "merge_m": 2.2,
    "merge_pedestrian_m": 0.6,
    "merge_mps": 3.0,
    "veto_ms": 400.0,
    "cell_m": 25.0,
}
PRM_NAMES: Final = tuple(PARAMETERS)
(
    Q_SIGMA, Q_SPEED, Q_HEADING, Q_CLOCK, Q_SLIP, Q_ALONG, Q_ACROSS, Q_TURN, Q_SWING, Q_MOVE, Q_FAST, Q_ALONE, Q_GATE,
    Q_BONUS, Q_BIRTH, Q_TENTATIVE, Q_LOST, Q_LOST_HIT, Q_LOST_SLOW, Q_LATE, Q_AHEAD, Q_STALE, Q_BIAS,
    Q_BIAS_CLOCK, Q_MERGE, Q_MERGE_PED, Q_MERGE_V, Q_VETO, Q_CELL,
) = range(29)  # fmt: skip
# By class: acceleration noise along and across, by that of a car.
CLASS_Q: Final = np.array(
    [(1.0, 1.0)] * 5 + [(0.6, 0.6), (0.6, 0.6), (0.4, 0.8), (1.5, 1.5), (1.0, 1.0), (0.4, 1.2)] + [(1.0, 1.0)] * 5
)  # 5 truck, 6 bus, 7 cyclist, 8 motor-, 9 tricyclist, 10 pedestrian

# --- M, K: a scan's rows on their way into the filter ----------------------------------------------------------------
M_E: Final = 0
M_N: Final = 1
M_VE: Final = 2  # NaN unavailable
M_VN: Final = 3  # NaN unavailable
M_SIGMA: Final = 4
M_LEN: Final = 5  # 0 unavailable
M_WID: Final = 6
M_ACC: Final = 7  # NaN unavailable
M_HX: Final = 8  # heading as told, unit vector; 0, 0 unavailable
M_HY: Final = 9
M_COLS: Final = 10
K_T: Final = 0
K_KEY: Final = 1
K_CLS: Final = 2
K_ROW: Final = 3  # track row that takes it; -1 none
K_WEIGHT: Final = 4  # 1: the class is told, 0: it is only guessed from the participant type
K_COLS: Final = 6

MAX_SCAN: Final = 256
MAX_EDGES: Final = 4096
BUCKETS: Final = 2_048


def parameters(overrides: dict[str, float] | None = None) -> F64:
    """Return the parameter vector."""
    values = {**PARAMETERS, **(overrides or {})}
    return np.array([values[name] for name in PRM_NAMES], dtype=np.float64)
