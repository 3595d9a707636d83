"""What is known of one track: its birth, its class, size and heading, who saw it, and how it is found again."""

from __future__ import annotations

from math import hypot, isnan
from typing import Any, Final

from v2x.fusion import layout as c
from v2x.fusion.bias import bias_cov
from v2x.fusion.grid import bucket, link, move, unlink
from v2x.fusion.jit import LINE, helper, prefetch

ACCEL_STEP_MS: Final = 80
ACCEL_TAU_S: Final = 0.35
ACCEL_TOLD: Final = 0.15  # weight of an acceleration that the sensor tells
SIZE_MEMORY: Final = 30.0
VOTES: Final = 30.0
GUESS: Final = 0.2  # vote of a class guessed from the participant type
UNKNOWN_SPEED_VAR: Final = 200.0  # (m/s)2 of a vehicle born without a velocity
ON_FOOT_SPEED_VAR: Final = 2.0
SLOT_MS: Final = 100
_SLOT_ALL: Final = (1 << 60) - 1


@helper
def home_of(key: int) -> tuple[int, int, int]:
    """Return where a key's block begins, its first place in it and the block's mask."""
    code = (key * 0x9E3779B1) >> 7
    if key >= c.VEHICLE_KEY:
        return 0, code & (c.MEM_VEHICLES - 1), c.MEM_VEHICLES - 1
    return c.MEM_VEHICLES + ((key >> c.KEY_SHIFT) - 1) * c.MEM_BLOCK, code & (c.MEM_BLOCK - 1), c.MEM_BLOCK - 1


@helper
def reach(mem: Any, key: int) -> None:
    """Let the processor fetch a key's first places."""
    block, home, _ = home_of(key)
    prefetch(mem.ctypes.data + (block + home) * (8 * c.MEM_COLS))


@helper
def find(mem: Any, key: int) -> Any:
    """Return the place that holds a key, -1 none."""
    block, home, mask = home_of(key)
    for way in range(c.MEM_WAYS):
        at = block + ((home + way) & mask)
        if mem[at, c.MEM_KEY] == key:
            return at
    return -1


@helper
def touch(s: Any, i: Any, votes: Any, mem: Any, key: int) -> None:
    """Let the processor fetch the track that a key means."""
    at = find(mem, key)
    if at >= 0:
        row = mem[at, c.MEM_ROW]
        first = i.ctypes.data + row * (8 * c.I_COLS)
        for line in range(0, 8 * c.I_COLS, LINE):
            prefetch(first + line)
        first = s.ctypes.data + row * (8 * c.S_COLS)
        for line in range(0, 8 * c.S_COLS, LINE):
            prefetch(first + line)
        prefetch(votes.ctypes.data + row * (8 * c.CLASSES))


@helper
def remember(mem: Any, key: int, uid: int, row: int, t_ms: int) -> None:
    """Note that (sensor, local id) means this track; the oldest of the key's four places makes room."""
    block, home, mask = home_of(key)
    where = block + home
    oldest = mem[where, c.MEM_T]
    for way in range(c.MEM_WAYS):
        at = block + ((home + way) & mask)
        if mem[at, c.MEM_KEY] == key:
            where = at
            break
        if mem[at, c.MEM_T] < oldest:
            oldest, where = mem[at, c.MEM_T], at
    mem[where, c.MEM_KEY] = key
    mem[where, c.MEM_UID] = uid
    mem[where, c.MEM_ROW] = row
    mem[where, c.MEM_T] = t_ms


@helper
def recall(i: Any, mem: Any, key: int) -> Any:
    """Return the live track row that (sensor, local id) meant last, -1 none."""
    at = find(mem, key)
    if at < 0:
        return -1
    row = mem[at, c.MEM_ROW]
    return row if i[row, c.I_UID] == mem[at, c.MEM_UID] else -1


