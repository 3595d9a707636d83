"""What a service lets go before it serves: the compiler's share is gone, and the compiler is there all the same."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import numba
import numpy as np
import v2x.fusion.engine
from v2x.fusion.clock import StreamClock, advance
from v2x_services import memory

def resident() -> int:
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(("RssAnon", "RssFile")))

before = resident()
memory.settle()
print(before - resident())

clock = StreamClock()
clock.advance(5)
assert clock.now_ms == 5

@numba.njit
def twice(numbers, stamp):
    return advance(numbers, stamp) + advance(numbers, stamp + 7)

assert twice(clock.numbers, 10) == 12
"""


def test_the_compiler_is_let_go() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120)
    assert int(found.stdout) > 40_000  # KiB
