"""What a fault did: the audit's counts, how long tracks were late, and whether what came out is what a quiet run makes.

Recovery: from the moment the fault is lifted (of a kill: the kill itself) to the first second of publishing whose
messages are again in a track within 100 ms, by p99, from the *intended* send time. Where the load alone makes this
machine's p99 longer than that, its own p99 before the fault (and a half) is what must be reached, and is shown.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from v2x.audit import size
from v2x.topics import UPLINKS, MessageClass

from v2x_loadtest.audit.ledger import Ledger
from v2x_loadtest.audit.log import Log
from v2x_loadtest.audit.quiet import Quiet
from v2x_loadtest.audit.verdict import Verdict
from v2x_loadtest.latency import join, track_stamps

AIM_MS: Final = 100.0
HOUR_MS: Final = 3_600_000
_STEP_US: Final = 100_000
_WINDOW_US: Final = 1_000_000
_SLACK: Final = 1.5
_LATE_MS: Final = 10.0**9  # no frame came
_RELIABLE: Final = frozenset(row.schema for row in UPLINKS if row.message_class is MessageClass.RELIABLE)


@dataclass(slots=True)
class Figures:
    """Counts of a row; times in seconds unless said."""

    sent: int = 0
    acknowledged: int = 0
    rate: float = 0.0
    lost_reliable: int = 0
    lost_perishable: int = 0
    unacknowledged: int = 0
    dead: int = 0
    repeated: int = 0  # raw copies: uplinks, frames and events
    duplicates: int = 0  # by the reader's rule
    missing_ends: int = 0
    missing: int = 0  # outputs that a quiet run over the same log makes
    extra: int = 0  # outputs that it does not make
    outputs: int = 0
    events: int = 0
    open: int = 0
    p99_before_ms: float = 0.0
    recovery_s: float | None = None  # None: not within the run
    stall_ingest_s: float = 0.0  # longest way into Kafka from the fault on
    stall_fusion_s: float = 0.0  # longest way from Kafka into a track
    drained: bool = True
    restarts: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)  # of the audit, in words
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Return all that was acknowledged and is nowhere."""
        return self.lost_reliable + self.lost_perishable

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def count(figures: Figures, verdict: Verdict, quiet: Quiet | None) -> None:
    """Fill in what the audit counted."""
    total = verdict.account
    figures.sent, figures.acknowledged = total.published, total.acknowledged
    for name, part in total.by_type().items():
        if name in _RELIABLE:
            figures.lost_reliable += part.lost
        else:
            figures.lost_perishable += part.lost
    figures.unacknowledged, figures.dead = total.unacknowledged, sum(total.dead.values())
    figures.repeated = total.repeated + verdict.events.copies + verdict.frames.copies
    figures.duplicates = verdict.events.duplicates + len(verdict.frames.conflicts)
    figures.events, figures.open = verdict.events.events, verdict.events.open
    figures.missing_ends = len(verdict.events.gaps)
    figures.faults = [*verdict.events.faults, *verdict.frames.conflicts][:10]
    for row in total.faults()[:10]:
        runs = ", ".join(str(run) for run in row.lost[:5]) + (" …" if len(row.lost) > 5 else "")
        figures.faults.append(f"lost: {row.stream.device} {row.stream.type}: seq {runs}")
    if quiet is not None:
        figures.outputs, figures.missing, figures.extra = quiet.outputs, quiet.missing, quiet.extra
        figures.missing_ends += quiet.missing_ends
        figures.faults += quiet.first[:10]


def excuse(figures: Figures, verdict: Verdict, devices: Sequence[str], dropped: int) -> None:
    """Take what ingest says that it dropped of bad ``devices`` (quarantine) off what they lost."""
    lost = sum(size(row.lost) - row.excused for row in verdict.account.streams if row.stream.device in devices)
    excused = min(lost, dropped)
    figures.lost_perishable -= excused
    figures.facts["dropped_and_counted"] = excused
    if excused == lost:
        figures.faults = [f for f in figures.faults if not f.startswith(tuple(f"lost: {name} " for name in devices))]


