"""What a seed stands for: the traffic, the faults and the bounds of one schedule."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

# Each fault: how likely it is chosen, and how long it lasts at most (0: a moment), in seconds.
FAULTS: Final[dict[str, tuple[float, float]]] = {
    "mqtt connections break": (3, 0),
    "mqtt connections carry nothing": (1, 0),
    "mqtt broker refuses": (2, 8),
    "kafka connections break": (3, 0),
    "kafka connections carry nothing": (1, 0),
    "kafka broker crashes": (3, 12),
    "kafka leaders move": (2, 0),
    "kafka refuses batches": (3, 4),
    "kafka answers are wrong": (2, 4),
    "kafka answers are lost": (2, 4),
    "kafka is slow": (2, 6),
    "ingest is killed": (2, 2),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: when it begins and how long it lasts, in seconds."""

    at: float
    what: str
    lasts: float

    def __str__(self) -> str:
        return f"{self.at:.3f} s: {self.what}" + (f" for {self.lasts:.1f} s" if self.lasts else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule, before it runs."""

    seed: int
    nodes: int
    partitions: int
    receive_maximum: int
    max_in_flight: int
    max_pending: int
    pace_s: float
    publishes: tuple[tuple[float, int], ...]  # when, and how many at once
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, seed: int) -> Plan:
        """Return the plan of a seed."""
        rng = Random(seed)
        lasts = rng.uniform(1.0, 20.0)
        bursts = rng.randint(5, 25)
        publishes = sorted((rng.uniform(0.0, lasts), 1 + int(rng.expovariate(0.3))) for _ in range(bursts))
        kinds = list(FAULTS)
        faults = []
        for _ in range(rng.randint(0, 6)):
            (what,) = rng.choices(kinds, [FAULTS[kind][0] for kind in kinds])
            most = FAULTS[what][1]
            faults.append(Fault(rng.uniform(0.0, lasts), what, rng.uniform(0.05, most) if most else 0.0))
        return cls(
            seed=seed,
            nodes=rng.choice((1, 1, 3)),
            partitions=rng.choice((1, 2, 4)),
            receive_maximum=rng.choice((1, 4, 16, 2048)),
            max_in_flight=rng.choice((4, 32, 4096)),
            max_pending=rng.choice((2_000, 20_000, 64 << 20)),
            pace_s=rng.choice((0.0, 0.006, 0.05)),
            publishes=tuple(publishes),
            faults=tuple(sorted(faults, key=lambda f: f.at)),
        )
