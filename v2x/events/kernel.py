"""The rules that look at one vehicle, as state machines in rows of numbers.

Each (track, rule) has a condition: YES (the enter threshold holds), BAND (between the thresholds: goes on as it was),
NO, or FROZEN (cannot be judged now: neither counts nor resets). The machine is the same for all rules::

    idle    YES/BAND after a YES: held += dt; held >= dwell -> START (start = when YES began);  NO: held = 0
    active  NO for end_ms -> END (end = when NO began);                                          else: off = 0

``held`` adds at most 250 ms a step, so an outage in the input is no dwell. Times are event time, milliseconds; speeds
m/s; lengths m. Rows are tracks in the view's order.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from v2x.events.braking import line_weights, slowing
from v2x.fusion.jit import helper

# Rules, columns of the machine.
(
    STOPPED, BREAKDOWN, ACCIDENT, WRONG_WAY, OVERSPEED, SLOW, HARD_BRAKING, PEDESTRIAN, EMERGENCY, NEAR_MISS, RED_LIGHT,
    RULE_COUNT,
) = range(12)  # fmt: skip
NO, BAND, YES, FROZEN = -1, 0, 1, 2
START, END = 1, 2

# Columns of a track's integer row. First, in one cache line, what each step reads of every track: a table of thousands
# is read from memory ten times a second, and nearly all of its machines are idle.
(
    BUSY, MOVED, SEEN_MS, BRAKED_MS, AIRBAG_MS,  # last strong braking, last word of an air bag
    FROM_LANE, RED_STATE, RED_TOLD_MS,  # v2x.events.stopline
) = range(8)  # fmt: skip
HELD, SINCE, OFF, ACTIVE = (8 + x * RULE_COUNT for x in range(4))  # blocks of RULE_COUNT
FLAG_MS, STOP_LINE_MS, PARTNER, RED_MS, INT_WIDTH = range(8 + 4 * RULE_COUNT, 13 + 4 * RULE_COUNT)  # PARTNER: of two
# Bits of BUSY: a machine is not idle; STOP_LINE_MS is set. They may be set without need, never missing.
RUNS, WAITS = 1, 2
# Columns of a track's real row: speeds of the last 1.2 s, then the last state.
HISTORY: Final = 13
EAST, NORTH, VEL_E, VEL_N, SLOWEST, TURN, TTC, REAL_WIDTH = range(HISTORY, HISTORY + 8)  # TURN rad/s, TTC s

# Thresholds, in the order of ``parameters``.
(
    P_AGE, P_HITS, P_FRESH,
    P_STOP_ON, P_STOP_OFF, P_STOP_GAP, P_STOP_LEAD, P_STOP_LINE, P_STOP_JAM, P_GREEN, P_GIVE_WAY, P_UNSEEN, P_SEEN,
    P_FLAG_DWELL, P_FLAG_HOLD,
    P_WRONG_COS, P_WRONG_ON, P_WRONG_OFF, P_WRONG_END, P_WRONG_IN,
    P_FAST_ON, P_FAST_OFF, P_FAST_NONE,
    P_SLOW_ON, P_SLOW_OFF, P_SLOW_NONE, P_SLOW_STOP, P_SLOW_ACC, P_SLOW_GAIN, P_SLOW_GAP, P_SLOW_BEHIND, P_SLOW_AHEAD,
    P_BRAKE_ON, P_BRAKE_OFF, P_BRAKE_ERROR, P_BRAKE_SIGMAS, P_BRAKE_MAX, P_BRAKE_AGE,
    P_FOOT_AGE, P_FOOT_IN, P_FOOT_WALK, P_FOOT_PACE,
    P_EMER_ON, P_EMER_OFF, P_EMER_IN, P_EMER_ACC,
    P_CRASH_BRAKE, P_CRASH_WITHIN, P_CRASH_GAP, P_CRASH_COS, P_AIRBAG, P_AIRBAG_DWELL,
    P_MISS_TTC, P_MISS_NEED, P_MISS_QUEUE, P_MISS_MIN, P_MISS_COS, P_MISS_AGE, P_MISS_IN, P_MISS_OVER, P_MISS_LAG,
    P_MISS_HALT,
    P_RED_MARGIN, P_RED_CLEAR, P_RED_ASIDE, P_RED_OPEN,
    P_JAM_SLOW,
    P_COUNT,
) = range(68)  # fmt: skip

_PEDESTRIAN_CLASS: Final = 10
_CYCLIST_CLASS: Final = 7
_LANE_VEHICLE: Final = 0
_LANE_EMERGENCY: Final = 1
_MOTORWAY: Final = 1
_MAX_STEP_MS: Final = 250
_FAR: Final = 1e9
_HOPS: Final = 3


@helper
def leaders(
    order: Any,
    lane: Any,
    along: Any,
    length: Any,
    lane_length: Any,
    ahead_start: Any,
    ahead: Any,
    first: Any,
    reach: float,
    out_row: Any,
    out_gap: Any,
) -> None:
    """Write each row's leader (row, -1 none) and the gap to it, m, bumper to bumper, also across lane ends.

    ``order``: rows that count, by (lane, along). ``first``: scratch, one a lane, all -1; left so.
    """
    count = len(order)
    for k in range(count - 1, -1, -1):
        first[lane[order[k]]] = order[k]
    for k in range(count):
        i = order[k]
        out_row[i] = -1
        out_gap[i] = _FAR
        if k + 1 < count and lane[order[k + 1]] == lane[i]:
            j = order[k + 1]
            out_row[i] = j
            out_gap[i] = along[j] - along[i] - 0.5 * (length[i] + length[j])
            continue
        at = lane[i]
        travelled = lane_length[at] - along[i]
        for _hop in range(_HOPS):  # the straightest way on: the first lane ahead that has someone, else the first
            if travelled > reach or ahead_start[at] == ahead_start[at + 1]:
                break
            found = np.int64(-1)
            for a in range(ahead_start[at], ahead_start[at + 1]):
                j = first[ahead[a]]
                if j >= 0 and j != i and (found < 0 or along[j] < along[found]):
                    found = j
            if found >= 0:
                out_row[i] = found
                out_gap[i] = travelled + along[found] - 0.5 * (length[i] + length[found])
                break
            at = ahead[ahead_start[at]]
            travelled += lane_length[at]
    for k in range(count):
        first[lane[order[k]]] = -1


@helper
def lane_direction(lane: int, along: float, xy: Any, seg_start: Any) -> tuple[float, float]:
    """Return a lane's direction at ``along`` as a unit vector (east, north); zeros without geometry."""
    s, b = seg_start[lane], seg_start[lane + 1]
    if s == b:
        return 0.0, 0.0
    while b - s > 1:  # the last segment that begins at or before ``along``
        middle = (s + b) // 2
        if xy[middle, 5] <= along:
            s = middle
        else:
            b = middle
    return xy[s, 2], xy[s, 3]


