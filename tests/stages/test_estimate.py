"""What a backfill costs is told from a few calls, near enough to decide by."""

from __future__ import annotations

import asyncio
import math

import pytest

from eventsync.crypto import Keyring, fingerprint
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.domain.slicing import ReadingRules
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.database import Database
from eventsync.stages.estimate import (
    MOST_CALLS,
    BackfillEstimate,
    Duration,
    ListLength,
    duration_of,
    estimate_backfill,
    measure,
)
from eventsync.vendorkit.budget import BudgetSpent
from stages.sync_site import SyncSite, open_site

ROWS_PER_PAGE = 100


class Pages:
    """A list of `rows` rows, which counts how often it is asked."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.asked: list[int] = []

    async def on(self, number: int) -> tuple[int, bool]:
        self.asked.append(number)
        rows = max(0, min(ROWS_PER_PAGE, self.rows - (number - 1) * ROWS_PER_PAGE))
        return rows, rows < ROWS_PER_PAGE


async def measured(pages: Pages) -> ListLength:
    return await measure(pages.on, ROWS_PER_PAGE)


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 199, 200, 455, 700, 799])
async def test_short_lists_are_counted(rows: int) -> None:
    pages = Pages(rows)
    length = await measured(pages)
    assert length == ListLength(rows, rows)
    assert len(pages.asked) <= MOST_CALLS


async def test_the_shortest_lists_cost_one_call() -> None:
    for rows in (0, 1, 99):
        pages = Pages(rows)
        await measured(pages)
        assert pages.asked == [1]


async def test_long_lists_are_known_to_within_about_15_percent_for_seven_calls() -> None:
    for step in range(400):
        rows = round(1.017**step * 100)
        if rows > 51_000:
            break
        pages = Pages(rows)
        length = await measured(pages)
        assert length.at_least <= rows <= length.at_most, rows
        assert abs(length.rows - rows) <= 0.17 * rows, rows
        assert len(pages.asked) <= MOST_CALLS, rows
        assert len(set(pages.asked)) == len(pages.asked), "a page is asked for once"


async def test_lists_beyond_measure_are_said_to_be_so_long_at_least() -> None:
    length = await measured(Pages(10**9))
    assert length.at_least >= 10**6
    assert not length.is_exact


@pytest.mark.parametrize(
    ("calls", "left_today", "expected"),
    [
        (80, 300, Duration(1, 10)),
        (300, 300, Duration(1, 38)),
        (301, 300, Duration(2, 24 * 60 + 1)),
        (700, 300, Duration(3, 2 * 24 * 60 + 13)),
        (300, 0, Duration(2, 24 * 60 + 38)),
    ],
)
def test_what_a_day_does_not_allow_waits_for_the_next(calls: int, left_today: int, expected: Duration) -> None:
    assert duration_of(calls, per_minute=8, per_day=300, left_today=left_today) == expected


def test_without_a_daily_cap_only_the_minute_counts() -> None:
    assert duration_of(700, per_minute=8, per_day=None, left_today=None) == Duration(1, math.ceil(700 / 8))


async def estimated(site: SyncSite, rules: ReadingRules | None = None) -> BackfillEstimate:
    limits = BudgetLimits(site.connection.calls_per_minute, site.connection.calls_per_day)
    account = site.open_account(site.connection, SyncType.BACKFILL)
    budget = PostgresBudget(site.pool, fingerprint(site.connection.api_key), limits, site.clock)
    return await estimate_backfill(account, budget, site.connection, rules or ReadingRules(), site.clock)


async def test_a_practices_estimate_is_near_what_its_backfill_costs(pool: Database, keyring: Keyring) -> None:
    async with open_site(pool, keyring, clients=450, appointments=1_250) as site:
        estimate = await estimated(site)
        assert site.calls == estimate.calls_made <= 2 * MOST_CALLS
        assert estimate.clients == ListLength(450, 450)
        assert abs(estimate.appointments.rows - 1_250) <= 0.16 * 1_250
        run = await site.sync(SyncType.BACKFILL)
    assert run.status is RunStatus.COMPLETED, run
    listed = run.metadata["intakeq_api_calls"]
    assert abs(estimate.calls - listed) <= 0.2 * listed, (estimate, listed)


async def test_the_days_to_read_bound_the_appointments(pool: Database, keyring: Keyring) -> None:
    async with open_site(pool, keyring, clients=5, appointments=300) as site:
        narrow = await estimated(site, ReadingRules(days_back=3, days_ahead=3))
        wide = await estimated(site)
    assert 0 < narrow.appointments.rows < 60
    assert wide.appointments == ListLength(300, 300)


async def test_the_budget_for_backfills_decides_how_long_it_takes(pool: Database, keyring: Keyring) -> None:
    settings = {"calls_per_minute": "10", "calls_per_day": "20"}
    async with open_site(pool, keyring, clients=250, appointments=900, settings=settings) as site:
        began_at = site.clock()
        estimate = await estimated(site)
        assert site.clock() > began_at, "more calls than a minute allows are waited for"
    assert estimate.calls_per_day == 12
    assert estimate.calls_left_today == 12 - estimate.calls_made
    assert estimate.duration.days == 1 + math.ceil((estimate.calls - estimate.calls_left_today) / 12)
    assert estimate.duration.minutes >= 24 * 60


async def test_a_spent_budget_is_not_waited_for(pool: Database, keyring: Keyring) -> None:
    settings = {"calls_per_minute": "10", "calls_per_day": "3"}
    async with open_site(pool, keyring, clients=250, appointments=900, settings=settings) as site:
        async with asyncio.timeout(30):
            with pytest.raises(BudgetSpent, match="eventsync budget"):
                await estimated(site)
