"""The kernels of ingest: what is done for every message, compiled, a batch at a time.

::

    scan ─► meet ─► (decode) ─► begin, envelope ─► route ─► lay_out ─► (write) … acks
    MQTT    topic    codecs      device,             which     rows for    batches  PUBACKs
    packets  facts               sequence            partitions the sink

Columns of messages are ``ports.Arrivals.rows``; what is known of a topic is a line of *facts*, of where messages go a
line of *sets* (count, partitions). Nothing here allocates a Python object or raises.

A read costs what its calls from Python cost, far more than its messages do: so one call does all that it can.
"""

# The types of kernels are their numba signatures; annotations would say it twice.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Final

import numba as nb
from v2x import routing
from v2x.deadletters import Reason

# Facts of a topic, a column each.
F_NAME, F_NAME_LEN, F_HASH = 0, 1, 2  # its text in the table's own bytes
F_SESSION = 3  # MessageClass whose session takes it, -1 none
F_SCHEMA = 4  # index of the schema that its payloads have, -1 none
F_NUMBER = 5  # of its device
F_ID, F_ID_LEN = 6, 7  # the device's id, within the topic
F_SET = 8  # line of sets with its partitions, -1 where the position decides
F_MOVES = 9  # the position of each message decides
F_LANE = 10  # the lane of its Kafka topic's partition 0; -1: not for ``lay_out``
F_BOOT, F_SEQ = 11, 12  # of its newest message
F_LAT, F_LON, F_LAST = 13, 14, 15  # where a device stood that is not in the zone map, and the set found for that place
F_CODE = 16  # of its message type, in the table of uplinks
FACTS: Final = 17

MORE, OTHER, FULL = 0, 1, 2  # why a scan ended: bytes are missing, a packet for the codec, no room for rows
UNRESOLVED, NOWHERE = -1, -2  # routes
# Literals of what v2x says: numba's cache notices changes of this file only.
CELL_BITS: Final = 10
LAT_MAX, LON_MAX = 900_000_000, 1_800_000_000
_UNKNOWN_TOPIC: Final = 32
_WRONG_DEVICE: Final = 33
assert (CELL_BITS, LAT_MAX, LON_MAX) == (routing.CELL_BITS, routing.LAT_MAX, routing.LON_MAX), "not as v2x.routing says"
assert (int(Reason.UNKNOWN_TOPIC), int(Reason.WRONG_DEVICE)) == (_UNKNOWN_TOPIC, _WRONG_DEVICE), "not v2x.deadletters"
HASH_KEYS: Final = 32  # numbers of 32 bits that the hash of topics is made with: two for eight bytes
_SPREAD: Final = -7_046_029_254_386_353_131

_HEAP: Final = nb.types.Array(nb.uint8, 1, "C", readonly=True)
_BYTES: Final = nb.uint8[::1]
_INT: Final = nb.int64
_LIST: Final = nb.int64[::1]
_GRID: Final = nb.int64[:, ::1]
_COLUMN: Final = nb.int64[:]
_TABLE: Final = nb.int64[:, :]


def _kernel(signature):
    return nb.njit(signature, nogil=True, cache=True, error_model="numpy")


