"""`v2x simulate` as a child process: its progress lines are heard, its summary is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections import deque
from pathlib import Path
from typing import Any, Final

from v2x.errors import V2XError

_PUBLISHED: Final = re.compile(r"published ([\d,]+) . acknowledged ([\d,]+)")
_STOP_S: Final = 20.0


class Simulator:
    """One run of the simulator."""

    def __init__(self) -> None:
        self.published = self.acknowledged = 0
        self.summary: dict[str, Any] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._said: deque[str] = deque(maxlen=20)

    async def run(
        self, scene: str, mqtt: str, ledger: Path, *, duration: float, offset: float, scale: int, seed: int
    ) -> None:
        """Run to the end; V2XError with what it said if it fails. Cancelled, it is stopped cleanly."""
        flags = {"scene": scene, "mqtt": mqtt, "ledger": ledger, "duration": duration, "offset": offset}
        flags |= {"scale": scale, "seed": seed}
        args = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "v2x_loadtest.cli",
            "simulate",
            *args,
            "--json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches us first, and we stop it
        )
        try:
            out, _, code = await asyncio.gather(self._output(), self._listen(), self._process.wait())
        except asyncio.CancelledError:
            await self._stop()
            raise
        if code:
            raise V2XError(f"the simulator ended with {code}: {' | '.join(self._said) or 'it said nothing'}")
        self.summary = json.loads(out)

    async def _output(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        return await self._process.stdout.read()

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").strip()
            found = _PUBLISHED.search(line)
            if found:
                self.published, self.acknowledged = (int(n.replace(",", "")) for n in found.groups())
            elif line:
                self._said.append(line)

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
