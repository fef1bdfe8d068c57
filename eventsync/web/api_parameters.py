"""The kinds of parameters that the management API's endpoints take: each checked, each error naming what it wants."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventsync.web.api_calls import Parameter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_TEXT_CHARS = 200
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_TRUTHS = {"true": True, "false": False}


def uuid_parameter(name: str, description: str, *, in_path: bool = False) -> Parameter:
    """Take one of our ids."""

    def read(text: str) -> UUID:
        if not _UUID.fullmatch(text):
            raise ValueError("a UUID such as 0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12")
        return UUID(text)

    schema = {"type": "string", "format": "uuid", "examples": ["0199f3c2-7a10-7c4e-8b1d-2f4a6c8e0d12"]}
    return Parameter(name, description, read, schema, in_path=in_path)


def time_parameter(name: str, description: str) -> Parameter:
    """Take a time with its zone; it is read as UTC."""

    def read(text: str) -> datetime:
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # the same advice helps
        raise ValueError("a time with its zone, such as 2026-03-31T09:30:00Z (a + must be written as %2B)")

    schema = {"type": "string", "format": "date-time", "examples": ["2026-03-31T09:30:00Z"]}
    return Parameter(name, description, read, schema)


def flag_parameter(name: str, description: str) -> Parameter:
    """Take true or false; false where it is not given."""

    def read(text: str) -> bool:
        if text not in _TRUTHS:
            raise ValueError("true or false")
        return _TRUTHS[text]

    return Parameter(name, description, read, {"type": "boolean", "default": False}, default=False)


def choice_parameter(name: str, description: str, choices: Iterable[str]) -> Parameter:
    """Take one of a few words."""
    words = list(choices)

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return Parameter(name, description, read, {"type": "string", "enum": words})


def text_parameter(name: str, description: str, example: str) -> Parameter:
    """Take a name or an id of a vendor's."""

    def read(text: str) -> str:
        if not (0 < len(text) <= _MAX_TEXT_CHARS and text.isprintable()):
            raise ValueError(f"a text of 1 to {_MAX_TEXT_CHARS} printable characters")
        return text

    schema = {"type": "string", "minLength": 1, "maxLength": _MAX_TEXT_CHARS, "examples": [example]}
    return Parameter(name, description, read, schema)


def _limit(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else 0
    if not 1 <= number <= MAX_LIMIT:
        raise ValueError(f"a whole number from 1 to {MAX_LIMIT}")
    return number


_LIMIT_SCHEMA: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}
PAGING = (
    Parameter("limit", "How many at most.", _limit, _LIMIT_SCHEMA, default=DEFAULT_LIMIT),
    Parameter("cursor", "The `next_cursor` of the page before.", str, {"type": "string"}),
)
"""What every listing takes; see `Cursors`."""
