"""The scheduled daily run of a practice too large for one day leaves calls to others, and comes round in days."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from e2e.sandbox_truth import document_states
from eventsync.crypto import Keyring
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import Run, RunRequest, RunStatus, SyncType
from eventsync.domain.slicing import DEFAULT_RULES
from eventsync.postgres.coverage import Coverage
from eventsync.postgres.database import Database
from eventsync.stages.course import daily_allowance
from stages.sync_site import LEASE, SyncSite, open_site

SETTINGS = {"calls_per_minute": "10000", "calls_per_day": "200"}


@pytest.fixture
async def large(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    """A practice of some 60 pages, with 200 calls a day."""
    async with open_site(pool, keyring, clients=1_500, appointments=4_000, settings=SETTINGS) as site:
        await site.sync()
        site.clock.advance(days=1)
        yield site


async def scheduled(site: SyncSite) -> Run:
    request = RunRequest(SyncType.AUTOMATED_DAILY, site.connection.id, site.owner_id, "schedule", due_at=site.clock())
    run, _ = await site.runs.request(request, site.clock())
    lease = await site.runs.claim(uuid4(), site.clock(), site.clock() + LEASE, run_id=run.id)
    assert lease is not None
    return await site.carry_out(lease)


async def test_a_scheduled_run_makes_the_calls_that_the_days_plan_leaves_it(large: SyncSite) -> None:
    allowed = await daily_allowance(Coverage(large.pool), large.connection, DEFAULT_RULES, large.clock())
    assert allowed is not None
    before = large.calls
    run = await scheduled(large)
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert "lists are left, which the next run reads first" in str(run.error_message)
    assert large.calls - before <= sum(allowed)


async def test_a_run_that_a_person_asks_for_reads_everything(large: SyncSite) -> None:
    assert (await large.sync()).status is RunStatus.COMPLETED


async def test_notes_are_read_although_not_all_lists_were(large: SyncSite, database: asyncpg.Connection) -> None:
    note_id = large.sandbox.act_unheard("lock_note").record_id
    large.clock.advance(hours=1)
    run = await scheduled(large)
    assert run.status is RunStatus.PARTIAL_SUCCESS
    assert note_id in await document_states(database, RecordKind.NOTE.value)


async def test_in_some_days_everything_was_verified(large: SyncSite, database: asyncpg.Connection) -> None:
    began_at = large.clock()
    for _ in range(12):
        await scheduled(large)
        large.clock.advance(days=1)
    oldest = await database.fetchval(
        "SELECT min(v.verified_at) FROM verified_records(NULL) v"
        " WHERE v.kind = 'patient' OR v.start_time BETWEEN $1::timestamptz AND $1 + interval '80 days'",
        large.clock(),
    )
    assert oldest > began_at
