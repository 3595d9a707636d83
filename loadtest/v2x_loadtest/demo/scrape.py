"""A service's counters by HTTP from /metrics: a few sums for the status line, and to know when all is drained."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

_TIMEOUT_S: Final = 1.0


async def scrape(host: str, port: int) -> dict[str, float]:
    """Return the sum over all series of every counter and gauge; empty where nobody answers."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return {}
    head, _, body = answer.partition(b"\r\n\r\n")
    return sums(body.decode().splitlines()) if b" 200 " in head.splitlines()[0] else {}


def sums(lines: Iterable[str]) -> dict[str, float]:
    """Add up the samples of each name in Prometheus' text format, labels aside."""
    out: dict[str, float] = {}
    for line in lines:
        if line.startswith("#") or not line:
            continue
        series, _, value = line.rpartition(" ")
        name = series.partition("{")[0]
        with contextlib.suppress(ValueError):
            out[name] = out.get(name, 0.0) + float(value)
    return out
