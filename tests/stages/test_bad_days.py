"""Bad days: the vendor refuses us, answers nonsense, repeats and shifts its pages; what was read stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import asyncpg
import pytest

from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.sandbox import ApiAnswer
from stages.sync_site import SyncSite, open_site

LISTS = "/appointments"
CLIENTS = "/clients"
FETCH_FAILED = "Failed to fetch from PracticeQ"


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    """A practice of which nothing has been read yet."""
    async with open_site(pool, keyring) as opened:
        yield opened


@pytest.fixture
async def followed(site: SyncSite) -> SyncSite:
    """A practice whose copy is whole, a day ago."""
    await site.sync()
    site.clock.advance(hours=24)
    return site


async def proofs(database: asyncpg.Connection) -> tuple[Any, ...]:
    """Read what is claimed of lists: windows, cursors and walks."""
    return (
        await database.fetch("SELECT kind, window_from, window_to, read_began_at FROM sync_coverage ORDER BY id"),
        await database.fetch("SELECT * FROM sync_cursors ORDER BY kind, list"),
        await database.fetch("SELECT * FROM sync_walks ORDER BY kind"),
    )


async def living(database: asyncpg.Connection, table: str = "appointments") -> set[str]:
    rows = await database.fetch(f"SELECT external_id FROM {table} WHERE deleted_at IS NULL")  # noqa: S608  # a constant
    return {row["external_id"] for row in rows}


async def test_wrong_credentials_fail_the_run_say_what_to_do_and_touch_nothing(
    followed: SyncSite, database: asyncpg.Connection
) -> None:
    before, held = await proofs(database), await living(database)
    followed.sandbox.set_api_key("another-key")
    run = await followed.sync()
    assert run.status is RunStatus.FAILED
    assert run.error_message is not None
    assert run.error_message.startswith(FETCH_FAILED)
    assert "api_key" in run.error_message
    assert run.metadata["intakeq_api_calls"] == 1
    assert await proofs(database) == before
    assert await living(database) == held


@pytest.mark.parametrize("sync_type", [SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP])
async def test_a_key_that_is_replaced_in_mid_run_ends_it_and_what_was_read_stays(
    followed: SyncSite, database: asyncpg.Connection, sync_type: SyncType
) -> None:
    booked = followed.sandbox.act_unheard("book", start_ms=followed.ms(days=2)).record_id
    gone = followed.sandbox.act_unheard("delete").record_id
    before, held = await proofs(database), await living(database)

    async def replace_key() -> None:
        followed.sandbox.set_api_key("another-key")

    followed.script(LISTS, after=replace_key)  # the first list is the last that the old key reads
    run = await followed.sync(sync_type)
    assert run.status is RunStatus.FAILED, run
    assert run.error_message is not None
    assert "api_key" in run.error_message
    assert await living(database) == held | {booked}, gone
    windows, cursors, walks = await proofs(database)
    is_full = sync_type is SyncType.AUTOMATED_DAILY
    assert len(windows) == len(before[0]) + is_full  # only the list that came to its end claims anything
    moved = {(row["kind"], row["list"]) for row in cursors} - {(row["kind"], row["list"]) for row in before[1]}
    assert moved == (set() if is_full else {("appointment", "changed")})
    assert walks == before[2] == []


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("call", [1, 2, 4, 8, 10])
async def test_a_page_for_people_is_read_once_more_and_the_run_completes(
    site: SyncSite, database: asyncpg.Connection, status: int, call: int
) -> None:
    site.script("*", answer=ApiAnswer.HTML, status=status, call=call, times=1 if status == 200 else 3)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert site.sandbox.script.pending == ()
    assert run.counts.appointments_new == 60
    await site.require_true_copy(database)


@pytest.mark.parametrize("status", [200, 503])
async def test_pages_for_people_in_one_list_do_not_stop_the_others(
    followed: SyncSite, database: asyncpg.Connection, status: int
) -> None:
    followed.sandbox.act_unheard("edit_client", client_id=followed.practice.clients.copy().popitem()[0], phone="1")
    booked = followed.sandbox.act_unheard("book", start_ms=followed.ms(days=40)).record_id
    gone = followed.sandbox.act_unheard("delete").record_id
    before, _, _ = await proofs(database)
    followed.script(LISTS, query={"deletedOnly": "true"}, answer=ApiAnswer.HTML, status=status, times=None)
    run = await followed.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert run.error_message is not None
    assert run.error_message.startswith(f"{FETCH_FAILED}: deleted appointments")
    assert run.metadata["errors"] == [{"patientId": None, "error": run.error_message}]
    assert booked in await living(database)
    assert gone not in await living(database)  # the vendor knows it no more, whichever way one asks
    cursors = {(row["kind"], row["list"]): row["covered_until"] for row in (await proofs(database))[1]}
    assert cursors["appointment", "deleted"] < cursors["patient", "deleted"]
    assert len((await proofs(database))[0]) > len(before)
    await followed.require_true_copy(database)


async def test_pages_for_people_everywhere_fail_the_run_and_claim_nothing(
    followed: SyncSite, database: asyncpg.Connection
) -> None:
    before, held = await proofs(database), await living(database)
    followed.script("*", answer=ApiAnswer.HTML, times=None)
    run = await followed.sync()
    assert run.status is RunStatus.FAILED
    assert run.error_message is not None
    assert FETCH_FAILED in run.error_message
    assert await proofs(database) == before
    assert await living(database) == held
    assert run.metadata["intakeq_api_calls"] <= 12  # four doors, three times each


async def test_the_practitioners_list_alone_does_not_decide_a_run(site: SyncSite, database: asyncpg.Connection) -> None:
    site.script("/practitioners", answer=ApiAnswer.HTML, times=None)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert any("practitioners" in text for text in run.metadata["warnings"])
    await site.require_true_copy(database)


async def test_a_kind_whose_list_fails_leaves_the_others_to_be_read(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    site.script("/intakes/summary", answer=ApiAnswer.HTML, times=None)
    run = await site.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert run.error_message is not None
    assert run.error_message.startswith(f"{FETCH_FAILED}: changed intakes")
    followed = {(row["kind"], row["list"]) for row in (await proofs(database))[1]}
    assert ("note", "changed") in followed
    assert ("intake", "changed") not in followed
    await site.require_true_copy(database)


@pytest.mark.parametrize("answer", [ApiAnswer.CUT, ApiAnswer.CUT_MIDWAY])
async def test_a_connection_that_is_cut_is_made_anew(
    site: SyncSite, database: asyncpg.Connection, answer: ApiAnswer
) -> None:
    site.script(LISTS, call=2, answer=answer, times=2)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    await site.require_true_copy(database)


@pytest.mark.parametrize("retry_after_s", [7, None])
async def test_a_call_limit_in_the_middle_of_a_list_is_waited_for(
    pool: Database, keyring: Keyring, database: asyncpg.Connection, retry_after_s: int | None
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=150, start_ms=site.ms(days=1), every_ms=60_000)
        site.script(LISTS, query={"page": "2"}, answer=ApiAnswer.STATUS, status=429, retry_after_s=retry_after_s)
        began_at = site.clock()
        run = await site.sync()
        assert run.status is RunStatus.COMPLETED, run
        assert run.metadata["rate_limit_hit"] is True
        assert run.counts.appointments_new == 150
        assert (site.clock() - began_at).total_seconds() == pytest.approx(retry_after_s or 60, abs=1)
        await site.require_true_copy(database)


async def test_a_call_limit_that_lasts_ends_the_run_and_keeps_what_it_has_read(
    followed: SyncSite, database: asyncpg.Connection
) -> None:
    before, held = await proofs(database), await living(database)
    followed.script("*", call=3, answer=ApiAnswer.STATUS, status=429, retry_after_s=7200, times=None)
    run = await followed.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS, run
    assert run.metadata["rate_limit_hit"] is True
    assert run.metadata["stopped_because"]
    assert len((await proofs(database))[0]) == len(before[0]) + 1
    assert await living(database) == held


async def test_a_page_that_repeats_is_no_end_and_the_list_is_read_once_more(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=250, start_ms=site.ms(days=1), every_ms=60_000)
        site.script(LISTS, query={"page": "2"}, answer=ApiAnswer.PREVIOUS_PAGE)
        run = await site.sync()
        assert run.status is RunStatus.COMPLETED, run
        assert run.counts.appointments_new == 250
        await site.require_true_copy(database)


async def test_a_page_that_always_repeats_proves_nothing(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=250, start_ms=site.ms(days=1), every_ms=60_000)
        await site.sync()
        site.clock.advance(hours=1)
        claimed = (await proofs(database))[0]
        site.script(LISTS, query={"page": "2"}, answer=ApiAnswer.PREVIOUS_PAGE, times=None)
        run = await site.sync()
        assert run.status is RunStatus.PARTIAL_SUCCESS, run
        assert len(await living(database)) == 250
        now = (await proofs(database))[0]
        held_from = min(row["start_time"] for row in await database.fetch("SELECT start_time FROM appointments"))
        fresh = [row for row in now if row not in claimed and row["kind"] == "appointment"]
        assert not [row for row in fresh if row["window_from"] <= held_from < row["window_to"]]


async def test_a_row_that_slips_between_two_pages_is_never_taken_for_gone(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=150, start_ms=site.ms(days=1), every_ms=60_000)
        await site.sync()
        site.clock.advance(hours=1)
        latest = max(site.practice.appointments.values(), key=lambda a: a.start_ms).id

        async def delete_the_first_row() -> None:
            site.sandbox.act_unheard("delete", id=latest)

        site.script(LISTS, query={"page": "2"}, before=delete_the_first_row)
        run = await site.sync()
        assert run.status is RunStatus.COMPLETED, run
        assert site.sandbox.stats.api_calls["GET /api/v1/appointments/{id}"] == 1  # the row that slipped was looked up
        await site.require_true_copy(database)
        assert await database.fetchval("SELECT count(*) FROM absence_candidates") == 0


async def test_a_row_that_is_inserted_before_the_page_shifts_nothing_out_of_the_copy(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    async with open_site(pool, keyring, appointments=0) as site:
        site.sandbox.act_unheard("book_many", count=150, start_ms=site.ms(days=1), every_ms=60_000)
        await site.sync()
        site.clock.advance(hours=1)

        async def insert_a_first_row() -> None:
            site.sandbox.act_unheard("book", start_ms=site.ms(days=6))

        site.script(LISTS, query={"page": "2"}, before=insert_a_first_row)
        run = await site.sync()
        assert run.status is RunStatus.COMPLETED, run
        assert run.counts.appointments_unchanged == 150
        assert len(await living(database)) == 150
        await site.sync(SyncType.AUTOMATED_SWEEP)
        await site.require_true_copy(database)


async def test_a_list_of_a_single_day_claims_nothing_of_the_hours_that_its_failing_neighbour_may_hold(
    pool: Database, keyring: Keyring, database: asyncpg.Connection
) -> None:
    border = date.fromordinal(date(2026, 5, 1).toordinal() // 64 * 64)  # slices are cut at such days
    noon = datetime.combine(border + timedelta(days=2), time(18), UTC)  # so that the day before the near ones is alone
    async with open_site(pool, keyring, appointments=0, noon=noon) as site:
        site.sandbox.act_unheard("book_many", count=60, start_ms=site.ms(days=-10), every_ms=6 * 3_600_000)
        await site.sync()
        site.clock.advance(hours=1)
        began_at = site.clock()
        before = {"endDate": (border - timedelta(days=1)).isoformat()}
        failing = site.script(LISTS, query=before, answer=ApiAnswer.HTML, times=None)
        run = await site.sync()
        assert run.status is RunStatus.PARTIAL_SUCCESS, run
        assert failing in site.sandbox.script.pending
        unlisted = datetime.combine(border, time(11), UTC)  # where the vendor's day begins twelve hours after UTC's
        claims = await database.fetch(
            "SELECT window_from, window_to FROM sync_coverage"
            " WHERE kind = 'appointment' AND read_began_at >= $1 AND window_from <= $2 AND window_to > $2",
            *(began_at, unlisted),
        )
        assert claims == []
