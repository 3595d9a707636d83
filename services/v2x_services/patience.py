"""How long to wait for a broker's answer before its connection counts as dead.

A connection whose other end has gone without a word (power, a firewall, a moved address) looks like one whose broker
is slow. So the first wait is short, a wait in vain makes the next one twice as long, and answers make it shorter again,
but never shorter than several times what answers take now: a slow broker is waited for, a dead connection is not.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka.conn import CloseReason

FIRST_S: Final = 3.0
_TIMES: Final = 4.0  # of what an answer took
_SHRINK: Final = 0.99  # an answer


class Patience:
    """The wait for one broker, in seconds."""

    def __init__(self, most_s: float, first_s: float = FIRST_S) -> None:
        self._first_s, self._most_s = min(first_s, most_s), most_s
        self.seconds = self._first_s

    def answered(self, took_s: float) -> None:
        """Learn from an answer."""
        wanted = max(self._first_s, _TIMES * took_s, _SHRINK * self.seconds)
        self.seconds = min(wanted, self._most_s)

    def in_vain(self) -> None:
        """Wait longer next time."""
        self.seconds = min(2 * self.seconds, self._most_s)


def drop_connections(client: Any, node: int) -> None:
    """Close what an aiokafka client has open to a broker, failing what waits there: its next request connects anew.

    The client itself keeps a connection on which a metadata request timed out, and asks there again.
    """
    for (of, _), conn in list(client._conns.items()):  # noqa: SLF001 - no public way
        if of == node:
            conn.close(reason=CloseReason.SHUTDOWN)
