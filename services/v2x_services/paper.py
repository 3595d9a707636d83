"""Consoles for people: as wide as the terminal, or wide enough for every table where output is a file or a pipe."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from rich.console import Console

WIDTH: Final = 160  # a file has no right edge, and a figure that is cut is no figure; COLUMNS in the environment wins


def paper(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console for standard output or standard error; ``options`` are those of ``rich.console.Console``."""
    plain = not (sys.stderr if stderr else sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(stderr=stderr, width=WIDTH if plain else None, **options)