@_kernel(nb.types.UniTuple(_INT, 4)(_HEAP, _INT, _INT, _GRID, _INT))
def scan(heap, at, end, rows, n):
    """Take PUBLISH packets from ``heap[at:end]`` into ``rows`` from line ``n`` on.

    Return lines filled, where it stopped, why (MORE, OTHER, FULL), and how many bytes the packet there has, as far as
    is known. Whatever is not the plain case (other packets, properties, odd text or flags) is OTHER: the codec's task.
    """
    while True:
        if end - at < 2:
            return n, at, MORE, 2
        length, shift, head = 0, 0, 1
        whole = False
        while head < 5 and at + head < end:
            byte = _INT(heap[at + head])
            head += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                whole = True
                break
        if not whole:
            if head < 5:
                return n, at, MORE, head + 1
            return n, at, OTHER, end - at
        stop = at + head + length
        if stop > end:
            return n, at, MORE, head + length
        first = _INT(heap[at])
        qos = (first >> 1) & 3
        p = at + head
        if (first >> 4) != 3 or qos > 1 or stop - p < 5:
            return n, at, OTHER, stop - at
        name = (_INT(heap[p]) << 8) | _INT(heap[p + 1])
        begin = p + 2
        p = begin + name
        if name == 0 or p + 2 * qos + 1 > stop:
            return n, at, OTHER, stop - at
        odd = False
        for k in range(begin, p):  # all of them: without a way out it is compiled to wide instructions
            odd |= nb.uint8(heap[k] - nb.uint8(0x20)) > nb.uint8(0x5E)
        if odd:
            return n, at, OTHER, stop - at
        packet = 0
        if qos == 1:
            packet = (_INT(heap[p]) << 8) | _INT(heap[p + 1])
            p += 2
        if heap[p] != 0 or (qos == 1 and packet == 0):
            return n, at, OTHER, stop - at
        if n == rows.shape[0]:
            return n, at, FULL, stop - at
        rows[n, 0] = begin
        rows[n, 1] = name
        rows[n, 2] = p + 1
        rows[n, 3] = stop - p - 1
        rows[n, 4] = packet
        rows[n, 5] = first & 1
        n += 1
        at = stop


@nb.njit(inline="always")
def _word(a, x):
    """Return the eight bytes from ``x`` on, one load."""
    p, word = nb.uint64(x), nb.uint64(0)
    for k in range(8):
        word |= nb.uint64(a[p + nb.uint64(k)]) << nb.uint64(8 * k)
    return _INT(word)


@nb.njit(inline="always")
def _hash(heap, at, size, keys):
    """Return a hash that nobody foresees who does not know the keys (NH, of UMAC: RFC 4418, 5.2.2)."""
    h = size
    j = 0
    p, end = at, at + size
    while p < end:
        word = _INT(0)
        if end - p >= 8:
            word = _word(heap, p)
        else:
            for k in range(end - p):
                word |= _INT(heap[p + k]) << (8 * k)
        h += ((word + keys[j]) & 0xFFFFFFFF) * (((word >> 32) + keys[j + 1]) & 0xFFFFFFFF)
        p += 8
        j += 2
        if j == HASH_KEYS:  # the keys come again, for what stands elsewhere
            h = (h ^ ((h >> 32) & 0xFFFFFFFF)) * _SPREAD
            j = 0
    h *= _SPREAD
    return h ^ ((h >> 32) & 0xFFFFFFFF)


@nb.njit(inline="always")
def _same(a, x, b, y, size):
    k = 0
    while size - k >= 8:
        if _word(a, x + k) != _word(b, y + k):
            return False
        k += 8
    while k < size:
        if a[x + k] != b[y + k]:
            return False
        k += 1
    return True


@_kernel(nb.types.UniTuple(_INT, 3)(_HEAP, _GRID, _LIST, _LIST, _GRID, _BYTES, _INT, _LIST, nb.int32[:, ::1]))
def meet(heap, rows, keys, slots, facts, names, session, which, known):
    """Find the topics of messages, and what is known of them.

    ``which`` (n,): lines of ``facts``, -1 where unknown. ``known`` (2, n): schema, device number. Return how many
    topics are unknown (then the rest is not worth reading), the payloads' bytes, and how many another session takes.
    """
    mask = slots.shape[0] - 1
    missing = size = others = 0
    for i in range(rows.shape[0]):
        length = rows[i, 1]
        h = _hash(heap, rows[i, 0], length, keys)
        slot = h & mask
        found = -1
        while slots[slot] >= 0:
            line = slots[slot]
            if (
                facts[line, F_HASH] == h
                and facts[line, F_NAME_LEN] == length
                and _same(heap, rows[i, 0], names, facts[line, F_NAME], length)
            ):
                found = line
                break
            slot = (slot + 1) & mask
        which[i] = found
        missing += found < 0
        known[0, i] = facts[found, F_SCHEMA]
        known[1, i] = facts[found, F_NUMBER]
        size += rows[i, 3]
        others += facts[found, F_SESSION] != session
    return missing, size, others


