"""How the kernels are compiled: ahead, with explicit signatures, cached on disk, without the GIL, without fastmath.

fastmath stays off on purpose: with ``nnan`` a missing value would slip through every comparison, and results would
depend on the compiler's mood. numba keys its cache by the time stamp of the file that holds the entry point only; ours
call helpers in sibling files, so the stamp is widened to all files of the entry point's folder and to the modules that
it shares with others, or an edited helper would go unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])
_SHARED = ("geo.py", "road_match.py")


@cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = [*sorted(folder.glob("*.py")), *(Path(__file__).parent.parent / name for name in _SHARED)]
    return tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)


def helper(function: Callable[..., Any]) -> Any:
    """Mark a function that only kernels call: it is compiled into them."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    return compiled


def kernel(signature: str) -> Callable[[F], F]:
    """Compile an entry point for one signature, now or from the cache."""

    def compile_it(function: F) -> F:
        dispatcher: Any = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
        cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if hasattr(cache_file, "_source_stamp"):
            cache_file._source_stamp = _stamp(Path(function.__code__.co_filename).parent)  # noqa: SLF001 - numba offers no public way to widen the stamp
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        compiled: F = dispatcher
        return compiled

    return compile_it
