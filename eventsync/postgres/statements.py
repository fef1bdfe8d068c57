"""Loads the named SQL statements of sql/ once, into typed fields."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from importlib import resources
from typing import Any, TypeVar, cast

T = TypeVar("T")
_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load_statements(kind: type[T], file_name: str) -> T:
    """Bind each statement of `sql/<file_name>` to the field of `kind` that has its name.

    A statement begins with a line `-- name: <field>`. Raises LookupError unless names and fields match exactly.
    """
    found = _statements(file_name)
    wanted = {entry.name for entry in fields(cast("Any", kind))}
    if wanted != found.keys():
        raise LookupError(f"{file_name} and {kind.__name__} disagree on: {sorted(wanted ^ found.keys())}")
    return kind(**found)


@cache
def _statements(file_name: str) -> dict[str, str]:
    text = resources.files("eventsync.postgres").joinpath("sql", file_name).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    return {name: sql.strip().removesuffix(";") for name, sql in zip(parts[1::2], parts[2::2], strict=True)}
