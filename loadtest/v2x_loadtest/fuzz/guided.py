"""A target under atheris: coverage-guided, the kernels as plain Python so that their branches are seen.

A program of its own (``python -m v2x_loadtest.fuzz.guided TARGET FOLDER RUNS``), since NUMBA_DISABLE_JIT must be set
before numba is loaded, and since libFuzzer never gives the process back. FOLDER takes each input with new coverage as
soon as it is found, and the totals: a run may be cut at any time, and the next one goes on from there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Final

_PACKAGES: Final = ("v2x", "v2x_codecs", "v2x_services", "v2x_loadtest.fuzz")
_LONGEST: Final = 2048  # bytes of an input
_HANGS_S: Final = 20
_MEMORY_MB: Final = 3000
_OURS: Final = 0.5  # of the mutations; the rest are libFuzzer's


def main(name: str, folder: str, runs: str) -> None:
    """Run a target until it has run so often in all, or enough is found."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=list(_PACKAGES)):
        from v2x_loadtest.fuzz import campaign  # noqa: PLC0415 - what atheris is to see is imported under its eyes
        from v2x_loadtest.fuzz.totals import Totals  # noqa: PLC0415

        target = campaign.make(name)
    totals, wanted, stop = Totals(Path(folder), name), int(runs), False
    tally = totals.of("guided")
    known = totals.load() or target.seeds()
    began = time.process_time()

    def end(*_: object) -> None:
        nonlocal stop
        stop = True

    def run(data: bytes) -> None:
        if wrong := campaign.one(target, data):
            tally.findings.append((data.hex(), wrong))
        tally.cases += 1
        totals.save(now=False)
        if stop or tally.enough or tally.cases >= wanted:
            tally.cpu_s += time.process_time() - began
            totals.save()
            os._exit(0)  # libFuzzer would count this as a crash

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < _OURS:
            return target.mutate(data, known, rng)[:longest]
        return bytes(atheris.Mutate(data, longest))

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    here = ["-handle_int=0", "-handle_term=0", f"-timeout={_HANGS_S}", f"-rss_limit_mb={_MEMORY_MB}"]
    much = ["-runs=-1", f"-max_len={_LONGEST}", "-verbosity=0", "-close_fd_mask=2"]  # mqtt5's panics write a lot
    where = [f"-artifact_prefix={folder}/{name}.", f"{folder}/{name}"]
    atheris.Setup(["v2x fuzz", *here, *much, *where], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
