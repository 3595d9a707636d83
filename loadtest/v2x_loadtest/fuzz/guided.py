"""A target under atheris: coverage-guided, the kernels as plain Python so that their branches are seen.

A program of its own (``python -m v2x_loadtest.fuzz.guided TARGET FOLDER RUNS``), since NUMBA_DISABLE_JIT must be set
before numba is loaded, and since libFuzzer ends the process when it is done. FOLDER takes the corpus, a file an input.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

_PACKAGES = ("v2x", "v2x_codecs", "v2x_services", "v2x_loadtest.fuzz")


def main(name: str, folder: str, runs: str) -> None:
    """Run a target until it has run so often, or something is found."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=list(_PACKAGES)):
        from v2x_loadtest.fuzz import campaign  # noqa: PLC0415 - what atheris is to see is imported under its eyes

        target = campaign.make(name)
    atheris.Setup(
        ["v2x fuzz", folder, f"-runs={runs}", "-max_len=4096", "-print_final_stats=1", "-verbosity=0"], target.run
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
