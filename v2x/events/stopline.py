"""Who drives over a stop line on red.

A lane's end is its stop line. A track's last lane is remembered (``FROM_LANE``); when it is past that lane's end, the
lights of that moment decide whether it is suspect (``RED_STATE``, ``RED_MS``), and where it goes whether it is told::

    before the line ──passes──► on red for longer than the margin?  no: done
                                │ yes
                             suspect ── the light changes: it had only stopped late ─────► done
                                │ some metres on, or on a lane ahead, and still red
                             gone on ── no right turn is allowed from its lane ──────────► told
                                     ── on a lane ahead: no right turn told, else done
                                     ── on any other lane, or nothing for 15 s ──────────► done
"""

from __future__ import annotations

from typing import Any, Final

from v2x.events import kernel as k
from v2x.fusion.jit import helper

_NONE, _SUSPECT, _GONE_ON, _DONE = range(4)
_JUMP_M: Final = 12.0  # a step of 100 ms at the highest speed; who is suddenly farther has been lost from sight
_TOLD_MS: Final = 500  # how long it counts as going on
_NEAR_M: Final = 1.0  # a match reaches a little beyond its lane's end


@helper
def red_lights(
    now: int, tracks: Any, lanes: Any, right: Any, ahead_right: Any, red_ms: Any, drives: Any, p: Any, ints: Any,
    cond: Any,
) -> None:  # fmt: skip
    """Judge RED_LIGHT; ``red_ms``: by lane, since when all its phases are red, 0 where not (or unknown)."""
    cls, east, north, speed, lane, along = tracks[1], tracks[4], tracks[5], tracks[8], tracks[10], tracks[11]
    lane_length, signal, half_width, start, ahead, xy, seg_start = lanes
    for i in range(speed.shape[0]):
        if cls[i] == 10 or cls[i] == 7 or cond[i, k.RED_LIGHT] == k.FROZEN:
            continue
        at = lane[i] if drives[i] != 0 else -1
        old = ints[i, k.FROM_LANE] - 1
        if old >= 0 and signal[old] and (at != old or lane_length[old] - along[i] < _NEAR_M):
            s = seg_start[old + 1] - 1
            if s >= seg_start[old]:
                dx, dy = east[i] - xy[s, 0], north[i] - xy[s, 1]
                past = dx * xy[s, 2] + dy * xy[s, 3] - xy[s, 4]
                if ints[i, k.RED_STATE] == _NONE and past >= 0.0:
                    aside = abs(xy[s, 2] * dy - xy[s, 3] * dx)
                    passed = now - int(1000.0 * past / max(speed[i], 1.0))
                    on_red = red_ms[old] > 0 and passed - red_ms[old] >= p[k.P_RED_MARGIN]
                    there = past <= _JUMP_M and aside <= half_width[old] + p[k.P_RED_ASIDE]
                    ints[i, k.RED_STATE] = _SUSPECT if on_red and there else _DONE
                    ints[i, k.RED_MS] = passed
                state = ints[i, k.RED_STATE]
                beyond = at >= 0 and at != old
                if state == _SUSPECT and (beyond or past >= p[k.P_RED_CLEAR]):
                    state = _GONE_ON
                    if red_ms[old] == 0 or ints[i, k.RED_MS] < red_ms[old]:
                        state = _DONE
                if state == _GONE_ON:
                    if beyond:
                        state = _DONE
                        for x in range(start[old], start[old + 1]):
                            if ahead[x] == at and not ahead_right[x]:
                                ints[i, k.RED_TOLD_MS] = now
                    elif not right[old]:
                        state = _DONE
                        ints[i, k.RED_TOLD_MS] = now
                    elif now - ints[i, k.RED_MS] > p[k.P_RED_OPEN]:
                        state = _DONE
                ints[i, k.RED_STATE] = state
        if at >= 0 and at != old:
            ints[i, k.FROM_LANE] = at + 1
            ints[i, k.RED_STATE] = _NONE
        if ints[i, k.RED_TOLD_MS] > 0 and now - ints[i, k.RED_TOLD_MS] <= _TOLD_MS:
            cond[i, k.RED_LIGHT] = k.YES
