"""`sync_logs`: runs asked for, leased to one worker at a time, counted as they go, and ended once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from eventsync.domain.connections import ConnectionId, OrganizationId
from eventsync.domain.errors import EventsyncError
from eventsync.domain.records import RecordKind
from eventsync.domain.runs import Run, RunCounts, RunEnd, RunId, RunRequest, RunStatus, SyncType
from eventsync.postgres.database import Database, Session
from eventsync.postgres.statements import load_statements

MAX_ATTEMPTS = 3
_CLOCKS_DIFFER_BY = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class _Sql:
    lock_requests: str
    find_standing: str
    answer_schedule: str
    insert: str
    lock_claims: str
    next_claim: str
    claim: str
    heartbeat: str
    hold: str
    reads_beside: str
    end: str
    give_back: str
    find_lost: str
    rescue: str
    cancel: str
    find: str
    list_recent: str


SQL = load_statements(_Sql, "runs.sql")


class RunLost(EventsyncError):
    """The run is another worker's by now, or was ended: whoever had it writes nothing more and lets go."""


@dataclass(frozen=True, slots=True)
class RunLease:
    """A run that one worker may carry out; `run` is as it stood when leased, with the counts of earlier attempts."""

    run: Run
    worker_id: UUID


class Runs:
    """The runs of every connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(self, request: RunRequest, now: datetime) -> tuple[Run, bool]:
        """Ask for a run. Answers it and whether it is new: a like one that has not ended yet answers for it."""
        async with self._database.transaction() as session:
            await session.execute(SQL.lock_requests, request.connection_id)
            standing = await session.fetchrow(
                SQL.find_standing,
                request.connection_id,
                request.sync_type.value,
                request.organization_id,
                request.patient_id,
                request.due_at,
            )
            if standing is not None:
                if request.due_at is not None:
                    await session.execute(SQL.answer_schedule, standing["id"], request.due_at)
                return _run(standing), False
            row = await session.fetchrow(
                SQL.insert,
                request.sync_type.value,
                request.connection_id,
                request.organization_id,
                request.patient_id,
                request.triggered_by,
                request.due_at,
                _json(request.options),
                now,
            )
        return _run(row), True

    async def claim(
        self, worker_id: UUID, now: datetime, leased_until: datetime, *, run_id: RunId | None = None
    ) -> RunLease | None:
        """Take the next run that may begin, or `run_id` alone; None where there is none."""
        async with self._database.transaction() as session:
            await session.execute(SQL.lock_claims)
            found = await session.fetchval(SQL.next_claim, run_id)
            row = None if found is None else await session.fetchrow(SQL.claim, found, worker_id, now, leased_until)
        return None if row is None else RunLease(_run(row), worker_id)

    async def heartbeat(self, lease: RunLease, now: datetime, leased_until: datetime) -> bool:
        """Keep the lease. False where someone asked for the run to be cancelled. Raises RunLost."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.heartbeat, lease.run.id, lease.worker_id, now, leased_until)
        if row is None:
            raise RunLost("the run was given to another worker, or has ended")
        return row["cancel_requested_at"] is None

    async def hold(
        self, session: Session, lease: RunLease, counts: RunCounts, progress: Mapping[str, Any], now: datetime
    ) -> None:
        """Write the run's counts in the transaction of what they count. Raises RunLost, so that it is taken back."""
        held = await session.fetchval(SQL.hold, lease.run.id, lease.worker_id, now, *astuple(counts), _json(progress))
        if held is None:
            raise RunLost("the run was given to another worker, or has ended")

    async def reads_in_order(
        self, session: Session, lease: RunLease, kinds: Sequence[RecordKind], ids: Sequence[str], began_at: datetime
    ) -> bool:
        """Whether every other read of these records that began before `began_at` is committed or never will be."""
        beside: bool = await session.fetchval(
            SQL.reads_beside,
            lease.run.connection_id,
            lease.run.id,
            began_at,
            [kind.value for kind in kinds],
            list(ids),
        )
        return not beside

    async def end(self, lease: RunLease, end: RunEnd, now: datetime) -> Run:
        """End the run. Raises RunLost."""
        async with self._database.session() as session:
            row = await session.fetchrow(
                SQL.end,
                lease.run.id,
                lease.worker_id,
                now,
                end.status.value,
                *astuple(end.counts),
                end.error_message,
                _json(end.metadata),
            )
        if row is None:
            raise RunLost("the run was given to another worker, or has ended")
        return _run(row)

    async def give_back(self, lease: RunLease, now: datetime) -> bool:
        """Let another worker go on with the run: this one is being stopped. It does not count as an attempt.

        False where the run was another worker's already, or has ended.
        """
        async with self._database.session() as session:
            return await session.fetchval(SQL.give_back, lease.run.id, lease.worker_id, now) is not None

    async def rescue(self, now: datetime) -> list[Run]:
        """Take back the runs whose worker died: to be gone on with or, the third time, as failed. Answers them."""
        async with self._database.transaction() as session:
            lost = [row["id"] for row in await session.fetch(SQL.find_lost, now, now + _CLOCKS_DIFFER_BY)]
            rows = await session.fetch(SQL.rescue, lost, now, MAX_ATTEMPTS) if lost else []
        return [_run(row) for row in rows]

    async def cancel(self, run_id: RunId, now: datetime) -> bool:
        """Ask for a run to be stopped; False where there is none that has not ended."""
        async with self._database.session() as session:
            return await session.fetchval(SQL.cancel, run_id, now) is not None

    async def find(self, run_id: RunId) -> Run | None:
        """Find a run."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.find, run_id)
        return None if row is None else _run(row)

    async def recent(
        self,
        *,
        connection_id: ConnectionId | None = None,
        organization_id: OrganizationId | None = None,
        sync_type: SyncType | None = None,
        at_most: int = 10,
    ) -> list[Run]:
        """List runs, latest first."""
        wanted = None if sync_type is None else sync_type.value
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_recent, connection_id, organization_id, wanted, at_most)
        return [_run(row) for row in rows]


def _run(row: Mapping[str, Any]) -> Run:
    return Run(
        id=RunId(row["id"]),
        sync_type=SyncType(row["sync_type"]),
        status=RunStatus(row["status"]),
        connection_id=row["connection_id"],
        organization_id=row["organization_id"],
        patient_id=row["patient_id"],
        triggered_by=row["triggered_by"],
        due_at=row["due_at"],
        options=orjson.loads(row["options"]),
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        duration_ms=row["duration_ms"],
        counts=RunCounts(*(row[entry.name] for entry in fields(RunCounts))),
        error_message=row["error_message"],
        metadata=orjson.loads(row["metadata"]),
        progress=orjson.loads(row["progress"]),
        attempts=row["attempts"],
        cancel_requested_at=row["cancel_requested_at"],
        created_at=row["created_at"],
    )


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z).decode()
