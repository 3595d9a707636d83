"""Long work spread over processes, in order, which Ctrl-C ends at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


@contextmanager
def spread(
    run: Callable[[_Piece], _Result], pieces: Sequence[_Piece], jobs: int, *, chunk: int = 1, silent: bool = False
) -> Iterator[Iterable[_Result]]:
    """Yield ``run`` of each piece, in their order, from ``jobs`` processes that take ``chunk`` pieces at a time.

    ``silent``: what they write to stderr goes nowhere. Hashes of strings, and with them the order of sets, are the same
    in every run, so that a seed replays.
    """
    os.environ["PYTHONHASHSEED"] = "0"  # read by processes when they start: this one keeps its own
    pool = multiprocessing.get_context("forkserver").Pool(jobs, _settle_in, (silent,))
    try:
        yield pool.imap(run, pieces, chunk)
    finally:
        pool.terminate()
        pool.join()


def _settle_in(silent: bool) -> None:
    """Leave Ctrl-C to the parent, which ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if silent:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
