"""What the campaigns of a target came to over all runs, kept beside its inputs, so that a run may be cut at any time.

A folder of ``--corpus`` has for each target ``NAME.json`` (this) and ``NAME/``, a file an input.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from v2x.errors import ConfigError

ENOUGH: Final = 20  # findings after which more would help nobody
_EVERY_S: Final = 5.0


@dataclass(slots=True)
class Tally:
    """What a campaign has seen."""

    cases: int = 0
    findings: list[tuple[str, str]] = field(default_factory=list)  # the bytes as hex, and what is wrong
    seen: Counter[str] = field(default_factory=Counter)  # how many cases came to what
    cpu_s: float = field(default=0.0, compare=False)

    @property
    def enough(self) -> bool:
        """Say whether more findings would help nobody."""
        return len(self.findings) >= ENOUGH

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"cases": self.cases, "findings": self.findings, "seen": dict(self.seen), "cpu_s": self.cpu_s}

    def add(self, other: Tally) -> None:
        """Take in another."""
        self.cases += other.cases
        self.findings += other.findings
        self.seen.update(other.seen)
        self.cpu_s += other.cpu_s


class Totals:
    """The totals of one target: a tally for ``guided``, one for each seed; without a folder they are kept nowhere."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self.inputs = folder / name if folder else None
        self._file = folder / f"{name}.json" if folder else None
        self.runs = self._read()
        self._mine: set[str] = set()
        if self.inputs is not None:
            self.inputs.mkdir(parents=True, exist_ok=True)
        self._saved_at = time.monotonic()

    def _read(self) -> dict[str, Tally]:
        if self._file is None or not self._file.is_file():
            return {}
        try:
            return {
                key: Tally(
                    run["cases"],
                    [(data, wrong) for data, wrong in run["findings"]],
                    Counter(run.get("seen", {})),
                    run.get("cpu_s", 0.0),
                )
                for key, run in json.loads(self._file.read_text("utf-8")).items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise ConfigError(f"{self._file} is no file of v2x fuzz ({e!r}): remove it, or give a new folder") from e

    def of(self, key: str) -> Tally:
        """Return the tally of ``guided`` or of a seed."""
        self._mine.add(key)
        return self.runs.setdefault(key, Tally())

    def save(self, *, now: bool = True) -> None:
        """Write the totals, unless they were written in the last seconds and ``now`` is not asked for."""
        if self._file is None or (not now and time.monotonic() - self._saved_at < _EVERY_S):
            return
        runs = self._read() | {key: self.runs[key] for key in self._mine}  # a run beside this one counts on
        text = json.dumps({key: run.plain() for key, run in runs.items()}, indent=1)
        half = self._file.with_suffix(".part")
        half.write_text(text + "\n", "utf-8")
        half.replace(self._file)  # whole or not at all
        self._saved_at = time.monotonic()

    def load(self) -> list[bytes]:
        """Return the inputs kept, in an order of their own."""
        if self.inputs is None:
            return []
        return sorted({file.read_bytes() for file in self.inputs.iterdir()}, key=lambda data: (len(data), data))

    def keep(self, inputs: Iterable[bytes]) -> None:
        """Keep inputs, named as libFuzzer names them."""
        if self.inputs is not None:
            for data in inputs:
                (self.inputs / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
