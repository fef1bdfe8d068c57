"""Walking IntakeQ's lists: pages of 100 bare rows, no total and no cursor, and rows that move while we walk.

Stands between the client and HTTP. A list is ordered by a field that people edit, so a row may come twice (it is
given once) or slip past between two pages (a later walk finds it: one walk alone never proves an absence).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

from eventsync.domain.errors import Rejected, Transient
from eventsync.domain.fields import Fields
from eventsync.vendorkit.listing import Page, RejectedRow

ROWS_PER_PAGE = 100  # IntakeQ's own and only page size (Appointments API, article 204)

T = TypeVar("T")
Identify = Callable[[Fields], str | None]
ReadPage = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of page `number` that no page before it held, and whether the list ends with it."""

    number: int
    rows: list[Fields]
    is_last: bool


async def walk(
    read_page: ReadPage, name: str, identify: Identify, *, first_page: int = 1
) -> AsyncGenerator[Rows, None]:
    """Yield each page's new rows, as objects named `name`, until a page is short.

    `read_page` is given the numbers from `first_page` on; what it raises passes through, so that a failed page never
    looks like the last. A row without a readable id is given as it is. Raises Transient where a full page holds nothing
    new: the list is then not being paged, and its end cannot be told.
    """
    seen: set[str] = set()
    for number in count(first_page):
        rows = rows_of(await read_page(number), name)
        fresh = [row for row in rows if _is_new(_id_of(row, identify), seen)]
        is_last = len(rows) < ROWS_PER_PAGE
        if not fresh and not is_last:
            raise Transient("IntakeQ repeated a page of a list, so its end cannot be told.")
        yield Rows(number, fresh, is_last)
        if is_last:
            return


async def understand(
    pages: AsyncGenerator[Rows, None], identify: Identify, read_row: Callable[[Fields], tuple[T, ...]]
) -> AsyncGenerator[Page[T], None]:
    """Read each row by `read_row`, setting those apart that it rejects."""
    async with aclosing(pages):
        async for page in pages:
            items: list[T] = []
            rejected: list[RejectedRow] = []
            for row in page.rows:
                try:
                    items.extend(read_row(row))
                except Rejected as error:
                    rejected.append(RejectedRow(_id_of(row, identify), error.reason))
            yield Page(tuple(items), tuple(rejected), page.number, page.is_last)


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
