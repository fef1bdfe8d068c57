"""The rows: each module here has one `CONTEST`; a new module is a new row, found by listing this package."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from bench.contest import Contest


def row_names() -> list[str]:
    """List the rows by their modules' names, without loading them."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load_contest(row: str) -> Contest:
    """Load one row. Raises TypeError for a module without a CONTEST."""
    contest = getattr(import_module(f"{__name__}.{row}"), "CONTEST", None)
    if not isinstance(contest, Contest):
        raise TypeError(f"the row {row} has no CONTEST: a row is a module that names one")
    return contest
