"""What can be listed at a vendor, and the pages that come back: the words between a sweep and a vendor's client."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Generic, TypeVar

from eventsync.domain.records import RecordKind

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which records of a kind to list; None leaves a part out.

    Days are the vendor's whole days, both included. `changed_since` filters by the day of the last change, `deleted`
    lists what was deleted lately instead of what is there, `of_client` is a text that the vendor searches for among
    clients' names and addresses (or, in a list of clients, a client's id). `first_page` counts from 1.
    """

    kind: RecordKind
    first_day: date | None = None
    last_day: date | None = None
    changed_since: date | None = None
    deleted: bool = False
    of_client: str | None = None
    first_page: int = 1


@dataclass(frozen=True, slots=True)
class ListingRules:
    """A vendor's lists as data: rows a page, and for how long they tell of what was deleted."""

    rows_per_page: int
    deletions_told_for: timedelta


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that could not be understood: its id, where it has one, and the machine-readable reason."""

    external_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The new rows of one page, understood; one that cannot be does not spoil the others.

    `number` counts from 1 as the vendor does; `is_last` says that the list ends here.
    """

    items: tuple[T, ...] = ()
    rejected: tuple[RejectedRow, ...] = ()
    number: int = 1
    is_last: bool = False
