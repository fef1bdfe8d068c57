"""The rows: each module here has one `CONTEST`; a new module is a new row, found by listing this package."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from bench.contest import Contest


def load_contests() -> dict[str, Contest]:
    """Find every row by its name, in the modules' order. Raises TypeError for a module without a CONTEST."""
    contests = [_contest_of(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {contest.name: contest for contest in contests}


def _contest_of(module: str) -> Contest:
    contest = getattr(import_module(module), "CONTEST", None)
    if not isinstance(contest, Contest):
        raise TypeError(f"{module} has no CONTEST: a row is a module that names one")
    return contest
