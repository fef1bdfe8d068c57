"""What lists lack is gone only where that is certain: a second look or a second list, a brake, and a way back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.sandbox import ApiAnswer
from eventsync.stages.second_look import MOST_LOOKS
from stages.absent_rows import LONG_AGO, delete_untold, deleted, hide, ids, looks, waiting
from stages.sync_site import SyncSite, open_site

LISTS = "/appointments"
CLIENTS = "/clients"


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    """A practice of 60 appointments in the next weeks, whose copy is whole, a day ago."""
    noon = datetime.combine(datetime.now(UTC).date(), time(18), UTC) + timedelta(days=LONG_AGO - 2)
    async with open_site(pool, keyring, appointments=0, noon=noon) as opened:
        opened.clock.advance(days=-LONG_AGO + 1)  # deletions long ago must not be older than the practice
        opened.sandbox.act_unheard("book_many", count=60, start_ms=opened.ms(days=1), every_ms=6 * 3_600_000)
        opened.clock.advance(hours=1)
        await opened.sync()
        opened.clock.advance(hours=24)
        opened.sandbox.stats.api_calls.clear()
        yield opened


async def test_a_row_that_is_missing_once_is_looked_up_and_gone_where_the_vendor_knows_it_no_more(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    gone = delete_untold(site, 1)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert await deleted(database) == gone
    assert (looks(site), run.metadata["appointments_deleted"], run.counts.appointments_updated) == (1, 1, 1)
    assert await waiting(database) == set()
    await site.require_true_copy(database)


async def test_what_was_moved_out_of_the_window_is_moved_and_not_deleted(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    (moved,) = ids(site, 1)
    site.sandbox.act_unheard("reschedule", id=moved, start_ms=site.ms(days=200))
    site.clock.advance(minutes=10)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert (looks(site), run.metadata["appointments_deleted"], run.counts.appointments_updated) == (1, 0, 1)
    await site.require_true_copy(database)


async def test_more_missing_than_a_run_looks_up_are_settled_by_the_next_without_a_look(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.clock.advance(days=-LONG_AGO + 1)
        site.sandbox.act_unheard("book_many", count=400, start_ms=site.ms(days=1), every_ms=3_600_000)
        site.clock.advance(hours=1)
        await site.sync()
        site.clock.advance(hours=24)
        gone = delete_untold(site, MOST_LOOKS + 10)
        first = await site.sync()
        assert looks(site) == MOST_LOOKS
        assert len(await waiting(database)) == 10
        assert await waiting(database) == gone - await deleted(database)
        assert [text for text in first.metadata["warnings"] if text.startswith("10 appointments")]
        assert first.status is RunStatus.COMPLETED
        site.clock.advance(hours=1)
        await site.sync(SyncType.AUTOMATED_SWEEP)
        assert len(await deleted(database)) == MOST_LOOKS
        site.clock.advance(hours=23)
        second = await site.sync()
        assert looks(site) == MOST_LOOKS
        assert await deleted(database) == gone
        assert await waiting(database) == set()
        assert (second.metadata["appointments_deleted"], second.counts.appointments_updated) == (10, 10)
        await site.require_true_copy(database)


async def test_what_waits_and_is_listed_again_waits_no_more(site: SyncSite, database: asyncpg.Connection) -> None:
    chosen = ids(site, 3)
    await database.execute(
        "INSERT INTO absence_candidates SELECT $1, 'appointment', unnest($2::text[]), $3",
        *(site.connection.id, chosen, site.clock() - timedelta(hours=20)),
    )
    await site.sync()
    assert await waiting(database) == set()
    assert await deleted(database) == set()


async def test_a_row_younger_than_the_margin_is_left_alone(site: SyncSite, database: asyncpg.Connection) -> None:
    booked = site.sandbox.act("book", start_ms=site.ms(days=2))
    await site.hear(booked)
    site.clock.advance(minutes=4)
    shown = hide(site, booked.record_id)  # the lists are behind: they do not show the booking yet
    await site.sync()
    assert await deleted(database) == set()
    assert await waiting(database) == set()
    assert looks(site) == 0
    site.practice.put_appointment(shown)
    await site.require_true_copy(database)


async def test_a_record_that_was_taken_for_gone_is_back_once_a_later_read_sees_it(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    (chosen,) = ids(site, 1)
    shown = hide(site, chosen)
    await site.sync()
    assert await deleted(database) == {chosen}
    site.clock.advance(hours=1)
    site.practice.put_appointment(shown)  # as it was: the vendor's time has not moved
    run = await site.sync()
    assert await deleted(database) == set()
    assert run.counts.appointments_updated == 1
    await site.require_true_copy(database)


async def test_a_webhook_newer_than_the_absence_brings_the_record_back(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    (chosen,) = ids(site, 1)
    shown = hide(site, chosen)
    await site.sync()
    site.clock.advance(hours=1)
    site.practice.put_appointment(shown)
    await site.hear(site.sandbox.act("reschedule", id=chosen, start_ms=site.ms(days=3)))
    assert await deleted(database) == set()
    await site.require_true_copy(database)


async def test_an_absence_from_before_a_webhook_is_no_second_witness(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    (chosen,) = ids(site, 1)
    await database.execute(
        "INSERT INTO absence_candidates VALUES ($1, 'appointment', $2, $3)",
        *(site.connection.id, chosen, site.clock() - timedelta(hours=20)),
    )
    await site.hear(site.sandbox.act("reschedule", id=chosen, start_ms=site.ms(days=3)))  # so it lives
    site.clock.advance(hours=1)
    hide(site, chosen)
    site.script("/appointments/{id}", answer=ApiAnswer.HTML, times=None)  # no look answers
    await site.sync()
    assert looks(site) > 0
    assert await deleted(database) == set()
    first_missed_at = await database.fetchval("SELECT first_missed_at FROM absence_candidates")
    assert first_missed_at == site.clock()  # the old one says nothing any more


async def test_a_deletion_that_the_vendor_lists_is_a_tombstone_without_a_look(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    gone = set(ids(site, 30))
    site.sandbox.act_unheard("delete_many", ids=list(gone))
    site.clock.advance(minutes=10)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert (looks(site), await deleted(database)) == (0, gone)
    assert run.metadata["appointments_deleted"] == 30
    versions = await database.fetch("SELECT version FROM appointments WHERE deleted_at IS NOT NULL")
    assert all(row["version"][9] == 1 for row in versions)  # a version like any other
    await site.require_true_copy(database)


async def test_a_look_that_the_vendor_refuses_leaves_the_others_to_be_made(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    gone = delete_untold(site, 3)
    site.script("/appointments/{id}", answer=ApiAnswer.STATUS, status=400)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert len(await deleted(database)) == 2
    assert await waiting(database) == gone - await deleted(database)
    site.clock.advance(hours=24)
    await site.sync()
    assert await deleted(database) == gone


@pytest.mark.parametrize("sync_type", [SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP])
async def test_a_deletion_heard_while_a_page_is_on_its_way_is_not_undone_by_it(
    site: SyncSite, database: asyncpg.Connection, sync_type: SyncType
) -> None:
    booked = site.sandbox.act_unheard("book", start_ms=site.ms(days=2)).record_id  # every kind of list shows it
    await site.sync(SyncType.AUTOMATED_SWEEP)
    site.clock.advance(minutes=10)

    async def delete_and_tell() -> None:
        await site.hear(site.sandbox.act("delete", id=booked))

    site.script(LISTS, after=delete_and_tell)
    await site.sync(sync_type)
    assert await deleted(database) == {booked}
    await site.require_true_copy(database)


async def test_deletions_older_than_the_vendor_tells_are_settled_where_no_list_of_changes_was_read(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    gone = delete_untold(site, 2)
    site.script("/appointments/{id}", answer=ApiAnswer.HTML, times=None)  # no look answers
    first = await site.sync()
    assert first.status is RunStatus.COMPLETED, first
    assert [text for text in first.metadata["warnings"] if text.startswith("2 appointments were not listed any more")]
    assert looks(site) <= 3  # not at each of them
    assert await waiting(database) == gone
    assert await deleted(database) == set()
    site.clock.advance(hours=24)
    second = await site.sync()
    assert second.status is RunStatus.COMPLETED, second
    assert await deleted(database) == gone


async def test_clients_deleted_long_ago_are_gone_with_their_second_witness(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=300, appointments=0) as site:
        site.clock.advance(days=-LONG_AGO + 1)
        await site.sync()
        site.clock.advance(hours=24)
        site.sandbox.act_unheard("delete_clients", count=MOST_LOOKS + 5, deleted_ms=site.ms(days=LONG_AGO))
        await site.sync()
        assert len(await waiting(database, "patient")) == 5
        site.clock.advance(hours=24)
        await site.sync()
        assert await waiting(database, "patient") == set()
        await site.require_true_copy(database)


async def test_a_walk_that_goes_on_after_a_bad_page_still_shows_which_clients_are_gone(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, clients=250, appointments=0) as site:
        site.clock.advance(days=-LONG_AGO + 1)
        await site.sync()
        site.clock.advance(hours=24)
        site.sandbox.act_unheard("delete_clients", count=1, deleted_ms=site.ms(days=LONG_AGO))
        site.script(CLIENTS, query={"page": "2"}, answer=ApiAnswer.HTML, status=200)
        site.sandbox.stats.api_calls.clear()
        run = await site.sync()
        assert run.status is RunStatus.COMPLETED, run
        # Pages 1 and 2, then on from the page before, the deletions, and the look at the one who is missing.
        assert site.sandbox.stats.api_calls["GET /api/v1/clients"] == 2 + 3 + 1 + 1
        await site.require_true_copy(database)
