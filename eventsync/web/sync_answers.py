"""What the endpoints of syncs answer: objects that clients of older systems know, drawn from stored runs."""
# ruff: noqa: N815  # the members' names are those that these clients read

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventsync.domain.connections import ConnectionId
from eventsync.domain.runs import Run, RunCounts, RunId, RunStatus
from eventsync.postgres.sync_reports import PatientProblem

_GOOD = (RunStatus.COMPLETED, RunStatus.PARTIAL_SUCCESS)


@dataclass(frozen=True, slots=True)
class AppointmentCounts:
    """What became of the appointments that were read: `updated` includes deletions, unchanged ones were not written."""

    new: int
    updated: int
    unchanged: int
    errors: int


@dataclass(frozen=True, slots=True)
class PatientError:
    """What went wrong with one patient. `patientId` is null where the whole sync of a connection failed."""

    patientId: str | None
    error: str


@dataclass(frozen=True, slots=True)
class SyncStats:
    """What a sync did. `patientsProcessed` counts those whom an organization follows; `duration` is milliseconds.

    `errors` holds the first ten of each connection.
    """

    totalPatients: int
    newPatientsDiscovered: int
    unaffiliatedPatientsSynced: int
    patientsProcessed: int
    patientsFailed: int
    totalAppointments: AppointmentCounts
    duration: int
    errors: tuple[PatientError, ...]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How the sync of one connection stands."""

    syncLogId: RunId
    connectionId: ConnectionId
    status: RunStatus
    error: str | None
    progressUrl: str


@dataclass(frozen=True, slots=True)
class SyncDone:
    """A sync that has ended. With several connections `stats` are their sums, and `syncLogId` is the first one's.

    `partial_success` is a success that `stats.errors`, or the outcome of one of the `runs`, qualifies.
    """

    success: bool
    syncLogId: RunId
    status: RunStatus
    stats: SyncStats
    runs: tuple[RunOutcome, ...]


@dataclass(frozen=True, slots=True)
class BulkSyncDone:
    """A refresh of all patients of an organization that has ended; see `SyncDone`. `summary` is the sums alone."""

    success: bool
    syncLogId: RunId
    status: RunStatus
    summary: AppointmentCounts
    stats: SyncStats
    runs: tuple[RunOutcome, ...]


@dataclass(frozen=True, slots=True)
class SyncUnderWay:
    """A sync that takes longer than an answer may: `progressUrl` tells how far it is, and in the end its stats.

    With several connections, `syncLogId` and `progressUrl` are those of the first that has not ended.
    """

    success: bool
    syncLogId: RunId
    status: str
    progressUrl: str
    runs: tuple[RunOutcome, ...]


@dataclass(frozen=True, slots=True)
class SyncedAppointment:
    """An appointment that a refresh read. Only an id and an error are known of one that could not be stored."""

    id: UUID
    pqAppointmentId: str | None
    startTime: datetime | None
    providerName: str | None
    status: str | None
    syncAction: str
    errorMessage: str | None


@dataclass(frozen=True, slots=True)
class PatientSyncDone:
    """A refresh of one patient that has ended. `success` is false where an appointment of theirs had an error."""

    success: bool
    patientId: UUID
    patientName: str
    patientEmail: str | None
    syncedAt: datetime
    summary: AppointmentCounts
    appointments: tuple[SyncedAppointment, ...]
    warnings: tuple[str, ...]
    syncLogId: RunId


def progress_url(run_id: RunId) -> str:
    """Tell where a run's progress is asked for."""
    return f"/api/v1/sync/progress/{run_id}"


def under_way(runs: Sequence[Run]) -> SyncUnderWay:
    """Draw runs of which one at least has not ended."""
    first = next(run for run in runs if run.status.is_active)
    return SyncUnderWay(
        success=True, syncLogId=first.id, status="running", progressUrl=progress_url(first.id), runs=outcomes(runs)
    )


def outcomes(runs: Sequence[Run]) -> tuple[RunOutcome, ...]:
    """Draw how each of them stands."""
    return tuple(
        RunOutcome(run.id, run.connection_id, run.status, run.error_message, progress_url(run.id)) for run in runs
    )


def status_of(runs: Sequence[Run]) -> RunStatus:
    """Tell how runs that have ended went, taken together: none of them well, all of them, or in part."""
    statuses = {run.status for run in runs}
    if len(statuses) == 1:
        return statuses.pop()
    return RunStatus.PARTIAL_SUCCESS if statuses & set(_GOOD) else RunStatus.FAILED


def is_success(status: RunStatus) -> bool:
    """Whether what was asked for was done, in part at least."""
    return status in _GOOD


def summary_of(counts: RunCounts) -> AppointmentCounts:
    """Draw the counts of appointments."""
    return AppointmentCounts(
        counts.appointments_new, counts.appointments_updated, counts.appointments_unchanged, counts.appointments_errors
    )


def total_of(runs: Sequence[Run]) -> RunCounts:
    """Add up what runs have counted."""
    return sum((run.counts for run in runs), RunCounts())


def stats_of(runs: Sequence[Run], problems: Sequence[PatientProblem], now: datetime) -> SyncStats:
    """Add up what runs did, from the first one's start to the last one's end (`now` where one goes on)."""
    counts = total_of(runs)
    ended_at = max(run.completed_at or now for run in runs)
    failures = [run.error_message for run in runs if run.status is RunStatus.FAILED and run.error_message]
    return SyncStats(
        totalPatients=_sum(runs, "totalPatients"),
        newPatientsDiscovered=_sum(runs, "newPatientsDiscovered"),
        unaffiliatedPatientsSynced=_sum(runs, "unaffiliatedPatientsSynced"),
        patientsProcessed=counts.patients_processed,
        patientsFailed=counts.patients_failed,
        totalAppointments=summary_of(counts),
        duration=max(0, round((ended_at - min(run.started_at for run in runs)).total_seconds() * 1000)),
        errors=(
            *(PatientError(problem.patient_id, problem.text) for problem in problems),
            *(PatientError(None, text) for text in failures),
        ),
    )


def _sum(runs: Sequence[Run], name: str) -> int:
    return sum(int(run.metadata.get(name, 0)) for run in runs)
