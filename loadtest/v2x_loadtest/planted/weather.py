"""Weather of a planted scene: spells at poles, and what vehicles' own systems feel of it.

A pole measures every five seconds; a spell is true from its first measurement on (``dwell`` as the catalogue says).
What vehicles feel is true once as many as the catalogue asks for have felt it; its start is the first one's, its dwell
the time until the last one that was needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from v2x_loadtest.planted.actors import F64, Car, Note
from v2x_loadtest.planted.layout import EAST, FRAME, LENGTH_M, WEST
from v2x_loadtest.scene import Device, Spell
from v2x_loadtest.scene.model import FLAG_ABS, FLAG_WIPERS, STEP_S
from v2x_loadtest.simulate.fleet import phases
from v2x_loadtest.simulate.steady import PERIOD

FLAGS: Final = {"RAIN": FLAG_WIPERS, "SLIPPERY": FLAG_ABS}
_DWELL_S: Final = 10.0
# Per kind: fields of pole_env, by how bad it is.
_SKIES: Final[dict[str, tuple[Mapping[str, int], ...]]] = {
    "FOG": ({"visibility": 160}, {"visibility": 75}, {"visibility": 38}),
    "RAIN": ({"rain": 40, "surface": 3}, {"rain": 110, "surface": 3}, {"rain": 220, "surface": 3}),
    "ICE": ({"surface": 6, "surface_temp": -30}, {"friction": 18, "surface_temp": -40}),
    "STANDING_WATER": ({"surface": 4, "water_film": 320}, {"water_film": 400, "surface": 3}),
    "SLIPPERY": ({"friction": 33, "surface": 3}, {"surface": 5, "friction": 32, "surface_temp": -10}),
}
_NEARLY: Final[tuple[Mapping[str, int], ...]] = (
    {"visibility": 300}, {"rain": 15, "surface": 3}, {"friction": 52, "surface": 3},
    {"surface_temp": -50, "friction": 62}, {"water_film": 120, "surface": 3},
)  # fmt: skip
_SHOWER_M, _PATCH_M = 800.0, 90.0
_PATCHES: Final = (650.0, 1850.0, 3150.0, 4250.0)  # off the poles
_WIPERS, _SKIDS = 5, 3  # vehicles
_SPREAD_S: Final = 5.0


def measured(pole: int, count: int, from_s: float) -> float:
    """Return when a pole measures first from ``from_s`` on, scene seconds."""
    period = PERIOD["env"] * STEP_S
    at = (pole % PERIOD["env"] + float(phases(count)[pole])) * STEP_S
    return at + period * float(np.ceil((from_s - at) / period))


def sky(
    rng: np.random.Generator, t: F64, poles: Sequence[Device], *, west_shower: bool
) -> tuple[list[Spell], list[Note]]:
    """Return the spells and what is true of them: fog at both ends, rain at one, a surface at each pole between.

    ``west_shower``: vehicles feel rain in the west, so the pole that measures it is the east one.
    """
    spells: list[Spell] = []
    notes: list[Note] = []
    ends = [0, len(poles) - 1]
    rain = ends[west_shower]
    surfaces = ["ICE", "STANDING_WATER", "SLIPPERY"]
    rng.shuffle(surfaces)
    plan = [("FOG", p) for p in ends] + [("RAIN", rain)] + list(zip(surfaces, (1, 2, 3), strict=True))
    for kind, p in plan:
        from_s = float(rng.uniform(8, t[-1] - 60))
        to_s = min(from_s + float(rng.uniform(25, 50)), float(t[-1]))
        fields = _SKIES[kind][int(rng.integers(len(_SKIES[kind])))]
        spells.append(Spell(poles[p].id, from_s, to_s, fields))
        start = measured(p, len(poles), from_s)
        place = tuple(float(v) for v in FRAME.to_local(poles[p].lat, poles[p].lon))
        notes.append(Note(kind, (place[0], place[1]), start, to_s, _DWELL_S))
    for p in range(len(poles)):  # at other times: what is not bad enough
        quiet = _gap([(s.from_s, s.to_s) for s in spells if s.pole == poles[p].id], float(t[-1]))
        if quiet is not None:
            spells.append(Spell(poles[p].id, *quiet, _NEARLY[int(rng.integers(len(_NEARLY)))]))
    return spells, notes


def _gap(taken: Sequence[tuple[float, float]], end: float) -> tuple[float, float] | None:
    """Return the first 25 s that are 75 s after everything taken, or before it."""
    for a in (5.0, *(b + 75.0 for _, b in taken)):
        if a + 25 < end and all(a + 30 < x or a > y + 70 for x, y in taken):
            return a, a + 25.0
    return None


@dataclass(frozen=True, slots=True)
class _Felt:
    kind: str
    directions: tuple[int, ...]
    x: tuple[float, float]
    t: tuple[float, float]


def flag(rng: np.random.Generator, t: F64, cars: Sequence[Car], *, west_shower: bool) -> list[Note]:
    """Let on-board units feel a shower and two slippery patches; return what is true of it.

    Beside that a few feel something alone. The shower is more than two kilometres from the pole that says rain, and
    within one zone.
    """
    obus = [c for c in cars if c.obu]
    middle = float(rng.uniform(750, 1900))
    middle = middle if west_shower else LENGTH_M - middle
    begin = float(rng.uniform(10, 60))
    rows = [_Felt("RAIN", (EAST, WEST), (middle - _SHOWER_M / 2, middle + _SHOWER_M / 2), (begin, begin + 55))]
    for d, middle_m in zip((EAST, WEST), rng.permutation(_PATCHES).tolist(), strict=False):
        x = middle_m + float(rng.uniform(-80, 80))
        rows.append(_Felt("SLIPPERY", (d,), (x, x + _PATCH_M), (begin, float(t[-1]))))
    notes = []
    for row in rows:
        note = _feel(row, t, obus)
        if note is not None:
            notes.append(note)
    patches = [row.x[0] for row in rows[1:]]
    for k in rng.permutation(len(obus)).tolist()[:6]:  # one vehicle's emergency, far from others
        c = obus[k]
        at = np.flatnonzero(np.isfinite(c.x))
        k2 = int(at[len(at) // 2])
        if all(abs(float(c.x[k2]) - x) > 400 for x in patches) and not c.flags.any():
            c.flags[k2 : k2 + 12] |= FLAG_ABS
            patches.append(float(c.x[k2]))
    return notes


def _feel(row: _Felt, t: F64, obus: Sequence[Car]) -> Note | None:
    """Set the flags of those that are there; return the event that they make, None if they are too few."""
    need = _WIPERS if row.kind == "RAIN" else _SKIDS
    felt: list[tuple[float, Car]] = []
    now = (t >= row.t[0]) & (t < row.t[1])
    for c in obus:
        if c.direction not in row.directions:
            continue
        with np.errstate(invalid="ignore"):
            here = now & (c.x >= row.x[0]) & (c.x < row.x[1])
        if here.any():
            c.flags[here] |= FLAGS[row.kind]
            felt.append((float(t[np.flatnonzero(here)[0]]), c))
    felt.sort(key=lambda x: x[0])
    enough = [
        w for n, (w, _) in enumerate(felt) if n + 1 >= need and w - felt[0][0] >= (0 if need == _WIPERS else _SPREAD_S)
    ]
    if not enough:
        return None
    centre = (row.x[0] + row.x[1]) / 2
    reach = (row.x[1] - row.x[0]) / 2
    return Note(row.kind, (centre, 0.0), felt[0][0], row.t[1], enough[0] - felt[0][0], [c for _, c in felt],
                details={"reach_m": reach})  # fmt: skip
