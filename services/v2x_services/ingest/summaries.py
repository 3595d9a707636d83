"""Summaries: once a second ingest tells in the log what it has written there, for those who account for messages.

::

    good messages ─► note: runs of numbers, a line a topic ─► cut, each second ─► released: all of it durable ─► Kafka

A summary is cut at a place in the ledger and written when the ledger has released all before that place, without what
Kafka refused meanwhile: so it never tells of what Kafka does not have. A process that is killed leaves its last second
untold: readers see that a source began anew without a final summary, and look into the log for that time.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numba as nb
import numpy as np
from v2x.columns import I32, I64
from v2x.topics import SUMMARIES, UPLINKS
from v2x.zones import partition_of

from v2x_codecs.reference import ReferenceCodec
from v2x_services.batches import put_long
from v2x_services.ingest import kernels as k
from v2x_services.ingest.judged import Numbered
from v2x_services.ingest.topics import TopicTable
from v2x_services.ports import NO_TOKEN, Clock, LogSink

MOST_RUNS: Final = 4096  # of one record, as its schema has it
_RUN: Final = 4
_LINE, _BOOT, _FIRST, _LAST = range(_RUN)
_RUN_BYTES: Final = 64 + 2 + 2 + 3 * 9  # at most: a device's id, its length, the type, three numbers
_GRID: Final = nb.int64[:, ::1]
# Literals of ``kernels``: numba's cache notices changes of this file only.
_F_NAME, _F_ID, _F_ID_LEN, _F_CODE = 0, 6, 7, 16
assert (k.F_NAME, k.F_ID, k.F_ID_LEN, k.F_CODE) == (_F_NAME, _F_ID, _F_ID_LEN, _F_CODE), "not as kernels says"


def _kernel(signature):
    return nb.njit(signature, nogil=True, cache=True, error_model="numpy")


@_kernel(nb.int64(nb.int64[::1], nb.int32[::1], _GRID, _GRID, _GRID, nb.int64))
def _note(which, reason, envelopes, growing, ended, n):
    """Add good messages to the runs of their lines; runs that they end go to ``ended``. Return how many are there."""
    for i in range(which.shape[0]):
        if reason[i] != 0:
            continue
        line, boot, seq = which[i], envelopes[1, i], envelopes[2, i]
        if growing[line, _LINE] >= 0:
            if growing[line, _BOOT] == boot:
                if seq == growing[line, _LAST] + 1:
                    growing[line, _LAST] = seq
                    continue
                if growing[line, _FIRST] <= seq <= growing[line, _LAST]:
                    continue
            ended[n] = growing[line]
            n += 1
        growing[line, _LINE], growing[line, _BOOT], growing[line, _FIRST], growing[line, _LAST] = line, boot, seq, seq
    return n


@_kernel(nb.int64(_GRID, _GRID, nb.int64))
def _gather(growing, ended, n):
    """End all runs; return how many ended ones there are."""
    for line in range(growing.shape[0]):
        if growing[line, _LINE] >= 0:
            ended[n] = growing[line]
            growing[line, _LINE] = -1
            n += 1
    return n


@_kernel(nb.int64(_GRID, _GRID, nb.uint8[::1], nb.uint8[::1]))
def _write(runs, facts, names, out):
    """Write runs as an Avro block with its end; return its bytes."""
    at = put_long(out, 0, runs.shape[0])
    for i in range(runs.shape[0]):
        line = runs[i, _LINE]
        name, size = facts[line, _F_NAME] + facts[line, _F_ID], facts[line, _F_ID_LEN]
        at = put_long(out, at, size)
        for j in range(size):
            out[at + j] = names[name + j]
        at = put_long(out, at + size, facts[line, _F_CODE])
        for column in range(_BOOT, _RUN):
            at = put_long(out, at, runs[i, column])
    out[at] = 0
    return at + 1


@dataclass(slots=True)
class _Cut:
    """A summary that waits for what it tells of."""

    token: int  # the first message that it does not tell of
    ts_ms: int
    final: bool
    blocks: list[bytes]  # of runs, one a record


class Summaries:
    """Those of one MQTT session."""

    def __init__(self, source: str, topics: TopicTable, sink: LogSink, codec: ReferenceCodec, clock: Clock) -> None:
        """``sink`` knows the topic v2x.summaries."""
        self._source, self._topics, self._sink, self._codec, self._clock = source, topics, sink, codec, clock
        self._start_ms = clock.now_us() // 1000
        self._partition = partition_of(source.encode(), sink.partitions(SUMMARIES))
        self._written = 0
        self._growing: I64 = np.full((len(topics.facts), _RUN), -1, np.int64)
        self._ended: I64 = np.empty((MOST_RUNS, _RUN), np.int64)
        self._n = 0
        self._blocks: list[bytes] = []
        self._cuts: deque[_Cut] = deque()
        self._refused: list[tuple[int, Numbered]] = []  # by the token of the message
        topics.before_clear.append(self._end_runs)

    def note(self, which: I64, reason: I32, envelopes: I64) -> None:
        """Note what is on its way to Kafka: lines of the topic table, what is wrong (0: nothing), envelopes (5, n)."""
        if len(self._growing) < len(self._topics.facts):
            more = np.full((len(self._topics.facts) - len(self._growing), _RUN), -1, np.int64)
            self._growing = np.concatenate((self._growing, more))
        self._make_room(len(which))
        self._n = _note(which, reason, envelopes, self._growing, self._ended, self._n)

    def refused(self, token: int, message: Numbered) -> None:
        """Take back a message that was noted: Kafka refuses its record. A dead letter tells of it, if that is taken."""
        self._refused.append((token, message))

    def cut(self, token: int, *, final: bool = False) -> None:
        """End a summary; it tells of nothing from the message ``token`` on."""
        self._end_runs()
        if not self._blocks and self._cuts and not final:
            return  # Kafka is away, and nothing came
        self._cuts.append(_Cut(token, self._clock.now_us() // 1000, final, self._blocks or [b"\0"]))
        self._blocks = []

    def released(self, token: int) -> None:
        """Write what tells of nothing from the message ``token`` on: all before it are in the log."""
        while self._cuts and self._cuts[0].token <= token:
            cut = self._cuts.popleft()
            blocks = cut.blocks
            if self._refused:
                some = {message for at, message in self._refused if at < cut.token}
                self._refused = [one for one in self._refused if one[0] >= cut.token]
                blocks = [rest for block in blocks for rest in self._without(some, block)]
            for i, block in enumerate(blocks):
                final = cut.final and i == len(blocks) - 1
                value = self._record(cut.ts_ms, final=final, runs=[])[:-1] + block
                self._sink.append(SUMMARIES, self._partition, self._source.encode(), value, [], NO_TOKEN)
                self._written += 1

    def _record(self, ts_ms: int, *, final: bool, runs: list[dict[str, Any]]) -> bytes:
        head = {"source": self._source, "start_ms": self._start_ms, "seq": self._written, "ts_ms": ts_ms}
        return self._codec.encode("summary", {**head, "final": final, "runs": runs})

    def _without(self, some: set[Numbered], block: bytes) -> list[bytes]:
        """Return a block as one or more that do not tell of some numbers; such messages are rare."""
        head = self._record(0, final=False, runs=[])[:-1]
        runs = []
        for run in self._codec.decode_kafka(head + block)[1]["runs"]:
            whose = (UPLINKS[run["code"]].schema, run["device"], run["boot"])
            first = run["first"]
            for seq in sorted(m.seq for m in some if m[:3] == whose and first <= m.seq <= run["last"]):
                if first < seq:
                    runs.append({**run, "first": first, "last": seq - 1})
                first = seq + 1
            if first <= run["last"]:
                runs.append({**run, "first": first})
        parts = [runs[i : i + MOST_RUNS] for i in range(0, max(1, len(runs)), MOST_RUNS)]
        return [self._record(0, final=False, runs=part)[len(head) :] for part in parts]

    def _end_runs(self) -> None:
        """Write down all runs while the lines of the topic table mean what they do."""
        self._make_room(len(self._growing))
        n = _gather(self._growing, self._ended, self._n)
        for first in range(0, n, MOST_RUNS):
            runs = self._ended[first : min(first + MOST_RUNS, n)]
            out = np.empty(len(runs) * _RUN_BYTES + 8, np.uint8)
            size = _write(runs, self._topics.facts, self._topics.names, out)
            self._blocks.append(out[:size].tobytes())
        self._n = 0

    def _make_room(self, more: int) -> None:
        wanted = self._n + more
        if wanted > len(self._ended):
            self._ended = np.concatenate((self._ended[: self._n], np.empty((2 * wanted - self._n, _RUN), np.int64)))
