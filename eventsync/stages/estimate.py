"""Says what the first full read of a practice costs: measures its lists by a few calls, before a backfill is asked for.

A list is not told how long it is. So pages far apart are looked at until one is empty, then pages between the last full
one and the first empty one: seven calls tell the length of fifty thousand rows to within about 15%.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from zoneinfo import ZoneInfo

from eventsync.domain.call_costs import typical_practice
from eventsync.domain.call_plan import full_plan
from eventsync.domain.clock import Clock
from eventsync.domain.connections import Connection
from eventsync.domain.reads import Knowledge
from eventsync.domain.records import RecordKind
from eventsync.domain.slicing import ReadingRules
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.record_rows import milliseconds
from eventsync.stages.accounts import Account
from eventsync.stages.dry_run import CALLS_BESIDE_LISTS
from eventsync.vendorkit.budget import Purpose
from eventsync.vendorkit.listing import Listing

MOST_CALLS = 7  # a list
_GROWTH = 8
_CLOSE_ENOUGH = 0.15
_MINUTES_PER_DAY = 24 * 60
_LIST_OF_INVOICES = 1

RowsOn = Callable[[int], Awaitable[tuple[int, bool]]]
"""Reads a page by its number, from 1 on: how many rows it has, and whether the list ends with it."""

OnCall = Callable[[int], None]
"""Is told how many calls were made so far."""


@dataclass(frozen=True, slots=True)
class ListLength:
    """How many rows a list has: between `at_least` and `at_most`, which are the same where its end was seen."""

    at_least: int
    at_most: int

    @property
    def rows(self) -> int:
        """The best guess."""
        return (self.at_least + self.at_most) // 2

    @property
    def is_exact(self) -> bool:
        """Whether it is no guess."""
        return self.at_least == self.at_most


@dataclass(frozen=True, slots=True)
class Duration:
    """How long the budget makes so many calls last: `days` on which calls are made, `minutes` until the last of them.

    `days` counts today, `minutes` also those in which the budget lets nothing through.
    """

    days: int
    minutes: int


@dataclass(frozen=True, slots=True)
class BackfillEstimate:
    """What a backfill costs. `calls_per_day` is what of the day's calls backfills may take, None without a daily cap.

    `calls_left_today` is what of that is left; `calls_made` is what measuring took.
    """

    clients: ListLength
    appointments: ListLength
    calls: int
    duration: Duration
    calls_per_day: int | None
    calls_left_today: int | None
    calls_made: int


async def estimate_backfill(
    account: Account,
    budget: PostgresBudget,
    connection: Connection,
    rules: ReadingRules,
    clock: Clock,
    on_call: OnCall = lambda _: None,
) -> BackfillEstimate:
    """Measure the practice by at most 14 calls, and tell what reading all of it costs.

    Raises what the vendor's client raises: BudgetSpent where the budget has no place for the calls.
    """
    now = clock()
    today = now.astimezone(ZoneInfo(connection.timezone)).date()
    window = Listing(kind=RecordKind.APPOINTMENT, first_day=rules.first_day(today), last_day=rules.last_day(today))
    rows_on = partial(_rows_on, account, now, on_call)
    appointments = await measure(partial(rows_on, window), rules.rows_per_page)
    clients = await measure(partial(rows_on, Listing(kind=RecordKind.PATIENT)), rules.rows_per_page)
    size = typical_practice(clients.rows, appointments.rows, today, rules)
    lists = full_plan(Knowledge(size=size), today, now, rules)
    calls = sum(planned.expected_calls for planned in lists) + _LIST_OF_INVOICES + CALLS_BESIDE_LISTS
    limits = BudgetLimits(connection.calls_per_minute, connection.calls_per_day)
    per_day = None if limits.calls_per_day is None else _backfills_part(limits)
    left = (await budget.report(clock())).left_by_purpose.get(Purpose.BACKFILL.value)
    per_minute = limits.minute_ceiling_of(Purpose.BACKFILL)
    return BackfillEstimate(
        clients=clients,
        appointments=appointments,
        calls=calls,
        duration=duration_of(calls, per_minute=per_minute, per_day=per_day, left_today=left),
        calls_per_day=per_day,
        calls_left_today=left,
        calls_made=account.spent.calls,
    )


async def measure(rows_on: RowsOn, rows_per_page: int, most_calls: int = MOST_CALLS) -> ListLength:
    """Find out how long a list is. Raises what reading a page raises."""
    last_full, last_possible = 0, None  # pages: known to be full, and the last that may hold a row
    number = 1
    for _ in range(most_calls):
        rows, is_last = await rows_on(number)
        if is_last and rows:
            return _exactly((number - 1) * rows_per_page + rows)
        if not is_last:
            last_full = number
        else:
            last_possible = number - 1
        if last_possible is None:
            number *= _GROWTH
        elif last_full == last_possible:
            return _exactly(last_full * rows_per_page)
        elif last_full >= _GROWTH and last_possible - last_full <= 2 * _CLOSE_ENOUGH * last_full:
            break  # a shorter list is looked at on and on, until its end is seen
        else:
            number = _between(last_full, last_possible)
    if last_possible is None:
        last_possible = last_full * _GROWTH
    return ListLength(last_full * rows_per_page, last_possible * rows_per_page)


def duration_of(calls: int, *, per_minute: int, per_day: int | None, left_today: int | None) -> Duration:
    """Tell how long so many calls take: the day's as fast as the minute allows, then the next day is waited for."""
    if per_day is None or left_today is None or calls <= left_today:
        return Duration(1, math.ceil(calls / per_minute))
    later = calls - left_today
    days = math.ceil(later / per_day)
    on_the_last = later - (days - 1) * per_day
    return Duration(1 + days, days * _MINUTES_PER_DAY + math.ceil(on_the_last / per_minute))


async def _rows_on(account: Account, now: datetime, on_call: OnCall, listing: Listing, number: int) -> tuple[int, bool]:
    wanted = Listing(kind=listing.kind, first_day=listing.first_day, last_day=listing.last_day, first_page=number)
    pages = account.client.pages(wanted, read_began_ms=milliseconds(now), purpose=Purpose.BACKFILL)
    async with aclosing(pages):
        page = await anext(pages)
    on_call(account.spent.calls)
    ids = {change.entity.external_id for change in page.items if change.entity.kind is listing.kind}
    return len(ids) + len(page.rejected), page.is_last


def _backfills_part(limits: BudgetLimits) -> int:
    return min(limits.share_of(Purpose.BACKFILL), limits.day_ceiling_of(Purpose.BACKFILL))


def _between(last_full: int, last_possible: int) -> int:
    """Choose the page to look at next: halving what the length may be a multiple of, not the pages themselves."""
    return min(last_possible, max(last_full + 1, round(math.sqrt((last_full + 1) * last_possible))))


def _exactly(rows: int) -> ListLength:
    return ListLength(rows, rows)
