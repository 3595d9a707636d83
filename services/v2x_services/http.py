"""/metrics, /healthz and /readyz of one service: a few lines of HTTP/1.1 on asyncio, loopback unless told otherwise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.exposition import generate_latest
from v2x.errors import ConfigError

from v2x_services.metrics import Metrics

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_HEAD_LIMIT: Final = 8192
_TIMEOUT_S: Final = 5.0
_REASON: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class HealthServer:
    """Serves one service's metrics and health; ``ready`` says why it is not ready, or an empty string."""

    def __init__(self, metrics: Metrics, ready: Callable[[], str], host: str = "127.0.0.1", port: int = 0) -> None:
        self._metrics, self._ready, self._host, self.port = metrics, ready, host, port
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; port 0 takes a free one, found in ``port`` afterwards. ConfigError if the port is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self.port, limit=_HEAD_LIMIT)
        except OSError as e:
            msg = f"cannot listen on {self._host}:{self.port} for /metrics ({e}); give another metrics port (0: any)"
            raise ConfigError(msg) from e
        self.port = self._server.sockets[0].getsockname()[1]

    def tell(self, state_dir: Path, name: str = "") -> None:
        """Write the port to ``{state_dir}/{name}.port`` (default: the service's), for who started us with port 0."""
        name = name or self._metrics.service
        state_dir.mkdir(parents=True, exist_ok=True)
        beside = state_dir / f"{name}.port.tmp"
        beside.write_text(f"{self.port}\n")
        beside.replace(state_dir / f"{name}.port")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    def answer(self, method: str, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of a request."""
        if method not in {"GET", "HEAD"}:
            return 405, _TEXT, b"only GET\n"
        path = path.partition("?")[0]
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        why = self._ready()
        if path == "/readyz":
            body = json.dumps({"ready": not why, "why": why, "service": self._metrics.service}).encode() + b"\n"
            return (503 if why else 200), _JSON, body
        if path == "/metrics":
            self._metrics.set("v2x_ready", 0 if why else 1)
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        return 404, _TEXT, b"there is /metrics, /healthz and /readyz\n"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")[:2]
                status, kind, body = self.answer(method, path)
                writer.write(
                    f"HTTP/1.1 {status} {_REASON[status]}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                )
                if method != "HEAD":
                    writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ConnectionError, ValueError):
            pass  # a broken client is its own problem
        finally:
            writer.close()
