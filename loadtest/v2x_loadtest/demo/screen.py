"""What a person sees while the demo runs: events one by one, and one status line that stays at the bottom."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from v2x_loadtest.demo.tail import Seen

_STYLE: Final = {"ADDED": "bold", "MODIFIED": "dim", "ENDED": "green"}
_SIGN: Final = {"ADDED": "●", "MODIFIED": "○", "ENDED": "✓"}
_LEVEL_STYLE: Final = ("", "yellow", "dark_orange", "red")
_PLAIN_EVERY_S: Final = 10.0


@dataclass(slots=True)
class Status:
    """The figures of the status line; None where not known (yet)."""

    phase: str = "starting"
    elapsed_s: float = 0.0
    of_s: float = 0.0
    published: int | None = None
    acknowledged: int | None = None
    in_kafka: int | None = None
    dead: int | None = None
    tracks: int | None = None
    lag: int | None = None

    def text(self) -> Text:
        """Return the line."""
        line = Text(f" {self.phase}", style="bold cyan")
        if self.of_s:
            line.append(f"  {self.elapsed_s:.0f}/{self.of_s:.0f} s", style="bold")
        figures = (
            ("published", self.published),
            ("acknowledged", self.acknowledged),
            ("in Kafka", self.in_kafka),
            ("dead letters", self.dead),
            ("tracks", self.tracks),
            ("fusion behind", self.lag),
        )
        for name, value in figures:
            if value is not None:
                line.append(f"  {name} ", style="not bold").append(f"{value:,}", style="bold")
        return line


class Screen:
    """Prints events and keeps the status line; without a terminal the line is printed every ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.status = Status()
        self.t0_ms = 0.0  # wall time of the first message: events are told in seconds since then
        self.updates = 0
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._printed = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """Print a line of the demo's own."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def phase(self, name: str) -> None:
        """Begin another phase."""
        self.status.phase = name
        self.refresh(force=self._live is None)

    def refresh(self, *, force: bool = False) -> None:
        """Show the status line."""
        if self._live is not None:
            self._live.update(self.status.text())
        elif force or time.monotonic() - self._printed >= _PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self.console.print(self.status.text(), soft_wrap=True)

    def event(self, seen: Seen) -> None:
        """Print an event: all that begin and end; updates are counted."""
        value = seen.value
        if value["status"] == "MODIFIED":
            self.updates += 1
            return
        self.console.print(event_line(seen, self.t0_ms), soft_wrap=True)


def event_line(seen: Seen, t0_ms: float) -> Text:
    """Return one line: what, where, how long after it became an event, and the latency of every hop."""
    value = seen.value
    status = value["status"]
    at = (seen.stamp_ms - t0_ms) / 1000 if t0_ms else 0.0
    line = Text(f"{at:7.2f} s {_SIGN[status]} {status:<8} ", style=_STYLE[status])
    level = min(max(value["level"], 0), 3)
    line.append(f"{value['kind']} {value['code'] or '–'}", style=f"bold {_LEVEL_STYLE[level]}".strip())
    if level:
        line.append(f" level {level}")
    if value["kind"] == "CONGESTION" and value["queue"] != 65535:
        line.append(f" queue {value['queue']} m")
    lane = f" lane {value['lane']}" if value["lane"] else ""
    line.append(f"  {value['link'] or value['zone']}{lane}")
    line.append(f"  {value['lat'] * 1e-7:.5f},{value['lon'] * 1e-7:.5f}", style="dim")
    if status == "ADDED":
        line.append(f"  began {seen.dwell_s:.1f} s ago, told {seen.after_s:.2f} s after it was found", style="cyan")
    elif value["end_ms"]:
        line.append(f"  lasted {(value['end_ms'] - value['start_ms']) / 1000:.1f} s")
    hops = seen.hops()
    if hops:
        line.append("  " + " ".join(f"{name} {ms:.0f}" for name, ms in hops) + " ms", style="dim")
    return line