@_kernel(_INT(_HEAP, _INT, _INT, _LIST))
def hash_of(heap, at, size, keys):
    """Return the hash of a topic."""
    return _hash(heap, at, size, keys)


@_kernel(nb.void(_LIST, _GRID, _INT, _INT))
def enter(slots, facts, first, end):
    """Enter lines ``first`` to ``end`` of facts into the slots."""
    mask = slots.shape[0] - 1
    for line in range(first, end):
        slot = facts[line, F_HASH] & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = line


@_kernel(_INT(nb.int16[::1], nb.int32[:, ::1], nb.int32[::1], _GRID))
def begin(verdict, known, reason, out):
    """Begin the columns of a decoded batch, ``reason`` and ``out`` of ``envelope``; return how many messages are bad.

    On a topic that stands for no schema a message is bad whatever it is.
    """
    bad = 0
    for i in range(verdict.shape[0]):
        reason[i] = verdict[i]
        if known[0, i] < 0:
            reason[i] = _UNKNOWN_TOPIC
        bad += reason[i] != 0
        out[0, i] = out[1, i] = out[2, i] = -1
        out[3, i] = LAT_MAX + 1
        out[4, i] = LON_MAX + 1
    return bad


@_kernel(
    nb.types.UniTuple(_INT, 4)(_TABLE, nb.int32[::1], _LIST, _HEAP, _HEAP, _GRID, _LIST, _GRID, _GRID, nb.int32[::1])
)
def envelope(data, msg, columns, bodies, heap, rows, which, facts, out, reason):
    """Judge device and sequence number of the messages of one schema, and copy out their envelope.

    ``data``, ``msg``: root table and its messages. ``columns``: of device offset and length (in ``bodies``), ts_ms,
    boot, seq, lat, lon; -1 where there is none. ``out`` (5, n): ts_ms, boot, seq, lat, lon. Return sequence numbers
    skipped, repeated or late ones, messages without position, and messages from another device than the topic says.
    """
    skipped = repeated = without = wrong = 0
    for r in range(data.shape[0]):
        i = msg[r]
        line = which[i]
        boot, seq = data[r, columns[3]], data[r, columns[4]]
        out[0, i] = data[r, columns[2]]
        out[1, i] = boot
        out[2, i] = seq
        if columns[5] >= 0:
            lat, lon = data[r, columns[5]], data[r, columns[6]]
            out[3, i] = lat
            out[4, i] = lon
            without += lat > LAT_MAX or lon > LON_MAX
        if facts[line, F_SCHEMA] < 0:
            continue
        size = data[r, columns[1]]
        if size != facts[line, F_ID_LEN] or not _same(
            bodies, data[r, columns[0]], heap, rows[i, 0] + facts[line, F_ID], size
        ):
            reason[i] = _WRONG_DEVICE
            wrong += 1
            continue
        if boot != facts[line, F_BOOT]:
            facts[line, F_BOOT] = boot
            facts[line, F_SEQ] = seq
            continue
        step = seq - facts[line, F_SEQ]
        if step > 0:
            skipped += step - 1
            facts[line, F_SEQ] = seq
        else:
            repeated += 1
    return skipped, repeated, without, wrong


@nb.njit(inline="always")
def _cell(lat, lon):
    return ((lat >> CELL_BITS) << 32) | ((lon >> CELL_BITS) & 0xFFFFFFFF)


@nb.njit(inline="always")
def _cell_slot(key, mask):
    h = key * _SPREAD
    return (h ^ (h >> 32)) & mask


