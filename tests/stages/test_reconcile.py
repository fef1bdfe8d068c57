"""A run reads what it is for, writes what differs, and tells the truth about both."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from e2e.sandbox_truth import appointment_rows, expected_appointments
from eventsync.crypto import Keyring
from eventsync.domain.runs import RunStatus, SyncType
from eventsync.postgres.database import Database
from stages.sync_site import SyncSite, open_site


@pytest.fixture
async def site(pool: Database, keyring: Keyring) -> AsyncIterator[SyncSite]:
    async with open_site(pool, keyring) as opened:
        yield opened


async def test_a_first_full_run_brings_the_whole_practice(site: SyncSite, database: asyncpg.Connection) -> None:
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED, run
    assert await appointment_rows(database) == expected_appointments(site.sandbox.truth("appointment"))
    assert run.counts.appointments_new == 60
    assert await database.fetchval("SELECT count(*) FROM patients") == 20
    assert await database.fetchval("SELECT count(*) FROM drift_findings") == 0


async def test_a_second_full_run_writes_nothing(site: SyncSite, database: asyncpg.Connection) -> None:
    await site.sync()
    before = await database.fetch("SELECT xmin::text, * FROM appointments ORDER BY id")
    site.clock.advance(hours=1)
    run = await site.sync()
    assert run.status is RunStatus.COMPLETED
    assert (run.counts.appointments_new, run.counts.appointments_updated) == (0, 0)
    assert run.counts.appointments_unchanged == 60
    assert await database.fetch("SELECT xmin::text, * FROM appointments ORDER BY id") == before


async def test_a_sweep_brings_what_no_webhook_told(site: SyncSite, database: asyncpg.Connection) -> None:
    await site.sync()
    site.clock.advance(minutes=20)
    site.sandbox.act_unheard("book")
    site.sandbox.act_unheard("cancel")
    site.sandbox.act_unheard("delete")
    site.clock.advance(minutes=20)
    run = await site.sync(SyncType.AUTOMATED_SWEEP)
    assert run.status is RunStatus.COMPLETED, run
    assert await appointment_rows(database) == expected_appointments(site.sandbox.truth("appointment"))
    assert (run.counts.appointments_new, run.counts.appointments_updated) == (1, 2)
    assert run.metadata["appointments_deleted"] == 1
