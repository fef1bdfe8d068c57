"""Where time goes: functions by the time of their own, under the standard library's profiler.

`python -m bench.profiled OUT.txt MODULE ARGUMENT…` runs a module so, and `profiled` a block. A profile slows what it
watches, so its figures are good for shares only. No paths are in it, since the text is kept in reports.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROFILES = "BENCH_PROFILES"
"""The environment variable that names a folder for profiles, where they are wanted."""

IS_FRONT = "BENCH_IS_FRONT"
"""The environment variable that is set where a contender's own process is not worth a profile."""

_TOP = 30


@contextmanager
def profiled(name: str) -> Iterator[None]:
    """Watch a block, where profiles are wanted; `<name>.txt` gets the functions with most time of their own."""
    folder = os.environ.get(PROFILES)
    if folder is None or IS_FRONT in os.environ:
        yield
        return
    with _watched(Path(folder) / f"{name}.txt"):
        yield


@contextmanager
def _watched(out: Path) -> Iterator[None]:
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(_TOP)
        out.write_text(text.getvalue().strip())


def main() -> None:
    """Run the module that the command line names."""
    _, out, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="loaded")  # so that importing is not what the profile is full of
    with _watched(Path(out)):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
