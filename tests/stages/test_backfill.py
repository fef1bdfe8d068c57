"""A backfill is of use from its first page on, loses nothing when it is killed, and keeps to the budget of its days."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from e2e.sandbox_truth import appointment_rows, expected_appointments
from eventsync.crypto import Keyring
from eventsync.domain.runs import Run, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease, RunLost
from eventsync.stages.reconcile import Reconciler
from eventsync.wiring.reconciling import RunAccounts, make_reconciler, make_store
from stages.sync_site import VENDORS, SyncSite, open_site

ZONE = ZoneInfo("America/Denver")
CLIENTS, APPOINTMENTS = 450, 1_250
# Full pages of clients, and of appointments in five lists; two lists of deletions, and four calls beside lists.
WHOLE = CLIENTS // 100 + 1 + APPOINTMENTS // 100 + 5 + 2 + 4
SHORT_DAYS = {"calls_per_minute": "100", "calls_per_day": "30"}  # of which a backfill may take 18


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    async with open_site(pool, keyring, clients=CLIENTS, appointments=APPOINTMENTS) as opened:
        yield opened


def day_of(site: SyncSite, row: dict[str, Any]) -> date:
    return row["start"].astimezone(ZONE).date()  # type: ignore[no-any-return]  # a row's value has no type


async def near(site: SyncSite, database: asyncpg.Connection) -> tuple[dict[str, Any], dict[str, Any]]:
    """Today's and tomorrow's appointments: as they are held, and as they are."""
    today = site.clock().astimezone(ZONE).date()
    days = (today, today + timedelta(days=1))
    held, true = await appointment_rows(database), expected_appointments(site.sandbox.truth("appointment"))
    return (
        {external_id: row for external_id, row in held.items() if day_of(site, row) in days},
        {external_id: row for external_id, row in true.items() if day_of(site, row) in days},
    )


async def killed_at(site: SyncSite, lease: RunLease, call: int) -> None:
    """Carry the run out until the vendor is asked for the `call`th time; then it is gone, without a last word."""
    reached, gone = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await gone.wait()

    scripted = site.script("*", call=call, before=hang)
    working = asyncio.create_task(site.reconciler().run(lease))
    waiting = asyncio.create_task(reached.wait())
    await asyncio.wait({working, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    working.cancel()
    await asyncio.wait({working, waiting})
    gone.set()
    site.sandbox.script.remove(scripted)
    assert reached.is_set(), working
    assert working.cancelled()


async def test_todays_and_tomorrows_appointments_come_with_the_first_page(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await killed_at(site, await site.lease(SyncType.BACKFILL), call=3)  # after the practitioners and one page
    held, true = await near(site, database)
    assert held == true
    assert len(true) >= 5, "an empty day shows nothing"
    assert len(await appointment_rows(database)) < APPOINTMENTS / 4


@pytest.mark.parametrize("call", [1, 2, 5, 9, 14, 19])
async def test_killed_anywhere_it_goes_on_where_it_was(site: SyncSite, database: asyncpg.Connection, call: int) -> None:
    await killed_at(site, await site.lease(SyncType.BACKFILL), call=call)
    run = await site.carry_out(await site.lease_again())
    assert run.status is RunStatus.COMPLETED, run
    assert run.attempts == 2
    await site.require_true_copy(database)
    assert run.counts.appointments_new == APPOINTMENTS


async def test_what_was_read_before_it_was_killed_is_not_read_again(
    site: SyncSite, pool: Database, keyring: Keyring
) -> None:
    await killed_at(site, await site.lease(SyncType.BACKFILL), call=WHOLE - 4)
    before = site.calls
    run = await site.carry_out(await site.lease_again())
    assert run.status is RunStatus.COMPLETED
    assert site.calls - before <= WHOLE / 2


async def test_given_back_it_goes_on_and_ends_well(site: SyncSite, database: asyncpg.Connection) -> None:
    lease = await site.lease(SyncType.BACKFILL)
    await killed_at(site, lease, call=WHOLE - 4)
    assert await site.runs.give_back(lease, site.clock())
    run = await site.carry_out(await site.lease_again())
    assert run.status is RunStatus.COMPLETED
    assert run.counts.appointments_new == APPOINTMENTS
    await site.require_true_copy(database)


async def test_what_was_read_before_it_was_given_back_is_not_read_again(site: SyncSite) -> None:
    lease = await site.lease(SyncType.BACKFILL)
    await killed_at(site, lease, call=WHOLE - 4)
    assert await site.runs.give_back(lease, site.clock())
    before = site.calls
    await site.carry_out(await site.lease_again())
    assert site.calls - before <= WHOLE / 2


async def test_whoever_lost_it_writes_nothing_more_while_another_ends_it(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    lost = await site.lease(SyncType.BACKFILL)
    ended: list[Run] = []

    async def taken_over() -> None:
        ended.append(await site.carry_out(await site.lease_again()))

    site.script("*", call=8, after=taken_over)  # its page is on the way while another worker reads everything
    with pytest.raises(RunLost):
        await site.reconciler().run(lost)
    assert ended[0].status is RunStatus.COMPLETED
    await site.require_true_copy(database)
    assert await database.fetchval("SELECT count(*) FROM sync_logs WHERE status = 'completed'") == 1


async def test_the_days_budget_ends_it_and_the_next_one_goes_on(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=CLIENTS, appointments=APPOINTMENTS, settings=SHORT_DAYS) as site:
        run = await site.sync(SyncType.BACKFILL)
        assert run.status is RunStatus.PARTIAL_SUCCESS
        assert run.metadata["stopped_because"] is not None
        assert "eventsync budget" in run.metadata["stopped_because"]
        assert run.metadata["intakeq_api_calls"] == 18
        held, true = await near(site, database)
        assert held == true
        site.clock.advance(hours=25)
        await site.sync(SyncType.BACKFILL)
        await site.require_true_copy(database)


async def test_it_waits_for_the_next_days_calls_without_losing_its_place(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=CLIENTS, appointments=APPOINTMENTS, settings=SHORT_DAYS) as site:
        pauses: list[float] = []
        end = await waiting_reconciler(site, pauses).run(await site.lease(SyncType.BACKFILL))
        assert end.status is RunStatus.COMPLETED, end
        assert end.metadata["intakeq_api_calls"] <= WHOLE
        assert timedelta(hours=23) < timedelta(seconds=sum(pauses)) < timedelta(hours=49)
        await site.require_true_copy(database)


async def test_other_runs_do_not_wait_for_days(pool: Database, keyring: Keyring) -> None:
    settings = SHORT_DAYS | {"calls_per_day": "10"}
    async with open_site(pool, keyring, clients=CLIENTS, appointments=APPOINTMENTS, settings=settings) as site:
        pauses: list[float] = []
        end = await waiting_reconciler(site, pauses).run(await site.lease())
        assert end.status is RunStatus.PARTIAL_SUCCESS
        assert sum(pauses) < 60


def waiting_reconciler(site: SyncSite, pauses: list[float]) -> Reconciler:
    """Make what carries out runs as every process does, but that waiting moves the clock and is noted."""

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        site.clock.advance(seconds=seconds)

    accounts = RunAccounts(site.pool, VENDORS, site.http, site.clock, pause=pause)
    store = make_store(site.pool, site.keyring, site.spine.metrics, site.clock)
    return make_reconciler(store, site.spine.directory, VENDORS, accounts.open)
