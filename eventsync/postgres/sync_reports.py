"""What people are shown of runs: whose they are, which of their findings an organization may see, how they went.

Appointments are personal data: whoever shows them writes the access log.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import Any
from uuid import UUID

from eventsync.domain.connections import OrganizationId
from eventsync.domain.runs import Run, RunCounts, RunId, RunStatus, SyncType
from eventsync.postgres.database import Database
from eventsync.postgres.statements import load_statements


@dataclass(frozen=True, slots=True)
class _Sql:
    find_rights: str
    list_visible_patients: str
    list_appointments: str
    measure: str
    list_latest: str


SQL = load_statements(_Sql, "sync_reports.sql")


@dataclass(frozen=True, slots=True)
class RunRights:
    """What an organization may do with a run: `sees` that it is there and how far, `owns` the connection it reads."""

    sees: bool = False
    owns: bool = False


@dataclass(frozen=True, slots=True)
class PatientProblem:
    """What went wrong with one patient; `patient_id` is ours, or the vendor's where no patient of ours was found."""

    patient_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class ReadAppointment:
    """An appointment that a run read, as people see it now: a confirmed one that is over is `completed`."""

    id: UUID
    patient_id: UUID | None
    external_id: str
    start_time: datetime
    provider_name: str | None = field(repr=False)
    status: str


@dataclass(frozen=True, slots=True)
class RunFigures:
    """How an organization's runs went, all of them together; a partial success is a success."""

    total: int
    successful: int
    failed: int
    last_at: datetime | None
    last_successful_at: datetime | None
    average_duration_s: float | None


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run in a list of the latest."""

    id: RunId
    sync_type: SyncType
    status: RunStatus
    started_at: datetime
    completed_at: datetime | None
    counts: RunCounts


class SyncReports:
    """What is shown of `sync_logs`; `organization_id` of None is an admin, who sees everyone's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rights(self, run_id: RunId, organization_id: OrganizationId | None, today: date) -> RunRights:
        """Tell what the organization may do with a run: nothing with one that is not there."""
        async with self._database.session() as session:
            row = await session.fetchrow(SQL.find_rights, run_id, organization_id, today)
        return RunRights() if row is None else RunRights(sees=bool(row["sees"]), owns=bool(row["owns"]))

    async def problems(
        self, run: Run, organization_id: OrganizationId | None, today: date
    ) -> tuple[PatientProblem, ...]:
        """List the patients that a run failed with: to the connection's owner all, to a partner those it follows."""
        problems = tuple(_problems(run.metadata))
        if not problems or (await self.rights(run.id, organization_id, today)).owns:
            return problems
        visible = await self._visible(_ids(each.patient_id for each in problems), organization_id, today)
        return tuple(each for each in problems if each.patient_id in visible)

    async def appointments(self, appointment_ids: Collection[UUID], now: datetime) -> list[ReadAppointment]:
        """Read appointments that a run has named, by start; those that we have no row of are left out."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_appointments, list(appointment_ids), now)
        return [ReadAppointment(**dict(row)) for row in rows]

    async def figures(self, organization_id: OrganizationId) -> RunFigures:
        """Measure the runs that the organization asked for and those of its own connections."""
        async with self._database.session() as session:
            return RunFigures(**dict(await session.fetchrow(SQL.measure, organization_id)))

    async def latest(self, organization_id: OrganizationId, at_most: int) -> list[PastRun]:
        """List these runs, latest first."""
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_latest, organization_id, at_most)
        return [_past_run(row) for row in rows]

    async def _visible(
        self, patient_ids: Collection[UUID], organization_id: OrganizationId | None, today: date
    ) -> set[str]:
        async with self._database.session() as session:
            rows = await session.fetch(SQL.list_visible_patients, list(patient_ids), organization_id, today)
        return {str(row["id"]) for row in rows}


def _problems(metadata: Mapping[str, Any]) -> Iterable[PatientProblem]:
    for problem in metadata.get("errors", ()):
        patient_id = problem.get("patientId")
        yield PatientProblem(None if patient_id is None else str(patient_id), str(problem["error"]))


def _ids(texts: Iterable[str | None]) -> list[UUID]:
    """Read those that are ids of ours: one of the vendor's names nobody whom a partner could follow."""
    found = []
    for text in texts:
        try:
            found.append(UUID(text or ""))
        except ValueError:
            continue
    return found


def _past_run(row: Mapping[str, Any]) -> PastRun:
    return PastRun(
        id=RunId(row["id"]),
        sync_type=SyncType(row["sync_type"]),
        status=RunStatus(row["status"]),
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        counts=RunCounts(*(row[entry.name] for entry in fields(RunCounts))),
    )