@helper
def noise_of(m: Any, ve: float, vn: float, b: Any, prm: Any) -> tuple[float, float, float]:
    """Return R of a position for a gate: the sensor's noise, and what is not known of its bias and clock."""
    r = m[c.M_SIGMA] * m[c.M_SIGMA] * b[c.B_VAR]
    ee, en, nn = bias_cov(b, ve, vn)
    clock = prm[c.Q_CLOCK] * prm[c.Q_CLOCK]
    return r + ee + clock * ve * ve, en + clock * ve * vn, r + nn + clock * vn * vn


@helper
def count_hit(i: Any, t_ms: int) -> None:
    """Count a measurement in its tenth of a second."""
    slot = t_ms // SLOT_MS
    ahead = slot - i[c.I_SLOT]
    if ahead > 0:
        i[c.I_SLOTS] = (i[c.I_SLOTS] << (6 * ahead)) & _SLOT_ALL if ahead < 10 else 0
        i[c.I_SLOT] = slot
        ahead = 0
    if ahead > -10:
        shift = -6 * ahead
        if (i[c.I_SLOTS] >> shift) & 63 < 63:
            i[c.I_SLOTS] += 1 << shift


@helper
def source(i: Any, sensor: int) -> Any:
    """Return which of a track's four sources is a sensor, -1 none."""
    for k in range(c.I_SRCS):
        if i[c.I_SRC + k] >> c.SRC_SHIFT == sensor and i[c.I_SRC + k] & c.SRC_TIME > 0:
            return k
    return -1


@helper
def note_source(s: Any, i: Any, sensor: int, t_ms: int, east: float, north: float) -> None:
    """Note what a sensor said and when, if nothing later is known of it; the one silent longest makes room."""
    place = source(i, sensor)
    if place >= 0:
        if i[c.I_SRC + place] & c.SRC_TIME > t_ms:
            return
    else:
        place = 0
        for k in range(1, c.I_SRCS):
            if i[c.I_SRC + k] & c.SRC_TIME < i[c.I_SRC + place] & c.SRC_TIME:
                place = k
        if place == 0:
            s[c.S_TOLD] = -1.0
    i[c.I_SRC + place] = sensor << c.SRC_SHIFT | t_ms
    s[c.S_Z + 2 * place], s[c.S_Z + 2 * place + 1] = east, north


@helper
def vote(i: Any, votes: Any, cls: int, told: int) -> None:
    """Smooth the class: votes are counted, halved when one has VOTES, and the strongest wins."""
    if cls <= 0:
        return
    votes[cls] += 1.0 if told else GUESS
    if votes[cls] > votes[i[c.I_CLS]] or i[c.I_CLS] == 0:
        i[c.I_CLS] = cls
    if votes[cls] > VOTES:
        for k in range(c.CLASSES):
            votes[k] *= 0.5


@helper
def size(s: Any, length: float, width: float) -> None:
    """Smooth the size; 0 is unavailable."""
    if length <= 0.0 or width <= 0.0:
        return
    s[c.S_SIZE_W] = min(s[c.S_SIZE_W] + 1.0, SIZE_MEMORY)
    s[c.S_LEN] += (length - s[c.S_LEN]) / s[c.S_SIZE_W]
    s[c.S_WID] += (width - s[c.S_WID]) / s[c.S_SIZE_W]


@helper
def motion(s: Any, i: Any, told: float) -> None:
    """Derive heading (latched while slow: off below 4 km/h, on above 5; walkers 0.3 and 0.5 m/s) and acceleration."""
    v = hypot(s[c.S_VE], s[c.S_VN])
    slow, fast = (0.3, 0.5) if i[c.I_CLS] == c.PEDESTRIAN else (1.1, 1.4)
    if v > fast or (i[c.I_HEADSET] == 2 and v > slow):
        s[c.S_HX], s[c.S_HY] = s[c.S_VE] / v, s[c.S_VN] / v
        i[c.I_HEADSET] = 2
    elif i[c.I_HEADSET] == 2:
        i[c.I_HEADSET] = 1
    dt = (i[c.I_T] - i[c.I_TREF]) * 1e-3
    if dt * 1e3 >= ACCEL_STEP_MS:
        raw = min(max((v - s[c.S_VREF]) / dt, -15.0), 15.0)
        s[c.S_ACC] += dt / (ACCEL_TAU_S + dt) * (raw - s[c.S_ACC])
        if not isnan(told):
            s[c.S_ACC] += ACCEL_TOLD * (told - s[c.S_ACC])
        s[c.S_VREF] = v
        i[c.I_TREF] = i[c.I_T]


