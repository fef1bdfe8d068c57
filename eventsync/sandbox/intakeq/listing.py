"""Filters and pages as the IntakeQ API does: bare arrays of at most a hundred, dates by whole days.

Whether the vendor's days are UTC or the practice's is unknown; here they are UTC, both ends included.
"""

from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TypeVar

from aiohttp import web

from eventsync.sandbox.intakeq.wire import to_ms

PAGE_ROWS = 100
DELETED_KEPT_MS = 10 * 86_400_000  # "retrievable up to 10 days after deletion" (Appointments API, article 204)
_DAY_MS = 86_400_000

R = TypeVar("R")


class Query:
    """The parameters of one list call; names are matched without regard to case, as ASP.NET does."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._values = {name.lower(): parameters[name] for name in parameters}

    def key(self) -> Hashable:
        """Everything but the page: the same key means the same rows."""
        return tuple(sorted((name, value) for name, value in self._values.items() if name != "page"))

    def text(self, name: str) -> str | None:
        """A parameter, None when absent or empty."""
        return self._values.get(name.lower()) or None

    def flag(self, name: str) -> bool:
        """True for `true`, in any case."""
        return (self.text(name) or "").lower() == "true"

    def whole(self, name: str) -> int | None:
        """A whole number; raises 400 for anything else."""
        text = self.text(name)
        if text is None:
            return None
        if not text.isdecimal():
            raise web.HTTPBadRequest(text=f"{name} must be a number")
        return int(text)

    def day_ms(self, name: str, *, end: bool = False) -> int | None:
        """The start (or with `end`, the last millisecond) of a `yyyy-MM-dd` day; raises 400 for other forms."""
        text = self.text(name)
        if text is None:
            return None
        try:
            day = date.fromisoformat(text) if len(text) == len("2026-01-31") else None
        except ValueError:
            day = None
        if day is None:
            raise web.HTTPBadRequest(text=f"{name} must be yyyy-MM-dd")
        start_ms = to_ms(datetime(day.year, day.month, day.day, tzinfo=UTC))
        return start_ms + _DAY_MS - 1 if end else start_ms

    def page_of(self, rows: Sequence[R], *, from_last: bool = False) -> Sequence[R]:
        """The rows of the asked page, from 1; `from_last` turns the whole list round."""
        page = max(self.whole("page") or 1, 1)
        first, end = (page - 1) * PAGE_ROWS, page * PAGE_ROWS
        if not from_last:
            return rows[first:end]
        return rows[max(len(rows) - end, 0) : max(len(rows) - first, 0)][::-1]


def between(value_ms: int | None, start_ms: int | None, end_ms: int | None) -> bool:
    """Whether a time lies between bounds, absent ones open; an absent time lies nowhere."""
    if start_ms is None and end_ms is None:
        return True
    if value_ms is None:
        return False
    return (start_ms is None or value_ms >= start_ms) and (end_ms is None or value_ms <= end_ms)


def mentions(query: str | None, *texts: str | None) -> bool:
    """The vendor's partial match on name or e-mail."""
    return query is None or any(query.lower() in text.lower() for text in texts if text)