@helper
def conditions(
    now: int,
    speed: Any,
    vel_e: Any,
    vel_n: Any,
    heading: Any,
    lane: Any,
    along: Any,
    lateral: Any,
    cls: Any,
    age_ms: Any,
    lived_ms: Any,
    lead: Any,
    gap: Any,
    on_foot: Any,
    mature: Any,
    lane_kind: Any,
    road_class: Any,
    half_width: Any,
    v_min: Any,
    v_max: Any,
    lane_length: Any,
    signal: Any,
    junction: Any,
    light: Any,
    green_ms: Any,
    jam_since: Any,
    jam_low: Any,
    jam_high: Any,
    xy: Any,
    seg_start: Any,
    p: Any,
    ints: Any,
    reals: Any,
    times: Any,
    out: Any,
) -> None:
    """Write each (row, rule) condition of those that look at one track: the rest are NO, or FROZEN with all others.

    ``on_foot``: YES, NO or FROZEN for the pedestrian rule (0 for vehicles); ``light``: by lane 0 unknown, 1 red or
    yellow, 2 green since ``green_ms``; ``jam_*``: by lane, since when and where a congestion is on its link; ``times``:
    event times of the speed history's columns.
    """
    newest = HISTORY - 1
    middle = HISTORY // 2
    span = (times[newest] - times[0]) / 1000.0
    early = (times[middle] - times[0]) / 1000.0
    late = (times[newest] - times[middle]) / 1000.0
    weights = line_weights(times)
    for i in range(len(speed)):
        for r in range(RULE_COUNT):
            out[i, r] = NO
        if age_ms[i] > p[P_FRESH]:
            for r in range(RULE_COUNT):
                out[i, r] = FROZEN
            continue
        if cls[i] == _PEDESTRIAN_CLASS or cls[i] == _CYCLIST_CLASS:
            out[i, PEDESTRIAN] = on_foot[i]
            continue
        v = speed[i]
        if v > p[P_SEEN] and mature[i]:
            ints[i, MOVED] = 1
        has_history = reals[i, 0] >= 0.0 and span > 0.5
        decel = 0.0
        if has_history:
            for x in range(HISTORY):
                decel += weights[x] * reals[i, x]
        if decel >= p[P_CRASH_BRAKE] and lived_ms[i] >= p[P_BRAKE_AGE]:
            ints[i, BRAKED_MS] = now
        # Hard braking: surely above the threshold, and in both halves of the time: a swapped track's jump is none.
        brakes = decel >= min(p[P_BRAKE_ON], p[P_BRAKE_OFF])
        if brakes and has_history and early > 0.0 and late > 0.0 and lived_ms[i] >= p[P_BRAKE_AGE]:
            variance = slowing(reals[i, :HISTORY], times)[1]
            first = (reals[i, 0] - reals[i, middle]) / early
            second = (reals[i, middle] - reals[i, newest]) / late
            if max(first, second) > p[P_BRAKE_MAX]:
                out[i, HARD_BRAKING] = FROZEN
            elif (
                decel - p[P_BRAKE_SIGMAS] * np.sqrt(p[P_BRAKE_ERROR] * p[P_BRAKE_ERROR] + variance) >= p[P_BRAKE_ON]
                and min(first, second) >= 0.75 * p[P_BRAKE_ON]
            ):
                out[i, HARD_BRAKING] = YES
            elif decel >= p[P_BRAKE_OFF]:
                out[i, HARD_BRAKING] = BAND
        at = lane[i]
        if at < 0:
            for r in (STOPPED, BREAKDOWN, WRONG_WAY, OVERSPEED, SLOW, EMERGENCY):
                out[i, r] = FROZEN
            continue
        queued = lead[i] >= 0 and gap[i] <= p[P_STOP_GAP] and speed[lead[i]] <= p[P_STOP_LEAD]
        to_end = lane_length[at] - along[i]
        in_jam = (
            jam_since[at] > 0
            and lane_kind[at] != _LANE_EMERGENCY
            and jam_low[at] - p[P_STOP_JAM] <= along[i] <= jam_high[at] + p[P_STOP_JAM]
        )
        # Stopped and broken down.
        state = YES if v <= p[P_STOP_ON] else (BAND if v <= p[P_STOP_OFF] else NO)
        if state == NO:
            if ints[i, BUSY] & WAITS:
                ints[i, STOP_LINE_MS] = 0
                ints[i, BUSY] &= ~WAITS
        elif queued or (in_jam and (ints[i, SINCE + STOPPED] or now) > jam_since[at]):
            state = NO  # who stood before the jam began may well be its cause
        elif (signal[at] or junction[at]) and to_end <= p[P_STOP_LINE]:
            if ints[i, STOP_LINE_MS] == 0:
                ints[i, STOP_LINE_MS] = now
                ints[i, BUSY] |= WAITS
            if signal[at]:
                if light[at] != 2 or now - green_ms[at] < p[P_GREEN]:
                    state = NO
            elif now - ints[i, STOP_LINE_MS] < p[P_GIVE_WAY]:
                state = NO
        out[i, STOPPED] = state
        out[i, BREAKDOWN] = state

        # Against the lane.
        if lane_kind[at] <= _LANE_EMERGENCY or lane_kind[at] == 5:
            cosine = 0.0
            if v >= p[P_WRONG_OFF]:
                ue, un = lane_direction(at, along[i], xy, seg_start)
                if ue * vel_e[i] + un * vel_n[i] < 0.0:  # else it moves with the lane, wherever it looks
                    angle = np.radians(heading[i])
                    cosine = ue * np.sin(angle) + un * np.cos(angle)
            near_end = road_class[at] != _MOTORWAY and (to_end < p[P_WRONG_END] or along[i] < p[P_WRONG_END])
            inside = abs(lateral[i]) <= half_width[at] - p[P_WRONG_IN]
            if v < p[P_WRONG_OFF] or cosine > -0.7:
                out[i, WRONG_WAY] = NO
            elif near_end:
                out[i, WRONG_WAY] = FROZEN
            elif v >= p[P_WRONG_ON] and cosine <= p[P_WRONG_COS] and inside:
                out[i, WRONG_WAY] = YES
            else:
                out[i, WRONG_WAY] = BAND

        # Too fast.
        on = v_max[at] * p[P_FAST_ON] if v_max[at] > 0.0 else p[P_FAST_NONE]
        off = v_max[at] * p[P_FAST_OFF] if v_max[at] > 0.0 else p[P_FAST_NONE] * p[P_FAST_OFF] / p[P_FAST_ON]
        out[i, OVERSPEED] = YES if v > on else (BAND if v > off else NO)

        # Too slow.
        if lane_kind[at] == _LANE_VEHICLE and (v_min[at] > 0.0 or road_class[at] == _MOTORWAY):
            on = v_min[at] * p[P_SLOW_ON] if v_min[at] > 0.0 else p[P_SLOW_NONE]
            off = v_min[at] * p[P_SLOW_OFF] if v_min[at] > 0.0 else p[P_SLOW_NONE] * p[P_SLOW_OFF] / p[P_SLOW_ON]
            by_jam = jam_high[at] >= jam_low[at] and (
                jam_low[at] - p[P_SLOW_BEHIND] <= along[i] <= jam_high[at] + p[P_SLOW_AHEAD]
            )
            follows = lead[i] >= 0 and gap[i] <= p[P_SLOW_GAP] and speed[lead[i]] < off
            if v >= off or v <= p[P_SLOW_STOP] or follows or by_jam or out[i, WRONG_WAY] == YES:
                out[i, SLOW] = NO
            elif ints[i, ACTIVE + SLOW]:
                out[i, SLOW] = BAND
            else:
                # Speeding up: now, or on the whole since it was slowest within the dwell.
                if ints[i, SINCE + SLOW] == 0 or v < reals[i, SLOWEST]:
                    reals[i, SLOWEST] = v
                if -decel > p[P_SLOW_ACC] or not has_history or v - reals[i, SLOWEST] > p[P_SLOW_GAIN]:
                    out[i, SLOW] = NO
                else:
                    out[i, SLOW] = YES if v < on else BAND

        # On the hard shoulder.
        if lane_kind[at] == _LANE_EMERGENCY:
            if v < p[P_EMER_OFF]:
                out[i, EMERGENCY] = NO
            elif abs(lateral[i]) > half_width[at] - p[P_EMER_IN] or abs(decel) > p[P_EMER_ACC]:
                out[i, EMERGENCY] = FROZEN
            else:
                out[i, EMERGENCY] = YES if v >= p[P_EMER_ON] else BAND


