"""A practice lives through its days: webhooks, sweeps, daily runs and people's refreshes stay within the budget.

In full size (`make prove`) it is a week of 2,000 clients and 6,000 appointments in the window.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from datetime import date, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import asyncpg
import orjson
import pytest

from eventsync.crypto import Keyring, fingerprint
from eventsync.domain.runs import Run, RunStatus, SyncType
from eventsync.postgres.budget import BudgetLimits, PostgresBudget
from eventsync.postgres.database import Database
from eventsync.postgres.freshness import Freshness, FreshnessKind
from eventsync.postgres.runs import RunLease
from eventsync.postgres.schedules import Schedules
from eventsync.sandbox import NotPossibleError, QuotaLimits
from eventsync.stages.schedule import Scheduler
from eventsync.vendorkit.budget import Purpose
from stages.sync_site import LEASE, SyncSite, open_site

PROVE = os.environ.get("EVENTSYNC_PROVE") == "1"
DAYS, CLIENTS, APPOINTMENTS = (7, 2_000, 6_000) if PROVE else (2, 400, 1_200)
SHARE_OF_DAY = 0.6
STEP = timedelta(minutes=5)
ZONE = ZoneInfo("America/Denver")
MANUAL_REFRESHES, CALLS_PER_REFRESH = 20, 3
CHANGES_PER_HOUR = 8
LOST_SHARE = 0.03
ACTIONS = ("book", "confirm", "reschedule", "cancel", "delete", "edit", "edit_client")


class Week:
    """The practice's days, lived through in steps of five minutes."""

    def __init__(self, site: SyncSite) -> None:
        self.site = site
        self.rng = random.Random(11)
        self.runs: list[Run] = []
        self.calls_by_day: Counter[date] = Counter()
        self.scheduler = Scheduler(
            Schedules(site.pool), site.runs, site.spine.listener, site.clock, vendors=["intakeq"]
        )
        limits = BudgetLimits(site.connection.calls_per_minute, site.connection.calls_per_day)
        self.ledger = PostgresBudget(site.pool, fingerprint(site.connection.api_key), limits, site.clock)

    async def live(self, days: int) -> None:
        until = self.site.clock() + timedelta(days=days)
        while self.site.clock() < until:
            await self.step()
            self.site.clock.advance(seconds=STEP.total_seconds())

    async def step(self) -> None:
        now = self.site.clock()
        today, hour = now.astimezone(ZONE).date(), now.astimezone(ZONE).hour
        if 7 <= hour < 19:
            for _ in range(self._happens(CHANGES_PER_HOUR)):
                await self.practice_changes_something()
            for _ in range(self._happens(MANUAL_REFRESHES / 12)):
                await self.spend(today, Purpose.MANUAL, CALLS_PER_REFRESH)
            for _ in range(self._happens(self.appointments_a_day / 12)):
                await self.spend(today, Purpose.REFETCH, 1)  # the note of a session, say
        await self.scheduler.run_once(now)
        await self.carry_out(today)

    async def carry_out(self, today: date) -> None:
        while (lease := await self._claim()) is not None:
            before = self.site.calls
            self.runs.append(await self.site.carry_out(lease))
            self.calls_by_day[today] += self.site.calls - before

    async def _claim(self) -> RunLease | None:
        now = self.site.clock()
        return await self.site.runs.claim(uuid4(), now, now + LEASE)

    async def practice_changes_something(self) -> None:
        is_lost = self.rng.random() < LOST_SHARE
        try:
            effect = (self.site.sandbox.act_unheard if is_lost else self.site.sandbox.act)(self.rng.choice(ACTIONS))
        except NotPossibleError:
            return
        if effect.webhooks and not is_lost:
            await self.site.spine.apply(*[orjson.loads(hook.body) for hook in effect.webhooks])

    async def spend(self, today: date, purpose: Purpose, calls: int) -> None:
        for _ in range(calls):
            await self.ledger.finish(await self.ledger.reserve(purpose))
            self.calls_by_day[today] += 1

    @property
    def appointments_a_day(self) -> float:
        return APPOINTMENTS / 181

    def _happens(self, times_an_hour: float) -> int:
        expected = times_an_hour * (STEP / timedelta(hours=1))
        return int(expected) + (self.rng.random() < expected % 1)


@pytest.mark.timeout(900)
async def test_the_calls_of_every_day_stay_below_sixty_percent_and_the_copy_is_fresh(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    settings = {"calls_per_minute": "1000", "calls_per_day": "500"}
    quota = QuotaLimits(per_minute=None, per_day=500)
    async with open_site(
        pool, keyring, clients=CLIENTS, appointments=APPOINTMENTS, settings=settings, quota=quota
    ) as site:
        first = await site.sync(SyncType.BACKFILL)
        assert first.status is RunStatus.COMPLETED
        site.clock.advance(days=1)
        week = Week(site)
        await week.live(DAYS)
        assert all(run.status is RunStatus.COMPLETED for run in week.runs), week.runs
        kinds = Counter(run.sync_type for run in week.runs)
        assert kinds[SyncType.AUTOMATED_DAILY] >= DAYS
        assert kinds[SyncType.AUTOMATED_SWEEP] >= 12 * DAYS
        assert site.sandbox.stats.rate_limited == 0
        assert max(week.calls_by_day.values()) < SHARE_OF_DAY * 500, week.calls_by_day
        await require_fresh(site)
        site.clock.advance(hours=3)
        await week.step()
        await site.require_true_copy(database)


async def require_fresh(site: SyncSite) -> None:
    """In the middle of a working day nothing that is to come was verified longer ago than the sweeps' rhythm."""
    rows = await Freshness(site.pool).report(site.owner_id, site.clock())
    ages = {row.kind: row for row in rows}
    assert ages[FreshnessKind.APPOINTMENT_UPCOMING].p95_s < 3 * 3600
    assert ages[FreshnessKind.PATIENT].p95_s < 26 * 3600
