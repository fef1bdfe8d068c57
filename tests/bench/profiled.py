"""Runs a module under the standard library's profiler and writes where its time went.

`python -m bench.profiled OUT.txt MODULE ARGUMENT…`: OUT gets the 30 functions with most time of their own. No paths in
it, since the text is kept in reports. A profile slows what it watches, so its figures are for shares only.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import runpy
import sys
from pathlib import Path

_TOP = 30


def main() -> None:
    """Run what the command line names."""
    _, out, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    profile = cProfile.Profile()
    try:
        profile.runcall(runpy.run_module, module, run_name="__main__", alter_sys=True)
    finally:
        Path(out).write_text(_text(profile))


def _text(profile: cProfile.Profile) -> str:
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(_TOP)
    return text.getvalue().strip()


if __name__ == "__main__":
    main()
