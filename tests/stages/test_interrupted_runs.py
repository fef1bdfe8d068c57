"""Runs that are killed, cut off, overtaken or out of calls: whoever goes on with them ends with the same copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import astuple, replace
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import Run, RunEnd, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.runs import RunLease, RunLost
from eventsync.sandbox import QuotaLimits
from stages.sync_site import LEASE, SyncSite, open_site

LISTS = "/appointments"
CLIENTS = "/clients"
DEADLINE_S = 30.0
NOON = datetime(2026, 3, 4, 18, tzinfo=UTC)  # slices are cut by the calendar: a day of which the plans are known
CALLS_OF_A_SWEEP = 5  # with the deleted clients, and today's and tomorrow's appointments
CALLS_OF_A_FULL_RUN = 12


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    """A practice of which nothing has been read yet."""
    async with open_site(pool, keyring, noon=NOON) as opened:
        yield opened


async def kill_at(site: SyncSite, lease: RunLease, call: int) -> None:
    """Carry out a run up to its `call`, and let its worker die there."""
    work = asyncio.create_task(site.reconciler().run(lease))

    async def kill() -> None:
        work.cancel()

    site.script("*", call=call, before=kill)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(asyncio.CancelledError):
            await work
    assert site.sandbox.script.pending == ()


async def require_ended(site: SyncSite, database: asyncpg.Connection, run: Run) -> None:
    assert run.status is RunStatus.COMPLETED, run
    assert min(astuple(run.counts)) >= 0
    assert await database.fetchval("SELECT count(*) FROM sync_logs WHERE completed_at IS NULL") == 0
    await site.require_true_copy(database)


@pytest.mark.parametrize("call", range(1, CALLS_OF_A_FULL_RUN + 1))
async def test_a_full_run_that_is_killed_anywhere_is_gone_on_with_by_another_worker(
    site: SyncSite, database: asyncpg.Connection, call: int
) -> None:
    await kill_at(site, await site.lease(), call)
    run = await site.carry_out(await site.lease_again())
    await require_ended(site, database, run)
    assert run.attempts == 2
    assert (run.counts.appointments_new, run.counts.appointments_unchanged) == (60, 0)
    # The call that it died in, and one without a page to write before, are told by nobody.
    assert site.calls - 2 <= run.metadata["intakeq_api_calls"] <= site.calls


@pytest.mark.parametrize("call", range(1, CALLS_OF_A_SWEEP + 1))
async def test_a_sweep_that_is_killed_anywhere_is_gone_on_with_by_another_worker(
    site: SyncSite, database: asyncpg.Connection, call: int
) -> None:
    await site.sync()
    await site.sync(SyncType.AUTOMATED_SWEEP)
    site.clock.advance(hours=7)
    site.sandbox.act_unheard("book", start_ms=site.ms(days=2))
    site.sandbox.act_unheard("cancel")
    site.sandbox.act_unheard("delete")
    site.clock.advance(minutes=10)
    await kill_at(site, await site.lease(SyncType.AUTOMATED_SWEEP), call)
    run = await site.carry_out(await site.lease_again())
    await require_ended(site, database, run)
    assert (run.counts.appointments_new, run.counts.appointments_updated) == (1, 2)


async def test_a_run_that_is_killed_between_two_pages_counts_no_appointment_twice(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=250, start_ms=site.ms(days=1), every_ms=60_000)
        await site.sync()
        site.clock.advance(hours=1)
        site.sandbox.act_unheard("book_many", count=20, start_ms=site.ms(days=2), every_ms=60_000)
        work = asyncio.create_task(site.reconciler().run(await site.lease()))

        async def kill() -> None:
            work.cancel()

        site.script(LISTS, query={"page": "3"}, before=kill)
        with pytest.raises(asyncio.CancelledError):
            await work
        run = await site.carry_out(await site.lease_again())
        await require_ended(site, database, run)
        counts = run.counts
        assert (counts.appointments_new, counts.appointments_updated, counts.appointments_unchanged) == (20, 0, 250)


async def test_a_run_that_is_killed_between_two_full_windows_counts_what_the_first_worker_found_unchanged(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    site.clock.advance(hours=1)
    await kill_at(site, await site.lease(), 6)
    run = await site.carry_out(await site.lease_again())
    await require_ended(site, database, run)
    assert (run.counts.appointments_new, run.counts.appointments_unchanged) == (0, 60)


async def test_a_run_that_is_given_back_is_not_read_from_its_beginning_again(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    await site.sync()
    calls = site.calls
    await site.sync()
    cost = site.calls - calls
    site.clock.advance(hours=1)
    lease = await site.lease()
    await kill_at(site, lease, 7)
    assert await site.runs.give_back(lease, site.clock())
    calls = site.calls
    again = await site.runs.claim(uuid4(), site.clock(), site.clock() + LEASE)
    assert again is not None
    run = await site.carry_out(again)
    await require_ended(site, database, run)
    assert run.attempts == 1
    assert (run.counts.appointments_new, run.counts.appointments_unchanged) == (0, 60)
    assert site.calls - calls <= cost - 2  # what proves nothing alone is read again, the other windows are not


async def test_an_unreadable_row_that_the_first_worker_met_is_an_error_of_the_run(
    site: SyncSite,
) -> None:
    await site.sync()
    site.clock.advance(hours=1)
    soonest = min((a for a in site.practice.appointments.values() if a.start_ms > site.ms()), key=lambda a: a.start_ms)
    site.practice.put_appointment(replace(soonest, price=1e15))  # in the window that is read first
    await kill_at(site, await site.lease(), 7)
    run = await site.carry_out(await site.lease_again())
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert run.counts.appointments_errors == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_a_run_whose_workers_all_die_ends_as_failed_and_the_next_one_brings_everything(
    site: SyncSite, database: asyncpg.Connection, times: int
) -> None:
    lease = await site.lease()
    for _ in range(times):
        await kill_at(site, lease, 5)
        lease = await site.lease_again()
    await kill_at(site, lease, 1)
    site.clock.advance(minutes=6)
    await site.runs.rescue(site.clock())
    ended = await site.runs.find(lease.run.id)
    assert ended is not None
    assert ended.status is (RunStatus.FAILED if times == 2 else RunStatus.STARTING)
    run = await site.sync() if times == 2 else await site.carry_out(await site.lease_again())
    await require_ended(site, database, run)


async def test_a_worker_that_lost_its_run_writes_no_late_page(site: SyncSite, database: asyncpg.Connection) -> None:
    old = await site.lease()

    async def let_another_carry_it_out() -> None:
        await site.carry_out(await site.lease_again())

    site.script(LISTS, after=let_another_carry_it_out)
    with pytest.raises(RunLost):
        await site.reconciler().run(old)
    assert site.sandbox.script.pending == ()
    run = await site.runs.find(old.run.id)
    assert run is not None
    await require_ended(site, database, run)
    assert run.counts.appointments_new == 60
    with pytest.raises(RunLost):
        await site.runs.end(old, RunEnd(RunStatus.COMPLETED), site.clock())


async def test_a_walk_through_all_clients_goes_on_where_its_worker_died(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=350, appointments=0) as site:
        work = asyncio.create_task(site.reconciler().run(await site.lease()))

        async def kill() -> None:
            work.cancel()

        site.script(CLIENTS, query={"page": "4"}, before=kill)
        with pytest.raises(asyncio.CancelledError):
            await work
        site.sandbox.stats.api_calls.clear()
        run = await site.carry_out(await site.lease_again())
        await require_ended(site, database, run)
        # Page 3 once more, since rows may have moved up, page 4, and the list of deletions.
        assert site.sandbox.stats.api_calls["GET /api/v1/clients"] == 3
        assert await database.fetchval("SELECT count(*) FROM sync_walks") == 0


async def test_a_run_that_spends_the_day_stops_says_so_and_the_next_reads_first_what_it_left(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    limits = {"calls_per_minute": "1000", "calls_per_day": "10"}
    quota = QuotaLimits(per_minute=1000, per_day=10)
    async with open_site(pool, keyring, clients=350, settings=limits, quota=quota, noon=NOON) as site:
        first = await site.sync()
        assert first.status is RunStatus.PARTIAL_SUCCESS, first
        assert first.error_message == first.metadata["stopped_because"]
        assert "the day's API calls" in first.metadata["stopped_because"]
        assert "lists are left, which the next run reads first" in first.metadata["stopped_because"]
        assert first.metadata["intakeq_api_calls"] == site.calls < 10  # the last of the day are others'
        assert first.metadata["budget_left"] == 10 - site.calls
        runs = [first]
        for _ in range(3):
            site.clock.advance(hours=25)
            runs.append(await site.sync())
        assert site.sandbox.stats.rate_limited == 0
        await site.require_true_copy(database)
        assert sum(run.counts.appointments_new for run in runs) == 60
        covered = [await windows_read(database, run) for run in runs]
        begin, end = next(window for later in covered[1:] for window in later[1:])  # after the near days
        middle = begin + (end - begin) / 2
        assert not any(earlier <= middle < later for earlier, later in covered[0])


async def windows_read(database: asyncpg.Connection, run: Run) -> list[tuple[datetime, datetime]]:
    """Name the windows of appointments that a run has read to their end, in its order."""
    rows = await database.fetch(
        "SELECT window_from, window_to FROM sync_coverage WHERE run_id = $1 AND kind = 'appointment' ORDER BY id",
        run.id,
    )
    return [(row["window_from"], row["window_to"]) for row in rows]


async def test_a_walk_that_the_day_cut_short_goes_on_at_its_page(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    limits = {"calls_per_minute": "1000", "calls_per_day": "12"}
    async with open_site(pool, keyring, clients=950, appointments=0, settings=limits) as site:
        await site.sync()
        walk = await database.fetchrow("SELECT * FROM sync_walks")
        assert walk is not None
        pages: list[int] = []
        for number in range(1, 12):
            seen = pages.append

            async def note(number: int = number, seen: Callable[[int], None] = seen) -> None:
                seen(number)

            site.script(CLIENTS, query={"page": str(number), "deletedOnly": None}, before=note, times=None)
        site.clock.advance(hours=25)
        await site.sync()
        assert pages[0] == walk["next_page"] - 1  # one page back, since rows may have moved up
        assert pages == sorted(pages)


async def test_a_vendor_that_counts_as_we_do_never_refuses_us(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    limits = {"calls_per_minute": "10", "calls_per_day": "60"}
    async with open_site(
        pool, keyring, clients=350, settings=limits, quota=QuotaLimits(per_minute=10, per_day=60)
    ) as site:
        for number in range(12):
            await site.sync(SyncType.AUTOMATED_DAILY if number % 4 == 0 else SyncType.AUTOMATED_SWEEP)
            site.clock.advance(minutes=45)
        assert site.sandbox.stats.rate_limited == 0
        assert await database.fetchval("SELECT count(*) FROM sync_logs WHERE status = 'failed'") >= 1
