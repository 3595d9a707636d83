"""Memory of a service that is to run for months: what its start leaves behind is let go before the road is served.

* Imports make half a million objects that live for ever: no garbage collection needs to look at them again.
* The compiler is there to load kernels from their cache; then it is done, and the pages of its library (65 MB) go. They
  are mapped again from the file, should a kernel be compiled after all.
* The heap of glibc learns from each large block that was freed to keep larger ones, and gives each thread a heap of its
  own: after one late fetch of 4 MB, such blocks lie about in it for good. Blocks of a megabyte go back at once here.
"""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_LARGE: Final = 1 << 20
_ARENAS: Final = 2
_MADV_DONTNEED: Final = 4
_COMPILER: Final = "libllvmlite"


def settle() -> None:
    """Let go what only the start needed; call it once, when all kernels are loaded."""
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # another C library: then it has its own ways
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 8 * _LARGE)
        libc.malloc_trim(0)
    with suppress(OSError):  # no /proc: then nobody counts
        _unmap(libc, Path("/proc/self/smaps").read_text())


def _unmap(libc: Any, smaps: str) -> None:
    """Take the compiler's pages out of our memory that are as in its file; ``smaps`` as in proc(5)."""
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    begin = end = 0
    for line in smaps.splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            begin, end = (int(x, 16) for x in first.split("-"))
            if _COMPILER not in rest or "w" in rest[:4]:
                begin = end = 0
        elif first == "Anonymous:" and end and rest.split()[0] == "0":  # nothing was ever written there
            libc.madvise(begin, end - begin, _MADV_DONTNEED)