@helper
def machine(now: int, dt: int, cond: Any, mature: Any, dwell: Any, end: Any, p: Any, ints: Any, out: Any) -> Any:
    """Advance every (row, rule); write (row, rule, START or END, start or end ms) and return how many."""
    count = 0
    step = min(max(dt, 0), _MAX_STEP_MS)
    for i in range(len(cond)):
        runs = ints[i, BUSY] & RUNS != 0
        for r in range(RULE_COUNT):
            runs |= cond[i, r] == YES
        if not runs:
            continue
        flagged = ints[i, FLAG_MS] > 0 and now - ints[i, FLAG_MS] <= p[P_FLAG_HOLD]
        for r in range(RULE_COUNT):
            c = cond[i, r]
            if c == FROZEN:
                continue
            if ints[i, ACTIVE + r]:
                if c != NO:
                    ints[i, OFF + r] = 0
                    continue
                if ints[i, OFF + r] == 0:
                    ints[i, OFF + r] = now
                if now - ints[i, OFF + r] >= end[r]:
                    out[count, 0], out[count, 1], out[count, 2], out[count, 3] = i, r, END, ints[i, OFF + r]
                    count += 1
                    ints[i, ACTIVE + r] = 0
                    ints[i, HELD + r] = 0
                    ints[i, SINCE + r] = 0
                continue
            if c != YES and ints[i, SINCE + r] == 0:
                continue
            if c == NO:
                ints[i, HELD + r] = 0
                ints[i, SINCE + r] = 0
                continue
            if ints[i, SINCE + r] == 0:
                ints[i, SINCE + r] = now
                ints[i, HELD + r] = 0
            else:
                ints[i, HELD + r] += step
            need = dwell[r]
            if r == BREAKDOWN and flagged:
                need = np.int64(p[P_FLAG_DWELL])
            if r == ACCIDENT and now - ints[i, AIRBAG_MS] <= p[P_AIRBAG]:
                need = np.int64(p[P_AIRBAG_DWELL])
            if r <= BREAKDOWN and not ints[i, MOVED] and not flagged:  # clutter sets no flags
                need += np.int64(p[P_UNSEEN])
            if ints[i, HELD + r] >= need and mature[i]:
                out[count, 0], out[count, 1], out[count, 2], out[count, 3] = i, r, START, ints[i, SINCE + r]
                count += 1
                ints[i, ACTIVE + r] = 1
                ints[i, OFF + r] = 0
        runs = False
        for r in range(RULE_COUNT):
            runs |= ints[i, SINCE + r] != 0 or ints[i, ACTIVE + r] != 0
        ints[i, BUSY] = ints[i, BUSY] & ~RUNS | (RUNS if runs else 0)
    return count
