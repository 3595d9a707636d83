"""Signals: SUMO's fixed-time programs as phases of MAP and SPAT.

Links of a junction that always show the same light are one phase. Phase ids count from 1 at each node, in the order of
SUMO's link indices; a MAP connection and the SPAT name the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree.ElementTree import Element

from v2x_loadtest.record.lanes import REGION
from v2x_loadtest.scene.model import SignalPhase, SignalPlan

# SUMO's letters as in Spat.phases.light.
LIGHT: Final[Mapping[str, int]] = {"r": 3, "u": 3, "g": 5, "G": 6, "y": 7, "Y": 7, "o": 8, "O": 1, "s": 5}


def phases(program: Element) -> tuple[list[str], list[float], dict[int, int]]:
    """Return (states, seconds, phase id of each link index) of a tlLogic element."""
    rows = program.findall("phase")
    states, seconds = [r.attrib["state"] for r in rows], [float(r.attrib["duration"]) for r in rows]
    ids: dict[str, int] = {}
    of_index: dict[int, int] = {}
    for index in range(len(states[0])):
        pattern = "".join(s[index] for s in states)
        of_index[index] = ids.setdefault(pattern, len(ids) + 1)
    return states, seconds, of_index


def plan(program: Element, rsu: str, node: int, warm_s: float) -> SignalPlan:
    """Return the plan; ``warm_s`` is SUMO's time at scene second 0."""
    states, seconds, of_index = phases(program)
    cycle = sum(seconds)
    out: list[SignalPhase] = []
    for phase_id in sorted(set(of_index.values())):
        index = min(i for i, p in of_index.items() if p == phase_id)
        lights: list[tuple[int, float]] = []
        for state, duration in zip(states, seconds, strict=True):
            light = LIGHT[state[index]]
            if lights and lights[-1][0] == light:
                lights[-1] = (light, lights[-1][1] + duration)
            else:
                lights.append((light, duration))
        out.append(SignalPhase(phase_id, tuple(lights)))
    offset = (float(program.attrib.get("offset", "0")) - warm_s) % cycle
    return SignalPlan(rsu, REGION, node, round(offset, 3), tuple(out))


def disagreements(made: SignalPlan, program: Element, seen: Sequence[str]) -> int:
    """Return in how many seconds the plan says something else than SUMO did; ``seen`` is one state a second."""
    _, _, of_index = phases(program)
    wrong = 0
    for t, state in enumerate(seen):
        # SUMO shows at a step what held up to it: look just before a change.
        told = {p["phase_id"]: p["light"] for p in made.spat(t + 0.05)["phases"]}
        wrong += any(told[of_index[i]] != LIGHT[letter] for i, letter in enumerate(state))
    return wrong
