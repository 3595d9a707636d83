"""Pieces of a campaign that never come back: a case has killed its process, or hangs.

Such a piece is done again alone, batch by batch, each in a process of its own; a batch that does not come back is
halved until the case is found.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.pool import IMapIterator
from typing import Any, Final, NamedTuple

from v2x_loadtest.fuzz import campaign
from v2x_loadtest.fuzz.totals import Tally

PATIENCE_S: Final = 180.0  # a piece takes a few seconds, the first one what numba takes to compile
_BATCH_S: Final = 90.0
_HALF_S: Final = 20.0  # for less than a batch: most of it is the start of a process
START = "forkserver"  # how the processes of single batches begin


class Piece(NamedTuple):
    """Some batches of a campaign."""

    name: str
    seed: int
    first: int
    last: int
    inputs: tuple[bytes, ...]


def run(piece: Piece) -> list[Tally]:
    """Do a piece, in a process that may have done others."""
    return list(campaign.batches(*piece))


def watched(found: IMapIterator[list[Tally]], pieces: Sequence[Piece], limit_s: float = PATIENCE_S) -> Iterator[Tally]:
    """Yield the tallies of pieces as they come back, of those that do not what was found to be the matter."""
    for piece in pieces:
        try:
            yield from found.next(limit_s)
        except multiprocessing.TimeoutError:
            for nth in range(piece.first, piece.last):
                yield alone(piece, nth)


def alone(piece: Piece, nth: int, limit_s: float = _BATCH_S) -> Tally:
    """Do one batch in a process of its own; if it does not come back, look for the case."""
    size = campaign.kind(piece.name).batch
    tally, fate = _part(piece, nth, 0, size, limit_s)
    if tally is not None:
        return tally
    first, last = 0, size
    while last - first > 1:
        middle = (first + last) // 2
        for a, b in ((first, middle), (middle, last)):
            tally, how = _part(piece, nth, a, b, min(limit_s, _HALF_S))
            if tally is None:
                first, last, fate = a, b, how
                break
        else:
            break  # only together
    text = f"batch {nth}, case {first}: {fate}" if last - first == 1 else f"batch {nth}, {first} to {last - 1}: {fate}"
    data = campaign.cases(piece.name, piece.seed, nth, piece.inputs)[first]
    return Tally(size, [(data.hex(), text)])


def _part(piece: Piece, nth: int, first: int, last: int, limit_s: float) -> tuple[Tally | None, str]:
    """Do some cases of a batch in a process of its own; return None and its fate if it does not come back."""
    context: Any = multiprocessing.get_context(START)  # BaseContext is said to have no Process
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(piece, nth, first, last, theirs))
    child.start()
    theirs.close()
    try:
        return (ours.recv(), "") if ours.poll(limit_s) else (None, f"hangs for {limit_s:g} s")
    except EOFError:
        child.join()
        return None, f"kills the process ({child.exitcode})"
    finally:
        child.kill()
        child.join()
        ours.close()


def _child(piece: Piece, nth: int, first: int, last: int, answer: Connection) -> None:
    target = campaign.make(piece.name)
    answer.send(target.judge(campaign.cases(piece.name, piece.seed, nth, piece.inputs).part(first, last)))