@helper
def take_row(s: Any, i: Any, votes: Any, ctl: Any) -> Any:
    """Return a cleared row with a fresh uid, -1 if there is none."""
    row = ctl[c.CTL_FREE]
    if row < 0:
        return -1
    ctl[c.CTL_FREE] = i[row, c.I_NEXT]
    ctl[c.CTL_TOP] = max(ctl[c.CTL_TOP], row + 1)
    ctl[c.CTL_LIVE] += 1
    ctl[c.CTL_UID] += 1
    s[row, :] = 0.0
    i[row, :] = 0
    votes[row, :] = 0.0
    i[row, c.I_UID] = ctl[c.CTL_UID]
    return row


@helper
def give_row(i: Any, heads: Any, ctl: Any, row: int) -> None:
    """Free a row."""
    unlink(i, heads, row)
    i[row, :] = 0
    i[row, c.I_NEXT] = ctl[c.CTL_FREE]
    ctl[c.CTL_FREE] = row
    ctl[c.CTL_LIVE] -= 1


@helper
def birth(s: Any, i: Any, votes: Any, heads: Any, ctl: Any, m: Any, k: Any, sensor: Any, prm: Any) -> Any:
    """Begin a tentative track; return its row, -1 if the table is full."""
    row = take_row(s, i, votes, ctl)
    if row < 0:
        return -1
    a, b = s[row], i[row]
    a[c.S_E], a[c.S_N] = m[c.M_E], m[c.M_N]
    b[c.I_STATUS] = c.TENTATIVE
    b[c.I_T] = b[c.I_BORN] = b[c.I_TREF] = k[c.K_T]
    vote(b, votes[row], k[c.K_CLS], k[c.K_WEIGHT])
    size(a, m[c.M_LEN], m[c.M_WID])
    ve, vn = m[c.M_VE], m[c.M_VN]
    p = c.S_P
    if isnan(ve):
        a[p + 7] = a[p + 9] = ON_FOOT_SPEED_VAR if b[c.I_CLS] == c.PEDESTRIAN else UNKNOWN_SPEED_VAR
    else:
        a[c.S_VE], a[c.S_VN] = ve, vn
        spread = 4.0 * prm[c.Q_HEADING] * prm[c.Q_HEADING] * (ve * ve + vn * vn)
        a[p + 7] = a[p + 9] = 4.0 * prm[c.Q_SPEED] * prm[c.Q_SPEED] + spread
        a[c.S_HX], a[c.S_HY], b[c.I_HEADSET] = m[c.M_HX], m[c.M_HY], 1
        a[c.S_VREF] = hypot(ve, vn)
    r = noise_of(m, a[c.S_VE], a[c.S_VN], sensor, prm)
    a[p], a[p + 1], a[p + 4] = r
    a[c.S_SHARE], a[c.S_SHARE_T] = sensor[c.B_SHARE], sensor[c.B_SHARE_T]
    link(i, heads, row, bucket(a[c.S_E], a[c.S_N], prm[c.Q_CELL], heads.shape[0]))
    return row


@helper
def replace(s: Any, i: Any, heads: Any, row: int, prm: Any) -> None:
    """Put a row into the bucket of its state."""
    move(i, heads, row, bucket(s[row, c.S_E], s[row, c.S_N], prm[c.Q_CELL], heads.shape[0]))
