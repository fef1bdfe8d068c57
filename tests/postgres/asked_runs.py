"""Runs as tests ask for them, at a time that stands still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunRequest, RunStatus, SyncType
from eventsync.postgres.runs import RunLease, Runs

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LEASE = timedelta(seconds=60)
COUNTS = RunCounts(12, 1, 3, 5, 42, 2)
DONE = RunEnd(RunStatus.COMPLETED)
LONG, SHORT = SyncType.AUTOMATED_DAILY, SyncType.AUTOMATED_SWEEP


def after(**kwargs: float) -> datetime:
    return NOW + timedelta(**kwargs)


async def a_patient(database: asyncpg.Connection, owner_id: OrganizationId) -> UUID:
    patient_id = uuid4()
    await database.execute(
        "INSERT INTO patients (id, organization_id, first_name, last_name, origin)"
        " VALUES ($1, $2, 'Test', 'Client', 'local')",
        patient_id,
        owner_id,
    )
    return patient_id


def asks(connection_id: ConnectionId, sync_type: SyncType = SHORT, **fields: Any) -> RunRequest:
    return RunRequest(sync_type, connection_id, fields.pop("organization_id", None), "test", **fields)


async def ask(runs: Runs, request: RunRequest, now: datetime = NOW) -> Run:
    run, is_new = await runs.request(request, now)
    assert is_new
    return run


async def claim(runs: Runs, now: datetime = NOW, run: Run | None = None) -> RunLease | None:
    return await runs.claim(uuid4(), now, now + LEASE, run_id=None if run is None else run.id)


async def lease_of(runs: Runs, request: RunRequest, now: datetime = NOW) -> RunLease:
    lease = await claim(runs, now, await ask(runs, request, now))
    assert lease is not None
    return lease
