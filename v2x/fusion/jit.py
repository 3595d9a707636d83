"""How the kernels are compiled: ahead, with explicit signatures, cached on disk, without the GIL, without fastmath.

fastmath stays off on purpose: with ``nnan`` a missing value would slip through every comparison, and results would
depend on the compiler's mood. numba keys its cache by the time stamp of the file that holds the entry point only; ours
call helpers in sibling files, so the stamp is widened to all files of the entry point's folder and to the modules that
it shares with others, or an edited helper would go unseen.

A kernel that works on many zones in turn gets a table of addresses: numba takes no list of arrays without copying it at
each call. ``reals`` and ``whole`` make arrays of them again. Whoever writes the table keeps the arrays alive.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numba.np.numpy_support import carray

F = TypeVar("F", bound=Callable[..., Any])
_SHARED = ("geo.py", "road_match.py")
LINE: Final = 64  # bytes that the processor fetches at once


@cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = [*sorted(folder.glob("*.py")), *(Path(__file__).parent.parent / name for name in _SHARED)]
    return tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files)


def helper(function: Callable[..., Any]) -> Any:
    """Mark a function that only kernels call: it is compiled into them.

    In line always: a call hands over seven words for every array, and costs more than most helpers do.
    """
    compiled: Any = numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)
    return compiled


def kernel(signature: Any) -> Callable[[F], F]:
    """Compile an entry point for one signature (text, or numba's types), now or from the cache."""

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


def lined(shape: tuple[int, ...], dtype: type[Any]) -> Any:
    """Return zeros (of eight bytes each) on pages of their own.

    Rows of whole lines begin with one, what is never written takes no memory, and what is freed goes back at once: the
    heap would write zeros into what it gives out again, and keep it.
    """
    room = mmap.mmap(-1, max(int(np.prod(shape)) * 8, 1))
    return np.frombuffer(room, dtype, int(np.prod(shape))).reshape(shape)


def _make_pointer(_typing: Any, address: Any) -> Any:
    """Write the code of ``_pointer``."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return numba.types.voidptr(address), codegen


def _fetch(_typing: Any, address: Any) -> Any:
    """Write the code of ``prefetch``."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        fetch = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [builder.inttoptr(args[0], pointer), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.types.void(address), codegen


_pointer: Any = intrinsic(_make_pointer)  # of an address
prefetch: Any = intrinsic(_fetch)  # (address): fetch its line while the kernel goes on; any address is harmless


@helper
def reals(address: int, rows: int, columns: int) -> Any:
    """Return the float64 array (rows, columns) at an address."""
    return carray(_pointer(address), (rows, columns), np.float64)


@helper
def whole(address: int, rows: int, columns: int) -> Any:
    """Return the int64 array (rows, columns) at an address."""
    return carray(_pointer(address), (rows, columns), np.int64)


@helper
def real_line(address: int, size: int) -> Any:
    """Return the float64 array (size,) at an address."""
    return carray(_pointer(address), (size,), np.float64)


@helper
def whole_line(address: int, size: int) -> Any:
    """Return the int64 array (size,) at an address."""
    return carray(_pointer(address), (size,), np.int64)
