"""Walking IntakeQ's lists: pages of 100 bare rows, no total and no cursor, and rows that move while we walk.

Stands between the client and HTTP. A list is ordered by a field that people edit, so a row may come twice (it is
given once) or slip past between two pages (a later walk finds it: one walk alone never proves an absence).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.fields import Fields

ROWS_PER_PAGE = 100  # IntakeQ's own and only page size (Appointments API, article 204)

T = TypeVar("T")
Identify = Callable[[Fields], str | None]
ReadPage = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that could not be understood: its id, where it has one, and the machine-readable reason."""

    external_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The new rows of one page, understood; one that cannot be does not spoil the others."""

    items: tuple[T, ...] = ()
    rejected: tuple[RejectedRow, ...] = ()


async def walk(read_page: ReadPage, name: str, identify: Identify) -> AsyncIterator[list[Fields]]:
    """Yield the new rows of each page, as objects named `name`, until a page is short.

    `read_page` is given 1, 2, …; what it raises passes through, so that a failed page never looks like the last.
    A row without a readable id is given as it is. Raises Transient where a full page holds nothing new: the list is
    then not being paged, and its end cannot be told.
    """
    seen: set[str] = set()
    for number in count(1):
        rows = rows_of(await read_page(number), name)
        fresh = [row for row in rows if _is_new(_id_of(row, identify), seen)]
        if fresh:
            yield fresh
        if len(rows) < ROWS_PER_PAGE:
            return
        if not fresh:
            raise Transient("IntakeQ repeated a page of a list, so its end cannot be told.")


async def understand(
    pages: AsyncIterator[list[Fields]], identify: Identify, read_row: Callable[[Fields], tuple[T, ...]]
) -> AsyncIterator[Page[T]]:
    """Read each row by `read_row`, setting those apart that it rejects."""
    async for rows in pages:
        items: list[T] = []
        rejected: list[RejectedRow] = []
        for row in rows:
            try:
                items.extend(read_row(row))
            except Rejected as error:
                rejected.append(RejectedRow(_id_of(row, identify), error.reason))
        yield Page(tuple(items), tuple(rejected))


def rows_of(answer: Any, name: str) -> list[Fields]:
    """Read an answer that must be an array of objects. Raises Transient otherwise: it is an error's body, say."""
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise Transient("IntakeQ did not answer with a list of records.")
    return [Fields(name, row) for row in answer]


def _id_of(row: Fields, identify: Identify) -> str | None:
    try:
        return identify(row)
    except Rejected:
        return None


def _is_new(external_id: str | None, seen: set[str]) -> bool:
    if external_id is None:
        return True
    if external_id in seen:
        return False
    seen.add(external_id)
    return True
