"""Events by kind, all seeds together: how many were found, missed and invented, and how late."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from v2x.events.catalogue import RULES

from v2x_loadtest.score.events import EventScore

_Z: Final = 1.959964  # of 95 %
HEADS: Final = ("kind", "true", "found", "recall", "wrong", "precision", "delay p50, s", "p90, s")


@dataclass(slots=True)
class Tally:
    """One kind's counts."""

    found: int = 0
    missed: int = 0
    wrong: int = 0  # invented or told twice
    delays_s: list[float] = field(default_factory=list)

    @property
    def true(self) -> int:
        """Return how many true events were judged."""
        return self.found + self.missed


def add(tallies: dict[str, Tally], events: EventScore) -> None:
    """Count a seed's events; a found one by its true kind, a wrong one by what it was told as first."""
    for match in events.matches:
        mine = tallies.setdefault(match.truth.kind, Tally())
        mine.found += 1
        mine.delays_s.append(match.delay_s)
    for event in events.missed:
        tallies.setdefault(event.kind, Tally()).missed += 1
    for told in (*events.invented, *(told for told, _ in events.repeated)):
        tallies.setdefault(next(iter(told.kinds)), Tally()).wrong += 1


def total(tallies: Mapping[str, Tally]) -> Tally:
    """Return all kinds together."""
    out = Tally()
    for one in tallies.values():
        out.found, out.missed, out.wrong = out.found + one.found, out.missed + one.missed, out.wrong + one.wrong
        out.delays_s += one.delays_s
    return out


def share(right: int, every: int) -> tuple[float, float, float] | None:
    """Return a share and its 95 % interval by Wilson; None of nothing."""
    if not every:
        return None
    p, z2 = right / every, _Z * _Z
    middle = (p + z2 / (2 * every)) / (1 + z2 / every)
    half = _Z / (1 + z2 / every) * float(np.sqrt(p * (1 - p) / every + z2 / (4 * every * every)))
    return p, max(middle - half, 0.0), min(middle + half, 1.0)


def _ordered(tallies: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
    """Yield the kinds in the catalogue's order, then all together."""
    yield from ((rule.kind, tallies[rule.kind]) for rule in RULES if rule.kind in tallies)
    yield "all", total(tallies)


def rows(tallies: Mapping[str, Tally]) -> Iterator[Sequence[str]]:
    """Yield the table's rows (as ``HEADS``), the sum last."""
    for kind, one in _ordered(tallies):
        late = np.array(one.delays_s)
        delays = [f"{np.percentile(late, q):.2f}" if len(late) else "–" for q in (50, 90)]
        yield (
            kind, str(one.true), str(one.found), _show(share(one.found, one.true)), str(one.wrong),
            _show(share(one.found, one.found + one.wrong)), *delays,
        )  # fmt: skip


def to_dict(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """Return the table as JSON has it."""
    return {
        kind: {
            "true": one.true, "found": one.found, "wrong": one.wrong, "recall": share(one.found, one.true),
            "precision": share(one.found, one.found + one.wrong), "delays_s": [round(x, 3) for x in one.delays_s],
        }
        for kind, one in _ordered(tallies)
    }  # fmt: skip


def _show(value: tuple[float, float, float] | None) -> str:
    return "–" if value is None else "{:.3f} [{:.3f}, {:.3f}]".format(*value)