def time_it(
    figures: Figures, log: Log, ledger: Ledger, steady_us: int, began_us: int, lifted_us: int, clock: str = ""
) -> None:
    """Fill in how late messages were; ``steady_us``: from when on the load ran steadily before the fault.

    ``clock``: whose clock jumped.
    """
    if clock:
        figures.facts["jump_seen_s"] = _jump_seen(log, ledger, clock)
    if clock == "kafka":
        set_right(log, began_us // 1000)
    both = join(log, ledger)
    feeds, stamps = track_stamps(log, both)
    intended = both.intended_us[feeds]
    late = np.where(stamps >= 0, stamps - intended / 1000, _LATE_MS)
    calm_us = began_us - _WINDOW_US  # what was on its way when the fault came is not as before
    before = (intended >= steady_us) & (intended < calm_us)
    figures.p99_before_ms = round(p99(late[before]), 1)
    seconds = max((calm_us - steady_us) / 1e6, 1e-6)
    figures.rate = round(
        int(np.count_nonzero((both.intended_us >= steady_us) & (both.intended_us < calm_us))) / seconds
    )
    least = 0.5 * np.count_nonzero(before) / seconds
    figures.recovery_s = recovery(intended, late, lifted_us, limit_ms(figures.p99_before_ms), int(least))
    hit = both.intended_us >= began_us - _WINDOW_US
    kafka_ms = log.column("stamp_ms")[both.row]
    if hit.any():
        figures.stall_ingest_s = round(float((kafka_ms[hit] - both.intended_us[hit] / 1000).max()) / 1000, 2)
    mine = hit[feeds] & (stamps >= 0)
    if mine.any():
        figures.stall_fusion_s = round(float((stamps[mine] - kafka_ms[feeds][mine]).max()) / 1000, 2)


def _jump_seen(log: Log, ledger: Ledger, clock: str) -> float:
    """Return by how many seconds a stamp of the part's was off at most."""
    both = join(log, ledger)
    seen_us = log.column("stamp_ms")[both.row] * 1000 if clock == "kafka" else log.column("rx_us")[both.row]
    return round(float(np.abs(seen_us - both.intended_us).max(initial=0)) / 1e6)


def set_right(log: Log, near_ms: int) -> None:
    """Take whole hours off Kafka's stamps, so that all are within half an hour of ``near_ms``."""

    def right(stamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return near_ms + (stamps - near_ms + HOUR_MS // 2) % HOUR_MS - HOUR_MS // 2

    for of in (log, log.frames):
        of.columns["stamp_ms"] = array("q", right(of.column("stamp_ms")).tolist())


def limit_ms(before_ms: float) -> float:
    """Return the p99 that counts as recovered."""
    return max(AIM_MS, before_ms * _SLACK)


def p99(values: npt.NDArray[np.float64]) -> float:
    """Return the p99 as a value that occurred; 0 of nothing."""
    return float(np.quantile(values, 0.99, method="inverted_cdf")) if values.size else 0.0


def recovery(
    intended_us: npt.NDArray[np.int64], late_ms: npt.NDArray[np.float64], lifted_us: int, limit: float, least: int
) -> float | None:
    """Return seconds from ``lifted_us`` to the first second with at least ``least`` messages and a p99 within limit.

    None if there is no such second.
    """
    order = np.argsort(intended_us, kind="stable")
    at, late = intended_us[order], late_ms[order]
    last = int(at[-1]) if at.size else 0
    for begin in range(lifted_us, last - _WINDOW_US + 1, _STEP_US):
        low, high = np.searchsorted(at, (begin, begin + _WINDOW_US))
        if high - low >= max(least, 1) and p99(late[low:high]) <= limit:
            return round((begin - lifted_us) / 1e6, 1)
    return None
