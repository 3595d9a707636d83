"""Columns: what a batch decoder hands over, and the ports that the pure core needs from the codecs.

A batch of n messages becomes one int64 table per record type. The root table of schema ``rsm`` is called ``rsm``;
an array field's rows are in ``rsm.participants``, deeper ones in ``map.nodes.links.lanes.points``. A string, bytes or
fixed field takes two columns, ``device.off`` and ``device.len``, that point into ``heap``. A message that is refused
leaves no row anywhere; its neighbours are untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]


class Verdict(IntEnum):
    """Why a message was refused by the decoder; 0 is accepted."""

    OK = 0
    EMPTY = 1  # no bytes
    BAD_FRAMING = 2  # neither C3 01 (MQTT) nor 00 (Kafka)
    UNKNOWN_SCHEMA = 3  # fingerprint or id not in the registry
    WRONG_SCHEMA = 4  # known, but not the one its topic stands for
    TRUNCATED = 5
    TRAILING = 6  # bytes left over
    BAD_VARINT = 7  # over 10 bytes, or beyond the type's width
    BAD_VALUE = 8  # boolean 7, enum or union index out of range, text not UTF-8
    OUT_OF_RANGE = 9  # beyond the schema's min/max, or a string longer than maxLength
    TOO_MANY = 10  # array longer than maxItems (or shorter than minItems), or negative
    TOO_LARGE = 11  # payload beyond the limit


@dataclass(slots=True)
class Table:
    """Rows of one record type: ``data`` (rows, columns) int64, the message and parent row that each belongs to."""

    name: str
    fields: tuple[str, ...]
    data: I64
    msg: I32  # message index in the batch
    parent: I32  # row in the parent's table; for a root table the message index

    def col(self, name: str) -> I64:
        """Return one column (a view)."""
        return self.data[:, self.fields.index(name)]


@dataclass(slots=True)
class Batch:
    """A decoded batch of n messages."""

    verdict: I16  # (n,) Verdict
    at: I32  # (n,) byte offset in the whole message where it went wrong; -1 if fine
    bad_field: I32  # (n,) index into ``Decoder.field_names`` of the offending field; -1 if none
    schema: I32  # (n,) index into ``Decoder.schemas``; -1 unknown
    row: I32  # (n,) row in the root table of its schema; -1 if refused
    tables: dict[str, Table]
    heap: bytes = field(repr=False, default=b"")
    roots: list[str] = field(default_factory=list)  # root tables that have rows

    def text(self, table: str, row: int, name: str) -> str:
        """Return a string field of one row."""
        t = self.tables[table]
        off = int(t.data[row, t.fields.index(name + ".off")])
        return self.heap[off : off + int(t.data[row, t.fields.index(name + ".len")])].decode()


class Decoder(Protocol):
    """Batch decoder: the port of ingest (validation) and fusion (columns)."""

    schemas: tuple[str, ...]
    field_names: tuple[str, ...]

    def decode_mqtt(self, payloads: Sequence[bytes], expect: I32 | None = None) -> Batch:
        """Decode single-object payloads; ``expect`` names the schema index that each topic stands for."""
        ...

    def decode_spans(self, heap: bytes, spans: I64, expect: I32 | None = None) -> Batch:
        """Decode single-object payloads that lie in ``heap``: ``spans`` (n, 2) has their offsets and lengths."""
        ...

    def decode_kafka(self, values: Sequence[bytes]) -> Batch:
        """Decode values in Confluent framing."""
        ...

    def decode_heap(self, values: bytes, sizes: I64) -> Batch:
        """Decode values in Confluent framing that lie one behind the other; ``sizes`` (n,) in bytes."""
        ...


class Encoder(Protocol):
    """Record to Kafka value (Confluent framing)."""

    def encode(self, schema: str, record: Mapping[str, Any]) -> bytes:
        """Return the framed value."""
        ...


class Record(NamedTuple):
    """A record of a Kafka partition, as the pure core sees it."""

    offset: int
    stamp_ms: int
    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class Records(Sequence[Record]):
    """A stretch of one partition's log in columns: a sequence of records that makes none before it is asked for one.

    ``values`` holds the values one behind the other.
    """

    __slots__ = ("_record", "offset", "size", "stamp_ms", "values")

    def __init__(self, offset: I64, stamp_ms: I64, size: I64, values: bytes, record: Callable[[int], Record]) -> None:
        """Take the columns, (n,) each: offsets, ascending, stamps, bytes of the values; ``record`` makes one record."""
        self.offset, self.stamp_ms, self.size, self.values, self._record = offset, stamp_ms, size, values, record

    @classmethod
    def of(cls, records: Sequence[Record]) -> Records:
        """Return columns of records in order of their offsets."""
        if isinstance(records, Records):
            return records
        n = len(records)
        values = [r.value for r in records]
        return cls(
            np.fromiter((r.offset for r in records), np.int64, n),
            np.fromiter((r.stamp_ms for r in records), np.int64, n),
            np.fromiter(map(len, values), np.int64, n),
            b"".join(values),
            records.__getitem__,
        )

    @property
    def maker(self) -> Callable[[int], Record]:
        """What makes single records."""
        return self._record

    def __len__(self) -> int:
        return len(self.offset)

    @overload
    def __getitem__(self, n: int) -> Record: ...
    @overload
    def __getitem__(self, n: slice) -> Records: ...
    def __getitem__(self, n: int | slice) -> Record | Records:
        if isinstance(n, int):
            return self._record(range(len(self))[n])
        begin, end, step = n.indices(len(self))
        if step != 1:
            raise ValueError("only a stretch of records is records again")
        at = int(self.size[:begin].sum())
        values = self.values[at : at + int(self.size[begin:end].sum())]
        make = self._record
        offset, stamp_ms, size = (column[begin:end] for column in (self.offset, self.stamp_ms, self.size))
        return Records(offset, stamp_ms, size, values, lambda k: make(begin + k))


class Output(NamedTuple):
    """What the pure core wants written: position is (input offset, nth output at that offset)."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    offset: int
    nth: int
