"""What became of the messages of a session, as metrics: each is counted as received, and again when it is decided."""

from __future__ import annotations

from typing import Final

import numpy as np
from v2x.columns import I64
from v2x.deadletters import Reason
from v2x.ledger import Released
from v2x.topics import UPLINKS

from v2x_services.ingest import kernels as k
from v2x_services.metrics import Hist, Metrics, Value

_TYPES: Final = {row.schema: row.type for row in UPLINKS}
# Fates of a message in the ledger.
FORWARDED: Final = 1
ELSEWHERE: Final = 2  # the other session has it, or it is a downlink of ours
DEAD: Final = 100  # plus Reason
DROPPED: Final = 200  # plus Reason


class SessionCounts:
    """Counters of one MQTT session."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name = name
        self.elsewhere = ELSEWHERE
        self._metrics = metrics
        self._received = metrics.value("v2x_ingest_received_total", session=name)
        self._bytes = metrics.value("v2x_ingest_received_bytes_total", session=name)
        self._forwarded = metrics.value("v2x_ingest_forwarded_total", session=name)
        self._acknowledged = metrics.value("v2x_ingest_acknowledged_total", session=name)
        self._copies = metrics.value("v2x_ingest_copies_total", session=name)
        self._in_flight = metrics.value("v2x_ingest_in_flight", session=name)
        self._connected = metrics.value("v2x_ingest_connected", session=name)
        self._possible_loss = metrics.value("v2x_ingest_possible_loss_total", session=name)
        self._to_kafka = metrics.hist("v2x_ingest_to_kafka_seconds", session=name)
        self._others: dict[int, Value] = {}
        self._skews: dict[str, Hist] = {}

    def took(self, messages: int, size: int) -> None:
        """Count arrivals."""
        self._received.value += messages
        self._bytes.value += size

    def released(self, out: Released, acknowledged: int, now_us: int) -> None:
        """Count messages whose fate is sealed."""
        self._acknowledged.value += acknowledged
        n = k.count(out.fate, FORWARDED)
        self._forwarded.value += n
        self._to_kafka.observe_since(now_us, out.rx_us, 1e-6)
        if n < len(out.fate):
            for fate, count in zip(*np.unique(out.fate[out.fate != FORWARDED], return_counts=True), strict=True):
                self._other(int(fate)).value += int(count)

    def in_flight(self, n: int) -> None:
        """Show how many messages are taken and not decided."""
        self._in_flight.value = n

    def copied(self, records: int) -> None:
        """Count copies for halo zones."""
        self._copies.value += records

    def connected(self, *, session_present: bool) -> None:
        """Count a connection."""
        present = "1" if session_present else "0"
        self._metrics.inc("v2x_ingest_connects_total", session=self.name, session_present=present)
        self._possible_loss.value += not session_present
        self._connected.value = 1

    def disconnected(self) -> None:
        """Show that there is no connection."""
        self._connected.value = 0

    def without_position(self, schema: str, messages: int) -> None:
        """Count valid messages whose own or reference position is 'unavailable'."""
        self._metrics.inc("v2x_ingest_unavailable_position_total", messages, schema=schema)

    def jumped(self, schema: str, skipped: int, repeated: int) -> None:
        """Count gaps and repeats of sequence numbers."""
        kind = _TYPES[schema]
        self._metrics.inc("v2x_ingest_gaps_total", skipped, type=kind)
        self._metrics.inc("v2x_ingest_repeats_total", repeated, type=kind)

    def skew(self, schema: str, rx_us: int, ts_ms: I64) -> None:
        """Take how late messages are by their own time."""
        hist = self._skews.get(schema)
        if hist is None:
            hist = self._skews[schema] = self._metrics.hist("v2x_ingest_device_skew_seconds", type=schema)
        hist.observe_since(rx_us / 1000, ts_ms, 1e-3)

    def _other(self, fate: int) -> Value:
        found = self._others.get(fate)
        if found is None:
            if fate == ELSEWHERE:
                name, reason = "v2x_ingest_dropped_total", "elsewhere"
            elif fate >= DROPPED:
                name, reason = "v2x_ingest_dropped_total", Reason(fate - DROPPED).label
            else:
                name, reason = "v2x_ingest_dead_letters_total", Reason(fate - DEAD).label
            found = self._others[fate] = self._metrics.value(name, session=self.name, reason=reason)
        return found
