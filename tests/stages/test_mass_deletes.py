"""Where a list lacks far more than practices delete, nothing is concluded until a person says so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.sandbox import ApiAnswer
from eventsync.stages.second_look import MOST_LOOKS
from stages.absent_rows import LONG_AGO, delete_untold, deleted, ids, looks, waiting
from stages.sync_site import SyncSite, open_site

LISTS = "/appointments"
CLIENTS = "/clients"
_VERIFIED = """
    SELECT a.external_id, v.verified_at FROM appointments a, verification(
        a.connection_id, 'appointment', a.external_id, a.start_time, greatest(a.source_version, a.seen_at)) v
    ORDER BY a.external_id
"""


@pytest.fixture
async def crowd(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    """A practice of 300 appointments to come, whose copy is whole, a day ago."""
    async with open_site(pool, keyring, appointments=0) as opened:
        opened.clock.advance(days=-LONG_AGO + 1)
        opened.sandbox.act_unheard("book_many", count=300, start_ms=opened.ms(days=2), every_ms=2 * 3_600_000)
        opened.clock.advance(hours=1)
        await opened.sync()
        opened.clock.advance(hours=24)
        opened.sandbox.stats.api_calls.clear()
        yield opened


async def test_an_empty_answer_where_hundreds_were_deletes_nothing_and_says_what_to_do(
    crowd: SyncSite, database: asyncpg.Connection
) -> None:
    crowd.script(LISTS, query={"deletedOnly": None}, answer=ApiAnswer.EMPTY_LIST, times=None)
    before = {row["external_id"]: row["verified_at"] for row in await database.fetch(_VERIFIED)}
    run = await crowd.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert run.error_message is not None
    assert "--allow-mass-delete" in run.error_message
    assert run.metadata["errors"][0]["error"] == run.error_message
    assert run.metadata["appointments_deleted"] == 0
    assert await deleted(database) == set()
    assert looks(crowd) == 0
    after = {row["external_id"]: row["verified_at"] for row in await database.fetch(_VERIFIED)}
    assert all(after[key] <= before[key] for key in before)  # a list that lacks them does not verify them


async def test_after_an_empty_answer_the_next_good_one_settles_everything(
    crowd: SyncSite, database: asyncpg.Connection
) -> None:
    empty = crowd.script(LISTS, query={"deletedOnly": None}, answer=ApiAnswer.EMPTY_LIST, times=None)
    await crowd.sync()
    crowd.sandbox.script.remove(empty)
    crowd.clock.advance(hours=1)
    run = await crowd.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert run.counts.appointments_unchanged == 300
    assert await waiting(database) == set()
    assert looks(crowd) == 0


async def test_a_mass_delete_that_a_person_allows_is_settled_by_two_runs(
    crowd: SyncSite, database: asyncpg.Connection
) -> None:
    gone = delete_untold(crowd, 200)
    braked = await crowd.sync()
    assert braked.status is RunStatus.PARTIAL_SUCCESS
    assert await deleted(database) == set()
    for _ in range(2):
        crowd.clock.advance(hours=1)
        run = await crowd.sync(allow_mass_delete=True)
        assert run.status is RunStatus.COMPLETED, run
    assert await deleted(database) == gone
    await crowd.require_true_copy(database)


async def test_a_mass_delete_takes_two_runs_although_a_person_allows_it(
    crowd: SyncSite, database: asyncpg.Connection
) -> None:
    gone = delete_untold(crowd, 200)
    await crowd.sync(allow_mass_delete=True)
    assert len(await deleted(database)) == looks(crowd) == MOST_LOOKS  # each of them looked up
    crowd.clock.advance(hours=1)
    await crowd.sync(allow_mass_delete=True)
    assert await deleted(database) == gone


async def test_a_few_of_hundreds_are_no_mass_delete(crowd: SyncSite, database: asyncpg.Connection) -> None:
    gone = delete_untold(crowd, 15)
    run = await crowd.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert await deleted(database) == gone


async def test_of_the_little_that_a_small_practice_holds_two_empty_lists_delete_nothing(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=12, start_ms=site.ms(days=2), every_ms=2 * 3_600_000)
        site.clock.advance(hours=1)
        await site.sync()
        site.script(LISTS, query={"deletedOnly": None}, answer=ApiAnswer.EMPTY_LIST, times=None)
        site.script("/appointments/{id}", answer=ApiAnswer.HTML, status=503, times=None)
        for _ in range(3):
            site.clock.advance(days=1)
            await site.sync()
        assert await deleted(database) == set()
        assert len(await waiting(database)) == 12


async def test_of_a_small_practice_whose_appointments_are_all_gone_each_is_asked_for(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=12, start_ms=site.ms(days=2), every_ms=2 * 3_600_000)
        site.clock.advance(hours=1)
        await site.sync()
        site.clock.advance(days=1)
        gone = delete_untold(site, 12)
        await site.sync()
        assert await deleted(database) == set(gone)


async def test_an_empty_list_of_clients_deletes_none_of_them(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=120, appointments=0) as site:
        await site.sync()
        site.clock.advance(hours=24)
        empty = site.script(CLIENTS, query={"deletedOnly": None}, answer=ApiAnswer.EMPTY_LIST, times=None)
        run = await site.sync()
        assert run.status is RunStatus.PARTIAL_SUCCESS, run
        assert run.error_message is not None
        assert run.error_message.startswith("120 of 120 patients were not listed")
        assert await database.fetchval("SELECT count(*) FROM patient_identities WHERE deleted_at IS NOT NULL") == 0
        site.sandbox.script.remove(empty)
        site.clock.advance(hours=1)
        assert (await site.sync()).status is RunStatus.COMPLETED
        await site.require_true_copy(database)


async def test_more_moved_out_of_the_window_than_a_run_looks_up_are_moved_and_not_deleted(
    crowd: SyncSite, database: asyncpg.Connection
) -> None:
    await crowd.sync(SyncType.AUTOMATED_SWEEP)
    crowd.clock.advance(hours=1)
    moved = ids(crowd, MOST_LOOKS + 5)
    for appointment_id in moved:
        crowd.sandbox.act_unheard("reschedule", id=appointment_id, start_ms=crowd.ms(days=200))
    crowd.clock.advance(minutes=10)
    await crowd.sync()
    assert len(await waiting(database)) == 5
    crowd.clock.advance(hours=24)
    run = await crowd.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert await deleted(database) == await waiting(database) == set()
    assert run.counts.appointments_updated == 5
    await crowd.require_true_copy(database)
