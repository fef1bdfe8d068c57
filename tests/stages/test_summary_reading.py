"""A full run finds intakes, notes and invoices whose webhooks never came, although lists only name the first two."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from e2e.sandbox_truth import document_states
from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus
from eventsync.postgres.database import Database
from eventsync.sandbox.script import ApiAnswer, ScriptedCall
from eventsync.stages.summary_reading import MOST_READS
from stages.sync_site import SyncSite, open_site


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    async with open_site(pool, keyring) as opened:
        await opened.sync()
        opened.clock.advance(hours=2)
        yield opened


def single_reads(site: SyncSite) -> int:
    calls = site.sandbox.stats.api_calls
    return calls["GET /api/v1/notes/{id}"] + calls["GET /api/v1/intakes/{id}"]


async def test_what_was_there_before_the_connection_is_not_read(site: SyncSite, database: asyncpg.Connection) -> None:
    assert await database.fetchval("SELECT count(*) FROM documents WHERE kind IN ('note', 'intake')") == 0


async def test_documents_whose_webhooks_were_lost_are_brought(site: SyncSite, database: asyncpg.Connection) -> None:
    notes = {site.sandbox.act_unheard("lock_note").record_id for _ in range(3)}
    intakes = {site.sandbox.act_unheard("submit_intake").record_id for _ in range(2)}
    invoice = site.sandbox.act_unheard("issue_invoice").record_id
    site.clock.advance(hours=1)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert notes == set(await document_states(database, "note"))
    assert intakes == set(await document_states(database, "intake"))
    assert invoice in await document_states(database, "invoice")


async def test_what_is_held_as_listed_is_not_read_again(site: SyncSite) -> None:
    site.sandbox.act_unheard("lock_note")
    site.clock.advance(hours=1)
    await site.sync()
    before = single_reads(site)
    site.clock.advance(hours=1)
    await site.sync()
    assert single_reads(site) == before


async def test_a_sent_intake_is_no_record_until_it_is_handed_in(site: SyncSite, database: asyncpg.Connection) -> None:
    site.sandbox.act_unheard("send_intake")
    site.clock.advance(hours=1)
    await site.sync()
    assert await document_states(database, "intake") == {}


async def test_more_than_a_run_may_read_waits_for_the_next(site: SyncSite, database: asyncpg.Connection) -> None:
    notes: set[str | None] = set()
    while len(notes) < MOST_READS + 3:  # some are locked again
        notes.add(site.sandbox.act_unheard("lock_note").record_id)
    site.clock.advance(hours=1)
    run = await site.sync()
    assert "3 notes wait for the next full run to be read" in run.metadata["warnings"]
    site.clock.advance(hours=1)
    await site.sync()
    assert len(await document_states(database, "note")) == MOST_READS + 3


async def test_a_list_of_summaries_that_fails_is_told_and_read_from_its_place(
    site: SyncSite, database: asyncpg.Connection
) -> None:
    site.sandbox.act_unheard("lock_note")
    site.clock.advance(hours=1)
    site.sandbox.script.add(ScriptedCall(route="/notes/summary", answer=ApiAnswer.HTML, status=200, times=3))
    run = await site.sync()
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert run.counts.appointments_errors == 0
    assert "Failed to fetch from PracticeQ" in str(run.error_message)
    site.sandbox.script.clear()
    site.clock.advance(hours=1)
    await site.sync()
    assert len(await document_states(database, "note")) == 1