@_kernel(_INT(_LIST, _GRID, nb.int32[::1], _GRID, _GRID, _LIST))
def route(which, facts, reason, envelopes, cells, where):
    """Find lines of sets for messages that are good; return how many are UNRESOLVED.

    ``cells`` (2, 2^k): open hash from cells of positions to lines of sets, -1 where empty.
    """
    mask = cells.shape[1] - 1
    missing = 0
    for i in range(which.shape[0]):
        line = which[i]
        if reason[i] != 0 or facts[line, F_LANE] < 0:
            where[i] = NOWHERE
            continue
        where[i] = facts[line, F_SET]
        lat, lon = envelopes[3, i], envelopes[4, i]
        if where[i] < 0 and not facts[line, F_MOVES] and lat == facts[line, F_LAT] and lon == facts[line, F_LON]:
            where[i] = facts[line, F_LAST]
        elif where[i] < 0 and facts[line, F_MOVES] and lat <= LAT_MAX and lon <= LON_MAX:
            key = _cell(lat, lon)
            slot = _cell_slot(key, mask)
            while cells[1, slot] >= 0:
                if cells[0, slot] == key:
                    where[i] = cells[1, slot]
                    break
                slot = (slot + 1) & mask
        missing += where[i] == UNRESOLVED
    return missing


@_kernel(nb.void(_GRID, _INT, _INT, _INT))
def learn(cells, lat, lon, line):
    """Note which set a cell has; the caller keeps the table half empty."""
    mask = cells.shape[1] - 1
    key = _cell(lat, lon)
    slot = _cell_slot(key, mask)
    while cells[1, slot] >= 0 and cells[0, slot] != key:
        slot = (slot + 1) & mask
    cells[0, slot] = key
    cells[1, slot] = line


@_kernel(nb.types.UniTuple(_INT, 2)(_HEAP, _GRID, _LIST, _LIST, _GRID, _LIST, _GRID, _GRID, _LIST, _INT, _GRID, _LIST))
def lay_out(heap, rows, tokens, which, facts, where, sets, versions, broken, now, out, copies):
    """Make the sink's rows of messages that have a place; return how many, and of how many messages.

    ``versions`` (2, 2^k): open hash from fingerprints to schema ids. ``broken`` (first lanes,): set to ``now`` where a
    record goes to one of these lanes. ``copies`` (n,): records beyond the first of each message.
    """
    mask = versions.shape[1] - 1
    m = placed = 0
    for i in range(rows.shape[0]):
        copies[i] = 0
        if where[i] < 0:
            continue
        placed += 1
        line = which[i]
        body = rows[i, 2]
        fingerprint = _word(heap, body + 2)
        slot = fingerprint & mask
        while versions[0, slot] != fingerprint and versions[1, slot] >= 0:
            slot = (slot + 1) & mask
        places = sets[where[i], 0]
        copies[i] = places - 1
        for k in range(places):
            lane = facts[line, F_LANE] + sets[where[i], 1 + k]
            if lane < broken.shape[0]:
                broken[lane] = now
            out[m, 0] = lane
            out[m, 1] = rows[i, 0] + facts[line, F_ID]
            out[m, 2] = facts[line, F_ID_LEN]
            out[m, 3] = body + 10
            out[m, 4] = rows[i, 3] - 10
            out[m, 5] = versions[1, slot]
            out[m, 6] = k > 0
            out[m, 7] = tokens[i]
            m += 1
    return m, placed


@_kernel(nb.void(_COLUMN, _BYTES))
def acks(packet_ids, out):
    """Write PUBACKs (MQTT 5.0, 3.4), four bytes each: reason code 0 is left out."""
    for i in range(packet_ids.shape[0]):
        out[4 * i] = 0x40
        out[4 * i + 1] = 2
        out[4 * i + 2] = packet_ids[i] >> 8
        out[4 * i + 3] = packet_ids[i] & 0xFF


@_kernel(_INT(_COLUMN, _INT))
def count(column, value):
    """Return how often a value occurs."""
    n = 0
    for i in range(column.shape[0]):
        n += column[i] == value
    return n
